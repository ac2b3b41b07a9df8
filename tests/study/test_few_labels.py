"""Probes in a study: of any init, what `probe.py` gives, and gains paired by draw."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from test_study_plan import small_detector

from vistruct.data.formats.read import read
from vistruct.engine.run import build
from vistruct.engine.ship import ship
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.samples import trees
from vistruct.study.few_labels import few_labels, found_by_probes, probe_jobs
from vistruct.study.patches import object_patches
from vistruct.study.plan import plan_trials, weight_digests
from vistruct.study.probe import label_efficiency, pooled_features
from vistruct.study.statistics import paired_gain
from vistruct.study.study import Probes, Study

PROBES = Probes(scene=trees().test, elsewhere=trees().train, patch_shots=(5,), crop_shots=(2,), draws=2)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Of a detector from random weights and from a run's."""
    out = tmp_path_factory.mktemp("start")
    ship(build(small_detector(data=trees().train, val=trees().test, seed=7), out))
    options = {"data": str(trees().train), "val": str(trees().test)}
    inits = {"random": "random", "ours": str(out)}
    return Study(recipe="detect", inits=inits, seeds=1, options=options, probes=PROBES)


@pytest.fixture(scope="module")
def results(study) -> dict:
    jobs = probe_jobs(study, plan_trials(study, small_detector), weight_digests(study))
    assert [job.name for job in jobs] == ["few_labels-random", "few_labels-ours"]
    return {job.name: few_labels(**job.arguments, results={}, report=lambda *_: None) for job in jobs}


def test_the_probe_of_an_init_is_that_of_its_backbone(study, results, tmp_path):
    task = build(small_detector(data=trees().train, val=trees().test, seed=7), tmp_path).only.task
    (scene,) = read(trees().test, "boxes")[0].records
    patches, labels = object_patches(read_image(scene.images[0]), scene.objects.boxes_xyxy, PROBES.patch, seed=0)
    expected = label_efficiency(pooled_features(task.backbone, patches), labels, (5,), 2)
    assert results["few_labels-ours"]["values"]["patch"] == expected
    assert results["few_labels-random"]["values"]["patch"] != expected
    assert {one["what"] for one in results.values()} == {"tree"}
    assert set(results["few_labels-ours"]["values"]) == {"patch", "standardised", "dense"}


def test_gains_of_probes_are_paired_by_draw(study, results):
    found = found_by_probes(study, json.loads(json.dumps(results)))
    assert [(g["kind"], g["labels"], g["init"], g["against"]) for g in found["gains"]] == [
        ("patch", "5", "ours", "random"), ("standardised", "5", "ours", "random"), ("dense", "2", "ours", "random"),
    ]  # fmt: skip
    by = found["values"]["dense"]["2"]
    assert found["gains"][2]["mean"] == pytest.approx(paired_gain(by["ours"], by["random"]).mean)
    assert found_by_probes(study.model_copy(update={"probes": None}), results) is None


def test_a_probe_is_another_job_where_the_scene_or_the_weights_are_others(study, tmp_path):
    plan = plan_trials(study, small_detector)
    scene = tmp_path / "scene.json"
    scene.write_text("{}")
    moved = study.model_copy(update={"probes": PROBES.model_copy(update={"scene": scene, "elsewhere": None})})
    before = probe_jobs(moved, plan, dict.fromkeys(study.inits, "a"))[0].arguments
    scene.write_text("{ }")
    assert probe_jobs(moved, plan, dict.fromkeys(study.inits, "a"))[0].arguments["data"] != before["data"]
    assert probe_jobs(moved, plan, dict.fromkeys(study.inits, "b"))[0].arguments["weights"] != before["weights"]


def test_several_images_are_no_scene(study, tmp_path):
    names = [f"{i}.png" for i in range(2)]
    for name in names:
        Image.fromarray(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()).save(tmp_path / name)
    images = [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)]
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}]
    file = tmp_path / "two.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "tree"}]}))
    run = plan_trials(study, small_detector).trials[0].run.model_dump(mode="json")
    asked = {"probes": {"scene": str(file)}, "run": run, "weights": "", "data": []}
    with pytest.raises(UserError, match="2 images"):
        few_labels(**asked, results={}, report=lambda *_: None)
