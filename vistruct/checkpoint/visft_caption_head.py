"""The caption head in ViSFT's files (`eva_e_caption_heads.ckpt`); its words are in a WORDMAP json that belongs to it.

All three released files hold a caption decoder, and one of them the one that was trained: the file of segmentation has
a decoder that was only carried along, and that of detection one of 512 instead of 384 channels, of another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.errors import UserError

CAPTION = "caption_decoder."
STALE = 512  # channels of the decoder in the file of detection
_FIX = "the file of the caption head, as eva_e_caption_heads.ckpt"
_NEEDED = "fc.bias"


def caption_settings(part: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes of a caption head say of its settings, by the names of `ShowAttendTellConfig`.

    Args:
        part: tensors by their published names, with `CAPTION` in front.
    """
    return {
        "attention": len(part[f"{CAPTION}attention.decoder_att.weight"]),
        "embed": part[f"{CAPTION}embedding.weight"].shape[1],
        "hidden": part[f"{CAPTION}fc.weight"].shape[1],
    }


def check_trained(part: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path) -> None:
    """
    Args:
        state: all that is in the file.

    Raises:
        UserError: the decoder was only carried along, or is of another run.
    """
    bias = part.get(f"{CAPTION}{_NEEDED}")
    if bias is None or f"{CAPTION}attention.decoder_att.weight" not in part or f"{CAPTION}fc.weight" not in part:
        raise UserError("the caption head in it is not complete", where=source, fix=_FIX)
    if bool((bias == bias[0]).all()):
        raise UserError("the caption head in it was never trained: another one was", where=source, fix=_FIX)
    width = part[f"{CAPTION}fc.weight"].shape[1]
    has_segments = any(".segment_" in name for name in state)
    has_boxes = any(".class_embeds." in name for name in state)
    if width == STALE and has_boxes and not has_segments:
        what = f"a file of the detection head: the caption decoder in it, {STALE} wide, is of another run"
        raise UserError(what, where=source, fix=_FIX)
