"""Damaged data sets have a moved truth; a run measured on them can be stopped, and goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_pixels
from PIL import Image
from tables import with_objects
from torch import Tensor

from vistruct.cli.robust import command
from vistruct.config import Eval, Run
from vistruct.contracts import BoxPrediction, DataInfo, Objects, Record, Turn
from vistruct.data.dataset import RecordDataset
from vistruct.data.maps import MapDataConfig
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.study import robustness as room
from vistruct.study.corrupted import corrupted, moved, why_not
from vistruct.study.robustness import means, robustness
from vistruct.tasks.segment import SegmentConfig
from vistruct.transforms.corruptions import CORRUPTIONS
from vistruct.transforms.crop import crop
from vistruct.transforms.sizing import Size

SIZE = (60, 80)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A bright rectangle on a dark ground."""
    pixels = np.full((*SIZE, 3), 40, np.uint8)
    pixels[20:40, 30:60] = 240
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def of_maps(picture: Path, **fields: object) -> RecordDataset:
    record = Record(id="a", images=(picture,), size_hw=SIZE, label_map=picture)
    info = DataInfo(class_names=("ground", "thing"), num_records=1)
    return RecordDataset([record], info, IssueCounter(), whole_records=[record], read_label_map=bright, **fields)


def bright(record: Record) -> Tensor:
    return torch.from_numpy((np.asarray(Image.open(record.images[0]))[..., 0] > 127).astype(np.int16))


