"""Made-up images with captions for the tiny twins: stripes, with sentences about their colour and direction."""

from __future__ import annotations

import json
from pathlib import Path

from vistruct.samples.made_classes import save, texture
from vistruct.samples.made_scenes import kept_by_content

COLOURS = ("red", "green", "blue", "yellow")
WAYS = ("upright", "slanted", "flat", "falling")
EACH = {"train": range(4), "restval": range(4, 5), "val": range(5, 6), "test": range(6, 7)}  # images of a kind


def sentences(kind: int) -> tuple[str, str]:
    """Two of what may be said of stripes of a kind."""
    colour, way = COLOURS[kind], WAYS[kind]
    return f"{colour.capitalize()} stripes, {way}.", f"A picture of {way} {colour} stripes."


def karpathy_file() -> Path:
    """`dataset_coco.json` with `pics/0_1.jpg`, in four splits."""

    def write(folder: Path) -> None:
        images = []
        for split, numbers in EACH.items():
            for kind in range(len(COLOURS)):
                for number in numbers:
                    name = f"{kind}_{number}.jpg"
                    save(texture(kind, number), folder / "pics" / name)
                    told = [{"raw": raw} for raw in sentences(kind)]
                    own = {"filepath": "pics", "filename": name, "split": split, "cocoid": 100 * kind + number}
                    images.append({**own, "sentences": told})
        (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))

    return kept_by_content(write) / "dataset_coco.json"
