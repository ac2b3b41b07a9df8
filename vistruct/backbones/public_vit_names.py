"""What public plain ViTs call their tensors, and what timm does; timm's own filter reads the layouts beside these.

transformers' ViT, ViTMAE, Dinov2    encoder.layer.N.attention.attention.query.weight, layernorm_before, ...
transformers' DINOv3                 layer.N.attention.q_proj.weight, layer_scale1.lambda1, embeddings.register_tokens
the original DINOv3                  blocks.N.attn.qkv.bias_mask, ls1.gamma, storage_tokens
SatMAE, SatMAE++ (bands in groups)   patch_embed.N.proj.weight, channel_embed, a pos_embed narrower than the blocks
SatMAE (dates)                       patch_embed.proj.weight, a pos_embed narrower than the blocks
timm                                 blocks.N.attn.qkv.weight, norm1, mlp.fc1, gamma_1 or ls1.gamma, reg_token
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vistruct.backbones.clip_vit_names import fused, renamed

BERT = (
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.([qkv])[a-z]+\.", r".attn.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),  # as the original DINOv2, whose names timm reads
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^layernorm\.", "norm."),
)
DINO_V3 = (
    (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
)
DINO_V3_ORIGINAL = (
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^storage_tokens$", "reg_token"),
)
# Of SatMAE, whose tokens are of a place and of a group of bands, or of a date: positions of a part of their width.
NARROW = "satmae.pos_embed"
_GROUP = re.compile(r"patch_embed\.\d+\.proj\.weight")
# Of DINOv3: what hides patches in its pretraining, and frequencies and masks that its code makes anew.
_FIXED = ("mask_token", ".bias_mask", "rope_embed.periods")


def convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of these layouts, without what stands before all names, to what timm reads; of other models as it is."""
    if any(".attention.attention.query." in name and name.startswith("encoder.layer.") for name in state):
        return fused(renamed(state, BERT))
    if any(".attention.o_proj." in name and name.startswith(("layer.", "model.layer.")) for name in state):
        is_gated = any(".mlp.gate_proj." in name for name in state)
        rules = (*DINO_V3, (r"\.mlp\.up_proj\.", ".mlp.fc1_x." if is_gated else ".mlp.fc1."))
        return _biases_apart(fused(renamed(state, rules)))
    if "storage_tokens" in state and "blocks.0.attn.qkv.weight" in state:
        masked = {name: value for name, value in state.items() if not name.endswith(".qkv.bias")}
        for name in state.keys() - masked.keys():  # those of keys are masked there, whatever they are
            q, k, v = state[name].chunk(3)
            masked |= {name.replace("qkv.bias", f"{part}_bias"): one for part, one in (("q", q), ("v", v))}
            if f"{name}_mask" not in state:
                masked[name.replace("qkv.bias", "k_bias")] = k
        return _biases_apart(renamed(masked, DINO_V3_ORIGINAL))
    positions, first = state.get("pos_embed"), state.get("cls_token")
    if positions is not None and first is not None and positions.shape[-1] < first.shape[-1]:
        return {NARROW if name == "pos_embed" else name: value for name, value in state.items()}
    return dict(state)


def of_satmae(state: Mapping[str, Tensor]) -> tuple[set[str], list[str]]:
    """What weights of SatMAE in these names (as `convert_keys` gives them) cannot say of a ViT that has one token for
    a place, by its names, and that in words; nothing of other weights."""
    groups = sum(_GROUP.fullmatch(name) is not None for name in state)
    if NARROW not in state:
        return set(), []
    first, narrow = state["cls_token"].shape[-1], state[NARROW].shape[-1]
    lacks, rest = {"pos_embed"}, "dates"
    told = f"their positions fill {narrow} of {first} numbers, beside those of"
    if groups:
        lacks, rest = lacks | {"patch_embed.proj.weight", "patch_embed.proj.bias"}, f"{groups} groups of bands"
        told = f"they have a patch embedding for each of {groups} groups of bands, where this ViT has one, and {told}"
    return lacks, [
        f"these are weights of SatMAE: {told} {rest}; blocks, class token and last norm are taken, and "
        f"{' and '.join(('patch embedding', 'positions') if groups else ('positions',))} start from random weights"
    ]


def _biases_apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As timm's Eva has them; without what is fixed."""
    found = {}
    for name, value in state.items():
        if name.endswith(_FIXED):
            continue
        if name.endswith(".attn.qkv.bias"):  # of transformers, with a bias of keys
            parts = zip("qkv", value.chunk(3), strict=True)
            found |= {name.replace("qkv.bias", f"{part}_bias"): one for part, one in parts}
        else:
            found[name.replace("_proj.bias", "_bias") if ".attn." in name else name] = value
    return found
