"""Files that a folder of images has in it once it is large enough: each is read right, or named with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (20, 30), np.uint16)
PICTURE = Image.fromarray(RGB)
FEW = PICTURE.quantize(16)
CMYK = PICTURE.convert("CMYK")
ALPHA = Image.fromarray(np.dstack([RGB, GREY]))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # shown after a quarter turn clockwise


def read(root: Path, **more: object) -> np.ndarray:
    data = ImagesDataConfig(paths=(root,), **more).build()  # ty: ignore[invalid-argument-type]
    return data.sample(0, 0).images[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("name", "image", "shown", "close"),
    [
        ("palette.png", FEW, np.array(FEW.convert("RGB")), 0),
        ("palette.tif", FEW, np.array(FEW.convert("RGB")), 0),
        ("palette.gif", FEW, np.array(FEW.convert("RGB")), 0),
        ("cmyk.tif", CMYK, RGB, 1),
        ("alpha.png", ALPHA, RGB, 0),  # colours as they are, also where they are see-through
        ("alpha.tif", ALPHA, RGB, 0),
        ("grey-alpha.png", Image.fromarray(np.dstack([GREY, GREY]), "LA"), np.dstack([GREY] * 3), 0),
        ("grey.bmp", Image.fromarray(GREY), np.dstack([GREY] * 3), 0),
        ("bits.png", Image.fromarray(GREY > 99), np.dstack([np.uint8(255) * (GREY > 99)] * 3), 0),
        ("bits.tif", Image.fromarray(GREY > 99), np.dstack([np.uint8(255) * (GREY > 99)] * 3), 0),
        ("CAPITALS.PNG", PICTURE, RGB, 0),
    ],
)
def test_kinds_of_pictures_become_colours(
    tmp_path: Path, name: str, image: Image.Image, shown: np.ndarray, close: int
) -> None:
    image.save(tmp_path / name)
    assert np.abs(read(tmp_path).astype(int) - shown).max() <= close


def test_cmyk_jpegs_and_turned_ones(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.full((16, 24, 3), (200, 60, 20), np.uint8))
    smooth.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read(tmp_path).astype(int) - (200, 60, 20)).max() <= 4
    halves = np.zeros((16, 24, 3), np.uint8)
    halves[:, 12:] = 255
    Image.fromarray(halves).save(tmp_path / "a.jpg", exif=TURNED)
    shown = read(tmp_path)
    assert shown.shape == (24, 16, 3)
    assert shown[:10].max() < 20
    assert shown[14:].min() > 235


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_need_a_range_and_keep_it(tmp_path: Path, name: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / name)
    with pytest.raises(UserError, match="1 band of uint16") as caught:
        read(tmp_path)
    assert "--percentiles 1,99" in caught.value.fix
    assert "--bands" not in caught.value.fix  # there is one alone
    shown = read(tmp_path, intake=Intake(low=(1000.0,), high=(60000.0,)))
    wanted = ((DEEP.astype(float) - 1000) / 59000).clip(0, 1) * 65535
    assert np.abs(shown.astype(float) - wanted[..., None]).max() <= 1


def cut(image: Image.Image, file: Path) -> None:
    image.resize((300, 300)).save(file)
    file.write_bytes(file.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("zero.png", lambda file: file.touch(), r"empty \(0 bytes\)"),
        ("zero.tif", lambda file: file.touch(), r"empty \(0 bytes\)"),
        ("zero.nii.gz", lambda file: file.touch(), "no NIfTI"),
        ("text.jpg", lambda file: file.write_text("<html>not found</html>"), "cannot decode"),
        ("gone.png", lambda file: file.symlink_to("nowhere.png"), "no such image"),
        (
            "two.tif",
            lambda file: PICTURE.save(file, save_all=True, append_images=[FEW.convert("RGB")]),
            "several images",
        ),
    ],
)
def test_what_is_no_image_is_named_when_it_is_listed(
    tmp_path: Path, name: str, write: Callable[[Path], object], words: str
) -> None:
    PICTURE.save(tmp_path / "good.png")
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as caught:
        ImagesDataConfig(paths=(tmp_path,)).build()
    assert caught.value.where == str(tmp_path / name)
    assert caught.value.fix.endswith("or --set data.unreadable=drop leaves such files out, counted")
    kept = ImagesDataConfig(paths=(tmp_path,), unreadable="drop").build()
    assert [record.id for record in kept.records] == ["good.png"]
    assert kept.info.dropped == {"image left out: it cannot be read, or not as the others are": 1}


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif"])
def test_what_is_cut_short_is_named_when_it_is_read(tmp_path: Path, name: str) -> None:
    cut(PICTURE, tmp_path / name)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert caught.value.where == str(tmp_path / name)


def test_folders_called_as_images_links_in_circles_and_names_that_are_there_twice(tmp_path: Path) -> None:
    for place, seed in (("a.png", 0), ("b", 1), ("b/deep", 2)):
        (tmp_path / place).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / place / "x.png")
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    PICTURE.save(tmp_path / ".hidden" / "thumb.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    PICTURE.save(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    data = ImagesDataConfig(paths=(tmp_path / "a.png", tmp_path / "b", tmp_path / "data")).build()
    names = [record.id.removeprefix(f"{tmp_path}/") for record in data.records]
    assert sorted(names) == ["a.png/x.png", "b/deep/x.png", "b/round/data/link/linked.png", "b/x.png"]
    alone = ImagesDataConfig(paths=(tmp_path / "data",)).build()
    assert [record.id for record in alone.records] == ["link/linked.png"]
    whole = ImagesDataConfig(paths=(tmp_path,)).build()
    assert [record.id for record in whole.records] == ["a.png/x.png", "b/x.png", "b/deep/x.png", "data/link/linked.png"]
    assert whole.info.dropped == {"folder left out: a link to one that was looked through before": 2}
