"""A plain ViT of timm, run block by block: with some of the patches only, as part of something larger.

Source: what timm's own `forward_intermediates` does between the patch embedding and the last block, for
    `VisionTransformer` (DeiT, CLIP, SigLIP, DINOv2, MAE), `Eva` (EVA, EVA02, DINOv3, PE) and `Beit`.
Shapes: B images of h x w patches, P tokens before them (class token, registers), N = P + h * w, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistruct.backbones.tokens import Entered
from vistruct.errors import UserError

# What stands before or between the blocks of some ViTs, and changes all that they give.
_OTHERS = ("reg_token", "register_tokens", "dist_token", "pos_embed", "norm_pre.", "rope.", "rel_pos_bias.")


def is_plain(model: nn.Module) -> bool:
    """Whether it has blocks with a class token, registers and patches; those whose tests say so."""
    from timm.models import Beit, Eva, VisionTransformer  # seconds to import

    return isinstance(model, (VisionTransformer, Eva, Beit))


def enter(vit: Any, image: Tensor, keep: Tensor | None = None) -> Entered:
    """float[B, C, H, W] -> what enters the blocks.

    Args:
        keep: int64[B, K], patches (0-based, row by row) that enter beside class token and registers; None: all.

    Raises:
        UserError: `keep`, of a model whose blocks know the whole grid only.
    """
    from timm.layers import apply_keep_indices_nlc
    from timm.models import Beit, Eva

    x, rotary = vit.patch_embed(image), None
    if isinstance(vit, Beit):
        if keep is not None:
            what = "BEiT's positions are those of a whole grid: it takes all patches of an image"
            raise UserError(what, where="task.backbone", fix="--set task.backbone.name=vit_base_patch16_224")
        x = torch.cat([vit.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return Entered(tokens=vit.pos_drop(x if vit.pos_embed is None else x + vit.pos_embed), num_first=1)
    if isinstance(vit, Eva):
        x, rotary = vit._pos_embed(x)
    else:
        x = vit._pos_embed(x)
    if keep is not None:
        num_first = vit.num_prefix_tokens
        chosen = x[:, num_first:].gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))  # [B, K, D]
        x = torch.cat([x[:, :num_first], chosen], dim=1)
        if rotary is not None:
            found = apply_keep_indices_nlc(x, rotary, keep)  # images before all else
            rotary = found.transpose(0, 1) if vit.rope_mixed else found.unsqueeze(1)
    return Entered(tokens=vit.norm_pre(x), num_first=int(vit.num_prefix_tokens), rotary=rotary)


def run(vit: Any, entered: Entered, last: int, *, recompute: bool) -> list[Tensor]:
    """What each block up to number `last` gives, float[B, N, D].

    Args:
        recompute: forget activations inside of blocks and find them again.
    """
    x, found = entered.tokens, []
    for i in range(last + 1):
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, vit, i, x, entered.rotary, use_reentrant=False)
        else:
            x = block(vit, i, x, entered.rotary)
        found.append(x)
    return found


def block(vit: Any, number: int, x: Tensor, rotary: Tensor | None, is_real: Tensor | None = None) -> Tensor:
    """One block: float[B, N, D] -> float[B, N, D]; no token looks at those that are not real (bool[B, N]; None: all
    are; BEiT's do not know of any)."""
    from timm.models import Beit, Eva

    if isinstance(vit, Beit):
        return vit.blocks[number](x, shared_rel_pos_bias=None if vit.rel_pos_bias is None else vit.rel_pos_bias())
    seen = None if is_real is None else is_real[:, None, None]
    if isinstance(vit, Eva):
        own = rotary[number] if rotary is not None and vit.rope_mixed else rotary
        return vit.blocks[number](x, rope=own, attn_mask=seen)
    return vit.blocks[number](x) if seen is None else vit.blocks[number](x, attn_mask=seen)


def refuse_other(vit: Any, state: Mapping[str, Tensor], name: str) -> None:
    """See to it that weights in timm's names leave out nothing that the model would need to be what they are of.

    Raises:
        UserError: tensors of its blocks, or of what stands before them, that have no place in it and are not zero.
    """
    if any(".lora_" in key or ".modules_to_save." in key for key in state):
        return  # which are refused for that
    own, depth = vit.state_dict().keys(), len(vit.blocks)
    for key in sorted(state.keys() - own):
        number = re.match(r"blocks\.(\d+)\.", key)
        if (int(number[1]) < depth if number else key.startswith(_OTHERS)) and bool(state[key].any()):
            import timm

            what = f"these weights are of another ViT than {name}: {key} has no place in it"
            alike = [other for other in timm.list_models(f"*{name}*") if other != name]
            fix = f"the model that they are of: --timm NAME{', as ' + ', '.join(alike[:3]) if alike else ''}"
            raise UserError(what, fix=fix)
