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

RPN = {
    r"rpn_head\.rpn_conv\.": "rpn.head.conv.0.0.",
    r"rpn_head\.rpn_cls\.": "rpn.head.cls_logits.",
    r"rpn_head\.rpn_reg\.": "rpn.head.bbox_pred.",
}
ROI = {
    r"roi_head\.bbox_head\.shared_fcs\.0\.": "roi.layers.fc6.",
    r"roi_head\.bbox_head\.shared_fcs\.1\.": "roi.layers.fc7.",
    r"roi_head\.bbox_head\.fc_cls\.": "roi.logits.",
    r"roi_head\.bbox_head\.fc_reg\.": "roi.deltas.",
}
CASCADE = {
    r"roi_head\.bbox_head\.(\d+)\.shared_fcs\.0\.": r"stages.\1.layers.fc6.",
    r"roi_head\.bbox_head\.(\d+)\.shared_fcs\.1\.": r"stages.\1.layers.fc7.",
    r"roi_head\.bbox_head\.(\d+)\.fc_cls\.": r"stages.\1.logits.",
    r"roi_head\.bbox_head\.(\d+)\.fc_reg\.": r"stages.\1.deltas.",
}
MASK = {
    r"roi_head\.mask_head\.convs\.(\d+)\.conv\.": r"layers.\1.0.",
    r"roi_head\.mask_head\.upsample\.": "logits.conv5_mask.",
    r"roi_head\.mask_head\.conv_logits\.": "logits.mask_fcn_logits.",
}
RETINA = {
    r"bbox_head\.cls_convs\.(\d+)\.conv\.": r"classify.conv.\1.0.",
    r"bbox_head\.reg_convs\.(\d+)\.conv\.": r"locate.conv.\1.0.",
    r"bbox_head\.retina_cls\.": "classify.cls_logits.",
    r"bbox_head\.retina_reg\.": "locate.bbox_reg.",
}


def below(path: str, names: Mapping[str, str]) -> dict[str, str]:
    """The same names for a part that is called `path` here."""
    return {pattern: f"{path}.{name}" for pattern, name in names.items()}


def renamed(head: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A published model's tensors under the names of `head`: of its modules alone, what else is there falls away.

    Args:
        names: beginnings of names there, as regular expressions, and what stands here in their place; the first that
            fits is taken, and a name that begins as none stays.
    """
    modules = {path for path, _ in head.named_modules()}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        begin = ((pattern, name) for pattern, name in names.items() if re.match(pattern, key))
        pattern, name = next(begin, ("", ""))
        own = re.sub(f"^{pattern}", name, key)
        if own.rpartition(".")[0] in modules:
            found[own] = value
    return found
