"""What evaluations keep is read as it was written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import made_evaluations
import numpy as np
import pytest
from made_evaluations import keep
from sklearn.metrics import jaccard_score

from vistruct.reports.measured import Evaluation, by_group, image_scores, parted, read_evaluations, weakest_class


def evaluation(metric: str, names: tuple[str, ...], images: dict, **details: object) -> Evaluation:
    return Evaluation(
        name="val", metric=metric, step=1, numbers={}, details={"class_names": names, "images": images} | details
    )


def test_what_was_kept_is_read_with_nothing_for_what_is_not_finite(tmp_path: Path) -> None:
    written = keep(tmp_path, "val", "pixels", made_evaluations.pixels())
    (read,) = read_evaluations(tmp_path)
    assert (read.name, read.metric, read.step, read.class_names) == ("val", "pixels", 40, made_evaluations.LAND)
    assert read.numbers == pytest.approx(written.numbers, nan_ok=True)
    assert any(math.isnan(value) for value in written.numbers.values())
    assert read.confusion is not None
    assert read.confusion.tolist() == written.details["confusion"]


def test_a_run_without_evaluations_has_none(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == []


def test_an_evaluation_without_details_is_read(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    file = tmp_path / "evaluations" / "a.json"
    file.write_text(json.dumps({"metric": "coco_boxes", "step": None, "numbers": {"AP": 0.5}, "details": {}}))
    (read,) = read_evaluations(tmp_path)
    assert (read.class_names, read.confusion, dict(read.hd95), image_scores(read)) == ((), None, {}, [])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mIoU", ("mIoU", None)),
        ("IoU/road", ("IoU", "road")),
        ("IoU/clutter/background", ("IoU", "clutter/background")),
        ("mask/AP", ("mask/AP", None)),
        ("mask/AP/tree", ("mask/AP", "tree")),
    ],
)
def test_names_of_numbers_are_parted_into_figure_and_class(name: str, parts: tuple[str, str | None]) -> None:
    assert parted(name) == parts


def test_numbers_are_grouped_by_class_in_their_order() -> None:
    numbers = {"mIoU": 0.5, "IoU/b": 0.1, "IoU/a": 0.2, "F1/b": 0.3}
    assert by_group(numbers) == {"b": {"IoU": 0.1, "F1": 0.3}, "a": {"IoU": 0.2}}


def test_the_score_of_a_map_is_scikit_learns_mean_jaccard_over_the_classes_there() -> None:
    generator = np.random.default_rng(0)
    truth, said = generator.integers(0, 3, (2, 100))
    counts = [[int(((truth == k) & (said == k)).sum()), int(((truth != k) & (said == k)).sum()),
               int(((truth == k) & (said != k)).sum())] for k in range(4)]  # fmt: skip
    one = evaluation("pixels", ("a", "b", "c", "absent"), {"x": counts})
    iou = jaccard_score(truth, said, average=None)
    assert image_scores(one) == [("x", pytest.approx(iou.mean()))]
    assert weakest_class(one, "x") == ("abc"[int(iou.argmin())], pytest.approx(iou.min()))


def test_of_volumes_the_background_is_no_part_of_the_score() -> None:
    one = evaluation("volumes_overlap", ("background", "lesion"), {"x": [[9, 0, 0], [2, 2, 2]]})
    assert image_scores(one) == [("x", 0.5)]
    assert weakest_class(one, "x") == ("lesion", 0.5)


def test_the_worst_image_comes_first_and_images_without_a_counted_pixel_are_left_out() -> None:
    images = {"good": [[9, 1, 0]], "bad": [[1, 9, 0]], "none": [[0, 0, 0]], "also bad": [[1, 9, 0]]}
    assert [name for name, _ in image_scores(evaluation("pixels", ("a",), images))] == ["also bad", "bad", "good"]


def test_the_score_of_an_image_with_one_class_is_what_that_class_got() -> None:
    images = {"x": {"truth": [1], "scores": [0.7, 0.3]}}
    assert image_scores(evaluation("classes", ("a", "b"), images, confusion=[[1, 0], [0, 1]])) == [("x", 0.3)]


def test_the_score_of_an_image_with_several_labels_is_how_near_all_scores_are() -> None:
    images = {"x": {"truth": [1], "scores": [0.2, 0.6]}, "y": {"truth": [], "scores": [0.0, 0.0]}}
    found = dict(image_scores(evaluation("classes", ("a", "b"), images, confusion=None)))
    assert found == {"x": pytest.approx(0.7), "y": 1.0}
