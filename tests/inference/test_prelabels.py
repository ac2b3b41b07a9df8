"""Pre-labels: predictions in the layouts of annotation tools are read back, the most uncertain first."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_models import classifier, segmenter
from pycocotools import mask as mask_codec
from scipy.special import entr
from shapely.geometry import Polygon
from test_predict_files import CLASSES, finder, paint, place

from vistruct.contracts import BoxPrediction, MaskPatch, Objects
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.errors import UserError
from vistruct.inference import queue
from vistruct.inference.files import predict_files
from vistruct.inference.kind import Asked
from vistruct.inference.prelabels import LOST, ring_of
from vistruct.inference.sources import images_at
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_segmentation
from vistruct.ops.oriented import cxcywha_to_quads

SIZE_HW = (400, 360)


@pytest.mark.parametrize("kind", ["oriented", "masks", "plain"])
def test_what_tools_are_given_is_read_back(tmp_path: Path, kind: str, capsys) -> None:
    boxes, folder, out = place(3, SIZE_HW, seed=3), tmp_path / "images", tmp_path / "out"
    names = ["a.png", "below/b.png"]
    for name in names:
        paint(folder / name, boxes, SIZE_HW)
    model = finder(boxes, kind)
    predict_files(model, images_at([folder]), out, formats=["label-studio", "cvat", "yolo", "yolo-conf"])
    assert "yolo: rows have no place for scores" in capsys.readouterr().err
    found = model.predict(folder / "a.png").prediction.objects
    said = [CLASSES[label] for label in found.labels]
    places = {"cvat": "cvat/annotations.xml", "label-studio-predictions": "label-studio/tasks.json"}
    for format, place_of in {**places, "yolo": "yolo", "yolo-conf": "yolo-conf"}.items():
        walked, _ = read(out / place_of, "boxes", format=format, ask=Ask(images=folder, masks=kind == "masks"))
        assert [record.images[0].relative_to(folder).as_posix() for record in walked.records] == names
        for record in walked.records:
            theirs = record.objects
            assert [walked.class_names[label] for label in theirs.labels] == said, format
            assert np.allclose(theirs.boxes_xyxy, found.boxes_xyxy, atol=0.01 if kind == "plain" else 1.01), format
            if kind == "oriented":
                ours = cxcywha_to_quads(found.boxes_cxcywha).double().numpy()
                for one, other in zip(ours, theirs.quads, strict=True):
                    assert Polygon(one).intersection(Polygon(other)).area > 0.995 * Polygon(one).area, format
            if kind == "masks":
                for patch, mask in zip(found.masks, theirs.masks, strict=True):
                    full = np.zeros(SIZE_HW, bool)
                    height, width = patch.pixels.shape
                    full[patch.y : patch.y + height, patch.x : patch.x + width] = patch.pixels
                    drawn = mask_codec.decode(encode_segmentation(mask, SIZE_HW)).astype(bool)
                    assert (drawn & full).sum() > 0.98 * (drawn | full).sum(), format
    scores = [round(float(score), 6) for score in found.scores]
    rows = (out / "yolo-conf" / "labels" / "below" / "b.txt").read_text().splitlines()
    assert [float(row.split()[-1]) for row in rows] == scores
    task = json.loads((out / "label-studio" / "tasks.json").read_text())[0]["predictions"][0]
    assert [round(one["score"], 6) for one in task["result"]] == scores
    assert task["score"] == pytest.approx(np.mean(scores), abs=1e-5)
    xml = ElementTree.parse(out / "cvat" / "annotations.xml").getroot()
    kept = [float(one.text or "") for one in xml.findall("image[@name='a.png']//attribute[@name='score']")]
    assert kept == scores


def test_a_mask_of_several_parts_is_its_largest_outline_and_that_is_said() -> None:
    pixels = np.zeros((6, 9), bool)
    pixels[1:5, 1:5], pixels[2, 2], pixels[5, 8] = True, False, True
    objects = Objects(
        labels=torch.zeros(1, dtype=torch.int64),
        boxes_xyxy=torch.tensor([[11.0, 21.0, 19.0, 26.0]]),
        masks=(MaskPatch(pixels=pixels, x=10, y=20),),
    )
    report = IssueCounter()
    ring = ring_of(BoxPrediction(id="a", image_id="a", objects=objects, class_names=("x",)), 0, report)
    assert Polygon(ring).bounds == (11, 21, 15, 25)
    assert report.counts == {LOST: 1}


def test_measures_are_their_formulas() -> None:
    p, q = np.array([0.9, 0.5, 0.2]), np.array([0.6, 0.3, 0.1])
    assert queue.of_each(p, "confidence") == pytest.approx((0.1 + 0.5 + 0.8) / 3)
    assert queue.of_each(p, "margin") == pytest.approx((0.2 + 1 + 0.4) / 3)
    assert queue.of_each(p, "entropy") == pytest.approx((entr(p) + entr(1 - p)).mean() / np.log(2))
    assert queue.of_one(q, "confidence") == pytest.approx(0.4)
    assert queue.of_one(q, "margin") == pytest.approx(0.7)
    assert queue.of_one(q, "entropy") == pytest.approx(entr(q).sum() / np.log(3))
    for measure in queue.MEASURES:
        assert queue.of_each(np.zeros(0), measure) == queue.of_each(np.ones(2), measure) == 0
        assert queue.of_one(np.array([0.0, 1.0, 0.0]), measure) == pytest.approx(0)
        assert queue.of_one(np.full(2, 0.5), measure) == pytest.approx(0.5 if measure == "confidence" else 1)


def test_the_most_uncertain_comes_first_in_every_file(tmp_path: Path, monkeypatch, capsys) -> None:
    model, folder = classifier(monkeypatch), tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a", (250, 0, 0)), ("b", (120, 118, 0)), ("c", (250, 80, 0))):
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    done = predict_files(model, images_at([folder]), tmp_path / "out", asked=Asked(queue="margin"))
    assert [one.case.name for one in done.done] == ["b.png", "c.png", "a.png"]
    rows = list(csv.DictReader((tmp_path / "out" / "queue.csv").open()))
    assert [row["image"] for row in rows] == ["b.png", "c.png", "a.png"]
    best = [sorted(model.predict(folder / row["image"]).prediction.scores.tolist())[-2:] for row in rows]
    assert [float(row["uncertainty"]) for row in rows] == pytest.approx([1 - (b - a) for a, b in best], abs=1e-5)
    boxes = place(3, SIZE_HW, seed=3)
    paint(tmp_path / "two" / "b.png", boxes, SIZE_HW)
    paint(tmp_path / "two" / "a.png", boxes[:0], SIZE_HW)
    found = finder(boxes).predict(tmp_path / "two", queue="confidence").save(tmp_path / "boxes", format="coco")
    assert [one.case.name for one in found.done] == ["b.png", "a.png"]
    assert "nothing was found in 1 of 2 images" in capsys.readouterr().err
    said = json.loads((tmp_path / "boxes" / "predictions.json").read_text())
    assert [one["file_name"] for one in said["images"]] == ["b.png", "a.png"]
    with pytest.raises(UserError, match="no scores to put images in order"):
        predict_files(segmenter(monkeypatch), images_at([folder]), tmp_path / "maps", asked=Asked(queue="margin"))
    with pytest.raises(UserError, match="did you mean 'margin'"):
        predict_files(model, images_at([folder]), tmp_path / "x", asked=Asked(queue="margins"))
