"""Images and captions in the hdf5 and json files that caption models of the show-attend-tell line are trained from:

    TRAIN_IMAGES_BASE.hdf5     images uint8[N, 3, 256, 256], RGB; attribute captions_per_image
    TRAIN_CAPTIONS_BASE.json   N x captions_per_image lists of word numbers: start, words, end, padding
    TRAIN_CAPLENS_BASE.json    how many of them count, start and end too
    WORDMAP_BASE.json          number of each word; VAL_... and TEST_... beside them

Source: the layout of a public captioning tutorial (sgrvinod) that ViSFT trains its caption head from; files that are
written are its byte for byte (golden `visft_caption`): words are counted over all splits and before long captions are
left out, an image with fewer captions than wanted repeats some at random (seed 123), one with more has some of them.
Differs: read without h5py's file staying open, so that workers may be forked.
"""

from __future__ import annotations

import importlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistruct.contracts import Record
from vistruct.data.formats.captions.said import spoken
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.files.json_files import read_record
from vistruct.issues import IssueCounter
from vistruct.progress import tracking
from vistruct.vlm.words import END, PAD, START, UNKNOWN, tokens_of, word_map_of

SIDE = 256  # pixels of an image; its aspect is not kept
NO_SHORT = "image left out: none of its captions has few enough words"
LONG = "caption left out: it has more words than the format takes"
ROW = "hdf5_row"  # note of a record: which image of the file

_IMAGES = re.compile(r"(?P<split>[A-Z]+)_IMAGES_(?P<base>.+)\.hdf5")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is chosen when the files are written."""

    name: str = "coco"  # what their names begin with after the split
    captions_per_image: int = 5
    min_word_freq: int = 5  # a word that occurs more often has a number
    max_len: int = 50  # words of a caption
    seed: int = 123

    @property
    def base(self) -> str:
        """What all names of files end with."""
        return f"{self.name}_{self.captions_per_image}_cap_per_img_{self.min_word_freq}_min_word_freq"


def looks_like(path: Path) -> bool:
    """Whether it is a folder with such files."""
    return path.is_dir() and bool(_files(path))


def splits(path: Path) -> tuple[str, ...]:
    """In small letters."""
    return tuple(_files(path)) if path.is_dir() else ()


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image; its captions are the words of its numbers."""
    files = _files(path)
    if not files:
        raise UserError("no TRAIN_IMAGES_... .hdf5 here", where=path, fix="name the folder of the hdf5 files")
    records: list[Record] = []
    texts: list[Path] = []
    for split in chosen_splits(ask.split, list(files), path):
        images = files[split]
        match = _IMAGES.fullmatch(images.name)
        assert match is not None
        base = match["base"]
        captions, lengths = (path / f"{split.upper()}_{what}_{base}.json" for what in ("CAPTIONS", "CAPLENS"))
        word_map = path / f"WORDMAP_{base}.json"
        texts += [captions, lengths, word_map]
        rows = _sentences(captions, lengths, word_map, stop)
        number, each, size = _shape(images)
        if len(rows) != number * each:
            what = f"{len(rows)} captions for {number} images of {each} captions each"
            stop(UserError(what, where=captions, fix="take the files of one data set, whole"))
            continue
        for at in range(number):
            here = f"{images.name}: image {at}"
            said = spoken(rows[at * each : (at + 1) * each], here, report)
            one = Record(id=f"{split}/{at:06d}", images=(images,), captions=said, size_hw=size, notes={ROW: str(at)})
            records.append(one)
    return Walked(records=records, annotations=tuple(dict.fromkeys(texts)), images=image_of)


def image_of(record: Record) -> list[Tensor]:
    """uint8[3, H, W] of a record."""
    with _opened(record.images[0]) as file:
        return [torch.from_numpy(file["images"][int(record.notes[ROW])])]


