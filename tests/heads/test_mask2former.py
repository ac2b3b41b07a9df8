"""Mask2Former against transformers' with the same weights, and what splits, padding, crowds and edges do to it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from toy_heads import SIZE, average_precision, maps, rectangles, specs, target, truth
from transformers import Mask2FormerConfig as TheirConfig
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig

from vistruct.contracts import IGNORED, BoxTarget, FeatureSpec, LearningHead, Shown
from vistruct.errors import UserError
from vistruct.heads.mask2former import VISFT_MASK2FORMER, Mask2Former, Mask2FormerConfig
from vistruct.heads.mask2former_maps import Mask2FormerMaps, Mask2FormerMapsConfig
from vistruct.heads.mask_loss import MaskLoss, truth_of_map, truth_of_objects
from vistruct.heads.mask_points import at_points, drawn_for, truth_at_points
from vistruct.heads.mask_queries import MaskQueriesConfig

SMALL = MaskQueriesConfig(
    queries=12, width=32, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=3, decoder_ffn=32
)
LOSS = MaskLoss(points=96)
STRIDES, COARSE = (4, 8, 16, 32), (8, 16, 32)


def build(strides: tuple[int, ...] = STRIDES, **changes: Any) -> Mask2Former:
    torch.manual_seed(1)
    layers = SMALL.model_copy(update=changes)
    return Mask2FormerConfig(layers=layers, loss=LOSS).build(specs(strides), 2)


def build_maps(strides: tuple[int, ...] = STRIDES) -> Mask2FormerMaps:
    torch.manual_seed(1)
    return Mask2FormerMapsConfig(layers=SMALL, loss=LOSS).build(specs(strides), 3)


def levels(batch: int) -> list[Tensor]:
    return maps(batch, STRIDES)


def mean_loss(head: Any, output: Any, targets: Any) -> Tensor:
    units = head.units(targets, (SIZE, SIZE))
    return torch.stack([term / (units[name] or 1) for name, term in head.loss(output, targets).terms.items()]).sum()


# --- transformers


@pytest.fixture(scope="module")
def theirs() -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=stages)
    widths = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 4}
    sizes = {"encoder_layers": 2, "decoder_layers": 4, "encoder_feedforward_dim": 24, "dim_feedforward": 40}
    config = TheirConfig(
        backbone_config=swin, num_queries=7, num_labels=5, train_num_points=50, dropout=0.0, **widths, **sizes
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def test_outputs_loss_and_gradients_equal_those_of_transformers(
    theirs: Mask2FormerForUniversalSegmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"queries": 7, "encoder_layers": 2, "encoder_ffn": 24, "decoder_layers": 3, "decoder_ffn": 40}
    shapes = tuple(FeatureSpec(channels=c, stride=s) for c, s in zip((8, 16, 32, 64), (4, 8, 16, 32), strict=True))
    loss = MaskLoss(points=50)
    head = Mask2FormerConfig(layers=SMALL.model_copy(update=sizes), loss=loss).build(shapes, 5)
    head.load_state_dict(head.convert_keys(theirs.state_dict()))  # all of ours, and nothing else of theirs
    ours = [torch.randn(2, spec.channels, 96 // spec.stride, 64 // spec.stride) for spec in shapes]
    features = [one.clone().requires_grad_() for one in ours]
    given = SimpleNamespace(feature_maps=features)
    monkeypatch.setattr(theirs.model.pixel_level_module.encoder, "forward", lambda *args, **kwargs: given)
    masks = [(torch.rand(number, 96, 64) > 0.6).float() for number in (3, 1)]
    labels = [torch.tensor([4, 0, 4]), torch.tensor([2])]
    drawn: list[Tensor] = []
    rand = torch.rand

    def noted(*sizes: Any, **kwargs: Any) -> Tensor:
        drawn.append(rand(*sizes, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(torch, "rand", noted)
    said = theirs(pixel_values=torch.zeros(2, 3, 96, 64), mask_labels=masks, class_labels=labels)
    monkeypatch.undo()

    ours = [one.requires_grad_() for one in ours]
    output = head(ours)
    assert_close(output.said.logits[-1], said.class_queries_logits, atol=1e-5, rtol=1e-4)
    assert_close(output.said.masks[-1], said.masks_queries_logits, atol=1e-4, rtol=1e-4)
    order = [3, 0, 1, 2]  # the layers as they ask for points: two images, then what is drawn for both

    def draw(image: int, layer: int, purpose: str, rows: int, points: int) -> Tensor:
        found = drawn[order.index(layer) * 4 + {"match": image, "oversampled": 2, "rest": 3}[purpose]]
        return found if purpose == "match" else found[:3] if image == 0 else found[3:]

    truths = [truth_of_objects(BoxTarget(labels=name, masks=mask)) for name, mask in zip(labels, masks, strict=True)]
    units = loss.units(truths, 7)
    total = torch.stack([term / units[name] for name, term in loss(output.said, truths, draw).terms.items()]).sum()
    assert_close(total, said.loss, atol=1e-4, rtol=1e-5)
    total.backward()
    said.loss.backward()
    for one, other in zip(ours, features, strict=True):
        assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


def test_names_go_out_as_published_and_come_back() -> None:
    head = build()
    there = head.traits.to_published(head.state_dict())
    assert {key.split(".")[1] for key in there} == {"pixel_decoder", "predictor"}
    back = head.convert_keys({f"module.{key}": value for key, value in there.items()})
    assert back.keys() == head.state_dict().keys()


# --- points


def test_the_truth_at_points_is_grid_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, points = torch.rand(3, 9, 14, generator=generator), torch.rand(4, 50, 2, generator=generator)
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.0, 0.99]])
    rows = torch.tensor([2, 0, 0, 1])
    assert_close(truth_at_points(masks, rows, points), at_points(masks[rows][:, None], points)[:, 0])
    hard = masks > 0.5
    assert_close(truth_at_points(hard, rows, points), at_points(hard[rows][:, None].float(), points)[:, 0])


def test_splitting_a_batch_changes_no_sum() -> None:
    head, features = build(), levels(4)
    targets = [target(5, 0), target(0, 1), target(9, 2, num_crowd=2), target(1, 3)]
    torch.manual_seed(5)
    whole, alone = head.loss(head(features), targets).terms, dict.fromkeys(head.terms, 0.0)
    units = dict.fromkeys(head.terms, 0.0)
    for i in (2, 0, 3, 1):
        torch.rand(7)  # whatever else is drawn
        for name, term in head.loss(head([f[i : i + 1] for f in features]), [targets[i]]).terms.items():
            alone[name] += term.item()
            units[name] += head.units([targets[i]], (SIZE, SIZE))[name]
    assert alone == pytest.approx({name: term.item() for name, term in whole.items()}, rel=1e-4)
    assert units == pytest.approx(head.units(targets, (SIZE, SIZE)))


def test_points_follow_from_the_step_and_the_objects() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    torch.manual_seed(5)
    first, again = (drawn_for([boxes])(0, 0, "match", 1, 8) for _ in range(2))
    second_image = drawn_for([boxes + 1, boxes])(1, 0, "match", 1, 8)
    other_image = drawn_for([boxes + 1])(0, 0, "match", 1, 8)
    torch.manual_seed(6)
    other_step = drawn_for([boxes])(0, 0, "match", 1, 8)
    assert torch.equal(first, again)
    assert torch.equal(first, second_image)
    assert not torch.equal(first, other_image)
    assert not torch.equal(first, other_step)


# --- truths


def test_targets_of_every_image_of_a_batch_are_learned() -> None:
    head = build()
    output, one, other = head(levels(2)), target(3, 0), target(4, 1)
    sums = [head.loss(output, [one, two]).terms["mask"].item() for two in (target(0, 0), other)]
    assert sums[1] > sums[0]


def test_pixels_of_crowds_weigh_nothing_in_the_loss_of_masks() -> None:
    head, alone = build(), target(2, 3)
    alone = replace(alone, masks=rectangles(torch.tensor([[10.0, 10.0, 40.0, 40.0], [70.0, 70.0, 100.0, 100.0]])))
    crowd = truth(torch.tensor([[0.0, 0.0, SIZE, SIZE]]), is_crowd=torch.tensor([True]))
    together = BoxTarget(
        labels=torch.cat([alone.labels, crowd.labels]),
        boxes_xyxy=torch.cat([alone.boxes_xyxy, crowd.boxes_xyxy]),
        is_crowd=torch.tensor([False, False, True]),
        masks=torch.cat([alone.masks, crowd.masks]),
    )
    found = truth_of_objects(together)
    assert torch.equal(found.counts, alone.masks.any(dim=0))  # their own pixels still do
    assert head.units([together], (SIZE, SIZE)) == head.units([alone], (SIZE, SIZE))
    only = head.loss(head(levels(1)), [crowd])
    assert all(term == 0 for term in only.terms.values())  # no query lies outside of it


def test_an_object_without_pixels_is_no_target_and_its_box_no_background() -> None:
    two = truth(torch.tensor([[10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 90.0, 90.0]]))
    two.masks[1] = False
    found = truth_of_objects(two)
    assert found.labels.tolist() == [0]
    assert not found.counts[60:90, 60:90].any()
    assert found.counts.sum() == SIZE * SIZE - 900


def test_soft_masks_are_learned_as_they_are() -> None:
    whole = truth(torch.tensor([[0.0, 0.0, SIZE, SIZE]]))
    soft = replace(whole, masks=0.25 * whole.masks)
    inside = torch.full((1, 7, 2), 0.5)
    assert_close(truth_at_points(truth_of_objects(soft).masks, torch.tensor([0]), inside), torch.full((1, 7), 0.25))
    head = build()
    output = head(levels(1))
    losses = [head.loss(output, [one]).terms["mask"].item() for one in (whole, soft)]
    assert losses[0] != losses[1]


def test_more_objects_than_queries_are_counted() -> None:
    head = build(queries=6)
    targets = [target(9, 0), target(1, 1)]
    found = head.loss(head(levels(2)), targets)
    assert (found.metrics["unmatched"].total, found.metrics["unmatched"].count) == (3, 10)
    assert head.units(targets, (SIZE, SIZE)) == pytest.approx({"class": 7 + 5 * 0.1, "mask": 7, "dice": 7})


EDGES = {
    "no object": target(0, 0),
    "the whole image": truth(torch.tensor([[0.0, 0.0, SIZE, SIZE]])),
    "one object twice": truth(torch.tensor([[20.0, 20.0, 60.0, 60.0]] * 2), torch.tensor([0, 1])),
    "a pixel": truth(torch.tensor([[50.0, 50.0, 51.0, 51.0]])),
    "more objects than queries": target(20, 0),
}


@pytest.mark.parametrize("edge", EDGES)
def test_loss_and_gradient_are_finite_and_reach_every_weight(edge: str) -> None:
    head = build()
    loss = mean_loss(head, head(levels(2)), [EDGES[edge], EDGES["no object"]])
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


# --- padding


def test_padding_is_neither_looked_at_nor_learned() -> None:
    head = build().eval()
    shown = Shown(sizes_hw=((64, 96), (SIZE, SIZE)), padded_hw=(SIZE, SIZE))
    output = head(levels(2), shown)
    found = head.decode(output, [(64, 96), (SIZE, SIZE)])[0]
    assert (found.boxes_xyxy[:, 2] <= 96).all()
    assert (found.boxes_xyxy[:, 3] <= 64).all()
    small = truth(torch.tensor([[0.0, 0.0, 20.0, 20.0]]))
    beyond = replace(small, masks=small.masks.clone())
    beyond.masks[:, 72:] = True  # below the image, farther than a bilinear sample reaches
    losses = [head.loss(output, [one, target(0, 0)]).terms["mask"].item() for one in (small, beyond)]
    assert losses[0] == losses[1]


# --- maps of classes


def label_map(*boxes: tuple[int, int, int, int]) -> Tensor:
    found = torch.zeros(SIZE, SIZE, dtype=torch.int16)
    for label, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        found[y0:y1, x0:x1] = label
    return found


def test_every_class_that_is_there_is_one_target() -> None:
    labels = label_map((10, 10, 50, 60), (70, 70, 100, 120))
    labels[:, 110:] = IGNORED
    labels[100:, :] = IGNORED
    found = truth_of_map(labels)
    assert found.labels.tolist() == [0, 1, 2]
    assert torch.equal(found.masks.sum(dim=0) == 1, labels != IGNORED)
    assert found.share_xy == (110 / SIZE, 100 / SIZE)
    assert found.counts is None  # padding alone: points lie in the image
    labels[20, 20] = IGNORED
    assert not truth_of_map(labels).counts[20, 20]
    nothing = truth_of_map(torch.full((SIZE, SIZE), IGNORED, dtype=torch.int16))
    assert (len(nothing.labels), nothing.counts.any()) == (0, False)


def test_ignored_pixels_take_part_in_nothing() -> None:
    head, features = build_maps(), levels(1)
    assert isinstance(head, LearningHead)
    one = label_map((10, 10, 50, 60))
    one[70:, :] = IGNORED
    shorter = one.clone()
    shorter[:70][:, 90:] = IGNORED
    everything = torch.full_like(one, IGNORED)
    losses = [head.learn(features, labels[None]).terms for labels in (one, shorter, everything)]
    assert all(term == 0 for term in losses[2].values())
    assert losses[0]["mask"] != losses[1]["mask"]
    assert head.units(one[None]) == head.units(shorter[None]) == {"class": 2 + 10 * 0.1, "mask": 2.0, "dice": 2.0}


def test_maps_of_a_split_batch_have_the_same_loss() -> None:
    head, features = build_maps(), levels(2)
    labels = torch.stack([label_map((10, 10, 50, 60)), label_map((0, 0, 9, 9), (70, 70, 100, 120))])
    whole = head.learn(features, labels).terms
    parts = [head.learn([f[i : i + 1] for f in features], labels[i : i + 1]).terms for i in range(2)]
    for name in head.terms:
        assert whole[name].item() == pytest.approx(sum(part[name].item() for part in parts), rel=1e-4)


# --- what they learn


def trained(head: Any, loss_of: Any) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(50):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss_of().backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    head.eval()


def test_it_learns_the_masks_of_two_images_by_heart() -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 80.0], [70.0, 10.0, 110.0, 40.0], [64.0, 64.0, 124.0, 124.0]])
    targets = [truth(boxes, torch.tensor([0, 1, 1])), truth(boxes[:1] + 30, torch.tensor([1]))]
    head, features = build(COARSE, queries=6), maps(2, COARSE)
    trained(head, lambda: mean_loss(head, head(features), targets))
    for found, wanted in zip(head.decode(head(features), [(SIZE, SIZE)] * 2), targets, strict=True):
        assert average_precision(found, wanted, iou=0.7) > 0.9


def test_it_learns_the_classes_of_two_maps_by_heart() -> None:
    labels = torch.stack([label_map((10, 10, 50, 60), (70, 70, 100, 120)), label_map((40, 0, 128, 60))])
    head, features = build_maps(COARSE), maps(2, COARSE)
    units = head.units(labels)

    def loss() -> Tensor:
        return torch.stack([term / units[name] for name, term in head.learn(features, labels).terms.items()]).sum()

    trained(head, loss)
    found = nn.functional.interpolate(head(features), (SIZE, SIZE), mode="bilinear").argmax(dim=1)
    assert (found == labels).float().mean() > 0.97


def test_visfts_form_has_one_map_and_its_settings_are_checked() -> None:
    with torch.device("meta"):
        head = VISFT_MASK2FORMER.build((FeatureSpec(channels=1408, stride=14),), 80)
    assert sum(parameter.numel() for parameter in head.parameters()) == 13_650_833
    with pytest.raises(UserError, match="heads=5 does not divide width=32"):
        MaskQueriesConfig(width=32, heads=5)
    with pytest.raises(UserError, match="fine to coarse"):
        Mask2FormerConfig(layers=SMALL).build(specs((32, 8)), 2)
