"""The table of objects: what is true of one column is true of all, a made-up one too, from the file to the device."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tables import assert_same

from vistruct.contracts import BoxPrediction, Objects, cat
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.convert import EXTRA_LOST, convert
from vistruct.data.reading import Reading
from vistruct.metrics.whole_images import WholeImages
from vistruct.tasks.dense import DetectCollator
from vistruct.transforms.augment import Augment
from vistruct.windows.merge import merge_windows
from vistruct.windows.tiles import Tiles

# Of every object the width is its number: the phrase says it, and no flip and no window that shows it whole changes it.
MODULE = """
from vistruct.data.formats.boxes.objects import ImageObjects, Told
from vistruct.data.formats.format import Format, Walked


def walk(path, ask, report, stop):
    records = []
    for name in ("a.png", "b.png", "empty.png"):
        image = ImageObjects(name, path / name, (96, 160))
        for number in range(0 if name == "empty.png" else 12):
            x, y, width = 12 * number + 1, 7 * number + 3, number + 4
            told = Told(is_difficult=number % 2 == 1, extra={"phrase": f"{name} {width}"})
            image.add_box((x, y, x + width, y + 9), number % 3, name, report, told)
        records.append(image.record())
    return Walked(records=records, class_names=("x", "y", "z"))


FORMAT = Format(kind="boxes", walk=walk)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "phrased.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "phrased", raising=False)
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a.png", "b.png", "empty.png"):
        Image.new("RGB", (160, 96)).save(root / name)
    return root


def table(num: int) -> Objects[np.ndarray]:
    rng = np.random.default_rng(num)
    return Objects(
        boxes_xyxy=rng.random((num, 4), np.float32),
        labels=rng.integers(0, 9, num),
        is_crowd=rng.random(num) < 0.5,
        quads=rng.random((num, 4, 2), np.float32),
        keypoints=rng.random((num, 3, 3), np.float32),
        masks=tuple([[float(n)]] for n in range(num)),
        extra={"group": rng.integers(0, 99, num), "phrase": tuple(f"thing {n}" for n in range(num))},
    )


@pytest.mark.parametrize("rows", [[2, 0, 0, 4], [], [4, 3, 2, 1, 0]])
def test_rows_are_kept_in_every_column_alike(rows: list[int]) -> None:
    five = table(5)
    for kept in (five.keep(np.array(rows, np.int64)), five.tensors().keep(torch.tensor(rows).long()).arrays()):
        assert len(kept) == len(rows)
        for name, column in five.columns().items():
            ours = kept.columns()[name]
            assert list(map(str, ours)) == [str(column[row]) for row in rows], name
            assert isinstance(column, tuple) or column.dtype == ours.dtype
    flags = np.isin(np.arange(5), rows)
    assert_same(five.keep(flags), five.keep(np.flatnonzero(flags)))
    assert_same(five.tensors().keep(torch.from_numpy(flags)).arrays(), five.keep(flags))


def test_what_is_taken_apart_is_put_together_again() -> None:
    seven = table(7)
    apart = [seven.keep(np.arange(3)), seven.keep(np.arange(0)), seven.keep(np.arange(3, 7))]
    assert_same(cat(apart), seven)
    assert_same(cat([one.tensors() for one in apart]).arrays(), seven)


def test_tables_are_the_same_where_every_column_is() -> None:
    assert table(3) == table(3)
    assert table(3).tensors() == table(3).tensors()
    others = [
        table(3).tensors(),
        replace(table(3), masks=None),
        replace(table(3), is_crowd=~table(3).is_crowd),
        replace(table(3), labels=table(3).labels.astype(np.int32)),
        replace(table(3), extra={**table(3).extra, "phrase": ("a", "b", "c")}),
    ]
    assert all(table(3) != other for other in others)


def test_tables_with_other_columns_are_no_one_table() -> None:
    with pytest.raises(ValueError, match="keypoints"):
        cat([table(2), replace(table(2), keypoints=None)])


def test_a_column_of_another_length_is_refused_by_its_name() -> None:
    for columns in ({"phrase": ("a",)}, {"is_crowd": np.zeros(3, bool)}, {"boxes_xyxy": np.zeros((1, 4), np.float32)}):
        with pytest.raises(ValueError, match=next(iter(columns))):
            Objects.of({"labels": np.zeros(2, np.int64), **columns})


def test_arrays_and_tensors_share_no_memory() -> None:
    ours = table(3)
    before = ours.boxes_xyxy.copy()
    ours.tensors().boxes_xyxy.zero_()
    np.testing.assert_array_equal(ours.boxes_xyxy, before)


