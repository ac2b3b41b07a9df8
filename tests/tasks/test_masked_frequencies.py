"""Removed frequencies beside numpy's own transform, and what follows from Parseval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_models import batch_of, same_as_halves, task, vit
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig
from vistruct.contracts import DataInfo
from vistruct.heads.patch_decoder import LinearPatchesConfig
from vistruct.ops.spectra import is_slow, spectral_distance, without_frequencies
from vistruct.tasks.masked import MaskedConfig
from vistruct.tasks.masked_batches import FilterFrequencies, HidePatches
from vistruct.tasks.masked_targets import Spectrum, image_of_patches, patches_of_pixels

LINEAR = LinearPatchesConfig()
OF_ALL = HidePatches(replaced=True)  # patches are hidden, and every frequency counts


def circle(side: int, radius: float) -> np.ndarray:
    """bool[side, side], around the centre of a shifted spectrum."""
    y, x = np.mgrid[:side, :side] - side // 2
    return np.hypot(y, x) <= radius


@pytest.mark.parametrize("low_pass", [0.0, 1.0], ids=["high", "low"])
def test_an_image_is_filtered_and_told_as_published(low_pass: float) -> None:
    model = task(corruption=FilterFrequencies(low_pass=low_pass), target=Spectrum(), decoder=LINEAR).eval()
    batch = batch_of(model)
    removed = circle(32, 16 * 32 / 224)
    removed = ~removed if low_pass else removed
    told = model.told(batch).detach()
    whole, off = told.numpy().reshape(3, 4, 4, 8, 8, 3), 0.0
    for i in range(3):
        pixels = batch.images[i].double().numpy() / 255
        centred = np.fft.fftshift(np.fft.fft2(pixels), axes=(1, 2)) * ~removed
        left = np.clip(np.fft.ifft2(np.fft.ifftshift(centred, axes=(1, 2))).real, 0, 1)
        np.testing.assert_allclose(model.corrupted(batch)[i].detach(), (left - 0.5) / 0.25, atol=1e-4)
        image = whole[i].transpose(4, 0, 2, 1, 3).reshape(3, 32, 32)  # rows and columns of patches, then of pixels
        ours = np.fft.fftshift(np.fft.fft2(image, norm="ortho"), axes=(1, 2))
        theirs = np.fft.fftshift(np.fft.fft2((pixels - 0.5) / 0.25, norm="ortho"), axes=(1, 2))
        distance = np.sqrt((ours - theirs).real ** 2 + (ours - theirs).imag ** 2 + 1e-12)
        off += distance[:, removed].sum() / removed.sum() / 3
    assert model(batch).terms["spectrum"].item() == pytest.approx(off, rel=1e-5)
    assert float(model.units(batch)["spectrum"]) == 3


def test_a_circle_means_the_same_at_any_size_and_the_mean_is_coarse() -> None:
    assert torch.equal(is_slow((224, 224), 16 / 224), torch.from_numpy(np.fft.ifftshift(circle(224, 16))))
    wide = is_slow((32, 64), 0.1)
    assert torch.equal(wide[:, ::2], is_slow((32, 32), 0.1))
    assert is_slow((1, 1), 0.1).item()


def test_what_was_removed_is_not_seen() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    removed = torch.stack([is_slow((16, 16), 0.2), ~is_slow((16, 16), 0.2)])
    left = without_frequencies(images, removed)
    (left * torch.rand(left.shape)).sum().backward()
    assert images.grad is not None
    reached = torch.fft.fft2(images.grad).abs()
    assert float(reached[removed[:, None].expand(reached.shape)].max()) < 1e-4 < float(reached.max())
    fine = torch.randn(2, 3, 16, 16) - without_frequencies(torch.randn(2, 3, 16, 16) * 0, removed)
    fine = fine - without_frequencies(fine, removed)  # nothing but what is removed
    assert_close(without_frequencies(images + fine, removed), left, atol=1e-5, rtol=0)


def test_all_frequencies_squared_are_the_pixels_squared() -> None:
    model = task(corruption=OF_ALL, target=Spectrum(power=2), decoder=LINEAR)
    batch = batch_of(model)
    whole = image_of_patches(model.told(batch), 8, 4)
    expected = (whole - model.normalise(batch.images)).square().mean(dim=(1, 2, 3)).sum()
    assert_close(model(batch).terms["spectrum"], expected)
    assert_close(patches_of_pixels(whole, 8), model.told(batch))


def test_hard_frequencies_weigh_more() -> None:
    draw = torch.Generator().manual_seed(5)
    told, truth = torch.randn(2, 3, 8, 6, generator=draw), torch.randn(2, 3, 8, 6, generator=draw)
    found = spectral_distance(told, truth, torch.ones(2, 8, 6, dtype=torch.bool), 2, 1.0)
    off = np.abs(np.fft.fft2((told - truth).double().numpy(), norm="ortho"))
    weights = off / off.max(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(found, (weights * off**2).mean(axis=(1, 2, 3)), rtol=1e-5)
    assert spectral_distance(told, told, torch.zeros(2, 8, 6, dtype=torch.bool), 2, 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("corruption", [FilterFrequencies(), OF_ALL], ids=["frequencies", "patches"])
def test_five_bands_and_any_split(corruption: FilterFrequencies | HidePatches) -> None:
    model = task(channels=5, corruption=corruption, target=Spectrum(focal=1.0), decoder=LINEAR).eval()
    same_as_halves(model)


def test_any_backbone_learns_and_raw_values_are_not_clipped() -> None:
    model = task(backbone=TimmConfig(name="test_resnet"), corruption=FilterFrequencies(), target=Spectrum())
    model(batch_of(model, side=64)).terms["spectrum"].backward()
    config = MaskedConfig(
        backbone=vit(), corruption=FilterFrequencies(low_pass=0), decoder=LINEAR, mean=(40.0,), std=(9.0,)
    )
    raw = config.build(DataInfo(channels=3, pixels="raw"), Path())
    batch = batch_of(raw)
    batch.images = 30 + batch.images.float()
    assert batch.is_removed is not None
    seen = raw.corrupted(batch) * 9 + 40
    assert float(seen.min()) < -1
    assert math.isclose(float(seen.mean()), 0, abs_tol=1e-3)
