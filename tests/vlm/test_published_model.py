"""The whole model of VT-PLUG, tiny, against its own numbers (REF-VLM @ cdfeccd): what it reads, learns, says and draws.

What differs there, and why it does not matter or how it is matched here:
- their attention sees padding, which stands behind every row and so behind all that counts;
- their vocabulary has no token for an image or a region (-200 and -300 in the rows); ours has, and the language model's
  head is as wide as theirs, so that neither is ever written;
- their targets are rounded to three decimals, and drawn by Pillow's bicubic; what counts as padding begins where a
  pixel is padding only in part: both are taken from the file, for our own is nearer to the annotation (`test_picture`);
- `transformers` 4.37 puts a beginning in front of what it generates;
- how well a box or mask fits (`quality`) is learned here alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import GOLDEN, Golden
from test_grammar import turns_of
from torch import nn
from torchvision.ops import box_convert
from transformers import PreTrainedTokenizerFast
from vtplug_weights import below, box_weights, filled, mask_weights

from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.weights import load_backbone
from vistruct.contracts import Objects, Sample, Shown
from vistruct.heads.query_box import QueryBoxConfig
from vistruct.heads.query_layers import QueryLayersConfig
from vistruct.heads.query_mask import QueryMaskConfig
from vistruct.heads.query_mask_loss import MaskDrawing
from vistruct.tasks import instruct
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.tasks.pointing import PointingConfig
from vistruct.vlm import vicuna
from vistruct.vlm.grammar import Grammar
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.picture import Frame
from vistruct.vlm.pointed import Pointed
from vistruct.vlm.region_tokens import RegionTokensConfig
from vistruct.vlm.tiling import Tiling

FOLDER = GOLDEN / "vtplug_model"
SAID = json.loads((FOLDER / "config.json").read_text())
NAMES = SAID["batch"]["names"]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LAYERS = QueryLayersConfig(levels=(0, 1, 2, 4), width=32, layers=2, heads=4, hidden=48, slots=16)
POINTING = PointingConfig(
    grammar=Grammar(command=True, spelling="published"),
    regions=RegionTokensConfig(style="published"),
    decoders={
        "box": QueryBoxConfig(style="detr", layers=LAYERS, quality_weight=0.0),
        "mask": QueryMaskConfig(
            layers=LAYERS.model_copy(update={"levels": (4,), "slots": 6}),
            pyramid=(0, 1, 2, 4),
            drawing=MaskDrawing(quality_weight=0.0),
        ),
    },
    tower=TimmConfig(name="convnext_large", options={"depths": (1, 1, 1, 1), "dims": (6, 8, 10, 12)}),
    tower_size=64,
    mask_size=84,
)
CLIP = TimmConfig(
    name="vit_large_patch14_clip_quickgelu_336",
    image_size=84,
    out_indices=(1,),
    options={"embed_dim": 24, "depth": 3, "num_heads": 4, "mlp_ratio": (40 + 0.5) / 24, "patch_size": 14},
)
LLAMA = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
GREY = {"mean": (128 / 255,) * 3, "std": (32 / 255,) * 3}  # bytes are the file's numbers + 128


@pytest.fixture(scope="module")
def io() -> Golden:
    return Golden("vtplug_model/io.safetensors")


@pytest.fixture(scope="module")
def model(io: Golden) -> Any:
    weights = Golden("vtplug_model/weights.safetensors").tensors
    words = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"), eos_token=vicuna.END)
    words.add_tokens([*POINTING.added_tokens, *vicuna.ADDED_TOKENS], special_tokens=True)
    config = InstructConfig(
        backbone=CLIP,
        language=LanguageConfig(model_type="llama", options=LLAMA),
        tiling=Tiling(size=84, max_tiles=1, fit="pad"),
        shuffle=1,
        projector_norm=False,
        template="vicuna",
        system=SAID["template"]["SYSTEM_PREFIX"].removesuffix("\n"),
        max_new_tokens=130,
        vrl="off",
        pointing=POINTING,
        **GREY,
    )
    task: Any = Instruct(config, words)
    load_backbone(task.backbone, FOLDER / "weights.safetensors")
    load_backbone(task.pointing.tower, FOLDER / "weights.safetensors")
    language = below(weights, "llm.")
    task.language.lm_head = nn.Linear(48, 600, bias=False)
    rows = task.language.get_input_embeddings().weight[600:]
    language["model.embed_tokens.weight"] = torch.cat([language["model.embed_tokens.weight"], rows])
    task.language.load_state_dict(language)
    task.projector.load_state_dict(below(weights, "projector.model."))
    task.pointing.regions.load_state_dict(below(weights, "vpt_encoder.model."))
    filled(task.pointing.decoders["box"], box_weights(below(weights, "visual_decoder.box.")))
    filled(task.pointing.decoders["mask"], mask_weights(below(weights, "visual_decoder.mask.")))
    return task.eval()


def sample(name: str) -> Sample:
    """One of the annotations, with objects that have what is pointed at."""
    case = SAID["cases"][name]
    target = case["target"] or {}
    boxes = torch.tensor(target.get("boxes", [])).float().view(-1, 4)
    masks = [ellipse(*one[1:]) for one in target.get("masks", [])]
    if len(boxes) < len(masks):
        boxes = torch.zeros(len(masks), 4)
    return Sample(
        id=name,
        image_id=name,
        seed=0,
        images=[torch.zeros(3, 80, 100, dtype=torch.uint8)] if case["image"] else [],
        objects=Objects(
            labels=torch.full((len(boxes),), -1),
            boxes_xyxy=boxes,
            masks=torch.stack(masks) if len(masks) == len(boxes) > 0 else None,
        ),
        turns=tuple(turns_of(case)),
    )


def ellipse(x: float, y: float, a: float, b: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(100), indexing="ij")
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1


def batch_of(model: Any, io: Golden, *, generate: bool = False) -> Any:
    """Our own batch of their annotations, over their pixels."""
    collate = model.traits.predict_collator if generate else model.collator
    batch = collate([sample(name) for name in NAMES])
    rows = [NAMES.index(name) for name in NAMES if SAID["cases"][name]["image"]]
    tiles, pictures = (
        (io[f"batch.pixel_values{which}"][rows] * 32 + 128).round().to(torch.uint8) for which in ("", "_tower")
    )
    pointed = replace(batch.pointed, pictures=pictures, targets=[targets(name, io) for name in NAMES])
    return replace(batch, tiles=tiles, pointed=pointed)


def targets(name: str, io: Golden) -> Objects[torch.Tensor]:
    number = NAMES.index(name)
    boxes = io.tensors.get(f"batch.label.box.{number}", torch.zeros(4, 4))
    masks = io.tensors.get(f"batch.label.mask.{number}", torch.zeros(4, 84, 84))
    order = torch.tensor([0, 3, 2, 1])  # of the labels, the annotation's numbers
    back = order.argsort()
    return Objects(
        labels=torch.full((4,), -1),
        boxes_xyxy=(box_convert(boxes, "cxcywh", "xyxy") * 84)[back],
        masks=masks.float()[back],
    )


@pytest.fixture
def as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their padding."""
    one = ((67, 84),), ((8, 0),)
    monkeypatch.setattr(
        Pointed,
        "shown",
        lambda self, rows: Shown(sizes_hw=one[0] * len(rows), padded_hw=(84, 84), corners_yx=one[1] * len(rows)),
    )


