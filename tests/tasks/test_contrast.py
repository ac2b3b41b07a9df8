"""Contrast: against formulas, and whatever way a step is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.contracts import DataInfo, Objects, Sample
from vistruct.errors import UserError
from vistruct.tasks.contrast import Contrast, ContrastConfig, pooled
from vistruct.tasks.queue import Queue
from vistruct.transforms.view_pairs import drawn_regions, in_view, partners, shown_objects
from vistruct.transforms.views import View, ViewsConfig, views

VIT = InternVitConfig(width=24, depth=2, heads=2, mlp_width=48, patch=8, image_size=32, layer_scale=1.0)
CUT = ViewsConfig(size=32, area=(0.3, 1.0), rot90=True)


def task(channels: int = 3, **settings: Any) -> Contrast:
    torch.manual_seed(0)
    own: dict[str, Any] = {"backbone": VIT, "views": CUT, "hidden": 32, "width": 16, "queue": 12, "mean": (0.5,)}
    config = ContrastConfig(**own | {"std": (0.25,)} | settings)
    built = config.build(DataInfo(num_records=400, channels=channels), Path())
    built.before_step(0, 4)
    return built


def samples(count: int = 4, channels: int = 3, side: int = 48) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (channels, side, side), generator=draw, dtype=torch.uint8) for _ in range(count)]
    return [Sample(id=f"{i}", image_id="0", seed=97 * i % 7 + 1, images=[one]) for i, one in enumerate(images)]


def test_the_loss_is_that_of_numpy() -> None:
    torch.manual_seed(3)
    queue = Queue(5, 4)
    queue.owners[2] = 7  # whose own earlier vector is no negative
    queries, keys = (F.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    found, right = queue.loss(queries, keys, torch.tensor([6, 7, 8]), 0.2)
    expected, nearest = 0.0, 0
    for n in range(3):
        own = np.exp(float(queries[n] @ keys[n]) / 0.2)
        others = [np.exp(float(queries[n] @ queue.vectors[m]) / 0.2) for m in range(5) if not (n == 1 and m == 2)]
        expected -= np.log(own / (own + sum(others)))
        nearest += own > max(others)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert int(right) == nearest


def test_what_a_queue_takes_in_does_not_depend_on_the_split() -> None:
    vectors, owners, seeds = F.normalize(torch.randn(5, 4), dim=1), torch.arange(5), torch.tensor([4, 1, 3, 0, 2])
    torch.manual_seed(0)
    one = Queue(7, 4)
    torch.manual_seed(0)
    other = Queue(7, 4)
    start = one.vectors.clone()
    one.keep(vectors, owners, seeds)
    for at in ([4], [1, 3], [2, 0]):
        other.keep(vectors[at], owners[at], seeds[at])
    for queue in (one, other):
        queue.after_step()
        queue.after_step()  # nothing new: nothing changes
    assert torch.equal(one.vectors, other.vectors)
    assert one.owners.tolist() == [3, 1, 4, 2, 0, -1, -1]
    assert torch.equal(one.vectors[5:], start[:2])


def test_a_batch_is_the_sum_of_its_halves_and_so_is_its_gradient() -> None:
    model = task(levels=("view", "place", "region"))
    every = samples()
    totals, gradients, queues = [], [], []
    for parts in ([every], [every[:1], every[1:]]):
        model.zero_grad()
        batches = [model.collator(part) for part in parts]
        outs = [model(batch) for batch in batches]
        total = sum(sum(out.terms.values()) for out in outs)
        assert isinstance(total, torch.Tensor)
        total.backward()
        totals.append(total.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        kept = {name: own.clone() for name, own in model.queues.state_dict().items()}
        model.after_step()
        queues.append({name: own.clone() for name, own in model.queues.state_dict().items()})
        model.queues.load_state_dict(kept)
        assert sum(float(model.units(batch)["place"]) for batch in batches) > 4
    torch.testing.assert_close(totals[0], totals[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(queues[0], queues[1], rtol=1e-4, atol=1e-6)
    assert not any(p.grad is not None for p in model.slow.parameters())


def test_each_cell_s_partner_lies_on_the_same_place() -> None:
    """The pixels of an image say where they are: those of a cell and of its partner are near to each other."""
    size, grid = 32, 4
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    place = torch.stack([x / 64, y / 64])
    sample = Sample(id="a", image_id="a", seed=5, images=[place])
    plain = ViewsConfig(size=size, area=(0.4, 0.8), rot90=True, jitter=0.0)
    paired = 0
    for seed in range(6):
        first, second = views(Sample(**vars(sample) | {"seed": seed}), plain)
        cells = [
            one.pixels.unflatten(2, (grid, -1)).unflatten(1, (grid, -1)).mean(dim=(2, 4)) for one in (first, second)
        ]
        means = [64 * one.flatten(1).T for one in cells]  # [L, 2], in pixels of the image
        half = max((second.xyxy[2] - second.xyxy[0]), (second.xyxy[3] - second.xyxy[1])) / grid / 2
        for cell, other in enumerate(partners(first, second, grid).tolist()):
            near = (means[0][cell] - means[1]).abs().amax(dim=1)
            if other >= 0:
                paired += 1
                assert near[other] <= half + 1.5
            else:
                assert near.min() >= half / 2 - 1.5
    assert paired > 30


def test_a_view_and_itself_pair_every_cell_with_itself() -> None:
    view = View(pixels=torch.zeros(3, 32, 32), xyxy=(3, 4, 40, 50), flip=True, quarters=3)
    assert partners(view, view, 4).tolist() == list(range(16))
    away = View(pixels=torch.zeros(3, 32, 32), xyxy=(40, 50, 60, 80), flip=False, quarters=0)
    assert (partners(view, away, 4) == -1).all()


def test_places_are_compared_with_their_partners() -> None:
    """By the formula of DenseCL, with the partners as they are."""
    model = task(levels=("place",)).eval()
    batch = model.collator(samples(2))
    images = model.normalise(batch.views)
    vectors = [model.heads["place"](model.backbone(images[:, view])[-1].permute(0, 2, 3, 1)) for view in (0, 1)]
    expected = 0.0
    for i, own in enumerate(batch.partners.tolist()):
        for cell, other in enumerate(own):
            if other < 0:
                continue
            query, key = (
                F.normalize(one[i].flatten(0, 1)[at], dim=0) for one, at in zip(vectors, (cell, other), strict=True)
            )
            logits = torch.cat([(query @ key)[None], model.queues["place"].vectors @ query]) / 0.2
            expected -= logits.log_softmax(0)[0].item()
    assert model(batch).terms["place"].item() == pytest.approx(expected, rel=1e-4)


def test_the_slow_encoder_is_the_fast_one_at_first_and_follows() -> None:
    model = task(momentum=0.9)
    fast = model.backbone.encoder.layers[0].mlp.fc1.weight
    slow = model.slow["backbone"].encoder.layers[0].mlp.fc1.weight  # ty: ignore[unresolved-attribute]
    assert torch.equal(fast, slow)
    before = slow.clone()
    with torch.no_grad():
        fast += 1
    model.before_step(1, 4)
    torch.testing.assert_close(slow, before + 0.1)


def test_nothing_to_pair_is_a_loss_of_nothing() -> None:
    model = task()
    batch = model.collator(samples(2))
    batch.partners = torch.full_like(batch.partners, -1)
    assert model(batch).terms["place"].item() == float(model.units(batch)["place"]) == 0


def test_any_bands_and_any_backbone() -> None:
    convolved = TimmConfig(name="test_resnet.r160_in1k", channels=5)
    model = task(5, backbone=convolved, views=ViewsConfig(size=64), queue=None)
    assert (model.config.queue, model.grid) == (100, 2)
    batch = model.collator(samples(2, channels=5))
    sum(model(batch).terms.values()).backward()
    assert model.traits.predict_collator is not None
    found = model.eval().predict(model.traits.predict_collator(samples(1, 5) + samples(1, 5, side=70)))
    assert found[0].image.shape == (model.backbone.specs[-1].channels,)
    torch.testing.assert_close(found[0].image.norm(), torch.tensor(1.0))


def test_what_does_not_fit_says_so() -> None:
    with pytest.raises(UserError, match="no whole number of cells"):
        task(views=ViewsConfig(size=36))
    with pytest.raises(UserError, match="two views"):
        task(views=ViewsConfig(size=32, number=3))
    with pytest.raises(UserError, match="5 channels"):
        task().collator(samples(1, channels=5))


def test_a_region_is_the_same_pixels_in_both_views() -> None:
    """The pixels of an image say where they are: their mean over a region is its centre."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    sample = Sample(id="a", image_id="a", seed=5, images=[torch.stack([x / 64, y / 64])])
    plain = ViewsConfig(size=64, area=(0.4, 0.8), rot90=True, jitter=0.0, blur=0.0)
    found = 0
    for seed in range(6):
        both = views(Sample(**vars(sample) | {"seed": seed}), plain)
        drawn = drawn_regions(*both, 3, seed)
        found += len(drawn)
        for view in both:
            at = torch.zeros(len(drawn), dtype=torch.int64)
            means = 64 * pooled(view.pixels[None], in_view(view, drawn).float(), at, 64)
            torch.testing.assert_close(means.double() + 0.5, (drawn[:, :2] + drawn[:, 2:]) / 2, rtol=0, atol=1.0)
    assert found >= 12


