"""Any timm model as a backbone: ResNet, ConvNeXt, Swin, EfficientNet, ViT, EVA, DINO, ...

Source: timm's `forward_intermediates`, which gives the maps of hierarchical nets and of plain ViTs (without class and
    register tokens) alike. Nothing is ever downloaded: starting weights come from a file, by the run's `init`.
Shapes: image float[B, C, H, W] -> maps float[B, C_i, H/s_i, W/s_i], rounded up where the model pads.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.backbones import clip_vit_names, efficientnet_names, public_vit_names
from vistruct.backbones.timm_vit import block, enter, is_plain, refuse_other, run
from vistruct.backbones.tokens import Entered, blocks_named, split
from vistruct.config import Part
from vistruct.contracts import BackboneTraits, FeatureSpec, Tokens
from vistruct.errors import UserError, closest

# How the families are told to take images of any size; those that refuse all of them have nothing to be told.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_FINEST = 4  # pixels; maps of smaller strides are rarely wanted and always large


class TimmConfig(Part):
    """A model by timm's name for it, as `timm.list_models()` has them."""

    kind: Literal["timm"] = "timm"
    name: str  # for example resnet50, convnext_tiny, swin_tiny_patch4_window7_224, vit_small_patch14_reg4_dinov2
    # Maps as timm numbers them; None: the deepest of each stride from 4. Blocks of a ViT above the last one named are
    # left out, and its tokens are that one's: (22,) of 24 is what LLaVA reads of CLIP, its layer -2.
    out_indices: tuple[int, ...] | None = None
    image_size: int | None = Field(None, gt=0)  # pixels; says how many positions a ViT learns; None: the model's own
    channels: int = Field(3, gt=0)  # of the image; weights of three are inflated, see `checkpoint.weights`
    final_norm: bool = False  # a ViT's last norm on its maps
    drop_path: float = Field(0.0, ge=0, lt=1)
    options: dict[str, Any] = Field({})  # further arguments of this model in timm: embed_dim, depth, num_heads, ...
    recompute: bool = False  # forget activations inside of blocks and find them again: less memory, more time

    def build(self) -> TimmModel:
        """Build with random weights.

        Raises:
            UserError: a name that timm does not have, or settings that this model does not take.
        """
        return TimmModel(self)

    def outline(self) -> Outline:
        """What it will be, in about a second and without memory for its weights: to choose a neck and a mean by.

        Raises:
            UserError: as `build`.
        """
        with torch.device("meta"):
            model = TimmModel(self)
        return Outline(specs=model.specs, mean=model.mean, std=model.std)


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Of a model without its weights."""

    specs: tuple[FeatureSpec, ...]  # one for a plain ViT, several for a hierarchical net
    mean: tuple[float, ...]  # of each channel in [0, 1], of the public weights
    std: tuple[float, ...]


class TimmModel(nn.Module):
    """float[B, C, H, W] -> one map for each of `specs`; `mean` and `std` are those the public weights were made with.

    Other channels than red, green and blue have those of the colours that their kernels are inflated from, in turn;
    grey, which is all three, has their average.

    Raises:
        UserError: an image of a size that the model cannot take.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.channels
        model = _create(config)
        self.depths, self.num_layers = _layers(model)  # while it still has its classifier, the layer above all
        infos: list[dict[str, Any]] = _feature_infos(model)
        strides = [int(info["reduction"]) for info in infos]
        deepest = {stride: i for i, stride in enumerate(strides) if stride >= _FINEST}
        indices = tuple(deepest.values()) if config.out_indices is None else config.out_indices
        if not indices or any(not 0 <= i < len(infos) for i in indices) or sorted(set(indices)) != list(indices):
            raise UserError(
                f"out_indices {list(indices)} are not of the {len(infos)} maps of {config.name}, in order",
                where="backbone.out_indices",
                fix="; ".join(f"{i}: stride {s}" for i, s in enumerate(strides)),
            )
        self.specs = tuple(FeatureSpec(channels=int(infos[i]["num_chs"]), stride=strides[i]) for i in indices)
        self.stage_depths = _stage_depths(model)
        # What only later maps and the classifier need would be weights that never get a gradient.
        self.indices = model.prune_intermediate_layers(list(indices), prune_norm=not config.final_norm, prune_head=True)
        if config.recompute:
            model.set_grad_checkpointing(True)
        card: dict[str, Any] = model.pretrained_cfg
        self.mean = _of_channels(card["mean"], config.channels)
        self.std = _of_channels(card["std"], config.channels)
        self.model = model
        self.is_plain = is_plain(model)
        if self.is_plain:
            self.width, self.patch = self.specs[-1].channels, self.specs[-1].stride

    @property
    def traits(self) -> BackboneTraits:
        return BackboneTraits(
            channels=self.channels,
            last_norm=self.config.final_norm,
            repeated_blocks=tuple(self.model.blocks) if self.is_plain else (),
            layer_of=self.layer_of,
            convert_keys=self.convert_keys,
            match_state=lambda state: public_vit_names.of_satmae(_plain(state))[1],
            fresh_parts=lambda state: {f"model.{name}" for name in public_vit_names.of_satmae(_plain(state))[0]},
            resize_state=self.resize_state,
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        return self._intermediates(image, indices=self.indices, norm=self.config.final_norm, output_fmt="NCHW")

    def tokens(self, image: Tensor, keep: Tensor | None = None) -> Tokens:
        """float[B, C, H, W] -> the last block's tokens, with the model's last norm where it was kept (`final_norm`).

        Args:
            keep: int64[B, K], patches (0-based, row by row) that enter the blocks, with their positions, beside class
                token and registers; None: all.

        Raises:
            UserError: no plain ViT; `keep`, of a BEiT.
        """
        return self._tokens(image, [-1], self.config.final_norm, keep)[0]

    def layers(self, image: Tensor, which: Sequence[int], norm: bool = False) -> list[Tokens]:
        """float[B, C, H, W] -> the tokens of some blocks, in the order asked for.

        Args:
            which: blocks from 0, or from the last with -1; those above the last of `out_indices` are not there.
            norm: put the model's last norm on them, if it has one.

        Raises:
            UserError: no plain ViT; a block or a norm that is not there.
        """
        return self._tokens(image, which, norm, None)

    def _tokens(self, image: Tensor, which: Sequence[int], norm: bool, keep: Tensor | None) -> list[Tokens]:
        if not self.is_plain:
            what = f"{self.config.name} has maps and no tokens"
            raise UserError(what, where="backbone.name", fix="choose a plain ViT, or use its maps")
        if norm and not self.config.final_norm:
            raise UserError("the last norm was left out", where="backbone", fix="--set task.backbone.final_norm=true")
        vit, numbers = self.model, blocks_named(which, len(self.model.blocks))
        found = self._through(image, max(numbers, default=-1), keep)
        has_class = vit.cls_token is not None
        down, across = vit.patch_embed.dynamic_feat_size(image.shape[-2:])
        named = partial(
            split,
            has_class=has_class,
            num_registers=int(vit.num_prefix_tokens) - has_class,
            grid_hw=(down, across) if keep is None else None,
        )
        return [named(vit.norm(found[i]) if norm else found[i], found[i]) for i in numbers]

    def enter(self, image: Tensor) -> Entered:
        """float[B, C, H, W] -> what enters the blocks.

        Raises:
            UserError: an image of a size that the model cannot take.
        """
        with self._sizes(image):
            return enter(self.model, image)

    def block(self, number: int, x: Tensor, rotary: Tensor | None, is_real: Tensor | None) -> Tensor:
        """One block of float[B, N, D]; no token looks at those that are not real (bool[B, N]; None: all are)."""
        return block(self.model, number, x, rotary, is_real)

    def drop_class_token(self) -> None:
        """It stays, as registers do: they go through the blocks that were trained with them."""

    def _through(self, image: Tensor, last: int, keep: Tensor | None) -> list[Tensor]:
        if not len(image):  # timm's own reshape by a size that nothing tells
            one = None if keep is None else keep.new_zeros(1, keep.shape[1])
            return [x[:0] for x in self._through(image.new_zeros(1, *image.shape[1:]), last, one)]
        with self._sizes(image):
            entered = enter(self.model, image, keep)
        return run(self.model, entered, last, recompute=self.config.recompute)

    def _intermediates(self, image: Tensor, **settings: Any) -> list[Any]:
        if not len(image):  # most families reshape by a size that nothing tells
            return self._of_none(image, **settings)
        with self._sizes(image):
            return self.model.forward_intermediates(image, intermediates_only=True, **settings)

    @contextmanager
    def _sizes(self, image: Tensor) -> Generator[None]:
        """A size that the model refuses is the user's matter."""
        try:
            yield
        except (AssertionError, RuntimeError) as error:  # how timm says that a size does not fit
            if isinstance(error, RuntimeError) and "size of tensor" not in str(error):
                raise
            raise UserError(
                f"{self.config.name} does not take an image of {image.shape[-2]} x {image.shape[-1]} pixels: {error}",
                fix="--set task.size_divisor=N, a multiple of its patch; or --set task.backbone.image_size=N",
            ) from error

    def _of_none(self, image: Tensor, **settings: Any) -> list[Any]:
        """Of an empty batch: what one black image gives, without it; running statistics do not see it."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            given = self._intermediates(image.new_zeros(1, *image.shape[1:]), **settings)
        finally:
            for module, is_training in modes:
                module.training = is_training
        return [tuple(part[:0] for part in one) if isinstance(one, tuple | list) else one[:0] for one in given]

    def layer_of(self, name: str) -> tuple[int, int]:
        """Depth of a parameter for layer-wise rates, as the model's own `group_matcher` numbers them.

        Raises:
            UserError: timm does not know the layers of this model.
        """
        if not self.depths:
            raise UserError(
                f"timm does not say which layer a parameter of {self.config.name} is in",
                where="optim.layer_decay",
                fix="--set optim.layer_decay=1",
            )
        return self.depths[name.removeprefix("model.")], self.num_layers

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's own names, those of a ViT or an EfficientNet elsewhere, or of a run of this one -> ours."""
        bare = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
        bare = public_vit_names.convert_keys(clip_vit_names.convert_keys(bare))
        bare = efficientnet_names.convert_keys(bare, self.stage_depths)
        return {key if key.startswith("model.") else f"model.{key}": value for key, value in bare.items()}

    def resize_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """timm's own filter: names of the original repositories, positions and kernels of another size.

        Raises:
            UserError: weights that timm cannot read; of another ViT, so that a part of them would be left out.
        """
        # Not every module of timm has one.
        convert: Any = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state, []
        before = _plain(state)
        try:
            after: dict[str, Tensor] = convert(dict(before), self.model)
        except (RuntimeError, ValueError, AssertionError, KeyError, IndexError) as error:
            raise UserError(
                f"{self.config.name} cannot read these weights: {str(error).splitlines()[0][:200]}",
                fix="start from weights of this model, with a square table of positions",
            ) from error
        if self.is_plain:
            refuse_other(self.model, after, self.config.name)
        resized = [f"model.{k}" for k, v in after.items() if k in before and before[k].shape != v.shape]
        return {f"model.{key}": value for key, value in after.items()}, resized


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("model."): value for key, value in state.items()}


