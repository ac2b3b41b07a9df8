"""Predictions in files: the numbers of the devkit, of pycocotools, and of the model that wrote them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as maskUtils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vistruct.data.at_path import part_at
from vistruct.data.convert import convert
from vistruct.data.reading import Named, Reading
from vistruct.errors import UserError
from vistruct.metrics.predicted import score

GOLDEN = Path(__file__).parents[1] / "golden" / "dota_eval"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SIDE = 128


@pytest.fixture(scope="module")
def dota(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden truth as a data set, with blank images that hold it."""
    root = tmp_path_factory.mktemp("dota")
    shutil.copytree(GOLDEN / "labelTxt", root / "labelTxt")
    (root / "images").mkdir()
    for file in (root / "labelTxt").glob("*.txt"):
        rows = [line.split()[:8] for line in file.read_text().splitlines()[2:]]
        side = int(np.ceil(np.array(rows or [[63]], float).max())) + 1
        Image.new("1", (side, side)).save(root / "images" / f"{file.stem}.png")
    return root


def scored(path: Path, truth: Path, reading: Reading = Reading(), **more: Any):  # noqa: B008 - frozen
    return score(path, part_at(truth, reading), **more)


def test_task1_files_score_as_the_devkit_scores_them(dota: Path) -> None:
    found = scored(GOLDEN / "detections", dota)
    for rule, name in (("area", "area"), ("11-point", "voc07_11point")):
        expected = EXPECTED["dota_devkit"][f"iou0.5_{name}"]
        assert found.numbers[f"AP50 {rule}"] == pytest.approx(expected["mAP"], abs=1e-9)
    assert found.numbers["AP50/plane"] == pytest.approx(EXPECTED["dota_devkit"]["iou0.5_area"]["AP"]["plane"], abs=1e-9)
    assert found.metric == "oriented_boxes"


