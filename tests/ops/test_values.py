"""8 bits, 16 bits and floats as parts of full scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vistruct.errors import UserError
from vistruct.ops.values import flipped, from_unit, full_scale, to_unit


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_every_level_comes_back_as_it_was(dtype):
    levels = torch.from_numpy(np.arange(int(full_scale(dtype)) + 1)).to(dtype)[None, None]
    assert torch.equal(from_unit(to_unit(levels), dtype), levels)


def test_the_same_brightness_is_the_same_share_in_every_type():
    grey = torch.full((1, 2, 3), 51, dtype=torch.uint8)
    deep = torch.full((1, 2, 3), 51 * 257, dtype=torch.int32).to(torch.uint16)
    for image in (grey, deep, torch.full((1, 2, 3), 0.2)):
        assert torch.allclose(to_unit(image), torch.full((1, 2, 3), 0.2), atol=1e-7)


def test_what_lies_beyond_is_clipped_and_rounded_on_the_way_back_only():
    found = from_unit(torch.tensor([-0.1, 0.5, 1.2]), torch.uint16)
    assert found.tolist() == [0, 32768, 65535]
    with pytest.raises(UserError, match="from -1000 to 400"):
        to_unit(torch.tensor([[[-1000.0, 400.0]]]))
    with pytest.raises(UserError, match=r"torch\.int16"):
        to_unit(torch.zeros(1, 1, 1, dtype=torch.int16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_mirrored_as_numpy_does_it(dtype):
    values = (np.random.default_rng(0).random((3, 4, 5)) * 60_000).astype(dtype)
    for axes in [(), (-1,), (-2,), (-2, -1)]:
        assert np.array_equal(flipped(torch.from_numpy(values), axes).numpy(), np.flip(values, axes))
