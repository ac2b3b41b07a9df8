"""Views of an image: pixels whose values are their own places say whether the geometry is right."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.transforms.views import View, ViewsConfig, views

PLAIN: dict[str, Any] = {"jitter": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0}


def sample_of(image: Tensor, seed: int = 0) -> Sample:
    return Sample(id="a", image_id="a", seed=seed, images=[image])


def places(height: int, width: int) -> Tensor:
    """float32[2, H, W], each pixel the (x, y) of its centre."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])


def noise(channels: int = 3, dtype: torch.dtype = torch.uint8, side: int = 40) -> Tensor:
    most = 256 if dtype == torch.uint8 else 65536
    drawn = torch.randint(0, most, (channels, side, side), generator=torch.Generator().manual_seed(3))
    return drawn / most if dtype == torch.float32 else drawn.to(dtype)


def inner(grid: Tensor, edge: int) -> Tensor:
    return grid[..., edge:-edge, edge:-edge]


@pytest.mark.parametrize("size", [24, 60], ids=["smaller", "larger"])
def test_pixels_that_are_their_own_places_lie_where_the_view_says(size: int) -> None:
    config = ViewsConfig(number=40, size=size, area=(0.3, 1.0), rot90=True, **PLAIN)
    seen = set()
    for view in views(sample_of(places(60, 83)), config):
        told = view.cells(size).permute(2, 0, 1)
        # Resizing keeps a plane a plane to a few hundredths of a pixel, but at the borders.
        torch.testing.assert_close(inner(view.pixels, 4).double(), inner(told, 4), rtol=0, atol=0.1)
        x0, y0, x1, y1 = view.xyxy
        assert 0 <= x0 < x1 <= 83
        assert 0 <= y0 < y1 <= 60
        seen.add((view.flip, view.quarters))
    assert seen == set(itertools.product([False, True], range(4)))


def test_a_whole_image_at_its_own_size_is_turned_to_the_pixel() -> None:
    image = places(16, 16)
    for view in views(
        sample_of(image), ViewsConfig(number=20, size=16, area=(1, 1), aspect=(1, 1), rot90=True, **PLAIN)
    ):
        assert view.xyxy == (0, 0, 16, 16)
        x, y = view.pixels.long()
        assert torch.equal(image[:, y, x], view.pixels)
        torch.testing.assert_close(view.cells(16).permute(2, 0, 1), view.pixels.double(), rtol=0, atol=1e-9)


def test_cells_of_one_view_are_found_in_another() -> None:
    config = ViewsConfig(number=6, size=32, area=(0.4, 1.0), rot90=True, **PLAIN)
    found = 0
    for one, other in itertools.permutations(views(sample_of(places(90, 90)), config), 2):
        there = one.cells_in(other, 8)
        inside = ((there > 4) & (there < 28)).all(dim=-1)
        x, y = there[inside].long().unbind(dim=-1)
        told = other.pixels[:, y, x].T.double()  # the place of the pixel that the centre falls into
        pixel = max(other.xyxy[2] - other.xyxy[0], other.xyxy[3] - other.xyxy[1]) / 32
        assert (told - one.cells(8)[inside]).abs().max() <= pixel / 2 + 0.1
        found += int(inside.sum())
    assert found > 200


def test_cells_of_a_view_in_itself_are_its_own_centres() -> None:
    view = View(pixels=torch.zeros(3, 32, 32), xyxy=(5, 7, 50, 30), flip=True, quarters=3)
    centres = view.cells_in(view, 4)
    torch.testing.assert_close(centres[1, 2], torch.tensor([20.0, 12.0], dtype=torch.float64))


def test_views_follow_the_seed_and_the_group_alone() -> None:
    config = ViewsConfig(number=3, size=16, rot90=True, solarise=0.5)
    first = views(sample_of(noise()), config)
    again = views(sample_of(noise()), config)
    for one, other in zip(first, again, strict=True):
        assert one.xyxy == other.xyxy
        assert torch.equal(one.pixels, other.pixels)
    others = [*views(sample_of(noise()), config, group=1), *views(sample_of(noise(), seed=1), config)]
    assert len({view.xyxy for view in [*first, *others]}) == 9


