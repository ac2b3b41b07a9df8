"""Annotations become instructions: conversations about crops of any boxes data set, as InternVL / LLaVA jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.io import encode_jpeg
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Record
from vistruct.data.formats import chat, coco
from vistruct.data.images import read_image
from vistruct.data.instructions.families import FAMILIES, Exchange
from vistruct.data.instructions.scene import Scene
from vistruct.errors import UserError, closest
from vistruct.ops.seeds import derive

CANDIDATES = 4  # drawn for each question; the one with the rarest answer is asked
ON_OBJECT = 0.6  # chance that a crop is placed around an object; the others fall anywhere
WHOLE, GONE = 0.5, 0.1  # shares of an object in the crop: at least / at most, else it is doubtful


@dataclass(kw_only=True)
class Summary:
    """What was written, for the table that the command prints and for tests of balance."""

    path: Path
    images: int = 0
    families: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # by family
    dropped: Mapping[str, int] = field(default_factory=dict)  # annotations the reader left out, by reason

    def add(self, exchange: Exchange) -> None:
        self.families[exchange.family] += 1
        self.answers.setdefault(exchange.family, Counter())[exchange.answer_class] += 1

    def rows(self) -> list[tuple[str, int, str]]:
        """(family, number of questions, its commonest answers with their shares)."""
        out = []
        for family, total in self.families.most_common():
            common = self.answers[family].most_common(4)
            out.append(
                (family, total, ", ".join(f"{answer} {100 * n / total:.0f} %" for answer, n in common))
            )
        return out


def write_instructions(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    crops: int | None = None,
    crop_size: tuple[int, int] = (448, 896),
    questions: int = 8,
    families: Sequence[str] = tuple(FAMILIES),
    turned: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write `out/instructions.jsonl` and the pictures it speaks of.

    Args:
        source: COCO json of boxes; `images` is its image folder (the json's own if None).
        crops: pictures to cut, spread over the images by their area; None asks about every whole image as it is.
        crop_size: smallest and largest side of a crop, in pixels.
        questions: turns in a conversation.
        families: which of FAMILIES to ask.
        turned: also turn and mirror the crops, for pictures without an up (aerial, microscopy).
        seed: the same seed writes the same files.
        progress: called with (done, total).

    Raises:
        UserError: an unknown family, no annotated image, a crop larger than every image.
    """
    for name in families:
        if name not in FAMILIES:
            raise UserError(f"no question family {name!r}", fix=closest(name, FAMILIES))
    if questions < 1 or not families:
        raise UserError(f"questions={questions} of {len(families)} families", fix="ask at least one of each")
    records, names, report = coco.read(source, images)
    if not records:
        raise UserError("no image to ask about", where=source, fix="give a data set with images and boxes")
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    summary = Summary(path=out / "instructions.jsonl", dropped=dict(report.counts))
    rng = np.random.default_rng(derive(seed, "crops"))
    plan = _whole(records) if crops is None else _cut(records, crops, crop_size, rng)
    rows: list[dict[str, Any]] = []
    for index, (record, window) in enumerate(plan):
        turn = int(rng.integers(8)) if turned and crops is not None else 0
        if crops is None:
            name = str(record.images[0].resolve())
        else:
            name = f"{index:06d}.jpg"
            picture = turn_image(read_image(record.images[0], window), turn)
            (folder / name).write_bytes(bytes(encode_jpeg(picture.contiguous(), quality=92).numpy()))
        scene = view(record, window, names, turn)
        exchanges = converse(
            scene, questions, families, np.random.default_rng(derive(seed, "ask", index)), summary
        )
        if not exchanges:
            continue
        summary.images += 1
        rows.append(_row(f"{record.id}-{index}", name, scene.size_hw, exchanges))
        if progress is not None:
            progress(index + 1, len(plan))
    chat.write(summary.path, rows)
    (out / "summary.json").write_text(
        json.dumps(
            {"images": summary.images, "families": summary.families, "answers": summary.answers}, indent=1
        )
    )
    return summary


def converse(
    scene: Scene, questions: int, families: Sequence[str], rng: np.random.Generator, so_far: Summary
) -> list[Exchange]:
    """Up to `questions` different exchanges about one scene, each with the rarest answer of a few candidates."""
    wanted = Counter(
        families[i % len(families)] for i in rng.permutation(max(questions, len(families)))[:questions]
    )
    chosen: list[Exchange] = []
    for family in FAMILIES:
        for _ in range(wanted[family]):
            drawn = [FAMILIES[family](scene, rng) for _ in range(CANDIDATES)]
            asked = {e.question for e in chosen}
            candidates = [e for e in drawn if e is not None and e.question not in asked]
            if not candidates:
                continue
            tally = so_far.answers.get(family, Counter())
            best = min(candidates, key=lambda e: tally[e.answer_class])
            chosen.append(best)
            so_far.add(best)
    return chosen


