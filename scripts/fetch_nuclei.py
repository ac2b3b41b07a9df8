# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "tifffile"]
# ///
"""Make a data set of cell nuclei under the microscope: `uv run scripts/fetch_nuclei.py FOLDER`.

To learn and to measure on: one fluorescence image of 512 x 512 pixels with 125 nuclei outlined by hand, from the
package stardist 0.9.2. The left part is for training, the right one for the test, with 16 columns between them; a
nucleus at a cut is in as far as it is inside. Touching nuclei are told apart by their outlines. Nuclei are brighter
than what is around them, so that pixels alone are an easy task, and objects less so.

To pretrain on: twenty pictures of 210 x 576 pixels from the package ndev-sampledata 0.0.3, a wound in a layer of cells
that closes over ten times, each seen twice: nuclei in fluorescence, and whole cells in relief without any stain. Their
1,558 outlines come without a word about their origin, fit what is seen, and are probably a program's (some of the
brightest nuclei have none): silver, good for questions in pretraining and not to measure on. Another laboratory and
another microscope than the test.

    objects/{train,test}.json   COCO, masks as run lengths        objects/images/{train,test}/nuclei.png
    pixels/images/{train,test}/nuclei.png    pixels/masks/{train,test}/nuclei.png (0 background, 1 nucleus)
    pretrain/annotations.json                pretrain/images/*.png
    pretrain/fluorescence.json               (the ten pictures of nuclei alone)

Both packages are BSD-3-Clause and lie in the Python package index.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

LABELLED, PRETRAIN = "stardist==0.9.2", "ndev-sampledata==0.0.3"
COLUMNS = {"train": (0, 248), "test": (264, 512)}
STRETCH = (0.5, 99.8)  # percentiles of all frames of one channel that become black and white
LEAST = 12  # pixels of a nucleus inside its part: less is not an object


def fetch(package: str, folder: Path) -> Path:
    """Unpack a package, without what it depends on."""
    subprocess.run(["uv", "pip", "install", "-q", "--no-deps", "--target", str(folder), package], check=True)
    return folder


Picture = tuple[np.ndarray, np.ndarray, str]  # uint8[H, W] pixels, int[H, W] instances, what they are


def coco(images: dict[str, Picture], folder: Path) -> dict[str, list]:
    """Write images below `folder`, by name, and say what is in them."""
    entries, found = [], []
    kinds = list(dict.fromkeys(kind for _, _, kind in images.values()))
    for number, (name, (pixels, instances, kind)) in enumerate(images.items(), start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        height, width = pixels.shape
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        for one in np.unique(instances[instances > 0]):
            mask = instances == one
            if mask.sum() < LEAST:
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y = int(columns[0]), int(rows[0])
            found.append(
                {
                    "id": len(found) + 1,
                    "image_id": number,
                    "category_id": kinds.index(kind) + 1,
                    "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                }
            )
    categories = [{"id": number, "name": kind} for number, kind in enumerate(kinds, start=1)]
    return {"images": entries, "categories": categories, "annotations": found}


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed form: pixels column by column, how many outside, inside, outside, ..."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths


def frames(path: Path) -> dict[str, Picture]:
    """The frames: channel 0 has nuclei in fluorescence, 1 cells in relief, 2 and 3 the instances in each."""
    film = tifffile.imread(path)  # [channel, time, row, column]
    images = {}
    for channel, kind in enumerate(("nucleus", "cell")):
        low, high = np.percentile(film[channel], STRETCH)
        pixels = ((film[channel] - low) / (high - low)).clip(0, 1) * 255
        for time in range(film.shape[1]):
            images[f"{kind}_{time:02d}.png"] = pixels[time].round().astype(np.uint8), film[channel + 2, time], kind
    return images


def main(out: Path) -> None:
    if out.exists():
        sys.exit(f"{out} is there already")
    with tempfile.TemporaryDirectory() as folder:
        data = fetch(LABELLED, Path(folder) / "labelled") / "stardist" / "data" / "images"
        pixels = tifffile.imread(data / "img2d.tif").astype(np.uint8)  # 16 bits that hold 0 to 235
        instances = tifffile.imread(data / "mask2d.tif")
        film = fetch(PRETRAIN, Path(folder) / "pretrain") / "ndev_sampledata" / "samples"
        silver = frames(film / "scratch-assay-labeled-10T-2Ch.tiff")
    for split, (left, right) in COLUMNS.items():
        own = pixels[:, left:right], instances[:, left:right], "nucleus"
        content = coco({f"{split}/nuclei.png": own}, out / "objects" / "images")
        (out / "objects" / f"{split}.json").write_text(json.dumps(content) + "\n")
        for kind, picture in (("images", own[0]), ("masks", (own[1] > 0).astype(np.uint8))):
            path = out / "pixels" / kind / split / "nuclei.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        print(f"{split}: {len(content['annotations'])} nuclei")
    (out / "pixels" / "classes.txt").write_text("background\nnucleus\n")
    content = coco(silver, out / "pretrain" / "images")
    (out / "pretrain" / "annotations.json").write_text(json.dumps(content) + "\n")
    stained = {name: one for name, one in silver.items() if one[2] == "nucleus"}
    (out / "pretrain" / "fluorescence.json").write_text(json.dumps(coco(stained, out / "pretrain" / "images")) + "\n")
    counts = Counter(one["category_id"] for one in content["annotations"])
    kinds = f"{counts[1]} nuclei and {counts[2]} cells"
    print(f"pretrain: {kinds} in {len(silver)} frames, without those below {LEAST} pixels")
    (out / "LICENSE.txt").write_text(f"BSD-3-Clause; taken from {LABELLED} and {PRETRAIN}.\n")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: uv run scripts/fetch_nuclei.py FOLDER")
    if shutil.which("uv") is None:
        sys.exit("uv is not here: see https://docs.astral.sh/uv")
    main(Path(sys.argv[1]))