def test_switching_colours_on_moves_no_view() -> None:
    plain = views(sample_of(noise()), ViewsConfig(number=4, size=16, rot90=True, **PLAIN))
    loud = views(sample_of(noise()), ViewsConfig(number=4, size=16, rot90=True, colours=1, grey=1, blur=1, solarise=1))
    for one, other in zip(plain, loud, strict=True):
        assert (one.xyxy, one.flip, one.quarters) == (other.xyxy, other.flip, other.quarters)
        assert not torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, torch.uint8), (13, torch.uint16), (2, torch.float32), (3, torch.float32)]
)
def test_any_bands_keep_their_type_and_range_and_know_no_hue(channels: int, dtype: torch.dtype) -> None:
    image = noise(channels, dtype)
    loud = ViewsConfig(number=4, size=16, rot90=True, colours=1, hue=0.5, grey=1, blur=1, solarise=1)
    without = loud.model_copy(update={"hue": 0.0, "grey": 0.0, "solarise": 0.0})
    for one, other in zip(views(sample_of(image), loud), views(sample_of(image), without), strict=True):
        assert one.pixels.dtype == dtype
        assert one.pixels.shape == (channels, 16, 16)
        assert torch.equal(one.pixels, other.pixels)
        if dtype == torch.float32:
            assert float(one.pixels.min()) >= 0
            assert float(one.pixels.max()) <= 1


def test_grey_has_the_same_value_in_three_channels_and_solarising_turns_the_light_half() -> None:
    still: dict[str, Any] = {"number": 2, "size": 40, "area": (1, 1), "aspect": (1, 1), "hflip": 0, **PLAIN}
    (grey, _) = views(sample_of(noise()), ViewsConfig(**still | {"grey": 1}))
    assert torch.equal(grey.pixels[0], grey.pixels[1])
    assert torch.equal(grey.pixels[1], grey.pixels[2])
    (sun, _) = views(sample_of(noise()), ViewsConfig(**still | {"solarise": 1}))
    image = noise()
    assert torch.equal(sun.pixels, torch.where(image < 128, image, 255 - image))


def test_blur_is_a_gaussian_of_up_to_two_pixels_on_any_bands() -> None:
    still: dict[str, Any] = {"number": 8, "size": 40, "area": (1, 1), "aspect": (1, 1), "hflip": 0, **PLAIN}
    for channels, dtype, off in ((5, torch.float32, 1e-4), (3, torch.uint8, 0.6)):
        image, widths = noise(channels, dtype), set()
        for view in views(sample_of(image), ViewsConfig(**still | {"blur": 1})):
            # The width is not told: one of a fine row of them fits, and it lies within what is published.
            fits = [
                float((torch.from_numpy(_blurred(image, width)) - view.pixels.double()).abs().max())
                for width in torch.linspace(0.1, 2.0, 96).tolist()
            ]
            assert min(fits) < off + 0.02 * float(image.double().max())
            widths.add(fits.index(min(fits)))
        assert len(widths) > 4


def _blurred(image: Tensor, width: float) -> Any:
    return gaussian_filter(image.double().numpy(), (0, width, width), mode="mirror", radius=(0, 4, 4))


def test_values_without_black_and_white_are_refused_before_they_are_read() -> None:
    ViewsConfig(jitter=0).check("raw")
    ViewsConfig().check("uint16")
    with pytest.raises(UserError, match="neither"):
        ViewsConfig().check("raw")


@pytest.mark.parametrize("wrong", [{"area": (0.5, 0.2)}, {"area": (0, 1)}, {"area": (0.5, 2)}, {"aspect": (2, 1)}])
def test_areas_and_aspects_are_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is no range"):
        ViewsConfig(**wrong)


def test_an_image_of_one_pixel_has_views() -> None:
    for view in views(sample_of(torch.full((3, 1, 1), 7, dtype=torch.uint8)), ViewsConfig(size=8, rot90=True, **PLAIN)):
        assert view.xyxy == (0, 0, 1, 1)
        assert bool((view.pixels == 7).all())
        torch.testing.assert_close(view.cells(1)[0, 0], torch.tensor([0.5, 0.5], dtype=torch.float64))
