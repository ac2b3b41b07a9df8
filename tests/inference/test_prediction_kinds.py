"""Kinds of prediction: each draws its own with the truth, and one of somebody else's is as good as ours."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import my_counts
import numpy as np
import pytest
import torch
from map_samples import NAMES, labels, map_sample
from PIL import Image

from vistruct.checkpoint.load import ModelCard
from vistruct.cli.main import main
from vistruct.contracts import (
    AnswerPrediction,
    BoxPrediction,
    ClassPrediction,
    DataInfo,
    MapPrediction,
    Objects,
    Sample,
    TaskTraits,
)
from vistruct.data.input import Input
from vistruct.errors import UserError
from vistruct.inference.files import predict_files
from vistruct.inference.kind import KINDS, kind_named, kind_of
from vistruct.inference.model import Model
from vistruct.inference.sources import images_at
from vistruct.pictures import chat
from vistruct.pictures.classes import draw_classes
from vistruct.pictures.maps import draw_map_prediction, draw_pair
from vistruct.pictures.objects import draw_prediction


def box(xyxy: list[float]) -> BoxPrediction:
    return BoxPrediction(
        id="w",
        image_id="a",
        objects=Objects(
            boxes_xyxy=torch.tensor([xyxy]), scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64)
        ),
        class_names=("tree",),
    )


def mapped(label_map: torch.Tensor) -> MapPrediction:
    return MapPrediction(id="a", image_id="a", label_map=label_map, class_names=NAMES)


def drawn(kind: str, sample: Sample, predictions: list[Any], palette: Any = None) -> np.ndarray:
    draw = kind_named(kind).draw
    assert draw is not None
    return np.asarray(draw(predictions, sample, palette))


def test_a_prediction_in_the_whole_image_is_drawn_where_it_is_in_the_window() -> None:
    sample = Sample(
        id="w",
        image_id="a",
        seed=0,
        images=[torch.zeros(3, 64, 64, dtype=torch.uint8)],
        objects=Objects(boxes_xyxy=torch.tensor([[20.0, 20.0, 40.0, 40.0]]), labels=torch.zeros(1, dtype=torch.int64)),
        origin_xy=(100.0, 200.0),
        scale_xy=(2.0, 2.0),
    )
    expected = draw_prediction(sample.images[0], box([20.0, 20.0, 40.0, 40.0]), truth=sample.objects)
    assert np.array_equal(drawn("boxes", sample, [box([110.0, 210.0, 120.0, 220.0])]), np.asarray(expected))


def test_every_question_of_a_sample_is_drawn_with_its_answer_and_with_the_truth_where_that_is_another(monkeypatch):
    turns = []
    monkeypatch.setattr(chat, "draw_conversation", lambda sample: turns.extend(sample.turns))
    asked = [
        AnswerPrediction(id="a", image_id="a", question="How many?", answer="3", truth="3"),
        AnswerPrediction(id="a", image_id="a", question="Where?", answer="", truth="left"),
    ]
    drawn("answers", Sample(id="a", image_id="a", seed=0, images=[]), asked)
    assert [turn.text for turn in turns] == ["How many?", "3", "Where?", "(nothing)\n(truth: left)"]


def test_predicted_maps_pairs_and_classes_are_drawn_with_the_truth() -> None:
    said, one, pair = labels(seed=1), map_sample(), map_sample(num_images=2)
    palette = ((0, 0, 0), (1, 2, 3))
    expected = draw_map_prediction(one.images[0], said, one.label_map, NAMES, palette)
    assert np.array_equal(drawn("maps", one, [mapped(said)], palette), np.asarray(expected))
    expected = draw_pair(*pair.images, pair.label_map, said, NAMES)
    assert np.array_equal(drawn("maps", pair, [mapped(said)]), np.asarray(expected))
    scores = ClassPrediction(id="a", image_id="a", scores=torch.tensor([0.2, 0.8]), class_names=NAMES)
    known = map_sample(label_map=None, image_labels=(1,))
    assert np.array_equal(drawn("classes", known, [scores]), np.asarray(draw_classes(known, scores)))


def test_every_kind_goes_by_its_name_and_has_formats_of_different_names() -> None:
    for name in KINDS:
        kind = kind_named(name)
        assert kind.name == name
        assert len({format.name for format in kind.formats}) == len(kind.formats) > 0
    for name, what in (("boxs", "no kind"), ("vistruct.inference.boxes:BOXS", "is no Kind")):
        with pytest.raises(UserError, match=what):
            kind_named(name)


class Counter:
    """A task whose kind of prediction nobody here has heard of."""

    traits = TaskTraits(prediction="my_counts:COUNTS", terms=())
    config, seen = None, 0

    def collator(self, samples: list[Sample]) -> Any:
        return SimpleNamespace(to=lambda device: samples)

    def predict(self, samples: list[Sample]) -> list[Any]:
        self.seen += len(samples)
        return [my_counts.Count(id=one.id, number=int((one.images[0][0, 0] > 128).sum())) for one in samples]


@pytest.fixture
def counter() -> Model:
    """A model of a kind that is somebody else's."""
    info = DataInfo(class_names=("spot",))
    card = ModelCard(path=Path("model"), task=None, info=info, input=Input(), values={"sha256": "0"})
    return Model(task=Counter(), card=card, device=torch.device("cpu"))


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.png", "c.png"), start=1):
        pixels = np.zeros((9, 9, 3), np.uint8)
        pixels[0, :number] = 255
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_a_kind_from_outside_is_predicted_drawn_written_and_resumed(
    counter: Model, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert counter.kind.name == "counts"
    assert counter.predict(spots / "b.png").prediction.number == 2
    assert kind_of(counter.task).draw is not None
    monkeypatch.setattr("vistruct.inference.model.load", lambda run, lora=None: counter)
    counter.task.seen = 0
    for number, more in enumerate(([], ["--format", "words"], ["--format", "all"])):
        with pytest.raises(SystemExit) as end:
            main(["predict", "run", str(spots), "--out", str(tmp_path / "out"), *more])
        assert end.value.code in (0, None)
        assert counter.task.seen == 3, number  # what was done is not done again
    assert "6 in 3 images" in capsys.readouterr().out
    with (tmp_path / "out" / "counts.csv").open() as stream:
        assert [row["number"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    assert (tmp_path / "out" / "words" / "c.txt").read_text() == "spot spot spot "
    with pytest.raises(UserError, match="gives no coco"):
        main(["predict", "run", str(spots), "--out", str(tmp_path / "out"), "--format", "coco", "--debug"])
    with pytest.raises(UserError, match="looks once"):
        main(["predict", "run", str(spots), "--out", str(tmp_path / "out"), "--flip", "vertical", "--debug"])
    with pytest.raises(UserError, match="takes whole images"):
        main(["predict", "run", str(spots), "--out", str(tmp_path / "out"), "--tile", "4", "--debug"])


def test_one_unreadable_image_does_not_stop_the_others_and_is_named(
    counter: Model, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    whole = (spots / "b.png").read_bytes()
    (spots / "b.png").write_bytes(whole[:40])
    monkeypatch.setattr("vistruct.inference.model.load", lambda run, lora=None: counter)
    args = ["predict", "run", str(spots), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main(args)
    said = capsys.readouterr()
    assert end.value.code == 4
    assert "b.png is left out" in said.err
    assert "1 of 3 images are left out" in said.err
    assert (tmp_path / "out" / "counts.csv").read_text() == "image,number\na.png,1\nc.png,3\n"
    (spots / "b.png").write_bytes(whole)
    counter.task.seen = 0
    with pytest.raises(SystemExit):
        main(args)
    assert counter.task.seen == 1
    assert (tmp_path / "out" / "counts.csv").read_text() == "image,number\na.png,1\nb.png,2\nc.png,3\n"


def test_images_that_go_through_together_are_taken_one_by_one_where_one_cannot_be_read(
    counter: Model, spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = dataclasses.replace(counter.kind, at_once=True)
    monkeypatch.setattr(my_counts, "COUNTS", together)
    (spots / "b.png").write_bytes(b"no image")
    found = predict_files(counter, images_at([spots]), tmp_path / "out")
    assert [one.case.name for one in found.done] == ["a.png", "c.png"]
    assert [case.name for case, _ in found.broken] == ["b.png"]


def test_where_nothing_can_be_read_nothing_is_written(counter: Model, spots: Path, tmp_path: Path) -> None:
    for file in spots.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot decode"):
        predict_files(counter, images_at([spots]), tmp_path / "out")
    assert not (tmp_path / "out" / "counts.csv").exists()


def test_files_that_no_prediction_wrote_are_neither_overwritten_nor_removed(
    counter: Model, spots: Path, tmp_path: Path
) -> None:
    words = tmp_path / "set" / "words"
    words.mkdir(parents=True)
    (words / "a.txt").write_text("by hand")
    cases = images_at([spots])
    with pytest.raises(UserError, match="1 files would be overwritten that `vistruct predict` did not write"):
        predict_files(counter, cases, tmp_path / "set", formats=["words"])
    assert (words / "a.txt").read_text() == "by hand"
    assert not (tmp_path / "set" / ".vistruct").exists()
    parts = tmp_path / "other" / "parts"
    parts.mkdir(parents=True)
    (parts / "mine.json").write_text("{}")
    predict_files(counter, cases, tmp_path / "other")
    replaced = dataclasses.replace(counter.card, values={"sha256": "1"})
    predict_files(dataclasses.replace(counter, card=replaced), cases, tmp_path / "other")
    assert (parts / "mine.json").read_text() == "{}"
    (tmp_path / "third" / ".vistruct").mkdir(parents=True)
    (tmp_path / "third" / ".vistruct" / "notes.txt").write_text("theirs")
    with pytest.raises(UserError, match="not a list of what vistruct wrote"):
        predict_files(counter, cases, tmp_path / "third")


def test_an_image_that_results_would_be_written_over_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "holiday" / "pictures"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    before = (folder / "a.jpg").read_bytes()
    card = ModelCard(path=Path("model"), task=None, info=DataInfo(class_names=("x",)), input=Input(), values={})
    task: Any = SimpleNamespace(traits=TaskTraits(prediction="boxes", terms=()))
    model = Model(task=task, card=card, device=torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(UserError, match="would be overwritten"):
            predict_files(model, images_at([folder]), tmp_path / "holiday")
    assert (folder / "a.jpg").read_bytes() == before
