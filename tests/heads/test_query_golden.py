"""The decoders of queries against VT-PLUG's own (REF-VLM @ cdfeccd): what they say, assign, lose, and teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_sam import save_sam
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import SamModel
from vtplug_weights import below, box_weights, filled, layers, mask_weights, three

from vistruct.backbones.sam_vit import SamVitConfig
from vistruct.checkpoint.parts import load_parts
from vistruct.contracts import BoxTarget, FeatureSpec, Queries, Shown
from vistruct.heads.query_box import QueryBox, QueryBoxConfig, relative_boxes
from vistruct.heads.query_keypoint import QueryKeypoint, QueryKeypointConfig
from vistruct.heads.query_layers import QueryLayersConfig
from vistruct.heads.query_mask import QueryMask, QueryMaskConfig
from vistruct.heads.query_mask_loss import true_masks
from vistruct.heads.sam_mask import SamMaskConfig

FOLDER = Path(__file__).parents[1] / "golden" / "vtplug_decoders"
IO, WEIGHTS = load_file(FOLDER / "io.safetensors"), load_file(FOLDER / "weights.safetensors")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SPECS = tuple(FeatureSpec(channels=c, stride=s) for c, s in ((6, 4), (10, 8), (14, 16), (20, 24), (20, 12)))
LAYERS = QueryLayersConfig(levels=(0, 1, 2, 4), width=32, layers=2, heads=4, hidden=48, slots=24)
SIDE = 30  # pixels of the picture, of which rows 0 and 2 show an image between padding
SHOWN = Shown(sizes_hw=((18, 30), (30, 30)) * 2, padded_hw=(SIDE, SIDE), corners_yx=((6, 0), (0, 0)) * 2)


def maps() -> list[Tensor]:
    last = IO["visual.4"]
    return [*(IO[f"visual.{i}"] for i in range(4)), last.transpose(1, 2).unflatten(2, (4, 4))]


def asked(groups: tuple[tuple[int, ...], ...], name: str = "ref_hidden_states") -> Queries:
    """Of the rows with this unit; `states` of the others stay, and nobody asks."""
    longest = max(1, *(sum(one) for one in groups))
    return Queries(states=IO[name][:, :longest].clone(), groups=groups)


def boxes_of(name: str, row: int) -> Tensor:
    boxes = IO.get(f"{name}.{row}", torch.zeros(0, 4))
    return box_convert(boxes, "cxcywh", "xyxy") * SIDE


def target(boxes: Tensor, **more: Any) -> BoxTarget:
    return BoxTarget(labels=torch.zeros(len(boxes), dtype=torch.int64), boxes_xyxy=boxes, **more)


def means(decoder: Any, output: Any, targets: list[BoxTarget]) -> dict[str, Tensor]:
    units = decoder.units(targets)
    return {name: term / (units[name] or 1) for name, term in decoder.loss(output, targets).terms.items()}


def assigned(case: str) -> list[int]:
    """Of each query, end to end, its object."""
    order = IO[f"{case}.pred_index"].argsort()
    return IO[f"{case}.target_index"][order].tolist()


# --- boxes

BOX_GROUPS = ((3, 1, 2), (), (1, 4), ())


def box_decoder(**changes: Any) -> QueryBox:
    config = QueryBoxConfig(style="detr", layers=LAYERS, **changes)
    return filled(config.build(SPECS, 28), box_weights(below(WEIGHTS, "box.")))


@pytest.mark.parametrize("use_groups", [True, False])
def test_boxes(use_groups: bool) -> None:
    decoder, case = box_decoder(use_groups=use_groups), "box.train" if use_groups else "box.train_no_matcher"
    queries, seen = asked(BOX_GROUPS), maps()
    inputs = [queries.states, seen[0], seen[4]]
    for one in inputs:
        one.requires_grad_()
    output = decoder(queries, seen, SHOWN)
    targets = [target(boxes_of("label.box", row)) for row in range(4)]
    torch.testing.assert_close(output.boxes, IO[f"{case}.preds"], **CLOSE)
    torch.testing.assert_close(output.states[[0, 2]], IO["box.train.out.ref_hidden_states"][[0, 2]], **CLOSE)
    found = means(decoder, output, targets)
    torch.testing.assert_close(found["l1"] / 5, IO[f"{case}.loss_bbox"], **CLOSE)
    torch.testing.assert_close(found["giou"] / 2, IO[f"{case}.loss_giou"], **CLOSE)
    torch.testing.assert_close(found["l1"] + found["giou"], IO[f"{case}.loss"], **CLOSE)
    true = relative_boxes(output.asked, targets)
    order = output.asked.order(lambda span: decoder.cost(output, true[span], span), use_groups, true.device)
    assert order.tolist() == (assigned(case) if use_groups else list(range(11)))
    predicted = torch.cat([IO["box.predict.preds.0"], IO["box.predict.preds.2"]])
    torch.testing.assert_close(output.boxes, predicted, **CLOSE)
    if use_groups:
        states, first, last = torch.autograd.grad(found["l1"] + found["giou"], inputs)
        torch.testing.assert_close(states, IO[f"{case}.grad.ref_hidden_states"][:, : states.shape[1]], **CLOSE)
        torch.testing.assert_close(first, IO[f"{case}.grad.visual.0"], **CLOSE)
        torch.testing.assert_close(last.flatten(2).transpose(1, 2), IO[f"{case}.grad.visual.4"], **CLOSE)


def test_no_box() -> None:
    decoder = box_decoder()
    output = decoder(asked(((), (), (), ())), maps(), SHOWN)
    found = means(decoder, output, [target(torch.zeros(0, 4))] * 4)
    assert found["l1"] + found["giou"] == IO["box.train_no_target.loss"] == 0
    assert [len(one) for one in decoder.decode(output, (SIDE, SIDE))] == [0] * 4


# --- masks

MASK_GROUPS = ((), (2, 2), (), ())


def mask_decoder(**changes: Any) -> QueryMask:
    config = QueryMaskConfig(
        layers=LAYERS.model_copy(update={"levels": (4,), "slots": 6}), pyramid=(0, 1, 2, 4), **changes
    )
    return filled(config.build(SPECS, 28), mask_weights(below(WEIGHTS, "mask.")))


@pytest.mark.parametrize(
    ("case", "groups"),
    [("train", (2, 2)), ("train_no_matcher", (2, 2)), ("train_overfull", (1, 4, 2, 1))],
)
def test_masks(case: str, groups: tuple[int, ...]) -> None:
    decoder, full = mask_decoder(use_groups=case != "train_no_matcher"), "overfull." if "overfull" in case else ""
    queries, seen = asked(((), groups, (), ()), f"{full}ref_hidden_states"), maps()
    queries.states.requires_grad_()
    output = decoder(queries, seen, SHOWN)
    true = IO[f"{full}label.mask.1"]
    targets = [
        target(torch.zeros(0, 4)),
        target(torch.zeros(len(true), 4), masks=true),
        *[target(torch.zeros(0, 4))] * 2,
    ]
    torch.testing.assert_close(output.logits, IO[f"mask.{case}.preds"], **CLOSE)
    found = means(decoder, output, targets)
    torch.testing.assert_close(found["mask"] / 20, IO[f"mask.{case}.loss_mask"], **CLOSE)
    torch.testing.assert_close(found["dice"], IO[f"mask.{case}.loss_dice"], **CLOSE)
    torch.testing.assert_close(found["mask"] + found["dice"], IO[f"mask.{case}.loss"], **CLOSE)
    if case != "train_no_matcher":
        masks, _ = true_masks(output, targets)
        order = output.asked.order(lambda span: decoder.drawing.cost(output, masks[span], span), True, masks.device)
        assert order.tolist() == assigned(f"mask.{case}")
    if case == "train":
        (states,) = torch.autograd.grad(found["mask"] + found["dice"], [queries.states])
        torch.testing.assert_close(states, IO["mask.train.grad.ref_hidden_states"][:, : states.shape[1]], **CLOSE)
        torch.testing.assert_close(decoder.decode(output, (SIDE, SIDE))[1].masks, IO["mask.predict.preds.1"], **CLOSE)


# --- key points

POSE_GROUPS = ((3,), (2,))


def pose_decoder(**changes: Any) -> QueryKeypoint:
    slots = LAYERS.model_copy(update={"slots": 5})
    box = QueryBoxConfig(style="detr", layers=slots, quality_weight=0.0)
    config = QueryKeypointConfig(box=box, layers=slots, within_box=False, oks="distance", quality_weight=0.0, **changes)
    first, own = (below(WEIGHTS, f"pose.{name}_decoder.") for name in ("box", "kpt"))
    state = {f"first.{name}": value for name, value in box_weights(first).items()} | layers(own)
    state |= three(below(own, "box_predictor."), "boxes") | three(below(own, "kpt_predictor."), "places")
    state |= {f"visible.{one}": own[f"kpt_classifier.{one}"] for one in ("weight", "bias")}
    state["layers.parts.weight"] = own["kpt_embedding.weight"]
    return filled(config.build(SPECS, 28), state)


@pytest.mark.parametrize("case", ["train", "train_no_auxiliary"])
def test_key_points(case: str) -> None:
    decoder = pose_decoder(first_weight=0.5 if case == "train" else 0.0)
    queries, seen = asked(POSE_GROUPS, "pose.ref_hidden_states"), [one[:2] for one in maps()]
    queries.states.requires_grad_()
    output = decoder(queries, seen, None)
    height, width = output.asked.shown.padded_hw
    targets = []
    for row in range(2):
        points = IO[f"pose.label.keypoint.{row}"] * torch.tensor([width, height, 1])
        boxes = box_convert(IO[f"pose.label.box.{row}"], "cxcywh", "xyxy") * torch.tensor([width, height] * 2)
        targets.append(target(boxes, keypoints=points))
    torch.testing.assert_close(output.places, IO[f"pose.{case}.preds"], **CLOSE)
    found = means(decoder, output, targets)
    torch.testing.assert_close(found["l1"] / 5, IO[f"pose.{case}.loss_bbox"], **CLOSE)
    torch.testing.assert_close(found["giou"] / 2, IO[f"pose.{case}.loss_giou"], **CLOSE)
    torch.testing.assert_close(found["keypoint"] / 2, IO[f"pose.{case}.loss_keypoints"], **CLOSE)
    torch.testing.assert_close(found["oks"] / 2, IO[f"pose.{case}.loss_oks"], **CLOSE)
    torch.testing.assert_close(found["visible"], IO[f"pose.{case}.loss_ce"], **CLOSE)
    total = torch.stack(list(found.values())).sum()
    torch.testing.assert_close(total, IO[f"pose.{case}.loss"], **CLOSE)
    (states,) = torch.autograd.grad(total, [queries.states])
    for row, one in enumerate(decoder.decode(output, (height, width))):
        predicted = {name: IO[f"pose.predict.preds.{row}.pred_{name}"] for name in ("boxes", "kpts", "cls")}
        torch.testing.assert_close(output.asked.split(output.boxes)[row], predicted["boxes"], **CLOSE)
        torch.testing.assert_close(one.keypoints[..., :2] / torch.tensor([width, height]), predicted["kpts"], **CLOSE)
        assert torch.equal(one.keypoints[..., 2] > 0, predicted["cls"] > 0)
    if case == "train":
        torch.testing.assert_close(states, IO["pose.train.grad.ref_hidden_states"][:, : states.shape[1]], **CLOSE)


# --- SAM

SAM_GROUPS = ((2, 1), (), (3,))


def test_sam() -> None:
    folder = FOLDER.with_name("vtplug_sam")
    io, state = load_file(folder / "io.safetensors"), load_file(folder / "weights.safetensors")
    state = {name.removeprefix("sam."): value for name, value in state.items()}
    public = {name.removeprefix("sam."): value for name, value in state.items() if name.startswith("sam.")}
    tower = SamVitConfig(
        width=24, depth=2, heads=3, hidden=48, channels=32, patch=8, window=3, global_blocks=(1,), image_size=64
    ).build()
    tower.load_state_dict(tower.convert_keys(public))
    decoder = SamMaskConfig(width=32, heads=4, hidden=48, quality_hidden=16).build(tower.specs, 28)
    decoder.public.load_state_dict(decoder.public.convert_keys(public))
    asks = {name.replace("in_proj_queries.", ""): value for name, value in state.items() if "in_proj" in name}
    decoder.asks.load_state_dict(asks)
    states = io["sam.ref_hidden_states"][:, :3].clone().requires_grad_()
    shown = Shown(sizes_hw=((23, 30), (30, 30), (30, 30)), padded_hw=(30, 30), corners_yx=((7, 0), (0, 0), (0, 0)))
    maps = tower.eval()(io["sam.input"].float() / 32)
    output = decoder.eval()(Queries(states=states, groups=SAM_GROUPS), maps, shown)
    masks = [io.get(f"sam.label.mask.{row}", torch.zeros(0, 30, 30)) for row in range(3)]
    targets = [target(torch.zeros(len(one), 4), masks=one) for one in masks]
    torch.testing.assert_close(output.logits, io["sam.train.preds"], **CLOSE)
    found = means(decoder, output, targets)
    torch.testing.assert_close(found["mask"] / 20, io["sam.train.loss_mask"], **CLOSE)
    torch.testing.assert_close(found["dice"], io["sam.train.loss_dice"], **CLOSE)
    total = found["mask"] + found["dice"]
    torch.testing.assert_close(total, io["sam.train.loss"], **CLOSE)
    (gradient,) = torch.autograd.grad(total, [states])
    torch.testing.assert_close(gradient, io["sam.train.grad.ref_hidden_states"][:, :3], **CLOSE)


def test_sam_of_transformers(tmp_path: Path) -> None:
    """A folder of theirs starts the tower and the decoder, each by its name in the task."""
    save_sam(tmp_path)
    tower = SamVitConfig(
        width=16, depth=2, heads=2, hidden=16, channels=32, patch=8, window=3, global_blocks=(1,), image_size=64
    ).build()
    decoder = SamMaskConfig(width=32, heads=2, hidden=32, quality_hidden=16).build(tower.specs, 28)
    task = nn.ModuleDict({"tower": tower, "mask": decoder})
    load_parts(task, {"tower": tmp_path, "mask.public": tmp_path}, None)
    theirs = SamModel.from_pretrained(tmp_path).eval()
    image, points = torch.randn(1, 3, 64, 64), torch.randn(1, 2, 1, 32)
    (level,) = tower.eval()(image)
    torch.testing.assert_close(level, theirs.get_image_embeddings(image))
    masks, guesses = decoder.eval().public(points[0, :, 0], level.expand(2, -1, -1, -1))
    expected = theirs.mask_decoder(
        image_embeddings=level,
        image_positional_embeddings=theirs.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=points,
        dense_prompt_embeddings=theirs.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        multimask_output=False,
    )
    torch.testing.assert_close(masks, expected[0][0, :, 0], **CLOSE)
    torch.testing.assert_close(guesses, expected[1][0, :, 0], **CLOSE)
