"""Annotations become instructions: conversations about pictures of any boxes data set, as InternVL / LLaVA jsonl."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vistruct.contracts import Objects, Record, Window
from vistruct.data.at_path import boxes_at
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.read import read
from vistruct.data.instructions.converse import Tally, converse
from vistruct.data.instructions.crops import CropSide, cover, crop_side, cut, size_of
from vistruct.data.instructions.exchange import Exchange
from vistruct.data.instructions.families import FAMILIES
from vistruct.data.instructions.scene import Scene
from vistruct.data.instructions.view import turn_image, view
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError, closest
from vistruct.files.geo import num_channels
from vistruct.files.images import read_image
from vistruct.files.intake import Intake
from vistruct.files.owned import Owned
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive

FILE, LABELS = "instructions.jsonl", "annotations.json"
SILENT = "picture left out: nothing could be asked about it"


@dataclass(kw_only=True)
class Summary:
    """What was written, for the table that the command prints and for tests of balance."""

    path: Path
    tally: Tally = field(default_factory=Tally)
    pictures: int = 0  # asked about
    whole: int = 0  # of the pictures, images as they lie; the others were cut out and written
    side: CropSide | None = None  # of the crops; None: nothing was cut
    dropped: Mapping[str, int] = field(default_factory=dict)  # what was left out or repaired, by reason

    def rows(self) -> list[tuple[str, int, str]]:
        """(family, number of questions, its commonest answers with their shares)."""
        return [
            (
                family,
                total,
                ", ".join(f"{answer} {share:.0%}" for answer, share in self.tally.shares(family)[:4]),
            )
            for family, total in self.tally.families.most_common()
        ]

    def line(self) -> str:
        """In words: how many questions about what kind of pictures."""
        kinds = [f"{self.whole} whole"] if self.whole else []
        if self.pictures > self.whole:
            kinds.append(f"{self.pictures - self.whole} crops" + (f" of {self.side}" if self.side else ""))
        return f"{self.tally.families.total()} questions about {self.pictures} pictures: {', '.join(kinds)}"


def write_instructions(
    source: Path,
    out: Path,
    *,
    reading: Reading = AS_FOUND,
    split: str | None = None,
    values: PixelValues = AS_THEY_ARE,
    crops: int | None = None,
    crop_size: tuple[int, int] | None = None,
    questions: int = 8,
    families: Sequence[str] = tuple(FAMILIES),
    always: Sequence[str] = (),
    rot90: bool = False,
    boxes: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write `out/instructions.jsonl` and, in `out/images`, the pictures it speaks of.

    An image that is asked about as it is stays where it lies; the jsonl names it relative to `out`.

    Args:
        source: boxes in any format of `formats.FORMATS`.
        reading: which of its files and classes; see `data/reading.py`.
        split: which part of it.
        values: of images that are no 8-bit colours: what becomes of them; every picture is then written.
        crops: random crops, spread over the images by their area. None: every image once, whole up to 1024
            pixels, larger ones under overlapping crops of the largest size.
        crop_size: smallest and largest side of a crop, in pixels; None: 1.5 to 3 times the median object
            side,
            at least 32.
        questions: turns in a conversation, at most: a question whose answer has become too common is not
            asked.
        families: which of FAMILIES to ask.
        always: those of them that every conversation asks, as far as its picture allows.
        rot90: also turn and mirror the pictures: for those without an up (aerial, microscopy).
        boxes: folder for a COCO json of the same pictures with the boxes that the questions are made of, for
            training on the labels themselves. What is neither there nor not there is a crowd: not learned.
        seed: the same seed writes the same files.
        progress: called with (done, total).

    Raises:
        UserError: an unknown family, no annotated image, a crop larger than every image, nothing to ask.
    """
    for name in (*families, *always):
        if name not in FAMILIES:
            raise UserError(f"no question family {name!r}", fix=closest(name, FAMILIES))
    if questions < 1 or not families or (crops is not None and crops < 1):
        what = f"questions={questions} of {len(families)} families about {'all' if crops is None else crops} crops"
        raise UserError(what, fix="ask for at least one of each")
    part = boxes_at(source, reading, values, split=split)
    intake = part.intake
    found, report = read(source, "boxes", format=part.format, ask=part.ask())
    records, names = found.records, found.class_names
    if not any(len(record.objects) for record in records):
        what = f"no objects to ask about in {len(records)} images"
        raise UserError(what, where=source, fix="give a data set with images and boxes")
    if num_channels(records[0], intake) != 3 or (intake is not None and intake.pixels != "uint8"):
        what = "pictures are of three channels of 8 bits"
        raise UserError(what, where=source, fix="three bands and --dtype uint8")
    folder = out / "images"
    keep_apart(records, folder)
    plan, side = plan_pictures(records, crops, crop_size, seed, report)
    summary, owned = Summary(path=out / FILE), Owned(out, "instruct")
    owned.check([summary.path, *(out / _crop(index) for index in range(len(plan)))])
    if boxes is not None:
        Owned(boxes, "instruct").check([boxes / LABELS])
    with owned.held():
        rows, scenes = _rows(
            plan, names, intake, owned, summary, report, questions, families, always, rot90, seed, progress
        )
        if not rows:
            raise UserError("nothing could be asked about any picture", where=source, fix="other families or crops")
        with owned.making(summary.path) as place:
            chat.write(place, rows)
        if boxes is not None:
            _write_labels(boxes, scenes, [(out / row["image"]).resolve() for row in rows], names)
        for name in {*owned.listed} - {row["image"] for row in rows} - {FILE}:
            owned.remove(out / name)  # of other instructions than these
    summary.side = side if summary.whole < summary.pictures else None
    summary.dropped = dict(report.counts)
    return summary


