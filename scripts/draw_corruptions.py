"""Draw docs/corruptions.jpg: every corruption at every severity, on a part of the shipped test scene.

Run:  python scripts/draw_corruptions.py [FILE]
What moves things, clouds and gaps are shown on the whole part; of the others the middle of it, pixel by pixel.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.contracts import Sample
from vistruct.files.images import read_image
from vistruct.pictures.primitives import to_pil, typeface
from vistruct.samples import trees
from vistruct.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt

PART = (300, 300, 700, 700)  # xyxy of the scene, pixels
TILE, GAP, LEFT, TOP = 150, 4, 130, 24  # pixels
SEED = 3


def main(file: Path) -> None:
    part = read_image(trees().test.with_suffix(".jpg"), PART)
    sample = Sample(id="trees", image_id="trees", seed=SEED, images=[part])
    rows, step = len(CORRUPTIONS), TILE + GAP
    sheet = Image.new("RGB", (LEFT + (len(SEVERITIES) + 1) * step, TOP + rows * step), "white")
    draw, font = ImageDraw.Draw(sheet), typeface(14)
    for column, title in enumerate(["clean", *(f"severity {severity}" for severity in SEVERITIES)]):
        draw.text((LEFT + column * step + TILE / 2, TOP / 2), title, "black", font, anchor="mm")
    for row, name in enumerate(CORRUPTIONS):
        y = TOP + row * step
        words = name.replace("_and_", " and\n").replace("_", "\n")
        draw.multiline_text((6, y + TILE / 2), words, "black", font, anchor="lm")
        images = [part, *(corrupt(sample, name, severity).images[0] for severity in SEVERITIES)]
        for column, image in enumerate(images):
            sheet.paste(_tile(image, name), (LEFT + column * step, y))
    sheet.save(file, quality=64)
    print(f"{file}: {file.stat().st_size // 1024} KiB")


def _tile(image: Tensor, name: str) -> Image.Image:
    if CORRUPTIONS[name].moves or name in ("cloud", "data_gaps"):
        return to_pil(image).resize((TILE, TILE), Image.Resampling.LANCZOS)
    x, y = ((side - TILE) // 2 for side in (image.shape[2], image.shape[1]))
    return to_pil(image[:, y : y + TILE, x : x + TILE])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/corruptions.jpg"))
