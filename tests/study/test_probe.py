from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import nn

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.study.linear import Statistics, statistics
from vistruct.study.patches import cell_labels, cut, dense_crops, object_patches, places
from vistruct.study.probe import dense_features, dense_probe, label_efficiency, pooled_features, turned_probe

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and std that leave pixels in [0, 1]


class Pool(nn.Module):
    """Mean colour of each cell of `stride` pixels, by a chosen scale; keeps what it was shown."""

    def __init__(self, stride=8, scale=1.0):
        super().__init__()
        self.specs: tuple[FeatureSpec, ...] = (
            FeatureSpec(channels=1, stride=1),
            FeatureSpec(channels=3, stride=stride),
        )
        self.stride, self.scale = stride, scale
        self.drop = nn.Dropout(0.5)
        self.batches: list[int] = []
        self.seen: list[torch.Tensor] = []

    def forward(self, image):
        self.batches.append(len(image))
        self.seen.append(image)
        return [image[:, :1], self.drop(nn.functional.avg_pool2d(image, self.stride)) * self.scale]


def scene(height=96, width=192, strength=40, seed=0):
    """Brighter squares on noise, and their boxes."""
    source = torch.Generator().manual_seed(seed)
    image = torch.randint(60, 160, (3, height, width), generator=source)
    boxes = [[x, y, x + 20.0, y + 20.0] for x in range(6, width - 22, 36) for y in range(6, height - 22, 36)]
    for x0, y0, x1, y1 in boxes:
        image[:, int(y0) : int(y1), int(x0) : int(x1)] += strength
    return image.to(torch.uint8), torch.tensor(boxes)


def test_features_are_the_last_map_of_normalised_patches_whatever_the_batch_and_the_mode():
    image, _ = scene()
    patches = cut(image, torch.tensor([[0, 0], [50, 10], [9, 70]]), 24)
    backbone = Pool().train()
    features = dense_features(backbone, patches, (0.5, 0.4, 0.3), (0.2, 0.1, 0.5), batch=2)
    assert backbone.batches == [2, 1]
    assert backbone.training
    assert backbone.drop.training
    assert features.shape == (3, 3, 3, 3)
    cell = patches[1, 2, 8:16, 16:24].float().mean() / 255  # row 1, column 2, blue
    assert features[1, 1, 2, 2].item() == pytest.approx((cell.item() - 0.3) / 0.5, abs=1e-5)
    pooled = pooled_features(backbone, patches, (0.5, 0.4, 0.3), (0.2, 0.1, 0.5), batch=64)
    assert torch.allclose(pooled, features.mean((1, 2)), atol=1e-6)


def test_features_of_nothing_and_of_a_diverged_backbone_are_refused():
    image, _ = scene()
    with pytest.raises(UserError, match="no patches"):
        pooled_features(Pool(), image.new_zeros(0, 3, 8, 8))
    with pytest.raises(UserError, match="NaN or infinity"):
        pooled_features(Pool(scale=torch.nan), image[None, :, :16, :16])


def test_label_efficiency_learns_from_its_shots_and_tests_on_all_others():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 3, 9, 0.1, 1])
    y = torch.tensor([1] * 20 + [0] * 20)
    x[:20, 0] += 1.5
    ours = label_efficiency(x, y, shots=(19,), draws=5, seed=0)[19]
    assert set(ours) <= {0.0, 0.5, 1.0}  # two patches remain

    sure = torch.stack([torch.ones(40), y * 100.0], dim=1)
    assert label_efficiency(sure, y, shots=(1, 10), draws=3) == {1: [1.0] * 3, 10: [1.0] * 3}


