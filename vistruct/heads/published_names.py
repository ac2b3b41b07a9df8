"""What the mm toolboxes (mmdet 2 and 3, mmrotate, mmseg) call the layers of heads, and what we call them.

The layers are the same, to the order of their outputs: of a cell its anchors, ratio by ratio and of each its scales; of
an anchor or a proposal its classes, the background last; of a class its deltas x, y, log w, log h; what is pooled is
read channel by channel, row by row. So the tensors come as they are. tests/heads/test_published_heads.py has these
layers from their formulas, and the same outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vistruct.errors import UserError

RPN = {
    "rpn_head.rpn_conv.": "rpn.head.conv.0.0.",
    "rpn_head.rpn_cls.": "rpn.head.cls_logits.",
    "rpn_head.rpn_reg.": "rpn.head.bbox_pred.",
}
ROI = {
    "roi_head.bbox_head.shared_fcs.0.": "roi.layers.fc6.",
    "roi_head.bbox_head.shared_fcs.1.": "roi.layers.fc7.",
    "roi_head.bbox_head.fc_cls.": "roi.logits.",
    "roi_head.bbox_head.fc_reg.": "roi.deltas.",
}
CASCADE = {
    "roi_head.bbox_head.{}.shared_fcs.0.": "stages.{}.layers.fc6.",
    "roi_head.bbox_head.{}.shared_fcs.1.": "stages.{}.layers.fc7.",
    "roi_head.bbox_head.{}.fc_cls.": "stages.{}.logits.",
    "roi_head.bbox_head.{}.fc_reg.": "stages.{}.deltas.",
}
MASK = {
    "roi_head.mask_head.convs.{}.conv.": "layers.{}.0.",
    "roi_head.mask_head.upsample.": "logits.conv5_mask.",
    "roi_head.mask_head.conv_logits.": "logits.mask_fcn_logits.",
}
RETINA = {
    "bbox_head.cls_convs.{}.conv.": "classify.conv.{}.0.",
    "bbox_head.reg_convs.{}.conv.": "locate.conv.{}.0.",
    "bbox_head.retina_cls.": "classify.cls_logits.",
    "bbox_head.retina_reg.": "locate.bbox_reg.",
}


def below(path: str, names: Mapping[str, str]) -> dict[str, str]:
    """The same names for a part that is called `path` here."""
    return {there: f"{path}.{name}" for there, name in names.items()}


def renamed(head: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A published model's tensors under the names of `head`: of its modules alone, what else is there falls away.

    Args:
        names: beginnings of names there, `{}` a number, and what stands here in their place; the first that fits is
            taken, and a name that begins as none stays.
    """
    modules = {path for path, _ in head.named_modules()}
    found = {_begun(key, names) or key: value for key, value in state.items()}
    return {key: value for key, value in found.items() if key.rpartition(".")[0] in modules}


def published(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The way back of `renamed`, by the same names.

    Raises:
        UserError: a tensor that has no published name.
    """
    back = {own: there for there, own in names.items()}
    found = {key: _begun(key, back) for key in state}
    nameless = [key for key, name in found.items() if name is None]
    if nameless:
        what = f"{nameless[0]} has no name in published models ({len(nameless)} such tensors)"
        raise UserError(what, fix="export its backbone: --format backbone-original, or backbone-plain")
    return {name: state[key] for key, name in found.items() if name is not None}


def _begun(key: str, names: Mapping[str, str]) -> str | None:
    """A name with another beginning; None: it begins as none of these."""
    for there, own in names.items():
        found = re.match(re.escape(there).replace(r"\{\}", r"(\d+)"), key)
        if found is not None:
            return own.format(*found.groups()) + key[found.end() :]
    return None
