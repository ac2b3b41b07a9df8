"""The truth of an evaluation as the rules have it: what training mends, a devkit counts. No figure about nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.contracts import BoxPrediction, Objects
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.metrics.overlaps import quad_area, shared_area

SHIP = "10 10 30 10 30 20 10 20 ship 0"


def dota(root: Path, *lines: str) -> BoxDataConfig:
    for folder in ("images", "labelTxt"):
        (root / folder).mkdir()
    Image.new("RGB", (64, 64)).save(root / "images/a.png")
    (root / "labelTxt/a.txt").write_text("\n".join(lines))
    return BoxDataConfig(annotation=root, oriented=True)


def found(boxes: list[list[float]], scores: list[float]) -> BoxPrediction:
    corners = torch.tensor(boxes)
    low, high = corners[:, :2] - corners[:, 2:4] / 2, corners[:, :2] + corners[:, 2:4] / 2
    objects = Objects(
        boxes_xyxy=torch.cat([low, high], 1),
        labels=torch.zeros(len(boxes), dtype=torch.long),
        scores=torch.tensor(scores),
        boxes_cxcywha=corners,
    )
    return BoxPrediction(id="a.png", image_id="a.png", objects=objects, class_names=("ship",))


def test_objects_that_training_would_leave_out_are_counted(tmp_path: Path) -> None:
    config = dota(tmp_path, SHIP, SHIP, "90 90 99 90 99 99 90 99 ship 0")  # drawn twice; outside of its image
    mended = config.build()
    assert dict(mended.info.counts) == {"ship": 1}
    with pytest.raises(UserError, match="not the devkit's number: the truth was mended") as caught:
        OrientedBoxesConfig().build(mended)
    assert caught.value.fix == "--set evals.val.data.as_written=true"
    written = config.model_copy(update={"as_written": True}).build()
    assert dict(written.info.counts) == {"ship": 3}
    metric = OrientedBoxesConfig(rule="11-point").build(written)
    metric.update([found([[20, 15, 20, 10, 0]], [0.9])])
    # One hit among three objects: recall 1/3, reached by the thresholds 0, .1, .2, .3 of eleven.
    assert metric.compute()["AP50"] == pytest.approx(4 / 11)


def winding(points: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """How often a quad goes around each point, by the sum of angles."""
    to = quad[None] - points[:, None]
    angle = np.arctan2(to[..., 1], to[..., 0])
    step = np.roll(angle, -1, axis=1) - angle
    return np.rint(((step + np.pi) % (2 * np.pi) - np.pi).sum(axis=1) / (2 * np.pi))


def test_what_a_quad_that_crosses_itself_shares_is_signed_as_the_devkit_has_it() -> None:
    rng = np.random.default_rng(0)
    quads = rng.uniform(0, 10, (40, 4, 2))
    box = np.array([4.0, 5.0, 6.0, 5.0, 0.3])
    side = (np.arange(600) + 0.5) / 600
    local = np.stack(np.meshgrid(side - 0.5, side - 0.5), axis=-1).reshape(-1, 2) * box[2:4]
    cos, sin = np.cos(box[4]), np.sin(box[4])
    points = box[:2] + np.stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos], axis=1)
    got = shared_area(np.tile(box, (40, 1)), quads)
    for quad, shared in zip(quads, got, strict=True):
        turns = winding(points, quad)
        x, y = quad.T
        sense = -1 if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0 else 1
        assert shared == pytest.approx(sense * turns.mean() * box[2] * box[3], abs=0.05)
    assert (got < -0.1).any()  # most of it in the part that winds the other way
    bow = np.array([[[0, 0], [4, 4], [4, 0], [0, 4]]], float)
    assert quad_area(bow) == pytest.approx(0)


def test_a_crossed_quad_is_scored_as_it_is_written(tmp_path: Path) -> None:
    config = dota(tmp_path, "10 10 30 20 30 10 10 20 ship 0", SHIP.replace("10 10", "10 40", 1))
    crossed = config.model_copy(update={"as_written": True}).build()
    quads = crossed.whole_records[0].objects.quads
    assert quads is not None
    assert quads[0].tolist() == [[10, 10], [30, 20], [30, 10], [10, 20]]
    metric = OrientedBoxesConfig().build(crossed)
    metric.update([found([[20, 15, 20, 10, 0]], [0.9])])
    assert metric.compute()["AP50"] == 0.0  # its two halves cancel: it shares nothing with the box around it


@pytest.mark.parametrize("metric", [OrientedBoxesConfig(), CocoBoxesConfig()])
def test_no_object_to_be_found_is_an_error_and_no_nan(tmp_path: Path, metric: OrientedBoxesConfig) -> None:
    dataset = dota(tmp_path, SHIP).build()
    truths = [record.with_columns(is_crowd=np.ones(1, bool)) for record in dataset.whole_records]
    dataset = replace(dataset, whole_records=truths)
    with pytest.raises(UserError, match="nothing to measure: of 1 objects in 1 images none is to be found"):
        metric.build(dataset)