def test_rows_are_theirs(model: Any, io: Golden) -> None:
    batch = batch_of(model, io)
    places = {-200: [model.image_token] * 36, -300: [model.pointing.region_token] * 10}
    rows = zip(batch.input_ids.split(batch.lengths), batch.labels.split(batch.lengths), strict=True)
    for row, (ids, labels) in enumerate(rows):
        theirs = [own for token in io["batch.input_ids"][row].tolist() for own in places.get(token, [token])]
        assert ids.tolist() == theirs[: len(ids)]
        assert not any(theirs[len(ids) :])
        assert torch.equal(labels, io["expanded.labels"][row, : len(labels)])
    assert torch.equal(batch.pointed.coverage, io["batch.visual_prompts.2"].float())
    assert [one.groups for one in (batch.pointed.asked("box"), batch.pointed.asked("mask"))] == [((2, 1, 1),)] * 2


@torch.no_grad()
def test_what_is_read_and_seen_is_theirs(model: Any, io: Golden) -> None:
    batch = batch_of(model, io)
    reading = model.read(batch)
    seen = model.see(batch, reading)
    embedded = model.embed(batch, reading, seen)
    hidden = model.hidden(embedded, reading)
    first = batch.lengths[0]
    torch.testing.assert_close(embedded[:first], io["expanded.inputs_embeds.0"][:first], **CLOSE)
    torch.testing.assert_close(hidden[:first], io["hidden_states.0"][:first], **CLOSE)
    states = hidden[reading.objects]
    assert io["ref_mask"].sum(1).tolist() == [4, 4, 0, 0]
    torch.testing.assert_close(states, io["ref_hidden_states"][io["ref_mask"]], **CLOSE)
    for number, found in enumerate(model.pointing.maps(batch.pointed, seen, batch.whole_tiles, [0, 1])):
        theirs = io[f"visual.{number}"]
        theirs = theirs if number < 4 else theirs.transpose(1, 2).unflatten(2, (6, 6))
        torch.testing.assert_close(found, theirs, **CLOSE)


