from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_engine import ToyTask, ToyTaskConfig

from vistruct.config import AdamW, Trainable
from vistruct.contracts import BackboneTraits
from vistruct.engine.optim import build_optimizer, is_decayed, set_learning_rate, set_weight_decay
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError


@pytest.fixture
def task() -> ToyTask:
    return ToyTask(ToyTaskConfig())


def by_name(optimizer: torch.optim.Optimizer, what: str) -> dict[str, float]:
    return {name: group[what] for group in optimizer.param_groups for name in group["names"]}


def test_layer_decay_gives_the_factors_computed_by_hand(task):
    plan = apply_rules(task, [Trainable(pattern="head.bias", lr_factor=10.0)])
    optimizer = build_optimizer(task, AdamW(lr=0.1, layer_decay=0.5), plan)
    set_learning_rate(optimizer, 0.1)
    # Two blocks: the embedding is layer 0, the blocks 1 and 2, everything outside is layer 3.
    assert by_name(optimizer, "lr") == pytest.approx(
        {
            "backbone.embed.weight": 0.1 * 0.5**3,
            "backbone.embed.bias": 0.1 * 0.5**3,
            "backbone.blocks.0.weight": 0.1 * 0.5**2,
            "backbone.blocks.0.bias": 0.1 * 0.5**2,
            "backbone.blocks.1.weight": 0.1 * 0.5,
            "backbone.blocks.1.bias": 0.1 * 0.5,
            "head.weight": 0.1,
            "head.bias": 1.0,
            "scale": 0.1,
        }
    )


def test_only_matrices_are_decayed(task):
    optimizer = build_optimizer(task, AdamW(weight_decay=0.3), apply_rules(task, []))
    decay = by_name(optimizer, "weight_decay")
    assert {name for name, value in decay.items() if value == 0.3} == {
        "backbone.embed.weight",
        "backbone.blocks.0.weight",
        "backbone.blocks.1.weight",
        "head.weight",
    }
    assert {value for value in decay.values() if value != 0.3} == {0.0}
    set_weight_decay(optimizer, 0.5)
    risen = by_name(optimizer, "weight_decay")
    assert risen == {name: 0.5 if value else 0.0 for name, value in decay.items()}


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("backbone.embeddings.position_embedding", (1, 10, 8), False),
        ("backbone.embeddings.class_embedding", (1, 1, 8), False),
        ("vit.pos_embed", (1, 10, 8), False),
        ("x.bias", (4, 4), False),
        ("norm.weight", (8,), False),
        ("language.embed_tokens.weight", (100, 8), True),
        ("blocks.0.attn.qkv.weight", (24, 8), True),
        ("conv.weight", (8, 3, 3, 3), True),
    ],
)
def test_what_is_decayed(name, shape, decayed):
    assert is_decayed(name, torch.zeros(shape)) is decayed


def test_frozen_parameters_are_not_in_the_optimiser(task):
    optimizer = build_optimizer(task, AdamW(), apply_rules(task, [Trainable(pattern="backbone", mode="frozen")]))
    assert set(by_name(optimizer, "lr")) == {"head.weight", "head.bias", "scale"}


def test_each_parameter_is_in_one_group(task):
    optimizer = build_optimizer(task, AdamW(layer_decay=0.9), apply_rules(task, []))
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(dict(task.named_parameters()))


class Layerless(nn.Linear):
    traits = BackboneTraits()


def test_layer_decay_with_a_backbone_without_layers_is_refused():
    model = nn.ModuleDict({"backbone": Layerless(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(UserError, match="which layer"):
        build_optimizer(model, AdamW(layer_decay=0.5), apply_rules(model, []))


def test_one_step_equals_torchs_adamw_without_groups(task):
    ours = build_optimizer(task, AdamW(lr=0.1, weight_decay=0.0), apply_rules(task, []))
    other = ToyTask(ToyTaskConfig())
    other.load_state_dict(task.state_dict())
    theirs = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.0, fused=False)
    for model, optimizer in ((task, ours), (other, theirs)):
        generator = torch.Generator().manual_seed(1)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    for a, b in zip(task.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
