"""Windows put together: the slow way gives the same, MONAI gives the same, and no more than a few rows are held."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from vistruct.errors import UserError
from vistruct.windows.slide import Slide, Strip, num_windows, resized, slide
from vistruct.windows.views import Views

FLIPS = ("none", "horizontal", "vertical", "diagonal")
K = 3


def image(height: int, width: int, times: int = 1) -> Tensor:
    return torch.randint(0, 256, (times, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def of_pixels(images: Tensor) -> Tensor:
    """A model that looks at one pixel at a time."""
    return torch.softmax(images[:, 0].float() / 100, dim=1)


def of_windows(images: Tensor) -> Tensor:
    """A model whose answer depends on all of the window, and on the place in it."""
    x = images.float().flatten(1, 2)[:, :K] / 100
    here = torch.arange(x.shape[-1]) / x.shape[-1] + torch.arange(x.shape[-2])[:, None] / x.shape[-2]
    return torch.softmax(x + F.avg_pool2d(x, 3, 1, 1) * here + x.mean(dim=(2, 3), keepdim=True), dim=1)


def whole(strips: list[Strip]) -> Tensor:
    assert [strip.y0 for strip in strips] == [0, *(strip.y1 for strip in strips[:-1])]
    assert all(strip.probabilities.shape[1] == strip.y1 - strip.y0 > 0 for strip in strips)
    return torch.cat([strip.probabilities for strip in strips], dim=1)


def ask(pixels: Tensor, how: Slide | None, look: Any, views: Views | None = None, **more: Any) -> Tensor:
    size_hw = (pixels.shape[-2], pixels.shape[-1])
    return whole(list(slide(lambda w: pixels[..., w[1] : w[3], w[0] : w[2]], size_hw, how, look, views, **more)))


def the_slow_way(pixels: Tensor, how: Slide, look: Any, views: Views) -> np.ndarray:
    """Whole arrays of sums and of weights for every view, pixel weights one by one."""
    assert how.size is not None
    height, width = pixels.shape[-2:]
    seen = []
    for scale in views.scales:
        size, overlap = round(how.size / scale), round(how.overlap / scale)
        h, w = min(size, height), min(size, width)

        def corners(length: int, size: int = size, overlap: int = overlap) -> list[int]:
            found, at = [], 0
            while at + size < length:
                found.append(at)
                at += size - overlap
            return [*found, max(0, length - size)]

        def weight(i: int, n: int, overlap: int = overlap) -> float:
            return min(i + 1, n - i, overlap + 1) if how.blend == "smooth" else 1.0

        weights = np.array([[weight(i, h) * weight(j, w) for j in range(w)] for i in range(h)])
        for flip in views.flips:
            total, count = np.zeros((K, height, width)), np.zeros((height, width))
            for y in corners(height):
                for x in corners(width):
                    part = pixels[..., y : y + h, x : x + w]
                    shown = (how.size if h == size else round(h * scale), how.size if w == size else round(w * scale))
                    part = resized(part, shown)
                    axes = {"none": [], "horizontal": [-1], "vertical": [-2], "diagonal": [-1, -2]}[flip]
                    found = look(part.flip(axes)[None])[0].flip(axes)
                    found = F.interpolate(found[None], (h, w), mode="bilinear", align_corners=False)[0]
                    total[:, y : y + h, x : x + w] += found.numpy() * weights
                    count[y : y + h, x : x + w] += weights
            seen.append(total / count)
    return np.mean(seen, axis=0)


@pytest.mark.parametrize("blend", ["smooth", "even"])
@pytest.mark.parametrize(
    ("size_hw", "size", "overlap", "batch"),
    [((37, 50), 16, 5, 3), ((37, 50), 16, 8, 1), ((40, 12), 16, 15, 7), ((9, 70), 16, 0, 100), ((16, 16), 16, 4, 2)],
)
@pytest.mark.parametrize("views", [Views(flips=("none",)), Views(flips=FLIPS, scales=(0.7, 1.0, 1.6))])
def test_the_band_gives_what_whole_arrays_give(blend, size_hw, size, overlap, batch, views):
    how = Slide(size=size, overlap=overlap, batch=batch, blend=blend)
    pixels = image(*size_hw)
    found = ask(pixels, how, of_windows, views)
    np.testing.assert_allclose(found.numpy(), the_slow_way(pixels, how, of_windows, views), atol=2e-6)


@pytest.mark.parametrize("blend", ["smooth", "even"])
@pytest.mark.parametrize("overlap", [0, 1, 7, 12, 23])
def test_a_model_of_single_pixels_does_not_see_the_windows(blend, overlap):
    pixels = image(61, 47)
    for views in (None, Views(flips=FLIPS)):
        found = ask(pixels, Slide(size=24, overlap=overlap, blend=blend), of_pixels, views)
        torch.testing.assert_close(found, of_pixels(pixels[None])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("blend", ["smooth", "even"])
def test_probabilities_sum_to_one_everywhere_in_all_views(blend):
    how = Slide(size=20, overlap=9, blend=blend)
    found = ask(image(71, 33), how, of_windows, Views(flips=FLIPS, scales=(0.5, 1.25, 3.0)))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(71, 33), atol=1e-5, rtol=0)
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("blend", "overlap"), [("even", 0), ("even", 16), ("smooth", 8), ("smooth", 16), ("smooth", 5)]
)
def test_monai_gives_the_same_for_the_same_weights(blend, overlap):
    """MONAI's importance map is ours where it is told so; windows lie alike."""
    pixels = image(75, 58)
    ramp = torch.tensor([min(i + 1, 32 - i, overlap + 1) for i in range(32)], dtype=torch.float32)
    monai: Any = sliding_window_inference(
        pixels[:1].float(),
        (32, 32),
        4,
        lambda batch: of_windows(batch[:, None]),
        overlap=overlap / 32,
        roi_weight_map=(ramp[:, None] * ramp if blend == "smooth" else None),
    )
    found = ask(pixels, Slide(size=32, overlap=overlap, blend=blend, batch=4), of_windows)
    torch.testing.assert_close(found, monai[0], atol=2e-6, rtol=0)


