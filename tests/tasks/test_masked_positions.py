"""Where patches lie of which an encoder is not told: the loss beside numpy's, and what no encoder may know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from masked_models import batch_of, part_of, same_as_halves, task, vit
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import LinearPatchesConfig
from vistruct.tasks.masked_batches import HidePatches
from vistruct.tasks.masked_targets import Positions, near_places

PLACES: dict[str, Any] = {
    "corruption": HidePatches(hidden=0.5, unplaced=0.75),
    "target": Positions(grid=(4, 4)),
}


def distances(side: int) -> np.ndarray:
    y, x = np.divmod(np.arange(side * side), side)
    return np.hypot(y[:, None] - y, x[:, None] - x)


def test_the_loss_is_that_of_the_formula() -> None:
    model = task(**PLACES)
    model.before_step(30, 100)
    batch = batch_of(model)
    assert batch.is_unplaced is not None
    assert batch.is_unplaced.sum(dim=1).tolist() == [6, 6, 6]  # int(8 * 0.25) keep their place
    told, images = model.told(batch).detach().double().numpy(), model.normalise(batch.images)
    tokens = model.backbone.tokens(images)  # ty: ignore[unresolved-attribute]
    patches, about = tokens.patches.detach().double().numpy(), tokens.class_token.detach().double().numpy()
    near = np.exp(-((distances(4) / 0.7) ** 2))
    near /= near.sum(axis=1, keepdims=True)
    off = 0.0
    for i in range(3):
        cosine = patches[i] @ about[i] / np.linalg.norm(patches[i], axis=1) / np.linalg.norm(about[i])
        weights = np.exp(cosine / 0.1)[batch.shown[i]]
        for k, place in enumerate(batch.shown[i].tolist()):
            logs = told[i, k] - np.log(np.exp(told[i, k]).sum())
            off -= float(batch.is_unplaced[i, k]) * weights[k] / weights.mean() * (near[place] * logs).sum()
    found = model(batch)
    assert found.terms["positions"].item() == pytest.approx(off, rel=1e-5)
    assert float(model.units(batch)["positions"]) == 18
    model.eval()  # neither smooth nor weighted
    logs = torch.from_numpy(told).log_softmax(dim=2).gather(2, batch.shown[..., None])[..., 0]
    assert model(batch).terms["positions"].item() == pytest.approx(-float(logs[batch.is_unplaced].sum()), rel=1e-5)
    right = torch.from_numpy(told).argmax(dim=2) == batch.shown
    assert found.metrics["accuracy"].total == right[batch.is_unplaced].sum()


def test_labels_of_a_place_sum_to_one_and_end_sharp() -> None:
    assert_close(near_places((3, 5), 1.0).sum(dim=1), torch.ones(15))
    assert torch.equal(near_places((3, 5), 0.0), torch.eye(15))
    assert_close(near_places((3, 5), 0.01), torch.eye(15))


def test_without_its_place_a_patch_could_lie_anywhere() -> None:
    model = task(corruption=HidePatches(hidden=0.5, unplaced=0.9), target=Positions(grid=(4, 4))).eval()
    batch = batch_of(model)  # int(8 * 0.1) are told: none
    assert batch.is_unplaced is not None
    assert batch.is_unplaced.all()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    cells = batch.images.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    other = part_of(batch, slice(None))
    moved = cells[:, order].unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5)
    other.images = moved.flatten(4, 5).flatten(2, 3)
    other.is_hidden = batch.is_hidden[:, order]
    other.shown = order.argsort()[batch.shown]  # the same patches in the same order, at other places
    assert_close(model.told(other), model.told(batch), atol=1e-5, rtol=1e-4)


def test_with_every_place_told_they_are_the_tokens_themselves() -> None:
    torch.manual_seed(0)
    backbone, images = vit().build().eval(), torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 3, 9], [5, 6, 15]])
    none, instead = torch.zeros(2, 3, dtype=torch.bool), torch.randn(24)
    expected = backbone.tokens(images, keep)
    found = backbone.unplaced_tokens(images, keep, none, instead)
    assert_close(found.before_norm, expected.before_norm)
    with torch.no_grad():
        found = backbone.unplaced_tokens(
            images, keep, torch.tensor([[False, True, False], [True, False, True]]), instead
        )
        backbone.embeddings.position_embedding[0, [4, 6, 16]] = instead
    assert_close(found.patches, backbone.tokens(images, keep).patches)


@pytest.mark.parametrize("decoder", [None, LinearPatchesConfig()], ids=["transformer", "linear"])
def test_five_bands_and_any_split(decoder: LinearPatchesConfig | None) -> None:
    more = {} if decoder is None else {"decoder": decoder}
    same_as_halves(task(channels=5, **PLACES, **more))


def test_hidden_pixels_are_not_seen_and_what_is_nowhere_learns() -> None:
    model = task(**PLACES)
    batch = batch_of(model)
    model(batch).terms["positions"].backward()
    assert model.nowhere.grad is not None
    assert model.nowhere.grad.abs().sum() > 0
    cells = batch.is_hidden.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = part_of(batch, slice(None))
    other.images = torch.where(cells, 255 - batch.images, batch.images)
    assert torch.equal(model.told(batch), model.told(other))


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"target": Positions()}, "knows them all", "unplaced: 0.75"),
        ({"corruption": HidePatches(replaced=True, unplaced=0.5)}, "in their place", "replaced=false"),
        (PLACES | {"backbone": TimmConfig(name="test_vit")}, "always says where", "intern_vit"),
    ],
)
def test_parts_that_do_not_fit_say_so(settings: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        task(**settings)
    assert fix in str(caught.value)


def test_images_of_another_grid_say_which_size_fits() -> None:
    model = task(**PLACES)
    with pytest.raises(UserError, match="images of 2 x 2 patches") as caught:
        model(batch_of(model, side=16))
    assert "--size 32" in str(caught.value)
