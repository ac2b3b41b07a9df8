"""Images that adapters learned from, in an evaluation: told by COCO's number and by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import question_sets as sets

from vistruct.backbones.vit_rvsa import VitRvsaConfig
from vistruct.config import Run, Stream, run_to_yaml
from vistruct.data.at_path import part_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.checks.learned import learned_images
from vistruct.errors import UserError
from vistruct.heads.fcos import FcosConfig
from vistruct.tasks.dense import DetectConfig


def run_on(folder: Path, numbers: list[int]) -> Path:
    """The folder of a run that learned boxes in COCO's images of these numbers, under their names of 2017."""
    for number in numbers:
        sets.image(folder / "train2017" / f"{number:012d}.jpg", number)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 52, "height": 40} for n in numbers]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0} for n in numbers
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    file = sets.write(folder / "annotations" / "instances_train2017.json", content)
    task = DetectConfig(backbone=VitRvsaConfig(), head=FcosConfig())
    run = Run(streams={"main": Stream(task=task, data=BoxDataConfig(annotation=file), batch=1)}, steps=1)
    out = folder / "run"
    (out / "adapters").mkdir(parents=True)
    (out / "run.yaml").write_text(run_to_yaml(run))
    return out


def test_an_image_under_its_name_of_another_year_is_the_same(tmp_path):
    dataset = part_at(sets.vqa(tmp_path / "vqa")).build()  # about images 1 and 2 of val2014
    some = run_on(tmp_path / "some", [2, 3])
    assert "1 of 2 images are training data of these adapters, such as COCO_val2014_000000000002" in learned_images(
        some / "adapters", dataset
    )
    assert learned_images(run_on(tmp_path / "none", [7, 8]), dataset) == ""
    with pytest.raises(UserError, match="all 2 images"):
        learned_images(run_on(tmp_path / "all", [1, 2, 3]) / "adapters" / "step_000010", dataset)
    assert learned_images(tmp_path / "lora.pth", dataset) == ""  # of nobody's run


def test_a_run_whose_data_are_gone_is_said(tmp_path):
    dataset = part_at(sets.vqa(tmp_path / "vqa")).build()
    run = run_on(tmp_path / "gone", [1])
    (tmp_path / "gone" / "annotations" / "instances_train2017.json").unlink()
    assert "is not known here" in learned_images(run, dataset)
    assert json.dumps(str(run))[1:-1] in learned_images(run, dataset)
