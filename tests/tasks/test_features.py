"""What lies below a head: built or shared, for the channels of the data, with sizes that both parts take."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn
from toy_pixels import Cells, CellsConfig

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import Part
from vistruct.errors import UserError
from vistruct.necks.fpn import FpnConfig
from vistruct.necks.laterals import LateralsConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.tasks.features import check_in_place, features


class TracelessConfig(Part):
    kind: Literal["test_features:TracelessConfig"] = "test_features:TracelessConfig"

    def build(self) -> Any:
        return nn.Identity()


def adapter(patch: int) -> VitAdapterConfig:
    vit = InternVitConfig(width=32, depth=4, heads=2, mlp_width=32, patch=patch, image_size=4 * patch)
    return VitAdapterConfig(vit=vit, groups=((0, 0), (1, 1), (2, 2), (3, 3)), heads=2, conv_width=8)


@pytest.mark.parametrize(
    ("backbone", "neck", "divisor"),
    [
        (CellsConfig(cell=8), None, 8),
        (CellsConfig(cell=8), SimplePyramidConfig(channels=8, strides=(4, 16, 32)), 32),
        (adapter(16), None, 32),
        (adapter(16), LateralsConfig(channels=8, extra_levels=2), 32),
        (adapter(14), FpnConfig(channels=8), 224),  # the ViT's patches and the pyramid's strides
    ],
)
def test_images_of_the_least_size_go_through(backbone: Any, neck: Any, divisor: int) -> None:
    found = features(backbone, neck, channels=3)
    assert found.size_divisor == divisor
    maps = found.backbone(torch.rand(1, 3, divisor, 2 * divisor))
    maps = maps if found.neck is None else found.neck(maps)
    assert [m.shape[1] for m in maps] == [spec.channels for spec in found.specs]
    assert [-(-divisor // spec.stride) for spec in found.specs] == [m.shape[2] for m in maps]
    assert features(backbone, neck, channels=3, size_divisor=3 * divisor).size_divisor == 3 * divisor
    with pytest.raises(UserError, match=f"use a multiple of {divisor}"):
        features(backbone, neck, channels=3, size_divisor=divisor + 1)


def test_a_shared_backbone_is_taken_as_it_is_and_asked_for_its_channels() -> None:
    shared = Cells(CellsConfig(channels=4, width=8, cell=16))
    found = features(CellsConfig(), SimplePyramidConfig(channels=8, strides=(8, 16)), channels=4, shared=shared)
    assert found.backbone is shared
    assert [spec.stride for spec in found.specs] == [8, 16]
    with pytest.raises(UserError, match="images of 3 channels, the backbone takes 4"):
        features(CellsConfig(), None, channels=3, shared=shared)


def test_what_says_nothing_of_itself_is_no_backbone() -> None:
    with pytest.raises(UserError, match="TracelessConfig builds is no backbone"):
        features(TracelessConfig(), None, channels=3)


def test_a_sample_without_a_place_is_named() -> None:
    check_in_place(["a"], [(0.0, 3.0)])
    with pytest.raises(UserError, match="flipped or turned") as caught:
        check_in_place(["a", "b"], [(0.0, 0.0), (float("nan"), 0.0)])
    assert caught.value.where == "b"
