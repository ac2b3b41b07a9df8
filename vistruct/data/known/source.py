"""What a public source of instructions is, and the one way from what it says of an image to `Known`.

    SOURCE = Source(read=..., looks_like=..., splits=...)

`read` gives one `Known` after the other, and holds no more of a large file than an entry. Boxes go through
`ImageObjects`, as those of every format do: clipped to their image, and what cannot be used is counted with its place.
What a source says of an object that was left out is left out too, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, REGION_MARK, Objects, Turn
from vistruct.data.formats.boxes.coco_shapes import are_numbers
from vistruct.data.formats.boxes.image_names import ImageFolder
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, PLAIN, WHERE_IMAGES, Edges, ImageObjects
from vistruct.data.formats.boxes.objects import Told as Beside
from vistruct.data.formats.chat.objects import NAMES
from vistruct.data.formats.format import Ask, never, no_splits
from vistruct.data.formats.json_kind import ends_of, top_keys
from vistruct.data.instructions.known import Drawn, Known, Told
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter

NO_ENTRY = "entry left out: it has not what its source is known for"
NO_NUMBERS = "box left out: it is no list of four numbers"
NO_CLICK = "point left out: it is no place in its image"
OTHER_SIZE = "image left out: its annotations are of an image of another size"
UNREADABLE = "image left out: it cannot be read"
NO_WORDS = "words left out: there are none"
MARKED = "words left out: a mark of our own stands in them"
LOST_OBJECT = "words left out: an object that they mean was left out"
BoxForm = Literal["xyxy", "xywh", "relative"]
BARE_PHRASE = "phrase without an object: plain words"
HALF_PHRASE = "phrase of which an object was left out: plain words"
_MARKS = (IMAGE_MARK, REGION_MARK, OBJECT_MARK, PHRASE_OPEN, PHRASE_CLOSE)
_IMAGES = re.compile(r"(jpeg|flickr30k[-_])?(images?|imgs?)|(train|val|test)(20\d\d)?|vg_100k(_2)?", re.IGNORECASE)
_TRIED = 20  # images looked for in each folder


@dataclass(frozen=True, kw_only=True)
class Source:
    """One public set, or one layout of it. `Ask` says which split, where images are, and what becomes of lost ones."""

    read: Callable[[Path, Ask, IssueCounter], Iterator[Known]]
    looks_like: Callable[[Path], bool] = never  # cheap, and raises nothing; of a file or a folder that is there
    splits: Callable[[Path], Sequence[str]] = no_splits  # names on disk, as `Ask.split` takes them


def keys_at(path: Path) -> set[str]:
    """The keys of the first object of a json or jsonl file; nothing of anything else."""
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        return set()
    head = ends_of(path)[0]
    return set(top_keys(head[1:] if head.startswith("[") else head))


def told_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """The height and width that annotations say; None: they do not."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and height and width else None


@dataclass
class Images:
    """The images of a source, found by their names."""

    folder: ImageFolder
    ask: Ask
    report: IssueCounter

    @classmethod
    def of(cls, names: Iterable[str], places: Iterable[Path], ask: Ask, report: IssueCounter) -> Images:
        """In the folder that is said, else in the place that has most of the first.

        Args:
            names: of some images, as the source has them.
            places: of which the first may hold them in any folder of its own, too, and the others in one that is
                called as folders of images are: what else lies beside a set is not of it.
        """
        if ask.images is not None:
            return cls(ImageFolder(ask.images, is_named=True), ask, report)
        tried = list(islice(names, _TRIED))
        found = [ImageFolder(place, is_named=False) for place in places if place.is_dir()]
        inner = [(one, number) for number, place in enumerate(found) for one in sorted(place.root.iterdir())]
        below = (one for one, number in inner if one.is_dir() and (not number or _IMAGES.fullmatch(one.name)))
        found += [ImageFolder(inner, is_named=False) for inner in below]
        best = max(found, key=lambda one: sum(one.find(name) is not None for name in tried))
        return cls(best, ask, report)

    def find(self, names: Sequence[str], where: str, told_hw: tuple[int, int] | None = None) -> ImageObjects | None:
        """The image that has one of these names, without objects yet; None: it is left out, and counted.

        Args:
            told_hw: its size in pixels, as the annotations say it.

        Raises:
            UserError: it is not there or cannot be read, and `Ask.missing` is "stop".
        """
        path = next((path for name in names if (path := self.folder.find(name)) is not None), None)
        if path is None:
            if self.ask.missing == "stop":
                raise UserError(f"the image {names[0]} is not on disk", where=where, fix=WHERE_IMAGES)
            self.report.note(MISSING_IMAGE, f"{where}: {names[0]}")
            return None
        try:
            size_hw = image_size(path)
        except UserError:
            if self.ask.missing == "stop":
                raise
            self.report.note(UNREADABLE, str(path))
            return None
        if told_hw is not None and told_hw != size_hw:
            self.report.note(OTHER_SIZE, f"{where}: {names[0]}")
            return None
        return ImageObjects(names[0], path, size_hw)


