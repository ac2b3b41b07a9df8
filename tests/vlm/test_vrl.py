"""VRL against a brute-force reference and its own promises."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from vistruct.ops.seeds import derive
from vistruct.vlm.vrl import OFF, PRESETS, Vrl, keep_mask, shorten

IS_IMAGE = torch.tensor(
    [
        [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
).bool()
SEEDS = torch.tensor([3, 4, 5])


def brute_force(is_image: list[bool], vrl: Vrl, seed: int) -> list[bool]:
    generator = torch.Generator().manual_seed(derive(seed, "vrl"))
    if torch.rand((), generator=generator).item() >= vrl.drop_prob:
        return [True] * len(is_image)
    image = [i for i, flag in enumerate(is_image) if flag]
    shuffled = [image[j] for j in torch.randperm(len(image), generator=generator).tolist()]
    gone = set(shuffled[: int(len(image) * vrl.drop_ratio)])
    return [i not in gone for i in range(len(is_image))]


@pytest.mark.parametrize("vrl", [PRESETS["paper"], PRESETS["published-code"], Vrl(drop_prob=0.5, drop_ratio=0.3)])
def test_choice_is_that_of_the_plain_loop(vrl):
    for shift in range(20):
        seeds = SEEDS + shift
        expected = [brute_force(row, vrl, seed) for row, seed in zip(IS_IMAGE.tolist(), seeds.tolist(), strict=True)]
        assert keep_mask(IS_IMAGE, vrl, seeds).tolist() == expected


def test_text_is_never_dropped_and_counts_are_exact():
    for ratio in (0.25, 0.5, 0.75, 0.9):
        keep = keep_mask(IS_IMAGE, Vrl(drop_prob=1.0, drop_ratio=ratio), SEEDS)
        assert keep[~IS_IMAGE].all()
        n = IS_IMAGE.sum(1)
        assert torch.equal((keep & IS_IMAGE).sum(1), n - (n * ratio).long())


def test_row_chooses_the_same_in_any_batch():
    vrl = PRESETS["paper"]
    together = keep_mask(IS_IMAGE, vrl, SEEDS)
    for row in range(3):
        assert torch.equal(keep_mask(IS_IMAGE[row : row + 1], vrl, SEEDS[row : row + 1])[0], together[row])


def test_chance_of_dropping_is_the_preset_s():
    row = torch.ones(400, 8).bool()
    dropped = (~keep_mask(row, PRESETS["published-code"], torch.arange(400))).any(1).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.07)


def test_every_image_token_is_equally_likely_to_stay():
    keep = keep_mask(torch.ones(2000, 8).bool(), PRESETS["paper"], torch.arange(2000))
    assert_close(keep.float().mean(0), torch.full((8,), 0.25), atol=0.04, rtol=0)


def test_off_keeps_everything():
    assert keep_mask(IS_IMAGE, OFF, SEEDS).all()


def test_rows_get_shorter_keep_their_order_and_their_positions():
    keep = keep_mask(IS_IMAGE, PRESETS["paper"], SEEDS)
    positions = torch.arange(12).expand(3, -1)
    values = torch.randn(3, 12, 5)
    kept_positions, kept_values = shorten(keep, positions, values, fill=(-1, 0.0))
    assert kept_positions.shape[1] == keep.sum(1).max() == 12  # the row of text only keeps all
    short_positions, short_values = shorten(keep[[0, 2]], positions[[0, 2]], values[[0, 2]], fill=(-1, 0.0))
    assert short_positions.shape[1] == keep[[0, 2]].sum(1).max() < 12
    for row, full in enumerate((0, 2)):
        expected = keep[full].nonzero().squeeze(1)
        assert torch.equal(short_positions[row, : len(expected)], expected)
        assert torch.equal(short_values[row, : len(expected)], values[full, expected])
        assert (short_positions[row, len(expected) :] == -1).all()
        assert (short_values[row, len(expected) :] == 0).all()
    assert torch.equal(kept_values[1], values[1])


def test_gradient_reaches_kept_tokens_only():
    keep = keep_mask(IS_IMAGE, PRESETS["paper"], SEEDS)
    values = torch.randn(3, 12, 5, requires_grad=True)
    (out,) = shorten(keep, values, fill=(0.0,))
    out.square().sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad.abs().sum(-1) > 0, keep)