def test_the_ramp_is_a_straight_line_over_the_overlap():
    """Two windows that answer 0 and 1: across their overlap of 4 the answer rises by a fifth a pixel."""
    answers = iter([0.0, 1.0])

    def look(images: Tensor) -> Tensor:
        return torch.stack([torch.full((1, *one.shape[-2:]), next(answers)) for one in images])

    found = ask(image(10, 16), Slide(size=10, overlap=4), look)
    expected = torch.tensor([0.0] * 6 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 6)
    torch.testing.assert_close(found[0], expected.expand(10, 16))


@pytest.mark.parametrize("flip", FLIPS)
def test_a_flip_is_undone_on_the_answer(flip):
    """A model that marks the left quarter of what it sees, flipped: the mark is where the flip puts it."""

    def look(images: Tensor) -> Tensor:
        left = torch.zeros(len(images), 1, 8, 12)
        left[..., :2, :3] = 1
        return left

    found = ask(image(8, 12), None, look, Views(flips=(flip,)))[0]
    rows = slice(6, None) if flip in ("vertical", "diagonal") else slice(0, 2)
    columns = slice(9, None) if flip in ("horizontal", "diagonal") else slice(0, 3)
    assert found[rows, columns].eq(1).all()
    assert found.sum() == 6


def test_a_scale_shows_things_as_many_times_as_large():
    shapes = []

    def look(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape[-2:]))
        return images[:, 0, :1].float() / 255

    reads = []

    def read(window: tuple[int, int, int, int]) -> Tensor:
        reads.append(window)
        x0, y0, x1, y1 = window
        return torch.full((1, 3, y1 - y0, x1 - x0), 7, dtype=torch.uint8)

    strips = list(
        slide(read, (100, 30), Slide(size=40, overlap=10, batch=1), look, Views(flips=("none",), scales=(2.0, 0.5)))
    )
    assert {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in reads} == {(20, 20), (30, 80)}  # a half; twice, as far as it goes
    assert set(shapes) == {(40, 40), (40, 15)}
    torch.testing.assert_close(whole(strips)[0], torch.full((100, 30), 7 / 255))


