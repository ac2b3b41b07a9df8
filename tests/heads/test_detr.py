"""DETR: equal to that of `transformers`, right at the edges of what an image holds, and able to learn."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import box_convert, box_iou
from toy_heads import CHANNELS, SIZE, average_precision, maps, specs, target, truth
from transformers import DetrConfig as TheirConfig
from transformers import DetrForObjectDetection, ResNetConfig

from vistruct.contracts import BoxTarget, FeatureSpec, Shown
from vistruct.errors import UserError
from vistruct.heads.detr import Detr, DetrConfig, DetrOutput, spread_boxes
from vistruct.heads.detr_layers import sine_positions

TINY = DetrConfig(
    encoder_width=32, decoder_width=32, encoder_layers=1, decoder_layers=2, heads=4, hidden=32, queries=12, dropout=0.0
)


def build(**changes: Any) -> Detr:
    torch.manual_seed(1)
    return TINY.model_copy(update=changes).build(specs(), 2)


def mean_loss(head: Detr, output: DetrOutput, targets: list[BoxTarget]) -> torch.Tensor:
    units = head.units(targets, (SIZE, SIZE))
    terms = head.loss(output, targets).terms
    return torch.stack([term / (units[name] or 1.0) for name, term in terms.items()]).sum()


# --- against transformers


THEIR_NAMES = {
    r"model\.input_projection\.": "project.",
    r"model\.query_position_embeddings\.": "queries.",
    r"model\.encoder\.layers\.": "encoder.layers.",
    r"model\.decoder\.layers\.": "decoder.layers.",
    r"model\.decoder\.layernorm\.": "decoder.norm.",
    r"class_labels_classifier\.": "classes.",
    r"bbox_predictor\.layers\.0\.": "boxes.0.",
    r"bbox_predictor\.layers\.1\.": "boxes.2.",
    r"bbox_predictor\.layers\.2\.": "boxes.4.",
}
OF_LAYER = {
    "self_attn.o_proj": "self_attn.out_proj",
    "encoder_attn.o_proj": "multihead_attn.out_proj",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm2",
}


def from_transformers(theirs: DetrForObjectDetection) -> dict[str, torch.Tensor]:
    """Their weights under our names: q, k and v in one table."""
    state = {name: value for name, value in theirs.state_dict().items() if "backbone" not in name}
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        own = next(re.sub(there, here, name) for there, here in THEIR_NAMES.items() if re.match(there, name))
        for there, here in OF_LAYER.items():
            own = own.replace(there, here)
        last = "norm2" if own.startswith("encoder") else "norm3"
        own = own.replace("final_layer_norm", last).replace("encoder_attn", "multihead_attn")
        if ".q_proj." in own:
            three = [state[name.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            found[own.replace(".q_proj.", ".in_proj_")] = torch.cat(three)
        elif ".k_proj." not in own and ".v_proj." not in own:
            found[own] = value
    return found


@pytest.fixture(scope="module")
def theirs() -> DetrForObjectDetection:
    torch.manual_seed(0)
    config = TheirConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=9,
        num_labels=5,
        auxiliary_loss=False,  # else they put a norm between their layers, which the paper does not
    )
    model = DetrForObjectDetection(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_outputs_loss_and_gradients_equal_those_of_transformers(theirs: DetrForObjectDetection) -> None:
    sizes, (height, width) = ((64, 80), (48, 96)), (64, 96)
    image, mask = torch.randn(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.int64)
    for one, (h, w) in zip(mask, sizes, strict=True):
        one[:h, :w] = 1
    relative = [torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.5, 0.1]]), torch.tensor([[0.5, 0.5, 0.9, 0.8]])]
    labels = [torch.tensor([3, 0]), torch.tensor([4])]
    pairs = [{"class_labels": c, "boxes": b} for c, b in zip(labels, relative, strict=True)]
    said = theirs(pixel_values=image, pixel_mask=mask, labels=pairs)

    sizes_of = {"encoder_layers": 2, "decoder_layers": 3, "heads": 4, "hidden": 48, "queries": 9}
    config = DetrConfig(encoder_width=32, decoder_width=32, anchors=False, **sizes_of)
    head = config.build((FeatureSpec(channels=16, stride=8),), 5).eval()
    head.load_state_dict(from_transformers(theirs))
    level = theirs.model.backbone(image, mask)[-1][0]
    output = head([level], Shown(sizes_hw=sizes, padded_hw=(height, width)))
    torch.testing.assert_close(output.logits[-1], said.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.boxes[-1], said.pred_boxes, atol=1e-5, rtol=1e-5)
    targets = [
        BoxTarget(boxes_xyxy=box_convert(b, "cxcywh", "xyxy") * torch.tensor([w, h, w, h]), labels=c)
        for b, c, (h, w) in zip(relative, labels, sizes, strict=True)
    ]
    theirs.config.auxiliary_loss = True  # of the outputs of all our layers
    all_layers = (output.logits[-1], pairs, image.device, output.boxes[-1], theirs.config, output.logits, output.boxes)
    wanted, each, _ = theirs.loss_function(*all_layers)
    theirs.config.auxiliary_loss = False
    torch.testing.assert_close(mean_loss(head, output, targets), wanted, atol=1e-4, rtol=1e-5)
    assert len([name for name in each if name.startswith("loss_giou")]) == 3

    head.config = head.config.model_copy(update={"auxiliary": False})
    loss = mean_loss(head, output, targets)
    torch.testing.assert_close(loss, said.loss, atol=1e-4, rtol=1e-5)
    loss.backward()
    said.loss.backward()
    grad, goal = head.project.weight.grad, theirs.model.input_projection.weight.grad
    assert grad is not None
    torch.testing.assert_close(grad, goal, atol=1e-4, rtol=1e-3)


def test_positions_are_transformers() -> None:
    from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

    shown = Shown(sizes_hw=((40, 64), (64, 24)), padded_hw=(64, 64)).padding((8, 8))
    waves = DetrSinePositionEmbedding(16, normalize=True)
    wanted = waves(torch.Size([2, 3, 8, 8]), torch.device("cpu"), torch.float32, ~shown)
    torch.testing.assert_close(sine_positions(shown, 32), wanted.flatten(2).transpose(1, 2))


# --- at the edges


EDGES = {
    "no object": target(0, 0),
    "one object": target(1, 0),
    "a hundredth of a pixel": truth(torch.tensor([[50.0, 50.0, 50.01, 50.01]])),
    "the whole image": truth(torch.tensor([[0.0, 0.0, SIZE, SIZE]])),
    "one box twice": truth(torch.tensor([[20.0, 20.0, 60.0, 60.0]] * 2), torch.tensor([0, 1])),
    "crowds only": target(3, 0, num_crowd=3),
    "more objects than queries": target(20, 0),
}


@pytest.mark.parametrize("edge", EDGES)
def test_loss_and_gradient_are_finite_and_reach_every_weight(edge: str) -> None:
    head = build(encoder_width=16, task_token=True, residual=True)
    loss = mean_loss(head, head(maps(2)), [EDGES[edge], EDGES["no object"]])
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_objects_beyond_the_queries_are_counted() -> None:
    head = build(queries=6)
    found = head.loss(head(maps(2)), [target(9, 0), target(1, 1)]).metrics["unmatched"]
    assert (found.total, found.count) == (3, 10)


def test_a_crowd_over_the_whole_image_teaches_nothing_and_one_elsewhere_changes_nothing() -> None:
    head = build()
    everywhere = torch.tensor([[-SIZE, -SIZE, 2.0 * SIZE, 2.0 * SIZE]])
    crowd = BoxTarget(boxes_xyxy=everywhere, labels=torch.tensor([0]), is_crowd=torch.tensor([True]))
    assert all(term == 0 for term in head.loss(head(maps(1)), [crowd]).terms.values())
    ignored = BoxTarget(boxes_xyxy=everywhere, labels=torch.tensor([0]), is_ignored=torch.tensor([True]))
    assert all(term == 0 for term in head.loss(head(maps(1)), [ignored]).terms.values())
    aside = BoxTarget(boxes_xyxy=everywhere + 4 * SIZE, labels=torch.tensor([0]), is_crowd=torch.tensor([True]))
    with_it, without = (head.loss(head(maps(1)), [one]).terms["class"] for one in (aside, target(0, 0)))
    assert with_it == without > 0
    assert head.units([crowd], (SIZE, SIZE)) == head.units([target(0, 0)], (SIZE, SIZE))


def test_splitting_a_batch_changes_no_sum() -> None:
    head, features = build(), maps(4)
    targets = [target(5, 0), target(0, 1), target(9, 2, num_crowd=2), target(1, 3)]
    whole, alone = head.loss(head(features), targets).terms, dict.fromkeys(head.terms, 0.0)
    units = dict.fromkeys(head.terms, 0.0)
    for i, one in enumerate(targets):
        for name, term in head.loss(head([f[i : i + 1] for f in features]), [one]).terms.items():
            alone[name] += term.item()
            units[name] += head.units([one], (SIZE, SIZE))[name]
    assert alone == pytest.approx({name: term.item() for name, term in whole.items()}, rel=1e-5)
    assert units == pytest.approx(head.units(targets, (SIZE, SIZE)))


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    head = build(task_token=True).eval()
    (level,) = maps(1, (32,))
    padded = nn.functional.pad(level, (0, 3, 0, 2), value=7.0)
    whole = head([level] * 3)
    part = head([padded] * 3, Shown(sizes_hw=((SIZE, SIZE),), padded_hw=(SIZE + 64, SIZE + 96)))
    torch.testing.assert_close(part.logits, whole.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.xyxy(0), whole.xyxy(0), atol=1e-3, rtol=1e-5)


@torch.no_grad()
def test_detections_are_sorted_inside_their_image_and_one_of_a_query_if_asked() -> None:
    sizes = [(50, 70), (SIZE, 90)]
    shown = Shown(sizes_hw=tuple(sizes), padded_hw=(SIZE, SIZE))
    for one_label, most in ((False, 24), (True, 12)):
        head = build(score_threshold=0.0, one_label=one_label).eval()
        for found, (height, width) in zip(head.decode(head(maps(2), shown), sizes), sizes, strict=True):
            assert len(found) == most  # 12 queries, 2 classes
            assert (found.scores[:-1] >= found.scores[1:]).all()
            assert found.boxes_xyxy.min() >= 0
            assert (found.boxes_xyxy[:, 2:].amax(dim=0) <= torch.tensor([width, height])).all()
    nothing = [f.fill_(float("nan")) for f in maps(1)]  # as from a backbone that has burst
    assert len(head.decode(head(nothing), [(SIZE, SIZE)])[0]) == 0


def test_bf16_layers_keep_geometry_and_loss_in_float32() -> None:
    head, features = build(), maps(1)
    sums = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = head([f.bfloat16() if enabled else f for f in features])
            sums.append(mean_loss(head, output, [target(5, 0)]))
            found = head.decode(output, [(SIZE, SIZE)])[0]
        assert (sums[-1].dtype, found.boxes_xyxy.dtype, found.scores.dtype) == (torch.float32,) * 3
    assert sums[1].item() == pytest.approx(sums[0].item(), rel=0.05)


def test_it_reads_the_level_that_is_asked_for() -> None:
    assert build().stride == 32
    assert build(level=0).stride == 8
    with pytest.raises(UserError, match="no feature map 3 among 3"):
        build(level=3)
    with pytest.raises(UserError, match="5 heads do not divide encoder_width 32"):
        build(heads=5)


def test_queries_with_anchors_begin_side_by_side_over_the_whole_image() -> None:
    boxes = spread_boxes(12)
    corners = box_convert(boxes, "cxcywh", "xyxy")
    assert corners.min() == pytest.approx(0, abs=1e-6)
    assert corners.max() == pytest.approx(1, abs=1e-6)
    assert float((boxes[:, 2] * boxes[:, 3]).sum()) == pytest.approx(1)
    assert torch.triu(box_iou(corners, corners), diagonal=1).max() < 1e-5
    head = build(anchors=True)
    torch.testing.assert_close(head(maps(1)).boxes[:, 0], boxes.expand(2, -1, -1), atol=1e-6, rtol=1e-5)


def test_it_learns_to_find_the_objects_of_two_images() -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 80.0], [70.0, 10.0, 110.0, 40.0], [64.0, 64.0, 124.0, 124.0]])
    targets = [truth(boxes, torch.tensor([0, 1, 1])), truth(boxes[:1] + 30, torch.tensor([1]))]
    head, features = build(queries=6), maps(2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = mean_loss(head, head(features), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    for found, wanted in zip(head.eval().decode(head(features), [(SIZE, SIZE)] * 2), targets, strict=True):
        assert average_precision(found, wanted, iou=0.5) > 0.9


def test_its_rows_of_classes_end_with_that_of_no_object() -> None:
    head = build()
    (layer,) = head.traits.class_layers
    assert (layer.name, layer.groups, layer.each, layer.rest) == ("classes", 1, 1, 1)
    assert head.classes.out_features == 3
    assert head.project.in_channels == CHANNELS
