"""What the language model reads of a region: ours follows it, the published one is that of the original."""

from __future__ import annotations

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file
from torch import Tensor, nn

from vistruct.errors import UserError
from vistruct.vlm.projector import Projector
from vistruct.vlm.region_tokens import KINDS, RegionTokensConfig, octaves

FOLDER = GOLDEN / "vtplug_prompts"
GRID = (6, 6)
STRATEGIES = ("pooling", "pooling_mask_token", "embedding", "embedding_mask_token")
NO_KINDS, NO_BOXES = torch.zeros(9, dtype=torch.int64), torch.zeros(9, 4)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return load_file(FOLDER / "weights.safetensors")


def loaded(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> nn.Module:
    """With those of the original, under whose names ours are."""
    theirs = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    own = module.state_dict().keys()
    assert own <= theirs.keys()
    module.load_state_dict({name: theirs[name] for name in own})
    return module


def of_rows(padded: Tensor) -> Tensor:
    """Of the prompts that are there: six of the first image, none of the second, three of the third."""
    return torch.cat([padded[0], padded[2, :3]])


@torch.no_grad()
@pytest.mark.parametrize("name", STRATEGIES)
def test_published_tokens_are_those_of_the_original(
    name: str, tensors: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    strategy = "pooling" if name.startswith("pooling") else "embedding"
    config = RegionTokensConfig(style="published", strategy=strategy, mask_token=name.endswith("mask_token"))
    module = loaded(config.build(20, 28, GRID), weights, f"{name}.model.")
    regions = torch.cat([tensors["regions.0"], tensors["regions.2"]]).float()
    pictures = torch.tensor([0] * 6 + [2] * 3)
    found = module(tensors["features"], GRID, regions, pictures, NO_KINDS, NO_BOXES, nn.Identity())
    assert found.shape == (9, config.tokens_per_region, 20)
    torch.testing.assert_close(found, of_rows(tensors[f"{name}.vpt_feats"]), atol=1e-5, rtol=0)
    if name == "pooling_mask_token":
        projector = loaded(Projector(20, 28, norm=False), weights, "projector.model.")
        found = module(tensors["features"], GRID, regions, pictures, NO_KINDS, NO_BOXES, projector)
        torch.testing.assert_close(found, of_rows(tensors["projected.vpt_feats"]), atol=1e-5, rtol=0)
        visual = projector(tensors["features"])
        torch.testing.assert_close(visual, tensors["projected.visual_feats"], atol=1e-5, rtol=0)
        grid = tensors["grid_regions"].float()
        on_grid = module(
            tensors["features"], GRID, grid, torch.tensor([0, 1]), NO_KINDS[:2], NO_BOXES[:2], nn.Identity()
        )
        expected = tensors["pooling_mask_token.grid_regions.vpt_feats"][:2, 0]
        torch.testing.assert_close(on_grid, expected, atol=1e-5, rtol=0)
        three = loaded(Projector(20, 28, norm=False, depth=3), weights, "projector_depth3.model.")
        torch.testing.assert_close(three(tensors["features"]), tensors["projector_depth3.out"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_older_encoder_is_that_of_the_original(tensors: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    config = RegionTokensConfig(style="published", strategy="legacy")
    module = loaded(config.build(6, 10, (24, 24)), weights, "legacy.model.")
    regions = tensors["regions.0"][[0, 4]].float()
    found = module(
        tensors["legacy.features"], (24, 24), regions, torch.zeros(2, dtype=torch.int64), NO_KINDS[:2], NO_BOXES[:2],
        nn.Identity(),
    )  # fmt: skip
    torch.testing.assert_close(found, tensors["legacy.vpt_feats"][0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_published_tokens_have_the_faults_that_they_are_known_for() -> None:
    module = RegionTokensConfig(style="published").build(20, 28, GRID)
    patches = torch.rand(1, 36, 20)
    rasters = torch.zeros(3, 84, 84)
    rasters[0, :, :42] = 1
    rasters[1, 10:60, 30:70] = 1
    rasters[2, 13:15, 13:15] = 1  # where four cells meet: between their samples
    pictures = torch.zeros(3, dtype=torch.int64)
    found = module(patches, GRID, rasters, pictures, NO_KINDS[:3], NO_BOXES[:3], nn.Identity())
    torch.testing.assert_close(found[0, 9], found[1, 9])  # whatever the mask
    assert torch.equal(found[2, :9], module.position_embedding.weight[:9])  # nothing is left of it


def pooled(shuffle: int = 2) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return RegionTokensConfig().build(12, 16, GRID, shuffle), Projector(12 * shuffle**2, 16)


def asked(patches: Tensor, coverage: Tensor, kinds: list[int], boxes: Tensor, pictures: list[int]) -> Tensor:
    module, projector = pooled()
    with torch.no_grad():
        return module(patches, GRID, coverage, torch.tensor(pictures), torch.tensor(kinds), boxes, projector)


def test_each_token_changes_with_what_it_is_of_and_with_nothing_else() -> None:
    patches = torch.rand(2, 36, 12)
    coverage = torch.zeros(1, 6, 6)
    coverage[0, 1:3, 2:5] = 1
    box = torch.tensor([[0.3, 0.2, 0.8, 0.5]])
    start = asked(patches, coverage, [0], box, [0])
    assert start.shape == (1, RegionTokensConfig().tokens_per_region, 16)
    other = coverage.clone()
    other[0, 2, 4] = 0.9  # a tenth of a patch less
    content, place = (asked(patches, other, [0], box, [0]) - start).abs().amax(-1)[0]
    assert content > 1e-3
    assert place == 0
    content, place = (asked(patches, coverage, [0], box + 0.01, [0]) - start).abs().amax(-1)[0]
    assert content == 0
    assert place > 1e-2
    for kind in range(1, len(KINDS)):
        content, place = (asked(patches, coverage, [kind], box, [0]) - start).abs().amax(-1)[0]
        assert content == 0
        assert place > 1e-2
    content, place = (asked(patches, coverage, [0], box, [1]) - start).abs().amax(-1)[0]
    assert content > 1e-3  # another picture
    assert place == 0
    brighter = patches.clone()
    brighter[0, 30:] += 1  # beyond the region
    assert torch.equal(asked(brighter, coverage, [0], box, [0]), start)


def test_the_content_of_a_mirrored_image_is_the_same() -> None:
    patches, coverage = torch.rand(1, 6, 6, 12), torch.rand(3, 6, 6)
    boxes = torch.rand(3, 4)
    one = asked(patches.flatten(1, 2), coverage, [0, 1, 2], boxes, [0, 0, 0])
    for axes in ((1,), (2,), (1, 2)):
        two = asked(patches.flip(axes).flatten(1, 2), coverage.flip(axes), [0, 1, 2], boxes, [0, 0, 0])
        torch.testing.assert_close(one, two)


def test_the_content_is_the_projected_mean_of_what_is_covered() -> None:
    patches = torch.rand(2, 36, 12)
    coverage = torch.rand(4, 6, 6)
    pictures = [1, 0, 0, 1]
    found = asked(patches, coverage, [0, 1, 2, 3], torch.rand(4, 4), pictures)
    _, projector = pooled()
    for row, picture in enumerate(pictures):
        weights = coverage[row].flatten()
        mean = (weights[:, None] * patches[picture]).sum(0) / weights.sum()
        with torch.no_grad():
            torch.testing.assert_close(found[row, 0], projector(mean.repeat(4)))
    # Whatever is in a uniform image, a region of it reads as any of its visual tokens.
    uniform = torch.rand(12).expand(1, 36, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            asked(uniform, coverage[:1], [0], torch.rand(1, 4), [0])[0, 0], projector(uniform[0, 0].repeat(4))
        )


def test_nothing_shown_is_no_token() -> None:
    for config in (
        RegionTokensConfig(),
        *(RegionTokensConfig(style="published", strategy=s) for s in ("pooling", "embedding")),
    ):
        module = config.build(12, 16, GRID, 1)
        none = torch.zeros(0, dtype=torch.int64)
        found = module(
            torch.rand(1, 36, 12), GRID, torch.zeros(0, 6, 6), none, none, torch.zeros(0, 4), nn.Linear(12, 16)
        )
        assert found.shape == (0, config.tokens_per_region, 16)


def test_waves_tell_places_apart() -> None:
    """A pixel of a thousand apart: the finest wave sees it, and no two places are alike."""
    line = torch.linspace(0, 1, 1001)
    waves = octaves(torch.stack([line] * 4, dim=1), 8)
    near = (waves[1:] - waves[:-1]).norm(dim=1)
    assert near.min() > 0.1
    assert torch.cdist(waves, waves).fill_diagonal_(9).min() > 0.1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="style=published"):
        RegionTokensConfig(mask_token=False)
    with pytest.raises(UserError, match="patch by patch"):
        RegionTokensConfig(style="published").build(12, 16, GRID, 2)
    with pytest.raises(UserError, match="not cut in nine"):
        RegionTokensConfig(style="published").build(12, 16, (4, 4))
