"""The decoders of queries against VT-PLUG's own (REF-VLM @ cdfeccd): what they say, assign, lose, and teach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import box_convert

from vistruct.contracts import BoxTarget, FeatureSpec, Queries, Shown
from vistruct.heads.query_box import QueryBox, QueryBoxConfig
from vistruct.heads.query_layers import QueryLayersConfig

FOLDER = Path(__file__).parents[1] / "golden" / "vtplug_decoders"
IO, WEIGHTS = load_file(FOLDER / "io.safetensors"), load_file(FOLDER / "weights.safetensors")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SPECS = tuple(FeatureSpec(channels=c, stride=s) for c, s in ((6, 4), (10, 8), (14, 16), (20, 24), (20, 12)))
LAYERS = QueryLayersConfig(levels=(0, 1, 2, 4), width=32, layers=2, heads=4, hidden=48, slots=24)
SIDE = 30  # pixels of the picture, of which rows 0 and 2 show an image between padding
SHOWN = Shown(sizes_hw=((18, 30), (30, 30)) * 2, padded_hw=(SIDE, SIDE), corners_yx=((6, 0), (0, 0)) * 2)
OF_LAYER = {
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm2",
    "final_layer_norm": "norm3",
    "encoder_attn.out_proj": "multihead_attn.out_proj",
    "fc1": "linear1",
    "fc2": "linear2",
}


def detr_decoder(state: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """The weights of a DETR decoder of `transformers` by our names: q, k and v are one."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith(theirs):
            continue
        own = name.removeprefix(theirs).replace("layernorm.", "norm.")
        for there, here in OF_LAYER.items():
            own = own.replace(f".{there}.", f".{here}.")
        if match := re.fullmatch(r"(.*)(self_attn|encoder_attn)\.q_proj\.(weight|bias)", own):
            whole = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            attention = "multihead_attn" if match[2] == "encoder_attn" else "self_attn"
            found[f"{ours}{match[1]}{attention}.in_proj_{match[3]}"] = torch.cat(whole)
        elif not re.search(r"[kv]_proj", own):
            found[ours + own] = value
    return found


def layers(theirs: str, ours: str = "layers.", decoder: str = "decoder.") -> dict[str, Tensor]:
    state = {name.removeprefix(theirs): value for name, value in WEIGHTS.items() if name.startswith(theirs)}
    found = {f"{ours}project.{one}": state[f"in_proj_queries.{one}"] for one in ("weight", "bias")} | detr_decoder(
        state, decoder, f"{ours}decoder."
    )
    found |= {
        f"{ours}cells.{one}": state[f"in_proj_visual_feats.{one}"].flatten(1)
        if one == "weight"
        else state[f"in_proj_visual_feats.{one}"]
        for one in ("weight", "bias")
    }
    return found | {f"{ours}slots.weight": state["query_position_embeddings.weight"]}


def three(theirs: str, ours: str, name: str = "{}.layers.{}") -> dict[str, Tensor]:
    """Three linear layers with ReLU between."""
    return {
        f"{ours}.{2 * i}.{one}": WEIGHTS[name.format(theirs, i) + f".{one}"]
        for i in range(3)
        for one in ("weight", "bias")
    }


def filled(decoder: Any, state: dict[str, Tensor]) -> Any:
    """With these weights, and what the original lacks: how well it fits."""
    missing, unexpected = decoder.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("quality.") for name in missing), missing
    return decoder.eval()


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


# --- boxes

BOX_GROUPS = ((3, 1, 2), (), (1, 4), ())


def box_decoder(**changes: Any) -> QueryBox:
    config = QueryBoxConfig(style="detr", layers=LAYERS, **changes)
    return filled(config.build(SPECS, 28), layers("box.") | three("box.predictor", "boxes"))


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
    if use_groups:
        states, first, last = torch.autograd.grad(found["l1"] + found["giou"], inputs)
        torch.testing.assert_close(states, IO[f"{case}.grad.ref_hidden_states"][:, : states.shape[1]], **CLOSE)
        torch.testing.assert_close(first, IO[f"{case}.grad.visual.0"], **CLOSE)
        torch.testing.assert_close(last.flatten(2).transpose(1, 2), IO[f"{case}.grad.visual.4"], **CLOSE)
