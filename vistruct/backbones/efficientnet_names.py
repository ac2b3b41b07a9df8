"""What EfficientNets in the layout of efficientnet_pytorch call their tensors (the -lite ones too), and what timm does.

efficientnet_pytorch    _conv_stem, _bn0, _blocks.N._expand_conv, ._bn0, ._depthwise_conv, ._bn1, ._se_reduce, ...
timm                    conv_stem, bn1, blocks.STAGE.N.conv_pw, .bn1, .conv_dw, .bn2, .se.conv_reduce, .conv_pwl, ...

There all blocks are numbered through, here within their stage; a block that does not widen first has one norm less, and
timm numbers norms from the first that is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WIDENS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_DOES_NOT = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def convert_keys(state: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """That layout to timm's names; others as they are.

    Args:
        depths: blocks of each stage of the model.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    places = [(stage, place) for stage, depth in enumerate(depths) for place in range(depth)]
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        block = _BLOCK.fullmatch(name)
        layer, _, last = name.rpartition(".")
        if block is not None and int(block[1]) < len(places):
            stage, place = places[int(block[1])]
            widens = f"_blocks.{block[1]}._expand_conv.weight" in state
            known = {**(_WIDENS if widens else _DOES_NOT), **_SQUEEZE}
            name = f"blocks.{stage}.{place}.{known.get(block[2], block[2])}.{block[3]}"
        elif layer in _OUTSIDE:
            name = f"{_OUTSIDE[layer]}.{last}"
        found[name] = value
    return found
