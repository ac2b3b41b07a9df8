from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vistruct.contracts import Embedded
from vistruct.errors import UserError
from vistruct.metrics import retrieval
from vistruct.metrics.retrieval import Retrieval, RetrievalConfig


def made(counts: list[int], seed: int = 0, width: int = 6) -> list[Embedded]:
    """Images with so many captions each, of which most are nearer to their own than to others."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, count in enumerate(counts):
        image = torch.randn(width, generator=generator)
        texts = F.normalize(image + 1.5 * torch.randn(count, width, generator=generator), dim=1)
        captions = tuple(f"{number}, {i}" for i in range(count))
        unit = F.normalize(image, dim=0)
        found.append(Embedded(id=f"i{number}", image_id=f"i{number}", image=unit, texts=texts, captions=captions))
    return found


def by_hand(found: list[Embedded]) -> tuple[list[int], list[int]]:
    """Ranks by sorting, one question after the other."""
    captions = [(owner, text) for owner, one in enumerate(found) for text in one.texts]
    of_images = []
    for number, one in enumerate(found):
        order = sorted(range(len(captions)), key=lambda i: (-float(one.image @ captions[i][1]), i))
        ranks = [place for place, i in enumerate(order, 1) if captions[i][0] == number]
        of_images.append(min(ranks, default=0))
    of_texts = []
    for owner, text in captions:
        order = sorted(range(len(found)), key=lambda i: (-float(found[i].image @ text), i))
        of_texts.append(order.index(owner) + 1)
    return of_images, of_texts


@pytest.mark.parametrize("counts", [[1] * 12, [5, 4, 1, 5, 3, 2, 6, 1], [2, 0, 3, 1]])
def test_ranks_are_those_of_sorting(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "PORTION", 3)
    found = made(counts)
    metric = Retrieval((1, 3))
    metric.update(found[:2])
    metric.update(found[2:])
    numbers, (of_images, of_texts) = metric.compute(), by_hand(found)
    assert [one.tolist() for one in metric.ranks()] == [of_images, of_texts]
    known = [rank for rank in of_images if rank]
    for k in (1, 3):
        assert numbers[f"image_to_text_R@{k}"] == pytest.approx(sum(rank <= k for rank in known) / len(known))
        assert numbers[f"text_to_image_R@{k}"] == pytest.approx(sum(rank <= k for rank in of_texts) / len(of_texts))
    assert numbers["text_to_image_rank"] == pytest.approx(sum(of_texts) / len(of_texts))
    own = metric.details()["ranks"]
    assert [own[one.id]["image_to_text"] for one in found] == of_images
    for name, images in metric.details()["per_image"].items():
        totals = [sum(column) for column in zip(*images.values(), strict=True)]
        assert numbers[name] == pytest.approx(totals[0] / totals[1])
    assert [rank for one in found for rank in own[one.id]["text_to_image"]] == of_texts


def test_recall_of_one_caption_each_is_scikit_learns_top_k_accuracy() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = made([1] * 20, seed=3)
    metric = Retrieval()
    metric.update(found)
    numbers = metric.compute()
    near = torch.stack([one.image for one in found]) @ torch.cat([one.texts for one in found]).T
    for k in (1, 5, 10):
        for way, scores in (("image_to_text", near), ("text_to_image", near.T)):
            expected = metrics.top_k_accuracy_score(range(20), scores.numpy(), k=k, labels=range(20))
            assert numbers[f"{way}_R@{k}"] == pytest.approx(expected)


def test_a_model_to_which_all_is_alike_finds_only_what_comes_first() -> None:
    one = torch.tensor([1.0, 0.0])
    alike = [Embedded(id=f"{i}", image_id=f"{i}", image=one, texts=one[None], captions=("a",)) for i in range(4)]
    metric = Retrieval((1,))
    metric.update(alike)
    assert metric.compute()["text_to_image_R@1"] == 0.25
    assert metric.ranks()[0].tolist() == [1, 2, 3, 4]


def test_nothing_nan_and_twice() -> None:
    metric = Retrieval()
    assert math.isnan(metric.compute()["image_to_text_R@1"])
    (one,) = made([1])
    metric.update([one])
    with pytest.raises(ValueError, match="twice"):
        metric.update([one])
    with pytest.raises(UserError, match="NaN"):
        Retrieval().update([Embedded(id="x", image_id="x", image=one.image * math.nan, texts=one.texts)])


def test_which_numbers_are_better_when_higher() -> None:
    config = RetrievalConfig()
    names = ("text_to_image_R@1", "image_to_text_rank", "captions")
    assert [config.higher_is_better(name) for name in names] == [True, False, None]
    assert config.usual(None) == "text_to_image_R@1"
