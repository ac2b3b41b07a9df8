from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from toy_engine import ToyDataset, ToyTask, ToyTaskConfig, collate
from whole_loss import task_loss

from vistruct.config import Lora, Trainable
from vistruct.engine.lora import merged_state
from vistruct.engine.trainable import apply_rules, set_train_mode
from vistruct.errors import UserError


@pytest.fixture
def task() -> ToyTask:
    torch.manual_seed(0)
    return ToyTask(ToyTaskConfig())


def moving(task: nn.Module) -> set[str]:
    return {name for name, p in task.named_parameters() if p.requires_grad}


def test_without_rules_everything_trains(task):
    plan = apply_rules(task, [])
    assert moving(task) == set(plan.lr_factors) == dict(task.named_parameters()).keys()
    assert plan.trainable == plan.total == sum(p.numel() for p in task.parameters())


def test_a_name_means_all_below_it_and_nothing_beside(task):
    apply_rules(task, [Trainable(pattern="backbone", mode="frozen")])
    assert moving(task) == {"head.weight", "head.bias", "scale"}


def test_the_last_rule_that_matches_holds(task):
    plan = apply_rules(
        task,
        [
            Trainable(pattern="*", mode="frozen"),
            Trainable(pattern="backbone.blocks", mode="full", lr_factor=0.1),
            Trainable(pattern="backbone.blocks.0", mode="frozen"),
            Trainable(pattern="*.bias", mode="full", lr_factor=3.0),
        ],
    )
    assert plan.lr_factors == {
        "backbone.embed.bias": 3.0,
        "backbone.blocks.0.bias": 3.0,
        "backbone.blocks.1.weight": 0.1,
        "backbone.blocks.1.bias": 3.0,
        "head.bias": 3.0,
    }
    assert moving(task) == set(plan.lr_factors)


def test_the_plan_counts_what_each_rule_holds(task):
    plan = apply_rules(task, [Trainable(pattern="head", mode="frozen"), Trainable(pattern="head.bias", mode="full")])
    everything, head, bias = plan.rules
    assert (head.trainable, head.frozen, bias.trainable, bias.frozen) == (0, 8, 1, 0)
    assert everything.trainable == plan.total - 9
    assert f"{plan.trainable:,} of {plan.total:,} parameters trainable" in plan.lines()[-1]


def test_a_rule_that_later_rules_cover_is_said_to_hold_nothing(task):
    plan = apply_rules(task, [Trainable(pattern="head", mode="frozen"), Trainable(pattern="head")])
    assert any("later rules" in line for line in plan.lines())


def test_a_pattern_that_matches_nothing_names_the_closest(task):
    with pytest.raises(UserError) as caught:
        apply_rules(task, [Trainable(pattern="backbone.block")])
    assert "backbone.blocks" in caught.value.fix


def test_freezing_everything_is_refused(task):
    with pytest.raises(UserError, match="nothing trains"):
        apply_rules(task, [Trainable(pattern="*", mode="frozen")])


def test_frozen_modules_are_in_eval_mode_and_the_rest_trains(task):
    plan = apply_rules(task, [Trainable(pattern="backbone", mode="frozen")])
    set_train_mode(task, plan)
    assert plan.frozen_modules == ("backbone",)
    assert not any(module.training for module in task.backbone.modules())
    assert task.training
    assert task.drop.training


def test_a_frozen_part_stays_in_training_mode_where_a_rule_says_so(task):
    rules = [Trainable(pattern="*", mode="frozen", train_mode=True), Trainable(pattern="backbone.blocks", mode="lora")]
    set_train_mode(task, apply_rules(task, rules))
    assert all(module.training for module in task.modules())
    with pytest.raises(ValidationError, match="said of what is frozen"):
        Trainable(pattern="*", train_mode=True)


def test_a_tied_tensor_obeys_the_last_rule_of_any_of_its_names():
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    model["c"] = nn.Linear(4, 4)
    plan = apply_rules(model, [Trainable(pattern="b", mode="frozen")])
    assert set(plan.lr_factors) == {"c.weight", "c.bias"}


def lora(pattern: str, rank: int = 2) -> Trainable:
    return Trainable(pattern=pattern, mode="lora", lora=Lora(rank=rank, alpha=8))


def test_lora_trains_adapters_of_the_matched_linear_layers_only(task):
    plan = apply_rules(task, [lora("backbone.blocks"), Trainable(pattern="head", mode="frozen")])
    trained = {n for n in plan.lr_factors if "lora_" in n}
    assert {n.split(".lora_")[0] for n in trained} == {"backbone.blocks.0", "backbone.blocks.1"}
    assert set(plan.lr_factors) - trained == {"backbone.embed.weight", "backbone.embed.bias", "scale"}
    assert plan.rules[1].trainable == 2 * (2 * 8 + 8 * 2)  # two layers, A and B of rank 2 and width 8
    assert moving(task) == set(plan.lr_factors)


def test_two_lora_rules_may_have_two_ranks(task):
    plan = apply_rules(task, [lora("backbone.blocks.0", 2), lora("backbone.blocks.1", 4)])
    sizes = {n: p.shape[0] for n, p in task.named_parameters() if "lora_A" in n}
    assert sorted(sizes.values()) == [2, 4]
    assert set(sizes) <= set(plan.lr_factors)


def test_lora_changes_nothing_before_the_first_step(task):
    batch = collate([ToyDataset().sample(i, i) for i in range(4)])
    before = task_loss(task.eval(), batch).total
    apply_rules(task, [lora("backbone")])
    assert torch.equal(task_loss(task.eval(), batch).total, before)


def test_merged_weights_without_adapters_answer_as_the_adapted_model(task):
    apply_rules(task, [lora("backbone")])
    with torch.no_grad():
        for name, p in task.named_parameters():
            if "lora_B" in name:
                p.normal_()
    plain = ToyTask(ToyTaskConfig())
    plain.load_state_dict(merged_state(task))
    batch = collate([ToyDataset().sample(i, i) for i in range(4)])
    adapted, merged = task_loss(task.eval(), batch).total, task_loss(plain.eval(), batch).total
    assert merged.item() == pytest.approx(adapted.item(), rel=1e-5)


def test_lora_where_there_is_no_linear_layer_is_refused(task):
    with pytest.raises(UserError, match="no linear layer"):
        apply_rules(task, [lora("scale")])
