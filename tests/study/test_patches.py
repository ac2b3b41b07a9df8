from __future__ import annotations

import numpy as np
import pytest
import torch

from vistruct.errors import UserError
from vistruct.study.patches import cell_labels, cut, dense_crops, object_patches

HEIGHT, WIDTH = 90, 120


def located(height=HEIGHT, width=WIDTH):
    """A scene whose red is the column and whose green is the row: a patch says where it came from."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = torch.arange(width)
    image[1] = torch.arange(height)[:, None]
    return image


def corners(patches):
    return patches[:, :2, 0, 0].long()  # [N, 2] xy


BOXES = torch.tensor([[40.0, 30, 60, 50], [100, 70, 118, 88], [2, 3, 6, 7]])


def test_each_object_is_in_the_middle_of_its_patch_or_the_patch_is_moved_inwards():
    patches, labels = object_patches(located(), BOXES, 16, seed=0)
    assert patches.shape == (6, 3, 16, 16)
    assert patches.dtype == torch.uint8
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]
    # Middles (50, 40), (109, 79), (4, 5); the last lower right corner is (104, 74).
    assert corners(patches)[:3].tolist() == [[42, 32], [101, 71], [0, 0]]


@pytest.mark.parametrize("side", [15, 16])
def test_no_ground_patch_has_its_middle_near_a_box_and_every_free_place_can_be_drawn(side):
    margin, image = 5, located(40, 50)
    boxes = np.array([[10.0, 10, 20, 22.5]], np.float32)
    seen = set()
    for seed in range(600):
        patches, _ = object_patches(image, boxes, side, seed, margin=margin)
        seen.add(tuple(corners(patches)[1].tolist()))
    free = {  # the slow way: every corner by its definition
        (x, y)
        for x in range(50 - side + 1)
        for y in range(40 - side + 1)
        if not (5 < x + side / 2 < 25 and 5 < y + side / 2 < 27.5)
    }
    assert seen <= free
    assert len(seen) > 0.5 * len(free)  # 600 draws from some 600 places reach 1 - 1/e of them
    for place in (min(seen), max(seen)):
        assert place in free


def test_ground_is_drawn_without_repeats_from_the_last_free_places():
    image = located(10, 30)
    boxes = torch.tensor([[0.0, 0, 12, 10], [12, 0, 22, 10]])
    patches, _ = object_patches(image, boxes, 10, seed=3, margin=1)
    # Middles run from 5 to 25; those at 23, 24 and 25 are at least 1 px right of 22.
    assert set(corners(patches)[2:, 0].tolist()) < {18, 19, 20}
    assert len(set(corners(patches)[2:, 0].tolist())) == 2
    with pytest.raises(UserError, match="1 places of ground 3 px outside every box, not 2"):
        object_patches(image, boxes, 10, seed=3, margin=3)


def test_patches_depend_on_the_seed_alone():
    first, _ = object_patches(located(), BOXES, 16, seed=1)
    torch.rand(3)
    assert torch.equal(first, object_patches(located(), BOXES.numpy(), 16, seed=1)[0])
    other, _ = object_patches(located(), BOXES, 16, seed=2)
    assert torch.equal(first[:3], other[:3])
    assert not torch.equal(first[3:], other[3:])


def test_patches_of_impossible_scenes_are_refused():
    with pytest.raises(UserError, match="no objects"):
        object_patches(located(), np.zeros((0, 4), np.float32), 16, seed=0)
    with pytest.raises(UserError, match="smaller than a patch of 16"):
        object_patches(torch.zeros(3, 1, 1, dtype=torch.uint8), BOXES, 16, seed=0)
    with pytest.raises(UserError, match="0 places of ground"):
        object_patches(located(), torch.tensor([[0.0, 0, WIDTH, HEIGHT]]), 16, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        object_patches(located(), torch.tensor([[0.0, torch.nan, 4, 4]]), 16, seed=0)


def test_a_patch_as_large_as_the_scene_has_one_place():
    image = located(16, 16)
    assert torch.equal(cut(image, torch.tensor([[0, 0]]), 16)[0], image)
    patches, _ = object_patches(image, torch.tensor([[0.0, 0, 4, 4]]), 16, seed=0, margin=2)
    assert torch.equal(patches, torch.stack([image, image]))


def test_labelled_crops_are_in_the_left_third_and_tested_ones_tile_the_rest():
    boxes = torch.tensor([[5.0, 5, 35, 80], [60, 10, 110, 80]])
    crops = dense_crops((HEIGHT, WIDTH), boxes, 20, most=6, draws=4, seed=0, fewest=2)
    assert crops.labelled.shape == (4, 6, 2)
    assert len({tuple(draw.flatten().tolist()) for draw in crops.labelled}) == 4  # each draw its own
    other = dense_crops((HEIGHT, WIDTH), boxes, 20, most=6, draws=2, seed=0, fewest=2)
    assert torch.equal(other.labelled, crops.labelled[:2])
    assert crops.labelled.min() >= 0
    assert (crops.labelled[..., 0] + 20).max() <= 40
    assert (crops.labelled[..., 1] + 20).max() <= HEIGHT
    covered = torch.zeros(HEIGHT, WIDTH)
    for x, y in crops.tested.tolist():
        covered[y : y + 20, x : x + 20] += 1
    assert covered[:80, 40:].eq(1).all()  # 4 x 4 crops, each pixel once; the last 10 rows hold no whole crop
    assert covered[:, :40].eq(0).all()
    assert covered[80:].eq(0).all()


def test_the_first_labelled_crops_of_a_draw_always_show_objects_and_ground():
    boxes = torch.tensor([[0.0, 0, 12, 12]])  # of 40 x 90 pixels: most crops miss it
    crops = dense_crops((HEIGHT, WIDTH), boxes, 20, most=5, draws=20, seed=0, fewest=2)
    is_object = torch.zeros(1, HEIGHT, WIDTH)
    is_object[0, :12, :12] = 1
    for draw in crops.labelled:
        assert 0.05 <= cut(is_object, draw[:2], 20).mean() <= 0.95
    with pytest.raises(UserError, match="never show both"):
        dense_crops((HEIGHT, WIDTH), boxes[:0], 20, most=5, draws=1, seed=0)
    with pytest.raises(UserError, match="use crops of 40 pixels or fewer"):
        dense_crops((HEIGHT, WIDTH), boxes, 41, most=5, draws=1, seed=0)


def test_a_cell_is_an_object_cell_if_its_middle_is_in_a_box_at_every_stride():
    boxes = torch.tensor([[10.0, 12, 19, 23], [18, 20, 31, 40], [0, 0, 1, 1]])
    places = torch.tensor([[4, 8], [0, 0], [17, 21]])
    for stride in (1, 4, 8):
        labels = cell_labels(boxes, places, 16, stride)
        assert labels.shape == (3, 16 // stride, 16 // stride)
        for k, (x0, y0) in enumerate(places.tolist()):
            for i in range(16 // stride):
                for j in range(16 // stride):
                    x, y = x0 + (j + 0.5) * stride, y0 + (i + 0.5) * stride
                    inside = any(a <= x < c and b <= y < d for a, b, c, d in boxes.tolist())
                    assert labels[k, i, j] == inside, (stride, k, i, j)
    assert not cell_labels(boxes[:0], places, 16, 8).any()
