"""Images among all texts of the data: against open_clip, and whatever way a step is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vistruct.contracts import DataInfo, Sample
from vistruct.errors import UserError
from vistruct.recipes.clip.small import small_clip
from vistruct.tasks.match import Match, MatchConfig

SAID = [("a port",), ("two ships", "ships from above"), ("a field",), ("a port",)]


def match(folder: Path, loss: str = "softmax", said: list[tuple[str, ...]] = SAID, among: str = "bank") -> Match:
    torch.manual_seed(0)
    small = small_clip()
    clip = small.clip.model_copy(update={"has_bias": loss == "sigmoid"})
    config = MatchConfig.model_validate({"backbone": small.backbone, "clip": clip, "among": among, "loss": loss})
    texts = [text for own in said for text in own]
    return config.build(DataInfo(corpus=lambda: iter(texts)), folder)


def samples(said: list[tuple[str, ...]] = SAID) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    return [
        Sample(id=f"{n}", image_id=f"{n}", seed=n, captions=own,
               images=[torch.randint(0, 256, (3, 32, 32), generator=draw, dtype=torch.uint8)])
        for n, own in enumerate(said)
    ]  # fmt: skip


def vectors(model: Match, batch: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.of_images(batch.images), model.clip.of_tokens(batch.tokens)


def test_a_bank_of_the_batch_is_open_clips_loss(tmp_path: Path) -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    said = [("a port",), ("two ships",), ("a field",)]
    model = match(tmp_path / "a", "softmax", said).eval()
    batch = model.collator(samples(said))
    images, texts = vectors(model, batch)
    scale = model.clip.logit_scale.exp()
    mine = ClipLoss().get_logits(images, texts, scale)[0].log_softmax(1).diagonal().sum()
    torch.testing.assert_close(model(batch).terms["pairs"], -mine)
    model = match(tmp_path / "b", "sigmoid", said).eval()
    images, texts = vectors(model, batch)
    theirs = SigLipLoss()(images, texts, model.clip.logit_scale.exp(), model.clip.logit_bias)
    torch.testing.assert_close(model(batch).terms["pairs"], theirs * len(batch))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_batch_is_the_sum_of_its_halves_and_so_is_its_gradient(tmp_path: Path, loss: str) -> None:
    model = match(tmp_path, loss)
    every = samples()
    totals, gradients = [], []
    for parts in ([every], [every[:1], every[1:]]):
        model.zero_grad()
        total = torch.stack([model(model.collator(part)).terms["pairs"] for part in parts]).sum()
        total.backward()
        totals.append(total.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(totals[0], totals[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    assert "clip.logit_scale" in gradients[0]
    assert not any(name.startswith("clip.text") for name in gradients[0])


def test_each_text_stands_once_and_an_image_s_other_captions_are_not_wrong(tmp_path: Path) -> None:
    model = match(tmp_path).eval()
    assert len(model.bank().vectors) == 4
    assert match(tmp_path, said=[("a lake",), ("a field",)]).texts == (
        "a port",
        "two ships",
        "ships from above",
        "a field",
        "a lake",
    )
    assert model.traits.still == ("clip.text",)
    batch = model.collator(samples([SAID[1]]))
    found = model(batch).terms["pairs"].item()
    images, texts = vectors(model, batch)
    others = model.clip.of_texts(["a port", "a field"])
    logits = model.clip.logits(images, torch.cat([texts[batch.chosen], others]))
    assert found == pytest.approx(-logits.log_softmax(1)[0, 0].item(), rel=1e-4)


def test_what_cannot_be_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all pairs"):
        match(tmp_path, "sigmoid", among="batch")
    model = match(tmp_path)
    batch = model.collator(samples([("a lake",)]))
    with pytest.raises(UserError, match="none of those learned"):
        model(batch)
    with pytest.raises(UserError, match="no texts"):
        match(tmp_path / "empty", said=[])
