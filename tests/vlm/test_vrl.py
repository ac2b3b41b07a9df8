"""VRL against a brute-force reference and its own promises; dropped patches against the full grid of tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close
from toy_vlm import assorted, build, sample
from whole_loss import task_loss

from vistruct.ops.seeds import derive
from vistruct.vlm.chat import IGNORE
from vistruct.vlm.projector import pixel_shuffle
from vistruct.vlm.vrl import OFF, PRESETS, Vrl, keep_cells, keep_tokens

ROWS = [[0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0], [1]]
IS_IMAGE = torch.tensor([flag for row in ROWS for flag in row]).bool()
LENGTHS = [len(row) for row in ROWS]
SEEDS = [3, 4, 5, 6]
PATCHES = Vrl(drop_ratio=0.5, drop_at="patches")


def brute_force(number: int, vrl: Vrl, seed: int) -> list[bool]:
    """Which of `number` image tokens stay."""
    generator = torch.Generator().manual_seed(derive(seed, "vrl"))
    if torch.rand((), generator=generator).item() >= vrl.drop_prob:
        return [True] * number
    gone = set(torch.randperm(number, generator=generator).tolist()[: int(number * vrl.drop_ratio)])
    return [at not in gone for at in range(number)]


@pytest.mark.parametrize("vrl", [PRESETS["paper"], PRESETS["published-code"], Vrl(drop_prob=0.5, drop_ratio=0.3)])
def test_choice_is_that_of_the_plain_loop(vrl):
    for shift in range(20):
        seeds = [seed + shift for seed in SEEDS]
        expected = []
        for row, seed in zip(ROWS, seeds, strict=True):
            image = iter(brute_force(sum(row), vrl, seed))
            expected += [next(image) if flag else True for flag in row]
        assert keep_tokens(IS_IMAGE, LENGTHS, vrl, seeds).tolist() == expected
        cells = [brute_force(9, vrl, seed) for seed in seeds]
        assert keep_cells(9, vrl, seeds).tolist() == cells


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9, 0.99])
def test_text_is_never_dropped_and_counts_are_exact(ratio):
    vrl = Vrl(drop_prob=1.0, drop_ratio=ratio)
    keep = keep_tokens(IS_IMAGE, LENGTHS, vrl, SEEDS)
    assert keep[~IS_IMAGE].all()
    for kept, row in zip((keep & IS_IMAGE).split(LENGTHS), ROWS, strict=True):
        assert int(kept.sum()) == sum(row) - int(sum(row) * ratio)
    assert keep_cells(7, vrl, SEEDS).sum(1).tolist() == [7 - int(7 * ratio)] * 4
    assert keep_cells(1, vrl, SEEDS).all()


def test_row_and_tile_choose_the_same_in_any_batch():
    vrl = PRESETS["paper"]
    together = keep_tokens(IS_IMAGE, LENGTHS, vrl, SEEDS).split(LENGTHS)
    cells = keep_cells(16, vrl, SEEDS)
    for row, is_image in enumerate(IS_IMAGE.split(LENGTHS)):
        assert torch.equal(keep_tokens(is_image, [len(is_image)], vrl, SEEDS[row : row + 1]), together[row])
        assert torch.equal(keep_cells(16, vrl, SEEDS[row : row + 1])[0], cells[row])
    assert len({tuple(row.tolist()) for row in cells}) == 4  # and each for itself


def test_chance_of_dropping_is_the_preset_s():
    keep = keep_tokens(torch.ones(3200).bool(), [8] * 400, PRESETS["published-code"], range(400))
    dropped = (~keep).view(400, 8).any(1).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.07)


def test_every_image_token_is_equally_likely_to_stay():
    keep = keep_tokens(torch.ones(16000).bool(), [8] * 2000, PRESETS["paper"], range(2000))
    assert_close(keep.view(2000, 8).float().mean(0), torch.full((8,), 0.25), atol=0.04, rtol=0)


@pytest.mark.parametrize("vrl", [OFF, Vrl(drop_prob=0.0), Vrl(drop_ratio=0.0)])
def test_off_keeps_everything(vrl):
    assert not vrl.is_on
    assert keep_tokens(IS_IMAGE, LENGTHS, vrl, SEEDS).all()
    assert keep_cells(16, vrl, SEEDS).all()


@pytest.mark.parametrize("vrl", [PRESETS["paper"], PATCHES, Vrl(drop_prob=0.5, drop_at="patches")])
def test_reading_is_the_batch_without_what_is_dropped(vrl):
    """Tokens, labels, positions and places agree, and every kept place holds the visual token that it held before."""
    task = build(vrl).train()
    batch = task.collator(assorted())
    reading = task.read(batch)
    at = torch.cat([torch.arange(length) for length in batch.lengths])
    first = torch.tensor([0, *batch.lengths]).cumsum(0)
    whole = 0
    for row, positions in enumerate(reading.positions.split(reading.lengths)):
        assert (positions.diff() > 0).all()  # in order, not renumbered
        place = first[row] + positions
        part = slice(whole, whole + reading.lengths[row])
        assert torch.equal(at[place], positions)
        assert torch.equal(reading.input_ids[part], batch.input_ids[place])
        assert torch.equal(reading.labels[part], batch.labels[place])
        whole += reading.lengths[row]
    assert (reading.labels != IGNORE).sum() == (batch.labels != IGNORE).sum()
    assert torch.equal(reading.places, (reading.input_ids == task.image_token).nonzero().squeeze(1))
    assert reading.whole == batch.lengths
    assert sum(reading.lengths) < sum(batch.lengths)
    full = torch.cat([mention * 4 + torch.arange(4) for mention in batch.mentions])  # visual tokens as mentioned
    is_image = batch.input_ids == task.image_token
    index = torch.full_like(batch.input_ids, -1).masked_scatter(is_image, full)
    place = torch.cat([first[row] + p for row, p in enumerate(reading.positions.split(reading.lengths))])
    expected = index[place[reading.places]]
    if reading.cells is not None:
        expected = (reading.cells.flatten().cumsum(0) - 1)[expected]
        assert int(expected.max()) < int(reading.cells.sum())
    assert torch.equal(reading.visual, expected)


def test_keeping_every_cell_is_the_full_pass():
    task = build(PATCHES).eval()
    tiles = task.collator(assorted()).tiles
    with torch.no_grad():
        full = task.visual_tokens(tiles)
        assert_close(task.visual_tokens(tiles, torch.ones(len(tiles), 4, dtype=torch.bool)), full, atol=1e-6, rtol=1e-5)


def test_a_cell_is_a_whole_neighbourhood_in_the_order_of_the_pixel_shuffle():
    """Without blocks no patch sees another: what is kept must be exactly what the full grid gives in its places."""
    task = build(PATCHES).eval()
    task.backbone.encoder = torch.nn.Identity()
    tiles = task.collator(assorted()).tiles
    for ratio, chance in ((0.5, 1.0), (0.75, 0.5), (0.99, 0.5)):
        cells = keep_cells(4, Vrl(drop_ratio=ratio, drop_prob=chance), range(len(tiles)))
        with torch.no_grad():
            patches = task.backbone.tokens((tiles / 255 - task.pixel_mean) / task.pixel_std).patches
            full = task.projector(pixel_shuffle(patches, (4, 4))).flatten(0, 1)  # [T * C, D]
            kept = task.visual_tokens(tiles, cells)
        assert 0 < len(kept) < len(full)
        assert_close(kept, full[cells.flatten()], atol=1e-5, rtol=1e-5)
        assert torch.cdist(full, full).fill_diagonal_(1).min() > 1e-2  # and no two could be taken for each other


@pytest.mark.parametrize(("chance", "calls"), [(1.0, 1), (0.5, 2)])
def test_backbone_reads_the_class_token_and_the_kept_patches_alone(chance, calls):
    vrl = Vrl(drop_prob=chance, drop_ratio=0.75, drop_at="patches")
    task = build(vrl).train()
    batch = task.collator(assorted())
    seen = []
    task.backbone.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    reading = task.read(batch)
    task.embed(batch, reading)
    cells = keep_cells(4, vrl, batch.tile_seeds)
    assert torch.equal(reading.cells, cells)
    assert len(seen) == calls
    assert sum(x.shape[0] for x in seen) == len(batch.tiles)
    assert {x.shape[1] for x in seen} <= {1 + 4, 1 + 16}
    embeddings = task.backbone.embeddings
    first = embeddings.class_embedding + embeddings.position_embedding[:, :1]
    for x in seen:
        assert_close(x[:, :1], first.expand(len(x), -1, -1))


def test_a_tile_drops_the_same_in_every_batch_and_in_every_row():
    task = build(PATCHES, independent=True).train()
    samples = assorted()
    batch = task.collator(samples)
    assert len(batch.lengths) > len(samples)  # a sample has several rows, which share its tiles
    together = task.read(batch).cells.split([len(task.collator([one]).tiles) for one in samples])
    for cells, one in zip(together, samples, strict=True):
        alone = task.read(task.collator([one])).cells
        assert (cells is not None and alone is None) or torch.equal(cells, alone)
    other = dataclasses.replace(samples[0], seed=99)
    assert not torch.equal(task.read(task.collator([other])).cells, together[0])


@pytest.mark.parametrize("vrl", [PRESETS["paper"], PATCHES])
def test_gradient_reaches_what_is_kept_and_nothing_else(vrl):
    task = build(vrl).train()
    batch = task.collator([sample("a", images=2)])
    tiles = batch.tiles.float().requires_grad_()
    task_loss(task, dataclasses.replace(batch, tiles=tiles)).loss.backward()
    blocks = tiles.grad.abs().sum(1).view(2, 2, 28, 2, 28).sum((2, 4)).flatten(1) > 0  # [T, C]
    expected = keep_cells(4, vrl, batch.tile_seeds) if vrl.drop_at == "patches" else torch.ones(2, 4).bool()
    assert torch.equal(blocks, expected)  # behind the projector the backbone has seen everything
