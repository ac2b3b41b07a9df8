"""Parts of a task that start from files of their own, under whichever names these have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_engine import toy_run

from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.parts import load_parts
from vistruct.engine.run import build, started_from
from vistruct.errors import UserError
from vistruct.vlm.projector import Projector

PUBLISHED = GOLDEN / "vtplug_towers/weights.safetensors"


def task() -> nn.ModuleDict:
    """A projector, and a tower of the published stages."""
    options = {"depths": (1, 1, 2, 1), "dims": (6, 8, 10, 12)}
    parts = {
        "projector": Projector(24, 48, norm=False),
        "tower": TimmConfig(name="convnext_large", options=options).build(),
    }
    return nn.ModuleDict({"pointing": nn.ModuleDict(parts)})


def test_projector_and_tower_are_found_in_the_file_of_a_whole_model(golden) -> None:
    model = task()
    report = load_parts(model, {"pointing.projector": PUBLISHED, "pointing.tower": PUBLISHED}, None)
    theirs = load_file(PUBLISHED)
    for at in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(model["pointing"]["projector"].state_dict()[at], theirs[f"projector.model.{at}"])
    io = golden("vtplug_towers/io.safetensors")
    with torch.no_grad():
        maps = model["pointing"]["tower"].eval()(io["tower.input"])
    torch.testing.assert_close(maps[3], io["tower.hidden_states.3"], atol=1e-4, rtol=1e-4)
    assert report is not None
    first, second = [line for line in report.lines() if " tensors" in line]
    assert first.startswith("pointing.projector from") and ": 4 of 4 tensors" in first  # noqa: PT018
    assert second.startswith("pointing.tower from")


@pytest.mark.parametrize(
    "names",
    [
        {"0": "model.mm_projector.0", "2": "model.mm_projector.2"},  # LLaVA's mm_projector.bin
        {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"},  # transformers' LLaVA
        {"0": "model.multi_modal_projector.linear_1", "2": "model.multi_modal_projector.linear_2"},
        {"0": "projector.model.0", "2": "projector.model.2"},  # REF-VLM
        {"0": "projector.0", "2": "projector.2"},  # ours
    ],
)
@pytest.mark.parametrize("is_pickled", [True, False])
def test_projectors_of_all_layouts(tmp_path: Path, names: dict[str, str], is_pickled: bool) -> None:
    model, other = task(), Projector(24, 48, norm=False)
    state: dict[str, Tensor] = {f"{names[key[0]]}{key[1:]}": value.clone() for key, value in other.state_dict().items()}
    state["model.layers.0.mlp.weight"] = torch.randn(24, 24)
    file = tmp_path / ("a.bin" if is_pickled else "a.safetensors")
    torch.save(state, file) if is_pickled else save_file(state, file)
    load_parts(model, {"pointing.projector": file}, None)
    mine = model["pointing"]["projector"].state_dict()
    assert all(torch.equal(value, mine[key]) for key, value in other.state_dict().items())


def test_internvl_s_projector_has_a_norm(tmp_path: Path) -> None:
    other, model = Projector(8, 6), nn.ModuleDict({"projector": Projector(8, 6)})
    nn.init.normal_(other[0].weight)
    theirs = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
    state = {f"multi_modal_projector.{theirs[key[0]]}{key[1:]}": value for key, value in other.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    load_parts(model, {"projector": tmp_path / "a.safetensors"}, None)
    assert torch.equal(model["projector"][0].weight, other[0].weight)
    assert torch.equal(model["projector"][3].weight, other[3].weight)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part 'pointing") as caught:
        load_parts(task(), {"pointing.projektor": PUBLISHED}, None)
    assert "pointing.projector" in caught.value.fix
    save_file({"projector.0.weight": torch.zeros(48, 24)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="tensors are not there"):
        load_parts(task(), {"pointing.projector": tmp_path / "a.safetensors"}, None)
    save_file({"projector.0.weight": torch.zeros(48, 20)}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="another shape"):
        load_parts(task(), {"pointing.projector": tmp_path / "b.safetensors"}, None)


def test_a_run_starts_parts_of_its_task(tmp_path: Path) -> None:
    first = build(toy_run(steps=1), tmp_path / "first")
    name, part = next((name, part) for name, part in first.model.named_children() if list(part.parameters()))
    state = {f"there.{key}": value.detach() + 1 for key, value in part.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    run = toy_run(steps=1, start_parts={name: tmp_path / "a.safetensors"})
    second = build(run, tmp_path / "second")
    found = dict(second.model.named_children())[name].state_dict()
    assert all(torch.equal(found[key], state[f"there.{key}"]) for key in found)
    assert started_from(second, second.only).endswith(f", {name} of {tmp_path / 'a.safetensors'}")
    assert any(line.startswith(f"{name} from") for one in second.coverages() for line in one.lines())
