"""Any layer of a ViT, its tokens by name: against `transformers`' hidden states and timm's own models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import toy_vlm
from torch.testing import assert_close
from transformers import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel
from whole_loss import task_loss

from vistruct.backbones import timm_model
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.intern_vit_names import convert_keys
from vistruct.backbones.timm_model import TimmConfig, TimmModel
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.contracts import TokenBackbone
from vistruct.errors import UserError
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.tiling import Tiling

TINY = InternVitConfig(width=64, depth=4, heads=4, mlp_width=128, patch=14, image_size=56)
# class tokens and registers of each
PLAIN = {
    "test_vit": (1, 0),
    "test_vit3": (0, 1),
    "vit_small_patch14_reg4_dinov2": (1, 4),
    "vit_small_patch16_dinov3": (1, 4),
    "vit_medium_patch16_gap_240": (0, 0),
    "eva02_tiny_patch14_224": (1, 0),
    "beit_base_patch16_224": (1, 0),
}


@pytest.fixture(params=["56 x 56", "28 x 70"])
def image(request: pytest.FixtureRequest) -> torch.Tensor:
    height, width = map(int, request.param.split(" x "))
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_layers_of_intern_vit_are_transformers_hidden_states(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    config = InternVLVisionConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=[56, 56],
        patch_size=[14, 14], attention_bias=True, layer_norm_eps=1e-6, use_mean_pooling=True,
        layer_scale_init_value=0.1,
    )  # fmt: skip
    theirs = InternVLVisionModel(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    vit = TINY.build().eval()
    vit.load_state_dict(convert_keys(theirs.state_dict()))
    _, *states = theirs(image, output_hidden_states=True).hidden_states  # the first are the embeddings
    found = vit.layers(image, [2, 0, -1, 2])
    for one, number in zip(found, (2, 0, 3, 2), strict=True):
        assert_close(one.class_token, states[number][:, 0], atol=2e-5, rtol=1e-4)
        assert_close(one.patches, states[number][:, 1:], atol=2e-5, rtol=1e-4)
        assert one.grid_hw == (image.shape[2] // 14, image.shape[3] // 14)
        assert one.registers is None
    assert torch.equal(found[2].map, vit(image)[0])
    assert torch.equal(found[2].before_norm, vit.hidden(image))
    assert torch.equal(vit.tokens(image).patches, found[2].patches)


def small(name: str, **settings: Any) -> tuple[TimmModel, torch.nn.Module]:
    """One of timm's models as a backbone, and the same weights as timm makes it."""
    torch.manual_seed(0)
    narrow: dict[str, Any] = {} if name.startswith("test_") else {"embed_dim": 64, "depth": 3, "num_heads": 2}
    with pytest.MonkeyPatch.context() as patched:
        create = timm.create_model
        patched.setattr(timm, "create_model", lambda *names, **wanted: create(*names, **{**wanted, **narrow}))
        model = TimmModel(TimmConfig(name=name, **settings)).eval()
        theirs = timm_model._create(TimmConfig(name=name)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.1)
    theirs.load_state_dict({k.removeprefix("model."): v for k, v in model.state_dict().items()}, strict=False)
    return model, theirs


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("norm", [False, True])
def test_layers_of_timm_s_vits_are_timm_s_own(name: str, norm: bool) -> None:
    num_class, num_registers = PLAIN[name]
    model, theirs = small(name, final_norm=True)
    assert isinstance(model, TokenBackbone)
    side = 2 * model.patch if name != "beit_base_patch16_224" else 224
    image, last = torch.randn(2, 3, side, side), len(model.traits.repeated_blocks) - 1
    seen: dict[int, torch.Tensor] = {}
    for i, block in enumerate(theirs.blocks):
        block.register_forward_hook(lambda _, __, out, i=i: seen.update({i: out}))
    expected = theirs.forward_intermediates(
        image, indices=[0, last], return_prefix_tokens=True, norm=norm, output_fmt="NCHW", intermediates_only=True
    )
    found = model.layers(image, [-1, 0, -1], norm=norm)
    for one, number, place in zip(found, (last, 0, last), (1, 0, 1), strict=True):
        patches, prefix = expected[place] if num_class + num_registers else (expected[place], None)
        assert_close(one.map, patches)
        assert_close(one.before_norm, seen[number])
        assert (one.class_token is not None, 0 if one.registers is None else one.registers.shape[1]) == (
            bool(num_class), num_registers,
        )  # fmt: skip
        named = [one.class_token[:, None]] if one.class_token is not None else []
        named += [one.registers] if one.registers is not None else []
        if prefix is not None:
            assert_close(torch.cat(named, dim=1), prefix)
    assert torch.equal(found[0].patches, found[2].patches)
    assert_close(model.tokens(image).map, model(image)[-1])
    assert model.traits.repeated_blocks == tuple(model.model.blocks)


