"""Streams that learn from the same samples, have their trunk in common, and go through the backbone together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks
from test_streams import boxes_and_fields, gradients_after_a_step, lines, norm

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Lora, Run, Stream, Trainable, read_run, run_from_dict, run_to_yaml
from vistruct.contracts import JointBatch
from vistruct.engine.run import build
from vistruct.engine.train import loader_of, train
from vistruct.errors import UserError
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.recipes import detect
from vistruct.recipes.small import small_vit
from vistruct.settings import with_settings

SMALL = FasterRcnnConfig(
    rpn=RpnConfig(proposals_train=32, proposals_test=32), roi=RoiConfig(width=16, samples=32), max_detections=20
)


def two_heads_on_two_sets(**changes: Any) -> Run:
    """`a` and `b` have data of their own and their trunk in common; `points` learns from the samples of `a`."""
    base = detect.tiny()
    task: Any = base.only.task.model_copy(update={"backbone": small_vit(stem="conv")})
    data: Any = base.only.data.model_copy(update={"augment": None})
    boxes = task.model_copy(update={"head": SMALL})
    other = data.model_copy(update={"fraction_seed": 5})
    streams = {
        "a": Stream(task=boxes, data=data, batch=4),
        "points": Stream(task=task, data=data, batch=4, samples="a"),
        "b": Stream(task=boxes, data=other, batch=2, trunk="a"),
    }
    same = {"evals": {}, "clip_norm": None, "amp": "off", "workers": 0, "steps": 3, "init": None}
    return base.model_copy(update={"streams": streams, **same, **changes})


def calls_of(module: torch.nn.Module) -> list[int]:
    """Grows by the images of each call."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def test_what_is_shown_alike_goes_through_the_backbone_once(tmp_path: Path) -> None:
    run = two_heads_on_two_sets()
    for one_pass, expected in ((False, [4, 2]), (True, [6])):
        state = build(run.model_copy(update={"one_pass": one_pass}), tmp_path)
        batches = next(iter(loader_of(state)))
        assert [isinstance(batch, JointBatch) for batch in batches] == ([True] if one_pass else [True, False])
        sizes = calls_of(state.model.backbone)
        for batch in batches:
            state.model(batch)
        assert sizes == expected
        (shared, *_) = batches
        assert [part.stream for part in shared.parts][:2] == ["a", "points"]
        assert shared.parts[0].ids == shared.parts[1].ids


def test_together_or_apart_the_gradient_is_the_same(tmp_path: Path) -> None:
    for run in (two_heads_on_two_sets(), boxes_and_fields()):  # of the second, images of different sizes
        apart, figures = gradients_after_a_step(run, tmp_path)
        for changes in ({"one_pass": True}, {"one_pass": True, "accumulate": 2}, {"accumulate": 2}):
            together, again = gradients_after_a_step(run.model_copy(update=changes), tmp_path)
            assert apart.keys() == together.keys()
            difference = {name: together[name] - gradient for name, gradient in apart.items()}
            if "a" in run.streams:  # proposals are drawn at random, in the order of the passes
                assert again["points.loss_class"] == pytest.approx(figures["points.loss_class"], rel=1e-5)
                continue
            assert norm(difference) < 3e-6 * norm(apart)
            assert again["loss"] == pytest.approx(figures["loss"], rel=1e-6)


def test_the_trunk_is_one_and_the_last_layers_are_two(tmp_path: Path) -> None:
    state = build(two_heads_on_two_sets(), tmp_path)
    a, b, points = (state.sources[name].task for name in ("a", "b", "points"))
    assert a.neck.levels is b.neck.levels
    assert a.neck.levels is not points.neck.levels
    assert a.head.rpn is b.head.rpn
    assert a.head.roi.layers is b.head.roi.layers
    assert a.head.roi.logits is not b.head.roi.logits
    assert a.head.roi.deltas is not b.head.roi.deltas
    numbers = [id(p) for group in state.optimizer.param_groups for p in group["params"]]
    assert len(numbers) == len(set(numbers))
    trained = {id(p) for p in state.model.parameters()}
    assert trained == set(numbers)


