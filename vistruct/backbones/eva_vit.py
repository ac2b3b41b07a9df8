"""EVA-CLIP's plain ViTs: EVA-ViT-g with norms in front of attention and MLP, EVA02-CLIP-E with norms behind them.

Source: Fang et al., EVA, arXiv:2211.07636, and Sun et al., EVA-CLIP, arXiv:2303.15389; without a class token as ViSFT
    runs them, arXiv:2401.10222. Parameter names are those of the public checkpoints; `eva_vit_names` reads the others.
Differs: positions are resized to whatever comes in, in every forward (bicubic, not antialiased, as ViSFT and LAVIS do
    it; timm antialiases, and its features differ at every other size); queries, keys and values are one layer that is
    *called*, so that an adapter beside it is never made into a weight; attention is torch's own.
Shapes: B images of C channels, h x w patches, L = h * w, D width; N = 1 + L tokens with a class token, L without.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from vistruct.backbones.eva_vit_names import convert_keys
from vistruct.backbones.intern_vit import Mlp, fit_sizes, init_linear, resize_positions
from vistruct.backbones.tokens import blocks_named, split
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec, Tokens
from vistruct.errors import UserError

_EPS = 1e-6
# What stands before or between the blocks of other ViTs, and changes all that they give.
_OTHERS = ("rel_pos_bias.", "rope.", "norm_pre.", "ln_pre.", "reg_token", "register_tokens", "storage_tokens")


class EvaVitConfig(Part):
    """A ViT of EVA; the defaults are EVA-ViT-g (1,011.1 M parameters)."""

    kind: Literal["eva_vit"] = "eva_vit"
    width: int = Field(1408, gt=0)
    depth: int = Field(40, gt=0)
    heads: int = Field(16, gt=0)
    mlp_width: int = Field(6144, gt=0)  # hidden units of the MLP
    patch: int = Field(14, gt=0)  # pixels
    channels: int = Field(3, gt=0)  # of the image; weights of three are inflated, see `checkpoint.weights`
    image_size: int = Field(224, gt=0)  # pixels; only says how many positions are learned
    post_norm: bool = False  # norms behind attention and MLP, inside the residual, in place of before them
    final_norm: bool = True  # behind the last block; LAVIS has none
    class_token: bool = False  # CLIP and LAVIS have one, ViSFT none; the table of positions has its row in any case
    margin: Literal["pad", "crop"] = "pad"  # of sides that are no whole patches: filled up with zeros, or left out
    drop_path: float = Field(0.0, ge=0, lt=1)  # at the last block, rising linearly from 0
    recompute: bool = False  # keep no activations inside of blocks and find them again: less memory, a third more time

    @model_validator(mode="after")
    def _fits(self) -> EvaVitConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}")
        return self

    def build(self) -> EvaVit:
        return EvaVit(self)


EVA_G = EvaVitConfig()
EVA02_E = EvaVitConfig(width=1792, depth=64, mlp_width=15360, post_norm=True)  # 4,348.7 M parameters


class Attention(nn.Module):
    """float[B, N, D] -> float[B, N, D], every token to every other; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = self.qkv(x).add_(bias)  # in place: nothing needs what it was
        q, k, v = qkv.view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)  # each [B, H, N, D / H]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))


