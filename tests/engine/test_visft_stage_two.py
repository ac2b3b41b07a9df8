"""Stage 2 of ViSFT whole, against the original: three frozen heads, one backbone, the gradient of its adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from conftest import GOLDEN, Golden
from torch import Tensor, nn
from torch.testing import assert_close

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.config import AdamW, Lora, Schedule, Trainable
from vistruct.contracts import BoxTarget, HeadLoss, Shown
from vistruct.engine.optim import build_optimizer, set_learning_rate
from vistruct.engine.schedule import lr_factor
from vistruct.engine.step import gradient_norms, loss_of
from vistruct.engine.trainable import apply_rules, set_train_mode
from vistruct.heads import mask_loss
from vistruct.heads.detr import DetrConfig
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask_points import Purpose
from vistruct.heads.mask_queries import MaskQueriesConfig
from vistruct.heads.show_attend_tell import ShowAttendTellConfig

FOLDER = "visft_stage2"
CONFIG = json.loads((GOLDEN / FOLDER / "config.json").read_text())
GRADIENTS = {"atol": 2e-4, "rtol": 1e-3}
Q, A, S = CONFIG["detection"], CONFIG["caption"], CONFIG["segment"]


class Stage(nn.Module):
    """The backbone with its adapters under the three heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone: Any = EvaVitConfig(
            width=32, depth=2, heads=2, mlp_width=274, image_size=56, post_norm=True, margin="crop"
        ).build()
        self.detect = DetrConfig(
            queries=Q["q"], encoder_width=Q["enc"], decoder_width=Q["dec"], encoder_layers=Q["el"],
            decoder_layers=Q["dl"], heads=Q["heads"], hidden=Q["ffn"], task_token=True, residual=True, anchors=False,
        ).build(self.backbone.specs, Q["k"])  # fmt: skip
        layers = MaskQueriesConfig(
            queries=S["q"], width=S["conv"], heads=S["heads"], levels=1, encoder_layers=S["el"], encoder_ffn=S["effn"],
            decoder_layers=S["dl"], decoder_ffn=S["dffn"],
        )  # fmt: skip
        loss = mask_loss.MaskLoss(points=S["points"])
        self.segment = Mask2FormerConfig(layers=layers, loss=loss).build(self.backbone.specs, S["k"])
        self.caption = ShowAttendTellConfig(
            attention=A["attention_dim"], embed=A["embed_dim"], hidden=A["decoder_dim"]
        ).build(self.backbone.specs, A["vocab_size"])


def stage() -> Stage:
    model, weights = Stage(), Golden(f"{FOLDER}/weights.safetensors").tensors
    visual = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}
    plain = {name: value for name, value in visual.items() if "lora" not in name}
    missing, _ = model.backbone.load_state_dict(model.backbone.traits.convert_keys(plain), strict=False)
    assert not missing
    for head in (model.detect, model.segment, model.caption):
        own = head.traits.convert_keys(weights)
        head.load_state_dict({name: value for name, value in own.items() if name in head.state_dict()})
    rank = CONFIG["lora"]["rank"]
    lora = Lora(rank=rank, scale=CONFIG["lora"]["scaling"], parts=("q", "v"))
    plan = apply_rules(
        model, [Trainable(pattern="*", mode="frozen"), Trainable(pattern="backbone", mode="lora", lora=lora)]
    )
    set_train_mode(model, plan)
    model.optimizer = build_optimizer(model, AdamW(lr=1e-3, weight_decay=1e-4), plan)
    with torch.no_grad():
        for name, value in visual.items():
            if "lora" in name:
                model.backbone.get_parameter(name).copy_(value)
    return model


