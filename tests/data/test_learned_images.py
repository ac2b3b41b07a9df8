"""What was learned is no test, settings make the parts they need, and no mean hides a class."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.config import MAIN, Eval, Run, Stream
from vistruct.contracts import DataInfo
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.checks.groups import LEARNED, check_groups
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.metrics.means import partial_means
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.small import small_vit
from vistruct.settings import with_settings
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, with_statistics
from vistruct.tasks.segment import SegmentConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images; lists `all` and `one`, and folders that hold the same."""
    for number in range(3):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.full((6, 8) if folder == "masks" else (6, 8, 3), number, np.uint8)
            pixels[:2] = 1 - pixels[:2] % 2
            Image.fromarray(pixels % 2 if folder == "masks" else pixels).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "list").mkdir()
    for name, own in {"all": "0\n1\n2\n", "one": "1\n", "some": "0\n1\n"}.items():
        (tmp_path / "list" / f"{name}.txt").write_text(own)
    return tmp_path


def opened(root: Path, split: str) -> Any:
    return MapDataConfig(root=root, split=split).build()


def test_an_evaluation_of_nothing_but_learned_images_is_refused_unless_it_is_called_train(root: Path) -> None:
    train = opened(root, "all")
    with pytest.raises(UserError, match="all 1 images of the evaluation 'val' are training data") as caught:
        check_groups({"main": train}, {"val": ("main", opened(root, "one"))})
    assert "--val-split" in caught.value.fix
    check_groups({"main": train}, {"train": ("main", opened(root, "all"))})


def test_boxes_on_images_that_were_learned_are_no_test_either(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 6} for number in (1, 2)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0} for n in (1, 2)]
    for name, some in {"train": 2, "val": 1}.items():
        own = {"images": images[:some], "annotations": boxes[:some], "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    for number in (1, 2):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
    train, val = (BoxDataConfig(annotation=tmp_path / f"{name}.json").build() for name in ("train", "val"))
    with pytest.raises(UserError, match="all 1 images of the evaluation 'val' are training data"):
        check_groups({"main": train}, {"val": ("main", val)})
    check_groups({"main": val}, {"val": ("main", train)})
    assert train.info.dropped[LEARNED] == 1


def test_some_learned_images_in_an_evaluation_are_said(root: Path) -> None:
    val = opened(root, "all")
    check_groups({"main": opened(root, "some")}, {"val": ("main", val)})
    assert val.info.dropped[LEARNED] == 2


def a_run(root: Path) -> Run:
    task = SegmentConfig(backbone=small_vit(), head=LinearConfig())
    data = MapDataConfig(root=root, split="some")
    measured = Eval(data=data.model_copy(update={"split": "all"}), metric=PixelsConfig())
    return Run(streams={MAIN: Stream(task=task, data=data, batch=1)}, evals={"val": measured}, steps=1)


def test_settings_make_a_part_that_is_not_there_yet(root: Path) -> None:
    run = with_settings(a_run(root), ["data.intake.low=[0]", "data.intake.high=[300]", "data.coding.classes=[a, b]"])
    data: Any = run.only.data
    assert (data.intake.low, data.intake.high, data.coding.classes) == ((0.0,), (300.0,), ("a", "b"))
    with pytest.raises(UserError, match=r"unknown key 'data.*intake\.windw'"):
        with_settings(a_run(root), ["data.intake.windw=abdomen"])
    with pytest.raises(UserError, match=r"no setting 'data\.intke\.window'"):
        with_settings(a_run(root), ["data.intke.window=abdomen"])


def test_mean_and_deviation_follow_the_number_of_channels(root: Path) -> None:
    task: Any = a_run(root).only.task
    spread: Any = with_statistics(task, DataInfo(channels=6, pixels="uint16"))
    assert spread.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,))
    assert spread.std == pytest.approx((sum(IMAGENET_STD) / 3,))
    assert with_statistics(task, DataInfo(channels=3)) == task


def test_a_mean_over_fewer_classes_than_named_says_so() -> None:
    numbers = {"mIoU": 1.0, "mDice": 1.0, "IoU/a": 1.0, "IoU/b": math.nan, "IoU/c": 1.0}
    assert partial_means(numbers) == ["mIoU is over 2 of 3 classes: of b nothing can be said"]
    assert partial_means(numbers | {"IoU/b": 0.0}) == []