@dataclass
class Board:
    """What is known of one image so far. An object that is named twice is one row; one without a name, a mask or a
    place that was clicked is whichever was drawn there before."""

    image: ImageObjects
    report: IssueCounter
    rows: dict[tuple[object, ...], int | None] = field(default_factory=dict)  # of what was added, None: left out
    places: dict[Edges, int | None] = field(default_factory=dict)  # of the first that has these edges
    drawn: list[Drawn] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)  # told apart as classes are, so that twins of one box stay

    def add(
        self, box: Any, where: str, *, form: BoxForm = "xyxy", name: str = "", told: Beside = PLAIN, score: float = 1.0
    ) -> int | None:
        """The row of an object; None: it is left out, and counted.

        Args:
            box: four numbers in pixels, right and bottom exclusive; or in shares of the image.
            score: how sure the source is, in [0, 1].
        """
        box = list(box) if isinstance(box, tuple) else box
        if not are_numbers(box) or len(box) != 4:
            self.report.note(NO_NUMBERS, where)
            return None
        a, b, c, d = map(float, box)
        height, width = self.image.size_hw
        edges: Edges = (a, b, c, d)
        if form == "xywh":
            edges = (a, b, a + c, b + d)
        elif form == "relative":
            edges = (a * width, b * height, c * width, d * height)
        key = (*edges, name, repr(told.mask), tuple(told.keypoints))
        if not name and not told.mask and not told.keypoints and edges in self.places:
            return self.places[edges]
        if key not in self.rows:
            label = self.names.setdefault("\0".join(map(str, (name, told.keypoints))), len(self.names))
            told = replace(told, extra={**told.extra, NAMES: name, "scores": score})
            is_kept = self.image.add_box(edges, label, where, self.report, told)
            self.rows[key] = len(self.image.rows) - 1 if is_kept else None
            if not told.keypoints:
                self.places.setdefault(edges, self.rows[key])
        return self.rows[key]

    def click(self, point: Any, of: int, where: str) -> int | None:
        """The row of a place (x, y) in pixels by which somebody showed an object; None: it is not in the image."""
        height, width = self.image.size_hw
        if not are_numbers(point) or len(point) != 2 or not (0 <= point[0] <= width and 0 <= point[1] <= height):
            self.report.note(NO_CLICK, where)
            return None
        x, y = map(float, point)
        box = (max(0.0, x - 0.5), max(0.0, y - 0.5), min(x + 0.5, width), min(y + 0.5, height))
        row = self.add(box, where, told=Beside(keypoints=(x, y, 2.0)))
        if row is not None:
            self.drawn.append(Drawn(kind="point", row=row, of=of))
        return row

    def rows_of(self, rows: Iterable[int | None], where: str) -> tuple[int, ...] | None:
        """The rows that words mean; None: one of them was left out, and the words are, counted."""
        found = tuple(rows)
        if None in found:
            self.report.note(LOST_OBJECT, where)
            return None
        return tuple(row for row in found if row is not None)

    def known(self, id: str, **what: Any) -> Known:
        """All of it. The other arguments are fields of `Known`."""
        told = [row.told for row in self.image.rows]
        most = max((len(one.keypoints) // 3 for one in told), default=0)
        found = self.image.record(has_masks=any(one.mask for one in told), num_keypoints=most).objects
        rows = np.full(len(told), -1), np.asarray([one.extra["scores"] for one in told], np.float32)
        names = tuple(one.extra[NAMES] for one in told)
        objects: Objects[np.ndarray] = replace(found, labels=rows[0], scores=rows[1], extra={NAMES: names})
        what = {"drawn": tuple(dict.fromkeys(self.drawn)), **what}
        return Known(id=id, image=self.image.path, size_hw=self.image.size_hw, objects=objects, **what)


def has_mark(text: str) -> bool:
    """Whether a mark of ours stands in a text, which must not come from a source."""
    return any(mark in text for mark in _MARKS)


def words(text: object, where: str, report: IssueCounter) -> str | None:
    """A text with single blanks between its words; None: there are none, or a mark of ours is in it, counted."""
    plain = " ".join(text.split()) if isinstance(text, str) else ""
    if not plain:
        report.note(NO_WORDS, where)
        return None
    if has_mark(plain):
        report.note(MARKED, where)
        return None
    return plain


def meant(rows: Iterable[int | None], where: str, report: IssueCounter) -> tuple[int, ...]:
    """What a phrase of a sentence means; (): nothing, or not all of it is there, so that it is plain words, counted."""
    found = tuple(dict.fromkeys(rows))
    if not found or None in found:
        report.note(HALF_PHRASE if found else BARE_PHRASE, where, "kept")
    return () if None in found else tuple(row for row in found if row is not None)


def as_question(told: Told, **what: Any) -> Turn:
    """With a region behind each phrase. The other arguments are fields of `Turn`."""
    text, points = _with_marks(told, f"{{}} {REGION_MARK}")
    return asked(text, points=points, **what)


def as_answer(told: Told, unit: str = "box") -> Turn:
    """With an object behind each phrase, of which a unit is drawn; without phrases plain words."""
    text, points = _with_marks(told, f"{PHRASE_OPEN}{{}}{PHRASE_CLOSE}{OBJECT_MARK}")
    if not points:
        return answered(text)
    task = {"box": "gcg_detection", "mask": "gcg_segmentation"}.get(unit, "")
    return answered(text, task, points=points, units=(unit,) * len(points))


def _with_marks(told: Told, form: str) -> tuple[str, tuple[tuple[int, ...], ...]]:
    text, at = "", 0
    for phrase in told.phrases:
        text += told.text[at : phrase.start] + form.format(phrase.text)
        at = phrase.end
    return text + told.text[at:], tuple(phrase.rows for phrase in told.phrases)


def asked(text: str, **what: Any) -> Turn:
    """A question. The other arguments are fields of `Turn`."""
    return Turn(role="user", text=text, **what)


def answered(text: str, task: str = "vqa", **what: Any) -> Turn:
    """An answer to a published task. The other arguments are fields of `Turn`."""
    return Turn(role="assistant", text=text, task=task, **what)