def of_boxes(picture: Path, **fields: object) -> RecordDataset:
    box = np.array([[30.0, 20, 60, 40]], np.float32)
    corners = box[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(1, 4, 2) if fields.pop("oriented", False) else None
    values = {"labels": np.array([0]), "boxes_xyxy": box, "quads": corners, "size_hw": SIZE} | fields
    record = Record(id="a", images=(picture,), **with_objects(values))
    info = DataInfo(class_names=("thing",), num_records=1)
    return RecordDataset([record], info, IssueCounter(), whole_records=[record])


def test_labels_of_a_damaged_data_set_lie_on_its_paint(picture: Path) -> None:
    for name, one in CORRUPTIONS.items():
        dataset = corrupted(of_maps(picture), name, 3)
        sample, truth = dataset.sample(0, 11), dataset.truth(0)
        assert torch.equal(sample.label_map, truth)
        assert truth.shape == SIZE
        if one.moves:
            seen = (sample.images[0].int() - 240).abs().amax(dim=0) < 60
            assert float((seen & (truth == 1)).sum() / (seen | (truth == 1)).sum()) > 0.85
            assert sample.origin_xy == (0, 0)
            assert sample.scale_xy == (1, 1)
        else:
            assert torch.equal(truth, of_maps(picture).truth(0))
        assert not torch.equal(sample.images[0], of_maps(picture).sample(0, 11).images[0])


def test_damage_does_not_follow_the_seed_of_a_sample_and_comes_before_resizing(picture: Path) -> None:
    dataset = corrupted(of_maps(picture), "cloud", 2)
    one, other = dataset.sample(0, 1).images[0], dataset.sample(0, 2).images[0]
    assert torch.equal(one, other)
    small = corrupted(of_maps(picture, resize=Size(height=30, width=40)), "salt_and_pepper", 5).sample(0, 1)
    assert small.images[0].shape == (3, 30, 40)
    assert len(small.images[0].unique()) > 4  # speckles of a pixel became grey
    assert small.scale_xy == (0.5, 0.5)


def test_slices_of_a_volume_are_moved_alike_and_damaged_each_by_itself() -> None:
    def stack(record: Record) -> list[Tensor]:
        return [torch.full((1, *SIZE), 128, dtype=torch.uint8)]

    records = [Record(id=f"v@z{z}", image_id="v", slice=z, images=(Path("v.nii"),)) for z in range(6)]
    dataset = RecordDataset(records, DataInfo(), IssueCounter(), read_images=stack)
    shifts = {corrupted(dataset, "translation", 1).sample(z, 0).images[0].sum().item() for z in range(6)}
    noise = {corrupted(dataset, "gaussian_noise", 1).sample(z, 0).images[0].sum().item() for z in range(6)}
    assert len(shifts) == 1
    assert len(noise) == 6


def test_perfect_predictions_of_moved_boxes_are_perfect(picture: Path) -> None:
    for oriented in (False, True):
        for name in ("scale", "translation", *(["rotation"] if oriented else [])):
            dataset = corrupted(of_boxes(picture, oriented=oriented), name, 2)
            sample = dataset.sample(0, 0)
            paint = ((sample.images[0].int() - 240).abs().amax(dim=0) < 60).nonzero()
            low, high = paint.amin(dim=0).flip(0), paint.amax(dim=0).flip(0) + 1
            found = torch.cat([low, high])[None].float()
            assert (sample.objects.boxes_xyxy - found).abs().max() <= 2
            assert torch.equal(sample.objects.boxes_xyxy, torch.from_numpy(dataset.whole_records[0].objects.boxes_xyxy))
            metric = CocoBoxesConfig().build(dataset)
            metric.update(
                [
                    BoxPrediction(
                        id="a",
                        image_id="a",
                        objects=Objects(
                            boxes_xyxy=sample.objects.boxes_xyxy, scores=torch.ones(1), labels=torch.zeros(1).long()
                        ),
                        class_names=("thing",),
                    )
                ]
            )
            assert metric.compute()["AP"] == pytest.approx(1)


def test_an_object_that_leaves_the_picture_is_no_longer_asked_for(picture: Path) -> None:
    record = of_boxes(picture, oriented=True).records[0]
    edge = of_boxes(picture, boxes_xyxy=np.array([[0.0, 0, 8, 8]], np.float32)).records[0]
    kept = [
        len(moved(Record(**{**vars(edge), "id": n, "image_id": n}), "translation", 1).objects.labels)
        for n in "abcdefgh"
    ]
    assert 0 < kept.count(0) < 8  # in the corner: of the four ways only right and down leaves it in view
    assert len(moved(record, "rotation", 5).objects.labels) == 1


@pytest.mark.parametrize(
    ("fields", "name", "match"),
    [
        ({}, "rotation", "horizontal"),
        ({"turns": (Turn(role="user", text="left?"),)}, "translation", "no longer be true"),
    ],
)
def test_what_has_no_moved_truth_is_said(picture: Path, fields: dict[str, object], name: str, match: str) -> None:
    assert match in why_not(of_boxes(picture, **fields), name)
    assert why_not(of_boxes(picture, **fields), "haze") == ""
    assert why_not(of_boxes(picture, oriented=True), name) == ""
    assert why_not(of_maps(picture), name) == ""


def test_windows_are_cut_out_of_the_moved_image_and_so_are_their_objects(picture: Path) -> None:
    whole = of_boxes(picture)
    windows = [
        dataclasses.replace(whole.records[0], id=f"w{x}", window_xyxy=(x, 0, x + 40, 60), size_hw=(60, 40))
        for x in (0, 40)
    ]
    cut = dataclasses.replace(whole, records=windows)
    for name in ("scale", "translation"):
        assert why_not(cut, name) == ""
        one, pieces = corrupted(whole, name, 4).sample(0, 0), corrupted(cut, name, 4)
        assert torch.equal(torch.cat([pieces.sample(i, 0).images[0] for i in (0, 1)], dim=2), one.images[0])
        assert np.array_equal(pieces.whole_records[0].objects.boxes_xyxy, one.objects.boxes_xyxy.numpy())
        for number, x in enumerate((0, 40)):
            expected = crop(one, (x, 0, x + 40, 60)).objects.boxes_xyxy
            assert torch.equal(pieces.sample(number, 0).objects.boxes_xyxy, expected)
            assert pieces.sample(number, 0).origin_xy == (x, 0)


def test_a_damaged_data_set_travels_to_workers(picture: Path) -> None:
    dataset = pickle.loads(pickle.dumps(corrupted(of_maps(picture), "haze", 1)))
    assert torch.equal(dataset.sample(0, 0).images[0], corrupted(of_maps(picture), "haze", 1).sample(0, 0).images[0])


def test_means_are_over_cells_and_leave_out_what_is_not_finite() -> None:
    cells = [
        {"corruption": "haze", "severity": 1, "value": 0.6},
        {"corruption": "haze", "severity": 2, "value": 0.2},
        {"corruption": "cloud", "severity": 1, "value": None},
        {"corruption": "cloud", "severity": 2, "value": 0.1},
    ]
    found = means(cells, 0.8)
    assert found["value"] == pytest.approx(0.3)
    assert found["drop"] == pytest.approx(0.5)
    assert found["relative_drop"] == pytest.approx(0.625)
    assert found["corruptions"]["haze"] == pytest.approx({"value": 0.4, "drop": 0.4, "relative_drop": 0.5})
    assert found["corruptions"]["cloud"]["value"] == pytest.approx(0.1)
    assert means([], 0.8) == {"value": None, "drop": None, "relative_drop": None, "corruptions": {}}
    assert means(cells, 0.0)["relative_drop"] is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A segmenter of single pixels, trained for a moment on scenes whose classes are colours."""
    tmp_path = tmp_path_factory.mktemp("pixels")
    return train(asked_for(tmp_path), tmp_path / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may write to."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def asked_for(tmp_path: Path) -> Run:
    """A run on a folder of scenes that is made here."""
    for split, seeds in (("train", range(4)), ("val", range(10, 13))):
        for kind in ("img_dir", "ann_dir"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for seed in seeds:
            scene = toy_pixels.scene(seed, (48, 64))
            image = Image.fromarray(scene.images[0].permute(1, 2, 0).numpy())
            image.save(tmp_path / "data" / "img_dir" / split / f"{seed}.png")
            labels = np.where(scene.label_map < 0, 255, scene.label_map).astype(np.uint8)
            Image.fromarray(labels).save(tmp_path / "data" / "ann_dir" / split / f"{seed}.png")
    coding = Coding(classes=("red", "green", "blue"))
    data = MapDataConfig(root=tmp_path / "data", split="train", coding=coding)
    measured = Eval(data=data.model_copy(update={"split": "val"}), metric=PixelsConfig())
    task = SegmentConfig(backbone=toy_pixels.CellsConfig(), head=toy_pixels.DotsConfig())
    return Run(task=task, data=data, evals={"val": measured}, steps=30, batch=2, optim={"lr": 0.05}, amp="off")


def test_a_run_is_measured_under_damage_and_goes_on_where_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    names, severities = ("haze", "rotation", "salt_and_pepper"), (1, 5)
    found = robustness(run, names, severities, say=said.append)
    assert found["metric"] == "mIoU"
    assert found["clean"] > 0.9
    values = {(cell["corruption"], cell["severity"]): cell["value"] for cell in found["cells"]}
    assert list(values) == [(name, severity) for name in names for severity in severities]
    assert values["salt_and_pepper", 5] < values["salt_and_pepper", 1] < found["clean"]
    assert values["rotation", 5] > 0.9  # single pixels do not mind, if their truth is turned with them
    assert found["mean"]["value"] == pytest.approx(np.mean(list(values.values())))
    assert found["left_out"] == {}
    assert len(said) == 7
    assert json.loads((run / "robustness.json").read_text()) == found

    (run / "robustness.json").unlink()
    asked: list[str] = []
    real = room.corrupted
    monkeypatch.setattr(
        room, "corrupted", lambda data, name, severity: asked.append(name) or real(data, name, severity)
    )
    (run / "robustness" / "val" / "haze.json").unlink()
    again = robustness(run, names, severities)
    assert again == found
    assert asked == ["haze", "haze"]
    more = robustness(run, names, (1, 2, 5))
    assert asked[2:] == list(names)
    assert [cell["severity"] for cell in more["cells"]] == [1, 2, 5] * 3


def test_other_weights_or_levels_are_measured_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robustness(run, ("haze",), (1,))
    kept = run / "robustness" / "val" / "haze.json"
    values = json.loads(kept.read_text())
    values["severities"]["1"]["numbers"]["mIoU"] = 0.123
    kept.write_text(json.dumps(values))
    assert robustness(run, ("haze",), (1,))["cells"][0]["value"] == 0.123
    monkeypatch.setattr(room, "_hash", lambda *_: "of other weights")
    assert robustness(run, ("haze",), (1,))["cells"][0]["value"] != 0.123


def test_the_command_prints_a_line_for_each_corruption(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(run, corruption=["haze", "scale"], severity=[1, 3])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run / "robustness.json")
    assert all(word in printed for word in ("haze", "scale", "all", "mIoU"))
    assert "%" in printed
    command(run / "model", corruption=["haze"], severity=[1], json=True)
    assert json.loads(capsys.readouterr().out)["cells"][0]["corruption"] == "haze"


def test_mistakes_are_told_before_anything_is_measured(run: Path) -> None:
    for wrong in ({"names": ("hase",)}, {"severities": (0,)}, {"names": ()}, {"evaluation": "test"}):
        with pytest.raises(UserError):
            robustness(run, **wrong)
    with pytest.raises(UserError, match="no number 'mIuO'"):
        robustness(run, ("haze",), (1,), metric="mIuO")
    assert robustness(run, ("haze",), (1,), metric="aAcc")["metric"] == "aAcc"
    shutil.rmtree(run / "model")
    with pytest.raises(UserError):
        robustness(run)