def padded(io: Golden, task: str) -> tuple[Tensor, Shown]:
    images = [io[f"{task}.image.{i}"] for i in range(9) if f"{task}.image.{i}" in io.tensors]
    height, width = (max(one.shape[axis] for one in images) for axis in (1, 2))
    whole = torch.zeros(len(images), 3, height, width)
    for place, image in zip(whole, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    sizes = tuple((one.shape[1], one.shape[2]) for one in images)
    return whole, Shown(sizes_hw=sizes, padded_hw=(height, width))


def loss(model: Stage, io: Golden, task: str, rand: str, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """float[], the loss of a step as the engine has it: each term over its units."""
    images, shown = padded(io, task)
    maps = model.backbone(images)
    if task == "caption":
        captions, lengths = io["caption.captions"], io["caption.lengths"][:, 0]
        found = model.caption.learn(maps, captions, lengths)
        units: Mapping[str, Any] = model.caption.units(lengths)
        return total(found, units)
    if task == "detection":
        targets = []
        for i, (height, width) in enumerate(shown.sizes_hw):
            centre, size = io[f"detection.target.{i}.boxes"].split(2, dim=1)
            boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
            scaled = boxes * boxes.new_tensor([width, height, width, height])
            targets.append(BoxTarget(labels=io[f"detection.target.{i}.labels"], boxes_xyxy=scaled))
        return total(
            model.detect.loss(model.detect(maps, shown), targets), model.detect.units(targets, shown.padded_hw)
        )
    labels, masks = io["segment.target.0.labels"], io["segment.target.0.masks_x4"].float() / 4
    target = BoxTarget(labels=labels, masks=masks)
    layers = CONFIG["segment"]["dl"] + 1

    def draw(image: int, layer: int, purpose: Purpose, rows: int, points: int) -> Tensor:
        # The original begins with the last prediction.
        at = 3 * ((layer + 1) % layers) + ("match", "oversampled", "rest").index(purpose)
        return io[f"{rand}.{at:02d}"].expand(rows, -1, -1)

    monkeypatch.setattr(mask_loss, "drawn_for", lambda objects: draw)
    found = model.segment.loss(model.segment(maps, shown), [target])
    return total(found, model.segment.units([target], shown.padded_hw))


def total(found: HeadLoss, units: Mapping[str, Any]) -> Tensor:
    return loss_of(found.terms, {name: float(value) for name, value in units.items()}, {})


@pytest.mark.parametrize("task", ["caption", "detection", "segment"])
def test_each_task_moves_the_adapters_as_the_original(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, io = stage(), Golden(f"{FOLDER}/io.safetensors")
    found = loss(model, io, task, "segment.rand", monkeypatch)
    assert_close(found, io[f"{task}.loss_total"], atol=1e-4, rtol=1e-5)
    found.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert len(gradients) == 4
    for name, gradient in gradients.items():
        assert_close(gradient, io[f"{task}.grad.visual.{name.removeprefix('backbone.')}"], **GRADIENTS)


def test_four_steps_of_drawn_tasks_go_where_the_original_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, io = stage(), Golden(f"{FOLDER}/io.safetensors")
    told, clip = CONFIG["optimiser"], CONFIG["optimiser"]["clip_norm"]
    schedule = Schedule(warmup_steps=told["warmup_steps"])
    own = [one for one in model.parameters() if one.requires_grad]
    for number, step in enumerate(CONFIG["steps"]):
        rate = told["lr"] * lr_factor(number, told["total_steps"] + 1, schedule)  # ours is at 0 in the last step itself
        assert rate == pytest.approx(step["lr"], rel=1e-5)
        set_learning_rate(model.optimizer, rate)
        model.optimizer.zero_grad()
        found = loss(model, io, step["task"], f"step{number}.rand", monkeypatch)
        assert found.item() == pytest.approx(step["loss"], abs=2e-3)
        found.backward()
        norm = math.hypot(*gradient_norms([one.grad for one in own], spread=False))
        assert norm == pytest.approx(step["gradient_norm"], rel=2e-3)
        for one in own:
            one.grad *= min(1.0, clip / norm)
        model.optimizer.step()
        if number in (1, 3):  # AdamW is torch's, whose epsilon stands elsewhere: tiny clipped gradients feel it
            moved = 0.0
            for name, value in model.named_parameters():
                if value.requires_grad:
                    after = io[f"step{number}.after.visual.{name.removeprefix('backbone.')}"]
                    assert (value - after).abs().max() < 6e-4
                    moved += (value - after).abs().mean().item()
            assert moved / 4 < 2e-5
