"""Hidden pixels: beside transformers' MAE, and what no encoder may see."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
import pytest
import torch
from masked_models import batch_of, same_as_halves, task, vit
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from vistruct.backbones.timm_model import TimmConfig
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import LinearPatchesConfig, sine_positions
from vistruct.ops.hog import oriented_gradients
from vistruct.tasks.masked import Masked, without
from vistruct.tasks.masked_batches import HidePatches, drawn_blocks, drawn_squares
from vistruct.tasks.masked_targets import OrientedGradients, Pixels

LINEAR = LinearPatchesConfig()
SCATTERED = HidePatches(hidden=0.6, replaced=True)
OUTSIDE = {
    "vit.embeddings.cls_token": "backbone.embeddings.class_embedding",
    "vit.embeddings.position_embeddings": "backbone.embeddings.position_embedding",
    "vit.embeddings.patch_embeddings.projection": "backbone.embeddings.patch_embedding",
    "vit.layernorm": "decoder.encoded",
    "decoder.mask_token": "decoder.mask",
    "decoder.decoder_embed": "decoder.embed",
    "decoder.decoder_norm": "decoder.norm",
    "decoder.decoder_pred": "decoder.say",
}
# Of a layer, in the names of several versions of transformers: ours in the encoder and in the decoder.
INSIDE = (
    (r"layernorm_before", "norm1", "norm1"),
    (r"layernorm_after", "norm2", "norm2"),
    (r"mlp\.fc1|intermediate\.dense", "mlp.fc1", "linear1"),
    (r"mlp\.fc2|(?<!attention\.)output\.dense", "mlp.fc2", "linear2"),
    (r"o_proj|attention\.output\.dense", "attn.proj", "self_attn.out_proj"),
)
PARTS = (r"q_proj|query", r"k_proj|key", r"v_proj|value")


def _ours(name: str, own: dict[str, torch.Tensor]) -> torch.Tensor:
    """What of our model stands for a tensor of theirs."""
    layer, _, kind = name.rpartition(".")
    if layer in OUTSIDE:
        return own[f"{OUTSIDE[layer]}.{kind}"]
    if name in OUTSIDE:
        return own[OUTSIDE[name]]
    number = re.findall(r"\.(\d+)\.", name)[0]
    is_encoder = name.startswith("vit.")
    top = f"backbone.encoder.layers.{number}" if is_encoder else f"decoder.blocks.{number}"
    for third, pattern in enumerate(PARTS):
        if re.search(pattern, layer):
            whole = f"{top}.attn.qkv.{kind}" if is_encoder else f"{top}.self_attn.in_proj_{kind}"
            return own[whole].chunk(3)[third]
    ours = next(one if is_encoder else other for pattern, one, other in INSIDE if re.search(pattern, layer))
    return own[f"{top}.{ours}.{kind}"]


def theirs_like(model: Masked) -> ViTMAEForPreTraining:
    """transformers' MAE with the weights of ours."""
    config = ViTMAEConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, mask_ratio=0.75, norm_pix_loss=True, layer_norm_eps=1e-12,
    )  # fmt: skip
    other = ViTMAEForPreTraining(config).eval()
    table = model.backbone.embeddings.position_embedding  # ty: ignore[unresolved-attribute]
    table.data[:, 0] = 0  # MAE's class token has no place
    own = model.state_dict()
    put = {name: _ours(name, own) for name in other.state_dict() if name != "decoder.decoder_pos_embed"}
    put["decoder.decoder_pos_embed"] = torch.cat([torch.zeros(1, 16), sine_positions((4, 4), 16)])[None]
    other.load_state_dict(put)
    return other


def test_mask_prediction_and_loss_are_those_of_transformers() -> None:
    model = task().eval()
    other = theirs_like(model)
    batch = batch_of(model)
    pixels = (batch.images.float() / 255 - 0.5) / 0.25
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(5))
    batch.shown = noise.argsort(dim=1)[:, :4].sort(dim=1).values
    batch.is_hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, batch.shown, False)
    with torch.no_grad():
        expected = other(pixels, noise=noise)
        told, out = model.told(batch), model(batch)
    assert torch.equal(expected.mask.bool(), batch.is_hidden)
    torch.testing.assert_close(told, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.terms["pixels"] / model.units(batch)["pixels"], expected.loss, rtol=1e-4, atol=1e-5)


def test_positions_are_waves_of_the_column_and_then_of_the_row() -> None:
    found = sine_positions((3, 5), 16)
    for cell in range(15):
        expected: list[float] = []
        for place in (cell % 5, cell // 5):
            angles = [place / 10_000 ** (k / 4) for k in range(4)]
            expected += [*map(math.sin, angles), *map(math.cos, angles)]
        np.testing.assert_allclose(found[cell], expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"corruption": SCATTERED}], ids=["dropped", "replaced"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_hidden_pixels_are_neither_seen_nor_reached_by_a_gradient(
    stem: Literal["patch", "conv"], settings: dict[str, Any]
) -> None:
    model = task(backbone=vit(stem), **settings).eval()
    batch = batch_of(model)
    seen: list[torch.Tensor] = []
    model.normalise.register_forward_hook(lambda _module, _given, found: seen.append(found.requires_grad_()))
    told = model.told(batch)
    told.square().sum().backward()
    assert seen[0].grad is not None
    reached = without(seen[0].grad, ~batch.is_hidden, torch.zeros(1, 8, 8))  # what is left lies in hidden patches
    assert not reached.any()
    assert seen[0].grad.any()
    other = batch_of(model)
    noise = torch.randint(0, 256, other.images.shape, dtype=torch.uint8)
    cells = batch.is_hidden.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other.images = torch.where(cells, noise, other.images)
    assert torch.equal(told, model.told(other))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target": OrientedGradients(), "corruption": SCATTERED, "decoder": LINEAR, "channels": 5},
        {"target": Pixels(standardised=False, error="absolute"), "corruption": HidePatches(blocks=True)},
    ],
    ids=["mae", "hog of five bands", "absolute"],
)
def test_a_batch_is_the_sum_of_its_halves(settings: dict[str, Any]) -> None:
    same_as_halves(task(**settings).eval())


