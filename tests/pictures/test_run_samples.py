from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_engine import toy_run

from vistruct.contracts import (
    IGNORED,
    AnswerPrediction,
    BoxPrediction,
    ClassPrediction,
    DataInfo,
    MapPrediction,
    Record,
    Sample,
)
from vistruct.engine.run import build
from vistruct.pictures import run_samples as pictures
from vistruct.pictures.classes import draw_classes
from vistruct.pictures.in_sample import map_in_sample
from vistruct.pictures.maps import draw_map, draw_map_prediction, draw_pair
from vistruct.pictures.objects import draw_prediction
from vistruct.pictures.run_samples import draw_case, draw_first_batch, draw_one, draw_predicted, draw_predictions


def box(xyxy: list[float]) -> BoxPrediction:
    return BoxPrediction(
        id="w",
        image_id="a",
        boxes_xyxy=torch.tensor([xyxy]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.int64),
        class_names=("tree",),
    )


def test_a_prediction_in_the_whole_image_is_drawn_where_it_is_in_the_window():
    sample = Sample(
        id="w",
        image_id="a",
        seed=0,
        images=[torch.zeros(3, 64, 64, dtype=torch.uint8)],
        boxes_xyxy=torch.tensor([[20.0, 20.0, 40.0, 40.0]]),
        labels=torch.zeros(1, dtype=torch.int64),
        origin_xy=(100.0, 200.0),
        scale_xy=(2.0, 2.0),
    )
    drawn = draw_predicted(sample, [box([110.0, 210.0, 120.0, 220.0])])
    expected = draw_prediction(sample.images[0], box([20.0, 20.0, 40.0, 40.0]), truth=sample)
    assert drawn is not None
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_a_prediction_of_another_kind_has_no_picture():
    sample = Sample(id="w", image_id="a", seed=0, images=[])
    assert draw_predicted(sample, [("w", 0.5)]) is None


def test_the_first_batch_is_drawn(tmp_path):
    path = draw_first_batch(build(toy_run(), tmp_path))
    assert path == tmp_path / "samples" / "first_batch.png"
    assert Image.open(path).width > 500


def test_every_question_of_a_sample_is_drawn_with_its_answer_and_with_the_truth_where_that_is_another(monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "draw_conversation", lambda sample: drawn.append(sample.turns))
    asked = [
        AnswerPrediction(id="a", image_id="a", question="How many?", answer="3", truth="3"),
        AnswerPrediction(id="a", image_id="a", question="Where?", answer="", truth="left"),
    ]
    draw_predicted(Sample(id="a", image_id="a", seed=0, images=[]), asked)
    assert [turn.text for turn in drawn[0]] == ["How many?", "3", "Where?", "(nothing)\n(truth: left)"]


NAMES = ("background", "tree")


def labels(height: int = 12, width: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (height, width), generator=generator, dtype=torch.int16)


def map_sample(name: str = "a", num_images: int = 1, channels: int = 3, **fields) -> Sample:
    images = [torch.full((channels, 12, 16), 40 + 30 * i, dtype=torch.uint8) for i in range(num_images)]
    return Sample(id=name, image_id=name, seed=0, **({"images": images, "label_map": labels()} | fields))


def mapped(label_map: torch.Tensor, name: str = "a", **fields) -> MapPrediction:
    return MapPrediction(id=name, image_id=name, label_map=label_map, class_names=NAMES, **fields)


def same(a: Image.Image | None, b: Image.Image) -> bool:
    return a is not None and np.array_equal(np.asarray(a), np.asarray(b))


class Data:
    """A data set of these samples."""

    def __init__(self, samples: list[Sample], records: list[Record] | None = None, palette=None) -> None:
        self.samples = samples
        self.records = records or [Record(id=one.id, image_id=one.image_id, images=()) for one in samples]
        self.info = DataInfo(class_names=NAMES, palette=palette)

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, seed: int) -> Sample:
        return self.samples[index]


