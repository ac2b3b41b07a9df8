"""The linear and the pooled head: closed formulas, and what they must not be able to do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.heads.pooled import PooledConfig

SPECS = (FeatureSpec(channels=4, stride=8), FeatureSpec(channels=8, stride=16))


def maps(num: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [5 + 3 * torch.randn(num, 4, 6, 4, generator=generator), torch.randn(num, 8, 3, 2, generator=generator)]


def started(head: nn.Module) -> nn.Module:
    """With weights and biases that show."""
    torch.manual_seed(1)
    for p in head.parameters():
        nn.init.normal_(p)
    return head


def test_the_probe_is_one_matrix_for_every_cell():
    head = started(LinearConfig(norm=False).build(SPECS, 3))
    last = maps()[-1]
    expected = torch.einsum("bchw,kc->bkhw", last, head.classify.weight[:, :, 0, 0]) + head.classify.bias.view(-1, 1, 1)
    torch.testing.assert_close(head(maps()), expected)


def test_the_probe_of_all_maps_puts_them_behind_each_other_at_the_finest():
    head = started(LinearConfig(norm=False, maps="all").build(SPECS, 3))
    first, last = maps()
    both = torch.cat([first, F.interpolate(last, (6, 4), mode="bilinear", align_corners=False)], dim=1)
    torch.testing.assert_close(head([first, last]), F.conv2d(both, head.classify.weight, head.classify.bias))
    assert head([first, last]).shape == (3, 3, 6, 4)


def test_the_probe_sees_no_scale_of_the_features():
    head = started(LinearConfig().build(SPECS, 3))
    first, last = maps()
    torch.testing.assert_close(head([first, last]), head([first, 100 * last + 7]), atol=1e-3, rtol=1e-3)


def test_a_cell_of_the_probe_does_not_look_around():
    head = started(LinearConfig(hidden=5).build(SPECS, 3)).eval()
    first, last = maps()
    changed = last.clone()
    changed[:, :, 0, 0] += 1
    moved = (head([first, last]) != head([first, changed])).any(dim=1)
    assert moved[:, 0, 0].all()
    assert int(moved.sum()) == 3


@pytest.mark.parametrize(("values", "count"), [({}, 8 * 3 + 3), ({"hidden": 5}, 8 * 5 + 5 + 5 * 3 + 3)])
def test_the_probe_has_no_other_weights(values, count):
    assert sum(p.numel() for p in LinearConfig(**values).build(SPECS, 3).parameters()) == count


def test_all_classes_are_equally_likely_at_the_start():
    for config in (LinearConfig(), PooledConfig()):
        probabilities = config.build(SPECS, 4)(maps()).softmax(dim=1)
        torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.25), atol=0.05, rtol=0)


def test_mean_pooling_is_a_matrix_of_the_mean():
    head = started(PooledConfig(norm="none").build(SPECS, 3))
    expected = F.linear(maps()[-1].mean(dim=(2, 3)), head.classify.weight, head.classify.bias)
    torch.testing.assert_close(head(maps()), expected)


def test_pooling_of_all_maps_puts_the_vectors_behind_each_other():
    head = started(PooledConfig(norm="none", maps="all").build(SPECS, 3))
    vector = torch.cat([m.mean(dim=(2, 3)) for m in maps()], dim=1)
    torch.testing.assert_close(head(maps()), F.linear(vector, head.classify.weight, head.classify.bias))


def test_batch_norm_of_the_vector_has_no_weights():
    head = PooledConfig(norm="batch").build(SPECS, 3)
    assert sum(p.numel() for p in head.parameters()) == 8 * 3 + 3
    seen: list[Tensor] = []
    head.norm.register_forward_hook(lambda module, args, out: seen.append(out))
    head(maps())
    torch.testing.assert_close(seen[0].mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].var(dim=0, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_attentive_pooling_is_the_formula():
    head = started(PooledConfig(pooling="attention", heads=2, norm="none").build(SPECS, 3))
    pool, x = head.pools[0], maps()[-1]
    cells = F.layer_norm(x.flatten(2).transpose(1, 2), (8,), pool.norm.weight, pool.norm.bias)
    weight, bias = pool.attention.in_proj_weight.chunk(3), pool.attention.in_proj_bias.chunk(3)
    q = F.linear(pool.query.expand(3, -1, -1), weight[0], bias[0])
    k, v = F.linear(cells, weight[1], bias[1]), F.linear(cells, weight[2], bias[2])
    read = []
    for h in (slice(0, 4), slice(4, 8)):
        share = (q[..., h] @ k[..., h].transpose(1, 2) / math.sqrt(4)).softmax(dim=-1)  # [B, 1, h * w]
        read.append(share @ v[..., h])
    vector = pool.attention.out_proj(torch.cat(read, dim=-1)).squeeze(1)
    torch.testing.assert_close(head(maps()), head.classify(vector), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_where_a_cell_is_does_not_matter(pooling):
    head = started(PooledConfig(pooling=pooling, heads=2).build(SPECS, 3))
    first, last = maps()
    torch.testing.assert_close(head([first, last]), head([first, last.flip(2, 3)]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("values", [{}, {"pooling": "attention"}, {"norm": "batch"}, {"maps": "all"}])
def test_every_parameter_moves(values):
    head = PooledConfig.model_validate({"heads": 2, **values}).build(SPECS, 3)
    head(maps()).square().sum().backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in without if "in_proj_bias" not in n] == []


def test_heads_that_do_not_divide_the_channels_are_refused_with_those_that_do():
    with pytest.raises(UserError, match="heads=3 does not divide 8 channels") as caught:
        PooledConfig(pooling="attention", heads=3).build(SPECS, 3)
    assert "1, 2, 4" in caught.value.fix
