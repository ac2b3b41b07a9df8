"""Visual tokens go where the text keeps places for them; pixel shuffle merges neighbourhoods."""

from __future__ import annotations

import pytest
import torch

from vistruct.errors import UserError
from vistruct.vlm.projector import pixel_shuffle
from vistruct.vlm.splice import splice

IS_IMAGE = torch.tensor([[False, True, True, False], [True, False, True, False]])


def test_places_are_filled_in_reading_order_and_text_stays():
    text, visual = torch.zeros(2, 4, 3), torch.arange(1.0, 13.0).reshape(2, 2, 3)
    out = splice(text, visual, IS_IMAGE)
    assert torch.equal(out[IS_IMAGE], visual.reshape(4, 3))
    assert (out[~IS_IMAGE] == 0).all()


def test_gradient_reaches_the_visual_tokens_and_not_the_text_below_them():
    text, visual = torch.zeros(2, 4, 3, requires_grad=True), torch.zeros(4, 1, 3, requires_grad=True)
    splice(text, visual, IS_IMAGE).sum().backward()
    assert text.grad is not None
    assert visual.grad is not None
    assert (visual.grad == 1).all()
    assert torch.equal(text.grad[..., 0] == 0, IS_IMAGE)


@pytest.mark.parametrize("num_tokens", [3, 5])
def test_too_few_or_too_many_visual_tokens_are_named(num_tokens):
    with pytest.raises(UserError, match=f"4 image places .* {num_tokens} visual tokens"):
        splice(torch.zeros(2, 4, 3), torch.zeros(1, num_tokens, 3), IS_IMAGE)


def test_pixel_shuffle_is_the_plain_loop():
    h, w, c, factor = 4, 6, 5, 2
    tokens = torch.randn(2, h * w, c)
    out = pixel_shuffle(tokens, (h, w), factor)
    for i in range(h // factor):
        for j in range(w // factor):
            cells = [(i * 2, j * 2), (i * 2, j * 2 + 1), (i * 2 + 1, j * 2), (i * 2 + 1, j * 2 + 1)]
            expected = torch.cat([tokens[:, row * w + column] for row, column in cells], dim=1)
            assert torch.equal(out[:, i * (w // factor) + j], expected)


def test_a_grid_that_does_not_divide_is_named():
    with pytest.raises(UserError, match="3 x 4"):
        pixel_shuffle(torch.zeros(1, 12, 2), (3, 4))
