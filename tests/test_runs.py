from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from map_samples import NAMES, Data, map_sample, volume
from PIL import Image
from toy_engine import toy_run

from vistruct import runs
from vistruct.contracts import MapPrediction, Record, TaskTraits
from vistruct.engine.run import build
from vistruct.recipes.vitp.pretrain import tiny
from vistruct.runs import draw_first_batch, draw_predictions


def test_the_first_batch_is_drawn(tmp_path):
    (path,) = draw_first_batch(build(toy_run(), tmp_path))
    assert path == tmp_path / "samples" / "first_batch.png"
    assert Image.open(path).width > 500


class Truthful(torch.nn.Module):
    """Says what is there, but for samples named `bad...`."""

    traits = TaskTraits(prediction="maps", terms=())
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
        out_dir=out_dir, asked=lambda name: SimpleNamespace(task=Truthful()),
        device=torch.device("cpu"), amp=None, eval_datasets=datasets,
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
    monkeypatch.setattr(runs, "contact_sheet", lambda shown, columns, names: captions.append(names) or shown[0])
    keep_images(tmp_path, "val", "pixels", {name: [[0, 9, 9] if "bad" in name else [9, 0, 0]] * 2 for name in names})
    written = draw_predictions(state_of(tmp_path, val=Data([map_sample(name) for name in names])))  # ty: ignore
    assert [path.name for path in written] == ["predictions_val.png", "worst_val.png"]
    assert all(path.exists() for path in written)
    assert captions[0] == names[:4]
    assert captions[1] == ["bad 1", "bad 3"]


def test_of_volumes_one_case_is_drawn_and_the_worst(tmp_path: Path, monkeypatch) -> None:
    captions = []
    monkeypatch.setattr(runs, "contact_sheet", lambda shown, columns, names: captions.append(names) or shown[0])
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


def test_what_is_found_out_about_data_may_lie_where_several_runs_find_it(tmp_path: Path) -> None:
    common = tmp_path / "index"
    build(tiny(), tmp_path / "first", index=common)
    found = {path: path.stat().st_mtime_ns for path in common.iterdir()}
    assert {path.suffixes[-2] for path in found} == {".lines", ".images", ".costs"}
    build(tiny(), tmp_path / "second", index=common)
    assert {path: path.stat().st_mtime_ns for path in common.iterdir()} == found
    assert not list(tmp_path.glob("*/index"))