def test_a_zip_scores_as_its_folder_does(dota: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Task1.zip", "w") as archive:
        for file in (GOLDEN / "detections").iterdir():
            archive.write(file, file.name)
    assert scored(tmp_path / "Task1.zip", dota).numbers == scored(GOLDEN / "detections", dota).numbers


def test_detections_on_patches_are_joined_to_the_whole_image(dota: Path, tmp_path: Path) -> None:
    """Of each detection the same in two patches that both show it, shifted as the splitting tool says: once counted."""
    for file in (GOLDEN / "detections").iterdir():
        rows = []
        for line in file.read_text().splitlines():
            image, confidence, *corners = line.split()
            for rate, x, y in ((1, 0, 0), (1, 8, 4), (2, 16, 0)):
                moved = [str(rate * float(c) - (y if at % 2 else x)) for at, c in enumerate(corners)]
                rows.append(" ".join([f"{image}__{rate}__{x}___{y}", confidence, *moved]))
        (tmp_path / file.name).write_text("\n".join(rows) + "\n")
    found = scored(tmp_path, dota)
    assert any("patch" in reason for reason in found.left.counts)
    one = scored(GOLDEN / "detections", dota).numbers
    assert found.numbers["AP50/ship"] == pytest.approx(one["AP50/ship"], abs=0.05)  # close ones of one image merge too


def test_names_of_patches_are_told_by_a_template(dota: Path, tmp_path: Path) -> None:
    for file in (GOLDEN / "detections").iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        (tmp_path / file.name).write_text("".join(f"{one[0]}_0_0 {' '.join(one[1:])}\n" for one in lines))
    with pytest.raises(UserError, match="--patches"):
        scored(tmp_path, dota)
    found = scored(tmp_path, dota, patches="{name}_{x}_{y}").numbers
    assert found["AP50"] == pytest.approx(scored(GOLDEN / "detections", dota).numbers["AP50"], abs=0.02)
    with pytest.raises(UserError, match="no template"):
        scored(tmp_path, dota, patches="{name}_{x}")


def test_images_and_classes_that_do_not_fit_are_counted(dota: Path, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "detections", tmp_path / "out")
    with (tmp_path / "out" / "Task1_ship.txt").open("a") as file:
        file.write("P9999 0.9 1 1 9 1 9 9 1 9\n")
    (tmp_path / "out" / "Task1_windmill.txt").write_text("P0606 0.9 1 1 9 1 9 9 1 9\n")
    found = scored(tmp_path / "out", dota)
    assert found.numbers == scored(GOLDEN / "detections", dota).numbers
    counts = {reason.partition(":")[0]: number for reason, number in found.left.counts.items()}
    assert counts["prediction left out"] == 1
    assert sum("truth does not have" in reason for reason in found.left.counts) == 2


def test_files_of_both_tasks_are_a_question(dota: Path, tmp_path: Path) -> None:
    (tmp_path / "Task1_ship.txt").write_text("")
    (tmp_path / "Task2_ship.txt").write_text("")
    with pytest.raises(UserError, match="both tasks"):
        scored(tmp_path, dota)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A truth with masks, ids that do not count from one, and results about it."""
    rng = np.random.default_rng(0)
    images, annotations, results = [], [], []
    for number in (7, 3, 40):
        Image.new("L", (SIDE, SIDE)).save(tmp_path / f"i{number}.png")
        images.append({"id": number, "file_name": f"i{number}.png", "width": SIDE, "height": SIDE})
        for _ in range(12):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 90, 2), *rng.uniform(6, 38, 2)))
            ring = [x, y, x + w, y, x + w * 0.8, y + h * 0.6, x + w, y + h, x, y + h]
            shape = {"image_id": number, "category_id": int(rng.choice([2, 9])), "bbox": [x, y, w, h]}
            annotations.append(
                {"id": len(annotations) + 1, "area": w * h, "iscrowd": 0, "segmentation": [ring], **shape}
            )
            moved = np.array([x, y, w, h]) + rng.normal(0, 3, 4) * [1, 1, 0, 0]
            mx, my = (float(v) for v in moved[:2] - [x, y])
            shifted = [v + (my if at % 2 else mx) for at, v in enumerate(ring)]
            results.append({**shape, "bbox": moved.tolist(), "segmentation": [shifted], "score": float(rng.random())})
    categories = [{"id": 9, "name": "car"}, {"id": 2, "name": "ship"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def by_pycocotools(folder: Path, results: Any, kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_coco_results_score_as_pycocotools_scores_them(coco: Path) -> None:
    results = json.loads((coco / "results.json").read_text())
    for one in results:
        del one["segmentation"]
    (coco / "boxes.json").write_text(json.dumps(results))
    found = scored(coco / "boxes.json", coco / "truth.json")
    assert found.metric == "coco_boxes"
    assert found.numbers["AP"] == pytest.approx(by_pycocotools(coco, results, "bbox"), abs=1e-6)


def test_coco_results_with_masks_score_as_pycocotools_scores_them(coco: Path) -> None:
    results = json.loads((coco / "results.json").read_text())
    found = scored(coco / "results.json", coco / "truth.json")
    assert found.metric == "coco_masks"
    runs = [maskUtils.merge(maskUtils.frPyObjects(one["segmentation"], SIDE, SIDE)) for one in results]
    only = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "segmentation": run, "score": one["score"]}
        for one, run in zip(results, runs, strict=True)
    ]
    assert found.numbers["mask/AP"] == pytest.approx(by_pycocotools(coco, only, "segm"), abs=1e-6)


def test_classes_are_chosen_in_predictions_as_in_the_truth(coco: Path) -> None:
    together = Reading(join=(Named("vehicle=car,ship"),))
    results = json.loads((coco / "results.json").read_text())
    found = scored(coco / "results.json", coco / "truth.json", together)
    assert "AP/vehicle" in found.numbers
    assert not any("class" in reason for reason in found.left.counts)
    dropped = scored(coco / "results.json", coco / "truth.json", Reading(drop=("car",)))
    cars = sum(one["category_id"] == 9 for one in results)
    assert cars in dropped.left.counts.values()


def test_an_image_without_predictions_is_one_where_nothing_was_found(coco: Path) -> None:
    results = [one for one in json.loads((coco / "results.json").read_text()) if one["image_id"] != 7]
    for one in results:
        del one["segmentation"]
    (coco / "some.json").write_text(json.dumps(results))
    found = scored(coco / "some.json", coco / "truth.json")
    assert found.numbers["AP"] == pytest.approx(by_pycocotools(coco, results, "bbox"), abs=1e-6)
    assert found.left.counts["image without predictions: nothing was found there"] == 1
    (coco / "none.json").write_text("[]")
    assert scored(coco / "none.json", coco / "truth.json").numbers["AP50"] == 0


def test_yolo_rows_with_scores_score_as_the_same_boxes_in_coco(coco: Path) -> None:
    from vistruct.data.convert import convert

    convert(coco / "truth.json", coco / "yolo", "yolo")
    results = json.loads((coco / "results.json").read_text())
    (coco / "labels").mkdir()
    names = ["ship", "car"]  # by the ids of their categories
    for one in results:
        x, y, w, h = (value / SIDE for value in one["bbox"])
        label = names.index("car" if one["category_id"] == 9 else "ship")
        row = f"{label} {x + w / 2} {y + h / 2} {w} {h} {one['score']}\n"
        with (coco / "labels" / f"i{one['image_id']}.txt").open("a") as file:
            file.write(row)
        del one["segmentation"]
    found = scored(coco / "labels", coco / "yolo" / "data.yaml")
    assert found.numbers["AP"] == pytest.approx(by_pycocotools(coco, results, "bbox"), abs=1e-4)
    (coco / "labels" / "i7.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match="without a score"):
        scored(coco / "labels", coco / "yolo" / "data.yaml")


def test_xview_files_score_as_the_same_boxes_in_coco(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "xview" / "train_images").mkdir(parents=True)
    features, results = [], []
    texts: dict[str, str] = {}
    for number in range(3):
        Image.new("1", (90, 60)).save(tmp_path / "xview" / "train_images" / f"{number}.tif")
        for at in range(6):
            x, y, type_id = 14 * at, int(random.integers(0, 40)), (18, 15)[at % 2]
            said = {"bounds_imcoords": f"{x},{y},{x + 12},{y + 15}", "type_id": type_id, "image_id": f"{number}.tif"}
            features.append({"type": "Feature", "properties": said, "geometry": None})
            dx, score = float(random.integers(0, 8)), round(random.random(), 4)
            row = f"{x + dx} {y} {x + dx + 12} {y + 15} {type_id} {score}\n"
            texts[f"{number}.tif.txt"] = texts.get(f"{number}.tif.txt", "") + row
            results.append((f"{number}.tif", type_id, [x + dx, y, 12, 15], score))
    (tmp_path / "xview" / "xView_train.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )
    (tmp_path / "rows").mkdir()
    for name, text in texts.items():
        (tmp_path / "rows" / name).write_text(text)
    convert(tmp_path / "xview", tmp_path / "coco", "coco")
    truth = next((tmp_path / "coco").rglob("*.json"))
    document = COCO(str(truth))
    images = {one["file_name"]: one["id"] for one in document.imgs.values()}
    classes = {{"Small Car": 18, "Helicopter": 15}.get(one["name"]): one["id"] for one in document.cats.values()}
    (tmp_path / "coco.json").write_text(
        json.dumps(
            [
                {"image_id": images[name], "category_id": classes[number], "bbox": box, "score": score}
                for name, number, box, score in results
            ]
        )
    )
    found = scored(tmp_path / "rows", tmp_path / "xview" / "xView_train.geojson").numbers
    assert 0.1 < found["AP50"] < 0.95
    assert found["AP50"] == scored(tmp_path / "coco.json", truth).numbers["AP50"]
    (tmp_path / "rows" / "1.tif.txt").write_text("1 2 3 4 75 0.5\n")
    with pytest.raises(UserError, match=r"type_id of xView's table\n.*1\.tif\.txt, line 1"):
        scored(tmp_path / "rows", tmp_path / "xview" / "xView_train.geojson")


@pytest.fixture
def masks(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A truth of values 0 and 200, its classes, and others that were predicted."""
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 2, (2, 3, 20, 30)).astype(np.uint8)
    for folder in ("images", "masks", "out"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(truth[number] * 200).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path, truth, found


@pytest.mark.parametrize("factor", [1, 200])
def test_masks_score_by_counted_pixels_in_either_coding(
    masks: tuple[Path, np.ndarray, np.ndarray], factor: int
) -> None:
    root, truth, found = masks
    for number in range(3):
        Image.fromarray(found[number] * factor).save(root / "out" / f"{number}.tif")
    reading = Reading(images="images", labels="masks", classes=("ground", "roof"), values=(0, 200))
    numbers = scored(root / "out", root, reading).numbers
    hit, either = ((truth == 1) & (found == 1)).sum(), ((truth == 1) | (found == 1)).sum()
    assert numbers["IoU/roof"] == pytest.approx(hit / either)
    assert numbers["aAcc"] == pytest.approx((truth == found).mean())


def test_values_of_two_meanings_are_a_question(masks: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, truth, found = masks
    for number in range(3):
        Image.fromarray(1 - truth[number]).save(root / "masks" / f"{number}.png")
        Image.fromarray(found[number]).save(root / "out" / f"{number}.png")
    reading = Reading(images="images", labels="masks", classes=("ground", "roof"), values=(1, 0))
    with pytest.raises(UserError, match="--coded"):
        scored(root / "out", root, reading)
    right = (truth == found).mean()
    assert scored(root / "out", root, reading, coded="classes").numbers["aAcc"] == pytest.approx(right)
    assert scored(root / "out", root, reading, coded="labels").numbers["aAcc"] == pytest.approx(1 - right)


def test_a_mask_that_is_missing_stops_unless_it_is_said(masks: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, truth, found = masks
    for number in range(2):
        Image.fromarray(found[number]).save(root / "out" / f"{number}.png")
    told = {"images": "images", "labels": "masks", "classes": ("ground", "roof"), "values": (0, 200)}
    with pytest.raises(UserError, match="1 images have no prediction"):
        scored(root / "out", root, Reading(**told))
    numbers = scored(root / "out", root, Reading(**told, missing="drop")).numbers
    assert numbers["aAcc"] == pytest.approx((truth[:2] == found[:2]).mean())


def test_label_volumes_score_by_counted_voxels_and_must_lie_where_the_truth_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    truth, found = rng.integers(0, 2, (2, 2, 8, 9, 5)).astype(np.uint8)
    for folder in ("images", "labels", "out"):
        (tmp_path / folder).mkdir()
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    for number in range(2):
        for folder, array in (("images", truth * 0), ("labels", truth), ("out", found)):
            nibabel.save(nibabel.Nifti1Image(array[number], affine), tmp_path / folder / f"c{number}.nii.gz")
    reading = Reading(classes=("background", "organ"))
    shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    shutil.move(tmp_path / "out", tmp_path.parent / f"{tmp_path.name}-out")
    shutil.move(tmp_path / "elsewhere", tmp_path.parent / f"{tmp_path.name}-else")
    numbers = scored(tmp_path.parent / f"{tmp_path.name}-out", tmp_path, reading).numbers
    dice = [2 * (t & f).sum() / (t.sum() + f.sum()) for t, f in zip(truth, found, strict=True)]
    assert numbers["Dice/organ"] == pytest.approx(np.mean(dice))
    other = tmp_path.parent / f"{tmp_path.name}-else"
    nibabel.save(nibabel.Nifti1Image(found[0], np.diag([-2.0, 2.0, 3.0, 1.0])), other / "c0.nii.gz")
    with pytest.raises(UserError, match="different places"):
        scored(other, tmp_path, reading)
