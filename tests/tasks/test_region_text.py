"""Regions and texts: against a plain loop, and whatever way a step is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vistruct.contracts import DataInfo, Objects, Sample
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.ops.contrast import sigmoid_loss, softmax_loss
from vistruct.recipes.clip import regions
from vistruct.recipes.clip.small import small_clip
from vistruct.tasks.region_text import RegionText, RegionTextConfig

NAMES = ("ship", "storage_tank", "plane")


def region_text(loss: str = "softmax", **settings: Any) -> RegionText:
    torch.manual_seed(0)
    small = small_clip()
    clip = small.clip.model_copy(update={"has_bias": loss == "sigmoid"})
    own = {"backbone": small.backbone, "clip": clip, "loss": loss, "templates": ("a {}", "{} from above")}
    return RegionTextConfig.model_validate(own | settings).build(DataInfo(class_names=NAMES), Path())


def samples(count: int = 3) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[8.0, 8, 24, 24], [0, 0, 16, 8], [5, 3, 30, 31]])
    every = []
    for n in range(count):
        objects = Objects(boxes_xyxy=boxes[:n], labels=torch.arange(n))
        image = torch.randint(0, 256, (3, 32, 32), generator=draw, dtype=torch.uint8)
        every.append(Sample(id=f"{n}", image_id=f"{n}", seed=n, images=[image], objects=objects))
    return every


def test_a_box_of_whole_cells_is_their_mean_beside_the_texts() -> None:
    model = region_text(cells=2).eval()
    batch = model.collator(samples(2))
    cells = model.backbone.tokens(model.normalise(batch.images)).map[1, :, 1:3, 1:3]  # of 8 pixels each
    region = F.normalize(model.clip.project(cells.mean(dim=(1, 2))), dim=0)
    said = [
        ("a ship", "ship from above"),
        ("a storage tank", "storage tank from above"),
        ("a plane", "plane from above"),
    ]
    logits = (
        torch.stack([region @ F.normalize(model.clip.of_texts(own).mean(dim=0), dim=0) for own in said])
        * model.clip.logit_scale.exp()
    )
    found = model.predict(batch)[1].objects
    # Points are read between the centres of cells: not their mean to the last digit.
    torch.testing.assert_close(found.extra["class_scores"][0], logits.softmax(dim=0), rtol=0.05, atol=0.02)
    assert found.extra["truth"].tolist() == [0]
    assert len(model.predict(batch)[0].objects) == 0


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_batch_is_the_sum_of_its_halves_and_so_is_its_gradient(loss: str) -> None:
    model = region_text(loss)
    every = samples(4)
    totals, gradients = [], []
    for parts in ([every], [every[:2], every[2:]]):
        model.zero_grad()
        batches = [model.collator(part) for part in parts]
        total = torch.stack([model(batch).terms["regions"] for batch in batches]).sum()
        total.backward()
        totals.append(total.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert sum(float(model.units(batch)["regions"]) for batch in batches) == 6
    torch.testing.assert_close(totals[0], totals[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    assert not any(name.startswith("clip.text") for name in gradients[0])


def test_losses_are_those_of_plain_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    right, wrong = torch.randn(3, generator=draw), torch.randn(3, 4, generator=draw)
    is_none = torch.zeros(3, 4, dtype=torch.bool)
    is_none[1] = True
    is_none[2, 0] = True
    softmax = sigmoid = 0.0
    for n in range(3):
        others = wrong[n][~is_none[n]]
        softmax -= float(torch.log(right[n].exp() / (right[n].exp() + others.exp().sum())))
        sigmoid -= float(torch.log(1 / (1 + (-right[n]).exp())) + torch.log(1 / (1 + others.exp())).sum())
    assert softmax_loss(right, wrong, is_none).item() == pytest.approx(softmax, rel=1e-5)
    assert sigmoid_loss(right, wrong, is_none).item() == pytest.approx(sigmoid, rel=1e-5)


def test_a_run_of_it_is_measured_by_its_boxes(tmp_path: Path) -> None:
    found = train(regions.tiny(), tmp_path / "run")
    assert '"val/OA"' in (found / "metrics.jsonl").read_text()


def test_what_cannot_be_says_so() -> None:
    with pytest.raises(UserError, match="2 classes"):
        region_text().take_classes(("ship",))
    with pytest.raises(UserError, match="once"):
        region_text(templates=("a photo",))