def test_fewer_blocks_run_where_the_last_is_not_asked_for() -> None:
    for vit in (TINY.build(), small("test_vit")[0]):
        blocks = vit.traits.repeated_blocks
        for block in blocks[2:]:
            block.register_forward_hook(lambda *_: pytest.fail("it need not have run"))
        assert len(blocks) > 2
        vit.layers(torch.randn(1, 3, 4 * vit.patch, 4 * vit.patch), [0, 1])


def test_the_vit_inside_an_adapter_gives_its_layers_without_a_class_token() -> None:
    adapter = VitAdapterConfig(
        vit=TINY.model_copy(update={"patch": 16, "image_size": 64}), groups=((0, 0), (1, 1), (2, 2), (3, 3)), heads=4
    )
    vit: Any = adapter.build().eval().vit
    image = torch.randn(1, 3, 64, 32)
    x, expected = vit.patch_tokens(image), []
    for block in vit.traits.repeated_blocks:
        x = block(x)
        expected.append(x)
    for one, tokens in zip(vit.layers(image, range(4)), expected, strict=True):
        assert one.class_token is None
        assert torch.equal(one.patches, tokens)
        assert one.map.shape == (1, 64, 4, 2)


def test_what_is_not_there_is_refused() -> None:
    vit, (short, _) = TINY.build(), small("test_vit", out_indices=(1,))
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(UserError, match="no block 4 among 4"):
        vit.layers(torch.randn(1, 3, 56, 56), [0, 4])
    with pytest.raises(UserError, match="no block -3 among 2"):  # what no map needs was left out
        short.layers(image, [-3])
    with pytest.raises(UserError, match="final_norm=true"):
        short.layers(image, [0], norm=True)
    maps = TimmConfig(name="test_resnet").build()
    assert not isinstance(maps, TokenBackbone)
    assert maps.traits.repeated_blocks == ()
    with pytest.raises(UserError, match="maps and no tokens"):
        maps.tokens(image)
    with pytest.raises(UserError, match="not a whole number"):
        vit.layers(torch.randn(1, 3, 56, 57), [0])


def test_a_timm_vit_learns_from_a_language_model() -> None:
    torch.manual_seed(0)
    config = InstructConfig(
        backbone=TimmConfig(name="test_vit"),
        language=LanguageConfig(model_type="qwen2", options=toy_vlm.QWEN, vocab_size=340),
        tiling=Tiling(size=64, max_tiles=1),
        vrl="off",
    )
    task: Any = Instruct(config, toy_vlm.tokenizer())
    task_loss(task, task.collator([toy_vlm.sample(size=64)])).loss.backward()
    assert [n for n, p in task.backbone.named_parameters() if p.grad is None] == []
    assert math.isfinite(float(task.backbone.model.patch_embed.proj.weight.grad.norm()))
    resnet = config.model_copy(update={"backbone": TimmConfig(name="test_resnet")})
    with pytest.raises(UserError, match="gives no tokens"):
        Instruct(resnet, toy_vlm.tokenizer())
