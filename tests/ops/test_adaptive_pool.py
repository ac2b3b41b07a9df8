"""The exportable form of adaptive pooling beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vistruct.ops.adaptive_pool import mean_of_cells


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 3), (5, 7), (6, 6), (13, 29)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_means_of_cells_are_those_of_torch(size_hw, bins):
    maps = torch.randn(2, 3, *size_hw, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_of_cells(maps, bins), F.adaptive_avg_pool2d(maps, bins))
