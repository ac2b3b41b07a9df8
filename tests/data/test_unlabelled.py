"""Images without a word about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles


def picture(file: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def test_folders_are_read_whole_and_mixed_in_order(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a" / "one" / "x.png", 20, 30)
    picture(tmp_path / "a" / "two" / "y.png", 24, 24, 1)
    picture(tmp_path / "b.png", 8, 8, 2)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    alone = ImagesDataConfig(paths=(tmp_path / "a",)).build()
    assert [record.id for record in alone.records] == ["one/x.png", "two/y.png"]
    assert [record.group for record in alone.records] == ["", ""]
    grouped = ImagesDataConfig(paths=(tmp_path / "a",), groups="folder").build()
    assert [record.group for record in grouped.records] == [str(tmp_path / "a" / one) for one in ("one", "two")]
    assert alone.info.dropped == {"file left out: no image ending": 1}
    assert torch.equal(alone.sample(0, 0).images[0], torch.from_numpy(pixels).permute(2, 0, 1))
    mixed = ImagesDataConfig(paths=(tmp_path / "a", tmp_path / "b.png", tmp_path / "a" / "one")).build()
    assert len(mixed) == 3
    assert mixed.info.dropped["image left out: it is listed before"] == 1
    assert mixed.info.fingerprint != alone.info.fingerprint


def test_large_images_are_cut_into_windows(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "x.png", 100, 70)
    cut = ImagesDataConfig(paths=(tmp_path,), tiles=Tiles(size=64, overlap=0), resize=Size(height=32, width=32)).build()
    assert [record.window_xyxy for record in cut.records] == [
        (0, 0, 64, 64),
        (6, 0, 70, 64),
        (0, 36, 64, 100),
        (6, 36, 70, 100),
    ]
    assert cut.sample(3, 0).images[0].shape == (3, 32, 32)
    plain = ImagesDataConfig(paths=(tmp_path,), tiles=Tiles(size=64, overlap=0)).build()
    assert torch.equal(plain.sample(3, 0).images[0], torch.from_numpy(pixels[36:, 6:]).permute(2, 0, 1))


def test_rasters_of_many_bands(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(0, 4000, (13, 40, 50), np.uint16)
    profile = {"driver": "GTiff", "count": 13, "height": 40, "width": 50, "dtype": "uint16"}
    with rasterio.open(tmp_path / "s2.tif", "w", **profile) as file:
        file.write(values)
    with pytest.raises(UserError):  # not 8-bit colours, and nothing says what becomes of the values
        ImagesDataConfig(paths=(tmp_path,)).build()
    data = ImagesDataConfig(paths=(tmp_path,), intake=Intake(low=(0.0,), high=(4000.0,), dtype="uint16")).build()
    assert data.info.channels == 13
    assert data.sample(0, 0).images[0].shape == (13, 40, 50)


def test_what_is_no_image_is_said_or_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ImagesDataConfig(paths=(tmp_path / "none",)).build()
    with pytest.raises(UserError, match="no images"):
        ImagesDataConfig(paths=(tmp_path,)).build()
    picture(tmp_path / "x.png", 10, 10)
    (tmp_path / "y.png").write_bytes(b"not a png")
    with pytest.raises(UserError) as caught:
        ImagesDataConfig(paths=(tmp_path,)).build()
    assert "y.png" in str(caught.value)
    kept = ImagesDataConfig(paths=(tmp_path,), unreadable="drop").build()
    assert len(kept) == 1
    assert kept.info.dropped == {"image left out: it cannot be read, or not as the others are": 1}


def test_images_that_are_measured_on_are_found_by_their_pixels(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "train" / "a.png", 30, 20)
    picture(tmp_path / "train" / "b.png", 30, 20, 1)
    (tmp_path / "test").mkdir()
    Image.fromarray(pixels).save(tmp_path / "test" / "other.bmp")
    picture(tmp_path / "test" / "c.png", 30, 20, 2)
    paths, measured = (tmp_path / "train",), (tmp_path / "test",)
    with pytest.raises(UserError, match=r"other\.bmp") as caught:
        ImagesDataConfig(paths=paths, not_in=measured).build()
    assert "data.twins=drop" in str(caught.value)
    kept = ImagesDataConfig(paths=paths, not_in=measured, twins="drop").build()
    assert [record.id for record in kept.records] == ["b.png"]
    assert kept.info.dropped == {"image left out: it is measured on": 1}
    same = ImagesDataConfig(paths=paths, not_in=paths, twins="drop")
    with pytest.raises(UserError, match="no images"):
        same.build()


def volume(file: Path, shape: tuple[int, ...], seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    nibabel = pytest.importorskip("nibabel")
    file.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(kind)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 2, 1])), file)
    return voxels


def test_volumes_are_read_by_the_slice_beside_pictures(tmp_path: Path) -> None:
    voxels = volume(tmp_path / "a.nii.gz", (12, 10, 4))
    channels = volume(tmp_path / "b.nii", (12, 10, 2, 2), 1)
    picture(tmp_path / "c.png", 10, 12)
    data = ImagesDataConfig(paths=(tmp_path,)).build(tmp_path / "cache")
    names = [f"a.nii.gz@z00{at}" for at in range(4)]
    names += [f"b.nii/{one}@z00{at}" for one in range(2) for at in range(2)]
    assert [record.id for record in data.records] == [*names, "c.png"]
    assert {name: data.info.counts[name] for name in ("images", "volumes", "slices")} == {
        "images": 1,
        "volumes": 3,
        "slices": 8,
    }
    shown = [data.sample(at, 0).images[0].numpy() for at in range(9)]
    assert all(image.shape == (3, 10, 12) for image in shown)
    for at in range(4):  # voxels lie as (x, y, z), images as rows of y
        assert np.array_equal(shown[at], np.broadcast_to(voxels[:, :, at].T, (3, 10, 12)))
    assert np.array_equal(shown[6][0], channels[:, :, 0, 1].T)
    records = {record.image_id: record.group for record in data.records}
    assert records["b.nii/0"]  # slices of a volume are on one side
    assert records["c.png"] == ""
    cut = ImagesDataConfig(paths=(tmp_path / "a.nii.gz",), axis="coronal", neighbours=1, tiles=Tiles(size=4, overlap=0))
    windows = cut.build()
    assert windows.records[0].window_xyxy == (0, 0, 4, 4)
    whole = ImagesDataConfig(paths=(tmp_path / "a.nii.gz",), axis="coronal", neighbours=1).build()
    assert torch.equal(windows.sample(1, 0).images[0], whole.sample(0, 0).images[0][:, :4, 4:8])
    assert whole.info.input["slices"] == {"axis": "coronal", "neighbours": 1, "modalities": [""]}


def test_volumes_without_a_range_and_of_other_channels_are_refused(tmp_path: Path) -> None:
    volume(tmp_path / "ct.nii.gz", (8, 8, 2), kind=np.int16)
    with pytest.raises(UserError, match="nothing says which become black and white"):
        ImagesDataConfig(paths=(tmp_path,)).build()
    window = Intake(percentiles=(1, 99))
    assert ImagesDataConfig(paths=(tmp_path,), intake=window).build().info.pixels == "uint16"
    picture(tmp_path / "x.png", 8, 8)
    assert len(ImagesDataConfig(paths=(tmp_path,), intake=window).build()) == 3
    with pytest.raises(UserError, match="3 channels among images of 5"):
        ImagesDataConfig(paths=(tmp_path,), intake=window, neighbours=2).build()
    kept = ImagesDataConfig(paths=(tmp_path,), intake=window, neighbours=2, unreadable="drop").build()
    assert {record.image_id for record in kept.records} == {"ct.nii.gz"}
    with pytest.raises(UserError, match="volumes have no bands"):
        ImagesDataConfig(paths=(tmp_path,), intake=Intake(bands=(1,), percentiles=(1, 99))).build()


def test_lists_name_files_and_folders_from_where_they_lie(tmp_path: Path) -> None:
    picture(tmp_path / "sets" / "a.png", 8, 8)
    picture(tmp_path / "sets" / "more" / "b.png", 8, 8, 1)
    names = tmp_path / "sets" / "train.txt"
    names.write_text("more\n\na.png\n./a.png\n")
    data = ImagesDataConfig(paths=(names,)).build()
    assert [record.id for record in data.records] == ["more/b.png", "a.png"]
    assert data.info.dropped == {"image left out: it is listed before": 1}
    names.write_text("a.png\ngone.png\n")
    with pytest.raises(UserError, match=r"no such image: gone\.png") as caught:
        ImagesDataConfig(paths=(names,)).build()
    assert caught.value.where == f"{names}:2"
    assert len(ImagesDataConfig(paths=(names,), unreadable="drop").build()) == 1


def test_sets_are_mixed_by_their_parts_and_nothing_is_lost(tmp_path: Path) -> None:
    for at in range(10):
        picture(tmp_path / "many" / f"{at}.png", 4, 4, at)
    for at in range(3):
        picture(tmp_path / "few" / f"{at}.png", 4, 4, 10 + at)
    paths = (tmp_path / "many", tmp_path / "few")
    data = ImagesDataConfig(paths=paths, mix=(1, 0.8)).build()
    names = [record.id for record in data.records]
    assert len(set(names)) == len(names) == 18  # 10 of one, and 8 of the other: each twice, and two of them again
    times = [sum(record.images[0].name == f"{at}.png" for record in data.records[10:]) for at in range(3)]
    assert sorted(times) == [2, 3, 3]
    assert names == [record.id for record in ImagesDataConfig(paths=paths, mix=(1, 0.8)).build().records]
    assert data.info.fingerprint != ImagesDataConfig(paths=paths).build().info.fingerprint
    with pytest.raises(UserError, match="for 2 paths"):
        ImagesDataConfig(paths=paths, mix=(1.0,))


def test_groups_by_a_pattern_stay_together_in_splits_and_shares(tmp_path: Path) -> None:
    for at in range(8):
        for scan in range(2):
            picture(tmp_path / f"p{at}_{scan}.png", 4, 4, 2 * at + scan)
    picture(tmp_path / "other.png", 4, 4, 99)
    config = ImagesDataConfig(
        paths=(tmp_path,), groups=r"^(p\d)_", random_split={"train": 0.75, "val": 0.25}, split="train"
    )
    train, val = (config.model_copy(update={"split": name}).build() for name in ("train", "val"))
    groups = [{record.group for record in data.records} for data in (train, val)]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == {*(f"p{at}" for at in range(8)), str(tmp_path / "other.png")}
    assert len(train) + len(val) == 17
    assert train.report.counts["image whose name the pattern of groups does not fit: it is a group of its own"] == 1
    (tmp_path / "p0_0.png").replace(tmp_path / "x.png")
    for at in range(1, 8):  # every patient has the same picture
        (tmp_path / f"p{at}_0.png").write_bytes((tmp_path / "x.png").read_bytes())
    with pytest.raises(UserError, match="is to be measured on"):
        config.build()
    for wrong in ("p(", r"p\d", "(a)(b)"):
        with pytest.raises(UserError):
            ImagesDataConfig(paths=(tmp_path,), groups=wrong)


def test_a_dicom_series_is_a_folder(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    (tmp_path / "p1" / "ct").mkdir(parents=True)
    file = pydicom.data.get_testdata_file("CT_small.dcm")
    shutil.copy(file, tmp_path / "p1" / "ct" / "1.dcm")
    volume(tmp_path / "p2" / "ct.nii.gz", (6, 5, 2), kind=np.int16)
    window = Intake(low=(-1000.0,), high=(1000.0,), dtype="float32")
    data = ImagesDataConfig(paths=(tmp_path,), intake=window, groups=r"^(\w+)/").build()
    assert [record.id for record in data.records] == ["p1/ct@z000", "p2/ct.nii.gz@z000", "p2/ct.nii.gz@z001"]
    assert [record.group for record in data.records] == ["p1", "p2", "p2"]
    header = pydicom.dcmread(file)
    units = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    wanted = ((units + 1000) / 2000).clip(0, 1)
    assert np.allclose(data.sample(0, 0).images[0].numpy(), wanted, atol=1e-6)
    (tmp_path / "val").mkdir()
    shutil.copy(tmp_path / "p2" / "ct.nii.gz", tmp_path / "val" / "other.nii.gz")  # measured on, under another name
    kept = ImagesDataConfig(paths=(tmp_path / "p2",), intake=window, not_in=(tmp_path / "val",))
    with pytest.raises(UserError, match=r"other\.nii\.gz"):
        kept.build()
