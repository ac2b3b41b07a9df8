"""How long a conversation takes a vision-language model, known before anything of it is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from vistruct.contracts import Costs, Weights


def work_of(task: Any, costs: Costs) -> np.ndarray:
    """float64[...], multiplications that each sample takes in the forward pass, VRL counted in.

    Args:
        task: Instruct.
    """
    dropped = task.vrl.drop_prob * task.vrl.drop_ratio
    seen = 1.0 - dropped if task.vrl.drop_at == "patches" else 1.0
    patches, width = task.grid**2 + 1, task.backbone.width
    blocks = task.backbone.traits.repeated_blocks
    tile = _size(task.backbone) * patches * seen + 2 * len(blocks) * width * (patches * seen) ** 2
    head = _size(task.language.get_output_embeddings())
    tokens = costs.tokens - costs.visual * dropped
    body = _size(task.language.get_decoder()) - _size(task.language.get_input_embeddings())
    again = 0 if task.token_weights is None else costs.tokens - costs.visual  # the text alone
    work = costs.tiles * tile + (tokens + again) * body + costs.visual * _size(task.projector)
    return work + costs.supervised * head * (1 if task.token_weights is None else 2)


def _size(module: Weights) -> float:  # parameters; the int32 of `Costs` would overflow beside a whole number
    return float(sum(p.numel() for p in module.parameters()))