def test_a_label_map_on_the_files_grid_is_put_on_the_samples() -> None:
    whole = torch.arange(48, dtype=torch.int16).reshape(6, 8)
    sample = map_sample(images=[torch.zeros(3, 4, 4, dtype=torch.uint8)], origin_xy=(3.0, 2.0), scale_xy=(2.0, 2.0))
    shown = whole[2:4, 3:5].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(map_in_sample(mapped(whole), sample), shown)
    window = mapped(whole[1:, 2:], window_xyxy=(2, 1, 8, 6))
    assert torch.equal(map_in_sample(window, sample), shown)


def test_a_sample_that_was_made_smaller_takes_the_pixels_in_the_middle() -> None:
    whole = torch.arange(81, dtype=torch.int16).reshape(9, 9)
    sample = map_sample(images=[torch.zeros(3, 3, 3, dtype=torch.uint8)], scale_xy=(1 / 3, 1 / 3))
    assert torch.equal(map_in_sample(mapped(whole), sample), whole[1::3, 1::3])


def test_where_nothing_was_predicted_is_ignored() -> None:
    sample = map_sample(images=[torch.zeros(3, 2, 4, dtype=torch.uint8)], origin_xy=(-2.0, 0.0))
    found = map_in_sample(mapped(torch.ones(1, 3, dtype=torch.int16)), sample)
    assert found.tolist() == [[IGNORED, IGNORED, 1, 1], [IGNORED] * 4]
    elsewhere = mapped(torch.ones(1, 1, dtype=torch.int16), window_xyxy=(90, 90, 91, 91))
    assert (map_in_sample(elsewhere, sample) == IGNORED).all()


def test_predicted_maps_pairs_and_classes_are_drawn_with_the_truth() -> None:
    said, one, pair = labels(seed=1), map_sample(), map_sample(num_images=2)
    palette = ((0, 0, 0), (1, 2, 3))
    drawn = draw_predicted(one, [mapped(said)], palette)
    assert same(drawn, draw_map_prediction(one.images[0], said, one.label_map, NAMES, palette))
    drawn = draw_predicted(pair, [mapped(said)])
    assert same(drawn, draw_pair(*pair.images, pair.label_map, said, NAMES))
    scores = ClassPrediction(id="a", image_id="a", scores=torch.tensor([0.2, 0.8]), class_names=NAMES)
    known = map_sample(label_map=None, image_labels=(1,))
    assert same(draw_predicted(known, [scores]), draw_classes(known, scores))


def test_samples_are_drawn_as_what_they_are() -> None:
    palette = ((0, 0, 0), (1, 2, 3))
    one, pair, known = map_sample(), map_sample(num_images=2), map_sample(label_map=None, image_labels=(1,))
    dataset = Data([one], palette=palette)
    assert same(draw_one(one, dataset), draw_map(one.images[0], labels(), NAMES, palette))
    assert same(draw_one(pair, dataset), draw_pair(*pair.images, labels(), None, NAMES, palette))
    assert same(draw_one(known, dataset), draw_classes(known, None, NAMES))
    bands = map_sample(channels=7, label_map=None)
    assert draw_one(bands, dataset).width > 300


def test_a_slice_is_drawn_in_grey_with_its_neighbours_left_out() -> None:
    one = map_sample(label_map=torch.zeros(12, 16, dtype=torch.int16))
    one.images[0] = torch.stack([torch.full((12, 16), tone, dtype=torch.uint8) for tone in (0, 100, 255)])
    picture = draw_one(one, Data([one], [Record(id="a", images=(), slice=0)]))
    assert np.unique(np.asarray(picture)[:300]).tolist() == [100]


