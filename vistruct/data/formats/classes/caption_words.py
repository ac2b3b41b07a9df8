"""Captions as classes: a word that enough images are described with is a class, and an image has all of its own.

    {"image": "a.jpg", "caption": "Two ships beside a jetty."}      ->  a.jpg: jetty, ship

What the captions lie in is found by itself: any format of captions, and conversations that `vistruct instruct` wrote.
Always named (`--format caption-words`), because captions are captions unless somebody asks for the words in them.

Words of grammar, numbers, places and the picture itself (of, three, left, image) name nothing and are left out. A
plural is its singular where the captions have that too. What is left are mostly nouns; adjectives and verbs that many
images have are among them: nothing here knows grammar. `--drop large` leaves a word out, `--join ship=boat` makes two
one, and `--classes "tennis court,lake"` says which names count, of one word or several. Words are counted over all
splits together, so that every split has the same classes.

Source: CatLIP, arXiv:2404.15653: the nouns of a caption, cut by their frequency, as targets of many labels.
Differs: CatLIP's classes are WordNet's synsets, found by a tagger; WordNet is none of our dependencies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats import find_format
from vistruct.data.formats.classes.csv import NO_CLASS
from vistruct.data.formats.detect import detect
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.order import NONE_OF_IT
from vistruct.errors import UserError, typed
from vistruct.issues import IssueCounter
from vistruct.vlm.words import SPECIAL, tokens_of

RARE = "word left out: fewer images than --least-count have it"
NAMES_NOTHING = "word left out: of grammar, a number, a place or the picture itself"
PLURAL = "plural taken as the singular that the captions have too"

_UNNAMING = """
    a an the this that these those some any each every all both no none not and or but nor so if then than as of in
    on at by for from to with without into onto over under above below between among through across along around
    near beside behind before after against about off out up down there here where when while which who whom whose
    what it its he she they them their his her him we us our you your i me my one's is are was were be been being am
    has have had having do does did can could may might will would shall should must also very more most less least
    much many few several other others another same such only just too own half part zero one two three four five
    six seven eight nine ten eleven twelve dozen hundred hundreds thousand left right top bottom middle centre
    center upper lower front back side sides next image images picture pictures photo photos photograph scene view
    shows show shown showing seen see visible contains contain containing
"""
GRAMMAR = frozenset(_UNNAMING.split())
_FEWEST = 5  # images


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, with the classes that its captions have, in the order of their names."""
    inner = find_format(format := detect(path, "captions"), "captions")
    assert inner.walk is not None
    told = Ask(split=ask.split, images=ask.images, missing=ask.missing)
    found = inner.walk(path, told, report, stop)
    if found.images is not None:
        what = f"the images of {format} are no files of their own"
        raise UserError(what, where=path, fix="name the json, jsonl or table that its captions came from")
    if not ask.multi_label:
        stop(UserError("several words of one image", where=path, fix="--multi-label"))
    splits = inner.splits(path)
    everywhere = found.records
    if len(splits) > 1:
        every = replace(told, split="+".join(splits))
        everywhere = inner.walk(path, every, IssueCounter(), lambda error: None).records
    sentences = {record.images: [tokens_of(text) for text in record.captions] for record in everywhere}
    words = {word for said in sentences.values() for tokens in said for word in tokens}
    asked = ask.classes or ()
    words |= {word for name in (*asked, *_olds(ask)) for word in tokens_of(name)}
    singulars = {word: one for word in sorted(words) if (one := _singular(word, words)) != word}
    for plural in singulars:
        report.note(PLURAL, plural, "repaired")
    said = {
        image: [[singulars.get(word, word) for word in tokens] for tokens in own] for image, own in sentences.items()
    }
    terms = _asked_for(ask, singulars) if asked else _frequent(said.values(), ask, singulars, report, path, stop)
    longest = max((term.count(" ") + 1 for term in terms), default=1)
    names = tuple(asked) or tuple(sorted(set(terms.values())))
    numbers = {name: number for number, name in enumerate(names)}
    labels = {
        image: tuple(sorted({numbers[terms[gram]] for gram in _grams(own, longest) if gram in terms}))
        for image, own in said.items()
    }
    records: list[Record] = []
    for record in found.records:
        if not labels[record.images]:
            report.note(NO_CLASS, record.id, "kept")
        records.append(replace(record, captions=(), image_labels=labels[record.images]))
    present = {number for record in records for number in record.image_labels or ()}
    for name in names:
        if numbers[name] not in present:
            report.note(NONE_OF_IT, name, "kept")
    return Walked(records=records, class_names=names, annotations=found.annotations, is_chosen=True)


