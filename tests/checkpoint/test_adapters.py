"""Adapters alone: peft reads what is written here, and what peft wrote is read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from toy_vlm import VIT, build

from vistruct.checkpoint.adapters import merge_adapters, read_adapters
from vistruct.checkpoint.peft_folder import write_adapters
from vistruct.cli.inspect import gather
from vistruct.config import Lora, Trainable
from vistruct.engine.lora import adapted_layers, adapters_of, begin_with
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError

IMAGE = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = VIT.model_copy(update={"layer_scale": 1.0}).build()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.backbone.tokens(image).patches


def adapted(**settings: Any) -> Vit:
    model = Vit().eval()
    apply_rules(model, [Trainable(pattern="backbone", mode="lora", lora=Lora(**{"rank": 4} | settings))])
    for layer in adapted_layers(model).values():
        nn.init.normal_(layer.lora_B, std=1 / layer.lora.factor)
    return model


def written(model: nn.Module, folder: Path) -> Path:
    modules = [name for name, _ in model.named_modules()]
    write_adapters(folder, adapters_of(model), modules=modules, base="a base", prints={})
    return folder


def in_peft(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of keys that are missing
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return PeftModel.from_pretrained(Vit().eval(), str(folder))  # ty: ignore[invalid-argument-type]


SETTINGS = [
    {},
    {"alpha": 3},
    {"scale": 1 / 64},
    {"parts": ("q", "v")},
    {"parts": ("q", "v"), "rank": 64, "scale": 1 / 64},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_peft_loads_them_and_so_do_weights_and_adapters_of_ours(tmp_path, settings):
    model = adapted(**settings)
    folder, expected = written(model, tmp_path / "adapters"), model(IMAGE).detach()
    assert (Vit().eval()(IMAGE) - expected).abs().max() > 1e-2
    assert_close(in_peft(folder)(IMAGE), expected, rtol=1e-3, atol=5e-4)

    merged = Vit().eval()
    assert set(merge_adapters(merged, folder).layers) == set(adapted_layers(model))
    assert_close(merged(IMAGE), expected, rtol=1e-3, atol=5e-4)

    going_on = Vit().eval()
    rule = Trainable(pattern="backbone", mode="lora", lora=Lora(**{"rank": 4} | settings, dropout=0.1))
    apply_rules(going_on, [rule])
    coverage = begin_with(going_on, folder)
    assert_close(going_on(IMAGE), expected, rtol=1e-3, atol=5e-4)
    assert f"{len(adapted_layers(model))} train on, 0 were added" in coverage.lines()[-1]
    for name, layer in adapted_layers(going_on).items():
        assert_close(layer.lora_B, adapted_layers(model)[name].lora_B)


def test_layers_of_several_ranks_and_scales_are_told_apart(tmp_path):
    model = Vit().eval()
    first = Trainable(pattern="backbone.encoder.layers.0", mode="lora", lora=Lora(rank=2, scale=0.5))
    others = Trainable(pattern="backbone.encoder.layers.[12].attn.*", mode="lora", lora=Lora(rank=3, alpha=5))
    apply_rules(model, [first, others])
    for layer in adapted_layers(model).values():
        nn.init.normal_(layer.lora_B, std=1 / layer.lora.factor)
    assert_close(in_peft(written(model, tmp_path))(IMAGE), model(IMAGE), rtol=1e-3, atol=5e-4)
    merged = Vit().eval()
    merge_adapters(merged, tmp_path)
    assert_close(merged(IMAGE), model(IMAGE), rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("under", ["", "language"])
def test_what_peft_trained_goes_into_the_weights_of_the_part_it_is_of(tmp_path, rslora, under):
    torch.manual_seed(3)
    whole, plain = build(), build()
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], use_rslora=rslora)
    theirs: Any = get_peft_model(whole.get_submodule(under) if under else whole, config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    merge_adapters(plain, tmp_path)
    expected = theirs.merge_and_unload()
    for name, tensor in (plain.get_submodule(under) if under else plain).state_dict().items():
        assert_close(tensor, expected.state_dict()[name])
    assert not torch.equal(plain.state_dict()["language.model.layers.0.self_attn.q_proj.weight"],
                           build().state_dict()["language.model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


def test_adapters_of_layers_without_a_rule_are_added_and_the_others_go_on(tmp_path):
    expected = adapted()
    folder = written(expected, tmp_path)
    model = Vit().eval()
    apply_rules(model, [Trainable(pattern="backbone.encoder.layers.1", mode="lora", lora=Lora(rank=4))])
    coverage = begin_with(model, folder)
    assert_close(model(IMAGE), expected(IMAGE), rtol=1e-3, atol=5e-4)
    assert "4 train on, 8 were added" in coverage.lines()[-1]


@pytest.mark.parametrize("settings", [{"rank": 8}, {"parts": ("q", "v")}, {"rank": 2, "parts": ("q", "v")}])
def test_an_adapter_of_another_shape_is_refused(tmp_path, settings):
    folder = written(adapted(), tmp_path)
    model = Vit()
    apply_rules(model, [Trainable(pattern="backbone", mode="lora", lora=Lora(**{"rank": 4} | settings))])
    with pytest.raises(UserError, match="has an adapter of rank"):
        begin_with(model, folder)


def test_adapters_of_another_model_are_refused(tmp_path):
    folder = written(adapted(), tmp_path)
    with pytest.raises(UserError, match="linear layers that are not here"):
        merge_adapters(nn.ModuleDict({"head": nn.Linear(3, 3)}), folder)
    narrow = nn.ModuleDict({"backbone": VIT.model_copy(update={"width": 32}).build()})
    with pytest.raises(UserError, match="here it is"):
        merge_adapters(narrow, folder)


def test_an_adapter_of_one_of_two_names_of_a_table_is_refused(tmp_path):
    untied, tied = build(), build(language={"tie_word_embeddings": True})
    apply_rules(untied, [Trainable(pattern="language.lm_head", mode="lora")])
    with pytest.raises(UserError, match="lm_head shares its weight with language"):
        merge_adapters(tied, written(untied, tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"something_new": 3}, "something_new"),
    ],
)
def test_what_is_more_than_a_product_of_two_matrices_is_refused_by_name(tmp_path, change, said):
    folder = written(adapted(), tmp_path)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=said):
        read_adapters(folder)


def test_damaged_adapters_are_refused(tmp_path):
    folder = written(adapted(), tmp_path)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    for broken, said in (
        ({name: tensors[name] * float("nan")}, "NaN"),
        ({name: tensors[name][:1]}, "do not fit"),
        ({"base_model.model.head.bias": torch.zeros(3)}, "no adapter of a linear layer"),
    ):
        save_file(tensors | broken, file)
        with pytest.raises(UserError, match=said):
            read_adapters(folder)
    with pytest.raises(UserError, match="no such file"):
        read_adapters(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no adapters here"):
        read_adapters(tmp_path.parent)


def test_inspect_says_what_they_are(tmp_path):
    facts = gather(written(adapted(scale=1.5), tmp_path))
    assert facts["what"] == "adapters (LORA, peft's format)"
    assert (facts["rank"], facts["alpha"], facts["layers"], facts["base"]) == (4, 6, 12, "a base")