def volume(slices: int = 40, cases: str = "ab") -> Data:
    """Cases with labels in the second half of each."""
    names = [f"{case}@z{z:03d}" for case in cases for z in range(slices)]
    empty = torch.zeros(12, 16, dtype=torch.int16)
    samples = [
        Sample(id=name, image_id=name[0], seed=0, images=[torch.zeros(1, 12, 16, dtype=torch.uint8)],
               label_map=labels() if int(name[3:]) >= slices // 2 else empty)
        for name in names
    ]  # fmt: skip
    return Data(samples, [Record(id=name, image_id=name[0], images=(), slice=int(name[3:])) for name in names])


def test_of_a_case_only_slices_that_are_drawn_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = {}, []
    monkeypatch.setattr(pictures, "draw_volume", lambda *values, **named: drawn.update(named, slices=values[0]))

    def ask(sample: Sample) -> list[MapPrediction]:
        asked.append(sample.id)
        return [mapped(labels(seed=1), sample.id)]

    draw_case(volume(), "b", 3, ask)
    assert len(asked) == len(drawn["slices"]) == len(drawn["predictions"]) == 3
    assert all(name.startswith("b") and int(name[3:]) >= 20 for name in asked)
    assert drawn["numbers"] == [int(name[3:]) for name in asked]
    asked.clear()
    draw_case(volume(), "a", 3)
    assert drawn["predictions"] is None


class Truthful(torch.nn.Module):
    """Says what is there, but for samples named `bad...`."""

    collator = staticmethod(
        lambda samples: SimpleNamespace(samples=samples, to=lambda _: SimpleNamespace(samples=samples))
    )

    def predict(self, batch: SimpleNamespace) -> list[MapPrediction]:
        return [
            MapPrediction(id=one.id, image_id=one.image_id, class_names=NAMES,
                          label_map=1 - one.label_map if one.id.startswith("bad") else one.label_map)
            for one in batch.samples
        ]  # fmt: skip


def state_of(out_dir: Path, **datasets: Data) -> SimpleNamespace:
    return SimpleNamespace(
        out_dir=out_dir, task=Truthful(), device=torch.device("cpu"), amp=None, eval_datasets=datasets,
        run=SimpleNamespace(evals={name: SimpleNamespace(data=name) for name in datasets}),
    )  # fmt: skip


def keep_images(out_dir: Path, name: str, metric: str, images: dict) -> None:
    (out_dir / "evaluations").mkdir(exist_ok=True)
    details = {"class_names": NAMES, "confusion": [[1, 0], [0, 1]], "images": images}
    kept = {"metric": metric, "step": 1, "numbers": {}, "details": details}
    (out_dir / "evaluations" / f"{name}.json").write_text(json.dumps(kept))


def test_of_each_evaluation_a_few_are_drawn_and_the_worst_beside_them(tmp_path: Path, monkeypatch) -> None:
    names = ["good 0", "bad 1", "good 2", "bad 3", "good 4", "good 5"]
    captions = []
    monkeypatch.setattr(pictures, "contact_sheet", lambda shown, columns, names: captions.append(names) or shown[0])
    keep_images(tmp_path, "val", "pixels", {name: [[0, 9, 9] if "bad" in name else [9, 0, 0]] * 2 for name in names})
    written = draw_predictions(state_of(tmp_path, val=Data([map_sample(name) for name in names])))  # ty: ignore
    assert [path.name for path in written] == ["predictions_val.png", "worst_val.png"]
    assert all(path.exists() for path in written)
    assert captions[0] == names[:4]
    assert captions[1] == ["bad 1", "bad 3"]


def test_of_volumes_one_case_is_drawn_and_the_worst(tmp_path: Path, monkeypatch) -> None:
    captions = []
    monkeypatch.setattr(pictures, "contact_sheet", lambda shown, columns, names: captions.append(names) or shown[0])
    keep_images(tmp_path, "ct", "volumes_overlap", {case: [[0, 0, 0], [5, i, 0]] for i, case in enumerate("abcd")})
    written = draw_predictions(state_of(tmp_path, ct=volume(8, "abc")))  # ty: ignore
    assert [path.name for path in written] == ["predictions_ct.png", "worst_ct.png"]
    assert captions == [["b"], ["c"]]  # d, which is worse, is not in the data


def test_windows_of_a_bad_image_are_not_drawn_as_if_they_were_it(tmp_path: Path) -> None:
    keep_images(
        tmp_path, "val", "pixels", {"whole": [[0, 9, 9]] * 2, "other": [[9, 0, 0]] * 2, "third": [[9, 0, 0]] * 2}
    )
    samples = [map_sample(f"window {i}") for i in range(2)]
    records = [Record(id=one.id, image_id="whole", images=()) for one in samples]
    samples += [map_sample("other"), map_sample("third")]
    records += [Record(id=name, images=()) for name in ("other", "third")]
    written = draw_predictions(state_of(tmp_path, val=Data(samples, records)))  # ty: ignore
    assert [path.name for path in written] == ["predictions_val.png"]
