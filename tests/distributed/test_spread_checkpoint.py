"""What some ranks write, other ranks read to the bit, spread (FSDP) or whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from several_processes import in_ranks
from torch import Tensor, nn

from vistruct.checkpoint.manifest import read_manifest
from vistruct.checkpoint.pieces import named_tensors
from vistruct.checkpoint.restore import read_weights, restore
from vistruct.checkpoint.save import fault, newest_good
from vistruct.checkpoint.saver import Saver
from vistruct.contracts import TaskTraits
from vistruct.distributed.ranks import setup
from vistruct.distributed.shard import is_sharded, local, on_main, shard
from vistruct.errors import UserError

SHARD = "shard_00001-of-00004.safetensors"


class Odd(nn.Module):
    """Rows that no number of ranks divides, a single row, a tied weight, a frozen one, a vector, buffers, a number."""

    steps: Tensor
    uneven = ""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.last = nn.Linear(7, 1)
        self.frozen = nn.Linear(1, 3).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("place", torch.arange(3.0), persistent=False)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="toys", terms=("square",), repeated_blocks=tuple(self.layers), uneven_calls=self.uneven
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.frozen(self.last(self.head(x))).square().sum()

    def predict(self, ids: Tensor) -> Tensor:
        return self.forward(ids)


def make(seed: int, parallel: str) -> tuple[Odd, torch.optim.AdamW]:
    torch.manual_seed(seed)
    ranks, model = setup(), Odd()
    if parallel == "fsdp" and ranks.world > 1:
        shard(model, ranks.device, None)
        assert is_sharded(model)
        assert local(model.head.weight).numel() < 35
        assert model.head.weight is model.embed.weight
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    group: dict[str, Any] = {"params": list(named.values()), "names": list(named)}
    return model, torch.optim.AdamW([group], lr=0.1, fused=True)


def everything(model: Odd, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    return {name: t.contiguous().clone() for name, t in on_main(named_tensors(model, optimizer)[0]).items()}


def write(root: str, parallel: str) -> None:
    model, optimizer = make(0, parallel)
    with Saver(Path(root), keep=2, parallel=parallel) as saver:
        for step in (1, 2):
            optimizer.zero_grad()
            model(torch.arange(7) % (2 + step)).backward()
            optimizer.step()
            model.steps += 1
            saver.save(step, model, optimizer)
    found = everything(model, optimizer)
    if setup().is_main:
        save_file(found, f"{root}.expected")


def read(root: str, parallel: str) -> None:
    model, optimizer = make(1, parallel)
    path = newest_good(Path(root), print)
    assert path is not None
    assert restore(path, model=model, optimizer=optimizer) == 2
    assert int(model.steps) == 2
    found = everything(model, optimizer)
    if setup().is_main:
        expected = load_file(f"{root}.expected")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert model.head.weight is model.embed.weight
    optimizer.zero_grad()
    model(torch.arange(7)).backward()
    optimizer.step()  # takes the state as its own


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def saved(request, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp(request.param) / "checkpoints"
    assert in_ranks(4, write, str(root), request.param) == [0] * 4
    return root


@pytest.mark.parametrize(("world", "parallel"), [(4, "fsdp"), (2, "fsdp"), (2, "ddp"), (1, "ddp")])
def test_other_ranks_read_the_same_bits(saved, world, parallel):
    assert in_ranks(world, read, str(saved), parallel) == [0] * world


def test_every_rank_has_written_its_share(saved):
    manifest = read_manifest(saved / "step_00000002")
    sizes = [size for size, _ in manifest.files.values()]
    assert len(sizes) == 4
    written = [load_file(saved / "step_00000002" / name) for name in sorted(manifest.files)]
    numbers = [sum(t.numel() for t in part.values()) for part in written]
    assert max(numbers) < 0.45 * sum(numbers)  # tensors of one row are all in the first where they are spread
    assert "model/head.weight" not in {name for part in written for name in part}  # tied, and written once
    weights = read_weights(saved / "step_00000002")
    assert torch.equal(weights["head.weight"], weights["embed.weight"])
    assert "place" not in weights


def test_a_flipped_byte_is_found_by_whichever_rank_reads_it(saved, tmp_path):
    file = saved / "step_00000002" / SHARD
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    whole = file.read_bytes()
    try:
        file.write_bytes(data)
        assert fault(saved / "step_00000002") == f"{SHARD} has changed since it was written"
        assert in_ranks(2, fall_back, str(saved)) == [0, 0]
    finally:
        file.write_bytes(whole)


def fall_back(root: str) -> None:
    setup()
    said: list[str] = []
    found = newest_good(Path(root), said.append)
    assert found is not None
    assert found.name == "step_00000001"
    assert SHARD in said[0]


def refuse(root: str) -> None:
    ranks = setup()
    model = Odd()
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UserError, match="scale is a single number"):
        shard(model, ranks.device, None)
    model = Odd()
    model.uneven = "it loops"
    with pytest.raises(UserError, match="it loops; devices would wait"):
        shard(nn.ModuleDict({"one": model}), ranks.device, None)


def test_a_model_that_cannot_be_cut_is_refused_by_name(tmp_path):
    assert in_ranks(2, refuse, str(tmp_path)) == [0, 0]