def test_objects_are_kept_as_far_as_both_views_show_them() -> None:
    first = View(pixels=torch.zeros(3, 32, 32), xyxy=(0, 0, 40, 40), flip=False, quarters=0)
    second = View(pixels=torch.zeros(3, 32, 32), xyxy=(20, 0, 60, 40), flip=True, quarters=1)
    boxes = torch.tensor([[22.0, 2, 30, 10], [14, 2, 30, 10], [8, 2, 30, 10], [50, 0, 60, 10]])
    assert shown_objects(first, second, boxes).tolist() == [[22, 2, 30, 10], [20, 2, 30, 10]]
    away = View(pixels=torch.zeros(3, 32, 32), xyxy=(45, 0, 60, 40), flip=True, quarters=1)
    assert len(shown_objects(first, away, boxes)) == len(drawn_regions(first, away, 3, 0)) == 0


def test_regions_may_be_the_objects_of_the_data() -> None:
    torch.manual_seed(0)
    config = ContrastConfig(
        backbone=VIT, views=CUT, levels=("region",), regions="objects", num_regions=2, hidden=32, width=16, queue=12
    )
    model = config.build(DataInfo(class_names=("ship",)), Path())
    boxes = Objects(boxes_xyxy=torch.tensor([[14.0, 14, 34, 34]] * 3), labels=torch.zeros(3, dtype=torch.int64))
    every = [Sample(**vars(one) | {"objects": boxes}) for one in samples()]
    batch = model.collator([*every, *samples(1)])
    assert 0 < len(batch.regions) == float(model.units(batch)["region"]) <= 8
    assert batch.of_image.max() < 4
    model(batch).terms["region"].backward()
    model.after_step()
    assert (model.queues["region"].owners >= 0).sum() == min(12, len(batch.regions))  # ty: ignore[unresolved-attribute]
    with pytest.raises(UserError, match="these data have none"):
        config.build(DataInfo(), Path())
