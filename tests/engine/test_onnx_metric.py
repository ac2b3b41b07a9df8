"""An exported file measures as its model does on real scenes, and eval and predict read its folder like a run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from public_folders import ship_task

import vistruct
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.onnx_export import export_onnx
from vistruct.cli.main import main
from vistruct.config import Eval, Run
from vistruct.contracts import BoxPrediction, DataInfo, MapPrediction, Sample
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.maps import MapDataConfig
from vistruct.engine import onnx_metric
from vistruct.engine.onnx_metric import numbers_beside
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.linear import LinearConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.metrics.classes import ClassesConfig
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.samples import trees
from vistruct.tasks.classify import ClassifyConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

NAMES = ("a", "b", "c")
INFO = DataInfo(class_names=NAMES)
CONV = TimmConfig(name="test_resnet")  # timm's smallest
TASKS: dict[str, Any] = {
    "detect": DetectConfig(backbone=CONV, neck=FpnConfig(channels=16), head=FcosConfig(num_convs=1, prior=0.2)),
    "segment": SegmentConfig(backbone=CONV, head=LinearConfig()),
    "classify": ClassifyConfig(backbone=CONV, head=PooledConfig()),
}


def tiles() -> dict[str, Image.Image]:
    """Four places of the shipped scene of tree crowns, of two sizes."""
    with Image.open(trees().test.with_suffix(".jpg")) as scene:
        places = {f"{x}": (x, 2 * x, x + 130 + x % 3, 2 * x + 100) for x in (0, 200, 301, 400)}
        return {name: scene.crop(box) for name, box in places.items()}


def built(name: str) -> Any:
    torch.manual_seed(0)
    task = TASKS[name].build(INFO, Path()).eval()
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return task


def said_of(task: Any, image: Image.Image) -> Any:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    sample = Sample(id="a", image_id="a", seed=0, images=[pixels])
    with torch.inference_mode():
        return task.predict(task.collator([sample]))[0]


def boxes(root: Path, task: Any) -> Eval:
    """The model's own best boxes, a pixel off, are the truth: what it says of it is far from nothing."""
    images, rows = [], []
    for number, (name, tile) in enumerate(tiles().items()):
        tile.save(root / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": tile.width, "height": tile.height})
        found = said_of(task, tile).objects
        for box, label in zip(found.boxes_xyxy[:20].tolist(), found.labels[:20].tolist(), strict=True):
            x, y, right, bottom = box
            side = {"bbox": [x, y, max(2.0, right - x - 1), max(2.0, bottom - y - 1)]}
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0, **side})
    names = [{"id": k, "name": name} for k, name in enumerate(NAMES, start=1)]
    (root / "boxes.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": names}))
    return Eval(data=BoxDataConfig(annotation=root / "boxes.json"), metric=CocoBoxesConfig())


def maps(root: Path, task: Any) -> Eval:
    """The model's own classes, where every third row is another one."""
    for name, tile in tiles().items():
        labels = said_of(task, tile).label_map.numpy().astype(np.uint8)
        labels[::3] = (labels[::3] + 1) % 3
        for folder, image in {"images": tile, "masks": Image.fromarray(labels)}.items():
            (root / folder).mkdir(exist_ok=True)
            image.save(root / folder / f"{name}.png")
    return Eval(data=MapDataConfig(root=root, coding=Coding(classes=NAMES)), metric=PixelsConfig())


def classes(root: Path, task: Any) -> Eval:
    """The model's own classes, one of them another one."""
    for number, (name, tile) in enumerate(tiles().items()):
        label = (int(said_of(task, tile).scores.argmax()) + (number == 0)) % 3
        (root / NAMES[label]).mkdir(exist_ok=True)
        tile.save(root / NAMES[label] / f"{name}.png")
    return Eval(data=ClassDataConfig(root=root, classes=NAMES), metric=ClassesConfig())


DATA = {"detect": boxes, "segment": maps, "classify": classes}


def run_main(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    return (caught.value.code if isinstance(caught.value.code, int) else 0), out, err


@pytest.fixture(scope="module", params=DATA)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with `model`, as a run leaves it, and `onnx`; and what was said."""
    top = tmp_path_factory.mktemp(request.param)
    (top / "data").mkdir()
    task = built(request.param)
    asked = DATA[request.param](top / "data", task)
    run = Run(task=task.config, data=asked.data, evals={"scene": asked}, steps=1, batch=1)
    shipped = ship_task(top / "model", task, INFO) / "model.json"
    shipped.write_text(json.dumps(json.loads(shipped.read_text()) | {"run": run.model_dump(mode="json")}))
    said: list[str] = []
    export_onnx(top / "model", top / "onnx", beside=numbers_beside, say=said.append)
    return top, said


def test_both_measure_alike_and_the_export_says_so(exported: tuple[Path, list[str]], capsys: Any) -> None:
    top, said = exported
    numbers = {}
    for folder in ("model", "onnx"):
        code, out, _ = run_main(capsys, "eval", str(top / folder), "--batch", "1", "--json")
        assert code == 0
        numbers[folder] = json.loads(out)["evaluations"]["scene"]
    known = {name: value for name, value in numbers["model"].items() if value is not None}
    assert known == pytest.approx({name: numbers["onnx"][name] for name in known}, abs=0.005)
    line = next(line for line in said if line.startswith("scene, 4 samples: "))
    usual = line.split(": ")[1].split(" ")[0]
    assert 0.3 < known[usual] < 1  # it is something that can be lost
    assert line in (top / "onnx" / "README.md").read_text()
    assert f"{known[usual]:.4f} by torch" in line


def test_a_folder_predicts_as_its_model_does(exported: tuple[Path, list[str]]) -> None:
    top, _ = exported
    tile = next(iter(tiles().values()))
    own, other = (vistruct.load(top / folder, device="cpu").predict(tile).prediction for folder in ("model", "onnx"))
    if isinstance(own, BoxPrediction):
        assert torch.allclose(own.objects.scores, other.objects.scores, atol=1e-4)
        assert len(own.objects) > 20
    elif isinstance(own, MapPrediction):
        assert (own.label_map == other.label_map).float().mean() > 0.999
    else:
        assert torch.allclose(own.scores, other.scores, atol=1e-5)


def test_numbers_that_differ_leave_nothing(exported: tuple[Path, list[str]], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(onnx_metric, "SAME", -1.0)
    with pytest.raises(UserError, match="and the model"):
        export_onnx(exported[0] / "model", tmp_path / "out", beside=numbers_beside)
    assert list(tmp_path.iterdir()) == []


def test_what_such_a_folder_cannot_do_is_refused(exported: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = exported[0] / "onnx"
    with pytest.raises(UserError, match="an ONNX file"):
        load_model(folder)
    with pytest.raises(UserError, match="an ONNX file"):
        vistruct.load(folder, lora=tmp_path)
    other = tmp_path / "copy"
    shutil.copytree(folder, other)
    with (other / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="not the file"):
        vistruct.load(other)