def write(
    folder: Path, parts: Mapping[str, Sequence[Record]], read_image_of: Any = None, layout: Layout | None = None
) -> IssueCounter:
    """Write all splits and the word map into a folder that is there.

    Args:
        parts: by split (train, val, test), each of at least one image.
        read_image_of: Record -> list of uint8[3, H, W]; None: image files.

    Returns:
        what was left out.
    """
    layout = layout or Layout()
    lost, counts = IssueCounter(), Counter[str]()
    kept = {split: _Split() for split in parts}
    for split, records in parts.items():
        for record in records:
            kept[split].add(record, layout.max_len, counts, lost)
    words = word_map_of(counts, layout.min_word_freq + 1)
    _write_json(folder / f"WORDMAP_{layout.base}.json", words)
    rng = random.Random(layout.seed)
    for split, part in kept.items():
        sentences = [one for own in part.tokens for one in _chosen(own, layout.captions_per_image, rng)]
        rows = [[words[START], *(words.get(w, words[UNKNOWN]) for w in own), words[END]] for own in sentences]
        padded = [row + [words[PAD]] * (layout.max_len + 2 - len(row)) for row in rows]
        _write_images(folder / f"{split.upper()}_IMAGES_{layout.base}.hdf5", part.records, layout, read_image_of)
        _write_json(folder / f"{split.upper()}_CAPTIONS_{layout.base}.json", padded)
        _write_json(folder / f"{split.upper()}_CAPLENS_{layout.base}.json", [len(row) for row in rows])
    return lost


@dataclass
class _Split:
    records: list[Record] = field(default_factory=list)
    tokens: list[list[list[str]]] = field(default_factory=list)  # of each record, of each of its captions

    def add(self, record: Record, max_len: int, counts: Counter[str], lost: IssueCounter) -> None:
        every = [tokens_of(caption) for caption in record.captions]
        for tokens in every:
            counts.update(tokens)
            if len(tokens) > max_len:
                lost.note(LONG, record.id)
        short = [tokens for tokens in every if len(tokens) <= max_len]
        if not short:
            lost.note(NO_SHORT, record.id)
            return
        self.records.append(record)
        self.tokens.append(short)


def _chosen(captions: list[list[str]], number: int, rng: random.Random) -> list[list[str]]:
    if len(captions) < number:
        return captions + [rng.choice(captions) for _ in range(number - len(captions))]
    return rng.sample(captions, k=number)


def _write_images(path: Path, records: Sequence[Record], layout: Layout, read_image_of: Any) -> None:
    with _opened(path, "a") as file, tracking("images", 0, len(records)) as show:
        file.attrs["captions_per_image"] = layout.captions_per_image
        images = file.create_dataset("images", (len(records), 3, SIDE, SIDE), dtype="uint8")
        for at, record in enumerate(records):
            pixels = read_image(record.images[0]) if read_image_of is None else read_image_of(record)[0]
            picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            images[at] = small.transpose(2, 0, 1)
            show(at + 1, "")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _files(path: Path) -> dict[str, Path]:
    """The files of images by split, train first."""
    found = {m["split"].lower(): file for file in sorted(path.iterdir()) if (m := _IMAGES.fullmatch(file.name))}
    return dict(sorted(found.items(), key=lambda item: (item[0] != "train", item[0] != "val")))


def _sentences(captions: Path, lengths: Path, word_map: Path, stop: Stop) -> list[str]:
    """The words of each row, without start, end and padding."""
    numbers = read_record(word_map, dict[str, int])
    words = {number: word for word, number in numbers.items() if word not in (START, END, PAD)}
    rows, ends = read_record(captions, list[list[int]]), read_record(lengths, list[int])
    if len(rows) != len(ends):
        raise UserError(f"{len(rows)} captions and {len(ends)} lengths", where=lengths, fix="take both of one data set")
    found = []
    for at, (row, end) in enumerate(zip(rows, ends, strict=True)):
        inner = row[1 : end - 1]
        unknown = [number for number in inner if number not in words]
        if unknown or not 2 <= end <= len(row):
            what = f"word {unknown[0]} is not in the word map" if unknown else f"length {end} of {len(row)} numbers"
            stop(UserError(what, where=f"{captions}: caption {at}", fix="take the word map that belongs to it"))
        found.append(" ".join(words[number] for number in inner if number in words))
    return found


def _shape(path: Path) -> tuple[int, int, tuple[int, int]]:
    """How many images, captions of each, (height, width).

    Raises:
        UserError: not such a file.
    """
    with _opened(path) as file:
        images = file.get("images")
        if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError("no images uint8[N, 3, H, W] in this file", where=path, fix="take the file of the images")
        each = int(file.attrs.get("captions_per_image", 0))
        if each < 1:
            raise UserError("no attribute captions_per_image", where=path, fix="write the file again, whole")
        return images.shape[0], each, images.shape[2:]


def _opened(path: Path, mode: str = "r") -> Any:
    """
    Raises:
        UserError: h5py is not installed, or the file is damaged.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        what = "hdf5 needs h5py, which is not installed"
        raise UserError(what, where=path, fix="uv pip install 'vistruct[hdf5]'") from None
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise UserError(f"cannot read: {error}", where=path, fix="copy the file again, whole") from error


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=walk)