def test_label_efficiency_agrees_with_scikit_learn_on_the_same_draws(monkeypatch):
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] + x[:, 1] > 0).long()
    draws = []
    permute = torch.randperm

    def noted(n, generator):
        draws.append(permute(n, generator=generator))
        return draws[-1]

    monkeypatch.setattr(torch, "randperm", noted)
    ours = label_efficiency(x, y, shots=(5,), draws=4, seed=3)[5]
    ground, objects = (y == 0).nonzero()[:, 0], (y == 1).nonzero()[:, 0]
    for draw, accuracy in enumerate(ours):
        train = torch.cat([ground[draws[2 * draw][:5]], objects[draws[2 * draw + 1][:5]]])
        is_test = torch.ones(60, dtype=torch.bool)
        is_test[train] = False
        mean, std = x[train].mean(0), x[train].std(0, correction=0)
        scaled = ((x - mean) / std).double().numpy()
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled[train], y[train].numpy())
        want = model.score(scaled[is_test.numpy()], y[is_test].numpy())
        assert accuracy == pytest.approx(want, abs=1e-9)


def test_draws_are_the_same_for_every_backbone_and_differ_between_draws_and_seeds():
    y = torch.tensor([0, 1] * 30)
    # The only feature is the patch's own number: what is learned depends on which patches were drawn.
    x = torch.rand(60, 1, generator=torch.Generator().manual_seed(0))
    a = label_efficiency(x, y, shots=(3, 7), draws=6, seed=5)
    wider = torch.cat([x, torch.zeros(60, 9)], dim=1)  # another width, the same information
    assert label_efficiency(wider, y, shots=(3, 7), draws=6, seed=5) == a
    assert label_efficiency(x, y, shots=(7, 3), draws=6, seed=5) == a
    assert {k: v[:2] for k, v in a.items()} == label_efficiency(x, y, shots=(3, 7), draws=2, seed=5)
    assert len(set(a[3])) > 1
    assert label_efficiency(x, y, shots=(3, 7), draws=6, seed=6) != a


def test_a_reference_replaces_the_statistics_of_the_few_labels():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    reference = Statistics(torch.tensor([1.0, 0, 0, 0]), torch.tensor([2.0, 0.1, 1, 30]))
    by_hand = (x - reference.mean) / reference.std
    identity = Statistics(torch.zeros(4), torch.ones(4))
    given = label_efficiency(x, y, shots=(5,), reference=reference)
    assert given == label_efficiency(by_hand, y, shots=(5,), reference=identity)
    assert given != label_efficiency(x, y, shots=(5,))


def test_more_shots_than_patches_allow_are_refused():
    x, y = torch.rand(12, 2), torch.tensor([1] * 5 + [0] * 7)
    with pytest.raises(UserError, match="use fewer than 5 shots"):
        label_efficiency(x, y, shots=(5,))
    with pytest.raises(UserError, match="more objects"):
        label_efficiency(x, torch.zeros(12), shots=(1,))
    with pytest.raises(UserError, match="at least 1"):
        label_efficiency(x, y, shots=())
    with pytest.raises(UserError, match="at least 1"):
        label_efficiency(x, y, shots=(2,), draws=0)


def test_dense_probe_agrees_with_scikit_learn_on_the_same_crops():
    image, boxes = scene(strength=15)
    backbone = Pool()
    ours = dense_probe(backbone, image, boxes, 32, (2, 4), draws=2, seed=1, mean=PLAIN[0], std=PLAIN[1], l2=0.5)
    crops = dense_crops((96, 192), boxes, 32, most=4, draws=2, seed=1, fewest=2)
    assert list(ours) == [2, 4]

    def read(corners):
        maps = dense_features(backbone, cut(image, corners, 32), *PLAIN)
        return maps.reshape(-1, 3).double().numpy(), cell_labels(boxes, corners, 32, 8).flatten().numpy()

    test_x, test_y = read(crops.tested)
    for n, precisions in ours.items():
        assert len(precisions) == 2
        for draw, precision in zip(crops.labelled, precisions, strict=True):
            x, y = read(draw[:n])
            mean, std = x.mean(0), x.std(0)
            model = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000).fit((x - mean) / std, y)
            want = average_precision_score(test_y, model.decision_function((test_x - mean) / std))
            assert precision == pytest.approx(want, abs=1e-4)
            assert test_y.mean() + 0.1 < precision < 1