def test_what_is_left_are_models_of_their_own_that_agree_about_the_trunk(tmp_path: Path) -> None:
    run = two_heads_on_two_sets(trainable=(Trainable(pattern="backbone.*.qkv", mode="lora", lora=Lora(rank=2)),))
    out = train(run, tmp_path / "run")
    a, b, points = (read_tensors(out / "model" / name / "model.safetensors") for name in ("a", "b", "points"))
    for name, value in a.items():
        if name.startswith(("neck.", "head.rpn.", "head.roi.layers.", "backbone.")):
            assert torch.equal(value, b[name]), name
    assert all(torch.equal(value, points[name]) for name, value in a.items() if name.startswith("backbone."))
    assert not torch.equal(a["head.roi.deltas.weight"][:4], b["head.roi.deltas.weight"][:4])
    assert load_model(out / "model" / "b")[0].traits.prediction == "boxes"
    assert {"a.loss_class", "points.loss_class", "b.loss_class"} <= lines(out)[-1].keys()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_same_steps(tmp_path: Path, parallel: str) -> None:
    run = two_heads_on_two_sets(parallel=parallel, one_pass=True)
    streams = {name: run.streams[name] for name in ("points",)}
    task: Any = streams["points"].task
    data: Any = streams["points"].data
    streams = {  # nothing in them is drawn at random while a step is under way
        "a": Stream(task=task, data=data, batch=4),
        "same": Stream(task=task, data=data, batch=4, samples="a", trunk="a"),
        "b": Stream(task=task, data=data.model_copy(update={"fraction": 0.05}), batch=2, trunk="a"),
    }
    run = run.model_copy(update={"streams": streams, "evals": {}})
    assert train_in_ranks(1, run, tmp_path / "one") == [0]
    assert train_in_ranks(2, run, tmp_path / "two") == [0, 0]
    for name in run.streams:
        one, two = (read_tensors(tmp_path / d / "model" / name / "model.safetensors") for d in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
    assert [m["loss"] for m in lines(tmp_path / "two")] == pytest.approx(
        [m["loss"] for m in lines(tmp_path / "one")], rel=1e-4
    )


def test_a_run_file_says_samples_once(tmp_path: Path) -> None:
    run = two_heads_on_two_sets()
    text = run_to_yaml(run)
    (tmp_path / "run.yaml").write_text(text)
    assert read_run(tmp_path / "run.yaml") == run
    assert "data" not in run_to_yaml(run).partition("points:")[2].partition("b:")[0].partition("samples")[0]
    assert with_settings(run, ["streams.a.batch=6"]).streams["points"].batch == 6
    with pytest.raises(UserError, match="no setting"):
        with_settings(run, ["streams.points.batch=6"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streams.points.samples": "c"}, "no other stream"),
        ({"streams.b.trunk": "b"}, "no other stream"),
        ({"draw": "one"}, "one stream"),
        ({"streams.a.samples": "points"}, "has them from"),
        ({"streams.b.samples": "a"}, "differ from"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes: dict[str, Any], words: str) -> None:
    values = two_heads_on_two_sets().model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = values
        for one in parents:
            at = at[one]
        at[last] = value
    with pytest.raises(UserError, match=words):
        run_from_dict(values)


def test_a_trunk_of_other_parts_is_refused(tmp_path: Path) -> None:
    run = two_heads_on_two_sets()
    points = run.streams["points"].model_copy(update={"trunk": "a"})
    with pytest.raises(UserError, match="differs between the two tasks"):
        build(run.model_copy(update={"streams": {**run.streams, "points": points}}), tmp_path)


def test_two_starts_must_agree_about_the_trunk_that_they_share(tmp_path: Path) -> None:
    run = two_heads_on_two_sets(steps=2)
    streams = {"a": run.streams["a"], "b": run.streams["b"]}
    run = run.model_copy(update={"streams": streams})
    first = train(run, tmp_path / "first")
    told = {name: one.model_copy(update={"start": first / "model" / name}) for name, one in streams.items()}
    build(run.model_copy(update={"streams": told}), tmp_path / "agree")
    other = train(run.model_copy(update={"seed": 1, "init": first}), tmp_path / "other")
    told["b"] = streams["b"].model_copy(update={"start": other / "model" / "b"})
    with pytest.raises(UserError, match="a and b start from different weights of"):
        build(run.model_copy(update={"streams": told}), tmp_path / "differ")
