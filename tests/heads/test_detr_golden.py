"""DETR against the original: ViSFT's layers, costs, matches, losses, gradients and detections, stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from vistruct.contracts import BoxTarget, FeatureSpec, Shown
from vistruct.heads.detr import VISFT_DETR, Detr, DetrOutput
from vistruct.heads.detr_layers import sine_positions
from vistruct.heads.set_matching import assign

SIZES = {"encoder_width": 32, "decoder_width": 48, "heads": 4, "hidden": 40, "queries": 9}
SIZES |= {"encoder_layers": 2, "decoder_layers": 3}
NEAR = {"atol": 5e-5, "rtol": 1e-4}
cases = pytest.mark.parametrize("case", ["a", "b", "c"])


@pytest.fixture(scope="module")
def io(golden: Any) -> Any:
    return golden("visft_detect/io.safetensors")


@pytest.fixture(scope="module")
def head(golden: Any) -> Detr:
    made = VISFT_DETR.model_copy(update=SIZES).build((FeatureSpec(channels=20, stride=14),), 11)
    state = made.convert_keys(golden("visft_detect/weights.safetensors").tensors)
    made.load_state_dict(state)
    return made.eval()


def shown_of(io: Any, case: str) -> Shown:
    """The valid areas, in cells."""
    mask = io[f"{case}.mask"]
    sizes = tuple((int((~one).any(1).sum()), int((~one).any(0).sum())) for one in mask)
    shown = Shown(sizes_hw=sizes, padded_hw=(mask.shape[1], mask.shape[2]))
    assert torch.equal(shown.padding((mask.shape[1], mask.shape[2])), mask)
    return shown


def targets_of(io: Any, case: str) -> list[BoxTarget]:
    made = []
    for i, (height, width) in enumerate(shown_of(io, case).sizes_hw):
        boxes = box_convert(io[f"{case}.target.{i}.boxes"], "cxcywh", "xyxy")
        made.append(
            BoxTarget(
                boxes_xyxy=boxes * torch.tensor([width, height, width, height]),
                labels=io[f"{case}.target.{i}.labels"],
            )
        )
    return made


@cases
@torch.no_grad()
def test_every_layer_gives_what_the_original_gave(head: Detr, io: Any, case: str) -> None:
    features, mask = io[f"{case}.features"], io[f"{case}.mask"]
    projected = head.project(features)
    torch.testing.assert_close(projected, io[f"{case}.input_proj"], **NEAR)
    cells, positions = projected.flatten(2).transpose(1, 2), sine_positions(mask, 32)
    encoded = head.encoder(cells, positions, mask.flatten(1))
    torch.testing.assert_close(encoded, io[f"{case}.encoder"], **NEAR)
    torch.testing.assert_close(head.widen(encoded[:, 1:] + cells), io[f"{case}.memory"], **NEAR)
    torch.testing.assert_close(head.widen_positions(positions), io[f"{case}.memory_pos"], **NEAR)
    torch.testing.assert_close(head.look(features, mask), io[f"{case}.hidden_states"], **NEAR)
    output = head([features], shown_of(io, case))
    torch.testing.assert_close(output.logits, io[f"{case}.logits"], **NEAR)
    torch.testing.assert_close(output.boxes, io[f"{case}.boxes"], **NEAR)


@cases
def test_costs_and_matches_are_the_originals(head: Detr, io: Any, case: str) -> None:
    sizes = shown_of(io, case).sizes_hw
    output = DetrOutput(logits=io[f"{case}.logits"], boxes=io[f"{case}.boxes"], sizes_hw=sizes)
    costs = [
        head.cost(output, i, io[f"{case}.target.{i}.boxes"], io[f"{case}.target.{i}.labels"]) for i in range(len(sizes))
    ]
    for i, (cost, (rows, columns)) in enumerate(zip(costs, assign(costs), strict=True)):
        for layer in range(3):
            torch.testing.assert_close(cost[layer], io[f"{case}.cost.layer{layer}.{i}"], **NEAR)
            pairs = torch.stack([rows[layer], columns[layer]])
            assert torch.equal(pairs, io[f"{case}.match.layer{layer}.{i}"])


@cases
def test_losses_and_gradients_are_the_originals(head: Detr, io: Any, case: str) -> None:
    features = io[f"{case}.features"].clone().requires_grad_()
    head.zero_grad()
    targets = targets_of(io, case)
    loss = head.loss(head([features], shown_of(io, case)), targets)
    units = head.units(targets, (0, 0))
    means = {name: term / (units[name] or 1.0) for name, term in loss.terms.items()}
    for name, theirs in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        layers = [io[f"{case}.loss.{theirs}{end}"] for end in ("", "_0", "_1")]
        torch.testing.assert_close(means[name], torch.stack(layers).sum(), **NEAR)
    total = torch.stack(list(means.values())).sum()
    torch.testing.assert_close(total, io[f"{case}.loss_total"], **NEAR)
    total.backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, io[f"{case}.grad.features"], **NEAR)
    theirs = {name: io[name] for name in io.tensors if name.startswith(f"{case}.grad.visft_heads.")}
    own = head.convert_keys({name.removeprefix(f"{case}.grad."): value for name, value in theirs.items()})
    assert len(own) == len(theirs)
    for name, value in own.items():
        torch.testing.assert_close(head.get_parameter(name).grad, value, **NEAR)


@cases
def test_each_layer_alone_has_the_originals_loss(head: Detr, io: Any, case: str) -> None:
    sizes, targets = shown_of(io, case).sizes_hw, targets_of(io, case)
    units = head.units(targets, (0, 0))
    for layer, end in enumerate(("_0", "_1", "")):
        one = slice(layer, layer + 1)
        said = DetrOutput(logits=io[f"{case}.logits"][one], boxes=io[f"{case}.boxes"][one], sizes_hw=sizes)
        terms = head.loss(said, targets).terms
        for name, theirs in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
            torch.testing.assert_close(terms[name] / (units[name] or 1.0), io[f"{case}.loss.{theirs}{end}"], **NEAR)


@cases
@torch.no_grad()
def test_detections_are_the_originals_best_first(head: Detr, io: Any, case: str) -> None:
    sizes = [(int(height), int(width)) for height, width in io[f"{case}.orig_size_hw"]]
    logits, boxes = io[f"{case}.logits"], io[f"{case}.boxes"]
    for i, found in enumerate(head.decode(DetrOutput(logits=logits, boxes=boxes, sizes_hw=tuple(sizes)), sizes)):
        order = io[f"{case}.post.{i}.scores"].argsort(descending=True)
        theirs: dict[str, Tensor] = {
            name: io[f"{case}.post.{i}.{name}"][order] for name in ("boxes", "scores", "labels")
        }
        height, width = sizes[i]
        inside = theirs["boxes"].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        torch.testing.assert_close(found.scores, theirs["scores"], **NEAR)
        assert torch.equal(found.labels, theirs["labels"])
        torch.testing.assert_close(found.boxes_xyxy, inside, atol=2e-3, rtol=1e-4)


def test_names_go_back_as_they_came(head: Detr, golden: Any) -> None:
    theirs = golden("visft_detect/weights.safetensors").tensors
    back = head.to_published(head.state_dict())
    token = "visft_heads.transformer.task_embeddings_enc.weight"
    assert back.keys() == theirs.keys() - {"det_losses.empty_weight"}
    assert all(torch.equal(back[name], theirs[name]) for name in back if name != token)
    assert torch.equal(back[token][0], theirs[token][0])
    assert back[token].shape == (256, 32)
