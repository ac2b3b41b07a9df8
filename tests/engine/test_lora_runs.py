"""Whole runs with adapters: what is shipped, what begins from it, what goes on after a cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models import register_model
from timm.models.eva import Eva
from torch.testing import assert_close
from toy_engine import ToyDataConfig, ToyTaskConfig, toy_run

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_rvsa import VitRvsaConfig
from vistruct.checkpoint.adapters import merge_adapters, read_adapters
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256
from vistruct.config import Lora, Run, Stream, Trainable, with_values
from vistruct.engine.lora import adapted_layers
from vistruct.engine.run import build
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import classify
from vistruct.recipes.small import small_vit

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@register_model
def toy_eva(pretrained: bool = False, **settings: Any) -> Eva:
    model = Eva(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, qkv_fused=True, global_pool="avg",
        num_classes=settings.get("num_classes", 10),
    )  # fmt: skip
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


BACKBONES = {
    "intern_vit": small_vit(),
    "vit": TimmConfig(name="test_vit"),
    "eva": TimmConfig(name="toy_eva"),
    "eva_vit": EvaVitConfig(width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=32),
    "vit_rvsa": VitRvsaConfig(
        width=32, depth=2, heads=2, patch=8, image_size=32, interval=2, out_indices=(1,), pyramid="none"
    ),
}


def run_of(backbone: Any, **changes: Any) -> Run:
    run = classify.tiny()
    task = run.only.task.model_copy(update={"backbone": backbone})
    optim = run.optim.model_copy(update={"lr": 3e-2})
    rules = (Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2, parts=("q", "v"))),)
    return with_values(run, task=task, evals={}, optim=optim, **{"trainable": rules} | changes)


def features(task: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(task.backbone.eval()(IMAGES))


@pytest.mark.parametrize("name", BACKBONES)
def test_what_was_trained_is_shipped_and_is_the_base_with_the_adapters(tmp_path, name):
    run = run_of(BACKBONES[name])
    out = train(run, tmp_path / "run")
    shipped, _ = load_model(out)
    trained: Any = build(run, tmp_path / "trained").model
    trained.load_state_dict(read_weights(steps(out / "checkpoints")[0]))
    expected = features(trained)
    assert len(adapted_layers(trained)) in (2, 6)
    assert_close(features(shipped), expected, rtol=1e-4, atol=2e-5)

    base = build(run, tmp_path / "base")
    assert (features(base.model)[0] - expected[0]).abs().max() > 2e-3
    added = build(run.model_copy(update={"adapters": out, "trainable": ()}), tmp_path / "added")
    assert_close(features(added.model), expected, rtol=1e-4, atol=2e-5)
    assert "were added into the weights" in "\n".join(added.coverages()[-1].lines())
    onward = build(run.model_copy(update={"adapters": out / "adapters"}), tmp_path / "onward")
    assert_close(features(onward.model), expected, rtol=1e-4, atol=2e-5)
    assert "train on, 0 were added" in "\n".join(onward.coverages()[-1].lines())


def test_a_run_from_adapters_says_so_and_leaves_none_where_it_trains_none(tmp_path):
    first = train(toy_run(steps=3, trainable=(Trainable(pattern="backbone.blocks", mode="lora"),)), tmp_path / "first")
    out = train(toy_run(steps=2, adapters=first), tmp_path / "second")
    log = (out / "train.log").read_text()
    assert f"adapters from {first}: 2 of 2" in log
    assert f"and the adapters of {first}" in (out / "model" / "README.md").read_text()
    assert not (out / "adapters").exists()
    assert json.loads((first / "adapters" / "adapter_config.json").read_text())["r"] == 8


def test_a_run_that_was_cut_off_ends_bit_identical_with_adapters(tmp_path):
    class Interrupted(Exception):
        pass

    def at(stop: int) -> Any:
        def on_step(step: int, _: dict[str, float]) -> None:
            if step == stop:
                raise Interrupted

        return on_step

    rule = Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2, dropout=0.3))
    run = toy_run(trainable=(rule,), snapshots=(3, 7, 12))  # the second is taken twice: the cut is before a checkpoint
    train(run, tmp_path / "whole")
    for step in (6, 11):
        with pytest.raises(Interrupted):
            train(run, tmp_path / "cut", on_step=at(step))
    train(run, tmp_path / "cut")
    kept = [f"adapters/step_{step:06d}/adapter_model.safetensors" for step in run.snapshots]
    for part in ("model/model.safetensors", "adapters/adapter_model.safetensors", *kept):
        assert sha256(tmp_path / "cut" / part) == sha256(tmp_path / "whole" / part)


def test_a_snapshot_is_what_a_run_that_ends_there_would_leave(tmp_path):
    rule = Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2))
    settings: dict[str, Any] = {"trainable": (rule,), "schedule": {"shape": "constant"}}
    out = train(toy_run(**settings, snapshots=(4,)), tmp_path / "long")
    short = train(toy_run(**settings, steps=4), tmp_path / "short")
    kept, ended = (read_adapters(path) for path in (out / "adapters" / "step_000004", short))
    assert kept.digest == ended.digest != read_adapters(out).digest
    assert kept.base == ended.base
    base: Any = build(toy_run(), tmp_path / "base").model
    merge_adapters(base, kept.source)
    shipped, _ = load_model(short)
    assert_close(dict(base.backbone.named_parameters()), dict(shipped.backbone.named_parameters()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainable": ()}, "no rule trains any"),
        ({"snapshots": (4, 4)}, "each once"),
        ({"snapshots": (13,)}, "from 1 to 12"),
    ],
)
def test_snapshots_of_nothing_are_refused(changes, said):
    settings: dict[str, Any] = {"trainable": (Trainable(pattern="backbone", mode="lora"),), "snapshots": (4,)} | changes
    with pytest.raises(UserError) as caught:
        toy_run(**settings)
    assert said in str(caught.value)


def test_adapters_are_never_added_twice_nor_to_other_weights(tmp_path):
    rule = Trainable(pattern="backbone", mode="lora")
    first = train(toy_run(steps=3, trainable=(rule,)), tmp_path / "first")
    for changes, said in (
        ({"start": first, "adapters": first}, "in the weights already"),
        ({"init": first, "adapters": first / "adapters"}, "in the weights already"),
        ({"seed": 1, "adapters": first}, "beside other weights"),
        ({"seed": 1, "adapters": first, "trainable": (rule,)}, "beside other weights"),
    ):
        with pytest.raises(UserError, match=said):
            build(toy_run(**changes), tmp_path / "refused")
    going_on = train(toy_run(steps=3, adapters=first, trainable=(rule,)), tmp_path / "second")
    known = json.loads((going_on / "model" / "model.json").read_text())["adapters"]
    assert [one["digest"] for one in known] == [read_adapters(path).digest for path in (first, going_on)]
    third = train(toy_run(steps=1, start=going_on), tmp_path / "third")  # all of it moves, and it is still known
    (first / "adapters" / "base.json").unlink()
    with pytest.raises(UserError, match="in the weights already"):
        build(toy_run(start=third, adapters=first), tmp_path / "refused")


def test_the_norm_of_the_gradient_is_said_of_the_stream_that_was_drawn(tmp_path):
    out = train(streams(draw="one"), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    own = [[name for name in ("near", "far") if f"{name}.grad_norm" in line] for line in lines]
    assert all(len(names) == 1 for names in own)
    assert {name for names in own for name in names} == {"near", "far"}
    for line, (name,) in zip(lines, own, strict=True):
        assert line[f"{name}.grad_norm"] == line["grad_norm"]
        assert f"{name}.loss" in line


def streams(**changes: Any) -> Run:
    run = toy_run(**changes)
    both = {
        name: Stream(task=ToyTaskConfig(), data=ToyDataConfig(size=size), batch=4)
        for name, size in (("near", 24), ("far", 10))
    }
    return run.model_copy(update={"streams": both})


@pytest.mark.parametrize("draw", ["every", "one"])
def test_tasks_over_one_adapted_backbone_are_each_shipped_with_it(tmp_path, draw):
    rules = (Trainable(pattern="tasks", mode="lora"), Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2)))
    run = streams(draw=draw, trainable=rules)
    out = train(run, tmp_path / "run")
    trained: Any = build(run, tmp_path / "again").model
    trained.load_state_dict(read_weights(steps(out / "checkpoints")[0]))
    images, backbones = torch.randn(5, 48), []
    for name in run.streams:
        shipped, _ = load_model(out, task=name)
        own = trained.tasks[name].eval()
        assert_close(shipped.head(shipped.backbone(images)), own.head(own.backbone(images)), rtol=1e-4, atol=1e-5)
        backbones.append(shipped.backbone.state_dict())
    assert all(torch.equal(value, backbones[1][key]) for key, value in backbones[0].items())
    kept = {key.split(".lora_")[0] for key in load_file(out / "adapters" / "adapter_model.safetensors")}
    assert kept == {
        f"base_model.model.{name}"
        for name in ("backbone.embed", "backbone.blocks.0", "backbone.blocks.1", "tasks.near.head", "tasks.far.head")
    }


def test_adapters_of_a_joint_run_are_merged_into_one_of_its_tasks(tmp_path):
    rules = (Trainable(pattern="tasks", mode="lora"), Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2)))
    out = train(streams(trainable=rules), tmp_path / "run")
    for name in ("near", "far"):
        shipped, _ = load_model(out, task=name)
        base: Any = build(streams(), tmp_path / f"base_{name}").model.tasks[name]
        merged = merge_adapters(base, out, name)
        assert sorted(merged.layers) == ["backbone.blocks.0", "backbone.blocks.1", "backbone.embed", "head"]
        assert_close(dict(base.named_parameters()), dict(shipped.named_parameters()), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="are of the tasks far, near, and the model is of another: main"):
        merge_adapters(base, out, "main")


def test_a_run_whose_adapters_have_no_share_in_the_loss_ends_with_an_error(tmp_path, monkeypatch):
    from toy_engine import ToyBackbone

    monkeypatch.setattr(ToyBackbone, "forward", lambda self, x: self.embed(x).detach())
    run = toy_run(steps=4, trainable=(Trainable(pattern="backbone", mode="lora"),))
    with pytest.raises(UserError, match="3 of 3 adapters"):
        train(run, tmp_path / "run")
    assert not (Path(tmp_path) / "run" / "model" / "model.json").exists()
