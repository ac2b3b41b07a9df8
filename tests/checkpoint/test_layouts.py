"""What a public folder says of itself, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import GOLDEN
from public_folders import original_folder, transformers_folder
from transformers import AutoConfig, AutoModelForCausalLM

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.layouts import MODELS, instruct_config, layout_of
from vistruct.errors import UserError
from vistruct.tasks.instruct import InstructConfig
from vistruct.vlm.names import LanguageNames, to_public
from vistruct.vlm.projector import Projector
from vistruct.vlm.tiling import Tiling


def build_on_meta(name: str) -> dict[str, torch.nn.Module]:
    part = MODELS[name]
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(part.language.model_type, **part.language.options)
        )
        backbone = part.backbone.build()
        projector = Projector(backbone.width * part.shuffle**2, language.config.hidden_size)
    return {"backbone": backbone, "projector": projector, "language": language}


def test_internvl2_5_1b_has_the_published_keys_and_shapes():
    vision = json.loads((GOLDEN / "intern_vit/internvit_300m_keys.json").read_text())["key_to_shape"]
    rest = json.loads((GOLDEN / "vlm/internvl2_5_1b_keys.json").read_text())["key_to_shape"]
    parts = build_on_meta("internvl2_5-1b")
    state = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    public = to_public(state, "original", LanguageNames.of(parts["language"]))
    expected = {f"vision_model.{k}": v for k, v in vision.items()} | {
        k: v for k, v in rest.items() if "rotary" not in k
    }
    assert {k: list(v.shape) for k, v in public.items()} == expected


@pytest.mark.parametrize(("name", "parameters"), [("internvl2_5-1b", 938_193_024), ("internvl2_5-2b", 2_205_754_368)])
def test_named_sizes_have_the_published_number_of_parameters(name, parameters):
    assert sum(p.numel() for part in build_on_meta(name).values() for p in part.parameters()) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_a_named_size_is_a_task(name):
    config = InstructConfig.model_validate(dict(MODELS[name]))
    assert config.tiling.size == 448


def test_an_original_folder_is_read_as_it_says(tmp_path):
    folder = original_folder(tmp_path / "x", max_dynamic_patch=6, min_dynamic_patch=2, force_image_size=112)
    part = instruct_config(folder)
    assert layout_of(folder) == "original"
    assert part.backbone == InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56)
    assert part.tiling == Tiling(size=112, max_tiles=6, min_tiles=2, thumbnail=True)
    assert (part.shuffle, part.language.model_type, part.language.tokenizer) == (2, "qwen2", folder)
    options = part.language.options
    assert options["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "default"}
    assert {k: options[k] for k in ("hidden_size", "num_key_value_heads", "vocab_size", "tie_word_embeddings")} == {
        "hidden_size": 64, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
    }  # fmt: skip


def test_a_model_without_dynamic_tiling_has_one_tile(tmp_path):
    folder = original_folder(tmp_path / "x", dynamic_image_size=False)
    assert instruct_config(folder).tiling.max_tiles == 1


def test_a_transformers_folder_is_read_as_it_says(tmp_path):
    transformers_folder(tmp_path, model_type="llama", hidden_size=96)
    image = {"size": {"height": 112, "width": 112}, "max_patches": 3, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": image}))
    part = instruct_config(tmp_path)
    assert layout_of(tmp_path) == "transformers"
    assert part.backbone == InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56)
    assert part.tiling == Tiling(size=112, max_tiles=3)
    assert (part.mean, part.std) == ((0.1,) * 3, (0.2,) * 3)
    assert (part.language.model_type, part.language.options["hidden_size"]) == ("llama", 96)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"select_layer": -4}, "select_layer is -4"),
        ({"vision_config__qk_normalization": True}, "qk_normalization is True"),
        ({"vision_config__norm_type": "rms_norm"}, "norm_type is 'rms_norm'"),
        ({"llm_config__model_type": "chatglm9"}, "no causal language model of type 'chatglm9'"),
        ({"llm_config": None}, "no llm_config"),
        ({"vision_config__hidden_size": None}, "hidden_size is None"),
        ({"vision_config__num_attention_heads": 5}, "heads=5 does not divide"),
        ({"downsample_ratio": 0.3}, "downsample_ratio 0.3"),
        ({"model_type": "llava", "llm_config": {}}, "no model_type"),
    ],
)
def test_what_is_not_carried_is_refused_by_name(tmp_path, changes, what):
    with pytest.raises(UserError, match=what):
        instruct_config(original_folder(tmp_path / "x", **changes))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("vision_config", "use_qk_norm", True),
        ("vision_config", "norm_type", "rms_norm"),
        ("vision_config", "use_mean_pooling", False),
        ("", "vision_feature_layer", -2),
        ("", "vision_feature_select_strategy", "full"),
        ("vision_config", "image_size", [56, 112]),
    ],
)
def test_what_is_not_carried_of_transformers_is_refused_by_name(tmp_path, part, name, value):
    transformers_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (config[part] if part else config)[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"{name} is"):
        instruct_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such file"),
        ("{", "not valid json"),
        ("[]", "not a json object"),
        ('{"model_type": "bert"}', "'bert'"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(tmp_path, content, what):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=what):
        instruct_config(tmp_path)
