"""Questions about images and everybody's answers, on their way to records: the same for every set of questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, Form, Record, Turn
from vistruct.data.formats.boxes.image_names import ImageFolder
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES
from vistruct.data.formats.captions.said import folder_of
from vistruct.data.formats.format import Ask, Stop
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

NO_ANSWER = "question left out: nobody answered it"
_TRIED = 20  # images looked for by each way of naming them


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, as its file has it."""

    id: str
    image: str  # what identifies its image: a number, or a name
    text: str
    answers: tuple[str, ...]  # of everybody who was asked
    family: str = ""
    where: str
    notes: Mapping[str, str] = field(default_factory=dict)


def records_of(
    questions: Sequence[Question],
    annotation: Path,
    ask: Ask,
    report: IssueCounter,
    stop: Stop,
    ways: Sequence[Callable[[str], str]] = (str,),
) -> list[Record]:
    """A record for each question that somebody answered, those about one image behind each other.

    Args:
        ways: in which images may be called on disk, from what identifies them; the first by which some are there.
    """
    wanted: list[Question] = []
    for one in questions:
        if any(answer.strip() for answer in one.answers):
            wanted.append(one)
        else:
            report.note(NO_ANSWER, one.where)
    folder, name_of = _place(list(dict.fromkeys(one.image for one in wanted)), annotation, ask.images, ways)
    found: dict[str, list[Record]] = {}
    paths = {image: folder.find(name_of(image)) for image in dict.fromkeys(one.image for one in wanted)}
    seen: set[str] = set()
    for one in wanted:
        if one.id in seen:
            stop(UserError(f"two questions are called {one.id}", where=one.where, fix="remove one of them"))
            continue
        seen.add(one.id)
        path = paths[one.image]
        if path is None:
            what = f"the image {name_of(one.image)} is not on disk"
            error = UserError(what, where=one.where, fix=WHERE_IMAGES)
            stop(error) if ask.missing == "stop" else report.note(MISSING_IMAGE, one.where)
            continue
        record = Record(
            id=one.id,
            image_id=one.image,
            images=(path,),
            turns=dialogue(one.text, [answer.strip() for answer in one.answers], "vqa"),
            families=(one.family,) if one.family else (),
            notes=one.notes,
        )
        found.setdefault(one.image, []).append(record)
    return [record for about_one in found.values() for record in about_one]


def dialogue(question: str, answers: Sequence[str], form: Form) -> tuple[Turn, Turn]:
    """A question about one image, with the commonest answer (of several the first) and all the others beside it."""
    truth = Counter(answer for answer in answers if answer).most_common(1)[0][0] if form == "vqa" else answers[0]
    others = list(answers)
    others.remove(truth)
    asked = Turn(role="user", text=f"{IMAGE_MARK}\n{question.strip()}")
    return asked, Turn(role="assistant", text=truth, others=tuple(others), form=form)


def _place(
    images: Sequence[str], annotation: Path, folder: Path | None, ways: Sequence[Callable[[str], str]]
) -> tuple[ImageFolder, Callable[[str], str]]:
    """Where the images are, and how they are called there."""
    tried = images[:: max(1, len(images) // _TRIED)][:_TRIED]
    places = [(folder_of(annotation, [way(image) for image in tried], folder), way) for way in ways]
    return max(places, key=lambda pair: sum(pair[0].find(pair[1](image)) is not None for image in tried))


def entries(content: object, key: str, path: Path, stop: Stop) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, or of the list below a key, each with its place.

    Raises:
        UserError: there is no such list.
    """
    told = content.get(key) if isinstance(content, dict) else content
    if not isinstance(told, list):
        raise UserError(f"no list of {key} here", where=path, fix="copy the file again, whole")
    for number, entry in enumerate(told, start=1):
        where = f"{path}: {key} {number}"
        if isinstance(entry, dict):
            yield where, entry
        else:
            stop(UserError(f"this is {entry!r:.40}, where an object belongs", where=where, fix="correct this entry"))


def answers_of(told: object) -> tuple[str, ...]:
    """Everybody's answers from a list of texts, or of objects that hold one; nothing where there is no such list."""
    answers = [one.get("answer") if isinstance(one, dict) else one for one in told] if isinstance(told, list) else []
    return tuple(str(one) for one in answers if isinstance(one, str | int) and not isinstance(one, bool))


def text_of(entry: Mapping[str, object], key: str, where: str) -> str:
    """A text, or a number as one.

    Raises:
        UserError: neither is there.
    """
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise UserError(
            f"{key} is {value!r:.60}, where a text or number belongs", where=where, fix="correct this entry"
        )
    return str(value)
