"""Conversions between all formats keep what both can hold, and say what they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_sets import (
    BoxSet,
    make_dior,
    make_dior_r,
    make_dota,
    make_fair1m,
    make_hrsc,
    make_sardet,
    make_ssdd,
    make_voc,
    read_boxes,
)
from PIL import Image
from tables import assert_same

from vistruct.contracts import Objects, Record
from vistruct.data import convert as conversions
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.convert import convert, written
from vistruct.data.formats.boxes import coco
from vistruct.data.formats.detect import detect
from vistruct.errors import UserError
from vistruct.files.masks import rasterise
from vistruct.windows.tiles import Tiles

HEIGHT, WIDTH = 60, 80
READ_AS = {"yolo-obb": "yolo"}
SOURCES: dict[str, Callable[[Path], BoxSet]] = {
    "dota": make_dota,
    "voc": make_voc,
    "dior": make_dior,
    "dior_r": make_dior_r,
    "fair1m": make_fair1m,
    "hrsc": make_hrsc,
    "ssdd": make_ssdd,
    "sardet": make_sardet,
}


WRITERS = {name: form for name, form in written().items() if name != "xview"}  # has its own classes: test_xview_format


def plain(name: str) -> str:
    """DOTA has no spaces in names."""
    return name.replace(" ", "-")


def assert_kept(before: list[Record], names: tuple[str, ...], after: list[Record], again: tuple[str, ...], to: str):
    """Boxes, labels and flags are the same, in the same order, wherever the format has room for them."""
    form = WRITERS[to]
    assert [Path(record.id).stem for record in after] == [Path(record.id).stem for record in before]
    for one, other in zip(before, after, strict=True):
        one = one if form.is_crowd else one.keep(~one.objects.is_crowd)
        assert other.size_hw == one.size_hw
        assert [plain(again[label]) for label in other.objects.labels] == [
            plain(names[label]) for label in one.objects.labels
        ]
        np.testing.assert_allclose(other.objects.boxes_xyxy, one.objects.boxes_xyxy, atol=1e-2)
        if form.quads and one.objects.quads is not None and (other.objects.quads is not None or len(one.objects)):
            assert other.objects.quads is not None
            np.testing.assert_allclose(other.objects.quads, one.objects.quads, atol=1e-2)
        if form.is_difficult:
            np.testing.assert_array_equal(other.objects.is_difficult, one.objects.is_difficult)
        if form.notes:
            assert other.notes == one.notes


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_format_converts_to_every_other(tmp_path: Path, source: str, to: str) -> None:
    made = SOURCES[source](tmp_path / "in")
    split = next(iter(made.truth))
    before, names, _ = read_boxes(tmp_path / "in", split=split)
    done = convert(tmp_path / "in", tmp_path / "out", to, split=split)
    assert (done.path, done.images) == (tmp_path / "out", len(before))
    assert done.objects == sum(len(record.objects) for record in before)
    assert detect(tmp_path / "out", "boxes") == READ_AS.get(to, to)
    after, again, report = read_boxes(tmp_path / "out")
    assert_kept(before, names, after, again, to)
    assert not report.counts
    for one, other in zip(before, after, strict=True):
        assert one.images[0].read_bytes() == other.images[0].read_bytes()
    if WRITERS[to].empty_classes:
        assert again == names


def rich(root: Path) -> Path:
    """A COCO data set with one of everything: mask, run lengths, key points, crowd, difficult, quads."""
    root.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "b.png")
    quads = (
        np.array([[[10, 10], [30, 14], [28, 24], [8, 20]]] * 3, np.float32)
        + np.arange(3, dtype=np.float32)[:, None, None]
    )
    hulls = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    outline = [12.0, 12, 28, 15, 26, 22, 11, 20]
    shared: dict[str, Any] = {"size_hw": (HEIGHT, WIDTH)}
    first = Record(
        id="a.png",
        images=(root / "a.png",),
        objects=Objects(
            boxes_xyxy=hulls,
            labels=np.array([0, 2, 0]),
            is_crowd=np.array([False, False, True]),
            is_difficult=np.array([False, True, False]),
            quads=quads,
            masks=([outline], [outline, [1, 1, 4, 1, 4, 4]], {"size": [HEIGHT, WIDTH], "counts": [100, 4700]}),
            keypoints=np.array([[[12, 12, 2]], [[0, 0, 0]], [[0, 0, 0]]], np.float32),
        ),
        **shared,
    )
    second = Record(
        id="b.png",
        images=(root / "b.png",),
        objects=Objects(quads=np.zeros((0, 4, 2), np.float32), masks=(), keypoints=np.zeros((0, 1, 3), np.float32)),
        **shared,
    )
    coco.write(root / "a.json", [first, second], ["large ship", "unused", "car"])
    return root


LOST = {
    "coco": {},
    "dota": {conversions.CROWD_LOST: 1, conversions.MASK_LOST: 2, conversions.POINTS_LOST: 1},
    "voc": {
        conversions.CROWD_LOST: 1,
        conversions.MASK_LOST: 2,
        conversions.POINTS_LOST: 1,
        conversions.QUAD_LOST: 2,
    },
    "fair1m": {
        conversions.CROWD_LOST: 1,
        conversions.MASK_LOST: 2,
        conversions.POINTS_LOST: 1,
        conversions.DIFFICULT_LOST: 1,
    },
    "yolo": {
        conversions.CROWD_LOST: 1,
        conversions.QUAD_LOST: 2,
        conversions.POINTS_LOST: 1,
        conversions.DIFFICULT_LOST: 1,
    },
    "yolo-obb": {
        conversions.CROWD_LOST: 1,
        conversions.MASK_LOST: 2,
        conversions.POINTS_LOST: 1,
        conversions.DIFFICULT_LOST: 1,
    },
}


@pytest.mark.parametrize("to", WRITERS)
def test_what_a_format_has_no_room_for_is_counted(tmp_path: Path, to: str) -> None:
    source = rich(tmp_path / "in")
    done = convert(source, tmp_path / "out", to)
    expected = dict(LOST[to]) | ({} if WRITERS[to].empty_classes else {conversions.CLASS_LOST: 1})
    assert expected.items() <= dict(done.lost.counts).items()
    extra = set(done.lost.counts) - set(expected)
    assert len(extra) == {"yolo": 1, "dota": 1}.get(to, 0)  # outlines of several parts; names with spaces
    assert done.objects == (3 if to == "coco" else 2)


def test_coco_to_coco_loses_nothing_at_all(tmp_path: Path) -> None:
    source = rich(tmp_path / "in")
    convert(source, tmp_path / "out", "coco")
    before, after = read_boxes(source), read_boxes(tmp_path / "out")
    assert before[1] == after[1]
    for one, other in zip(before[0], after[0], strict=True):
        assert_same(one.objects, other.objects)


@pytest.mark.parametrize("through", WRITERS)
@pytest.mark.parametrize("to", WRITERS)
def test_there_and_on_keeps_what_both_hold(tmp_path: Path, through: str, to: str) -> None:
    make_dota(tmp_path / "in", ("ship", "large-vehicle"))
    convert(tmp_path / "in", tmp_path / "mid", through, split="train")
    before, names, _ = read_boxes(tmp_path / "mid")
    convert(tmp_path / "mid", tmp_path / "out", to)
    after, again, report = read_boxes(tmp_path / "out")
    assert_kept(before, names, after, again, to)
    assert not report.counts


def test_pictures_are_copied_linked_to_or_left(tmp_path: Path) -> None:
    source = rich(tmp_path / "in")
    convert(source, tmp_path / "link", "dota", pictures="link")
    linked = tmp_path / "link" / "images" / "a.png"
    assert linked.is_symlink()
    assert linked.resolve() == (source / "a.png").resolve()
    assert len(read_boxes(tmp_path / "link")[0]) == 2
    convert(source, tmp_path / "none", "dota", pictures="none")
    assert not (tmp_path / "none" / "images").exists()
    assert len(read_boxes(tmp_path / "none", source)[0]) == 2


def test_images_in_folders_keep_them(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "in" / "sub" / "a.png")
    box = np.array([[1, 2, 30, 40]], np.float32)
    record = Record(
        id="sub/a.png",
        images=(tmp_path,),
        size_hw=(HEIGHT, WIDTH),
        objects=Objects(boxes_xyxy=box, labels=np.zeros(1, np.int64)),
    )
    coco.write(tmp_path / "in" / "a.json", [record], ["x"])
    for to in WRITERS:
        convert(tmp_path / "in", tmp_path / to, to)
        (again,), _, _ = read_boxes(tmp_path / to)
        np.testing.assert_allclose(again.objects.boxes_xyxy, box, atol=1e-4)


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    source = rich(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="not overwritten"):
        convert(source, tmp_path / "out", "dota")
    assert not any((tmp_path / "out").iterdir())


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = rich(tmp_path / "in")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversions.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        convert(source, tmp_path / "out", "dota")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("to", WRITERS)
def test_a_picture_whose_name_leads_out_of_the_folder_stops_before_anything_is_written(tmp_path: Path, to: str) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    (tmp_path / "in" / "train.txt").write_text("../a.png\n")
    (tmp_path / "in" / "data.yaml").write_text("train: train.txt\nnames: [x]\n")
    with pytest.raises(UserError, match="leads out"):
        convert(tmp_path / "in", tmp_path / "out", to, pictures="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "in"]


def test_coco_names_that_lead_out_of_the_folder_are_written_into_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    record = Record(id="../a.png", images=(tmp_path / "a.png",), size_hw=(HEIGHT, WIDTH))
    coco.write(tmp_path / "in" / "a.json", [record], ["x"])
    convert(tmp_path / "in", tmp_path / "out", "coco")
    assert (tmp_path / "out" / "images" / "a.png").is_file()


@pytest.mark.parametrize("to", ["doto", "xview", "coc"])
def test_an_unknown_target_is_an_error(tmp_path: Path, to: str) -> None:
    with pytest.raises(UserError) as caught:
        convert(rich(tmp_path / "in"), tmp_path / "out", to)
    assert caught.value.fix


@pytest.mark.parametrize("to", sorted(WRITERS))
def test_splits_stay_splits_and_classes_keep_their_numbers(tmp_path: Path, to: str) -> None:
    for split, name in (("train", "plane"), ("val", "Boeing737"), ("test", "plane")):
        name = name if to != "fair1m" else "Boeing737"
        for folder in ("images", "labelTxt"):
            (tmp_path / "set" / split / folder).mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "set" / split / "images" / f"{split}1.png")
        (tmp_path / "set" / split / "labelTxt" / f"{split}1.txt").write_text(f"10 10 30 10 30 30 10 30 {name} 0\n")
    done = convert(tmp_path / "set", tmp_path / "out", to)
    assert done.images == done.objects == 3
    for split in ("train", "val", "test"):
        records, _, _ = read_boxes(tmp_path / "out", split=split)
        assert [record.id for record in records] == [f"{split}1.png"]
        assert len(records[0].objects) == 1
    if to in ("yolo", "coco"):
        names = read_boxes(tmp_path / "out", split="train")[1]
        assert names == ("Boeing737", "plane")
        assert [int(read_boxes(tmp_path / "out", split=one)[0][0].objects.labels[0]) for one in ("train", "val")] == [
            1,
            0,
        ]


def test_large_images_are_cut_into_tiles_that_know_where_they_lie(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 150, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    boxes = [[10, 10, 20, 20], [100, 50, 30, 30], [58, 5, 12, 12]]  # x, y, width, height; the last on a border
    content = {
        "images": [{"id": 1, "file_name": "scene.png", "width": 150, "height": 90}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": [_ring(*box)], "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "crown"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    convert(tmp_path / "a.json", tmp_path / "out", "coco", tiles=Tiles(size=64, overlap=0))
    records, _, _ = read_boxes(tmp_path / "out")
    found = {record.id: record for record in records}
    assert "scene__1__64___26.png" in found
    for name, record in found.items():
        x, y = (int(part) for part in Path(name).stem.split("__1__")[1].split("___"))
        assert np.array_equal(np.asarray(Image.open(record.images[0])), pixels[y : y + 64, x : x + 64])
        assert record.objects.masks is not None
        for box, mask in zip(record.objects.boxes_xyxy, record.objects.masks, strict=True):
            inside = rasterise(mask, (0, 0, 64, 64))
            x0, y0, x1, y1 = (round(float(edge)) for edge in box)
            assert inside[y0:y1, x0:x1].all()
            assert inside.sum() == (x1 - x0) * (y1 - y0)
    placed = [
        (round(float(box[0])) + int(name.split("__1__")[1].split("___")[0]), round(float(box[2] - box[0])))
        for name, record in found.items()
        for box in record.objects.boxes_xyxy
    ]
    assert (10, 20) in placed
    assert (100, 30) in placed
    with pytest.raises(UserError, match="tiles are pictures of their own"):
        convert(tmp_path / "a.json", tmp_path / "links", "coco", pictures="link", tiles=Tiles(size=64, overlap=0))


def _ring(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def test_drawn_splits_are_of_whole_images_and_those_that_training_draws(tmp_path: Path) -> None:
    """No tile of an image is in two splits; every tile is in one; the other seed draws others."""
    shares = {"train": 0.6, "val": 0.4}
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 40} for n in range(5)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 10, 10]} for n in range(5)]
    told = {"images": images, "categories": [{"id": 1, "name": "ship"}], "annotations": boxes}
    (tmp_path / "a.json").write_text(json.dumps(told))
    for n in range(5):
        Image.new("RGB", (80, 40)).save(tmp_path / f"{n}.png")
    drawn = {}
    for seed in (0, 1):
        out = tmp_path / f"out{seed}"
        done = convert(
            tmp_path / "a.json", out, "coco", tiles=Tiles(size=40, overlap=0), random_split=shares, split_seed=seed
        )
        assert done.images == 10
        tiles = {name: [record.id for record in read_boxes(out, split=name)[0]] for name in shares}
        drawn[seed] = {name: {tile.partition("__")[0] for tile in found} for name, found in tiles.items()}
        assert {name: len(found) for name, found in tiles.items()} == {"train": 6, "val": 4}
        assert drawn[seed]["train"] | drawn[seed]["val"] == {str(n) for n in range(5)}
        assert not drawn[seed]["train"] & drawn[seed]["val"]
        part = BoxDataConfig(annotation=tmp_path / "a.json", random_split=shares, split_seed=seed, split="val")
        assert {Path(record.id).stem for record in part.build().records} == drawn[seed]["val"]
    assert drawn[0] != drawn[1]
    with pytest.raises(UserError, match="5 images for 6 splits"):
        convert(tmp_path / "a.json", tmp_path / "b", "coco", random_split={str(n): 0.1 for n in range(6)})
