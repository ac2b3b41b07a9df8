"""What a question shows of an object moves with its image, and stays what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vistruct.contracts import Objects, Prompt, Sample
from vistruct.errors import UserError
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.geometry import flip_horizontal, flip_vertical, rescale, resize, turn
from vistruct.vlm.picture import Frame, coverage
from vistruct.vlm.regions import region_of

SIZE = (48, 64)
KINDS: tuple[Prompt, ...] = ("box", "point", "scribble", "mask")
Grid = Callable[[torch.Tensor], torch.Tensor]


def sample() -> Sample:
    """A slanted bar that has a mask, and a plain box."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    bar = ((rows - 20 - (columns - 30) // 4).abs() < 5) & ((columns - 30).abs() < 20)
    return Sample(
        id="a",
        image_id="a",
        seed=0,
        images=[torch.zeros(3, *SIZE, dtype=torch.uint8)],
        objects=Objects(
            labels=torch.zeros(2, dtype=torch.int64),
            boxes_xyxy=torch.tensor([[11.0, 11.0, 50.0, 30.0], [20.0, 30.0, 40.0, 44.0]]),
            masks=torch.stack([bar, torch.zeros_like(bar)]),
        ),
    )


def seen(of: Sample, kind: Prompt, row: int = 0) -> torch.Tensor:
    """float[h, w], a cell for every 4 pixels of the image."""
    high, wide = of.images[0].shape[1:]
    region = region_of(of.objects, row, kind)
    assert region.kind == kind
    return coverage([region], Frame(size_hw=(high, wide)), (high // 4, wide // 4))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("move", "likewise"),
    [
        (flip_horizontal, lambda grid: grid.flip(-1)),
        (flip_vertical, lambda grid: grid.flip(-2)),
        (lambda one: turn(one, 1), lambda grid: torch.rot90(grid, 1)),
        (lambda one: crop(one, (8, 4, 56, 44)), lambda grid: grid[1:11, 2:14]),
        (lambda one: pad(one, (56, 72), (4, 8)), lambda grid: torch.nn.functional.pad(grid, (2, 0, 1, 1))),
    ],
    ids=["flip", "flip down", "turn", "crop", "pad"],
)
def test_what_is_shown_moves_with_the_image(kind: Prompt, move: Callable[[Sample], Sample], likewise: Grid) -> None:
    before, after = likewise(seen(sample(), kind)), seen(move(sample()), kind)
    if kind in ("box", "mask"):
        torch.testing.assert_close(after, before)
        return
    # A click and a stroke are drawn anew and as thick as the new picture asks: near the same place.
    at = [places(grid) for grid in (before, after)]
    assert (at[0] - at[1]).abs().max() < 1.1


def places(grid: torch.Tensor) -> torch.Tensor:
    """float[2], the middle of what is covered, in cells."""
    return torch.stack([(grid.sum(1 - axis) * torch.arange(grid.shape[axis])).sum() / grid.sum() for axis in (0, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_scales_with_the_image(kind: Prompt) -> None:
    frame, large = Frame(size_hw=SIZE), rescale(sample(), 3)
    before = coverage([region_of(sample().objects, 0, kind)], frame, (8, 8))
    after = coverage([region_of(large.objects, 0, kind)], Frame(size_hw=(144, 192)), (8, 8))
    assert (before - after).abs().mean() < 0.02
    stretched = resize(sample(), (48, 48))
    assert region_of(stretched.objects, 0, kind).kind == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, *range(5)])
def test_clicks_and_strokes_are_inside_of_the_mask(kind: Prompt, seed: int | None) -> None:
    objects = sample().objects
    region = region_of(objects, 0, kind, seed)
    if kind == "mask":
        assert torch.equal(torch.from_numpy(region.mask), objects.masks[0])
    elif kind == "box":
        assert region.xy == ((11.0, 11.0), (50.0, 30.0))
    else:
        assert all(objects.masks[0, int(y), int(x)] for x, y in region.xy)
        assert (len(region.xy) == 1) == (kind == "point")
        assert region_of(objects, 0, kind, seed) == region or region.xy == region_of(objects, 0, kind, seed).xy


def test_seeds_give_other_clicks_and_strokes() -> None:
    for kind in ("point", "scribble"):
        assert len({region_of(sample().objects, row, kind, seed).xy for row in (0, 1) for seed in range(4)}) == 8


def test_without_a_mask_the_box_says_where() -> None:
    objects = sample().objects
    assert region_of(objects, 1, "point").xy == ((30.0, 37.0),)
    for seed in range(5):
        for x, y in region_of(objects, 1, "scribble", seed).xy:
            assert 20 <= x <= 40
            assert 30 <= y <= 44
    with pytest.raises(UserError, match="object 1 is to be shown by its mask"):
        region_of(objects, 1, "mask")


def test_an_object_that_is_a_click_is_shown_where_it_is() -> None:
    click = Objects(
        labels=torch.zeros(1, dtype=torch.int64),
        boxes_xyxy=torch.tensor([[4.0, 4.0, 30.0, 30.0]]),
        keypoints=torch.tensor([[[5.0, 6.5, 2.0]]]),
    )
    assert region_of(click, 0, "point", seed=3).xy == ((5.0, 6.5),)


def test_a_painted_scribble_is_drawn_along_itself() -> None:
    """Both readings of its mask, an object's or a stroke's, lead along the same way."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    way = 24 + 10 * torch.sin(columns / 10)
    painted = ((rows - way).abs() < 2) & (columns > 6) & (columns < 58)
    objects = Objects(labels=torch.zeros(1, dtype=torch.int64), masks=painted[None])
    line = torch.tensor(region_of(objects, 0, "scribble").xy)
    assert (line[:, 1] - (24 + 10 * torch.sin(line[:, 0] / 10))).abs().max() < 3
    assert line[:, 0].max() - line[:, 0].min() > 35
