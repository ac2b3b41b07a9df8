"""MTP's backbone: a plain ViT whose blocks attend inside rotated windows, but for every `interval`-th, which sees all.

Source: Wang et al., MTP, arXiv:2403.13430, and RVSA, arXiv:2208.03987; the names of the parameters are the published
    ones. Published variants, as settings of `VitRvsaConfig`:

    pretraining, segmentation           full_rel_pos=True   pyramid="blocks"
    detection ("branches")              full_rel_pos=False  pyramid="blocks"
    detection from the last block       full_rel_pos=False  pyramid="last"
    change detection                    full_rel_pos=True   pyramid="none"
    scene classification                full_rel_pos=True   pyramid="none"  out_indices=(11,), of ViT-L (23,)

Differs: any image size: positions, and relative positions of full attention, are resized to whatever comes in, in every
    forward (bicubic, as the published loader does it once; that takes the first table's length for all); a last norm is
    there only where it is used; attention is torch's own.
Shapes: B images of C channels, h x w patches, L = h * w, D width.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from vistruct.backbones.intern_vit import Mlp, fit_positions, init_linear, resize_positions
from vistruct.backbones.rotated_windows import RotatedWindowAttention
from vistruct.backbones.tokens import blocks_named, patches_of, split
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec, Tokens
from vistruct.errors import UserError
from vistruct.ops.precision import at_least_float32

_EPS = 1e-6
# What weights of other kinds do not have: a plain ViT has none of it, each published variant lacks some.
_PARTS = (
    re.compile(r"fpn[12]\."),
    re.compile(r"norm\."),
    re.compile(r"blocks\.\d+\.attn\.full_attn_rel_pos_[hw]$"),
    re.compile(r"blocks\.\d+\.attn\.(rel_pos_[hw]$|relative_position_|sampling_)"),
)


class VitRvsaConfig(Part):
    """A ViT with RVSA; the defaults are MTP's ViT-B in pretraining (93.3 M parameters)."""

    kind: Literal["vit_rvsa"] = "vit_rvsa"
    width: int = Field(768, gt=0)
    depth: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    mlp_ratio: float = Field(4.0, gt=0)  # width of the MLP's hidden layer over the ViT's
    patch: int = Field(16, gt=0)  # pixels
    channels: int = Field(3, gt=0)  # of the image; weights of three are inflated, see `checkpoint.weights`
    image_size: int = Field(224, gt=0)  # pixels; only says how many positions are learned
    window: int = Field(7, gt=0)  # patches along a side
    interval: int = Field(3, gt=0)  # the last of so many blocks sees all patches
    out_indices: tuple[int, ...] = (3, 5, 7, 11)  # blocks that maps are made of, the last block last
    full_rel_pos: bool = True  # relative positions in the blocks that see all patches
    pyramid: Literal["blocks", "last", "none"] = "blocks"
    # blocks: strides patch / 4, / 2, 1, * 2 of four blocks in order; last: all four of the last block, behind a norm;
    # none: the maps of the blocks as they are, all at the patch's stride
    drop_path: float = Field(0.1, ge=0, lt=1)  # at the last block, rising linearly from 0
    recompute: bool = False  # keep no activations inside of blocks and find them again: less memory, a third more time

    @model_validator(mode="after")
    def _fits(self) -> VitRvsaConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}")
        out, last = list(self.out_indices), self.depth - 1
        if sorted({i for i in out if i >= 0}) != out or out[-1:] != [last]:
            raise ValueError(f"out_indices={out} must grow from 0 or more to the last block, {last}")
        if self.pyramid == "blocks" and len(out) != 4:
            raise ValueError(f"pyramid='blocks' makes four levels of four blocks, not of out_indices={out}")
        if self.pyramid != "none" and self.patch % 4:
            raise ValueError(f"the finest level of a pyramid is a quarter of patch={self.patch}, no whole number")
        return self

    def build(self) -> VitRvsa:
        return VitRvsa(self)


MTP_B = VitRvsaConfig()
MTP_L = VitRvsaConfig(width=1024, depth=24, heads=16, interval=6, out_indices=(7, 11, 15, 23), image_size=448)


