from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vistruct.checkpoint.load import load_exactly
from vistruct.checkpoint.manifest import read_manifest
from vistruct.checkpoint.restore import read_weights, restore
from vistruct.checkpoint.save import newest_good, steps, sweep
from vistruct.checkpoint.saver import save
from vistruct.checkpoint.tensors import read_tensors, sha256, write_tensors
from vistruct.errors import UserError


def make(seed: int = 0) -> tuple[nn.Sequential, torch.optim.AdamW]:
    """A model with a buffer and a tied weight, and an optimiser that has taken two steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    names = dict(model.named_parameters())
    group = {"params": list(names.values()), "names": list(names)}
    optimizer = torch.optim.AdamW([group], lr=0.1, fused=True)
    for _ in range(2):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def write(root: Path, step: int, keep: int = 2, seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    model, optimizer = make(seed)
    save(root, step=step, model=model, optimizer=optimizer, keep=keep)
    return model, optimizer


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def never(text: str) -> None:
    raise AssertionError(text)


def test_what_was_saved_comes_back_bit_by_bit_optimiser_and_buffers_included(tmp_path):
    model, optimizer = write(tmp_path, 7)
    other, fresh = make(seed=1)
    assert restore(tmp_path / "step_00000007", model=other, optimizer=fresh) == 7
    assert other.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(other.state_dict()[k], v) for k, v in model.state_dict().items())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for what, value in optimizer.state[p].items():
            assert torch.equal(fresh.state[q][what], value)
    for m, o in ((model, optimizer), (other, fresh)):
        o.zero_grad()
        m(torch.ones(8, 4)).square().sum().backward()
        o.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_tied_weights_of_a_checkpoint_stay_tied(tmp_path):
    write(tmp_path, 1)
    assert "model/2.weight" not in read_manifest(tmp_path / "step_00000001").tensors
    other, fresh = make(seed=1)
    restore(tmp_path / "step_00000001", model=other, optimizer=fresh)
    assert other[0].weight is other[2].weight
    weights = read_weights(tmp_path / "step_00000001")
    assert weights["2.weight"] is weights["0.weight"]


def test_tied_weights_are_written_once_and_come_back_under_both_names(tmp_path):
    model, _ = make()
    write_tensors(tmp_path / "x.safetensors", model.state_dict())
    tensors = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["0.weight"], tensors["2.weight"])
    untied = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_tensors(tmp_path / "y.safetensors", untied)
    assert (tmp_path / "x.safetensors").stat().st_size < (tmp_path / "y.safetensors").stat().st_size


def test_views_and_strides_survive(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"part": whole[1:3], "turned": whole.T, "empty": torch.zeros(0, 3), "scalar": torch.tensor(3.0)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_equal_tensors_give_equal_files(tmp_path):
    model, _ = make()
    assert len({write_tensors(tmp_path / f"{i}", model.state_dict()) for i in range(4)}) == 1


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert names(tmp_path) == ["step_00000002", "step_00000010"]
    assert newest_good(tmp_path, never) == tmp_path / "step_00000010"


def test_no_checkpoint_is_not_an_error(tmp_path):
    assert newest_good(tmp_path / "nothing", never) is None


SHARD = "shard_00000-of-00001.safetensors"


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path / SHARD),
        lambda path: flip(path / SHARD, 20),
        lambda path: (path / SHARD).write_bytes(b""),
        lambda path: (path / SHARD).unlink(),
        lambda path: (path / "manifest.json").write_text('{"format": 2, "sh'),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: replace(path / "manifest.json", '"step": 2', '"step": 3'),
        lambda path: replace(path / "manifest.json", '"format": 3', '"format": 2'),
        lambda path: (path / "manifest.json").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path, damage):
    write(tmp_path, 1)
    write(tmp_path, 2)
    damage(tmp_path / "step_00000002")
    said: list[str] = []
    assert newest_good(tmp_path, said.append) == tmp_path / "step_00000001"
    assert "step_00000002 is damaged" in said[0]


def test_when_none_is_intact_the_run_does_not_silently_start_over(tmp_path):
    write(tmp_path, 1)
    flip(tmp_path / "step_00000001" / SHARD)
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        newest_good(tmp_path, [].append)


def test_a_damaged_newer_checkpoint_never_evicts_a_good_one(tmp_path):
    write(tmp_path, 1, keep=1)
    write(tmp_path, 5, keep=5)
    flip(tmp_path / "step_00000005" / SHARD)
    write(tmp_path, 2, keep=1)  # the run went back to 1 and took a step
    assert newest_good(tmp_path, [].append) == tmp_path / "step_00000002"


def test_a_damaged_checkpoint_is_replaced_when_the_run_gets_there_again(tmp_path):
    write(tmp_path, 5)
    flip(tmp_path / "step_00000005" / SHARD)
    write(tmp_path, 5)
    assert newest_good(tmp_path, never) == tmp_path / "step_00000005"
    assert names(tmp_path) == ["step_00000005"]


def test_what_a_cut_short_save_left_is_swept(tmp_path):
    write(tmp_path, 1)
    partial = tmp_path / ".partial-step_00000002"
    partial.mkdir()
    (partial / SHARD).write_bytes(b"half")
    assert newest_good(tmp_path, never) == tmp_path / "step_00000001"
    assert sweep(tmp_path) == [".partial-step_00000002"]
    assert names(tmp_path) == ["step_00000001"]


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vistruct.checkpoint.tensors.save_file", full)
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path, 2)
    assert names(tmp_path) == ["step_00000001"]
    assert newest_good(tmp_path, never) == tmp_path / "step_00000001"


def test_checkpoints_hold_no_pickle(tmp_path):
    write(tmp_path, 1)
    assert names(tmp_path / "step_00000001") == ["manifest.json", SHARD]
    values = json.loads((tmp_path / "step_00000001" / "manifest.json").read_text())
    shard = tmp_path / "step_00000001" / SHARD
    assert values["files"] == {SHARD: {"bytes": shard.stat().st_size, "sha256": sha256(shard)}}
    first = {"dtype": "float32", "shape": [4, 4], "pieces": [{"file": SHARD, "offset": 0}]}
    assert values["tensors"]["model/0.weight"] == values["tensors"]["optimizer/0.weight/exp_avg"] == first
    assert values["aliases"] == {"model/2.weight": "model/0.weight"}


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    write(tmp_path, 1)
    other = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(UserError) as caught:
        load_exactly(other, read_weights(tmp_path / "step_00000001"), tmp_path)
    assert "1 missing (2.bias)" in caught.value.what
    assert "1 of another shape (2.weight)" in caught.value.what


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_tensors(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "y.safetensors")


def test_steps_are_ordered_by_number(tmp_path):
    for step in (9, 100, 123456789):
        (tmp_path / f"step_{step:08d}").mkdir()
    (tmp_path / "step_final").mkdir()
    assert [path.name for path in steps(tmp_path)] == ["step_123456789", "step_00000100", "step_00000009"]
