"""What a newcomer does first, done: an environment, three folders of images, a model of each, its numbers, its files.

Run:      python scripts/first_ten_minutes.py [--wheel FILE] [--out FOLDER] [--quick]
Needs:    Python 3.11 or later, uv or pip, two cores; without --wheel uv, which builds one
Makes:    FOLDER/data: boxes (YOLO), masks (two folders) and classes (a folder each), cut from the two scenes that are
          shipped, one to train on and one, 13 km away, to measure on; scene.tif: the second with coordinates
Does:     one command each, as docs/first_ten_minutes.md has them: check, train, export to ONNX, predict to the map
Ends:     with a table of what took how long and what came out; 1 where anything is missing
Differs:  where in its tile of 1 km the crop lies is not known: scene.tif begins at the corner that its name says
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "geo,export,demo"  # GeoTIFF, ONNX, and the weights called efficientnet-lite0
KINDS = {"boxes": "detect", "masks": "segment", "classes": "classify"}
NUMBER = {"boxes": "AP50", "masks": "mIoU", "classes": "OA"}  # that their best weights are chosen by
SHARED = "--split train --val-split val --backbone efficientnet-lite0 --rot90"
TRAIN = {
    "boxes": f"{SHARED} --size 256 --channels 64 --lr 1e-3 --epochs 6",
    "masks": f"{SHARED} --size 256 --head unet --lr 1e-3 --epochs 4",
    "classes": f"{SHARED} --size 128 --batch 16 --lr 1e-3 --epochs 4",
}
QUICK = "--fraction 0.2 --epochs 1"
SIDE = {"boxes": 256, "masks": 256, "classes": 128}  # pixels of a crop
NAMES = {
    "bare": 0.05,
    "open": 0.25,
    "forest": 1.01,
}  # a crop is of the first whose share of crowns is larger than its own
CORNER = (541000.0, 4978000.0)  # upper left of the tile that the scene is from, metres, UTM zone 12 north


class Missing(Exception):
    """Something that a command should have left."""


@dataclass
class Trial:
    """Where all of it happens, and what was done so far."""

    out: Path
    python: Path
    rows: list[tuple[str, float, float, str]] = field(default_factory=list)

    def do(self, name: str, words: list[str], look: Callable[[str], str]) -> None:
        """Run a command in the folder, keep what it says, and look at what it left.

        Raises:
            Missing: it failed, or `look` says what is not there.
        """
        shown = shlex.join(words).replace(f"{self.python.parent}/", "")
        print(f"\n$ {shown}", flush=True)
        away = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        environment = {key: value for key, value in os.environ.items() if key not in away}
        log = self.out / "log" / f"{name.replace(' ', '_')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        began, spent = time.monotonic(), processor_seconds()
        with log.open("w") as file:
            done = subprocess.run(words, cwd=self.out, env=environment, stdout=file, stderr=subprocess.STDOUT)
        took, spent = time.monotonic() - began, processor_seconds() - spent
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log.read_text())
        print("\n".join(f"    {line}" for line in text.splitlines()[-6:]), flush=True)
        if done.returncode:
            raise Missing(f"{shown}\nended with {done.returncode}; all that it said: {log}")
        self.rows.append((name, took, spent, look(text)))

    def vistruct(self, name: str, text: str, look: Callable[[str], str]) -> None:
        """One of vistruct's commands, written as a user writes it."""
        self.do(name, [str(self.python.with_name("vistruct")), *shlex.split(text)], look)

    def table(self) -> str:
        """What was done, the seconds of the clock and of the processor, and what came out."""
        lines = [f"{'what':<18}{'clock':>8}{'cpu':>8}  what came out"]
        lines += [f"{name:<18}{took:>7.0f}s{spent:>7.0f}s  {came}" for name, took, spent, came in self.rows]
        clock, spent = (sum(row[number] for row in self.rows) for number in (1, 2))
        return "\n".join([*lines, f"{'all of it':<18}{clock:>7.0f}s{spent:>7.0f}s"])


def processor_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def install(trial: Trial, wheel: Path) -> None:
    """An environment of its own with the wheel and its extras, by uv where it is there, else by venv and pip."""
    env, what = trial.python.parents[1], f"{wheel}[{EXTRAS}]"
    if uv := shutil.which("uv"):
        trial.do("environment", [uv, "venv", "-q", "--python", sys.executable, str(env)], lambda _: "uv venv")
        words = [uv, "pip", "install", "-q", "--python", str(trial.python), what]
    else:
        trial.do("environment", [sys.executable, "-m", "venv", str(env)], lambda _: "python -m venv")
        words = [str(trial.python), "-m", "pip", "install", "-q", what]
    trial.do("install", words, lambda _: wheel.name)
    trial.vistruct("first start", "--version", str.strip)


