"""Self-distillation: against formulas in numpy, and whatever way a step is split."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import Lora
from vistruct.contracts import DataInfo, Sample
from vistruct.engine.lora import adapt
from vistruct.errors import UserError
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.tasks.queue import Queue
from vistruct.tasks.self_distill import SelfDistill, SelfDistillConfig, hide, told_apart, told_of_patches
from vistruct.tasks.self_distill_views import ViewsBatch, drawn_blocks
from vistruct.transforms.views import ViewsConfig

HEAD = PrototypesConfig(hidden=24, bottleneck=8, number=10)


def vit(stem: Literal["patch", "conv"] = "patch", channels: int = 3) -> InternVitConfig:
    return InternVitConfig(
        width=24, depth=2, heads=2, mlp_width=48, patch=8, image_size=32, stem=stem, layer_scale=1.0, channels=channels
    )


def task(channels: int = 3, **settings: Any) -> SelfDistill:
    torch.manual_seed(0)
    own: dict[str, Any] = {
        "backbone": vit(channels=channels),
        "global_views": (ViewsConfig(size=32, rot90=True),),
        "local_views": (ViewsConfig(number=3, size=16, area=(0.1, 0.3)),),
        "head": HEAD,
        "hidden_chance": 1.0,
        "mean": (0.5,),
        "std": (0.25,),
    }
    built = SelfDistillConfig(**own | settings).build(DataInfo(channels=channels), Path())
    built.before_step(0, 10)
    return built


def samples(count: int = 4, channels: int = 3, side: int = 48) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (channels, side, side), generator=draw, dtype=torch.uint8) for _ in range(count)]
    return [Sample(id=f"{i}", image_id=f"{i}", seed=i, images=[one]) for i, one in enumerate(images)]


def moved_on(model: SelfDistill) -> SelfDistill:
    """As after some steps: student, teacher and centres differ."""
    with torch.no_grad():
        for number, tensor in enumerate([*model.parameters(), model.centre_class, model.centre_patches]):
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
    return model


def softmax(values: Any) -> Any:
    grown = np.exp(values - values.max())
    return grown / grown.sum()


def logits_of(parts: Any, name: str, features: Tensor) -> Any:
    return parts[name](features).detach().double().numpy()


def test_the_loss_is_that_of_numpy() -> None:
    model = moved_on(task(shared_head=False)).eval()
    batch = model.collator(samples(3))
    with torch.no_grad():
        out = model(batch)
        whole = model.normalise(batch.whole)
        seen = [model.teacher["backbone"].tokens(whole[:, g]) for g in range(2)]
        own = [model.backbone.tokens(hide(whole[:, g], batch.is_hidden[:, g], model.hidden_pixels)) for g in range(2)]
        small = [model.backbone.tokens(model.normalise(batch.parts[:, n])) for n in range(3)]
    parts = {"class_head": model.class_head, "patch_head": model.patch_head}
    total, patches = 0.0, 0.0
    for b in range(3):
        pairs = []
        for q in range(2):
            told = logits_of(model.teacher, "class_head", seen[q].class_token[b]) - model.centre_class.double().numpy()
            for v, tokens in enumerate([*own, *small]):
                said = logits_of(parts, "class_head", tokens.class_token[b])
                pairs += [-(softmax(told / 0.04) * np.log(softmax(said / 0.1))).sum()] if q != v else []
            losses = []
            for place in batch.is_hidden[b, q].nonzero()[:, 0].tolist():
                told = logits_of(model.teacher, "patch_head", seen[q].patches[b, place])
                told = softmax((told - model.centre_patches.double().numpy()) / 0.04)
                said = softmax(logits_of(parts, "patch_head", own[q].patches[b, place]) / 0.1)
                losses.append(-(told * np.log(said)).sum())
            patches += float(np.mean(losses)) if losses else 0.0
        assert len(pairs) == 2 * 4
        total += float(np.mean(pairs))
    assert float(out.terms["class"]) == pytest.approx(total, rel=1e-4)
    assert float(out.terms["patches"]) == pytest.approx(patches, rel=1e-4)
    assert model.units(batch) == {"class": 3.0, "patches": 6.0}


def test_two_views_of_two_prototypes_by_hand() -> None:
    told = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    said = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]]]).log()
    pairs = [-math.log(0.5), -math.log(0.125), -0.5 * math.log(0.25 * 0.75), -0.5 * math.log(0.125 * 0.875)]
    assert float(told_apart(told, said)) == pytest.approx(sum(pairs) / 4)
    is_hidden = torch.tensor([[True, True, False], [False, False, False], [False, True, False]])
    found = told_of_patches(torch.eye(2)[[0, 1, 0]], said[0], is_hidden)
    assert float(found) == pytest.approx(-(math.log(0.25) + math.log(0.5)) / 2 - math.log(0.125))


def test_the_head_is_a_layer_of_normalised_weights() -> None:
    torch.manual_seed(0)
    head = HEAD.build(12)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(8, 10, bias=False))
    with torch.no_grad():
        last.parametrizations.weight.original0.fill_(1.0)  # ty: ignore[unresolved-attribute]
        last.parametrizations.weight.original1.copy_(head.prototypes)  # ty: ignore[unresolved-attribute]
    features = torch.randn(5, 12)
    low = head.layers(features)
    torch.testing.assert_close(head(features), last(low / low.norm(dim=1, keepdim=True)))


def part_of(batch: ViewsBatch, at: slice) -> ViewsBatch:
    return ViewsBatch(**{name: one[at] for name, one in vars(batch).items()})


@pytest.mark.parametrize("centring", ["mean", "sinkhorn"])
def test_halves_add_up_with_their_gradients_and_centres(centring: str) -> None:
    found = []
    for cut in ([slice(0, 4)], [slice(0, 1), slice(1, 4)]):
        model = moved_on(task(centring=centring, koleo=6, anchor=Path("start"), anchor_by="feature"))
        held: Any = model.traits.teachers["anchor"].begin()
        held.load_state_dict(model.teacher["backbone"].state_dict())
        batch = model.collator(samples())
        model(batch)  # a step before, for what comes from there
        model.after_step()
        outs = [model(part_of(batch, at)) for at in cut]
        terms = {name: sum(out.terms[name] for out in outs) for name in model.traits.terms}
        torch.stack([torch.as_tensor(one) for one in terms.values()]).sum().backward()
        model.after_step()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(abs(term.item()) > 0.01 for term in terms.values())
        found.append((*terms.values(), *dict(model.named_buffers()).values(), *gradients))
    assert len(found[0]) == len(found[1]) > 30
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_mean_centre_is_that_of_its_formula() -> None:
    model = task(shared_head=False)
    batch = model.collator(samples())
    with torch.no_grad():
        seen = model.teacher["backbone"].tokens(model.normalise(batch.whole.flatten(0, 1)))
        views = model.teacher["class_head"](seen.class_token)
        patches = model.teacher["patch_head"](seen.patches[batch.is_hidden.flatten(0, 1)])
        for _ in range(2):
            model(batch)
            model.after_step()
    torch.testing.assert_close(model.centre_class, (0.1 + 0.9 * 0.1) * views.mean(dim=0))
    torch.testing.assert_close(model.centre_patches, (0.1 + 0.9 * 0.1) * patches.mean(dim=0))
    model.eval()(batch)
    model.after_step()  # what is only measured moves nothing
    torch.testing.assert_close(model.centre_class, 0.19 * views.mean(dim=0))


def test_rounds_of_sinkhorn_over_steps_end_where_sinkhorn_does() -> None:
    model = task(centring="sinkhorn", centre_rate=0.5, hidden_chance=0.0)
    batch = model.collator(samples())
    with torch.no_grad():
        seen = model.teacher["backbone"].tokens(model.normalise(batch.whole.flatten(0, 1)))
        logits = model.teacher["class_head"](seen.class_token)
        for _ in range(150):
            model(batch)
            model.after_step()
        found = ((logits - model.centre_class) / model.temperature).softmax(dim=1).double().numpy()
    shares = np.exp(logits.double().numpy() / 0.04)
    for _ in range(3000):
        shares /= shares.sum(axis=0, keepdims=True) * shares.shape[1]
        shares /= shares.sum(axis=1, keepdims=True) * shares.shape[0]
    np.testing.assert_allclose(found, shares * len(shares), atol=2e-3)
    assert not model.centre_patches.any()  # nothing was hidden


def test_the_teacher_starts_as_the_student_follows_it_and_stands_still_at_the_end() -> None:
    model = task()
    for (name, own), (_, other) in zip(
        model.teacher["backbone"].named_parameters(), model.backbone.named_parameters(), strict=True
    ):
        assert torch.equal(own, other), name
    own, other = model.teacher["class_head"].prototypes, model.class_head.prototypes
    before = own.clone()
    with torch.no_grad():
        other.add_(1.0)
    model.before_step(3, 10)
    momentum = 1 - (1 - 0.992) * (math.cos(math.pi * 0.3) + 1) / 2
    torch.testing.assert_close(own, momentum * before + (1 - momentum) * other)  # once, though both heads are this one
    before = own.clone()
    model.before_step(10, 10)
    assert torch.equal(own, before)
    assert model.temperature.item() == pytest.approx(0.07)
    model.before_step(1, 10)
    assert model.temperature.item() == pytest.approx(0.05)  # a third of the way of the first 30 %


def test_the_teacher_has_no_gradient_and_heads_learn_alone_first() -> None:
    model = task(heads_first=2, shared_head=False)
    batch = model.collator(samples())
    for step in (0, 1, 2):
        model.before_step(step, 10)
        model.zero_grad()
        torch.stack(list(model(batch).terms.values())).sum().backward()
        reached = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        heads = {"class_head", "patch_head"}
        assert reached == (heads if step < 2 else heads | {"backbone", "hidden_pixels"})


def test_prototypes_of_the_student_may_stand_still_first() -> None:
    model = task(last_layer_first=2)
    batch = model.collator(samples())
    for step, stand in ((1, True), (2, False)):
        model.before_step(step, 10)
        model.zero_grad()
        torch.stack(list(model(batch).terms.values())).sum().backward()
        assert (model.class_head.prototypes.grad is None) == stand
        assert all(p.grad is not None for p in model.class_head.layers.parameters())


def test_koleo_is_that_of_its_formula() -> None:
    torch.manual_seed(2)
    queue = Queue(6, 4)
    tokens = nn.functional.normalize(torch.randn(3, 4), dim=1)
    assert float(queue.koleo(tokens, torch.tensor([1, 2, 3]))) == 0  # noise of the start is nobody's
    queue.owners[:4] = torch.tensor([1, 5, 6, 2])
    found = queue.koleo(tokens, torch.tensor([1, 2, 3]))
    expected = 0.0
    for token, owner in zip(tokens, (1, 2, 3), strict=True):
        others = [v for v, whose in zip(queue.vectors, (1, 5, 6, 2), strict=False) if whose != owner]
        expected -= math.log(min(np.linalg.norm(token.double() - other.double()) for other in others))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_koleo_asks_for_class_tokens_away_from_those_of_other_images_at_earlier_steps() -> None:
    model = task(koleo=8)
    batch = model.collator(samples(4))
    assert model(part_of(batch, slice(0, 2))).terms["koleo"] == 0  # there is no earlier step
    model.after_step()
    assert model.earlier is not None
    assert model.earlier.owners.tolist() == [w for w in batch.whose[:2].tolist() for _ in range(2)] + [-1] * 4
    with torch.no_grad():
        images = hide(model.normalise(batch.whole[0]), batch.is_hidden[0], model.hidden_pixels)
        own = nn.functional.normalize(model.backbone.tokens(images).class_token, dim=1)  # ty: ignore[invalid-argument-type]
    torch.testing.assert_close(model.earlier.vectors[:2], own)
    apart = [-math.log(min((token - other).norm() for other in model.earlier.vectors[2:4])) for token in own]
    found = model(part_of(batch, slice(0, 1)))
    assert found.terms["koleo"].item() == pytest.approx(sum(apart), rel=1e-3)
    assert model.units(batch)["koleo"] == 8.0


def test_a_student_with_adapters_is_followed_with_what_they_add() -> None:
    model = task()
    layer = model.backbone.encoder.layers[0].mlp.fc1  # ty: ignore[unresolved-attribute]
    adapt([layer], Lora(rank=2), "fc1")
    with torch.no_grad():
        layer.lora_B.normal_()
    model.before_step(0, 10)
    batch = model.collator(samples(1))
    images = model.normalise(batch.whole[:, 0])
    torch.testing.assert_close(
        model.teacher["backbone"].tokens(images).patches, model.backbone.tokens(images).patches, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_student_does_not_see_what_is_hidden(stem: Literal["patch", "conv"]) -> None:
    model = task(backbone=vit(stem))
    batch = model.collator(samples(2))
    is_hidden = batch.is_hidden[:, 0]
    assert is_hidden.any()
    images = model.normalise(batch.whole[:, 0]).requires_grad_()
    model.backbone.tokens(hide(images, is_hidden, model.hidden_pixels)).patches.square().sum().backward()
    assert images.grad is not None
    cells = is_hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(images)
    assert not images.grad[cells].any()
    assert images.grad[~cells].any()
    assert model.hidden_pixels.grad is not None


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (6, 9)])
def test_blocks_hide_at_most_the_share_and_nearly_that(grid: tuple[int, int]) -> None:
    cells = grid[0] * grid[1]
    shares = [float(drawn_blocks(grid, 0.4, seed).float().mean()) for seed in range(200)]
    assert max(shares) <= 0.4
    assert np.mean(shares) > 0.4 - 2 / cells - 0.02
    assert torch.equal(drawn_blocks(grid, 0.4, 7), drawn_blocks(grid, 0.4, 7))
    everywhere = torch.stack([drawn_blocks(grid, 0.4, seed) for seed in range(200)]).any(dim=0)
    assert everywhere.all()


def test_blocks_lie_together() -> None:
    def borders(cells: Tensor) -> float:
        grid = cells.view(14, 14)
        return float((grid[1:] != grid[:-1]).sum() + (grid[:, 1:] != grid[:, :-1]).sum())

    drawn = [drawn_blocks((14, 14), 0.3, seed) for seed in range(20)]
    alone = [one[torch.randperm(196, generator=torch.Generator().manual_seed(2))] for one in drawn]
    assert sum(map(borders, drawn)) < 0.5 * sum(map(borders, alone))
    assert not drawn_blocks((14, 14), 0.0, 3).any()


@pytest.mark.parametrize("by", ["gram", "feature"])
def test_the_anchor_is_that_of_numpy_and_nothing_at_the_start(by: str) -> None:
    model = task(anchor=Path("start.safetensors"), anchor_by=by).eval()
    start: Any = model.traits.teachers["anchor"].begin()
    start.load_state_dict(model.backbone.state_dict())
    assert not any(name.startswith("anchor") for name in model.state_dict())
    batch = model.collator(samples(2))
    assert model.train()(batch).terms["anchor"].item() == 0  # how much patches differ at the start is not yet known
    model.after_step()
    model.eval()
    bare = ViewsBatch(**vars(batch) | {"is_hidden": torch.zeros_like(batch.is_hidden)})
    assert model(bare).terms["anchor"].item() == pytest.approx(0, abs=1e-5)
    moved_on(model)
    assert model.units(batch)["anchor"] == 4.0
    expected, spreads = 0.0, []
    for b in range(2):
        for g in range(2):
            image, hidden = model.normalise(batch.whole[b : b + 1, g]), batch.is_hidden[b : b + 1, g]
            with torch.no_grad():
                own = model.backbone.tokens(hide(image, hidden, model.hidden_pixels)).patches[0][~hidden[0]]
                everywhere = start.tokens(image).patches[0]
                other = everywhere[~hidden[0]]
            unit = everywhere.double().numpy() / np.linalg.norm(everywhere.double(), axis=1, keepdims=True)
            spreads.append(np.var(unit @ unit.T) if by == "gram" else 1 - np.mean(unit @ unit.T))
            rows = [one.double().numpy() / np.linalg.norm(one.double(), axis=1, keepdims=True) for one in (own, other)]
            gram = np.square(rows[0] @ rows[0].T - rows[1] @ rows[1].T).mean()
            expected += float(gram if by == "gram" else (1 - (rows[0] * rows[1]).sum(axis=1)).mean())
    assert model(batch).terms["anchor"].item() == pytest.approx(expected / np.mean(spreads), rel=1e-4)


def test_any_bands_no_local_views_and_models_of_timm() -> None:
    small = TimmConfig(name="test_vit2", channels=13)
    for settings in ({}, {"backbone": small, "global_views": (ViewsConfig(size=64),), "local_views": ()}):
        model = task(channels=13, **settings)
        batch = model.collator(samples(2, channels=13))
        torch.stack(list(model(batch).terms.values())).sum().backward()
        asked = model.traits.predict_collator
        assert asked is not None
        with torch.no_grad():
            found = model.eval().predict(asked(samples(2, channels=13)))
        assert [one.id for one in found] == ["0", "1"]
        assert float(found[0].image.norm()) == pytest.approx(1.0)


def test_what_is_watched_is_the_teacher() -> None:
    model = task().eval()
    asked = model.traits.predict_collator
    assert asked is not None
    batch = asked(samples(2))
    before = model.predict(batch)[0].image
    with torch.no_grad():
        model.backbone.embeddings.class_embedding.add_(1.0)  # ty: ignore[unresolved-attribute]
    assert torch.equal(model.predict(batch)[0].image, before)
    model.before_step(0, 10)
    assert not torch.equal(model.predict(batch)[0].image, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"global_views": (ViewsConfig(size=30),)}, "no whole number of patches"),
        ({"local_views": (ViewsConfig(size=12),)}, "no whole number of patches"),
        ({"global_views": (ViewsConfig(number=1, size=32),)}, "less than two global views"),
        ({"global_views": (ViewsConfig(number=1, size=32), ViewsConfig(number=1, size=16))}, "several sizes"),
        ({"hidden": (0.5, 0.1)}, "no range"),
        ({"backbone": TimmConfig(name="resnet18")}, "no tokens"),
    ],
)
def test_what_does_not_fit_says_so(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        task(**settings)
