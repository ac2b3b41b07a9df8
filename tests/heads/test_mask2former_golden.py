"""Mask2Former against the tensors of ViSFT's one-level copy and of the published three-level code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, Golden
from torch import Tensor
from torch.testing import assert_close

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.mask2former import Mask2Former, Mask2FormerConfig, best_instances
from vistruct.heads.mask_loss import MaskLoss, truth_of_objects
from vistruct.heads.mask_points import Purpose
from vistruct.heads.mask_queries import MaskQueriesConfig, semantic_scores
from vistruct.heads.set_matching import assign
from vistruct.tasks.dense import of_image

CLOSE = {"atol": 2e-4, "rtol": 1e-4}
GRADIENTS = {"atol": 3e-4, "rtol": 1e-3}


def one_level() -> Mask2Former:
    layers = MaskQueriesConfig(
        queries=8, width=64, heads=4, levels=1, encoder_layers=2, encoder_ffn=24, decoder_layers=3, decoder_ffn=32
    )
    head = Mask2FormerConfig(layers=layers, loss=MaskLoss(points=64)).build((FeatureSpec(channels=20, stride=14),), 5)
    return loaded(head, "visft_segment")


def three_levels() -> Mask2Former:
    layers = MaskQueriesConfig(
        queries=7, width=32, heads=4, encoder_layers=2, encoder_ffn=24, decoder_layers=4, decoder_ffn=40
    )
    specs = tuple(FeatureSpec(channels=c, stride=s) for c, s in zip((6, 8, 10, 12), (4, 8, 16, 32), strict=True))
    head = Mask2FormerConfig(layers=layers, loss=MaskLoss(points=48)).build(specs, 5)
    return loaded(head, "visft_segment_multi")


def loaded(head: Mask2Former, folder: str) -> Mask2Former:
    head.load_state_dict(head.convert_keys(Golden(f"{folder}/weights.safetensors").tensors))  # all of them, no other
    return head


def heard(head: Mask2Former, path: str) -> list[Tensor]:
    """What a layer gives, call after call."""
    found: list[Tensor] = []
    head.queries.get_submodule(path).register_forward_hook(lambda module, given, out: found.append(out))
    return found


def objects(io: Golden, case: str, number: int) -> list[BoxTarget]:
    found = []
    for i in range(number):
        masks = io[f"{case}target.{i}.masks_x4"].float() / 4
        assert masks.numel() == 0 or ((masks > 0) & (masks < 1)).any()  # soft ones
        labels = io[f"{case}target.{i}.labels"]
        found.append(BoxTarget(labels=labels, masks=masks))
    return found


def stored(io: Golden, case: str, targets: list[BoxTarget]) -> Any:
    """The stored random numbers in place of new ones."""

    def draw(image: int, layer: int, purpose: Purpose, rows: int, points: int) -> Tensor:
        if purpose == "match":
            return io[f"{case}rand.layer{layer}.match.{image}"]
        first = sum(len(target) for target in targets[:image])
        found = io[f"{case}rand.layer{layer}.{purpose}"][first : first + rows]
        assert found.shape == (rows, points, 2)
        return found

    return draw


@pytest.mark.parametrize("case", "abc")
def test_one_level_has_visfts_maps_queries_and_masks(case: str) -> None:
    head, io = one_level(), Golden("visft_segment/io.safetensors")
    layers = [heard(head, f"pixel_decoder.transformer.encoder.layers.{i}") for i in range(2)]
    projected, fpn = heard(head, "pixel_decoder.input_proj.0"), heard(head, "pixel_decoder.layer_1")
    features, queries = (
        heard(head, "pixel_decoder.mask_features"),
        [heard(head, f"predictor.transformer_ffn_layers.{i}") for i in range(3)],
    )
    said = head([io[f"{case}.features"]]).said
    assert_close(projected[0], io[f"{case}.pixel.input_proj"], **CLOSE)
    for i, found in enumerate(layers):
        assert_close(found[0], io[f"{case}.pixel.encoder.{i}"], **CLOSE)
    assert_close(fpn[0].relu(), io[f"{case}.pixel.fpn"], **CLOSE)
    assert_close(features[0], io[f"{case}.pixel.mask_features"], **CLOSE)
    for i, found in enumerate(queries):
        assert_close(found[0], io[f"{case}.decoder.layer.{i}"], **CLOSE)
    assert_close(torch.stack(said.logits), io[f"{case}.logits"], **CLOSE)
    assert_close(torch.stack(said.masks), io[f"{case}.masks"], **CLOSE)


def test_deformable_attention_alone() -> None:
    head, io = one_level(), Golden("visft_segment/io.safetensors")
    attention = head.queries.pixel_decoder.transformer.encoder["layers"][0].self_attn
    places = io["a.msda.reference_points"][0, :, 0]
    assert_close(attention(io["a.msda.query"], places, io["a.msda.value"], [(7, 10)]), io["a.msda.output"], **CLOSE)


@pytest.mark.parametrize(("case", "images"), [("a", 1), ("b", 2), ("c", 1)])
def test_one_level_learns_as_visft(case: str, images: int) -> None:
    head, io = one_level(), Golden("visft_segment/io.safetensors")
    targets, loss = objects(io, f"{case}.", images), head.config.loss
    draw = stored(io, f"{case}.", targets)
    features = io[f"{case}.features"].requires_grad_()
    said = head([features]).said
    truths = [truth_of_objects(target) for target in targets]
    costs = [loss.costs(said, i, truth, draw) for i, truth in enumerate(truths)]
    pairs = assign(costs)
    for layer in range(4):
        for i, (rows, columns) in enumerate(pairs):
            assert_close(costs[i][layer], io[f"{case}.cost.layer{layer}.{i}"], **CLOSE)
            assert torch.equal(torch.stack([rows[layer], columns[layer]]), io[f"{case}.match.layer{layer}.{i}"])
    for i, (rows, _) in enumerate(pairs):
        if rows.numel():
            chosen = torch.cat([one[i][row] for one, row in zip(said.masks, rows, strict=True)])[:, None]
            points = loss.loss_points(chosen, truths[i], i, 4, draw).unflatten(0, (4, -1))
            first = sum(map(len, targets[:i]))
            for layer in range(4):
                assert_close(points[layer], io[f"{case}.points.layer{layer}"][first : first + len(targets[i])])
    found, units = loss(said, truths, draw), loss.units(truths, 8)
    for term, name in (("class", "ce"), ("mask", "mask"), ("dice", "dice")):
        theirs = [f"{case}.loss.loss_{name}{at}" for at in ("", "_0", "_1", "_2")]
        mean = found.terms[term] / (units[term] or 1)
        assert_close(mean, torch.stack([io[one] for one in theirs]).sum(), **CLOSE)
    total = torch.stack([term / (units[name] or 1) for name, term in found.terms.items()]).sum()
    assert_close(total, io[f"{case}.loss_total"], **CLOSE)
    total.backward()
    check_gradients(head, features, io, f"{case}.grad.")


def check_gradients(head: Mask2Former, features: Tensor, io: Golden, front: str) -> None:
    known = {key.removeprefix(front): key for key in io.tensors if key.startswith(front)}
    assert_close(features.grad, io[known.pop("features")], **GRADIENTS)
    ours = dict(head.named_parameters())
    renamed = head.convert_keys({name: io[key] for name, key in known.items()})
    assert len(renamed) == len(known)
    for name, wanted in renamed.items():
        assert_close(ours[name].grad, wanted, **GRADIENTS)


def test_three_levels_equal_the_published_code() -> None:
    head, io = three_levels(), Golden("visft_segment_multi/io.safetensors")
    features = [io[f"features.res{i}"].requires_grad_() for i in (2, 3, 4, 5)]
    coarse, mask_features = head.queries.pixel_decoder(features, [torch.zeros(1, *f.shape[2:]) > 0 for f in features])
    for i, one in enumerate(coarse):
        assert_close(one, io[f"pixel.multi_scale.{i}"], **CLOSE)
    assert_close(mask_features, io["pixel.mask_features"], **CLOSE)
    said = head(features).said
    assert_close(torch.stack(said.logits), io["logits"], **CLOSE)
    assert_close(torch.stack(said.masks), io["masks"], **CLOSE)
    targets, loss = objects(io, "", 2), head.config.loss
    draw, truths = stored(io, "", targets), [truth_of_objects(target) for target in targets]
    for i, (rows, columns) in enumerate(assign([loss.costs(said, i, truth, draw) for i, truth in enumerate(truths)])):
        for layer in range(5):
            assert torch.equal(torch.stack([rows[layer], columns[layer]]), io[f"match.layer{layer}.{i}"])
    found, units = loss(said, truths, draw), loss.units(truths, 7)
    for term, name, weight in (("class", "ce", 2), ("mask", "mask", 5), ("dice", "dice", 5)):
        theirs = torch.stack([io[f"loss_raw.loss_{name}{at}"] for at in ("", "_0", "_1", "_2", "_3")]).sum()
        assert_close(found.terms[term] / units[term] / weight, theirs, **CLOSE)
    each = {"class": 1, "mask": 1, "dice": 2 / 5}  # their total has dice with the weight of the class
    total = torch.stack([each[name] * term / units[name] for name, term in found.terms.items()]).sum()
    assert_close(total, io["loss_total_weighted_2_5_5"], **CLOSE)
    total.backward()
    for i, one in zip((2, 3, 4, 5), features, strict=True):
        assert_close(one.grad, io[f"grad.features.res{i}"], **GRADIENTS)


def test_one_label_a_query_as_visft_evaluates() -> None:
    config = json.loads((GOLDEN / "visft_segment/config.json").read_text())["post"]
    io = Golden("visft_segment/io.safetensors")
    head = one_level()
    head.config = head.config.model_copy(update={"one_label": True})
    found = head.decode(head([io["a.features"]]), [tuple(config["final"])])[0]
    order = io["a.post.scores"].argsort(descending=True, stable=True)
    there = torch.isclose(io["a.post.scores"][order][:, None], found.scores).any(dim=1)
    assert len(found) == 7
    assert not io["a.post.masks"][order[~there]].any()  # a mask of nothing is no detection
    order = order[there]
    assert_close(found.scores, io["a.post.scores"][order], **CLOSE)
    assert torch.equal(found.labels, io["a.post.labels"][order])
    whole = of_image(found.masks, *(tuple(config[name]) for name in ("final", "resized", "orig"))) > 0.5
    assert torch.equal(whole, io["a.post.masks"][order])


def test_best_pairs_of_query_and_class_with_the_quality_of_their_masks() -> None:
    io = Golden("visft_segment/io.safetensors")
    masks = F.interpolate(io["instances.masks_small"][None], (20, 24), mode="bilinear", align_corners=False)[0]
    rows, labels, scores = best_instances(io["instances.logits"], masks, 100)
    assert_close(scores, io["instances.scores"], **CLOSE)
    assert torch.equal(labels, io["instances.labels"])
    assert torch.equal((masks[rows] > 0).flatten(1).sum(dim=1).float(), io["instances.area"])


def test_every_query_votes_on_every_pixel() -> None:
    io = Golden("visft_segment/io.safetensors")
    masks = F.interpolate(io["instances.masks_small"][None], (20, 24), mode="bilinear", align_corners=False)[0]
    found = semantic_scores(io["instances.logits"][:8, :6], masks[:8])
    assert_close(found, io["semantic.map"], **CLOSE)
