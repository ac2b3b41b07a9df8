"""The segmentation head in ViSFT's files: taken whole or refused, its aliases once, its classes by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from vistruct.checkpoint.visft_heads import NAMES
from vistruct.checkpoint.whole import load_start
from vistruct.config import MAIN, Run, Stream
from vistruct.contracts import DataInfo, FeatureSpec
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.heads.mask2former import VISFT_MASK2FORMER
from vistruct.heads.mask2former_maps import Mask2FormerMapsConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.recipes.small import small_vit
from vistruct.settings import with_settings
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

FOLDER = GOLDEN / "visft_lora"
FILE = FOLDER / "eva_e_segment_heads.ckpt"
SMALL = {"queries": 4, "width": 32, "heads": 4, "encoder_ffn": 8, "decoder_ffn": 8}
LAYERS = VISFT_MASK2FORMER.layers.model_copy(update={**SMALL, "encoder_layers": 1, "decoder_layers": 2})
TOY = VISFT_MASK2FORMER.model_copy(update={"layers": LAYERS})
FOUR = tuple("abcd")


def detector(names: tuple[str, ...] = FOUR, head: Any = TOY) -> Any:
    torch.manual_seed(0)
    return DetectConfig(backbone=small_vit(), head=head).build(DataInfo(class_names=names), Path())


def released() -> dict[str, Tensor]:
    return torch.load(FILE, weights_only=True)


def saved(folder: Path, values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(values, folder / "heads.ckpt")
    return folder / "heads.ckpt"


def test_the_published_head_comes_whole(golden: Any) -> None:
    task = detector()
    report = load_start(task, FILE)
    wanted = golden("visft_lora/expected_heads.safetensors").tensors
    back = task.head.traits.to_published(task.head.state_dict())
    for name, value in back.items():
        assert torch.equal(value, wanted[name.replace("sem_seg_head.", "visft_heads.segment_")]), name
    assert len(report.matched) == len(task.head.state_dict())
    assert not any("segment" in name for name in report.unexpected)
    assert any(name.startswith("visft_heads.caption_decoder.") for name in report.unexpected)


def test_it_begins_a_segmenter_too_and_a_wrapped_file_is_the_flat_one(tmp_path: Path) -> None:
    wrapped = {"model": {f"module.{name}": value for name, value in released().items()}, "optimizer": {}}
    config = SegmentConfig(backbone=small_vit(), head=Mask2FormerMapsConfig(layers=LAYERS))
    task, other = config.build(DataInfo(class_names=FOUR), Path()), detector()
    load_start(task, saved(tmp_path, wrapped))
    load_start(other, FILE)
    ours = other.head.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in task.head.state_dict().items())


def test_either_copy_is_enough_and_two_that_differ_are_a_question(tmp_path: Path) -> None:
    state = released()
    for word in ("segment_head.", "segment_p"):
        task = detector()
        rest = {name: value for name, value in state.items() if f"visft_heads.{word}" not in name}
        assert len(load_start(task, saved(tmp_path / word, rest)).matched) == len(task.head.state_dict())
    name = "visft_heads.segment_head.predictor.query_feat.weight"
    state[name] = state[name] + 1
    with pytest.raises(UserError, match=r"query_feat.weight .* differ here") as caught:
        load_start(detector(), saved(tmp_path, state))
    assert "visft_heads.segment_head." in caught.value.fix


def test_classes_counted_from_1_go_to_classes_of_these_names(tmp_path: Path) -> None:
    state = released()
    rows = torch.arange(81.0)[:, None].expand(81, 32)
    for front in ("segment_predictor", "segment_head.predictor"):
        state[f"visft_heads.{front}.class_embed.weight"] = rows.clone()
        state[f"visft_heads.{front}.class_embed.bias"] = rows[:, 0].clone()
    task = detector(("toothbrush", "hair drier", "person", "unicorn"))
    layer = task.head.queries.predictor.class_embed
    fresh = layer.bias.detach().clone()
    report = load_start(task, saved(tmp_path, state))
    assert NAMES.index("hair drier") + 1 == 79
    assert layer.bias.tolist() == [float(fresh[0]), 79, 1, float(fresh[3]), 80]  # 80: no object
    said = "\n".join(report.lines())
    assert "toothbrush was learned as no object and has no row" in said
    assert "2 of 4 classes by their names" in said
    assert "2 classes new, with random weights: toothbrush, unicorn" in said


def test_settings_that_differ_are_named_and_the_fix_sets_them() -> None:
    other = TOY.model_copy(update={"layers": LAYERS.model_copy(update={"queries": 9, "levels": 3})})
    with pytest.raises(UserError, match=r"queries=4 \(here 9\), levels=1 \(here 3\)") as caught:
        load_start(detector(head=other), FILE)
    data = BoxDataConfig(annotation=Path("a.json"))
    stream = Stream(task=DetectConfig(backbone=small_vit(), head=other), data=data, batch=1)
    run = with_settings(Run(streams={MAIN: stream}, steps=1), caught.value.fix.replace("--set ", "").split())
    load_start(run.only.task.build(DataInfo(class_names=FOUR), Path()), FILE)


def test_a_pyramid_before_the_head_is_refused() -> None:
    config = DetectConfig(backbone=small_vit(), neck=SimplePyramidConfig(channels=32, strides=(8, 16)), head=TOY)
    task = config.build(DataInfo(class_names=FOUR), Path())
    with pytest.raises(UserError, match="the map of the backbone itself") as caught:
        load_start(task, FILE)
    assert caught.value.fix == "--set task.neck=null"


def test_a_file_of_another_head_is_refused() -> None:
    with pytest.raises(UserError, match="no segment head in it") as caught:
        load_start(detector(), FOLDER / "eva_e_detection_heads.ckpt")
    assert "eva_e_segment_heads.ckpt" in caught.value.fix


@pytest.mark.parametrize(("width", "size"), [(1408, "g"), (1792, "e")])
def test_the_published_size_has_the_published_names_and_shapes(width: int, size: str) -> None:
    said = json.loads((FOLDER / "heads_keys.json").read_text())
    theirs = {name: shape for name, shape in said["names"].items() if "heads.segment_p" in name}
    for name in ("input_proj.0.0", "adapter_1"):
        theirs[f"visft_heads.segment_pixel_decoder.{name}.weight"][1] = width
    with torch.device("meta"):
        head = VISFT_MASK2FORMER.build((FeatureSpec(channels=width, stride=14),), 80)
    back = head.traits.to_published(head.state_dict())
    own = {name.replace("sem_seg_head.", "visft_heads.segment_"): list(value.shape) for name, value in back.items()}
    assert own == theirs
    assert sum(value.numel() for value in back.values()) == said["parameters"][size]["segment"]
