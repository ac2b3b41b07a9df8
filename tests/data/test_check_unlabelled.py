"""What `check` and `show` say of images without labels: every kind of trouble planted in a sound folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.cli.main import main
from vistruct.data.checks.check import check, check_run
from vistruct.data.reading import PixelValues, Reading
from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.errors import UserError


def picture(file: Path, height: int, width: int, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture(tmp_path / "pictures" / "a.png", 20, 30, 0)
    picture(tmp_path / "pictures" / "more" / "b.jpg", 600, 40, 1)
    return tmp_path / "pictures"


def places(root: Path, **more: object) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {one.what: (one.effect, one.places) for one in check(root, **more).problems}  # ty: ignore[invalid-argument-type]


def test_a_sound_folder_is_counted(root: Path) -> None:
    found = check(root)
    assert found.format == "images"
    assert found.counts == {"images": 2, "folders": 2, "windows of 512": 3, "images decoded": 2}
    assert found.sizes == {
        "image pixels": "30 x 20 to 40 x 600",
        "bands": "3 x uint8 (2)",
        "endings": ".png (1), .jpg (1)",
    }
    assert (found.problems, found.ok) == ((), True)
    (root.parent / "few.txt").write_text("pictures/more\n")
    assert check(root.parent / "few.txt").counts == {
        "images": 1,
        "folders": 1,
        "windows of 512": 2,
        "images decoded": 1,
    }


def test_what_is_broken_twice_or_measured_on_is_named(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "a.png", root / "again.png")
    (root / "zero.png").touch()
    (root / "cut.jpg").write_bytes((root / "more" / "b.jpg").read_bytes()[:4000])
    (root / "notes.doc").touch()
    (tmp_path / "val").mkdir()
    Image.open(root / "a.png").save(tmp_path / "val" / "x.bmp")
    picture(root / "masks" / "m.png", 9, 9, 5)
    (root / "more" / "up").symlink_to(root, target_is_directory=True)
    found = places(root, not_in=(tmp_path / "val",))
    stopping = {what: named for what, (effect, named) in found.items() if effect == "stops training"}
    assert stopping.pop("the image file is empty (0 bytes)") == (str(root / "zero.png"),)
    assert stopping.pop("image that is to be measured on, by its bytes or pixels") == tuple(
        f"{root / name} is {tmp_path / 'val' / 'x.bmp'}" for name in ("a.png", "again.png")
    )
    assert list(stopping.values()) == [(str(root / "cut.jpg"),)]
    assert found["the same image twice, under two names"] == ("kept", (f"{root / 'again.png'} is {root / 'a.png'}",))
    assert found["file left out: no image ending"][1] == (str(root / "notes.doc"),)
    assert found["folder left out: a link to one that was looked through before"][1] == (str(root / "more" / "up"),)
    labels = "image in a folder that is called as those of labels are: learned like any other"
    assert found[labels] == ("kept", (str(root / "masks" / "m.png"),))
    dropped = check(root, Reading(format="images", missing="drop"))
    assert dropped.ok
    assert [one.count for one in dropped.problems if "cannot be read" in one.what] == [2]


def test_bands_without_a_range_or_of_other_numbers_stop(root: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "count": 5, "height": 8, "width": 8, "dtype": "uint16"}
    with rasterio.open(
        root / "deep.tif", "w", crs="EPSG:32632", transform=rasterio.Affine(1, 0, 0, 0, -1, 0), **profile
    ) as file:
        file.write(np.random.default_rng(0).integers(0, 4000, (5, 8, 8), np.uint16))
    found = check(root)
    assert found.sizes["bands"] == "3 x uint8 (2), 5 x uint16 (1)"
    assert [one.places for one in found.problems] == [(str(root / "deep.tif"),)]
    ranged = check(root, values=PixelValues(low=(0.0,), high=(4000.0,)))
    assert ["bands among images of" in one.what for one in ranged.problems] == [True]
    assert check(root, values=PixelValues(bands=(1, 2, 3), low=(0.0,), high=(4000.0,))).ok


def test_volumes_are_looked_at_without_labels_where_that_is_asked_for(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for seed in range(2):
        voxels = np.random.default_rng(seed).integers(-900, 400, (9, 8, 3)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 2, 1])), tmp_path / f"{seed}.nii.gz")
    unlabelled = next(one for one in check(tmp_path).problems if "has labels" in one.what)
    assert "--format images" in unlabelled.fix
    plain = Reading(format="images")
    assert not check(tmp_path, plain).ok  # values without a range
    found = check(tmp_path, plain, PixelValues(percentiles=(1, 99)))
    assert found.ok
    assert found.counts == {"images": 0, "volumes": 2, "slices (axial)": 6, "folders": 1}
    shutil.copy(tmp_path / "0.nii.gz", tmp_path / "copy.nii.gz")
    problems = check(tmp_path, plain, PixelValues(percentiles=(1, 99))).problems
    assert [one.what for one in problems] == ["the same voxels under several names"]


def test_options_of_labels_mean_nothing_and_a_run_is_looked_at_once(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--split means nothing"):
        check(root, split="train")
    with pytest.raises(UserError, match="--classes means nothing"):
        check(root, Reading(format="images", classes=("a",)))
    train = ImagesDataConfig(paths=(root,), random_split={"train": 0.5, "val": 0.5}, split="train")
    assert list(check_run({"main": train, "val": train.model_copy(update={"split": "val"})})) == ["main"]
    (tmp_path / "data.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="--not-in means nothing"):
        check(tmp_path / "data.json", not_in=(root,))


def test_the_commands(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", str(root), "--not-in", f"{root / 'more'},{tmp_path / 'none'}"])
    assert caught.value.code
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["check", str(root), "--not-in", str(root / "more")])
    assert caught.value.code == 1
    assert "is to be measured on" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["show", str(root), "--out", str(tmp_path / "sheet.png")])
    assert not caught.value.code
    assert Image.open(tmp_path / "sheet.png").size[0] > 100