def _frequent(
    said: Iterable[list[list[str]]],
    ask: Ask,
    singulars: dict[str, str],
    report: IssueCounter,
    path: Path,
    stop: Stop,
) -> dict[str, str]:
    """The class of each word (or of the words that are joined) that enough images have."""
    joined = {_folded(old, singulars): new for new, olds in ask.join.items() for old in olds}
    dropped = {_folded(name, singulars) for name in ask.drop}
    longest = max((term.count(" ") + 1 for term in joined), default=1)
    images: Counter[str] = Counter()
    terms: dict[str, str] = {}
    for sentences in said:
        own: dict[str, None] = {}
        for gram in sorted(_grams(sentences, longest)):
            if gram in joined or (" " not in gram and gram not in dropped):
                terms[gram] = joined.get(gram, gram)
                own[terms[gram]] = None
        images.update(own.keys())
    for term in sorted(joined.keys() - terms.keys()):
        report.note(NONE_OF_IT, term, "kept")
    least = _FEWEST if ask.least_count is None else ask.least_count
    kept: dict[str, str] = {}
    for term, name in terms.items():
        if term not in joined and (term in GRAMMAR or term in SPECIAL or not any(map(str.isalpha, term))):
            report.note(NAMES_NOTHING, term)
        elif images[name] < least:
            report.note(RARE, term)
        else:
            kept[term] = name
    if not kept:
        most = [name for name, _ in images.most_common() if name not in GRAMMAR and any(map(str.isalpha, name))][:5]
        what = f"no word is left that {least} images have"
        fix = f"{typed('--classes', most)} says which count" if most else "name captions with words in them"
        stop(UserError(what, where=path, fix=fix))
    return kept


def _asked_for(ask: Ask, singulars: dict[str, str]) -> dict[str, str]:
    """The class of each name that is asked for, and of those that are joined to one of them."""
    assert ask.classes is not None
    terms = {_folded(name, singulars): name for name in ask.classes if name not in ask.drop}
    return terms | {
        _folded(old, singulars): new for new, olds in ask.join.items() if new in ask.classes for old in olds
    }


def _olds(ask: Ask) -> list[str]:
    return [old for olds in ask.join.values() for old in olds]


def _folded(name: str, singulars: dict[str, str]) -> str:
    return " ".join(singulars.get(word, word) for word in tokens_of(name))


def _grams(sentences: Sequence[Sequence[str]], longest: int) -> set[str]:
    """Words that follow each other in a sentence, up to so many."""
    return {
        " ".join(tokens[at : at + size])
        for tokens in sentences
        for size in range(1, longest + 1)
        for at in range(len(tokens) - size + 1)
    }


def _singular(word: str, words: set[str]) -> str:
    """Of a regular plural whose singular occurs too; else the word."""
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word
    tried = [
        word[:-1],
        *([word[:-2]] if word.endswith("es") else []),
        *([word[:-3] + "y"] if word[-3:] == "ies" else []),
    ]
    return next((one for one in tried if len(one) > 2 and one in words), word)


def splits(path: Path) -> tuple[str, ...]:
    """Those of the captions."""
    return tuple(find_format(detect(path, "captions"), "captions").splits(path))


FORMAT = Format(kind="image_classes", splits=splits, walk=walk, chooses=True)
