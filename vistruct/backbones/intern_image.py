"""InternImage: a hierarchical net whose blocks are deformable convolutions (DCNv3) and MLPs.

Source: Wang et al., InternImage, arXiv:2211.05778; sizes, variants and the names of the parameters are those of the
    published code, so that its weights, and MTP's (arXiv:2403.13430), load as they are.
Differs: DCNv3 needs no compiled operator; for layer-wise rates a norm that stands behind some block of the third stage
    (InternImage-H) is as deep as that block.
Shapes: B images of C channels, h x w places of a stage, D its width; inside of the stages channels are last.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import Permute, StochasticDepth

from vistruct.backbones.intern_vit import Mlp, init_linear
from vistruct.backbones.tokens import blocks_named, split
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec, Tokens
from vistruct.errors import UserError
from vistruct.ops.dcnv3 import dcnv3

_EPS = 1e-6
_KERNEL = 3
_THIRD = 2  # the stage with most of the blocks
_STRIDES = (4, 8, 16, 32)
# What only some variants have, the setting that says so, and its values with it and without.
_MARKS = {
    "levels.0.norm.0.weight": ("post_norm", "false", "true"),
    "levels.0.blocks.0.gamma1": ("layer_scale", "1.0e-5", "null"),
    "levels.0.blocks.0.res_post_norm1.0.weight": ("res_post_norm", "true", "false"),
    "levels.0.blocks.0.dcn.center_feature_scale_proj_weight": ("center_feature_scale", "true", "false"),
}
Four = tuple[int, int, int, int]


class InternImageConfig(Part):
    """An InternImage; the defaults are the published XL. `SIZES` has them all."""

    kind: Literal["intern_image"] = "intern_image"
    width: int = Field(192, gt=0)  # of the first stage; each has twice that of the one before
    depths: Four = (5, 5, 24, 5)  # blocks of each stage
    groups: Four = (12, 24, 48, 96)  # of DCNv3 in each stage; each has its own offsets
    mlp_ratio: float = Field(4.0, gt=0)  # width of the MLP's hidden layer over the stage's
    channels: int = Field(3, gt=0)  # of the image; weights of three are inflated, see `checkpoint.weights`
    offset_scale: float = Field(2.0, gt=0)  # cells that an offset of 1 is; no weights say it, so see `SIZES`
    post_norm: bool = True  # norms behind DCNv3 and MLP; false: before them, and one on every map
    layer_scale: float | None = Field(1e-5, gt=0)  # initial value of gamma1 and gamma2; None: there are none
    dw_kernel: int = Field(3, gt=0)  # of the convolution that offsets and weights are made from; odd
    res_post_norm: bool = False  # norms before DCNv3 and MLP, and behind them too
    post_norm_blocks: tuple[int, ...] = ()  # blocks of the third stage with a norm of their own behind them
    center_feature_scale: bool = False  # what is read is mixed with the place itself, a share for each group
    drop_path: float = Field(0.0, ge=0, lt=1)  # at the last block, rising linearly from 0
    recompute: bool = False  # keep no activations inside of blocks and find them again: less memory, a third more time

    @model_validator(mode="after")
    def _fits(self) -> InternImageConfig:
        for stage, groups in enumerate(self.groups):
            if groups < 1 or (self.width << stage) % groups:
                raise ValueError(f"groups={groups} does not divide the width of stage {stage}, {self.width << stage}")
        if min(self.depths) < 1:
            raise ValueError(f"every stage needs a block: depths={list(self.depths)}")
        if self.dw_kernel % 2 == 0:
            raise ValueError(f"dw_kernel={self.dw_kernel} has no middle; use an odd number")
        if self.res_post_norm and (self.post_norm or self.layer_scale is not None):
            raise ValueError("res_post_norm stands alone: set post_norm=false and layer_scale=null with it")
        if any(not 0 <= i < self.depths[_THIRD] for i in self.post_norm_blocks):
            raise ValueError(f"post_norm_blocks={list(self.post_norm_blocks)} of {self.depths[_THIRD]} blocks, from 0")
        return self

    def build(self) -> InternImage:
        return InternImage(self)


# Source: the published configurations for ImageNet. Drop path is that of training, and chosen by whoever trains.
SIZES: Mapping[Literal["T", "S", "B", "L", "XL", "H"], InternImageConfig] = {
    "T": InternImageConfig(
        width=64, depths=(4, 4, 18, 4), groups=(4, 8, 16, 32), offset_scale=1.0, post_norm=False, layer_scale=None
    ),
    "S": InternImageConfig(width=80, depths=(4, 4, 21, 4), groups=(5, 10, 20, 40), offset_scale=1.0),
    "B": InternImageConfig(width=112, depths=(4, 4, 21, 4), groups=(7, 14, 28, 56), offset_scale=1.0),
    "L": InternImageConfig(width=160, depths=(5, 5, 22, 5), groups=(10, 20, 40, 80)),
    "XL": InternImageConfig(),
    "H": InternImageConfig(
        width=320,
        depths=(6, 6, 32, 6),
        groups=(10, 20, 40, 80),
        offset_scale=1.0,
        post_norm=False,
        layer_scale=None,
        dw_kernel=5,
        res_post_norm=True,
        post_norm_blocks=(5, 11, 17, 23, 29),
        center_feature_scale=True,
    ),
}


class Dcn(nn.Module):
    """float[B, h, w, D] -> float[B, h, w, D]: projected, read at places that the neighbourhood chooses, projected."""

    def __init__(self, config: InternImageConfig, width: int, groups: int) -> None:
        super().__init__()
        self.groups, self.offset_scale, points = groups, config.offset_scale, _KERNEL * _KERNEL
        conv = nn.Conv2d(width, width, config.dw_kernel, padding=config.dw_kernel // 2, groups=width)
        self.dw_conv = nn.Sequential(conv, _norm_to_last(width), nn.GELU())
        self.offset = nn.Linear(width, groups * points * 2)
        self.mask = nn.Linear(width, groups * points)
        self.input_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.center_feature_scale_proj_weight = self.center_feature_scale_proj_bias = None
        if config.center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(groups, width))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(groups))

    def reset(self) -> None:
        """Start as an average of 3 x 3 cells: no offsets, equal weights."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        near, value = self.dw_conv(x.permute(0, 3, 1, 2)), self.input_proj(x)
        weights = self.mask(near).unflatten(3, (self.groups, -1)).softmax(-1).flatten(3)
        read = dcnv3(value, self.offset(near), weights, kernel=_KERNEL, offset_scale=self.offset_scale)
        if self.center_feature_scale_proj_weight is not None:
            share = F.linear(near, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias).sigmoid()
            share = share.repeat_interleave(x.shape[3] // self.groups, dim=3).to(value.dtype)
            read = read.lerp(value, share)
        return self.output_proj(read)


class Block(nn.Module):
    """float[B, h, w, D] -> float[B, h, w, D]."""

    def __init__(self, config: InternImageConfig, width: int, groups: int, drop_path: float) -> None:
        super().__init__()
        self.post_norm, self.res_post_norm, scale = config.post_norm, config.res_post_norm, config.layer_scale
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.dcn = Dcn(config, width, groups)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.gamma1 = None if scale is None else nn.Parameter(torch.full((width,), scale))
        self.gamma2 = None if scale is None else nn.Parameter(torch.full((width,), scale))
        if config.res_post_norm:
            self.res_post_norm1, self.res_post_norm2 = _norm(width), _norm(width)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = x + self.drop_path(_scaled(self.norm1(self.dcn(x)), self.gamma1))
            return x + self.drop_path(_scaled(self.norm2(self.mlp(x)), self.gamma2))
        if self.res_post_norm:
            x = x + self.drop_path(self.res_post_norm1(self.dcn(self.norm1(x))))
            return x + self.drop_path(self.res_post_norm2(self.mlp(self.norm2(x))))
        x = x + self.drop_path(_scaled(self.dcn(self.norm1(x)), self.gamma1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma2))


class Stage(nn.Module):
    """The blocks of one stride, the norm on its map, and the way to the next."""

    def __init__(self, config: InternImageConfig, number: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        width = config.width << number
        self.recompute = config.recompute
        self.blocks = nn.ModuleList(Block(config, width, config.groups[number], rate) for rate in drop_paths)
        self.norm: nn.Module = nn.Identity() if config.post_norm else _norm(width)
        self.norm_after = config.post_norm_blocks if number == _THIRD else ()
        if self.norm_after:
            self.post_norms = nn.ModuleList(_norm(width) for _ in self.norm_after)
        self.downsample: nn.Module = nn.Identity()
        if number < len(_STRIDES) - 1:
            conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
            # float[B, h, w, D] -> float[B, h / 2, w / 2, 2 D], rounded up
            layers = {"to_first": Permute([0, 3, 1, 2]), "conv": conv, "norm": _norm_to_last(2 * width)}
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, wanted: Collection[int] = ()) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """What enters -> the map with its norm, what enters the next stage, and what the `wanted` blocks gave."""
        found = {}
        for i, block in enumerate(self.blocks):
            is_found_again = self.recompute and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if is_found_again else block(x)
            if i in self.norm_after:
                x = self.post_norms[self.norm_after.index(i)](x)
            if i in wanted:
                found[i] = x
        x = self.norm(x)
        return x, self.downsample(x), found


class InternImage(nn.Module):
    """float[B, C, H, W] -> four float[B, D, H/s, W/s] at strides 4, 8, 16 and 32, rounded up: any size will do.

    As a source of tokens it gives the last map, a token for each 32 x 32 pixels.
    """

    def __init__(self, config: InternImageConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.channels
        self.specs = tuple(FeatureSpec(channels=config.width << i, stride=s) for i, s in enumerate(_STRIDES))
        self.width, self.patch = self.specs[-1].channels, self.specs[-1].stride
        self.starts = (0, *itertools.accumulate(config.depths))  # the first block of each stage, and how many there are
        half = config.width // 2
        rates = [config.drop_path * i / (self.starts[-1] - 1) for i in range(self.starts[-1])]
        self.patch_embed = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(config.channels, half, 3, stride=2, padding=1),
                norm1=nn.Sequential(*_norm_to_last(half), Permute([0, 3, 1, 2])),
                act=nn.GELU(),
                conv2=nn.Conv2d(half, config.width, 3, stride=2, padding=1),
                norm2=_norm_to_last(config.width),
            )
        )
        bounds = itertools.pairwise(self.starts)
        self.levels = nn.ModuleList(Stage(config, i, rates[a:b]) for i, (a, b) in enumerate(bounds))
        self.apply(init_linear)
        for module in self.modules():
            if isinstance(module, Dcn):
                module.reset()

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(
            channels=self.channels,
            repeated_blocks=tuple(module for module in self.modules() if isinstance(module, Block)),
            layer_of=self.layer_of,
            match_state=self.match_state,
            to_published=dict,  # the names are the published ones
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.patch_embed(image), []
        for stage in self.levels:
            seen, x, _ = stage(x)
            maps.append(seen.permute(0, 3, 1, 2))
        return maps

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> the last map as patches of 32 x 32 pixels.

        Raises:
            UserError: `keep`: convolutions read the whole image.
        """
        if keep is not None:
            what = "an intern_image takes all of an image: its convolutions read around every place"
            raise UserError(what, where="task.vrl", fix="--set task.vrl.drop_at=tokens")
        return self.layers(image, [-1], norm=True)[0]

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """float[B, C, H, W] -> what some blocks give, each of its stage's width and grid, in the order asked for.

        Args:
            which: blocks from 0 through all stages, or from the last with -1.
            norm: put the norm of the stage's map on them, where it has one (`post_norm=false`).

        Raises:
            UserError: a block that is not there.
        """
        numbers = blocks_named(which, self.starts[-1])
        x, found = self.patch_embed(image), {}
        for first, stage in zip(self.starts, self.levels, strict=False):
            if first > max(numbers, default=-1):
                break
            _, x, seen = stage(x, [i - first for i in numbers])
            last_norm = stage.get_submodule("norm")
            for i, out in seen.items():
                tokens, grid_hw = out.flatten(1, 2), (out.shape[1], out.shape[2])
                named = last_norm(tokens) if norm else tokens
                found[first + i] = split(named, tokens, has_class=False, num_registers=0, grid_hw=grid_hw)
        return [found[i] for i in numbers]

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates: 0 the stem, i + 1 block i through all stages.

        Source: the published code, where what lies between two stages is as deep as the first block behind it; what
            lies behind all is above all.
        """
        num_blocks = self.starts[-1]
        found = re.match(r"levels\.(\d)\.(?:(blocks|post_norms)\.(\d+))?", name)
        if found is None:
            return (0 if name.startswith("patch_embed.") else num_blocks + 1), num_blocks
        stage, what, number = int(found[1]), found[2], int(found[3] or 0)
        if what is None:
            return self.starts[stage + 1] + 1, num_blocks
        block = number if what == "blocks" else self.config.post_norm_blocks[number]
        return self.starts[stage] + block + 1, num_blocks

    def match_state(self, state: dict[str, Tensor]) -> list[str]:
        """Say where a model of a published size reads further or nearer than its weights did: no shape tells.

        Raises:
            UserError: weights of another variant.
        """
        own, config = self.state_dict(), self.config
        for name, (field, with_it, without) in _MARKS.items():
            if "levels.0.blocks.0.norm1.0.weight" in state and (name in state) != (name in own):
                raise UserError(
                    f"{name} is {'in the weights and not in this model' if name in state else 'not in the weights'}",
                    fix=f"--set task.backbone.{field}={with_it if name in state else without}",
                )
        like = next((name for name, c in SIZES.items() if (c.width, c.depths) == (config.width, config.depths)), None)
        if like is None or SIZES[like].offset_scale == config.offset_scale:
            return []
        published = SIZES[like].offset_scale
        return [
            f"offsets are scaled by {config.offset_scale:g}; the published {like} was trained with {published:g}: "
            f"--set task.backbone.offset_scale={published:g}"
        ]


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


def _norm(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width, eps=_EPS))


def _norm_to_last(width: int) -> nn.Sequential:
    """float[B, D, h, w] -> float[B, h, w, D]."""
    return nn.Sequential(Permute([0, 2, 3, 1]), nn.LayerNorm(width, eps=_EPS))
