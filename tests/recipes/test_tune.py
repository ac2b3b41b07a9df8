"""Fine-tuning by one word: everything, adapters in the backbone, or the head alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import Lora, Trainable
from vistruct.engine.introduce import introduce
from vistruct.engine.run import build
from vistruct.recipes import identify, ocr, segment
from vistruct.recipes.fit import Fit
from vistruct.recipes.options import called, options_of, parse
from vistruct.recipes.small import small_adapter, small_vit
from vistruct.recipes.tune import kept_part, tuned
from vistruct.samples.made_maps import loveda_folder
from vistruct.tasks.segment import SegmentConfig


def small(tune: Any) -> Any:
    fit = Fit(tune=tune)
    run = segment.recipe(data=loveda_folder(), split="train", steps=3, size=64, overlap=16, batch=2, fit=fit)
    return segment.made_tiny(run)


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_what_is_trainable(tmp_path, tune):
    state = build(small(tune), tmp_path)
    learns = {name for name, p in state.model.named_parameters() if p.requires_grad}
    in_backbone = {name for name in learns if name.startswith("backbone.")}
    assert learns - in_backbone == {n for n, _ in state.model.named_parameters() if not n.startswith("backbone.")}
    if tune == "full":
        assert in_backbone == {n for n, _ in state.model.named_parameters() if n.startswith("backbone.")}
    else:
        assert bool(in_backbone) == (tune == "lora")
        assert all(name.endswith((".lora_A", ".lora_B")) for name in in_backbone)
        assert not state.model.backbone.training or tune == "lora"
    said: list[str] = []
    introduce(state, said.append)
    assert any("the backbone is frozen and has random weights" in line for line in said) == (tune != "full")


def test_of_an_adapter_backbone_the_vit_inside_is_what_is_kept():
    head = segment.head_of("linear", 16)
    adapter = SegmentConfig(backbone=small_adapter(), head=head)
    assert isinstance(adapter.backbone, VitAdapterConfig)
    assert tuned("head", adapter) == (Trainable(pattern="backbone.vit", mode="frozen"),)
    assert kept_part(SegmentConfig(backbone=small_vit(), head=head)) == "backbone"
    rank = Lora(rank=2)
    assert tuned("lora", adapter, rank)[0].lora == rank
    assert tuned("full", adapter) == ()


def test_a_recipe_that_tunes_the_head_does_so_whatever_else_it_is_told(tmp_path):
    assert options_of(ocr.recipe)["tune"].default == options_of(identify.recipe)["tune"].default == "head"
    assert options_of(segment.recipe)["tune"].default == "full"
    seen: list[Fit] = []

    def recipe(*, data: Path, fit: Fit = Fit(tune="head")) -> None:  # noqa: B008  # frozen
        seen.append(fit)

    for words in ([], ["--epochs", "3"], ["--tune", "lora"]):
        called(recipe, parse(recipe, ["--data", str(tmp_path), *words]))
    assert [(fit.tune, fit.epochs) for fit in seen] == [("head", None), ("head", 3.0), ("lora", None)]
