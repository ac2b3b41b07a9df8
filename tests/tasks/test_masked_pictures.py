"""Pictures of what was hidden and of what is told: what was shown is untouched, and the rest is what was told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_models import SMALL, batch_of, task
from torch.testing import assert_close

from vistruct.contracts import Restored, Sample
from vistruct.heads.patch_decoder import LinearPatchesConfig
from vistruct.ops.hog import drawn_gradients, oriented_gradients
from vistruct.pictures.restored import GONE, draw_restored
from vistruct.tasks.masked import Masked
from vistruct.tasks.masked_batches import FilterFrequencies, HidePatches, MaskedBatch
from vistruct.tasks.masked_targets import OrientedGradients, Pixels, Positions, Spectrum, over_pixels

LINEAR = LinearPatchesConfig()


def restored(model: Masked, batch: MaskedBatch, told: torch.Tensor) -> list[Restored]:
    """Of a model that tells this."""
    model.told = lambda _: told  # ty: ignore[invalid-assignment]
    with torch.no_grad():
        return model.eval().restore(batch)


@pytest.mark.parametrize("standardised", [True, False])
def test_who_tells_the_pixels_that_were_there_gets_the_image_back(standardised: bool) -> None:
    model = task(target=Pixels(standardised=standardised), channels=4)
    batch = batch_of(model, channels=4)
    truth = model.target.truth(model.normalise(batch.images))  # ty: ignore[unresolved-attribute]
    for found, image in zip(restored(model, batch, truth), batch.images, strict=True):
        assert [panel.title for panel in found.panels] == ["image", "shown, 25%", "reconstruction"]
        assert int((found.panels[2].image.int() - image.int()).abs().max()) <= 1
        assert bool(found.note) == standardised  # mean and contrast were not told


def test_shown_patches_are_those_of_the_image_and_hidden_ones_what_was_told() -> None:
    model = task(target=Pixels(standardised=False))
    batch = batch_of(model)
    hidden = over_pixels(batch.is_hidden, (32, 32), 8)
    for at, found in enumerate(restored(model, batch, torch.zeros(3, 16, 192))):  # the mean colour
        _, shown, told = found.panels
        assert shown.is_gone is not None
        assert torch.equal(shown.is_gone, hidden[at])
        assert torch.equal(told.image[:, ~hidden[at]], batch.images[at][:, ~hidden[at]])
        assert set(told.image[:, hidden[at]].unique().tolist()) == {128}


def test_frequencies_that_were_removed_are_the_told_ones_and_no_others() -> None:
    model = task(corruption=FilterFrequencies(low_pass=1.0), target=Spectrum(), decoder=LINEAR)
    batch = batch_of(model)
    assert batch.is_removed is not None
    whole = model._whole(batch)
    (found,) = model.target.drawn(torch.randn(3, 16, 192), batch, whole)
    off = np.abs(np.fft.fft2(found.images.numpy()) - np.fft.fft2(whole.images.numpy()))
    removed = batch.is_removed[:, None].expand(off.shape).numpy()
    assert off[~removed].max() < 1e-3 < off[removed].min()


def test_gradients_are_drawn_as_strokes_along_edges_where_they_were_told() -> None:
    edge = torch.zeros(1, 1, 16, 16)
    edge[:, :, 8:] = 255  # a horizontal edge
    drawn = drawn_gradients(oriented_gradients(edge, 16), 15)[0, 0].float()
    assert drawn[7].mean() > 3 * drawn[:, 7].mean()  # along it and not across
    model = task(corruption=HidePatches(hidden=0.4, replaced=True), target=OrientedGradients(), decoder=LINEAR)
    batch = batch_of(model)
    truth = model.target.truth(batch.images)  # ty: ignore[unresolved-attribute]
    same, nothing = (restored(model, batch, one)[0].panels for one in (truth, torch.zeros_like(truth)))
    assert torch.equal(same[2].image, same[3].image)
    cells = over_pixels(batch.is_hidden[:1], (60, 60), 15)[0]
    assert int(nothing[3].image[0][cells].max()) == 0
    assert torch.equal(nothing[3].image[0][~cells], same[2].image[0][~cells])


def test_patches_lie_where_they_are_said_to_and_another_date_is_beside() -> None:
    model = task(corruption=HidePatches(hidden=0.5, unplaced=0.5), target=Positions(grid=(4, 4)))
    batch = batch_of(model)
    right = torch.nn.functional.one_hot(batch.shown, 16).float()
    panel = restored(model, batch, right)[1].panels[2]
    assert panel.is_gone is not None
    assert torch.equal(panel.is_gone, over_pixels(batch.is_hidden, (32, 32), 8)[1])
    assert int((panel.image.int() - batch.images[1].int())[:, ~panel.is_gone].abs().max()) <= 1
    model = task(decoder=SMALL.model_copy(update={"looks_beside": True}))
    images = [torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (10, 90)]
    pair = model.collator([Sample(id="a", image_id="a", seed=0, images=images)])
    panels = model.eval().restore(pair)[0].panels
    assert [panel.title for panel in panels][1] == "other date, seen whole"
    assert torch.equal(panels[1].image, images[1])


def test_all_panels_have_the_brightness_of_the_image() -> None:
    model = task(channels=5)
    batch = batch_of(model, channels=5)
    floats = 3000 * torch.rand(3, 5, 32, 32)
    found = model.eval().restore(replace(batch, images=floats))[0]
    image, shown, told = found.panels
    assert_close(told.image[:, ~shown.is_gone], image.image[:, ~shown.is_gone], rtol=1e-4, atol=1e-2)  # ty: ignore
    picture = np.asarray(draw_restored(found))
    assert picture.shape[1] == 3 * 320 + 2 * 8
    top = 30 + 320 * int(shown.is_gone.reshape(4, 8, 4, 8)[:, 0, :, 0].flatten().int().argmax() // 4) // 4  # ty: ignore
    assert (picture[top + 40] == np.array(GONE)).all(axis=1).sum() >= 70