def test_dense_probe_shows_every_backbone_the_same_pixels():
    image, boxes = scene()
    coarse, fine = Pool(16), Pool(4, scale=3.0)

    def probe(backbone):
        return dense_probe(backbone, image, boxes, 32, shots=(2, 3), draws=2, seed=4, batch=1000)

    a, b = probe(coarse), probe(fine)
    assert len(coarse.seen) == len(fine.seen) == 3  # the tested crops once, each draw once
    assert all(torch.equal(x, y) for x, y in zip(coarse.seen, fine.seen, strict=True))
    assert a != b
    scaled = probe(Pool(4, scale=0.5))
    assert all(scaled[n] == pytest.approx(b[n], abs=1e-4) for n in (2, 3))  # the scale of features is no matter


def test_the_control_standardises_cells_by_another_scene():
    image, boxes = scene(strength=10)
    other, _ = scene(strength=10, seed=9)
    reference = statistics(dense_features(Pool(), other[None]).flatten(0, 2))
    own = dense_probe(Pool(), image, boxes, 32, (1,), draws=3)
    control = dense_probe(Pool(), image, boxes, 32, (1,), draws=3, reference=reference)
    assert own != control
    assert min(control[1]) > 0.5


def test_dense_probe_refuses_what_the_stride_or_the_scene_does_not_allow():
    image, boxes = scene()
    with pytest.raises(UserError, match="use crop=32"):
        dense_probe(Pool(), image, boxes, 33)
    with pytest.raises(UserError, match="are ground only"):
        dense_probe(Pool(), image, boxes[boxes[:, 2] < 60], 32, (2,))
    with pytest.raises(UserError, match="at least 1"):
        dense_probe(Pool(), image, boxes, 32, (0, 2))
    lying = Pool()
    lying.specs = (FeatureSpec(channels=3, stride=4),)
    with pytest.raises(ValueError, match=r"\[4, 4\], its stride of 4 says \[8, 8\]"):
        dense_probe(lying, image, boxes, 32, (2,), draws=1)


def test_both_probes_run_on_the_real_backbone():
    torch.manual_seed(0)
    backbone = InternVitConfig(width=16, depth=1, heads=2, mlp_width=16, patch=8, image_size=32).build()
    image, boxes = scene(strength=80)
    patches, labels = object_patches(image, boxes, 16, seed=0, margin=2)
    accuracy = label_efficiency(pooled_features(backbone, patches), labels, shots=(2, 4), draws=2)
    precision = dense_probe(backbone, image, boxes, 32, shots=(2, 4), draws=2)
    assert sum(accuracy[4]) / 2 > 0.7  # objects are far brighter than ground
    assert all(0 < value <= 1 for values in precision.values() for value in values)


def test_places_lie_side_by_side_and_inside():
    corners = places((70, 100), 32)
    assert corners.tolist() == [[0, 0], [32, 0], [64, 0], [0, 32], [32, 32], [64, 32]]


def test_what_does_not_turn_gives_exactly_a_half_and_what_does_is_found():
    image = torch.randint(0, 256, (3, 64 * 6, 64 * 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    patches = cut(image, places((64 * 6, 64 * 8), 64), 64)
    colours = patches.float().mean((2, 3))
    for own in turned_probe(colours, patches.flip(2, 3).float().mean((2, 3)), (5, 20), draws=4).values():
        assert own == [0.5] * 4
    lit = patches.float() + torch.linspace(0, 40, 64)[:, None]  # brighter below
    below, above = ((one[:, :, 32:].mean((2, 3)) - one[:, :, :32].mean((2, 3))) for one in (lit, lit.flip(2, 3)))
    found = turned_probe(below, above, (5, 20), draws=4)
    assert min(found[20]) > 0.95
    assert found == turned_probe(below, above, (5, 20), draws=4)
    assert found[5] == turned_probe(below, above, (5, 20, 10), draws=4)[5]  # the same first places
    with pytest.raises(UserError, match="leave none of 48") as caught:
        turned_probe(below, above, (24,))
    assert "24 shots" in (caught.value.fix or "")
