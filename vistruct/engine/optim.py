"""AdamW with a rate and a decay for each parameter by what it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vistruct.config import AdamW
from vistruct.engine.lora import plain_name
from vistruct.engine.trainable import Plan
from vistruct.errors import UserError

# Matrices by shape, but learned points of reference by nature: pulling them to zero moves the origin.
UNDECAYED = (
    "position_embedding",
    "pos_embed",
    "class_embedding",
    "class_token",
    "cls_token",
    "mask_token",
    "task_token",
    "queries.weight",
    "head.anchors",
    "relative_position",
    "level_embed",
    "query_embed",
    "query_feat",
)


def build_optimizer(model: nn.Module, optim: AdamW, plan: Plan) -> torch.optim.AdamW:
    """AdamW over what is trainable, in groups that share a rate and a decay.

    Not decayed: tensors of at most one dimension (biases, norms, layer scales), anything called `bias`, and
    position, class and mask embeddings. Each group keeps `lr_scale`, its factor on the run's rate: the rule's
    `lr_factor` times the layer's decay; `set_learning_rate` applies it. `is_decayed` is for `set_weight_decay`.

    Raises:
        UserError: layer decay with a backbone that does not say which layer a parameter is in.
    """
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, factor in plan.lr_factors.items():
        scale = factor * layer_factor(model, name, optim.layer_decay)
        decayed = is_decayed(name, parameters[name])
        group = groups.setdefault(
            (scale, decayed),
            {
                "params": [],
                "names": [],
                "weight_decay": optim.weight_decay if decayed else 0.0,
                "is_decayed": decayed,
                "lr_scale": scale,
                "lr": optim.lr * scale,
            },
        )
        group["params"].append(parameters[name])
        group["names"].append(name)
    return torch.optim.AdamW(list(groups.values()), lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=optim.fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Give `weight_decay` to every group that is decayed."""
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if group["is_decayed"] else 0.0


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies to a parameter."""
    last = name.rsplit(".", 1)[-1]
    return parameter.ndim > 1 and last != "bias" and not any(part in name for part in UNDECAYED)


def layer_factor(model: nn.Module, name: str, layer_decay: float) -> float:
    """The rate's factor by depth: `layer_decay` to the power of the layers above.

    The `layer_of(name) -> (layer, num_layers)` of the backbone's traits says where one of its parameters is: 0 for the
    embedding, i + 1 for block i. Everything outside the backbone, and a backbone's last norm at num_layers +
    1, has factor 1.

    Source: Clark et al., arXiv:2003.10555, layer-wise learning-rate decay; the numbering is BEiT's.
    """
    if layer_decay == 1.0 or not name.startswith("backbone."):
        return 1.0
    backbone: Any = model.backbone
    layer_of = backbone.traits.layer_of
    if layer_of is None:
        raise UserError(
            f"{type(backbone).__name__} does not say which layer a parameter is in",
            where="optim.layer_decay",
            fix="--set optim.layer_decay=1, or give the backbone's traits a layer_of(name) -> (layer, num_layers)",
        )
    layer, num_layers = layer_of(plain_name(name).removeprefix("backbone."))
    return layer_decay ** (num_layers + 1 - layer)