def go(trial: Trial, quick: bool) -> None:
    """Everything from the data to the map.

    Raises:
        Missing: as `Trial.do`.
    """
    mine = [str(trial.python), str(Path(__file__).resolve()), "--make-data", "data"]
    trial.do("data", mine, lambda text: text.strip().splitlines()[-1])
    for name in KINDS:
        trial.vistruct(f"check {name}", f"check data/{name}", verdict)
    for name, recipe in KINDS.items():
        options = f"{TRAIN[name]} {QUICK}" if quick else TRAIN[name]
        told = re.sub(r"--epochs \d+ (?=.*--epochs)", "", options)
        trial.vistruct(
            f"train {name}", f"train {recipe} --data data/{name} {told} --out runs/{name}", numbers(trial.out, name)
        )
    for name in KINDS:
        out = trial.out / "onnx" / name / "model.onnx"
        trial.vistruct(f"export {name}", f"export runs/{name} --format onnx --out onnx/{name}", agreement(out))
    trial.vistruct("predict boxes", "predict runs/boxes data/scene.tif --format geojson", on_map(trial.out, "boxes"))
    formats = "--format geotiff --format geojson"
    trial.vistruct("predict masks", f"predict runs/masks data/scene.tif {formats}", on_map(trial.out, "masks"))
    trial.vistruct("predict classes", "predict runs/classes data/classes/val/forest", in_classes)


def verdict(text: str) -> str:
    """Of `check`."""
    if "nothing stops training" not in text:
        raise Missing("check found the folder unfit for training")
    return "nothing stops training"


def numbers(out: Path, name: str) -> Callable[[str], str]:
    """The last words of a run: its number, best and last, and the report that is there."""

    def look(text: str) -> str:
        run = out / "runs" / name
        for file in ("report.html", "result.json", "model/model.json", "model/model.safetensors", "run.yaml"):
            if not (run / file).is_file():
                raise Missing(f"no {run / file}")
        said = re.search(rf"^best by val/{NUMBER[name]}: .*$", text, re.MULTILINE)
        if said is None or not re.search(r"^report: \S+report\.html$", text, re.MULTILINE):
            raise Missing(f"the run of {name} ends without its number and its report")
        return said[0].partition(" (")[0]

    return look


def agreement(file: Path) -> Callable[[str], str]:
    """What `export` says of onnxruntime beside torch."""

    def look(text: str) -> str:
        said = re.search(r"^.*onnxruntime beside torch on .*$", text, re.MULTILINE)
        if said is None or not file.is_file():
            raise Missing(f"no {file} that was compared with torch")
        return f"{file.stat().st_size / 1e6:.0f} MB, {said[0].strip()}"

    return look


def on_map(out: Path, name: str) -> Callable[[str], str]:
    """That what was found lies where the scene does."""

    def look(_: str) -> str:
        files = sorted((out / "runs" / name / "predictions").rglob("*.geojson"))
        if not files:
            raise Missing(f"no GeoJSON of {name}")
        document: dict[str, Any] = json.loads(files[0].read_text())
        corners = [xy for feature in document["features"] for xy in corners_of(feature["geometry"]["coordinates"])]
        wide, high = 1249 * 0.1, 1035 * 0.1  # metres
        inside = [CORNER[0] <= x <= CORNER[0] + wide and CORNER[1] - high <= y <= CORNER[1] for x, y in corners]
        if not all(inside):
            raise Missing(f"{inside.count(False)} of {len(inside)} corners in {files[0]} are not in the scene")
        rasters = sorted((out / "runs" / name / "predictions").rglob("*.tif"))
        if name == "masks" and not rasters:
            raise Missing("no GeoTIFF of the classes")
        return f"{len(document['features'])} on the map, in " + " and ".join(f.name for f in [*files, *rasters])

    return look


def in_classes(text: str) -> str:
    """How many images are of which class."""
    said = re.search(r"^(\d+ images)\n((?:  \w+: \d+\n)+)", text, re.MULTILINE)
    if said is None:
        raise Missing("no classes of the images")
    return f"{said[1]} of forest: " + ", ".join(line.strip() for line in said[2].splitlines())


def corners_of(nested: Any) -> list[tuple[float, float]]:
    """All points of a geometry's coordinates."""
    if isinstance(nested[0], (int, float)):
        return [(nested[0], nested[1])]
    return [point for one in nested for point in corners_of(one)]


