"""Models that lie spread over ranks, against the same ones in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import toy_vlm
from several_processes import in_ranks
from torch import Tensor, nn

from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.config import Lora, Trainable
from vistruct.contracts import StepOutput, TaskTraits
from vistruct.distributed.ranks import setup
from vistruct.distributed.shard import blocks_of, gathered, local, on_main, reach_all, shard
from vistruct.engine.evaluate import eval_mode
from vistruct.engine.lora import merged_state
from vistruct.engine.trainable import apply_rules


class Branches(nn.Module):
    """Two heads of which a batch may leave one out, a head that nothing uses, and blocks."""

    def __init__(self, *, has_blocks: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.has_blocks = has_blocks
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.left, self.right, self.never = nn.Linear(4, 1), nn.Linear(4, 5), nn.Linear(4, 1)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="toys", terms=("square",), repeated_blocks=tuple(self.blocks) if self.has_blocks else ()
        )

    def forward(self, batch: tuple[Tensor, str]) -> StepOutput:
        x, side = batch
        for block in self.blocks:
            x = x + block(x).tanh()
        head = self.left if side == "left" else self.right
        return StepOutput(terms={"square": head(x).square().sum()})

    def predict(self, batch: tuple[Tensor, str]) -> float:
        return float(self.forward(batch).terms["square"])


def batches(rank: int) -> list[tuple[Tensor, str]]:
    generator = torch.Generator().manual_seed(rank)
    sides = ["left", "right"] if rank == 0 else ["right", "right"]
    return [(torch.randn(2 + rank, 4, generator=generator), side) for side in sides]


def spread_branches(out: str, has_blocks: bool) -> None:
    ranks, task = setup(), Branches(has_blocks=has_blocks)
    shard(task, ranks.device, None)
    ours = next(iter(batches(ranks.rank)))
    # Before any training step, and not equally often on all ranks.
    with gathered(task):
        before = [task.predict(ours) for _ in range(ranks.rank)]
    assert all(isinstance(local(p), Tensor) and local(p).numel() < p.numel() for p in task.blocks.parameters())
    for batch in batches(ranks.rank):
        reach_all(task, task(batch).terms["square"]).backward()
    with gathered(task):
        after = [task.predict(ours) for _ in range(ranks.rank)]
    assert after == before
    alone = Branches()
    assert all(value == pytest.approx(alone.predict(ours)) for value in before)
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    kept = on_main(gradients)
    if ranks.is_main:
        write_tensors(Path(out), kept)
    else:
        assert not kept


@pytest.mark.parametrize("has_blocks", [True, False])
def test_gradients_are_sums_over_ranks_that_use_different_heads(tmp_path, has_blocks):
    assert in_ranks(2, spread_branches, str(tmp_path / "x"), has_blocks) == [0, 0]
    found = read_tensors(tmp_path / "x")
    task = Branches()
    for rank in range(2):
        for batch in batches(rank):
            task(batch).terms["square"].backward()
    for name, p in task.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


class Bare(nn.Module):
    """A block that takes the weight of its layer past the layer, as some attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.qkv.weight, self.qkv.bias).unflatten(-1, (3, 4)).sum(-2)


def adapted() -> Branches:
    task = Branches()
    task.blocks = nn.ModuleList(Bare() for _ in range(3))
    lora = Lora(rank=1, parts=("q", "v"))  # of rank 1: rows that some ranks do not have at all
    apply_rules(task, [Trainable(pattern="blocks", mode="lora", lora=lora), Trainable(pattern="left", mode="lora")])
    for block in task.blocks:
        nn.init.normal_(block.qkv.lora_B)
    return task


def spread_adapters(out: str) -> None:
    ranks, task = setup(), adapted()
    shard(task, ranks.device, None)
    for batch in batches(ranks.rank):
        reach_all(task, task(batch).terms["square"]).backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    kept = on_main(gradients) | {f"merged.{k}": v for k, v in merged_state(task, on_main(task.state_dict())).items()}
    if ranks.is_main:
        write_tensors(Path(out), kept)


def test_adapters_of_a_weight_that_is_read_are_spread_as_others_are(tmp_path):
    assert in_ranks(2, spread_adapters, str(tmp_path / "x")) == [0, 0]
    found, task = read_tensors(tmp_path / "x"), adapted()
    for rank in range(2):
        for batch in batches(rank):
            task(batch).terms["square"].backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    assert sum(".lora_" in name for name in gradients) == 8
    for name, value in gradients.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    for name, value in merged_state(task).items():
        torch.testing.assert_close(found[f"merged.{name}"], value)


def chats(rank: int) -> list[list[str]]:
    """Names of samples by micro-batch: the first rank sees no image in one of them."""
    return [["text"], ["two", "long"]] if rank == 0 else [["one", "many"], ["wide"]]


def chat_gradients(task: Any, rank: int) -> None:
    samples = {sample.id: sample for sample in toy_vlm.assorted()}
    for names in chats(rank):
        total = task(task.collator([samples[name] for name in names])).terms["answers"]
        reach_all(task, total).backward()


def spread_vlm(out: str) -> None:
    ranks, task = setup(), toy_vlm.build("paper", rows="packed")
    shard(task, ranks.device, None)
    chat_gradients(task, ranks.rank)
    with gathered(task), eval_mode(task):
        if ranks.is_main:  # alone, and for as many tokens as it likes
            answers = task.predict(task.traits.predict_collator(toy_vlm.assorted()[:2]))
            assert answers == toy_vlm.build().eval().predict(task.traits.predict_collator(toy_vlm.assorted()[:2]))
    kept = on_main({name: p.grad for name, p in task.named_parameters() if p.grad is not None})
    if ranks.is_main:
        write_tensors(Path(out), kept)


def test_blocks_are_found_at_any_depth_and_once_where_tasks_share_them():
    one, other, outer = [toy_vlm.build() for _ in range(2)], Branches(), nn.Module()
    outer.tasks = nn.ModuleDict({"one": one[0], "two": one[1], "other": other})
    outer.tasks["two"].backbone = outer.backbone = outer.tasks["one"].backbone
    found = blocks_of(outer)
    shared, languages = [*outer.backbone.encoder.layers], [part.language.get_decoder().layers for part in one]
    assert {id(block) for block in found} == {id(b) for b in (*shared, *languages[0], *languages[1], *other.blocks)}
    assert len(found) == 3 + 2 + 2 + 3
    assert blocks_of(nn.Linear(2, 2)) == []


def test_a_vision_language_model_has_the_gradients_of_one_process(tmp_path):
    assert len(blocks_of(toy_vlm.build())) == 3 + 2
    assert in_ranks(2, spread_vlm, str(tmp_path / "x")) == [0, 0]
    found, task = read_tensors(tmp_path / "x"), toy_vlm.build("paper", rows="packed")
    for rank in range(2):
        chat_gradients(task, rank)
    expected = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
