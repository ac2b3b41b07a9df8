"""InternViT: a pre-norm ViT with class token, learned positions, layer scale, exact GELU and no final norm.

Source: Chen et al., InternVL, arXiv:2312.14238; the 300M-448px configuration. Parameter names are those of the
public checkpoints, so that these load as they are; `intern_vit_names` reads the other layouts in use.
Differs: positions are resized to whatever comes in, in every forward; an optional convolutional stem (Xiao et al.,
arXiv:2106.14881) stands in for the patch embedding where a small model is trained from random weights; attention is
torch's own.
Shapes: B images of C channels, L = H/patch * W/patch patches, D width.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistruct.backbones.intern_vit_names import convert_keys
from vistruct.backbones.tokens import Entered, blocks_named, patches_of, split
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec, Tokens
from vistruct.errors import UserError
from vistruct.ops.precision import at_least_float32


class InternVitConfig(Part):
    """An InternViT; the defaults are the published 300M-448px model (304.0 M parameters)."""

    kind: Literal["intern_vit"] = "intern_vit"
    width: int = Field(1024, gt=0)
    depth: int = Field(24, gt=0)
    heads: int = Field(16, gt=0)
    mlp_width: int = Field(4096, gt=0)
    patch: int = Field(14, gt=0)  # pixels
    channels: int = Field(3, gt=0)  # of the image; weights of three are inflated, see `checkpoint.weights`
    image_size: int = Field(448, gt=0)  # pixels; only says how many positions are learned
    stem: Literal["patch", "conv"] = "patch"  # conv: stride-2 3x3 convolutions, patch must be a power of two
    positions: Literal["random", "sincos"] = "random"  # how they start; both are learned
    drop_path: float = Field(0.0, ge=0, lt=1)  # at the last block, rising linearly from 0
    layer_scale: float = 0.1  # initial value of ls1 and ls2
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    recompute: bool = False  # keep no activations inside of blocks and find them again: less memory, a third more time

    @model_validator(mode="after")
    def _fits(self) -> InternVitConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}")
        if self.stem == "conv" and (self.patch & (self.patch - 1) or self.patch < 4):
            raise ValueError(f"stem='conv' halves the image: patch must be 4, 8, 16 or 32, not {self.patch}")
        return self

    def build(self) -> InternVit:
        return InternVit(self)


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions down to one cell a patch, then a 1x1 projection: float[B, C, H, W] -> [B, D, h, w]."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [channels, *(max(width >> (halvings - i), 16) for i in range(1, halvings)), width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(self.convs(image))


class Embeddings(nn.Module):
    """Patches and class token with their positions: float[B, C, H, W] -> float[B, 1 + L, D]."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.grid = config.image_size // config.patch
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.width))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + self.grid**2, config.width))
        self.patch_embedding: nn.Module = (
            ConvStem(config.channels, config.width, config.patch)
            if config.stem == "conv"
            else nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch)
        )
        nn.init.normal_(self.class_embedding, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.02)
        if config.positions == "sincos":
            with torch.no_grad():
                self.position_embedding[0, 1:] = sincos_positions(config.width, self.grid)

    def positions(self, grid_hw: tuple[int, int]) -> Tensor:
        """float[1, 1 + h*w, D]: the learned table, bicubically resized to this grid; the class slot is untouched."""
        return resize_positions(self.position_embedding, (self.grid, self.grid), grid_hw)

    def patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """float[B, L, D] patches, and float[1, 1 + L, D] the positions that belong to them, not yet added."""
        patches = self.patch_embedding(image)  # [B, D, h, w]
        positions = self.positions((patches.shape[2], patches.shape[3])).to(patches.dtype)
        return patches.flatten(2).transpose(1, 2), positions

    def forward(self, image: Tensor) -> Tensor:
        x, positions = self.patches(image)
        x = torch.cat([self.class_embedding.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x + positions


class Attention(nn.Module):
    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, is_real: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # each [B, h, N, d/h]
        seen = None if is_real is None else is_real[:, None, None]  # [B, 1, 1, N]
        return self.proj(F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: InternVitConfig, drop_path: float) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = Mlp(config.width, config.mlp_width)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.ls1 = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.ls2 = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.drop_path = drop_path

    def forward(self, x: Tensor, is_real: Tensor | None = None) -> Tensor:
        """float[B, N, D] -> float[B, N, D]; no token looks at those that are not real (bool[B, N]; None: all are)."""
        x = x + self._drop(self.attn(self.norm1(x), is_real) * self.ls1)
        return x + self._drop(self.mlp(self.norm2(x)) * self.ls2)

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth by sample; the kept branches are scaled so that the mean stays."""
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class Encoder(nn.Module):
    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.layers = nn.ModuleList(Block(config, rate) for rate in rates)
        self.recompute = config.recompute

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.call(layer, x)
        return x

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One block."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, x, use_reentrant=False)
        return layer(x)


class InternVit(nn.Module):
    """Image in, one feature map (`forward`), the tokens of the last block (`tokens`) or of any (`layers`) out.

    Raises:
        UserError: the image is not a whole number of patches.
    """

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.channels = config.width, config.patch, config.channels
        self.specs = (FeatureSpec(channels=config.width, stride=config.patch),)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.apply(init_linear)

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(
            channels=self.channels,
            repeated_blocks=tuple(self.encoder.layers),
            layer_of=self.layer_of,
            convert_keys=self.convert_keys,
            resize_state=self.resize_state,
        )

    def hidden(self, image: Tensor, keep: Tensor | None = None) -> Tensor:
        """float[B, C, H, W] -> float[B, 1 + L, D]: class token first, then the patches row by row.

        Args:
            image: normalised; H and W are multiples of the patch.
            keep: int64[B, K], patches (0-based, row-major) that enter the blocks; None: all.
        """
        self.grid_hw(image)
        x = self.embeddings(image)
        if keep is not None:
            index = torch.cat([keep.new_zeros(len(keep), 1), keep + 1], dim=1)  # the class token always stays
            x = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
        return self.encoder(x)

    def grid_hw(self, image: Tensor) -> tuple[int, int]:
        """Patches down and across.

        Raises:
            UserError: the image is not a whole number of patches.
        """
        return patches_of(image, self.patch)

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> the last block's class token, and L patches, or K of them with `keep`."""
        x = self.hidden(image, keep)
        grid_hw = self.grid_hw(image) if keep is None else None
        return split(x, x, has_class=True, num_registers=0, grid_hw=grid_hw)

    def unplaced_tokens(self, image: Tensor, keep: Tensor, is_unplaced: Tensor, instead: Tensor) -> Tokens:
        """As `tokens`, with float[D] in place of the positions of the kept patches that bool[B, K] says."""
        self.grid_hw(image)
        x, positions = self.embeddings.patches(image)
        x = x.gather(1, keep[..., None].expand(-1, -1, self.width))
        x = x + torch.where(is_unplaced[..., None], instead.to(x.dtype), positions[0, 1:][keep])
        first = self.embeddings.class_embedding.to(x.dtype) + positions[:, :1]
        x = self.encoder(torch.cat([first.expand(len(x), -1, -1), x], dim=1))
        return split(x, x, has_class=True, num_registers=0, grid_hw=None)

    def forward(self, image: Tensor) -> list[Tensor]:
        """float[B, C, H, W] -> [float[B, D, H/patch, W/patch]]."""
        return [self.tokens(image).map]

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """float[B, C, H, W] -> the tokens of some blocks, in the order asked for; without a class token where
        there is none any more (`drop_class_token`).

        Args:
            which: blocks from 0, or from the last with -1.
            norm: as everywhere; this ViT has no last norm, so that it changes nothing.

        Raises:
            UserError: a block that is not there; the image is not a whole number of patches.
        """
        numbers, grid_hw = blocks_named(which, len(self.encoder.layers)), self.grid_hw(image)
        has_class = self.embeddings.class_embedding is not None
        x, found = self.embeddings(image) if has_class else self.patch_tokens(image), {}
        for i, layer in enumerate(self.encoder.layers[: max(numbers, default=-1) + 1]):
            x = found[i] = self.encoder.call(layer, x)
        return [split(found[i], found[i], has_class=has_class, num_registers=0, grid_hw=grid_hw) for i in numbers]

    def patch_tokens(self, image: Tensor) -> Tensor:
        """float[B, C, H, W] -> float[B, L, D]: what enters the blocks, without a class token."""
        x, positions = self.embeddings.patches(image)
        return x + positions[:, 1:]

    def enter(self, image: Tensor) -> Entered:
        """What enters the blocks, without a class token."""
        return Entered(tokens=self.patch_tokens(image))

    def block(self, number: int, x: Tensor, rotary: Tensor | None, is_real: Tensor | None) -> Tensor:
        """One block of float[B, N, D]; no token looks at those that are not real (bool[B, N]; None: all are)."""
        return self.encoder.layers[number](x, is_real)

    def drop_class_token(self) -> None:
        """For those who run the blocks on `patch_tokens` alone; `hidden` and `tokens` are gone with it.

        The position table keeps the class token's row, so that the weights of others fit as they are.
        """
        del self.embeddings.class_embedding
        self.embeddings.register_parameter("class_embedding", None)

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates: 0 embeddings, i + 1 block i; and the number of blocks."""
        found = re.match(r"encoder\.layers\.(\d+)\.", name)
        return (int(found.group(1)) + 1 if found else 0), self.config.depth

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Any public layout of these weights -> ours; keys of other modules (projector, language model) fall away."""
        return convert_keys(state)

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fit positions and patch kernel of another image or patch size to this model; also names what was resized.

        Source: bicubic, no corner alignment, no gain correction, as the published downstream code does.
        """
        return fit_sizes(
            state,
            self.state_dict(),
            positions="embeddings.position_embedding",
            kernel="embeddings.patch_embedding.weight",
            grid=self.embeddings.grid,
        )


def sincos_positions(width: int, grid: int, amplitude: float = 0.2) -> Tensor:
    """float[grid * grid, width]: sines and cosines of x and y, of all wavelengths down to two patches.

    A language model that starts with the ViT from random weights must find its way to a patch first; with the usual
    random table of standard deviation 0.02 the places are lost in what the stem says about the content.
    Source: Dosovitskiy et al. and Chen et al. (arXiv:2104.02057) use fixed sinusoids in the same place.
    """
    if width % 4:
        raise UserError(f"width={width} is not a multiple of 4, which sine and cosine of x and y need")
    frequency = torch.pi * torch.arange(1, width // 4 + 1) / (width // 4)  # radians a patch, up to two patches a wave
    at = torch.arange(grid) + 0.5
    y, x = (side.flatten()[:, None] * frequency for side in torch.meshgrid(at, at, indexing="ij"))
    return amplitude * torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def resize_positions(table: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int], num_class: int = 1) -> Tensor:
    """float[1, c + h*w, D] -> float[1, c + h'*w', D], bicubic without corner alignment, in float32 at least.

    Args:
        num_class: c, rows before the places, which stay.
    """
    if from_hw == to_hw:
        return table
    grid = at_least_float32(table[:, num_class:]).transpose(1, 2).unflatten(2, from_hw)  # [1, D, h, w]
    grid = F.interpolate(grid, to_hw, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :num_class], grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def fit_positions(name: str, table: Tensor, grid: int, num_class: int = 1) -> Tensor:
    """float[1, c + g * g, D] of any g -> float[1, c + grid * grid, D], in float32 at least: rounded by who keeps it.

    Raises:
        UserError: places that are no square.
    """
    num_places = table.shape[1] - num_class
    side = round(num_places**0.5)
    if side * side != num_places:
        raise UserError(
            f"{name} has {num_places} places, which is no square: how many lie in a row it does not say",
            fix="resize the table where its grid is known, or start from a model of square images",
        )
    return resize_positions(at_least_float32(table), (side, side), (grid, grid), num_class)


def fit_sizes(
    state: dict[str, Tensor], own: Mapping[str, Tensor], *, positions: str, kernel: str, grid: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Positions and patch kernel of another image or patch size, as a ViT has them; and which were resized.

    Args:
        own: the ViT's own tensors.
        positions: the name of its table, whose first row is the class token's.
        kernel: the name of its patch kernel, if it has one.
        grid: patches along a side of its table.
    """
    state, resized = dict(state), []
    there, here = state.get(positions), own[positions]
    if there is not None and there.shape != here.shape and there.shape[-1] == here.shape[-1]:
        state[positions] = fit_positions(positions, there, grid)
        resized.append(positions)
    there, here = state.get(kernel), own.get(kernel)
    fits = there is not None and here is not None and there.dim() == here.dim() == 4 and len(there) == len(here)
    if fits and there.shape[2:] != here.shape[2:]:
        state[kernel] = F.interpolate(at_least_float32(there), here.shape[2:], mode="bicubic")
        resized.append(kernel)
    return state, resized


def init_linear(module: nn.Module) -> None:
    """Of a ViT: linear weights are small and normal, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
