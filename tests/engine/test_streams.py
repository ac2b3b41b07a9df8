"""Several streams over one backbone: the same gradient under any split, the same run after any end, each task alone."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import samples_by_step, train_in_ranks
from toy_engine import ToyBackboneConfig, ToyBatch, ToyDataConfig, ToyTaskConfig, toy_eval, toy_run

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Run, Stream, read_run, run_from_dict, run_to_yaml, with_values
from vistruct.data.loading.streams import streams_of, turns_before
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of, train
from vistruct.errors import UserError
from vistruct.recipes import detect, segment
from vistruct.recipes.small import small_vit

CALM = ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))


def two_toys(task: Any = CALM, **changes: Any) -> Run:
    """Two streams, of 24 and of 10 samples, and an evaluation of each."""
    run = toy_run(**{"eval_every": 5, "steps": 12, **changes})
    streams = {
        "near": Stream(task=task, data=ToyDataConfig(), batch=6),
        "far": Stream(task=task, data=ToyDataConfig(size=10), batch=12, weight=3.0),
    }
    evals = {name: toy_eval(losses=name == "far").model_copy(update={"task": name}) for name in streams}
    return run.model_copy(update={"streams": streams, "evals": changes.get("evals", evals)})


def boxes_and_fields() -> Run:
    """A detector and a segmenter on one small ViT; a batch of four of each."""
    boxes, fields = detect.tiny(), segment.tiny()
    vit = small_vit(stem="conv")
    streams = {
        name: Stream(
            task=run.only.task.model_copy(update={"backbone": vit}),
            data=run.only.data.model_copy(update={"augment": None} if name == "boxes" else {}),
            batch=4,
        )
        for name, run in (("boxes", boxes), ("fields", fields))
    }
    return boxes.model_copy(update={"streams": streams, "evals": {}, "clip_norm": None, "amp": "off"})


def gradients_after_a_step(run: Run, out_dir: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    state = build(run, out_dir)
    metrics = train_step(state, next(iter(loader_of(state))))
    return {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}, metrics


def norm(gradients: dict[str, torch.Tensor], prefix: str = "backbone.") -> float:
    return float(torch.stack([g.norm() for n, g in gradients.items() if n.startswith(prefix)]).norm())


def test_detection_beside_segmentation_has_the_same_gradient_however_the_step_is_split(tmp_path):
    run = boxes_and_fields()
    whole, metrics = gradients_after_a_step(run, tmp_path)
    for accumulate in (2, 4):
        split, again = gradients_after_a_step(run.model_copy(update={"accumulate": accumulate}), tmp_path)
        assert whole.keys() == split.keys()
        difference = {name: split[name] - gradient for name, gradient in whole.items()}
        assert norm(difference) < 2e-6 * norm(whole)  # of float32
        assert norm(difference, "tasks.") < 2e-6 * norm(whole, "tasks.")
        assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert {"boxes.loss_class", "boxes.loss_box", "fields.loss_pixels"} <= metrics.keys()


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_in_float64_a_split_changes_nothing(tmp_path, monkeypatch, accumulate):
    def doubled(batch: ToyBatch, _device: torch.device) -> ToyBatch:
        return replace(batch, images=batch.images.double(), counts=batch.counts.double(), poison=batch.poison.double())

    def gradients(run: Run) -> list[torch.Tensor]:
        state = build(run, tmp_path)
        state.model.double()
        train_step(state, next(iter(loader_of(state))))
        return [p.grad for p in state.model.parameters() if p.grad is not None]

    monkeypatch.setattr(ToyBatch, "to", doubled)
    run = two_toys(clip_norm=None)
    for one, other in zip(gradients(run), gradients(run.model_copy(update={"accumulate": accumulate})), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_neither_task_drowns_the_other(tmp_path):
    run = boxes_and_fields()
    together, _ = gradients_after_a_step(run, tmp_path)
    alone = {}
    for name in run.streams:  # the other's loss counts next to nothing
        streams = {n: s.model_copy(update={"weight": 1.0 if n == name else 1e-12}) for n, s in run.streams.items()}
        alone[name], _ = gradients_after_a_step(run.model_copy(update={"streams": streams}), tmp_path)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone["boxes"][name] + alone["fields"][name], rtol=1e-4, atol=1e-6)
    assert 0.1 < norm(alone["boxes"]) / norm(alone["fields"]) < 100


def test_weights_of_streams_and_terms_are_factors_on_the_loss(tmp_path):
    run = boxes_and_fields()
    _, plain = gradients_after_a_step(run, tmp_path)
    boxes = run.streams["boxes"].model_copy(update={"weight": 2.0, "loss_weights": {"box": 5.0}})
    _, weighed = gradients_after_a_step(run.model_copy(update={"streams": {**run.streams, "boxes": boxes}}), tmp_path)
    names = ("class", "box", "centerness")
    assert all(weighed[f"boxes.loss_{name}"] == pytest.approx(plain[f"boxes.loss_{name}"]) for name in names)
    terms = [factor * plain[f"boxes.loss_{name}"] for name, factor in zip(names, (2, 10, 2), strict=True)]
    assert weighed["loss"] == pytest.approx(sum(terms) + plain["fields.loss_pixels"], rel=1e-5)
    assert weighed["boxes.loss"] == pytest.approx(sum(terms), rel=1e-5)
    whole = boxes.model_copy(update={"loss_weights": {"box": 5.0, "*": 3.0}})
    _, tripled = gradients_after_a_step(run.model_copy(update={"streams": {**run.streams, "boxes": whole}}), tmp_path)
    assert tripled["boxes.loss"] == pytest.approx(3 * sum(terms), rel=1e-5)


def lines(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=["every", "one"])
def alone(request, tmp_path_factory) -> tuple[str, Path]:
    out_dir = tmp_path_factory.mktemp(request.param) / "run"
    assert train_in_ranks(1, two_toys(draw=request.param), out_dir) == [0]
    return request.param, out_dir


@pytest.mark.parametrize(("world", "parallel"), [(2, "ddp"), (3, "ddp"), (2, "fsdp"), (3, "fsdp")])
def test_several_processes_take_the_same_steps_as_one(tmp_path, alone, world, parallel):
    draw, reference = alone
    run = two_toys(draw=draw, parallel=parallel, accumulate=2 if world == 3 else 1)
    assert train_in_ranks(world, run, tmp_path / "run") == [0] * world
    seen = [samples_by_step(path, ranks) for path, ranks in ((reference, 1), (tmp_path / "run", world))]
    assert [sorted(ids) for ids in seen[0].values()] == [sorted(ids) for ids in seen[1].values()]
    for name in run.streams:
        one, several = (read_tensors(d / "model" / name / "model.safetensors") for d in (reference, tmp_path / "run"))
        assert one.keys() == several.keys()
        for key in one.keys() - {"seen"}:
            torch.testing.assert_close(several[key], one[key], rtol=1e-5, atol=1e-6)
    first, second = lines(reference), lines(tmp_path / "run")
    for metric in ("loss", "grad_norm"):
        assert [m[metric] for m in second] == pytest.approx([m[metric] for m in first], rel=1e-4)
    assert second[-1]["near/sum"] == pytest.approx(first[-1]["near/sum"], rel=1e-4)
    assert second[-1]["far/loss"] == pytest.approx(first[-1]["far/loss"], rel=1e-4)


def die_once(out_dir: Path, _rank: int, step: int, _metrics: dict[str, float]) -> None:
    if step == 7 and not (out_dir.parent / "died").exists():
        (out_dir.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("draw", ["every", "one"])
def test_a_kill_in_the_middle_of_an_epoch_changes_no_bit(tmp_path, draw):
    run = two_toys(task=ToyTaskConfig(), draw=draw, save_every=3, save_async=False)
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [-signal.SIGKILL]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [0]
    assert "resuming from step 6" in (tmp_path / "cut" / "train.log").read_text()
    assert samples_by_step(tmp_path / "cut", 1) == samples_by_step(tmp_path / "whole", 1)
    for part in ("model/near/model", "model/far/model", "backbone/backbone"):
        one, two = (read_tensors(tmp_path / name / f"{part}.safetensors") for name in ("whole", "cut"))
        assert all(torch.equal(one[key], two[key]) for key in one.keys() | two.keys()), part


def test_every_sample_of_a_stream_comes_once_in_each_of_its_epochs(tmp_path):
    run = two_toys(draw="one", steps=40, evals={})
    assert train_in_ranks(1, run, tmp_path / "run") == [0]
    seen: dict[str, list[str]] = {"near": [], "far": []}
    for step, ids in sorted(samples_by_step(tmp_path / "run", 1).items()):
        (name,) = streams_of(run, step - 1)
        seen[name] += ids
    for name, size in (("near", 24), ("far", 10)):
        for start in range(0, len(seen[name]) - size + 1, size):
            assert Counter(seen[name][start : start + size]) == Counter(f"s{i}" for i in range(size))


def test_a_drawn_stream_comes_as_often_as_its_weight_says():
    run = two_toys(draw="one", steps=4000)
    turns = turns_before(run, 4000)
    assert sum(turns.values()) == 4000
    assert turns["far"] / 4000 == pytest.approx(0.75, abs=0.03)  # 3 to 1; four standard deviations
    assert turns == Counter(streams_of(run, step)[0] for step in range(4000))
    assert turns_before(two_toys(), 9) == {"near": 9, "far": 9}


def test_a_stream_that_was_not_drawn_yet_is_no_part_without_a_gradient(tmp_path):
    out = train(two_toys(draw="one", steps=1, evals={}), tmp_path / "run")
    assert "had no gradient" not in (out / "train.log").read_text()


def test_each_task_is_left_alone_with_the_backbone_and_asked_by_its_own_evaluations(tmp_path):
    out = train(two_toys(), tmp_path / "run")
    backbone = read_tensors(out / "backbone" / "backbone.safetensors")
    for name in ("near", "far"):
        task, card = load_model(out, task=name)
        own = load_model(out / "model" / name)[0].state_dict()
        assert all(torch.equal(own[key], value) for key, value in task.state_dict().items())
        assert all(torch.equal(own[f"backbone.{key}"], value) for key, value in backbone.items())
        assert card.info.num_records == {"near": 24, "far": 10}[name]
    heads = [load_model(out, task=name)[0].head.weight for name in ("near", "far")]
    assert not torch.equal(*heads)
    with pytest.raises(UserError, match=r"several tasks: far, near") as caught:
        load_model(out)
    assert str(out / "model" / "far") in caught.value.fix
    data = json.loads((out / "data.json").read_text())
    assert {name: info["num_records"] for name, info in data["train"].items()} == {"near": 24, "far": 10}
    said = (out / "train.log").read_text()
    assert "each step learns from every stream: 6 of near, 12 of far (loss x 3)" in said


def test_a_run_starts_each_task_from_its_own_run_over_the_same_frozen_backbone(tmp_path):
    frozen = [{"pattern": "backbone", "mode": "frozen"}]
    first = train(toy_run(steps=3, task=CALM, trainable=frozen), tmp_path / "near")
    second = train(toy_run(steps=3, task=CALM, trainable=frozen, data=ToyDataConfig(size=10)), tmp_path / "far")
    other = train(toy_run(steps=3, task=CALM), tmp_path / "other")
    run = two_toys()

    def from_(near: Path, far: Path) -> Run:
        starts = {"near": near, "far": far}
        streams = {name: s.model_copy(update={"start": starts[name]}) for name, s in run.streams.items()}
        return run.model_copy(update={"streams": streams})

    state = build(from_(first, second), tmp_path / "joint")
    for name, source in (("near", first), ("far", second)):
        own = read_tensors(source / "model" / "model.safetensors")
        assert all(torch.equal(state.sources[name].task.state_dict()[key], value) for key, value in own.items())
    with pytest.raises(UserError, match="near and far start from different weights of backbone"):
        build(from_(first, other), tmp_path / "torn")


def test_one_stream_is_written_flat_and_several_by_name_and_both_are_read_back(tmp_path):
    for number, run in enumerate((toy_run(), two_toys(), boxes_and_fields())):
        file = tmp_path / f"{number}.yaml"
        file.write_text(run_to_yaml(run))
        assert read_run(file) == run
        assert ("streams:" in file.read_text()) == (number > 0)
    assert with_values(toy_run(), batch=4).only.batch == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["evals"]["near"].update(task=""), "evaluation 'near' is of no stream's task"),
        (lambda v: v["evals"]["near"].update(task="nearr"), "'nearr'"),
        (lambda v: v.update(batch=4), "'batch' beside streams"),
        (lambda v: v["streams"].update({"Far Away": v["streams"].pop("far")}), "a stream called 'Far Away'"),
    ],
)
def test_settings_of_streams_that_do_not_fit_are_refused_when_they_are_read(change, said):
    values = two_toys().model_dump(mode="json")
    change(values)
    with pytest.raises(UserError, match=said):
        run_from_dict(values)


def test_what_several_streams_must_agree_about_is_refused_by_name(tmp_path):
    run = two_toys()
    wider = CALM.model_copy(update={"backbone": ToyBackboneConfig(width=16, dropout=0.0)})
    for change, said in (
        ({"task": wider}, "one backbone, and width is 8 in near, 16 in far"),
        ({"loss_weights": {"brightnes": 2.0}}, "no term 'brightnes'"),
        ({"batch": 5}, "batch=5 does not divide"),
    ):
        streams = {**run.streams, "far": run.streams["far"].model_copy(update=change)}
        with pytest.raises(UserError, match=said):
            build(run.model_copy(update={"streams": streams, "accumulate": 2}), tmp_path)
    streams = {"train": run.streams["near"], "far": run.streams["far"]}
    with pytest.raises(UserError, match="cannot be called 'train'"):
        build(run.model_copy(update={"streams": streams, "evals": {}}), tmp_path)
