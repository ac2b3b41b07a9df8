"""What is in a data set of captions and what is wrong with it, by the walkers that read it for training.

The traps that go unnoticed elsewhere: the same image in two splits (by content, whatever its name), captions that most
images share, a caption of one word, images of very different numbers of captions.
"""

from __future__ import annotations

from collections import Counter

from vistruct.data.checks.images import decoded, same_in_two, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints
from vistruct.vlm.words import tokens_of

SHARED = 0.2  # part of all images that have the same caption


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Numbers, hints and twins of a data set of captions. Contents of image files are compared in any case."""
    records = [record for part in parts.walked.values() for record in part.records]
    captions = [caption for record in records for caption in record.captions]
    each = Counter(len(record.captions) for record in records)
    words = Counter(word for caption in captions for word in tokens_of(caption))
    lengths = sorted(len(tokens_of(caption)) for caption in captions)
    is_file = all(part.images is None for part in parts.walked.values())
    some = list(dict.fromkeys(record.images[0] for record in records))[:decode_at_most] if is_file else []
    sizes, of_bands = decoded(some, parts.errors, parts.part.intake)
    spread = f"{min(each)} to {max(each)}" if len(each) > 1 else str(next(iter(each), 0))
    counts = {
        "images": len(records),
        **{f"images of {name}": len(part.records) for name, part in parts.walked.items() if name},
        "captions": len(captions),
        "words": len(words),
        "words seen once": sum(count == 1 for count in words.values()),
        "images decoded": len(some),
    }
    told = {"captions an image": spread}
    told |= (
        {"words a caption": f"{lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}"} if lengths else {}
    )
    return Findings(
        counts=counts,
        sizes=told | sizes_in_words(sizes.values()),
        problems=[
            *of_bands,
            *_hints(captions, len(records)),
            *(same_in_two(parts.images()) if is_file else []),
            *tiny_images(sizes),
        ],
    )


def _hints(captions: list[str], num_images: int) -> list[Problem]:
    """What training accepts and a person should look at."""
    if not captions:
        return [Problem(what="no images are left", effect="stops training", count=1, fix="see the lines above")]
    single = [text for text in captions if len(text.split()) == 1]
    common = [(text, count) for text, count in Counter(captions).most_common(3) if count > SHARED * num_images]
    return hints(
        {
            "caption that many images share": [f"{count} x {text}" for text, count in common if num_images > 5],
            "caption of one word": single if 2 * len(single) < len(captions) else [],  # else they are words in images
        }
    )
