"""What a data set says of how its images are put before a model, and what a shipped model keeps of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.boxes import BoxDataConfig
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.input import Input, Windows, as_measured, read_input
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles

CODING = Coding(classes=("no", "yes"))


def maps(root: Path, **settings) -> Input:
    for name, values in (("images", (32, 48, 3)), ("labels", (32, 48))):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(values, np.uint8)).save(root / name / "a.png")
    return read_input(MapDataConfig(root=root, coding=CODING, **settings).build().info.input, root)


def test_training_windows_are_said_in_pixels_that_the_model_is_shown(tmp_path: Path) -> None:
    shown = maps(tmp_path, resize=2.0, tiles=Tiles(size=16, overlap=4))
    assert shown == Input(resize=2.0, windows=Windows(size=32, overlap=8, unit="shown"), coding=CODING)
    size = Size(height=64, width=96)
    assert maps(tmp_path, resize=size, tiles=Tiles(size=16, overlap=4)).windows == Windows(
        size=96, overlap=24, unit="shown"
    )
    assert maps(tmp_path) == Input(coding=CODING)


def test_images_are_shown_as_in_the_evaluations_and_windows_are_those_of_training() -> None:
    windows = Windows(size=128, overlap=32, unit="shown")
    training = Input(resize=2.0, windows=windows)
    assert as_measured(training, [Input(resize=0.5), Input()]) == Input(resize=0.5, windows=windows)
    assert as_measured(training, []) == training
    of_each = Input(resize=2.0, windows=Windows(size=64, overlap=16, unit="file"))  # the size is that of a window
    assert as_measured(of_each, [Input(resize=0.5)]) == of_each


def test_boxes_and_classes_say_how_their_images_are_shown(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), name).save(tmp_path / "classes" / name / "a.png")
    classes = ClassDataConfig(root=tmp_path / "classes", resize=Size(height=4, width=4)).build()
    assert read_input(classes.info.input, "") == Input(resize=Size(height=4, width=4))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
        "categories": [{"id": 1, "name": "tree"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    boxes = BoxDataConfig(annotation=tmp_path / "a.json", tiles=Tiles(size=6, overlap=2)).build()
    assert read_input(boxes.info.input, "") == Input(windows=Windows(size=6, overlap=2, unit="file"))


def test_a_contract_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="unknown key 'resiz'"):
        read_input({"resiz": 2}, "model.json")
    with pytest.raises(UserError, match="overlap=64 is not below size=64"):
        Windows(size=64, overlap=64, unit="file")


ALONE = """
import sys, vistruct
model = vistruct.load(sys.argv[1], device="cpu")
print(type(model.predict(sys.argv[2]).prediction).__name__, model.input.windows)
heavy = [name for name in sys.modules if name.startswith(("vistruct.data.chat", "vistruct.metrics", "hotcoco",
         "vistruct.data.boxes", "vistruct.engine", "vistruct.vlm", "transformers", "rasterio", "nibabel"))]
heavy = set(heavy) - {"vistruct.vlm", "vistruct.vlm.text_tower"}  # classes may be told by their names; plain torch
assert not heavy, heavy
"""


def test_a_detector_loads_without_its_training_data_or_its_metrics(tmp_path: Path) -> None:
    from vistruct.engine.train import train
    from vistruct.recipes import detect

    run = detect.tiny().model_copy(update={"steps": 2, "evals": {}})
    out = train(run, tmp_path / "run")
    file = out / "model" / "model.json"
    values = json.loads(file.read_text())
    assert values["input"]["mean"] == list(run.only.task.mean)
    values["run"]["data"] = {"kind": "a data set of the future"}
    values["run"]["evals"] = {"val": {"data": values["run"]["data"], "metric": {"kind": "a metric of the future"}}}
    file.write_text(json.dumps(values))
    shutil.move(out / "model", tmp_path / "elsewhere")
    Image.new("RGB", (200, 90)).save(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "elsewhere"), str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("BoxPrediction")