def test_what_is_to_be_found_is_neither_a_crowd_nor_ignored() -> None:
    labels = np.zeros(4, np.int64)
    crowd, ignored = np.array([0, 1, 0, 1], bool), np.array([0, 0, 1, 1], bool)
    ours = Objects(labels=labels, is_crowd=crowd, is_ignored=ignored)
    assert ours.is_single.tolist() == ours.tensors().is_single.tolist() == [True, False, False, False]


def config(folder: Path, **more: object) -> BoxDataConfig:
    return BoxDataConfig(annotation=folder, format="phrased:FORMAT", **more)


def test_a_made_up_column_comes_from_its_format_to_the_device(folder: Path, tmp_path: Path) -> None:
    augment = Augment(hflip=True, vflip=True, rot90=True, scale=(1.0, 1.0), crop=(60, 60))
    asked = config(
        folder, tiles=Tiles(size=64, overlap=24, else_ignore=True), augment=augment, difficult="ignore", oriented=True
    )
    seen = set()
    for build in range(2):  # the second time from the cache
        dataset = asked.build(tmp_path / "cache")
        samples = [dataset.sample(index, seed) for index in range(len(dataset)) for seed in range(9)]
        samples = [sample for sample in samples if len(sample.objects)]
        batch = DetectCollator(size_divisor=8, num_classes=3)(samples).to(torch.device("meta"))
        for sample, target in zip(samples, batch.targets, strict=True):
            phrases = target.extra["phrase"]
            assert target.boxes_xyxy.is_meta
            assert len(phrases) == len(target.labels) == len(sample.objects)
            for phrase, quad, label, ignored in zip(
                phrases, sample.objects.quads, sample.objects.labels, sample.objects.is_ignored, strict=True
            ):
                name, width = phrase.split()
                sides = sorted((quad - quad.roll(1, 0)).norm(dim=1).round().int().tolist())
                assert sides == sorted([9, 9, int(width), int(width)])
                assert name == sample.image_id
                assert int(label) == (int(width) - 4) % 3
                assert bool(ignored) or (int(width) - 4) % 2 == 0  # difficult ones are ignored
                seen.add((build, phrase))
    assert seen == {(build, f"{name}.png {n + 4}") for build in range(2) for name in "ab" for n in range(12)}


def test_a_made_up_column_changes_the_fingerprint_and_is_said_to_be_lost_where_it_cannot_be_written(
    folder: Path, tmp_path: Path
) -> None:
    before = config(folder).build().info.fingerprint
    assert config(folder).build().info.fingerprint == before
    module = tmp_path / "modules" / "phrased.py"
    # Another length: Python takes what it compiled for the same file where size and second of writing are equal.
    module.write_text(MODULE.replace('f"{name} {width}"', 'f"{width}, {name}"'))
    sys.modules.pop("phrased")
    sys.path_importer_cache.clear()
    assert config(folder).build().info.fingerprint != before
    done = convert(folder, tmp_path / "out", "dota", Reading(format="phrased:FORMAT"), pictures="none")
    assert done.lost.counts[EXTRA_LOST] == 2
    done = convert(folder, tmp_path / "coco", "coco", Reading(format="phrased:FORMAT"), pictures="none")
    assert done.lost.counts[EXTRA_LOST] == 0
    written = json.loads((tmp_path / "coco" / "annotations.json").read_text())["annotations"]
    assert all("phrase" in entry["attributes"] for entry in written)


def found(x: float, phrase: str, window: tuple[int, int, int, int]) -> BoxPrediction:
    objects = Objects(
        boxes_xyxy=torch.tensor([[x, 10.0, x + 20, 30]]), labels=torch.zeros(1).long(), scores=torch.tensor([0.9])
    )
    objects = replace(objects, extra={"phrase": (phrase,)})
    return BoxPrediction(id=str(window), image_id="a", objects=objects, class_names=("x",), window_xyxy=window)


def test_a_made_up_column_of_predictions_survives_joining_windows_and_the_way_between_ranks() -> None:
    pieces = [found(5, "left", (0, 0, 100, 60)), found(120, "right", (80, 0, 180, 60))]
    (joined,) = merge_windows(pieces)
    assert dict(zip(joined.objects.extra["phrase"], joined.objects.boxes_xyxy[:, 0].tolist(), strict=True)) == {
        "left": 5,
        "right": 120,
    }
    images = WholeImages([], ("x",))
    images.numbers = {"a": 0}
    for piece in pieces:
        images.add(piece)
    ((_, measured),) = images.joined()
    assert set(measured.objects.extra["phrase"]) == {"left", "right"}
