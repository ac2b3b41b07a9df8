"""UPerNet against transformers' decoder, and its names against those of a published checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import UperNetConfig as TheirConfig
from transformers.models.upernet.modeling_upernet import UperNetHead

from vistruct.checkpoint.weights import Coverage, fill
from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.heads.unet import UNetConfig
from vistruct.heads.upernet import UperNet, UperNetConfig
from vistruct.kinds import ClassHeadPart, PixelHeadPart

SPECS = tuple(FeatureSpec(channels=c, stride=s) for c, s in ((5, 4), (6, 8), (7, 16), (8, 32)))


def maps(num: int = 2, size_hw: tuple[int, int] = (64, 96), specs: tuple[FeatureSpec, ...] = SPECS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(num, s.channels, -(-size_hw[0] // s.stride), -(-size_hw[1] // s.stride), generator=generator)
        for s in specs
    ]


def build(specs: tuple[FeatureSpec, ...] = SPECS, **values: object) -> UperNet:
    torch.manual_seed(0)
    head = UperNetConfig.model_validate({"channels": 16, **values}).build(specs, 3)
    nn.init.normal_(head.conv_seg.weight)
    return head


def theirs(head: UperNet) -> UperNetHead:
    config = TheirConfig(hidden_size=16, num_labels=3, pool_scales=[1, 2, 3, 6])
    reference = UperNetHead(config, [spec.channels for spec in SPECS])
    names = {
        k.replace(".bn.", ".batch_norm.").replace("conv_seg", "classifier"): v for k, v in head.state_dict().items()
    }
    assert names.keys() == reference.state_dict().keys()
    reference.load_state_dict(names)
    return reference


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size_hw", [(64, 96), (72, 40)])  # the second gives maps that are no exact halves
def test_logits_and_gradients_are_those_of_transformers(training, size_hw):
    head = build(dropout=0.0)
    reference = theirs(head).train(training)
    head.train(training)
    inputs = maps(size_hw=size_hw)
    ours, expected = head(inputs), reference(inputs)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    ours.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(sorted(head.named_parameters()), [q for _, q in _like(head, reference)], strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-3, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def _like(head: UperNet, reference: nn.Module) -> list[tuple[str, nn.Parameter]]:
    own = dict(reference.named_parameters())
    renamed = {
        n: n.replace(".bn.", ".batch_norm.").replace("conv_seg", "classifier") for n, _ in head.named_parameters()
    }
    return [(n, own[renamed[n]]) for n in sorted(renamed)]


def published(head: UperNet) -> dict[str, Tensor]:
    """The names and shapes of a `decode_head`, written out from the published decoder's structure."""
    shapes: dict[str, tuple[int, ...]] = {"conv_seg.weight": (3, 16, 1, 1), "conv_seg.bias": (3,)}

    def brick(name: str, before: int, kernel: int) -> None:
        shapes[f"{name}.conv.weight"] = (16, before, kernel, kernel)
        shapes.update({f"{name}.bn.{x}": (16,) for x in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    for i in range(4):
        brick(f"psp_modules.{i}.1", 8, 1)
    brick("bottleneck", 8 + 4 * 16, 3)
    for i, channels in enumerate((5, 6, 7)):
        brick(f"lateral_convs.{i}", channels, 1)
        brick(f"fpn_convs.{i}", 16, 3)
    brick("fpn_bottleneck", 4 * 16, 3)
    generator = torch.Generator().manual_seed(7)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["decode_head.", "module.decode_head.", "semsegdecoder.decode_head.", "head.", ""])
def test_a_published_decode_head_loads_whole(prefix):
    head = build()
    weights = published(head)
    state = {f"{prefix}{name}": value for name, value in weights.items()}
    state |= {"backbone.norm1.weight": torch.ones(3), "auxiliary_head.conv_seg.weight": torch.ones(3, 16, 1, 1)}
    coverage = fill(head, head.convert_keys(state), Coverage(source=Path("x.pth"), what="head"), allow_missing=False)
    assert (set(coverage.matched), coverage.missing, coverage.unexpected) == (set(weights), (), ())
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, weights[name].to(value.dtype), rtol=0, atol=0)


def test_another_modules_classifier_is_not_taken_for_ours():
    assert build().convert_keys({"auxiliary_head.conv_seg.bias": torch.zeros(3)}) == {}


def test_published_size_has_the_published_parameters():
    with torch.device("meta"):
        specs = tuple(FeatureSpec(channels=1024, stride=s) for s in (4, 8, 16, 32))
        head = UperNetConfig().build(specs, 16)
    convs = 4 * 1024 * 512 + (1024 + 4 * 512) * 512 * 9 + 3 * 1024 * 512 + 3 * 512 * 512 * 9 + 4 * 512 * 512 * 9
    assert sum(p.numel() for p in head.parameters()) == convs + 12 * 2 * 512 + 16 * 513


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_every_parameter_moves(norm):
    head = build(norm=norm)
    (head(maps()) * torch.randn(2, 3, 16, 24)).sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_without_batch_norm_an_image_does_not_depend_on_the_others(norm):
    head, inputs = build(norm=norm, dropout=0.0), maps()
    torch.testing.assert_close(head(inputs)[1:], head([m[1:] for m in inputs]), atol=1e-5, rtol=1e-4)


def test_batch_norm_of_one_image_alone_is_refused_in_training_and_fine_afterwards():
    head, inputs = build(), [m[:1] for m in maps()]
    with pytest.raises(UserError, match="one value a channel"):
        head(inputs)
    assert head.eval()(inputs).shape == (1, 3, 16, 24)


@pytest.mark.parametrize("strides", [(16,), (16, 16, 16, 16), (4, 16), (14, 14)])
def test_any_maps_from_fine_to_coarse_will_do(strides):
    specs = tuple(FeatureSpec(channels=4 + i, stride=s) for i, s in enumerate(strides))
    inputs = maps(size_hw=(112, 56), specs=specs)
    assert build(specs)(inputs).shape == (2, 3, *inputs[0].shape[2:])


def test_maps_from_coarse_to_fine_are_refused():
    with pytest.raises(UserError, match="from fine to coarse"):
        build(SPECS[::-1])


def test_a_map_of_one_cell_will_do():
    assert build(norm="group")(maps(num=1, size_hw=(4, 4))).shape == (1, 3, 1, 1)


def test_dropout_takes_whole_channels_in_training_alone():
    head = build(dropout=0.5)
    seen: list[Tensor] = []
    head.dropout.register_forward_hook(lambda module, args, out: seen.append(out))
    head(maps())
    head.eval()(maps())
    gone = (seen[0] == 0).flatten(2).all(dim=2).float().mean()
    assert 0.2 < gone < 0.8
    assert not (seen[1] == 0).flatten(2).all(dim=2).all()


@pytest.mark.parametrize(
    ("config", "role"),
    [
        (UperNetConfig(channels=1024), PixelHeadPart),
        (UNetConfig(stride=4), PixelHeadPart),
        (LinearConfig(hidden=8), PixelHeadPart),
        (PooledConfig(heads=4), ClassHeadPart),
    ],
)
def test_a_run_finds_the_head_by_its_kind(config, role):
    assert TypeAdapter(role).validate_python(config.model_dump(mode="json")) == config
