"""What is in a set of questions and what is wrong with it, by the walkers that read it for an evaluation."""

from __future__ import annotations

from collections import Counter

from vistruct.data.checks.images import decoded, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints

COMMON = 0.5  # part of all questions whose commonest answer is the same


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Numbers, and the answer that a model need not look for."""
    records = [record for part in parts.walked.values() for record in part.records]
    truths = Counter(record.turns[-1].text for record in records)
    people = Counter(1 + len(record.turns[-1].others) for record in records)
    some = list(dict.fromkeys(record.images[0] for record in records))[:decode_at_most]
    sizes, of_bands = decoded(some, parts.errors, None)
    empty = [Problem(what="no questions are left", effect="stops training", count=1, fix="see the lines above")]
    common = [f"{count} x {answer}" for answer, count in truths.most_common(1) if count > COMMON * len(records)]
    return Findings(
        counts={
            "questions": len(records),
            **{f"questions of {name}": len(part.records) for name, part in parts.walked.items() if name},
            "images": len({record.images for record in records}),
            "different answers": len(truths),
            **{f"questions that {number} people answered": count for number, count in sorted(people.items())},
            "images decoded": len(some),
        },
        classes=dict(Counter(family for record in records for family in record.families)),
        sizes=sizes_in_words(sizes.values()),
        problems=[
            *of_bands,
            *(empty if not records else hints({"answer that most questions have": common if len(records) > 5 else []})),
            *tiny_images(sizes),
        ],
    )