class FullAttention(nn.Module):
    """float[B, L, D] -> float[B, L, D], every patch to every other.

    Relative positions are terms of scaled queries: q k + q R_h[y - y'] + q R_w[x - x']. They go in as further numbers
    of queries (their products with each row and column of the tables) and keys (which row and column they are), so
    that no L x L table is made of them.
    Source: Li et al., MViTv2, arXiv:2112.01526, equation 4; the tables start at zero.
    """

    def __init__(self, config: VitRvsaConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        if config.full_rel_pos:
            shape = (2 * (config.image_size // config.patch) - 1, config.width // config.heads)
            self.full_attn_rel_pos_h = nn.Parameter(torch.zeros(shape))
            self.full_attn_rel_pos_w = nn.Parameter(torch.zeros(shape))
        self.full_rel_pos = config.full_rel_pos

    def forward(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        b, n, width = x.shape
        d = width // self.heads
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)  # each [B, H, L, d]
        if self.full_rel_pos:
            q, k = self.with_positions(q, k, grid_hw)
            v = F.pad(v, (0, q.shape[-1] - d))  # or no fused attention takes it
        out = F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)[..., :d]
        return self.proj(out.transpose(1, 2).reshape(b, n, width))

    def with_positions(self, q: Tensor, k: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Queries and keys with their positions: float[B, H, L, d + h + w], and zeros up to a multiple of 8."""
        (h, w), grid = grid_hw, q.unflatten(2, grid_hw)
        by_row = torch.einsum("bhyxd,ykd->bhyxk", grid, rows_by_distance(self.full_attn_rel_pos_h, h).to(q.dtype))
        by_column = torch.einsum("bhyxd,xkd->bhyxk", grid, rows_by_distance(self.full_attn_rel_pos_w, w).to(q.dtype))
        more = -(q.shape[-1] + h + w) % 8  # fused attention of some GPUs wants it so
        at = torch.arange(h * w, device=q.device)
        row_and_column = torch.cat([F.one_hot(at // w, h), F.one_hot(at % w, w + more)], dim=1).to(k.dtype)
        q = torch.cat([q, F.pad(torch.cat([by_row, by_column], dim=-1), (0, more)).flatten(2, 3)], dim=-1)
        return q, torch.cat([k, row_and_column.expand(*k.shape[:2], -1, -1)], dim=-1)


class Block(nn.Module):
    def __init__(self, config: VitRvsaConfig, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=_EPS)
        self.norm2 = nn.LayerNorm(config.width, eps=_EPS)
        self.attn: nn.Module = (
            FullAttention(config)
            if (number + 1) % config.interval == 0
            else RotatedWindowAttention(config.width, config.heads, config.window)
        )
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.drop_path = StochasticDepth(config.drop_path * number / max(config.depth - 1, 1), mode="row")

    def forward(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """float[B, L, D] -> float[B, L, D]."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid_hw))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VitRvsa(nn.Module):
    """float[B, C, H, W] -> one float[B, D, H / stride, W / stride] for each of `specs`; rounded down at the coarsest.

    Raises:
        UserError: an image that is no whole number of patches, or of fewer than two patches where a pyramid's
            coarsest level halves them.
    """

    def __init__(self, config: VitRvsaConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.channels = config.width, config.patch, config.channels
        self.table_hw = (config.image_size // config.patch, config.image_size // config.patch)  # of learned positions
        self.pos_embed = nn.Parameter(torch.empty(1, self.table_hw[0] * self.table_hw[1], config.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch_embed = nn.Sequential(
            OrderedDict(proj=nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch))
        )
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        strides = [config.patch] * len(config.out_indices)
        if config.pyramid != "none":
            strides = [config.patch // 4, config.patch // 2, config.patch, config.patch * 2]
            self.fpn1 = nn.Sequential(
                nn.ConvTranspose2d(config.width, config.width, 2, stride=2),
                nn.Sequential(OrderedDict(ln=LayerNorm2d(config.width, eps=_EPS))),
                nn.GELU(),
                nn.ConvTranspose2d(config.width, config.width, 2, stride=2),
            )
            self.fpn2 = nn.Sequential(nn.ConvTranspose2d(config.width, config.width, 2, stride=2))
        self.specs = tuple(FeatureSpec(channels=config.width, stride=stride) for stride in strides)
        if config.pyramid == "last":
            self.norm = nn.LayerNorm(config.width, eps=_EPS)
        self.apply(init_linear)

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(
            channels=self.channels,
            repeated_blocks=tuple(self.blocks),
            layer_of=self.layer_of,
            convert_keys=self.convert_keys,
            resize_state=self.resize_state,
            fresh_parts=self.fresh_parts,
            to_published=dict,  # the names are the published ones
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        if self.config.pyramid == "last":
            maps = [self.tokens(image).map] * 4
        else:
            maps = [one.map for one in self.layers(image, self.config.out_indices)]
        if self.config.pyramid == "none":
            return maps
        if min(maps[3].shape[2:]) < 2:
            raise UserError(
                f"image of {image.shape[-2]} x {image.shape[-1]} pixels has nothing at stride {self.specs[-1].stride}",
                fix=f"pad or resize to a multiple of {self.specs[-1].stride}",
            )
        return [self.fpn1(maps[0]), self.fpn2(maps[1]), maps[2], F.max_pool2d(maps[3], 2)]

    def grid_hw(self, image: Tensor) -> tuple[int, int]:
        """Patches down and across.

        Raises:
            UserError: the image is not a whole number of patches.
        """
        return patches_of(image, self.patch)

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> the last block's patches, with the last norm where there is one (`pyramid="last"`).

        Raises:
            UserError: `keep`: windows are cut from the whole grid.
        """
        if keep is not None:
            what = "a vit_rvsa takes all patches of an image: its windows are cut from the whole grid"
            raise UserError(what, where="task.vrl", fix="--set task.vrl.drop_at=tokens")
        return self.layers(image, [-1], norm=True)[0]

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """float[B, C, H, W] -> the tokens of some blocks, in the order asked for.

        Args:
            which: blocks from 0, or from the last with -1.
            norm: put the last norm on them, where there is one.

        Raises:
            UserError: a block that is not there; the image is not a whole number of patches.
        """
        numbers, grid_hw = blocks_named(which, len(self.blocks)), self.grid_hw(image)
        x = self.patch_embed(image).flatten(2).transpose(1, 2)  # [B, L, D]
        x = x + resize_positions(self.pos_embed, self.table_hw, grid_hw, num_class=0).to(x.dtype)
        found: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks[: max(numbers, default=-1) + 1]):
            if self.config.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, grid_hw, use_reentrant=False)
            else:
                x = block(x, grid_hw)
            found[i] = x
        has_norm = norm and self.config.pyramid == "last"
        return [
            split(
                self.norm(found[i]) if has_norm else found[i],
                found[i],
                has_class=False,
                num_registers=0,
                grid_hw=grid_hw,
            )
            for i in numbers
        ]

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates: 0 embeddings, i + 1 block i, pyramid and norm above all."""
        if name == "pos_embed" or name.startswith("patch_embed."):
            return 0, self.config.depth
        found = re.match(r"blocks\.(\d+)\.", name)
        return (int(found[1]) + 1 if found else self.config.depth + 1), self.config.depth

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published names are ours; of a ViT with a class token (MAE's), its row of the positions falls away."""
        if "cls_token" in state and "pos_embed" in state:
            state = state | {"pos_embed": state["pos_embed"][:, 1:]}
        return state

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fit positions of another image size to this model; also names what was resized.

        Raises:
            UserError: a table of places that are no square.
        """
        own, state, resized = self.state_dict(), dict(state), []
        for name in sorted(own.keys() & state.keys()):
            there, here = state[name], own[name]
            if there.shape == here.shape or there.shape[-1] != here.shape[-1]:
                continue
            if name == "pos_embed":
                state[name] = fit_positions(name, there, self.table_hw[0], num_class=0)
            elif "full_attn_rel_pos_" in name:
                state[name] = resize_rel_pos(at_least_float32(there), len(here))
            else:
                continue
            resized.append(name)
        return state, resized

    def fresh_parts(self, state: dict[str, Tensor]) -> set[str]:
        """Tensors that a state dict of our names may lack: those of a part of which it has nothing."""
        absent = [part for part in _PARTS if not any(part.match(name) for name in state)]
        return {name for name in self.state_dict() if any(part.match(name) for part in absent)}


def resize_rel_pos(table: Tensor, length: int) -> Tensor:
    """float[2 * g - 1, d] -> float[length, d], bicubic without corner alignment, in float32 at least."""
    if len(table) == length:
        return table
    resized = F.interpolate(at_least_float32(table)[None, None], (length, table.shape[1]), mode="bicubic")
    return resized[0, 0].to(table.dtype)


def rows_by_distance(table: Tensor, side: int) -> Tensor:
    """float[2 * g - 1, d] -> float[side, side, d]: the row of each query's distance to each key, in places."""
    at = torch.arange(side, device=table.device)
    return resize_rel_pos(table, 2 * side - 1)[at[:, None] - at + side - 1]
