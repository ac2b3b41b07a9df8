"""What a metric says of its numbers: perfect predictions are never worse than poor ones where it claims a direction."""

from __future__ import annotations

import math

import pytest
import torch

from vistruct.config import Part
from vistruct.contracts import AnswerPrediction, ClassPrediction
from vistruct.data.image_classes import ClassDataConfig
from vistruct.metrics.answers import Answers, AnswersConfig
from vistruct.metrics.classes import Classes, ClassesConfig
from vistruct.metrics.coco import CocoBoxesConfig, CocoMasksConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.metrics.volumes import VolumesConfig

TRUTHS = {
    "presence": ("yes", "no", "what?"),
    "count": ("4", "2", "many"),
    "ground_one": ("<box>[[1, 2, 30, 40]]</box>", "<box>[[500, 500, 600, 600]]</box>", "there"),
    "ground_all": ("<box>[[1, 2, 30, 40], [5, 600, 70, 700]]</box>", "<box>[[1, 2, 30, 40]]</box>", "there"),
    "caption": ("a large tree stands left of two small ones", "a tree", "water"),
}


def asked(quality: int) -> dict[str, float]:
    """Two questions of each family, the second answered as well as `quality` says: 0 right, 1 wrong, 2 unreadable."""
    metric = Answers()
    for family, answers in TRUTHS.items():
        for number, answer in enumerate((answers[0], answers[quality])):
            one = AnswerPrediction(
                id=f"{family}-{number}", image_id="", question="?", answer=answer, truth=answers[0], family=family
            )
            metric.update([one])
    return metric.compute()


def classified(quality: int) -> dict[str, float]:
    names = tuple("abcdefgh")
    metric = Classes({str(i): (i,) for i in range(8)}, names)
    for i in range(8):
        scores = torch.full((8,), 0.01)
        scores[(i + (quality if i < 4 else 0)) % 8] = 0.9
        metric.update([ClassPrediction(id=str(i), image_id=str(i), scores=scores, class_names=names)])
    return metric.compute()


@pytest.mark.parametrize(("config", "measured"), [(AnswersConfig(), asked), (ClassesConfig(), classified)])
def test_a_direction_is_the_one_in_which_better_predictions_move(config, measured):
    best, moved = measured(0), set()
    for quality in (1, 2):
        for name, poor in measured(quality).items():
            better = config.higher_is_better(name)
            if better is None or math.isnan(poor) or math.isnan(best[name]):
                continue
            assert best[name] >= poor if better else best[name] <= poor, name
            if best[name] != poor:
                moved.add(name)
    assert config.usual(None) in moved


def test_counts_limits_and_constant_answers_are_no_merit():
    for number in ("questions", "questions/presence", "constant", "constant/caption", "yes/presence", "error/presence"):
        assert AnswersConfig().higher_is_better(number) is None
    assert CocoBoxesConfig().higher_is_better("max_detections") is None
    assert VolumesConfig().higher_is_better("volumes") is None
    assert MeanLossConfig().higher_is_better("unmatched") is None


@pytest.mark.parametrize("number", ["mHD95", "HD95/heart", "HD95_missing"])
def test_distances_of_surfaces_are_better_where_they_are_small(number):
    assert VolumesConfig().higher_is_better(number) is False
    assert VolumesConfig().higher_is_better("Dice/HD95") is True


@pytest.mark.parametrize(
    ("config", "usual"),
    [
        (CocoBoxesConfig(), "AP50"),
        (CocoMasksConfig(), "mask/AP50"),
        (OrientedBoxesConfig(), "AP50"),
        (PixelsConfig(), "mIoU"),
        (PixelsConfig(positive="changed"), "F1"),
        (VolumesConfig(), "mDice"),
        (MeanLossConfig(), "loss"),
    ],
)
def test_every_metric_names_the_number_people_compare_by_and_its_direction(config: Part, usual: str):
    assert config.usual(None) == usual
    assert config.higher_is_better(usual) is (usual != "loss")


def test_of_several_classes_an_image_the_usual_number_is_map(tmp_path):
    several = ClassDataConfig(root=tmp_path, multi_label=True)
    assert ClassesConfig().usual(several) == "mAP"
    assert ClassesConfig().usual(several.model_copy(update={"multi_label": False})) == "OA"