def make_data(root: Path) -> str:
    """Cut the shipped scenes into three folders that are like those of users; run where vistruct is installed.

    Returns:
        how many images of each.
    """
    from vistruct.samples import trees

    counts = dict.fromkeys(KINDS, 0)
    for part, file in (("train", trees().train), ("val", trees().test)):
        for kind in KINDS:
            for number, (image, boxes) in enumerate(crops(file, SIDE[kind])):
                WRITE[kind](root / kind, part, f"{number:03d}", image, boxes)
                counts[kind] += 1
    names = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: tree\n"
    (root / "boxes" / "data.yaml").write_text(names)
    write_scene(trees().test, root / "scene.tif")
    return ", ".join(f"{number} images of {kind}" for kind, number in counts.items())


def crops(file: Path, side: int) -> list[tuple[Any, Any]]:
    """Squares of a scene with the boxes of which a third or more is in them: float[N, 4], xyxy, pixels."""
    import numpy as np
    from PIL import Image

    told = json.loads(file.read_text())
    image = Image.open(file.with_name(told["images"][0]["file_name"])).convert("RGB")
    boxes = np.array([one["bbox"] for one in told["annotations"]], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    found = []
    for y in range(0, image.height - side + 1, side):
        for x in range(0, image.width - side + 1, side):
            cut = np.clip(boxes - [x, y, x, y], 0, side)
            kept = area(cut) > area(boxes) / 3
            found.append((image.crop((x, y, x + side, y + side)), cut[kept]))
    return found


def area(boxes: Any) -> Any:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def painted(boxes: Any, side: int) -> Any:
    """Boxes as uint8[side, side]: 1 inside, 0 elsewhere."""
    import numpy as np

    label_map = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in boxes.round().astype(int):
        label_map[y0:y1, x0:x1] = 1
    return label_map


def write_boxes(root: Path, part: str, name: str, image: Any, boxes: Any) -> None:
    side = image.width
    save(image, root / "images" / part / f"{name}.jpg")
    lines = [
        f"0 {(x0 + x1) / 2 / side:.6f} {(y0 + y1) / 2 / side:.6f} {(x1 - x0) / side:.6f} {(y1 - y0) / side:.6f}\n"
        for x0, y0, x1, y1 in boxes
    ]
    label = root / "labels" / part / f"{name}.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("".join(lines))


def write_masks(root: Path, part: str, name: str, image: Any, boxes: Any) -> None:
    from PIL import Image

    save(image, root / "images" / part / f"{name}.png")
    save(Image.fromarray(painted(boxes, image.width)), root / "masks" / part / f"{name}.png")


def write_classes(root: Path, part: str, name: str, image: Any, boxes: Any) -> None:
    share = painted(boxes, image.width).mean()
    word = next(word for word, most in NAMES.items() if share < most)
    save(image, root / part / word / f"{name}.jpg")


def save(image: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=92)


WRITE = {"boxes": write_boxes, "masks": write_masks, "classes": write_classes}


def write_scene(file: Path, tif: Path) -> None:
    """The scene as a GeoTIFF of 0.1 m a pixel."""
    import numpy as np
    import rasterio
    from PIL import Image

    pixels = np.asarray(Image.open(file.with_suffix(".jpg")).convert("RGB")).transpose(2, 0, 1)
    place = {"crs": "EPSG:32612", "transform": rasterio.Affine(0.1, 0, CORNER[0], 0, -0.1, CORNER[1])}
    shape = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(tif, "w", driver="GTiff", photometric="RGB", compress="deflate", **shape, **place) as out:
        out.write(pixels)


def built_wheel(out: Path) -> Path:
    """Of the tree that this script lies in."""
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", out / "dist"], cwd=ROOT, check=True)
    return next((out / "dist").glob("*.whl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help="the one to install; by default it is built")
    parser.add_argument("--python", type=Path, help="of an environment that has vistruct already; nothing is installed")
    parser.add_argument("--out", type=Path, default=Path("first_ten_minutes"), help="a new folder")
    parser.add_argument(
        "--quick", action="store_true", help="an epoch of a fifth of the images; the numbers mean nothing"
    )
    parser.add_argument("--make-data", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.make_data is not None:
        print(make_data(told.make_data))
        return 0
    out = told.out.resolve()
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is there already: another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    trial = Trial(out=out, python=told.python.absolute() if told.python else out / "env" / "bin" / "python")
    try:
        if told.python is None:
            install(trial, told.wheel.resolve() if told.wheel else built_wheel(out))
        go(trial, told.quick)
    except Missing as error:
        print(f"\n{trial.table()}\n\nmissing: {error}", file=sys.stderr)
        return 1
    print(f"\n{trial.table()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
