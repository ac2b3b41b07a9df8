"""Weights as other people's scripts leave them: wrapped names, training checkpoints, adapters, quantised ones."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from public_folders import task_of, transformers_folder
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.pickled import read_pickled
from vistruct.checkpoint.weights import load_backbone
from vistruct.checkpoint.whole import load_whole
from vistruct.cli.main import app
from vistruct.errors import UserError

VIT = InternVitConfig(width=16, depth=2, heads=2, mlp_width=16, patch=14, image_size=28)


def vit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return VIT.build()


def same(a: nn.Module, b: nn.Module) -> bool:
    there = b.state_dict()
    return all(torch.equal(value, there[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize(
    "front",
    [
        *(
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "base_model.model.",
            "visual.",
            "teacher.backbone.",
            "backbone.",
        ),
        *("model.vision_model.", "encoder.", "net.image_encoder.trunk.", "base_model.model.vision_tower."),
    ],
)
@pytest.mark.parametrize("config", [VIT, TimmConfig(name="resnet10t"), TimmConfig(name="test_vit")], ids=str)
def test_what_stands_before_all_names_is_taken_off_a_backbone_and_said(tmp_path, front, config):
    torch.manual_seed(0)
    theirs, ours = config.build(), config.build()
    state = {name.removeprefix("model."): value for name, value in theirs.state_dict().items()}
    text = {"text_model.embed.weight": torch.ones(3, 2)} if front == "visual." else {}
    save_file({f"{front}{name}": value for name, value in state.items()} | text, tmp_path / "x.safetensors")
    report = load_backbone(ours, tmp_path / "x.safetensors")
    assert same(theirs, ours)
    assert report.notes or front in ("module.", "backbone.", "model.vision_model.", "base_model.model.vision_tower.")


def test_two_models_in_one_file_are_a_question_whose_way_out_can_be_typed(tmp_path):
    student, teacher = vit(1), vit(2)
    both = {"student": student.state_dict(), "teacher": {f"backbone.{k}": v for k, v in teacher.state_dict().items()}}
    torch.save(both | {"epoch": 3}, tmp_path / "dino.pth")
    with pytest.raises(UserError) as caught:
        load_backbone(vit(), tmp_path / "dino.pth")
    assert "student, teacher" in caught.value.what
    taken = tmp_path / "teacher.safetensors"
    command = ["inspect", str(tmp_path / "dino.pth"), "--take", "teacher", "--out", str(taken)]
    assert caught.value.fix.endswith(f"inspect {tmp_path}/dino.pth --take student --out student.safetensors")
    assert CliRunner().invoke(app, command).exit_code == 0
    ours = vit()
    load_backbone(ours, taken)
    assert same(teacher, ours)


def test_nothing_in_common_names_what_is_there_and_what_was_looked_for(tmp_path):
    save_file({"stages.0.conv.weight": torch.ones(2, 2), "head.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as caught:
        load_backbone(vit(), tmp_path / "x.safetensors")
    assert "none of its 2 tensors" in caught.value.what
    assert "stages.0.conv.weight" in caught.value.what
    assert "embeddings.class_embedding" in caught.value.what
    assert caught.value.fix == f"see what is there: vistruct inspect {tmp_path / 'x.safetensors'}"
    assert "stages.0.conv.weight" in CliRunner().invoke(app, ["inspect", str(tmp_path / "x.safetensors")]).output


class Config(dict[str, Any]):
    """As configuration libraries have them: a mapping with attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__ = self


def training_checkpoint(state: Any, **more: Any) -> dict[str, Any]:
    counts: Any = collections.defaultdict(list, {"loss": [np.float64(0.5)]})
    return {
        "model": collections.OrderedDict(state),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": np.float32(0.1)}]},
        "args": argparse.Namespace(lr=1e-3, output=Path("/out"), when=datetime.timedelta(1), dtype=torch.bfloat16),
        "config": Config(a=1, b=Config(c=2)),
        "history": counts,
        "rng": np.arange(5),
        "epoch": 3,
        **more,
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_training_checkpoint_is_read_and_nothing_of_it_is_run(tmp_path, is_zip, monkeypatch):
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(training_checkpoint(vit(1).state_dict()), file, _use_new_zipfile_serialization=is_zip)
    monkeypatch.setattr(argparse.Namespace, "__init__", None)  # calling it would fail
    monkeypatch.setattr(Config, "__init__", None)
    ours = vit()
    report = load_backbone(ours, file)
    assert same(vit(1), ours)
    assert report.notes == (
        "read: its 'model'; not read: optimizer, args (argparse.Namespace), config (test_foreign_weights.Config), "
        "history (collections.defaultdict), rng (numpy._core.multiarray._reconstruct), epoch",
    )


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}, lambda m: {"ema": m}])
def test_a_module_that_was_saved_whole_is_read_without_its_class(tmp_path, wrap):
    """Parameters, buffers and modules of any class lie in the file by name."""
    theirs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(2, 2)))
    torch.save(wrap(theirs), tmp_path / "x.pt")
    state, _ = read_pickled(tmp_path / "x.pt")
    wanted = theirs.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


class Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("call", [eval, exec, compile, __import__, getattr, np.save], ids=lambda f: f.__name__)
def test_what_would_run_is_never_run(tmp_path, call, capfd):
    said = "print('ran')" if call in (eval, exec) else "ran"
    more = {compile: (said, "x", "exec"), getattr: (str, "upper"), np.save: (str(tmp_path / "ran.npy"), 1.0)}
    arguments = more.get(call, (said,))
    torch.save({"model": vit(1).state_dict(), "args": Runs(call, *arguments)}, tmp_path / "x.pth")
    if call is np.save:  # it is not called: a stand-in is
        load_backbone(vit(), tmp_path / "x.pth")
    else:
        with pytest.raises(UserError) as caught:
            load_backbone(vit(), tmp_path / "x.pth")
        assert f"it names builtins.{call.__name__}, which could run code" in caught.value.what
    assert "ran" not in capfd.readouterr().out
    assert not (tmp_path / "ran.npy").exists()


def test_a_file_without_tensors_says_what_it_holds_and_no_terminal_codes(tmp_path):
    torch.save({"args": argparse.Namespace(a=1), "epoch": 2}, tmp_path / "x.pth")
    with pytest.raises(UserError) as caught:
        load_backbone(vit(), tmp_path / "x.pth")
    assert caught.value.what == "no tensors by name in this file: it holds args (argparse.Namespace), epoch"
    (tmp_path / "y.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        load_backbone(vit(), tmp_path / "y.pth")
    assert "\x1b" not in caught.value.what
    assert "two options" not in caught.value.what


def test_a_program_is_no_file_of_weights(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(UserError, match="TorchScript"):
        load_backbone(vit(), tmp_path / "x.pt")


@pytest.mark.parametrize("front", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_a_whole_model_under_wrapped_names_is_the_model(tmp_path, front):
    theirs = transformers_folder(tmp_path / "model")
    plain = load_file(tmp_path / "model/model.safetensors")
    wrapped = {f"{front}{name}": value for name, value in plain.items()}
    save_file(wrapped, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    task = task_of(tmp_path / "model", tmp_path)
    report = load_whole(task, tmp_path / "model")
    assert not report.missing
    assert not report.unexpected
    assert report.notes
    mine, said = task.language.state_dict(), theirs.model.language_model.state_dict()
    assert all(torch.equal(mine[f"model.{name}"], value) for name, value in said.items())


def test_adapters_that_are_not_merged_are_no_plain_weights(tmp_path):
    transformers_folder(tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("layers.0.self_attn.q_proj.weight"))
    layer = name.removesuffix(".weight")
    state[f"{layer}.base_layer.weight"] = state.pop(name)
    state |= {f"{layer}.lora_{x}.default.weight": torch.ones(2, 2) for x in "AB"}
    save_file({f"base_model.model.{key}": value for key, value in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"adapters .* that are not merged"):
        load_whole(task_of(tmp_path / "model", tmp_path), tmp_path / "model")


def quantised(name: str, value: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    """One matrix as these tools write it."""
    scale, bare = torch.ones(len(value)), name.removesuffix(".weight")
    match kind:
        case "bitsandbytes, int8":
            return {name: (value * 9).to(torch.int8), f"{bare}.SCB": scale}
        case "bitsandbytes, 4 bits":
            flat = torch.zeros(value.numel() // 2, 1, dtype=torch.uint8)
            return {name: flat, f"{name}.absmax": scale, f"{name}.quant_state.bitsandbytes__nf4": flat.clone()}
        case "GPTQ or AWQ":
            ints = torch.ones(2, 2, dtype=torch.int32)
            return {f"{bare}.qweight": ints, f"{bare}.qzeros": ints.clone(), f"{bare}.scales": scale.half()}
        case "compressed-tensors":
            return {f"{bare}.weight_packed": torch.ones(2, 2, dtype=torch.int32), f"{bare}.weight_scale": scale}
    return {name: value.to(torch.float8_e4m3fn), f"{bare}.weight_scale_inv": scale}


KINDS = ["bitsandbytes, int8", "bitsandbytes, 4 bits", "GPTQ or AWQ", "compressed-tensors", "fp8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [None, "the method"])
@pytest.mark.parametrize("what", ["whole", "language", "backbone"])
def test_quantised_weights_are_named_and_never_taken_for_weights(tmp_path, kind, method, what):
    from vistruct.vlm.language import read_language

    transformers_folder(tmp_path / "model")
    file, config = tmp_path / "model/model.safetensors", tmp_path / "model/config.json"
    state = load_file(file)
    name = next(name for name in state if name.endswith("layers.0.mlp.down_proj.weight"))
    state |= quantised(name, state.pop(name), kind)
    save_file(state, file, metadata={"format": "pt"})
    if method is not None:
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}})
        )
    load: Any = {
        "whole": lambda folder: load_whole(task_of(folder, tmp_path), folder),
        "language": read_language,
        "backbone": lambda folder: load_backbone(vit(), folder),
    }[what]
    with pytest.raises(UserError) as caught:
        load(tmp_path / "model")
    assert caught.value.what.startswith(f"these weights are quantised ({method or kind}): ") or kind == "fp8"
    assert name.removesuffix(".weight") in caught.value.what
    assert "bf16" in caught.value.fix


def test_counts_and_places_are_whole_numbers_and_no_quantised_weights(tmp_path):
    torch.manual_seed(0)
    theirs, ours = TimmConfig(name="resnet10t").build(), TimmConfig(name="resnet10t").build()
    state = {name: value for name, value in theirs.model.state_dict().items()}
    assert any(value.dtype == torch.int64 for value in state.values())  # BatchNorm counts its batches
    save_file(state | {"attn.relative_position_index": torch.ones(4, 4, dtype=torch.int64)}, tmp_path / "x.safetensors")
    load_backbone(ours, tmp_path / "x.safetensors")
    assert same(theirs, ours)
