"""Samples with the class of every pixel, and data sets of them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from vistruct.contracts import DataInfo, Record, Sample
from vistruct.files.coding import Coding
from vistruct.samples.made_maps import scene
from vistruct.samples.made_scenes import kept_by_content

NAMES = ("background", "tree")


def labels(height: int = 12, width: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (height, width), generator=generator, dtype=torch.int16)


def map_sample(name: str = "a", num_images: int = 1, channels: int = 3, **fields) -> Sample:
    images = [torch.full((channels, 12, 16), 40 + 30 * i, dtype=torch.uint8) for i in range(num_images)]
    return Sample(id=name, image_id=name, seed=0, **({"images": images, "label_map": labels()} | fields))


class Data:
    """A data set of these samples."""

    def __init__(self, samples: list[Sample], records: list[Record] | None = None, palette=None) -> None:
        self.samples = samples
        self.records = records or [Record(id=one.id, image_id=one.image_id, images=()) for one in samples]
        self.info = DataInfo(class_names=NAMES, palette=palette)

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, seed: int) -> Sample:
        return self.samples[index]


def volume(slices: int = 40, cases: str = "ab") -> Data:
    """Cases with labels in the second half of each."""
    names = [f"{case}@z{z:03d}" for case in cases for z in range(slices)]
    empty = torch.zeros(12, 16, dtype=torch.int16)
    samples = [
        Sample(id=name, image_id=name[0], seed=0, images=[torch.zeros(1, 12, 16, dtype=torch.uint8)],
               label_map=labels() if int(name[3:]) >= slices // 2 else empty)
        for name in names
    ]  # fmt: skip
    return Data(samples, [Record(id=name, image_id=name[0], images=(), slice=int(name[3:])) for name in names])


def mask_folder(coding: Coding, *, size_hw: tuple[int, int]) -> Path:
    """`img_dir` and `ann_dir` as MMSegmentation has them, with the labels in a coding of one's own."""

    def write(folder: Path) -> None:
        for number, split in enumerate(("train", "train", "val")):
            pixels, label_map = scene(number, size_hw, len(coding.classes))
            files = {f"img_dir/{split}/{number}.jpg": pixels, f"ann_dir/{split}/{number}.png": coding.encode(label_map)}
            for name, values in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / name, quality=95)

    return kept_by_content(write)
