"""ViT-Adapter: a plain ViT that gives four feature maps, by a convolutional pyramid that it talks with as it runs.

Source: Chen et al., Vision Transformer Adapter, arXiv:2205.08534; sizes and both attention variants are those of ViTP's
    downstream models, and so are the names of the parameters, but for the ViT's, which are below `vit.`.
Differs: position embeddings are resized to whatever comes in, in every forward; windowed blocks are optional and mask
    what fills up their windows; any ViT that is a `PlainVit` can be inside. Class token and registers of timm's go
    through its blocks beside the patches, and the pyramid does not see them.
Shapes: B images, h x w patches of the ViT, D its width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import LayerNorm2d

from vistruct.backbones.adapter_interaction import Extractor, Injector, Interaction, as_map
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.spatial_prior import SpatialPrior
from vistruct.backbones.tokens import Entered
from vistruct.backbones.windows import from_windows, to_windows
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.ops.deformable_attention import DeformableAttention
from vistruct.ops.precision import at_least_float32

_STRIDES = (4, 8, 16, 32)
_OWN = ("level_embed", "spm.", "interactions.", "up.", "norm1.", "norm2.", "norm3.", "norm4.")

_SAME_SHAPES = (
    "'ddetr' with values as wide has the same shapes: if it is that, "
    "--set task.backbone.attention=ddetr --set task.backbone.value_ratio=1"
)


class VitAdapterConfig(Part):
    """An adapter around a ViT; the defaults are ViTP's ViT-L for detection at 1024 pixels."""

    kind: Literal["vit_adapter"] = "vit_adapter"
    vit: BackbonePart = InternVitConfig(patch=16, image_size=1024, drop_path=0.1)
    attention: Literal["mmcv", "ddetr"] = "mmcv"  # of a fresh adapter; one that is loaded keeps its own, by its shapes
    value_ratio: float = Field(0.25, gt=0)  # width of the values over the ViT's, ddetr only
    groups: tuple[tuple[int, int], ...] = ((0, 7), (8, 11), (12, 15), (16, 23))  # first and last block of each
    heads: int = Field(16, gt=0)  # of the deformable attention
    points: int = Field(4, gt=0)  # it reads in each map
    conv_width: int = Field(64, gt=0)  # of the spatial prior's first convolution
    ffn_ratio: float = Field(0.25, gt=0)  # width of the extractors' hidden layer over the ViT's
    extra_extractors: int = Field(2, ge=0)  # behind the last group
    add_vit_maps: bool = True  # the ViT's last tokens are added to every map
    final_norm: bool = True  # channel-first, on every map
    injector_scale: float = 0.1  # initial value of gamma
    drop_path: float = Field(0.1, ge=0, lt=1)  # in the extractors; the ViT has its own
    dropout: float = Field(0.1, ge=0, lt=1)  # on what the attention gives, mmcv only
    window: int | None = Field(None, gt=0)  # tokens along a side of the blocks' windows; None: all blocks are global
    global_blocks: tuple[int, ...] | None = None  # those without a window; None: the last of every group
    recompute: bool = False  # keep no activations inside of blocks and find them again: less memory, a third more time

    def build(self) -> VitAdapter:
        """Build with random weights.

        Raises:
            UserError: groups that are not the ViT's blocks in order; heads that do not divide a width.
        """
        return VitAdapter(self)


@runtime_checkable
class PlainVit(Protocol):
    """What an adapter needs of a ViT inside of it."""

    width: int
    patch: int

    @property
    def traits(self) -> BackboneTraits: ...

    def enter(self, image: Tensor) -> Entered:
        """float[B, C, H, W] -> what enters the blocks."""
        ...

    def block(self, number: int, x: Tensor, rotary: Tensor | None, is_real: Tensor | None) -> Tensor:
        """One block: float[B, N, D] -> float[B, N, D]; bool[B, N]: what is no filling, None: all of them."""
        ...

    def drop_class_token(self) -> None:
        """Let go of what only a class token needs."""
        ...


def _of_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("vit."): value for key, value in state.items() if key.startswith("vit.")}


