"""Models of pixels whose answer is known: the class of a pixel is its strongest channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_pixels import CellsConfig, DotsConfig

from vistruct.checkpoint.load import ModelCard
from vistruct.contracts import DataInfo
from vistruct.data.input import Input
from vistruct.inference.model import Model
from vistruct.tasks.classify import ClassifyConfig
from vistruct.tasks.segment import SegmentConfig

NAMES = ("red", "green", "blue")


def segmenter(
    monkeypatch: pytest.MonkeyPatch,
    *,
    shown: dict[str, Any] | None = None,
    cell: int = 1,
    channels: int = 3,
    names: tuple[str, ...] = NAMES,
    **config: Any,
) -> Model:
    """At `cell` 1 the strongest channel of each pixel; at others random weights, that see cells."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"backbone": CellsConfig(channels=channels, width=3, cell=cell), "head": DotsConfig()}
    task = SegmentConfig(**parts, mean=(0.0,), std=(1.0,), **config)
    info = DataInfo(class_names=names, channels=channels)
    built = task.build(info, Path()).eval()
    if cell == 1 and channels == 3 and config.get("fusion") is None:
        with torch.no_grad():
            built.backbone.look.weight.copy_(torch.eye(3)[..., None, None])
            built.head.linear.weight.copy_(40 * torch.eye(3)[..., None, None])
            built.backbone.look.bias.zero_()
            built.head.linear.bias.zero_()
    fields: dict[str, Any] = {"channels": channels, "images": 1 if task.fusion is None else 2} | (shown or {})
    if task.slide is not None and task.slide.size is not None:
        fields["windows"] = {**task.slide.model_dump(exclude={"batch"}), "unit": "shown"}
    card = ModelCard(path=Path("model"), task=task, info=info, input=Input(**fields), values={"sha256": "0"})
    return Model(task=built, card=card, device=torch.device("cpu"))


def classifier(monkeypatch: pytest.MonkeyPatch, *, multi_label: bool = False) -> Model:
    """The strongest channel of the mean colour; of several labels, all above a half."""
    parts: dict[str, Any] = {"backbone": CellsConfig(width=3), "head": DotsConfig(pooled=True)}
    task = ClassifyConfig(**parts, mean=(0.0,), std=(1.0,), multi_label=multi_label)
    info = DataInfo(class_names=NAMES)
    built = task.build(info, Path()).eval()
    with torch.no_grad():
        built.backbone.look.weight.copy_(torch.eye(3)[..., None, None])
        built.head.linear.weight.copy_(20 * torch.eye(3)[..., None, None])
        built.backbone.look.bias.zero_()
        built.head.linear.bias.fill_(-10.0)
    card = ModelCard(path=Path("model"), task=task, info=info, input=Input(), values={"sha256": "0"})
    return Model(task=built, card=card, device=torch.device("cpu"))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8[3, H, W]; no two channels of a pixel are alike."""
    order = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)).argsort(dim=0)
    return (order * 90 + 20).to(torch.uint8)


def strongest(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.int().argmax(dim=-3).to(torch.int16)