@pytest.mark.parametrize("flips", [("none",), ("none", "horizontal"), FLIPS])
@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_a_pass_never_holds_more_than_the_batch_and_rows_share_it(flips, batch):
    sizes = []

    def look(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return of_windows(images)

    how = Slide(size=16, overlap=4, batch=batch)
    ask(image(64, 28), how, look, Views(flips=flips))  # 2 columns, 5 rows
    assert max(sizes) <= batch
    assert sum(sizes) == 10 * len(flips)
    if batch >= 8:
        assert len(sizes) <= math.ceil(10 / (batch // len(flips)))


def test_pairs_are_read_and_shown_together():
    pixels = image(30, 30, times=2)

    def look(images: Tensor) -> Tensor:
        assert images.shape[1:3] == (2, 3)
        return (images[:, 0] != images[:, 1]).any(dim=1, keepdim=True).float()

    found = ask(pixels, Slide(size=16, overlap=4), look, Views())
    torch.testing.assert_close(found[0], (pixels[0] != pixels[1]).any(dim=0).float())


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("how", [None, Slide(size=16, overlap=8), Slide(size=1, overlap=0)])
def test_an_image_of_one_row_column_or_pixel_is_an_image(size_hw, how):
    pixels = image(*size_hw)
    for views in (None, Views(flips=FLIPS, scales=(1.0,))):
        torch.testing.assert_close(ask(pixels, how, of_pixels, views), of_pixels(pixels[None])[0], atol=1e-5, rtol=0)
    found = ask(pixels, how, of_pixels, Views(scales=(0.01, 0.6, 2.0)))
    assert found.shape == (K, *size_hw)
    assert found.isfinite().all()


def test_shown_at_another_size_the_answer_is_on_the_grid_of_the_file():
    shapes = []

    def look(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape[-2:]))
        return of_pixels(images)

    pixels = torch.full((1, 3, 50, 30), 90, dtype=torch.uint8)
    for how in (None, Slide(size=16, overlap=4)):
        found = ask(pixels, how, look, shown_hw=(20, 60))
        torch.testing.assert_close(found, of_pixels(pixels[None])[0])
    assert shapes[0] == (20, 60)
    assert set(shapes[1:]) == {(16, 16)}


@pytest.mark.parametrize("views", [None, Views(flips=("none", "vertical"), scales=(0.75, 1.0, 1.5))])
def test_a_tall_image_takes_no_more_memory_than_a_short_one(views):
    """What the strips and the band hold together, and how far reading is ahead of what has been given."""
    how = Slide(size=32, overlap=16, batch=4)
    width, given, ahead = 40, 0, []

    def read(window: tuple[int, int, int, int]) -> Tensor:
        ahead.append(window[3] - given)
        return torch.zeros(1, 3, window[3] - window[1], window[2] - window[0], dtype=torch.uint8)

    highest = {}
    for height in (200, 4000):
        given = 0
        ahead.clear()
        for strip in slide(read, (height, width), how, of_windows, views):
            given = strip.y1
            assert strip.probabilities.untyped_storage().nbytes() == strip.probabilities.nbytes
        assert given == height
        highest[height] = max(ahead)
    assert highest[4000] == highest[200] < 200


def test_the_number_of_windows_is_what_is_counted_while_sliding():
    how, views = Slide(size=16, overlap=4, batch=3), Views(scales=(0.5, 1.0))
    counts: list[int] = []
    ask(image(70, 45), how, of_windows, views, show=counts.append)
    assert counts == sorted(set(counts))
    assert counts[-1] == num_windows((70, 45), how, views)
    assert num_windows((70, 45), None) == 1


def test_half_precision_answers_are_added_up_in_single():
    pixels = image(40, 40)
    found = ask(pixels, Slide(size=16, overlap=12), lambda images: of_windows(images).half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=0), torch.ones(40, 40), atol=2e-3, rtol=0)


def test_windows_that_do_not_advance_are_refused():
    with pytest.raises(UserError, match="overlap=32 is not below size=32"):
        Slide(size=32, overlap=32)
