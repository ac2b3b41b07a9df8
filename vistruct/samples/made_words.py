"""Made-up images of words for the tiny twin, drawn with Pillow's own font, as ICDAR's word recognition lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vistruct.samples.made_classes import save
from vistruct.samples.made_scenes import kept_by_content

WORDS = ("OPEN", "Exit", "taxi", "Hotel", "24h", "SALE", "Bank", "stop")
EACH = {"train": range(4), "test": range(4, 5)}  # images of a word


def word_image(word: str, number: int) -> np.ndarray:
    """uint8[h, w, 3]: a word as wide as it is long, in a colour and on a ground of its own; the same at every call."""
    rng = np.random.default_rng([*word.encode(), number])
    font = ImageFont.load_default(float(rng.integers(18, 27)))
    left, top, right, bottom = font.getbbox(word)
    edge = int(rng.integers(2, 6))
    ground, ink = rng.integers(140, 250, 3), rng.integers(0, 110, 3)
    size = (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge)
    picture = Image.new("RGB", size, tuple(ground.tolist()))
    ImageDraw.Draw(picture).text((edge - left, edge - top), word, fill=tuple(ink.tolist()), font=font)
    pixels = np.asarray(picture) + rng.normal(0, 6, (size[1], size[0], 3))
    return pixels.clip(0, 255).astype(np.uint8)


def words_folder(words: Sequence[str] = WORDS) -> Path:
    """`train/word_1.png` with `train/gt.txt`, and the same for test."""

    def write(folder: Path) -> None:
        for split, numbers in EACH.items():
            lines = []
            for at, (word, number) in enumerate(((word, n) for word in words for n in numbers), start=1):
                save(word_image(word, number), folder / split / f"word_{at}.png")
                lines.append(f'word_{at}.png, "{word}"\n')
            (folder / split / "gt.txt").write_text("".join(lines))

    return kept_by_content(write)