def _create(config: TimmConfig) -> Any:
    import timm  # seconds to import

    if not timm.is_model(config.name) or ":" in config.name or "/" in config.name:
        raise UserError(
            f"timm {timm.__version__} has no model {config.name!r}",
            where="backbone.name",
            fix=closest(config.name, timm.list_models()) if config.name else "see timm.list_models()",
        )
    wanted: dict[str, Any] = dict(config.options)
    if config.image_size is not None:
        wanted["img_size"] = config.image_size
    if config.drop_path:
        wanted["drop_path_rate"] = config.drop_path
    if config.channels != 3:
        wanted["in_chans"] = config.channels
    for any_size in _ANY_SIZE:
        try:
            model = timm.create_model(config.name, pretrained=False, **wanted, **any_size)
            break
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            refused = error
    else:
        raise UserError(
            f"{config.name} does not take {' and '.join(wanted)}: {refused}",
            where="backbone",
            fix="leave image_size, drop_path, channels and options at their defaults",
        )
    if not hasattr(model, "forward_intermediates"):  # some of timm's families
        raise UserError(
            f"timm {timm.__version__} does not give the inner maps of {config.name}",
            where="backbone.name",
            fix="choose another model, or update timm",
        )
    return model


def _stage_depths(model: Any) -> tuple[int, ...]:
    """Blocks of each stage of an EfficientNet; of other models nothing."""
    from timm.models import EfficientNet

    return tuple(len(stage) for stage in model.blocks) if isinstance(model, EfficientNet) else ()


def _of_channels(colours: Sequence[float], channels: int) -> tuple[float, ...]:
    if channels == 1:
        return (sum(map(float, colours)) / len(colours),)
    return tuple(float(colours[i % len(colours)]) for i in range(channels))


def _feature_infos(model: Any) -> list[dict[str, Any]]:
    info = model.feature_info
    return list(info) if isinstance(info, list) else list(info.info)


def _layers(model: Any) -> tuple[dict[str, int], int]:
    """The layer of every parameter by name, from 0 (timm's rule for layer-wise decay), and the last below the head."""
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):  # some of timm's families
        return {}, 0
    layers: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    has_head = model.num_classes > 0  # some are defined without one, and then nothing is above the last block
    return layers, max(layers.values()) - has_head
