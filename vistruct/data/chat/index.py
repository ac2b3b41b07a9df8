"""What every line of an annotation file is, found out once: where it lies, whether it can be used, what it shows.

A file of a million conversations is parsed in parallel and the outcome is kept beside the run; from then on a line is
parsed when its sample is due. Only columns of numbers stay in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vistruct.data.chat.offsets import Offsets, find_entries
from vistruct.data.formats.chat.schemas import Talk, parse
from vistruct.data.formats.chat.turns import REASONS, Defect
from vistruct.data.loading.columns import cache_file, keep_columns, kept_columns
from vistruct.data.loading.parallel import in_parallel
from vistruct.errors import UserError
from vistruct.files.embedded import within

OK, BLANK = 0, 255  # status; any other is 1 + a place in REASONS
_JOB_LINES = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """All lines of a jsonl file that are not blank, or all entries of a json list."""

    offsets: Offsets
    digest: str  # sha256 of the file
    status: np.ndarray  # uint8[N]
    has_own_id: np.ndarray  # bool[N], an `id` that no line before has
    note_words: np.ndarray  # str[W], what else is said of rows, see `Talk`
    note_rows: np.ndarray  # int32[K], of whom something is said
    note_ids: np.ndarray  # int32[K], what: a place among the words
    lacks_boxes: np.ndarray  # bool[N], its boxes are known when the sizes of its images are
    turns: np.ndarray  # int32[N]
    answers: np.ndarray  # int32[N]
    image_starts: np.ndarray  # int64[N + 1]; the images of row i are image_ids[image_starts[i]:image_starts[i + 1]]
    image_ids: np.ndarray  # int32[K], places among the names
    names: np.ndarray  # uint8[B], the different image paths as written, UTF-8, one behind the other
    name_starts: np.ndarray  # int64[M + 1]

    def __len__(self) -> int:
        return len(self.offsets)

    def talk(self, row: int) -> Talk:
        """What a usable line says.

        Raises:
            UserError: the file is gone or has changed.
            Defect: the line is not usable.
        """
        return _talk(self.offsets, row)

    def noted(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What else is said of some rows: int64[n], those of whom it is."""
        is_asked = np.zeros(len(self), bool)
        is_asked[rows] = True
        said = is_asked[self.note_rows]
        pairs = {str(word): self.note_rows[said & (self.note_ids == at)] for at, word in enumerate(self.note_words)}
        return {word: found.astype(np.int64) for word, found in pairs.items() if len(found)}

    def images_of(self, row: int) -> np.ndarray:
        """int32[I], the images of a row."""
        return self.image_ids[self.image_starts[row] : self.image_starts[row + 1]]

    def image_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For all images of some rows, int64[K] which of `rows` shows it and int32[K] which image it is."""
        counts = np.diff(self.image_starts)[rows]
        owners = np.repeat(np.arange(len(rows)), counts)
        first = np.repeat(self.image_starts[rows] - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
        return owners, self.image_ids[first + np.arange(len(owners))]

    def without_names(self) -> Index:
        """All that reading rows needs; a worker process gets it sooner."""
        return replace(self, names=self.names[:0], name_starts=self.name_starts[:0])

    def name(self, image: int) -> str:
        """A path as the file writes it."""
        return self.names[self.name_starts[image] : self.name_starts[image + 1]].tobytes().decode()


def open_index(annotation: Path, cache: Path | None = None) -> Index:
    """The index of an annotation file, from the cache where that is sound and up to date.

    Args:
        cache: a folder that indices are kept in; None: nothing is kept.

    Raises:
        UserError: no such file, nothing in it, or a json list that is not json.
    """
    annotation = Path(annotation)
    file = None if cache is None else cache_file(cache, "lines", annotation)
    if file is None or not annotation.is_file():
        return build_index(annotation)
    status = annotation.stat()
    header = {"annotation": str(annotation.absolute()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    columns = kept_columns(file, header)
    if columns is None:
        index = build_index(annotation)
        keep_columns(file, header, _to_columns(index))
        return index
    return _from_columns(columns, annotation, status.st_size, status.st_mtime_ns)


def build_index(annotation: Path) -> Index:
    """Parse every line.

    Raises:
        UserError: as `open_index`.
    """
    offsets, digest = find_entries(annotation)
    jobs = [range(at, min(at + _JOB_LINES, len(offsets))) for at in range(0, len(offsets), _JOB_LINES)]
    parts = list(in_parallel(_parsed, offsets, jobs, label=f"reading {annotation.name}, x {_JOB_LINES:,} lines"))
    names: dict[str, int] = {}
    image_ids = [names.setdefault(name, len(names)) for part in parts for name in part.names]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([vars(part)[name] for part in parts])

    keep = joined("status") != BLANK if parts else np.zeros(0, bool)
    if not keep.any():
        raise UserError("the annotation file is empty", where=annotation, fix="write it again, or leave it out")
    texts = [name.encode() for name in names]
    words: dict[str, int] = {}
    number_of = keep.cumsum() - 1  # of each line, among those that are kept
    starts = np.cumsum([0, *(len(part.status) for part in parts)])
    notes = [
        (number_of[start + at], words.setdefault(note, len(words)))
        for start, part in zip(starts, parts, strict=False)
        for at, note in part.notes
    ]
    note_rows, note_ids = np.array(notes, np.int32).reshape(-1, 2).T
    return Index(
        offsets=offsets.some(keep),
        digest=digest,
        status=joined("status")[keep],
        has_own_id=_first_of_each(joined("id_hashes"))[keep],
        note_words=np.array(list(words), str),
        note_rows=note_rows,
        note_ids=note_ids,
        lacks_boxes=joined("lacks_boxes")[keep],
        turns=joined("turns")[keep],
        answers=joined("answers")[keep],
        image_starts=np.concatenate([[0], joined("num_images")[keep].cumsum()]).astype(np.int64),
        image_ids=np.array(image_ids, np.int32),
        names=np.frombuffer(b"".join(texts), np.uint8),
        name_starts=np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64),
    )


@dataclass(kw_only=True)
class _Part:
    """Some lines, parsed; for the columns see Index."""

    status: np.ndarray
    id_hashes: np.ndarray  # uint64[N], 0 where there is no id
    lacks_boxes: np.ndarray
    turns: np.ndarray
    answers: np.ndarray
    num_images: np.ndarray  # int32[N]
    names: list[str]  # of all images in order
    notes: list[tuple[int, str]]  # a line, from 0, and what is said of it


def _parsed(offsets: Offsets, rows: range) -> _Part:
    size = len(rows)
    part = _Part(
        status=np.zeros(size, np.uint8),
        id_hashes=np.zeros(size, np.uint64),
        lacks_boxes=np.zeros(size, bool),
        turns=np.zeros(size, np.int32),
        answers=np.zeros(size, np.int32),
        num_images=np.zeros(size, np.int32),
        names=[],
        notes=[],
    )
    for at, row in enumerate(rows):
        line = offsets.read(row)
        if not line.strip():
            part.status[at] = BLANK
            continue
        try:
            talk = _talk(offsets, row)
        except Defect as defect:
            part.status[at] = 1 + REASONS.index(defect.reason)
            continue
        part.lacks_boxes[at] = talk.filling is not None
        part.notes += [(at, note) for note in talk.notes]
        part.turns[at] = len(talk.turns)
        part.answers[at] = sum(turn.role == "assistant" for turn in talk.turns)
        part.num_images[at] = len(talk.images)
        part.names += talk.images
        if talk.own_id is not None:
            digest = hashlib.blake2b(talk.own_id.encode(), digest_size=8).digest()
            part.id_hashes[at] = int.from_bytes(digest, "little") or 1
    return part


def _talk(offsets: Offsets, row: int) -> Talk:
    """What a line says, with images inside of it as places of the file."""
    talk = parse(offsets.read(row))
    if not any(name.startswith("@") for name in talk.images):
        return talk
    start = int(offsets.starts[row])
    names = [within(name, offsets.path, start) if name.startswith("@") else name for name in talk.images]
    return replace(talk, images=tuple(names))


def _first_of_each(hashes: np.ndarray) -> np.ndarray:
    """bool[N], true at the first of each value other than 0."""
    is_first = np.zeros(len(hashes), bool)
    is_first[np.unique(hashes, return_index=True)[1]] = True
    return is_first & (hashes != 0)


_COLUMNS = ("status", "has_own_id", "lacks_boxes", "turns", "answers", "image_starts", "image_ids")
_COLUMNS += ("names", "name_starts", "note_words", "note_rows", "note_ids")


def _to_columns(index: Index) -> dict[str, np.ndarray]:
    offsets = index.offsets
    own = {"starts": offsets.starts, "lengths": offsets.lengths, "numbers": offsets.numbers}
    facts = {"is_list": np.array(offsets.is_list), "digest": np.array(index.digest)}
    return {**own, **facts, **{name: vars(index)[name] for name in _COLUMNS}}


def _from_columns(columns: Mapping[str, np.ndarray], annotation: Path, size: int, mtime_ns: int) -> Index:
    offsets = Offsets(
        path=annotation,
        size=size,
        mtime_ns=mtime_ns,
        is_list=bool(columns["is_list"]),
        starts=columns["starts"],
        lengths=columns["lengths"],
        numbers=columns["numbers"],
    )
    return Index(offsets=offsets, digest=str(columns["digest"]), **{name: columns[name] for name in _COLUMNS})
