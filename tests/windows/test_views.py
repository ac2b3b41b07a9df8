"""Views of a batch: what is seen in one, put back, is what was there; and several are one."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from vistruct.contracts import Detections
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, quads_to_cxcywha
from vistruct.windows.views import Views, joined, undo, view

FLIPS = ["none", "horizontal", "vertical", "diagonal"]
SIZES = [(20, 30), (32, 40)]


def batch() -> torch.Tensor:
    images = torch.zeros(2, 3, 32, 48)
    for image, (h, w) in zip(images, SIZES, strict=True):
        image[:, :h, :w] = torch.rand(3, h, w, generator=torch.Generator().manual_seed(h))
    return images


@pytest.mark.parametrize("flip", FLIPS)
def test_a_flip_stays_in_the_real_image_and_twice_is_the_old_one(flip):
    images = batch()
    once = view(images, SIZES, flip, 1.0, 16)
    assert once.sizes_hw == SIZES
    assert (once.images[0, :, 20:] == 0).all()
    assert torch.equal(view(once.images, SIZES, flip, 1.0, 16).images, images)
    if flip != "none":
        assert not torch.equal(once.images, images)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_a_bright_rectangle_is_found_where_it_is(flip, scale):
    """A head that sees the rectangle in the view: the bounding box of what is bright there."""
    images = torch.zeros(1, 3, 64, 96)
    images[:, :, 12:30, 20:60] = 1.0
    seen = view(images, [(50, 80)], flip, scale, 32)
    assert seen.images.shape[-1] % 32 == seen.images.shape[-2] % 32 == 0 or scale == 1
    y, x = (seen.images[0, 0] > 0.5).nonzero(as_tuple=True)
    box = torch.tensor([[x.min(), y.min(), x.max() + 1, y.max() + 1]]).float()
    found = Detections(boxes_xyxy=box, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64))
    back = undo(found, seen, (50, 80)).boxes_xyxy
    assert (back - torch.tensor([20.0, 12.0, 60.0, 30.0])).abs().max() <= 0.5 / scale + 0.5


@pytest.mark.parametrize("flip", FLIPS)
def test_oriented_boxes_come_back_as_the_same_rectangles(flip):
    boxes = torch.tensor([[40.0, 25.0, 30.0, 10.0, 0.4], [20.0, 12.0, 12.0, 6.0, -1.2], [30, 30, 8, 8, -math.pi / 2]])
    seen = view(torch.zeros(1, 3, 64, 96), [(50, 80)], flip, 1.0, 32)
    there = cxcywha_to_quads(boxes).double()  # by hand: where each corner is in the view
    if flip in ("horizontal", "diagonal"):
        there[..., 0] = 80 - there[..., 0]
    if flip in ("vertical", "diagonal"):
        there[..., 1] = 50 - there[..., 1]
    turned = quads_to_cxcywha(there).float()
    found = Detections(
        boxes_xyxy=cxcywha_to_xyxy(turned), scores=torch.ones(3), labels=torch.arange(3), boxes_cxcywha=turned
    )
    back = undo(found, seen, (50, 80))
    ours, truth = (cxcywha_to_quads(b).sort(dim=1).values for b in (back.boxes_cxcywha, boxes))
    assert torch.allclose(ours, truth, atol=1e-3)
    assert torch.allclose(back.boxes_xyxy, cxcywha_to_xyxy(boxes), atol=1e-3)


@pytest.mark.parametrize("flip", FLIPS)
def test_masks_are_flipped_with_their_boxes(flip):
    mask = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = view(torch.zeros(1, 3, 32, 32), [(32, 32)], flip, 1.0, 32)
    axes = {"none": (), "horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}[flip]
    found = Detections(
        boxes_xyxy=torch.tensor([[0.0, 0.0, 8.0, 8.0]]), scores=torch.ones(1), labels=torch.zeros(1).long(),
        masks=mask.flip(axes) if axes else mask,
    )  # fmt: skip
    assert torch.equal(undo(found, seen, (32, 32)).masks, mask)


def test_what_two_views_agree_on_is_one_and_what_one_alone_found_stays():
    def one(boxes: list[list[float]], scores: list[float], turned: list[list[float]] | None = None) -> Detections:
        return Detections(
            boxes_xyxy=torch.tensor(boxes),
            scores=torch.tensor(scores),
            labels=torch.zeros(len(scores), dtype=torch.int64),
            boxes_cxcywha=None if turned is None else torch.tensor(turned),
        )

    both = joined([one([[0, 0, 10, 10.0]], [0.6]), one([[1, 0, 10, 10.0], [50, 50, 60, 60]], [0.9, 0.4])], 0.5, 100)
    assert both.scores.tolist() == pytest.approx([0.9, 0.4])
    assert len(joined([both, both], 0.5, 1).scores) == 1
    # Crossed bars: their hulls are one box, and they are two objects.
    crossed = joined(
        [
            one([[0, 0, 20, 20.0]], [0.8], [[10, 10, 28, 2, math.pi / 4]]),
            one([[0, 0, 20, 20.0]], [0.7], [[10, 10, 28, 2, -math.pi / 4]]),
        ],
        0.5,
        100,
    )
    assert len(crossed.scores) == 2


@pytest.mark.parametrize("values", [{"scales": (0.0,)}, {"scales": ()}, {"flips": ("sideways",)}])
def test_views_that_show_nothing_are_refused(values):
    with pytest.raises(ValidationError):
        Views(**values)
