"""The detection head in ViSFT's files: taken whole or refused, its classes by their names, its traps named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from vistruct.checkpoint.visft_heads import NAMES, NUMBERS
from vistruct.checkpoint.whole import load_start
from vistruct.config import MAIN, Run, Stream
from vistruct.contracts import DataInfo, FeatureSpec
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.coco_names import COCO
from vistruct.errors import UserError
from vistruct.heads.detr import VISFT_DETR
from vistruct.heads.fcos import FcosConfig
from vistruct.recipes.small import small_vit
from vistruct.settings import with_settings
from vistruct.tasks.dense import DetectConfig

FOLDER = GOLDEN / "visft_lora"
DETECTION = FOLDER / "eva_e_detection_heads.ckpt"
SMALL = {"queries": 4, "encoder_width": 16, "decoder_width": 16, "heads": 4, "hidden": 8}
TOY = VISFT_DETR.model_copy(update={**SMALL, "encoder_layers": 1, "decoder_layers": 1})
SEVEN = tuple("abcdefg")


def detector(names: tuple[str, ...] = SEVEN, head: Any = TOY) -> Any:
    torch.manual_seed(0)
    config = DetectConfig(backbone=small_vit(), head=head)
    return config.build(DataInfo(class_names=names), Path())


def released() -> dict[str, Tensor]:
    return torch.load(DETECTION, weights_only=True)


def saved(folder: Path, values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(values, folder / "heads.ckpt")
    return folder / "heads.ckpt"


def test_the_published_head_comes_whole_and_the_backbone_stays(golden: Any) -> None:
    task, before = detector(), detector().backbone.state_dict()
    report = load_start(task, DETECTION)
    wanted = golden("visft_lora/expected_heads.safetensors").tensors
    back = task.head.to_published(task.head.state_dict())
    for name, value in back.items():
        rows = slice(0, 1) if name.endswith("task_embeddings_enc.weight") else slice(None)
        assert torch.equal(value[rows], wanted[name][rows]), name
    assert len(report.matched) == len(task.head.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in task.backbone.state_dict().items())
    assert any(name.startswith("visft_heads.caption_decoder.") for name in report.unexpected)
    said = "\n".join(report.lines())
    assert "the caption decoder in it is of another run, and not used" in said
    assert "it holds heads alone" in said
    assert f"({len(back)} of {len(back)})" in said or f"head {len(back)} of {len(back)}" in said


@pytest.mark.parametrize("layout", ["wrapped", "of several devices", "both"])
def test_a_wrapped_file_is_the_flat_one(layout: str, tmp_path: Path) -> None:
    state: Any = released()
    if layout != "wrapped":
        state = {f"module.{name}": value for name, value in state.items()}
    if layout != "of several devices":
        state = {"model": state, "optimizer": {"state": {}}, "current_epoch": 1, "config": {"a": "b"}}
    task, flat = detector(), detector()
    load_start(task, saved(tmp_path, state))
    load_start(flat, DETECTION)
    assert all(torch.equal(value, flat.state_dict()[name]) for name, value in task.state_dict().items())


def test_a_head_that_was_only_carried_along_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the detection head in it was never trained") as caught:
        load_start(detector(), FOLDER / "eva_e_caption_heads.ckpt")
    assert "eva_e_detection_heads.ckpt" in caught.value.fix
    fresh = VISFT_DETR.model_copy(update=TOY.model_dump())
    made = fresh.build((FeatureSpec(channels=32, stride=16),), 7)
    with pytest.raises(UserError, match="was never trained"):
        load_start(detector(), saved(tmp_path, made.to_published(made.state_dict())))
    captions = {name: value for name, value in released().items() if "caption" in name}
    with pytest.raises(UserError, match="no detection head in it, but caption"):
        load_start(detector(), saved(tmp_path / "captions", captions))


def test_what_the_head_lacks_is_an_error(tmp_path: Path) -> None:
    state = released()
    del state["visft_heads.bbox_embeds.layers.1.weight"]
    with pytest.raises(UserError, match="2 tensors of the head are not in it"):
        load_start(detector(), saved(tmp_path, state))


def test_settings_that_differ_are_named_and_the_fix_sets_them() -> None:
    other = TOY.model_copy(update={"queries": 9, "residual": False, "decoder_layers": 2})
    with pytest.raises(UserError, match=r"queries=4 \(here 9\).*layers=1 \(here 2\).*residual=true") as caught:
        load_start(detector(head=other), DETECTION)
    task, data = DetectConfig(backbone=small_vit(), head=other), BoxDataConfig(annotation=Path("a.json"))
    stream = Stream(task=task, data=data, batch=1)
    run = with_settings(Run(streams={MAIN: stream}, steps=1), caught.value.fix.replace("--set ", "").split())
    load_start(run.only.task.build(DataInfo(class_names=SEVEN), Path()), DETECTION)
    with pytest.raises(UserError, match="fcos begins with none of ViSFT's heads") as caught:
        load_start(detector(head=FcosConfig()), DETECTION)
    assert "--head detr" in caught.value.fix


def test_rows_by_cocos_numbers_go_to_classes_of_these_names(tmp_path: Path) -> None:
    state = released()
    rows = torch.arange(92.0)[:, None].expand(92, 16)
    state["visft_heads.class_embeds.weight"], state["visft_heads.class_embeds.bias"] = rows.clone(), rows[:, 0].clone()
    task = detector(("toothbrush", "Traffic-Light", "unicorn", "person"))
    fresh = task.head.classes.bias.detach().clone()
    report = load_start(task, saved(tmp_path, state))
    assert task.head.classes.bias.tolist() == [90, 10, float(fresh[2]), 1, 91]  # 91: no object
    assert report.by_class == ("head.classes.bias", "head.classes.weight")
    said = "\n".join(report.lines())
    assert "3 of 4 classes by their names" in said
    assert "1 class new, with random weights: unicorn" in said


def test_cocos_80_names_have_the_numbers_that_everybody_uses() -> None:
    known = {1: "person", 13: "stop sign", 18: "dog", 44: "bottle", 62: "chair", 67: "dining table", 90: "toothbrush"}
    assert len(NAMES) == len(set(NAMES)) == 80
    assert all(COCO[number] == name for number, name in known.items())
    assert sorted(set(range(1, 91)) - set(NUMBERS)) == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_another_number_of_classes_without_names_is_refused() -> None:
    with pytest.raises(UserError, match="another number of classes"):
        load_start(detector(SEVEN[:5]), DETECTION)


@pytest.mark.parametrize(("width", "size"), [(1408, "g"), (1792, "e")])
def test_the_published_size_has_the_published_names_and_shapes(width: int, size: str) -> None:
    said = json.loads((FOLDER / "heads_keys.json").read_text())
    theirs = {name: shape for name, shape in said["names"].items() if "segment" not in name and "caption" not in name}
    with torch.device("meta"):
        head = VISFT_DETR.build((FeatureSpec(channels=width, stride=14),), 91)
    own = {name: list(value.shape) for name, value in head.to_published(head.state_dict()).items()}
    theirs["visft_heads.input_proj.weight"][1] = width
    assert own | {"det_losses.empty_weight": [92]} == theirs
    unused = 255 * 128  # rows of other tasks, which this head does not keep
    num = sum(value.numel() for value in head.state_dict().values())
    assert num + unused + 92 == said["parameters"][size]["detection"]