class VitAdapter(nn.Module):
    """float[B, C, H, W] -> four float[B, D, H/s, W/s] at strides 4, 8, 16 and 32, in the type of the weights: float32
    under autocast.

    Raises:
        UserError: H or W is not a multiple of 32 and of the patch.
    """

    def __init__(self, config: VitAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = _plain(config)
        self.vit.drop_class_token()
        self.blocks_global = _check(config, self.vit.width, len(self.vit.traits.repeated_blocks))
        width = self.vit.width
        self.specs = tuple(FeatureSpec(channels=width, stride=stride) for stride in _STRIDES)
        self.divisor = math.lcm(_STRIDES[-1], self.vit.patch)  # pixels

        self.level_embed = nn.Parameter(torch.empty(3, width))
        self.spm = SpatialPrior(self.vit.traits.channels, width, config.conv_width)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        for module in (self.spm, self.up):
            module.apply(_init)
        nn.init.normal_(self.level_embed)
        last = len(config.groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(self._attention(levels=3), config.injector_scale),
                self._extractor(),
                [self._extractor() for _ in range(config.extra_extractors if i == last else 0)],
            )
            for i in range(len(config.groups))
        )
        if config.final_norm:
            self.norm1, self.norm2, self.norm3, self.norm4 = (LayerNorm2d(width, eps=1e-6) for _ in _STRIDES)

    @property
    def traits(self) -> BackboneTraits:
        return replace(
            self.vit.traits,
            least_divisor=self.divisor,
            layer_of=self.layer_of,
            convert_keys=self.convert_keys,
            match_state=self.match_state,
            resize_state=self.resize_state,
            fresh_parts=self.fresh_parts,
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise UserError(
                f"image of {height} x {width} pixels: a ViT-Adapter needs multiples of {self.divisor}",
                fix=f"pad or resize to a multiple of {self.divisor} (--set task.size_divisor={self.divisor})",
            )
        grid_hw = (height // self.vit.patch, width // self.vit.patch)
        c1, *pyramid = self.spm(image)
        sizes_hw = [(c.shape[2], c.shape[3]) for c in pyramid]
        levels = [c.flatten(2).transpose(1, 2) + embed for c, embed in zip(pyramid, self.level_embed, strict=True)]
        c = torch.cat(levels, dim=1)  # [B, C, D]
        entered = self.vit.enter(image)
        first, x = entered.tokens[:, : entered.num_first], entered.tokens[:, entered.num_first :]  # [B, P or h * w, D]
        beside = [first]  # the patches, as the last block left them
        for interaction, group in zip(self.interactions, self.config.groups, strict=True):
            x, c = interaction(x, c, self._group(group, grid_hw, entered, beside), self._call, grid_hw, sizes_hw)

        parts = c.split([h * w for h, w in sizes_hw], dim=1)
        maps = [as_map(p.transpose(1, 2), size) for p, size in zip(parts, sizes_hw, strict=True)]
        maps = [self.up(maps[0]) + c1, *maps]
        if self.config.add_vit_maps:
            whole = at_least_float32(as_map(x.transpose(1, 2), grid_hw))
            maps = [m + F.interpolate(whole, m.shape[2:], mode="bilinear", align_corners=False) for m in maps]
        maps = [m.to(self.level_embed.dtype) for m in maps]
        if self.config.final_norm:
            norms = (self.norm1, self.norm2, self.norm3, self.norm4)
            maps = [norm(m) for norm, m in zip(norms, maps, strict=True)]
        return maps

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates: 0 embeddings, i + 1 the ViT's block i, the adapter above all.

        Source: ViTP's downstream code, where the fresh `level_embed` counts as an embedding.
        """
        inner = self.vit.traits
        if name.startswith("vit.") and inner.layer_of is not None:
            return inner.layer_of(name.removeprefix("vit."))
        num_layers = len(inner.repeated_blocks)
        return (0 if name == "level_embed" else num_layers + 1), num_layers

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a ViT alone, of a whole vision-language model, or of a published or own adapter -> our names."""
        own = {_bare(key): value for key, value in state.items() if _bare(key).startswith(_OWN)}
        rest = {key.removeprefix("vit."): v for key, v in state.items() if not _bare(key).startswith(_OWN)}
        return own | {f"vit.{key}": value for key, value in self.vit.traits.convert_keys(rest).items()}

    def match_state(self, state: dict[str, Tensor]) -> list[str]:
        """As `match_attention`; and what the ViT says of its own."""
        return [*self.match_attention(state), *self.vit.traits.match_state(_of_vit(state))]

    def match_attention(self, state: dict[str, Tensor]) -> list[str]:
        """Become the attention variant that a state dict of our names is of; what was changed, in words.

        Raises:
            UserError: values of several widths, which neither variant has.
        """
        shapes = {v.shape[0] for k, v in state.items() if k.endswith(".attn.value_proj.weight") and k.startswith(_OWN)}
        now = {m.value_proj.out_features for m in self.modules() if isinstance(m, DeformableAttention)}
        if len(shapes) > 1:
            what = f"the adapter's values are {', '.join(map(str, sorted(shapes)))} channels wide, and should be alike"
            raise UserError(what, fix="take one adapter's weights, all of them from the same training")
        width = self.vit.width
        if not shapes or (shapes == now and (shapes != {width} or self.config.attention == "ddetr")):
            return []
        if shapes == now:
            return [f"the adapter's attention is taken as 'mmcv'; {_SAME_SHAPES}"]
        (value_width,) = shapes
        variant: Literal["mmcv", "ddetr"] = "mmcv" if value_width == width else "ddetr"
        ratio = self.config.value_ratio if variant == "mmcv" else value_width / width
        self.config = self.config.model_copy(update={"attention": variant, "value_ratio": ratio})
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.resize_values(value_width, self._dropout())
            elif isinstance(module, Extractor):
                module.variant = variant
        said = f"the adapter's attention is of the variant {variant!r}, with values of {value_width} channels"
        if variant == "mmcv":
            said += f"; {_SAME_SHAPES}"
        return [said]

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """As the ViT's."""
        inner = _of_vit(state)
        own = {k: v for k, v in state.items() if not k.startswith("vit.")}
        inner, names = self.vit.traits.resize_state(inner)
        return own | {f"vit.{k}": v for k, v in inner.items()}, [f"vit.{name}" for name in names]

    def fresh_parts(self, state: dict[str, Tensor]) -> set[str]:
        """Tensors that a state dict of our names may lack: the adapter's, if it has none of them, and the ViT's."""
        inner = {f"vit.{name}" for name in self.vit.traits.fresh_parts(_of_vit(state))}
        if any(key.startswith(_OWN) for key in state):
            return inner
        return inner | {name for name in self.state_dict() if name.startswith(_OWN)}

    def _group(
        self, group: tuple[int, int], grid_hw: tuple[int, int], entered: Entered, beside: list[Tensor]
    ) -> Callable[[Tensor], Tensor]:
        window, num_first = self.config.window, entered.num_first
        if window is not None and (num_first or entered.rotary is not None):
            what = "windows have no class token, registers or rotary positions"
            raise UserError(what, where="backbone.window", fix="--set task.backbone.window=null")

        def run(x: Tensor) -> Tensor:
            for i in range(group[0], group[1] + 1):
                is_real, cut = None, window if i not in self.blocks_global else None
                if cut is not None:
                    x, is_real = to_windows(x, grid_hw, cut)
                if num_first:
                    x = torch.cat([beside[0], x], dim=1)
                x = self._call(self.vit.block, i, x, entered.rotary, is_real)
                if num_first:
                    beside[0], x = x.tensor_split([num_first], dim=1)
                if cut is not None:
                    x = from_windows(x, grid_hw, cut)
            return x

        return run

    def _call(self, module: Callable[..., Any], *arguments: Any) -> Any:
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(module, *arguments, use_reentrant=False)
        return module(*arguments)

    def _dropout(self) -> float:
        return self.config.dropout if self.config.attention == "mmcv" else 0.0

    def _attention(self, levels: int) -> DeformableAttention:
        ratio = 1.0 if self.config.attention == "mmcv" else self.config.value_ratio
        return DeformableAttention(
            width=self.vit.width,
            heads=self.config.heads,
            levels=levels,
            points=self.config.points,
            value_width=int(self.vit.width * ratio),
            dropout=self._dropout(),
        )

    def _extractor(self) -> Extractor:
        extractor = Extractor(
            self._attention(levels=1),
            variant=self.config.attention,
            hidden=int(self.vit.width * self.config.ffn_ratio),
            drop_path=self.config.drop_path,
        )
        extractor.ffn.apply(_init)
        return extractor


def _plain(config: VitAdapterConfig) -> PlainVit:
    vit = config.vit.build()
    if not isinstance(vit, PlainVit):
        raise UserError(
            f"no adapter goes around a {config.vit.kind}", where="backbone.vit", fix="use kind intern_vit or timm"
        )
    return vit


def _check(config: VitAdapterConfig, width: int, depth: int) -> frozenset[int]:
    """The blocks without a window; refuses settings that do not fit the ViT."""
    covered = [i for first, last in config.groups for i in range(first, last + 1)]
    if covered != list(range(depth)) or any(last < first for first, last in config.groups):
        quarter = depth / 4
        bounds = [round(i * quarter) for i in range(5)]
        even = [[a, b - 1] for a, b in itertools.pairwise(bounds) if b > a]
        raise UserError(
            f"groups {[list(g) for g in config.groups]} are not the {depth} blocks of the ViT in order",
            where="backbone.groups",
            fix=f"for example {even}",
        )
    if width % config.heads or (config.attention == "ddetr" and int(width * config.value_ratio) % config.heads):
        raise UserError(
            f"heads={config.heads} does not divide the width of the values, {width} x {config.value_ratio:g}",
            where="backbone.heads",
            fix="use a number of heads that divides both widths, 8 or 16 as a rule",
        )
    if config.global_blocks is None:
        return frozenset(last for _, last in config.groups)
    beyond = [i for i in config.global_blocks if not 0 <= i < depth]
    if beyond:
        raise UserError(
            f"global_blocks names block {beyond[0]} of {depth}",
            where="backbone.global_blocks",
            fix=f"blocks count from 0 to {depth - 1}",
        )
    return frozenset(config.global_blocks)


def _bare(key: str) -> str:
    return key.removeprefix("module.").removeprefix("backbone.")


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