OURS = {
    "projector.model.0.weight": "projector.0.weight",
    "vpt_encoder.model.position_embedding.weight": "pointing.regions.position_embedding.weight",
    "llm.lm_head.weight": "language.lm_head.weight",
    "visual_decoder.box.in_proj_queries.weight": "pointing.decoders.box.layers.project.weight",
    "visual_decoder.mask.mask_embedder.0.0.weight": "pointing.decoders.mask.asks.0.weight",
    "llm.model.layers.0.self_attn.q_proj.weight": "language.model.layers.0.self_attn.q_proj.weight",
}


def test_a_step_teaches_what_theirs_does(model: Any, io: Golden, as_shown: None) -> None:
    batch = batch_of(model, io)
    units = model.units(batch)
    means = {name: term / units[name] for name, term in model(batch).terms.items()}
    box, mask = means["box.l1"] + means["box.giou"], means["mask.mask"] + means["mask.dice"]
    total = means["answers"] + 0.5 * box + 0.5 * mask
    torch.testing.assert_close(means["answers"], io["train.llm_cost"], atol=0, rtol=1e-4)
    torch.testing.assert_close(box, io["train.box_cost"], atol=0, rtol=1e-4)
    torch.testing.assert_close(mask, io["train.mask_cost"], atol=0, rtol=1e-4)
    torch.testing.assert_close(total, io["train.loss"], atol=0, rtol=1e-4)
    found = torch.autograd.grad(total, [model.get_parameter(name) for name in OURS.values()])
    for name, gradient in zip(OURS, found, strict=True):
        theirs = io[f"train.grad.{name}"]
        torch.testing.assert_close(gradient, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=1e-3, msg=name)


def test_it_says_and_draws_what_theirs_does(model: Any, io: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[int]] = []
    tokens = instruct.answer_tokens

    def heard(*asked: Any) -> list[list[int]]:
        said.extend(tokens(*asked))
        return said

    monkeypatch.setattr(instruct, "answer_tokens", heard)
    found = model.predict(batch_of(model, io, generate=True))
    begins, ends = (model.tokenizer.convert_tokens_to_ids(one) for one in (vicuna.START, vicuna.END))
    for name, ids in zip(NAMES, said, strict=True):
        assert [begins, *ids, ends] == io[f"predict.{name}.generate_ids"].tolist(), name
    assert [one.found.words for one in found] == [one.truth.words for one in found if one.truth is not None]
    boxes, masks, *words = (one.found for one in found)
    assert [len(one.objects) for one in words] == [0, 0]
    assert [(phrase.text, phrase.unit, phrase.rows) for phrase in boxes.phrases] == [
        ("tree", "box", (0, 1)), ("red roof", "box", (2,)), ("boat", "box", (3,)),
    ]  # fmt: skip
    frame = Frame(size_hw=(80, 100), fit="pad")
    drawn = box_convert(io["predict.detection_classes.box"], "cxcywh", "xyxy") * 100 - torch.tensor([0, 10, 0, 10])
    torch.testing.assert_close(boxes.objects.boxes_xyxy, drawn, atol=1e-2, rtol=0)
    theirs = frame.masks_back(io["predict.segmentation_classes.mask"])
    for patch, mask in zip(masks.objects.masks, theirs, strict=True):
        own = torch.zeros(80, 100, dtype=torch.bool)
        height, width = patch.pixels.shape
        own[patch.y : patch.y + height, patch.x : patch.x + width] = torch.from_numpy(patch.pixels)
        assert mask.any()
        assert torch.equal(own, mask)
