"""Self-distillation as a whole run: it goes on to the bit, leaves its teacher, and is held near to its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from several_processes import train_in_ranks

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import Run, Trainable, with_values
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.recipes import self_distill
from vistruct.samples.made_classes import eurosat_folder, texture


def tiny() -> Run:
    return self_distill.tiny().model_copy(update={"amp": "off", "steps": 4, "eval_every": None})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("self_distill") / "whole")


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(done: int, _metrics: dict[str, float]) -> None:
        if done == 3:
            raise Cut

    run = tiny().model_copy(update={"save_every": 2})
    with pytest.raises(Cut):
        train(run, tmp_path / "cut", on_step=cut)
    train(run, tmp_path / "cut")
    for name in ("backbone/backbone.safetensors", "model/model.safetensors"):
        assert sha256(whole / name) == sha256(tmp_path / "cut" / name)


def interrupt(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 3:
        raise UserError("interrupted")


def on_two_ranks(start: Path, workers: int) -> Run:
    """All that has a state of its own: teacher, shares, earlier class tokens, and an anchor that is read again."""
    run = going_on(start, 1.0, centring="sinkhorn", koleo=0.1)
    return run.model_copy(update={"steps": 5, "save_every": 2, "workers": workers})


@pytest.fixture(scope="module")
def two(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("self_distill_ranks") / "two"
    assert train_in_ranks(2, on_two_ranks(whole, 0), out_dir) == [0, 0]
    return out_dir


def test_two_ranks_take_the_steps_of_one(whole: Path, two: Path, tmp_path: Path) -> None:
    train(on_two_ranks(whole, 0), tmp_path / "one")
    one, other = (read_tensors(path / "model" / "model.safetensors") for path in (tmp_path / "one", two))
    assert (
        one.keys()
        == other.keys()
        > {"centre_class", "earlier.vectors", "start_spread", "teacher.class_head.prototypes"}
    )
    assert torch.equal(one["earlier.owners"], other["earlier.owners"])
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_two_ranks_that_was_cut_off_ends_with_the_same_bits(
    workers: int, whole: Path, two: Path, tmp_path: Path
) -> None:
    run = on_two_ranks(whole, workers)
    assert train_in_ranks(2, run, tmp_path / "cut", interrupt) == [2, 2]
    assert train_in_ranks(2, run, tmp_path / "cut") == [0, 0]
    for name in ("backbone/backbone.safetensors", "model/model.safetensors"):
        assert sha256(two / name) == sha256(tmp_path / "cut" / name)


def test_what_is_left_is_the_teacher(whole: Path) -> None:
    shipped = read_tensors(whole / "backbone" / "backbone.safetensors")
    model = read_tensors(whole / "model" / "model.safetensors")
    assert shipped
    for name, tensor in shipped.items():
        assert torch.equal(tensor, model[f"teacher.backbone.{name}"])
    assert any(not torch.equal(tensor, model[f"backbone.{name}"]) for name, tensor in shipped.items())


def going_on(start: Path, weight: float, **values: Any) -> Run:
    """A run that leaves its start in a few steps, unless it is held."""
    *learned, _ = sorted(path for path in eurosat_folder().rglob("*") if path.is_dir() and any(path.glob("*.jpg")))
    run = self_distill.recipe(
        data=tuple(learned), model="small", backbone=start, steps=8, size=32, local_size=16, batch=4, lr=3e-3,
        heads_first=2, anchor="none" if weight == 0 else "gram", anchor_weight=weight or 1.0, **values,
    )  # fmt: skip
    task: Any = run.only.task
    head = PrototypesConfig(hidden=32, bottleneck=16, number=24)
    free = tuple(one if one.mode == "lora" else Trainable(pattern="backbone") for one in run.trainable)
    changed = {"amp": "off", "trainable": free, "workers": 0, "task": task.model_copy(update={"head": head})}
    return with_values(run, **changed)


def features(path: Path, config: InternVitConfig) -> torch.Tensor:
    images = torch.stack([torch.from_numpy(texture(number % 4, 50 + number)) for number in range(12)])
    backbone = config.build().eval()
    load_backbone(backbone, path)
    with torch.no_grad():
        tokens = backbone.tokens((images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.22)
    return F.normalize(tokens.patches.flatten(0, 1), dim=1)


def test_an_anchor_keeps_what_the_start_said_of_other_images(whole: Path, tmp_path: Path) -> None:
    drift, config = {}, None
    for weight in (0.0, 10.0):
        run = going_on(whole, weight)
        # The student is asked: the teacher has hardly moved.
        out = train(run, tmp_path / f"{weight}")
        config = run.only.task.backbone  # ty: ignore[unresolved-attribute]
        student = {
            name.removeprefix("backbone."): tensor
            for name, tensor in read_tensors(out / "model" / "model.safetensors").items()
            if name.startswith("backbone.")
        }
        torch.save(student, tmp_path / f"{weight}.pth")
        before, after = features(whole, config), features(tmp_path / f"{weight}.pth", config)
        drift[weight] = float((before @ before.T - after @ after.T).square().mean())
    assert drift[10.0] < 0.5 * drift[0.0], drift
    held = read_tensors(tmp_path / "10.0" / "model" / "model.safetensors")
    assert not any(name.startswith("anchor") for name in held)


def test_adapters_learn_and_are_in_what_is_left(whole: Path, tmp_path: Path) -> None:
    out = train(going_on(whole, 1.0, lora_rank=2), tmp_path / "a")
    before = read_tensors(whole / "backbone" / "backbone.safetensors")
    after = read_tensors(out / "backbone" / "backbone.safetensors")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert after.keys() == before.keys()
    assert "encoder.layers.0.attn.qkv.weight" in changed
    assert not any("norm" in name or "embeddings" in name for name in changed)


def test_settings_from_random_weights_and_going_on(whole: Path) -> None:
    fresh = self_distill.recipe(data=(Path("images"),), koleo=0.1)
    task: Any = fresh.only.task
    assert (task.last_layer_first, task.koleo, fresh.only.loss_weights) == (1250, 1024, {"koleo": 0.1})
    assert (fresh.only.batch, fresh.steps, fresh.optim.lr, fresh.trainable) == (1024, 125_000, 2e-3, ())
    assert (task.heads_first, task.anchor, task.head.number) == (0, None, 8192)
    assert (fresh.optim.weight_decay, fresh.optim.final_weight_decay) == (0.04, 0.4)
    on = self_distill.recipe(data=(Path("images"),), backbone=whole)
    task = on.only.task
    assert (task.last_layer_first, task.koleo) == (0, 0)
    assert (on.steps, task.heads_first, task.anchor, task.anchor_by) == (10_000, 500, whole, "gram")
    assert on.trainable == (Trainable(pattern="backbone", lr_factor=0.05),)
    assert on.optim.final_weight_decay is None
    with pytest.raises(UserError, match="there are none"):
        self_distill.recipe(data=(Path("images"),), anchor="gram")
