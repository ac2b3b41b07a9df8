"""JPEG: the same pixels as Pillow's, the damage that Pillow does not see, and checksums that see all of it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_jpegs import flipped, zeroed
from PIL import Image, ImageOps

from vistruct.files.decode import UnreadableImage, decode
from vistruct.files.images import clear_cache, read_image
from vistruct.samples import trees

SCENE = Image.open(trees().test.with_suffix(".jpg")).convert("RGB").crop((0, 0, 253, 187))  # odd: cells are cut


def jpeg(image: Image.Image = SCENE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90} | options)
    return buffer.getvalue()


KINDS: dict[str, bytes] = {
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_rows=2),
    "grey": jpeg(SCENE.convert("L")),
    "cmyk": jpeg(SCENE.convert("CMYK")),
    "rgb inside": jpeg(keep_rgb=True),
    "one pixel": jpeg(SCENE.crop((0, 0, 1, 1))),
    "one row": jpeg(SCENE.crop((0, 0, 100, 1))),
    "bytes behind its end": jpeg() + b"a camera's own",
}


def as_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_pillows(kind: str) -> None:
    pixels = decode(KINDS[kind], kind).permute(1, 2, 0).numpy()
    expected = as_pillow(KINDS[kind])
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)
    pixels = decode(data, "turned").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, as_pillow(data))


def test_a_phones_picture_with_its_preview_is_its_first_image(tmp_path: Path) -> None:
    path = tmp_path / "a.mpo"
    SCENE.save(path, save_all=True, append_images=[SCENE.resize((40, 30))])
    image = read_image(path)
    assert tuple(image.shape[1:]) == (187, 253)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(Image.open(path))).max() <= 1


@pytest.mark.parametrize(("damage", "seen_without"), [(zeroed, 0.9), (flipped, 0.4)])
def test_checksums_find_all_damage_and_decoding_alone_most_of_it(
    damage: Callable[[bytes, np.random.Generator], bytes], seen_without: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    found, found_without, found_by_pillow = 0, 0, 0
    for number in range(200):
        data = jpeg(SCENE.crop((number % 50, 0, 200, 150)), quality=80 + number % 15)
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(damage(data, rng))
        with pytest.raises(UnreadableImage) as caught:
            read_image(path, crc32=zlib.crc32(data))
        found += "changed since it was indexed" in caught.value.what and caught.value.where == str(path)
        try:
            decode(path.read_bytes(), path)
        except UnreadableImage:
            found_without += 1
        try:
            as_pillow(path.read_bytes())
        except (OSError, SyntaxError):
            found_by_pillow += 1
    assert found == 200
    assert found_without >= seen_without * 200
    assert found_by_pillow < 0.2 * 200


def test_an_intact_file_passes_its_checksum_and_damage_is_named() -> None:
    data = jpeg()
    middle = len(data) // 2
    with pytest.raises(UnreadableImage, match="the JPEG is damaged") as caught:
        decode(data[:middle] + bytes(4096) + data[middle + 4096 :], "port.jpg")
    assert caught.value.where == "port.jpg"
    assert "again" in caught.value.fix


def test_a_checksum_is_looked_at_when_bytes_are_read_and_the_cache_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    right = zlib.crc32(path.read_bytes())
    clear_cache()
    first = read_image(path, crc32=right)
    assert (read_image(path, crc32=right + 1) == first).all()  # no second reading of the same bytes
    clear_cache()
    with pytest.raises(UnreadableImage, match="changed since"):
        read_image(path, crc32=right + 1)
    clear_cache()
    assert (read_image(path, (0, 0, 9, 9), right) == first[:, :9, :9]).all()