def test_squares_are_hidden_whole() -> None:
    model = task(corruption=HidePatches(square=2))
    cells = batch_of(model).is_hidden.view(3, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert ((cells.all(dim=3)) | (~cells).all(dim=3)).all()
    assert batch_of(model).is_hidden.sum() == 3 * 12


@pytest.mark.parametrize(("cells", "share", "shown"), [(16, 0.0, 16), (16, 0.75, 4), (16, 0.99, 1), (1, 0.75, 1)])
def test_how_many_are_shown(cells: int, share: float, shown: int) -> None:
    drawn = drawn_squares((1, cells), share, 3)
    assert int((~drawn).sum()) == shown
    assert torch.equal(drawn, drawn_squares((1, cells), share, 3))


def test_nothing_hidden_is_a_loss_of_nothing() -> None:
    model = task()
    batch = batch_of(model, side=8)  # of one patch, which is shown
    assert model(batch).terms["pixels"].item() == 0
    assert float(model.units(batch)["pixels"]) == 0


def test_any_bands_and_raw_pixels() -> None:
    model = task(channels=13, target=Pixels(standardised=False))
    batch = batch_of(model, channels=13)
    target = model.target.truth(model.normalise(batch.images))
    assert target.shape == (3, 16, 8 * 8 * 13)
    pixels = (batch.images[1, :, 8:16, 24:32].numpy() / 255 - 0.5) / 0.25  # the eighth patch
    np.testing.assert_allclose(target[1, 7].numpy(), pixels.transpose(1, 2, 0).ravel(), rtol=1e-5, atol=1e-5)
    found = model.eval().predict(batch)
    assert found[0].image.shape == (24,)
    torch.testing.assert_close(found[0].image.norm(), torch.tensor(1.0))


def test_sizes_that_do_not_fit_say_so() -> None:
    model = task()
    with pytest.raises(UserError, match="no whole number of patches") as caught:
        batch_of(model, side=36)
    assert "multiple of 8" in str(caught.value)


@pytest.mark.parametrize(("grid", "share"), [((14, 14), 0.4), ((6, 9), 0.75), ((2, 2), 0.5), ((1, 7), 0.9)])
def test_blocks_hide_as_many_and_lie_together(grid: tuple[int, int], share: float) -> None:
    together = 0
    for seed in range(20):
        drawn = drawn_blocks(grid, share, seed)
        assert drawn.sum() == drawn_squares(grid, share, seed).sum()
        assert torch.equal(drawn, drawn_blocks(grid, share, seed))
        pairs = (drawn[:, 1:] == drawn[:, :-1]).float().mean() if grid[1] > 1 else 0
        scattered = drawn_squares(grid, share, seed)
        together += pairs - (scattered[:, 1:] == scattered[:, :-1]).float().mean()
    assert grid != (14, 14) or together / 20 > 0.2  # of neighbours as many more have the same fate


def test_gradients_of_hidden_patches_are_told_cell_by_cell() -> None:
    model = task(target=OrientedGradients(cell=4), corruption=SCATTERED, decoder=LINEAR)
    batch = batch_of(model)
    truth = model.target.truth(batch.images)  # ty: ignore[unresolved-attribute]
    assert truth.shape == (3, 16, 2 * 2 * 3 * 9)
    cells = oriented_gradients(batch.images.float(), 4)
    expected = [cells[1, c, 2 + y, 6 + x] for y in range(2) for x in range(2) for c in range(3)]  # of the eighth patch
    torch.testing.assert_close(truth[1, 7], torch.cat(expected))
    told, off = model.told(batch), 0.0
    for b, patch in batch.is_hidden.nonzero().tolist():
        off += float(np.mean((told[b, patch].detach().numpy() - truth[b, patch].numpy()) ** 2))
    assert model(batch).terms["hog"].item() == pytest.approx(off, rel=1e-5)


def test_what_stands_in_for_patches_is_learned_and_any_backbone_can_be_shown_it() -> None:
    model = task(backbone=TimmConfig(name="test_resnet"), corruption=SCATTERED, decoder=LINEAR)
    batch = batch_of(model, side=64)
    model(batch).terms["pixels"].backward()
    assert model.instead.grad is not None
    assert model.instead.grad.abs().sum() > 0
    assert model.predict(batch)[0].image.shape == (model.backbone.specs[-1].channels,)
    with pytest.raises(UserError, match="no tokens to hide") as caught:
        task(backbone=TimmConfig(name="test_resnet"))
    assert "replaced=true" in str(caught.value)
    with pytest.raises(UserError, match="tells nothing of those that were dropped"):
        task(decoder=LINEAR)
    with pytest.raises(UserError, match="no whole number") as caught:
        task(target=OrientedGradients(cell=3))
    assert "cell=4" in str(caught.value)
