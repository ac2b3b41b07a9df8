"""The key layout of a `*_model.pth` of MTP's pretraining, from the description of its public code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def layout(
    d: int,
    *,
    c: int = 8,
    fc: int = 12,
    m: int = 6,
    mask_convs: int = 4,
    classes: Sequence[int] | Mapping[int, int] = (18, 20, 37),
) -> dict[str, tuple]:
    """Names and shapes of all but the encoder, over four maps of `d` channels.

    Args:
        classes: how many each data set has, in order or by its number.
    """
    found: dict[str, tuple] = {}

    def conv(name: str, *shape: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = (shape[0],)

    def block(name: str, *shape: int) -> None:
        conv(f"{name}.conv", *shape, bias=False)
        for key in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{key}"] = (shape[0],)
        found[f"{name}.bn.num_batches_tracked"] = ()

    ss = "semsegdecoder.decode_head"
    conv(f"{ss}.conv_seg", 1, c, 1, 1)  # there, and used by nobody
    for i in range(4):
        block(f"{ss}.psp_modules.{i}.1", c, d, 1, 1)
    block(f"{ss}.bottleneck", c, d + 4 * c, 3, 3)
    for i in range(3):
        block(f"{ss}.lateral_convs.{i}", c, d, 1, 1)
        block(f"{ss}.fpn_convs.{i}", c, c, 3, 3)
    block(f"{ss}.fpn_bottleneck", c, 4 * c, 3, 3)
    for front, numbers in (("inssegdecoder", 4), ("rotdetdecoder", 6)):
        for i in range(4):
            conv(f"{front}.neck.lateral_convs.{i}.conv", c, d, 1, 1)
            conv(f"{front}.neck.fpn_convs.{i}.conv", c, c, 3, 3)
        conv(f"{front}.rpn_head.rpn_conv", c, c, 3, 3)
        conv(f"{front}.rpn_head.rpn_cls", 3, c, 1, 1)
        conv(f"{front}.rpn_head.rpn_reg", 3 * numbers, c, 1, 1)
        conv(f"{front}.roi_head.bbox_head.shared_fcs.0", fc, c * 49)
        conv(f"{front}.roi_head.bbox_head.shared_fcs.1", fc, fc)
    for i in range(mask_convs):
        conv(f"inssegdecoder.roi_head.mask_head.convs.{i}.conv", m, c if i == 0 else m, 3, 3)
    conv("inssegdecoder.roi_head.mask_head.upsample", m, m, 2, 2)
    for i, k in classes.items() if isinstance(classes, Mapping) else enumerate(classes, 1):
        conv(f"semseghead_{i}.1", k + 1, c, 1, 1)
        conv(f"inssegroiboxhead_fc_cls{i}", k + 1, fc)
        conv(f"inssegroiboxhead_fc_reg{i}", 4 * k, fc)
        conv(f"inssegroimaskhead_conv{i}", k, m, 1, 1)
        conv(f"rotdetroiboxhead_fc_cls{i}", k + 1, fc)
        conv(f"rotdetroiboxhead_fc_reg{i}", 5, fc)
    return found
