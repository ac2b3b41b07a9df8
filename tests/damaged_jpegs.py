"""Real photographs as JPEG, in a data set of conversations, and two kinds of damage that most decoders do not see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vistruct.samples import trees

SCENE = Image.open(trees().test.with_suffix(".jpg")).convert("RGB")


def conversations(folder: Path, number: int, side: int = 160) -> Path:
    """So many crops of a photograph in a new folder, and a jsonl with a question about each."""
    folder.mkdir()
    lines = []
    for index in range(number):
        x, y = 7 * (index % 30), 11 * (index // 30)
        SCENE.crop((x, y, x + side, y + side)).save(folder / f"{index}.jpg", quality=80 + index % 15)
        turns = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "trees"}]
        lines.append(json.dumps({"id": f"s{index}", "image": f"{index}.jpg", "conversations": turns}))
    (folder / "talk.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "talk.jsonl"


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    """With 4 KiB of zeros somewhere, as a lost block of a disk."""
    at = int(rng.integers(0, len(data) - 4096))
    return data[:at] + bytes(4096) + data[at + 4096 :]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """With three flipped bits."""
    changed = bytearray(data)
    for at in rng.choice(len(data), 3, replace=False):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)
