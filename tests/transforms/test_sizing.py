"""The size that images are brought to: as large as fits, stretched, or a part from the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Objects, Sample
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.input import Input
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.samples.made_classes import eurosat_folder
from vistruct.transforms.augment import Augment
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.sizing import Size, middle_of, sized


def photo(size_hw: tuple[int, int]) -> Sample:
    """Smooth, as photographs are."""
    y, x = torch.meshgrid(*(torch.linspace(0, 3, side) for side in size_hw), indexing="ij")
    image = torch.stack([(torch.sin(k * x + y) + 1) * 127 for k in (1, 2, 3)]).to(torch.uint8)
    empty = Objects(boxes_xyxy=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return Sample(id="a", image_id="a", seed=0, images=[image], objects=empty)


@pytest.mark.parametrize("size_hw", [(256, 256), (64, 64), (512, 512), (300, 400), (500, 281)])
def test_seven_eighths_from_the_middle_is_resize_256_and_centre_crop_224(size_hw: tuple[int, int]) -> None:
    before = photo(size_hw)
    after = sized(before, Size(height=224, width=224, middle=224 / 256)).images[0]
    theirs = F.center_crop(F.resize(before.images[0], [256], antialias=True), [224, 224])
    assert after.shape == theirs.shape == (3, 224, 224)
    assert (after.int() - theirs.int())[:, 3:-3, 3:-3].abs().float().mean() < 1.5  # a window begins at whole pixels


def test_the_window_in_the_middle_is_as_wide_as_it_is_shown() -> None:
    assert middle_of((256, 256), Size(height=224, width=224, middle=0.875)) == (16, 16, 240, 240)
    assert middle_of((100, 300), Size(height=10, width=20, middle=1)) == (50, 0, 250, 100)
    assert middle_of((1, 1), Size(height=224, width=224, middle=0.5)) == (0, 0, 1, 1)


def test_a_part_from_the_middle_is_for_classes_alone(tmp_path: Path) -> None:
    part = Size(height=8, width=8, middle=0.5)
    for data in (
        lambda: BoxDataConfig(annotation=tmp_path, resize=part),
        lambda: MapDataConfig(root=tmp_path, resize=part),
    ):
        with pytest.raises(UserError, match="outside of it could not be found"):
            data()
    with pytest.raises(UserError, match="middle keeps the aspect"):
        Size(height=8, width=8, middle=0.5, keep_aspect=False)


def test_what_learned_from_crops_of_one_size_is_shown_images_of_that_size() -> None:
    """Also where nothing is measured, whose size would say it."""
    augment = Augment(resized_crop=ResizedCrop(height=24, width=40))
    info = ClassDataConfig(root=eurosat_folder(), split="train", augment=augment).build().info
    resize = Input.model_validate({"channels": info.channels, **info.input}).resize
    assert resize == Size(height=24, width=40, keep_aspect=False)


@pytest.mark.parametrize("size_hw", [(40, 64), (64, 40), (61, 50), (28, 28), (20, 33)])
def test_from_the_middle_and_bicubic_is_what_clip_is_shown(size_hw: tuple[int, int]) -> None:
    from open_clip import image_transform
    from torchvision.transforms.functional import to_pil_image

    smooth = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    image = (torch.nn.functional.interpolate(smooth[None], size_hw, mode="bilinear")[0] * 255).to(torch.uint8)
    theirs = image_transform(28, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)(to_pil_image(image)) * 255
    shown = Size(height=28, width=28, middle=1.0, interpolation="bicubic")
    ours = sized(Sample(id="a", image_id="a", seed=0, images=[image]), shown).images[0].float()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 2  # of 255: Pillow rounds between rows and columns