class Block(nn.Module):
    def __init__(self, config: EvaVitConfig, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=_EPS)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=_EPS)
        self.mlp = Mlp(config.width, config.mlp_width)
        self.drop_path = StochasticDepth(config.drop_path * number / max(config.depth - 1, 1), mode="row")
        self.post_norm = config.post_norm

    def forward(self, x: Tensor) -> Tensor:
        """float[B, N, D] -> float[B, N, D]."""
        if self.post_norm:
            x = x + self.drop_path(self.norm1(self.attn(x)))
            return x + self.drop_path(self.norm2(self.mlp(x)))
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class EvaVit(nn.Module):
    """Image in, one feature map (`forward`), the tokens of the last block (`tokens`) or of any (`layers`) out.

    Images of any size: what is left of a side that is no whole number of patches, at the right and at the bottom, is
    filled up with zeros (`margin="pad"`) or left out (`"crop"`).

    Raises:
        UserError: `margin="crop"` leaves nothing of an image.
    """

    cls_token: Tensor | None

    def __init__(self, config: EvaVitConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.channels = config.width, config.patch, config.channels
        self.specs = (FeatureSpec(channels=config.width, stride=config.patch),)
        self.grid = config.image_size // config.patch
        token = nn.Parameter(torch.empty(1, 1, config.width)) if config.class_token else None
        self.register_parameter("cls_token", token)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid**2, config.width))
        self.patch_embed = nn.Sequential(
            OrderedDict(proj=nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch))
        )
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.norm: nn.Module = nn.LayerNorm(config.width, eps=_EPS) if config.final_norm else nn.Identity()
        self.apply(init_linear)
        for place in (self.pos_embed, *(() if token is None else (token,))):
            nn.init.trunc_normal_(place, std=0.02)

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(
            channels=self.channels,
            least_divisor=1 if self.config.margin == "crop" else None,
            last_norm=self.config.final_norm,
            repeated_blocks=tuple(self.blocks),
            layer_of=self.layer_of,
            convert_keys=convert_keys,
            match_state=self.match_state,
            resize_state=self.resize_state,
            advise=self.advise,
            to_published=dict,  # the names are the published ones
            published_key="",  # as ViSFT and LAVIS want it; neither says where it finds nothing
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """float[B, C, H, W] -> [float[B, D, h, w]], with the last norm where there is one."""
        return [self.tokens(image).map]

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> the last block's tokens, with the last norm where there is one.

        Args:
            keep: int64[B, K], patches (0-based, row by row) that enter the blocks beside the class token; None: all.
        """
        x, grid_hw = self.embed(image, keep)
        for block in self.blocks:
            x = self._call(block, x)
        return self._split(x, norm=True, grid_hw=grid_hw if keep is None else None)

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """float[B, C, H, W] -> the tokens of some blocks, in the order asked for.

        Args:
            which: blocks from 0, or from the last with -1.
            norm: put the last norm on them, where there is one.

        Raises:
            UserError: a block that is not there.
        """
        numbers = blocks_named(which, len(self.blocks))
        x, grid_hw = self.embed(image)
        found: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks[: max(numbers, default=-1) + 1]):
            x = found[i] = self._call(block, x)
        return [self._split(found[i], norm=norm, grid_hw=grid_hw) for i in numbers]

    def embed(self, image: Tensor, keep: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """What enters the blocks, float[B, N, D], class token first; and the patches down and across.

        Args:
            keep: as in `tokens`.
        """
        patches = self.patch_embed(self._whole_patches(image))  # [B, D, h, w]
        grid_hw = (patches.shape[2], patches.shape[3])
        positions = resize_positions(self.pos_embed, (self.grid, self.grid), grid_hw).to(patches.dtype)
        x = patches.flatten(2).transpose(1, 2) + positions[:, 1:]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        if self.cls_token is not None:
            first = self.cls_token.to(x.dtype) + positions[:, :1]
            x = torch.cat([first.expand(x.shape[0], -1, -1), x], dim=1)
        return x, grid_hw

    def _whole_patches(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.config.margin == "pad":
            more_h, more_w = -height % self.patch, -width % self.patch
            return F.pad(image, (0, more_w, 0, more_h)) if more_h or more_w else image
        if min(height, width) < self.patch:
            what = f"image of {height} x {width} pixels has no whole {self.patch}-pixel patch"
            raise UserError(what, where="backbone.margin", fix="--set task.backbone.margin=pad, or larger images")
        return image  # the convolution leaves the rest out

    def _call(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _split(self, x: Tensor, *, norm: bool, grid_hw: tuple[int, int] | None) -> Tokens:
        normed = self.norm(x) if norm else x
        return split(normed, x, has_class=self.cls_token is not None, num_registers=0, grid_hw=grid_hw)

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates: 0 embeddings, i + 1 block i, the last norm above all."""
        found = re.match(r"blocks\.(\d+)\.", name)
        last = self.config.depth + 1 if name.startswith("norm.") else 0
        return (int(found[1]) + 1 if found else last), self.config.depth

    def match_state(self, state: Mapping[str, Tensor]) -> list[str]:
        """Changes nothing of itself; sees to it that what fits by its shapes is the same model.

        Raises:
            UserError: weights of another ViT, of which a part would be left out; a last norm behind another block;
                EVA-ViT-g's or EVA02-CLIP-E's with settings that no shape shows.
        """
        own, depth = self.state_dict(), self.config.depth
        if not any(name.startswith("blocks.") for name in state):
            return []
        numbers = {name: int(name.split(".")[1]) for name in state if re.match(r"blocks\.\d+\.", name)}
        strange = [
            name
            for name in sorted(state.keys() - own.keys())
            if (numbers.get(name, depth) < depth and ".lora_" not in name) or name.startswith(_OTHERS)
        ]
        if strange:
            what = f"these weights are of another ViT than EVA's: {len(strange)} tensors such as {strange[0]} have no"
            raise UserError(f"{what} place in it", fix="use kind timm with the name of that model")
        there = 1 + max(numbers.values())
        if there > depth and "norm.weight" in state and self.config.final_norm:
            raise UserError(
                f"their last norm is learned behind block {there - 1}, and here block {depth - 1} is the last",
                fix=f"--set task.backbone.final_norm=false, or --set task.backbone.depth={there}",
            )
        for name, published in (("EVA-ViT-g", EVA_G), ("EVA02-CLIP-E", EVA02_E)):
            if (self.config.width, self.config.mlp_width) == (published.width, published.mlp_width):
                wanted, mine = published.post_norm, self.config.post_norm
                if (wanted, published.heads) != (mine, self.config.heads):
                    fix = f"--set task.backbone.post_norm={str(wanted).lower()} --set task.backbone.heads=16"
                    raise UserError(f"{name} has post_norm={wanted} and 16 heads, which no weight shows", fix=fix)
        return []

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fit positions and patch kernel of another image or patch size to this model; also names what was resized."""
        return fit_sizes(
            state, self.state_dict(), positions="pos_embed", kernel="patch_embed.proj.weight", grid=self.grid
        )

    def advise(self, missing: Iterable[str]) -> str:
        """How to go on where these tensors are not in a file."""
        names, fixes = set(missing), []
        blocks = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
        whole = [
            i for i in blocks if all(f"blocks.{i}.{name}" in names for name, _ in self.blocks[i].named_parameters())
        ]
        left = [i for i in range(self.config.depth) if i not in whole]
        if whole and blocks == set(whole) and left == list(range(len(left))):
            fixes.append(f"--set task.backbone.depth={len(left)}")
        if "norm.weight" in names:
            fixes.append("--set task.backbone.final_norm=false")
        if "cls_token" in names:
            fixes.append("--set task.backbone.class_token=false")
        return " ".join(fixes)
