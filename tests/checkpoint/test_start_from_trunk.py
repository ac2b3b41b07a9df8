"""A task that starts from another model of its kind: backbone, what fits of neck and head, classes by their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from vistruct.checkpoint import whole
from vistruct.checkpoint.class_rows import match_classes
from vistruct.checkpoint.load import MODEL_FORMAT
from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.checkpoint.whole import load_start
from vistruct.config import Part, Run
from vistruct.contracts import DataInfo
from vistruct.data.boxes import BoxDataConfig
from vistruct.engine.run import build
from vistruct.engine.run_dir import info_to_dict
from vistruct.errors import UserError
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.linear import LinearConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.oriented_roi import OrientedRoiConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.recipes import change, detect, segment
from vistruct.recipes.small import small_vit
from vistruct.samples import trees
from vistruct.samples.made_maps import levir_folder, loveda_folder
from vistruct.tasks.classify import ClassifyConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

THERE, HERE = ("plane", "Small-Vehicle", "ship"), ("harbor", "ship", "small vehicle", "plane")
FASTER = FasterRcnnConfig(roi=RoiConfig(size=2, width=16))


def pyramid(channels: int = 8) -> SimplePyramidConfig:
    return SimplePyramidConfig(channels=channels, strides=(8, 16, 32))


def detector(names: Sequence[str], *, head: Part = FASTER, seed: int = 0, **parts: Any) -> Any:
    config = DetectConfig(**({"backbone": small_vit(), "neck": pyramid(), "head": head} | parts))
    return built(config, names, seed)


def segmenter(names: Sequence[str], *, seed: int = 0, **parts: Any) -> Any:
    config = SegmentConfig(
        **({"backbone": small_vit(), "neck": pyramid(), "head": UperNetConfig(channels=8, bins=(1, 2))} | parts)
    )
    return built(config, names, seed)


def built(config: Any, names: Sequence[str], seed: int) -> Any:
    torch.manual_seed(seed)
    return config.build(DataInfo(class_names=tuple(names)), Path())


def ship(folder: Path, task: Any) -> Path:
    """A model directory as a finished run leaves it."""
    folder.mkdir(parents=True)
    digest = write_tensors(folder / "model.safetensors", task.state_dict())
    run = Run(task=task.config, data=BoxDataConfig(annotation=Path("x.json")), steps=1, batch=1)
    values = {
        "format": MODEL_FORMAT,
        "run": run.model_dump(mode="json"),
        "task": task.config.model_dump(mode="json"),
        "info": info_to_dict(DataInfo(class_names=task.class_names)),
        "sha256": digest,
        "stream": "main",
        "input": {},
        "licence": "CC BY 4.0",
    }
    (folder / "model.json").write_text(json.dumps(values))
    return folder


def refused(task: Any, source: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        load_start(task, source)
    return caught.value


def test_names_that_spell_alike_are_one_class_and_those_that_could_be_several_are_none():
    match = match_classes(("Ship", "tennis court", "Car", "new"), ("SHIP", "car", "tennis-court", "TENNIS_COURT", "x"))
    assert match.pairs == ((0, 0), (2, 1))
    assert (match.ambiguous, match.new) == (("tennis court",), ("new",))
    assert match.unused == ("tennis-court", "TENNIS_COURT", "x")
    exact = match_classes(("ship", "Ship", "a b", "a-b"), ("ship",))  # the same name goes first
    assert (exact.pairs, exact.ambiguous, exact.new) == (((0, 0),), ("Ship",), ("a b", "a-b"))


def test_a_detector_of_other_classes_begins_with_all_but_the_rows_of_new_classes(tmp_path):
    source = detector(THERE)
    folder = ship(tmp_path / "model", source)
    task = detector(HERE, seed=1)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    coverage = load_start(task, folder)
    own, there = task.state_dict(), source.state_dict()
    layers = tuple(f"head.roi.{layer}.{name}" for layer in ("deltas", "logits") for name in ("bias", "weight"))
    assert tuple(sorted(coverage.by_class)) == layers
    assert set(coverage.matched) == own.keys() - set(layers)
    assert all(torch.equal(own[name], there[name]) for name in coverage.matched)
    rows = {1: 2, 2: 1, 3: 0, 4: 3}  # ship, small vehicle, plane, background
    for name in ("weight", "bias"):
        logits, deltas = f"head.roi.logits.{name}", f"head.roi.deltas.{name}"
        for mine, theirs in rows.items():
            assert torch.equal(own[logits][mine], there[logits][theirs])
            if mine < 4:
                assert torch.equal(own[deltas][4 * mine : 4 * mine + 4], there[deltas][4 * theirs : 4 * theirs + 4])
        assert torch.equal(own[logits][0], before[logits][0])
        assert torch.equal(own[deltas][:4], before[deltas][:4])
    said = "\n".join(coverage.lines())
    assert "3 of 4 classes by their names: ship, small vehicle, plane" in said
    assert "1 class new, with random weights: harbor" in said
    assert coverage.licence == "CC BY 4.0"


@torch.no_grad()
def test_of_a_class_that_both_know_every_anchor_says_what_it_said(tmp_path):
    source = detector(THERE, head=RetinaConfig())
    torch.nn.init.normal_(source.head.classify.cls_logits.weight)
    task = detector(HERE, head=RetinaConfig(), seed=1)
    load_start(task, ship(tmp_path / "model", source))
    levels = [torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2), torch.randn(1, 8, 1, 1)]
    ours, theirs = task.head(levels), source.head(levels)
    assert_close(ours.logits[..., [3, 2, 1]], theirs.logits)
    assert_close(ours.deltas, theirs.deltas)


def test_the_same_classes_in_another_order_are_found_by_their_names(tmp_path):
    source = segmenter(("a", "b", "c"))
    task = segmenter(("c", "a", "b"), seed=1)
    coverage = load_start(task, ship(tmp_path / "model", source))
    assert torch.equal(task.head.conv_seg.weight, source.head.conv_seg.weight[[2, 0, 1]])
    assert not coverage.fresh


def test_described_alike_the_model_must_be_the_same_to_the_last_tensor(tmp_path):
    source = segmenter(("a", "b"))
    task = segmenter(("a", "b"), seed=1)
    folder = ship(tmp_path / "model", source)
    assert set(load_start(task, folder).matched) == set(task.state_dict())
    state = read_tensors(folder / "model.safetensors")
    state.pop("head.bottleneck.conv.weight")
    write_tensors(folder / "model.safetensors", state)
    assert "not those that model.json was written for" in refused(task, folder).what
    values = json.loads((folder / "model.json").read_text())
    values["sha256"] = write_tensors(folder / "model.safetensors", state)
    (folder / "model.json").write_text(json.dumps(values))
    for names in (("a", "b"), ("a", "b", "c")):  # of other classes too: a damaged model is no start
        assert "1 missing (head.bottleneck.conv.weight)" in refused(segmenter(names), folder).what


def test_what_has_another_size_stays_and_is_said_with_the_settings_that_differ(tmp_path):
    source = detector(THERE)
    folder = ship(tmp_path / "model", source)
    roi = RoiConfig(size=4, width=16)
    task = detector(HERE, head=FASTER.model_copy(update={"roi": roi, "nms_iou": 0.3}), seed=1)
    coverage = load_start(task, folder)
    assert coverage.fresh == ("head.roi.layers.fc6.bias", "head.roi.layers.fc6.weight")
    assert torch.equal(task.head.rpn.head.cls_logits.weight, source.head.rpn.head.cls_logits.weight)
    said = "\n".join(coverage.lines())
    assert "set otherwise there: head.roi.size=2 (here 4); head.nms_iou=0.5 (here 0.3)" in said
    total = len([name for name in task.state_dict() if name.startswith("head.")])
    assert f"head {total - 2} of {total}" in said


def test_a_norm_comes_only_behind_the_layer_that_it_was_learned_behind(tmp_path):
    folder = ship(tmp_path / "model", segmenter(("a", "b"), neck=pyramid(6)))
    coverage = load_start(segmenter(("a", "b"), seed=1), folder)
    assert {"head.bottleneck.conv.weight", "head.bottleneck.bn.weight"} <= set(coverage.fresh)
    assert {"head.fpn_bottleneck.conv.weight", "head.fpn_bottleneck.bn.running_mean"} <= set(coverage.matched)


def test_a_batch_norm_is_no_group_norm(tmp_path):
    folder = ship(tmp_path / "model", segmenter(("a", "b")))
    group = UperNetConfig(channels=8, bins=(1, 2), norm="group")
    coverage = load_start(segmenter(("a", "b"), head=group), folder)
    assert {"head.bottleneck.bn.bias", "head.bottleneck.bn.weight"} <= set(coverage.fresh)
    assert "head.bottleneck.bn.running_mean" in coverage.unexpected


def test_nothing_of_the_head_is_refused_with_the_way_to_its_backbone(tmp_path):
    folder = ship(tmp_path / "run/model", detector(THERE))
    error = refused(detector(HERE, head=RetinaConfig()), folder)
    kinds = "head.kind=faster_rcnn (here retina)"
    assert error.what == f"nothing of its head fits this one: set otherwise there: {kinds}"
    assert f"--backbone {folder}" in error.fix
    narrow = segmenter(("a", "b"), head=UperNetConfig(channels=4, bins=(1, 2)))
    error = refused(narrow, ship(tmp_path / "other/model", segmenter(("a", "b"))))
    assert "head.psp_modules.0.1.conv.weight is [8, 8, 1, 1] there and [4, 8, 1, 1] here" in error.what


def test_another_backbone_and_another_kind_of_task_are_refused(tmp_path):
    folder = ship(tmp_path / "model", detector(THERE))
    deeper = small_vit(depth=3)
    assert "of the backbone's" in refused(detector(HERE, backbone=deeper), folder).what
    error = refused(segmenter(("a", "b")), folder)
    assert error.what == "this is a model of kind detect, and the task is one of kind segment"
    assert "--backbone" in error.fix


def test_a_backbone_of_another_image_size_is_resized(tmp_path):
    folder = ship(tmp_path / "model", segmenter(("a", "b")))
    larger = small_vit().model_copy(update={"image_size": 128})
    coverage = load_start(segmenter(("a", "b"), backbone=larger), folder)
    assert coverage.resized == ("backbone.embeddings.position_embedding",)


@pytest.mark.parametrize("there", [FASTER, MaskRcnnConfig(box=FASTER, mask_width=8, mask_convs=1)])
def test_faster_and_mask_rcnn_begin_with_each_other(there, tmp_path):
    mask = MaskRcnnConfig(box=FASTER, mask_width=8, mask_convs=1)
    here = mask if isinstance(there, FasterRcnnConfig) else FASTER
    source, task = detector(THERE, head=there), detector(HERE, head=here, seed=1)
    coverage = load_start(task, ship(tmp_path / "model", source))
    boxes = [
        head.box if isinstance(config, MaskRcnnConfig) else head
        for head, config in ((task.head, here), (source.head, there))
    ]
    assert torch.equal(boxes[0].roi.layers.fc6.weight, boxes[1].roi.layers.fc6.weight)
    assert torch.equal(boxes[0].roi.logits.weight[-1], boxes[1].roi.logits.weight[-1])
    assert all("mask" in name or name.startswith("head.l") for name in coverage.fresh)


def test_a_classifier_and_a_probe_take_their_classes_along(tmp_path):
    def classifier(names: Sequence[str], seed: int) -> Any:
        return built(ClassifyConfig(backbone=small_vit(), head=PooledConfig(norm="batch")), names, seed)

    for make in (classifier, lambda names, seed: segmenter(names, seed=seed, neck=None, head=LinearConfig())):
        source = make(THERE, 0)
        task = make(HERE, 1)
        coverage = load_start(task, ship(tmp_path / str(make) / "model", source))
        assert torch.equal(task.head.classify.weight[1:], source.head.classify.weight[[2, 1, 0]])
        assert coverage.by_class == ("head.classify.bias", "head.classify.weight")


def test_an_oriented_detector_has_one_box_for_all_classes_and_it_comes_whole(tmp_path):
    head = OrientedRcnnConfig(roi=OrientedRoiConfig(size=2, width=16))
    source = detector(THERE, head=head)
    coverage = load_start(task := detector(HERE, head=head, seed=1), ship(tmp_path / "model", source))
    assert coverage.by_class == ("head.roi.logits.bias", "head.roi.logits.weight")
    assert torch.equal(task.head.roi.deltas.weight, source.head.roi.deltas.weight)


def test_the_recipes_describe_what_they_start_from(tmp_path):
    folder = ship(tmp_path / "model", detector(("crown",)))
    run = detect.recipe(data=trees().train, start=folder, steps=2, size=128, overlap=32, batch=2)
    task: Any = run.only.task
    assert (task.backbone, task.neck, task.head) == (small_vit(), pyramid(), FASTER)
    assert (run.only.start, run.optim.layer_decay) == (folder, 0.8)
    other: Any = detect.recipe(data=trees().train, start=folder, head="fcos", channels=16).only.task
    assert (other.backbone, other.neck.channels, other.head) == (small_vit(), 16, FcosConfig())
    maps = ship(tmp_path / "maps", segmenter(("a", "b")))
    for recipe, data in ((segment.recipe, loveda_folder()), (change.recipe, levir_folder())):
        task = recipe(data=data, split="train", start=maps).only.task
        assert (task.backbone, task.neck, task.head.kind, task.head.channels) == (small_vit(), pyramid(), "upernet", 8)


def test_a_run_starts_from_a_model_of_other_classes_and_says_so(tmp_path):
    folder = ship(tmp_path / "model", detector(("Tree", "crane")))
    run = detect.recipe(data=trees().train, start=folder, steps=2, size=128, overlap=32, batch=2)
    state = build(run, tmp_path / "run")
    (coverage,) = state.coverages()
    assert set(coverage.by_class) == {f"head.roi.{a}.{b}" for a in ("deltas", "logits") for b in ("bias", "weight")}
    assert "1 of 1 classes by their names: tree" in "\n".join(coverage.lines())


def test_a_run_that_has_not_finished_starts_its_own_classes_alone(tmp_path, monkeypatch):
    source = segmenter(("a", "b"))
    (tmp_path / "checkpoints/step_00000002").mkdir(parents=True)
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    noted = {"train": {"main": info_to_dict(DataInfo(class_names=("a", "b")))}, "evals": {}}
    (tmp_path / "data.json").write_text(json.dumps(noted))
    monkeypatch.setattr(whole, "newest_good", lambda root, say: root / "step_00000002")
    monkeypatch.setattr(whole, "read_weights", lambda folder: source.state_dict())
    task = segmenter(("a", "b"), seed=1)
    assert "has not finished" in "\n".join(load_start(task, tmp_path, "main").lines())
    assert torch.equal(task.head.conv_seg.weight, source.head.conv_seg.weight)
    error = refused(segmenter(("b", "a")), tmp_path)  # as many rows, and each would mean the other class
    assert "other classes" in error.what
    assert error.fix.startswith("finish it first: vistruct train")