def _rows(
    plan: Sequence[tuple[Record, Window]],
    names: tuple[str, ...],
    intake: Intake | None,
    owned: Owned,
    summary: Summary,
    report: IssueCounter,
    questions: int,
    families: Sequence[str],
    always: Sequence[str],
    rot90: bool,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[dict[str, Any]], list[Scene]]:
    """The conversations and what they are about; their pictures are written, what was asked is counted."""
    rows: list[dict[str, Any]] = []
    scenes: list[Scene] = []
    for index, (record, window) in enumerate(plan):
        rng = np.random.default_rng(derive(seed, "picture", index))
        turn = int(rng.integers(8)) if rot90 else 0
        scene = view(record, window, names, turn)
        exchanges = converse(scene, questions, families, rng, summary.tally, always)
        if exchanges:
            summary.pictures += 1
            height, width = size_of(record)
            if turn == 0 and window == (0, 0, width, height) and intake is None:
                summary.whole += 1
                name = Path(os.path.relpath(record.images[0].resolve(), owned.folder.resolve())).as_posix()
            else:
                name = save_crop(owned, index, record.images[0], window, turn, intake)
            rows.append(_row(f"{record.id}-{index}", name, scene.size_hw, exchanges))
            scenes.append(scene)
        else:
            report.note(SILENT, f"{record.id} {window}")
        if progress is not None:
            progress(index + 1, len(plan))
    return rows, scenes


def _write_labels(out: Path, scenes: Sequence[Scene], pictures: Sequence[Path], names: tuple[str, ...]) -> None:
    """What questions are made of, as annotations; the doubtful are crowds."""
    records = []
    for scene, picture in zip(scenes, pictures, strict=True):
        of = scene.doubtful_labels if len(scene.doubtful_labels) else np.zeros(len(scene.doubtful_xyxy), np.int64)
        objects = Objects(
            labels=np.concatenate([scene.labels, of]),
            boxes_xyxy=np.concatenate([scene.boxes_xyxy, scene.doubtful_xyxy]).astype(np.float32).reshape(-1, 4),
            is_crowd=np.arange(len(scene.labels) + len(of)) >= len(scene.labels),
        )
        name = Path(os.path.relpath(picture, out.resolve())).as_posix()
        records.append(Record(id=name, image_id=name, images=(picture,), size_hw=scene.size_hw, objects=objects))
    owned = Owned(out, "instruct")
    with owned.held(), owned.making(out / LABELS) as place:
        coco.write(place, records, names)


def _crop(index: int) -> str:
    return f"images/{index:06d}.jpg"


def save_crop(owned: Owned, index: int, image: Path, window: Window, turn: int, intake: Intake | None) -> str:
    """Cut a picture out and write it; its name in the folder."""
    name = _crop(index)
    with owned.making(owned.folder / name) as place:
        place.write_bytes(jpeg(turn_image(read_image(image, window, intake=intake), turn)))
    return name


def plan_pictures(
    records: Sequence[Record], crops: int | None, given: tuple[int, int] | None, seed: int, report: IssueCounter
) -> tuple[list[tuple[Record, Window]], CropSide]:
    side = crop_side(records, given)
    if crops is None:
        return cover(records, given, side), replace(side, low=side.high)
    return cut(records, crops, side, np.random.default_rng(derive(seed, "crops")), report), side


def keep_apart(records: Sequence[Record], folder: Path) -> None:
    """Refuse to write pictures where the source's own images lie: the names could be the same."""
    mine = folder.resolve()
    for record in records:
        if mine in record.images[0].resolve().parents:
            what = "the pictures would be written among the images they are cut from"
            raise UserError(what, where=folder, fix="choose another --out")


def jpeg(image: Tensor) -> bytes:
    """uint8[3, H, W] as JPEG with full colour resolution: small crops are enlarged later."""
    data = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(data, "JPEG", quality=92, subsampling=0)
    return data.getvalue()


def _row(name: str, image: str, hw: tuple[int, int], exchanges: Sequence[Exchange]) -> dict[str, Any]:
    turns = []
    for i, exchange in enumerate(exchanges):
        turns.append({"from": "human", "value": ("<image>\n" if i == 0 else "") + exchange.question})
        turns.append({"from": "gpt", "value": exchange.answer})
    return {
        "id": name, "image": image, "width": hw[1], "height": hw[0],
        "conversations": turns, "families": [e.family for e in exchanges],
    }  # fmt: skip
