from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_engine import ToyBackbone

from vistruct.checkpoint.shards import write_shards
from vistruct.checkpoint.weights import load_backbone
from vistruct.contracts import BackboneTraits
from vistruct.errors import UserError


def backbone(seed: int = 0) -> ToyBackbone:
    torch.manual_seed(seed)
    return ToyBackbone(8, 0.0)


class Public(nn.Module):
    """A backbone that can read another layout and another image size."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(positions))
        self.block = nn.Linear(2, 2)

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(convert_keys=self.convert_keys, resize_state=self.resize_state)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k.removeprefix("vision."): v for k, v in state.items() if k.startswith("vision.")}

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        if len(state["position"]) == len(self.position):
            return state, []
        return state | {"position": state["position"][: len(self.position)]}, ["position"]


def refused(model: nn.Module, source: Path, **settings: bool) -> UserError:
    with pytest.raises(UserError) as caught:
        load_backbone(model, source, **settings)
    return caught.value


def test_a_safetensors_file_is_taken_whole(tmp_path):
    source, model = backbone(1), backbone(2)
    save_file(source.state_dict(), tmp_path / "x.safetensors")
    coverage = load_backbone(model, tmp_path / "x.safetensors")
    assert set(coverage.matched) == set(source.state_dict())
    assert (coverage.missing, coverage.unexpected, coverage.resized) == ((), (), ())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in source.state_dict().items())
    assert "6 of 6 tensors" in coverage.lines()[0]


def test_a_directory_of_shards_is_read_by_its_index(tmp_path):
    write_shards(tmp_path, backbone(1).state_dict(), max_bytes=100)
    save_file({"embed.weight": torch.zeros(1)}, tmp_path / "stray.safetensors")
    assert len(list(tmp_path.glob("model-*"))) > 1
    model = backbone(2)
    coverage = load_backbone(model, tmp_path)
    assert (len(coverage.matched), coverage.unexpected) == (6, ())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in backbone(1).state_dict().items())


def test_a_public_layout_is_converted_and_resized_and_all_of_it_is_said(tmp_path):
    state = {
        "vision.position": torch.arange(5.0),
        "vision.block.weight": torch.ones(2, 2),
        "vision.block.bias": torch.ones(2),
        "vision.head": torch.ones(1),
        "language.weight": torch.ones(1),
    }
    save_file(state, tmp_path / "x.safetensors")
    model = Public(3)
    coverage = load_backbone(model, tmp_path / "x.safetensors")
    assert coverage.resized == ("position",)
    assert coverage.unexpected == ("head",)
    assert model.position.tolist() == [0.0, 1.0, 2.0]
    text = "\n".join(coverage.lines())
    assert "1 resized: position" in text
    assert "1 not used: head" in text


def test_missing_tensors_are_refused_unless_allowed(tmp_path):
    state = backbone(1).state_dict()
    del state["blocks.1.bias"]
    save_file(state, tmp_path / "x.safetensors")
    assert "blocks.1.bias" in refused(backbone(), tmp_path / "x.safetensors").what
    coverage = load_backbone(backbone(), tmp_path / "x.safetensors", allow_missing=True)
    assert coverage.missing == ("blocks.1.bias",)


def test_another_shape_is_refused_with_both(tmp_path):
    save_file(ToyBackbone(4, 0.0).state_dict(), tmp_path / "x.safetensors")
    error = refused(backbone(), tmp_path / "x.safetensors", allow_missing=True)
    assert "[4] there and [8] here" in error.what


def test_nothing_in_common_is_refused_even_where_missing_is_allowed(tmp_path):
    save_file({"other": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "none of its 1 tensors" in refused(backbone(), tmp_path / "x.safetensors", allow_missing=True).what


def test_nan_among_the_weights_is_refused(tmp_path):
    state = backbone(1).state_dict()
    state["embed.bias"][0] = float("nan")
    save_file(state, tmp_path / "x.safetensors")
    assert "NaN or infinity in embed.bias" in refused(backbone(), tmp_path / "x.safetensors").what


@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_a_foreign_file_of_plain_tensors_is_read(tmp_path, wrap):
    state = dict(backbone(1).state_dict())
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "x.pth")
    assert len(load_backbone(backbone(2), tmp_path / "x.pth").matched) == 6


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    if how == "torch":
        torch.save({"embed.weight": Evil()}, "x.pth")
    else:
        Path("x.pth").write_bytes(pickle.dumps(Evil()))
    assert "could run code" in refused(backbone(), Path("x.pth")).what
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04"])
def test_a_damaged_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    assert "not read" in refused(backbone(), tmp_path / "x.pt").what


def test_places_without_weights_are_refused_by_what_they_are(tmp_path):
    assert "no such" in refused(backbone(), tmp_path / "nowhere").what
    assert "no safetensors file" in refused(backbone(), tmp_path).what
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    assert "has not finished" in refused(backbone(), tmp_path).what
