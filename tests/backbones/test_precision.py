"""Models in other types than float32, batches of nothing, and weights of half precision that are resized."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.testing import assert_close

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.backbones.intern_image import InternImageConfig
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.backbones.vit_rvsa import VitRvsaConfig
from vistruct.checkpoint.weights import load_backbone
from vistruct.errors import UserError

VIT = InternVitConfig(width=32, depth=4, heads=2, mlp_width=32, patch=16, image_size=64, drop_path=0.1)
ADAPTER = VitAdapterConfig(vit=VIT, groups=((0, 0), (1, 1), (2, 2), (3, 3)), heads=2, conv_width=8)
CONFIGS: dict[str, Any] = {
    "vit": VIT,
    "conv stem": VIT.model_copy(update={"stem": "conv"}),
    "adapter": ADAPTER,
    "narrow adapter": ADAPTER.model_copy(update={"attention": "ddetr", "window": 2}),
    **{
        name: TimmConfig(name=name)
        for name in ("resnet10t", "test_vit", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224")
    },
    "intern_image": InternImageConfig(
        width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), layer_scale=0.5, drop_path=0.2
    ),
    "rvsa": VitRvsaConfig(width=32, depth=4, heads=2, interval=2, out_indices=(0, 1, 2, 3), image_size=96),
    "eva_vit": EvaVitConfig(width=32, depth=2, heads=2, mlp_width=64, image_size=56, class_token=True, drop_path=0.1),
    "eva": TimmConfig(name="eva02_tiny_patch14_224", image_size=56),
}


def built(name: str) -> tuple[Any, int]:
    torch.manual_seed(0)
    return CONFIGS[name].build(), 56 if name == "eva" else 64


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_runs_in_every_type_and_gives_what_it_gives_in_float64(name):
    model, size = built(name)
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        exact = model.double().eval()(image.double())
    assert all(one.dtype == torch.float64 for one in exact)
    for dtype, near in ((torch.float32, 1e-4), (torch.float16, 0.03), (torch.bfloat16, 0.2)):
        model, _ = built(name)
        maps = model.to(dtype).eval()(image.to(dtype))
        sum(one.float().sum() for one in maps).backward()
        for one, wanted in zip(maps, exact, strict=True):
            assert (one.double() - wanted).norm() <= near * wanted.norm()


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_nothing_gives_maps_of_nothing_and_changes_no_statistics(name, is_training):
    model, size = built(name)
    model.train(is_training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, none = model(torch.randn(2, 3, size, size)), model(torch.zeros(0, 3, size, size))
    assert [tuple(x.shape) for x in none] == [(0, *x.shape[1:]) for x in one]
    model.load_state_dict(before)
    sum(x.sum() for x in model(torch.zeros(0, 3, size, size))).backward()
    assert all(torch.isfinite(value.float()).all() for value in model.state_dict().values())
    assert all(module.training == is_training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_table_of_half_precision_is_resized_in_float32_and_not_rounded_on_the_way(tmp_path, dtype):
    theirs, ours = VIT.build(), VIT.model_copy(update={"image_size": 96, "patch": 8}).build()
    state = {name: value.to(dtype) for name, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    load_backbone(ours, tmp_path / "x.safetensors")
    table = state["embeddings.position_embedding"][:, 1:].double().transpose(1, 2).unflatten(2, (4, 4))
    wanted = F.interpolate(table, (12, 12), mode="bicubic").flatten(2).transpose(1, 2)
    assert_close(ours.embeddings.position_embedding[:, 1:].double(), wanted, atol=1e-6, rtol=1e-6)
    kernel = F.interpolate(state["embeddings.patch_embedding.weight"].double(), (8, 8), mode="bicubic")
    assert_close(ours.embeddings.patch_embedding.weight.double(), kernel, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("config", [VIT, ADAPTER, TimmConfig(name="test_vit", image_size=64)], ids=lambda c: c.kind)
def test_a_table_that_is_no_square_is_refused_in_words(tmp_path, config):
    theirs = config.build()
    state = dict(theirs.state_dict())
    name = next(key for key in state if key.endswith(("position_embedding", "pos_embed")))
    state[name] = torch.zeros(1, 1 + 3 * 5, state[name].shape[-1])
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="square"):
        load_backbone(config.build(), tmp_path / "x.safetensors")