def view(record: Record, window: tuple[int, int, int, int], names: tuple[str, ...], turn: int) -> Scene:
    """The scene of one window of a record, turned like its picture."""
    x1, y1, x2, y2 = window
    boxes = record.boxes_xyxy.astype(np.float64) - [x1, y1, x1, y1]
    size = np.array([x2 - x1, y2 - y1] * 2)
    clipped = np.clip(boxes, 0, size)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    share = np.prod(np.clip(clipped[:, 2:] - clipped[:, :2], 0, None), axis=1) / np.maximum(area, 1e-9)
    whole = (share >= WHOLE) & ~record.is_crowd
    doubtful = ((share > GONE) & (share < WHOLE)) | ((share > 0) & record.is_crowd)
    hw = (y2 - y1, x2 - x1)
    turned_hw = hw[::-1] if turn % 2 else hw
    return Scene(
        size_hw=turned_hw,
        boxes_xyxy=turn_boxes(clipped[whole], hw, turn),
        labels=record.labels[whole],
        names=names,
        doubtful_xyxy=turn_boxes(clipped[doubtful], hw, turn),
    )


def turn_image(image: Any, turn: int) -> Any:
    """uint8[3, H, W] under one of the eight symmetries of the square: quarter turns clockwise, from 4 on mirrored."""
    if turn >= 4:
        image = F.horizontal_flip(image)
    return image.rot90(-(turn % 4), (1, 2))


def turn_boxes(boxes: np.ndarray, hw: tuple[int, int], turn: int) -> np.ndarray:
    """float[N, 4] xyxy under the same symmetry as `turn_image`."""
    height, width = hw
    x1, y1, x2, y2 = boxes.T
    if turn >= 4:
        x1, x2 = width - x2, width - x1
    for _ in range(turn % 4):  # clockwise: (x, y) -> (height - y, x)
        x1, y1, x2, y2 = height - y2, x1, height - y1, x2
        height, width = width, height
    return np.stack([x1, y1, x2, y2], axis=1)


def shuffle_answers(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The control of every claim: each conversation is moved to another image, all else stays the same."""
    order = np.random.default_rng(derive(seed, "shuffle")).permutation(len(rows))
    shifted = np.roll(order, 1)  # along one cycle: no conversation stays where it was
    moved = {int(a): int(b) for a, b in zip(order, shifted, strict=True)}
    return [{**rows[i], "conversations": rows[moved[i]]["conversations"]} for i in range(len(rows))]


def _whole(records: Sequence[Record]) -> list[tuple[Record, tuple[int, int, int, int]]]:
    return [(r, (0, 0, r.size_hw[1], r.size_hw[0])) for r in records if r.size_hw is not None]


def _cut(
    records: Sequence[Record], crops: int, crop_size: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Record, tuple[int, int, int, int]]]:
    low, high = crop_size
    if not 0 < low <= high:
        raise UserError(
            f"crop_size={crop_size} is no range of pixels", fix="give two sizes, the smaller first"
        )
    fitting = [r for r in records if r.size_hw is not None and min(r.size_hw) >= low]
    if not fitting:
        largest = max((min(r.size_hw) for r in records if r.size_hw is not None), default=0)
        raise UserError(f"no image is {low} pixels wide and high", fix=f"--crop-size of at most {largest}")
    area = np.array([r.size_hw[0] * r.size_hw[1] for r in fitting if r.size_hw is not None], float)
    plan = []
    for at in rng.choice(len(fitting), size=crops, p=area / area.sum()):
        record = fitting[at]
        height, width = record.size_hw or (0, 0)
        side = int(rng.integers(low, min(high, height, width) + 1))
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        if len(record.boxes_xyxy) and rng.random() < ON_OBJECT:
            box = record.boxes_xyxy[rng.integers(len(record.boxes_xyxy))]
            centre = (box[:2] + box[2:]) / 2 - rng.uniform(0.15, 0.85, 2) * side
            x, y = (int(np.clip(at, 0, end - side)) for at, end in zip(centre, (width, height), strict=True))
        plan.append((record, (x, y, x + side, y + side)))
    return plan


def _row(name: str, image: str, hw: tuple[int, int], exchanges: Sequence[Exchange]) -> dict[str, Any]:
    turns = []
    for i, exchange in enumerate(exchanges):
        turns.append({"from": "human", "value": ("<image>\n" if i == 0 else "") + exchange.question})
        turns.append({"from": "gpt", "value": exchange.answer})
    return {
        "id": name, "image": image, "width": hw[1], "height": hw[0],
        "conversations": turns, "families": [e.family for e in exchanges],
    }  # fmt: skip
