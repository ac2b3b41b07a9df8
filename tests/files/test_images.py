"""Decoding: pixels that come back, and what becomes of files that are not what they should be."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vistruct.errors import UserError
from vistruct.files import images
from vistruct.files.decode import MAX_PIXELS_VARIABLE
from vistruct.files.images import clear_cache, decode, image_size, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


@pytest.fixture(autouse=True)
def _fresh_cache():
    clear_cache()
    yield
    clear_cache()


def saved(path: Path, pixels: np.ndarray = PIXELS, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def as_array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_lossless_files_give_back_their_pixels(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    image = read_image(saved(tmp_path / name, **options))
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()  # channels last
    np.testing.assert_array_equal(as_array(image), PIXELS)


def test_a_jpeg_is_close_to_the_pixels_that_were_saved(tmp_path: Path) -> None:
    pixels = np.kron(PIXELS, np.ones((8, 8, 1), np.uint8))
    path = saved(tmp_path / "a.jpg", pixels, quality=95, subsampling=0)
    assert np.abs(as_array(read_image(path)).astype(int) - pixels).max() <= 8


MODES = ["L", "LA", "RGBA", "P", "1"]


@pytest.mark.parametrize(("suffix", "mode"), [*zip(["png"] * 5 + ["tif"] * 5, MODES * 2, strict=True), ("tif", "CMYK")])
def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", mode=mode)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(as_array(read_image(path)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_applied_and_the_header_agrees(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # one bright corner says which way is up
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", pixels, exif=exif, **options)
    ways = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    image = read_image(path)
    assert image_size(path) == tuple(image.shape[1:]) == ((16, 32) if orientation < 5 else (32, 16))
    bright = {corner for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if image[0][corner] > 128}
    assert bright == {ways[orientation]}  # corner that EXIF says the file's top left belongs in


def test_a_window_is_that_part_of_the_image_and_may_be_written_on(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    part = read_image(path, (1, 2, 4, 6))
    np.testing.assert_array_equal(as_array(part), PIXELS[2:6, 1:4])
    part.zero_()
    read_image(path).zero_()
    np.testing.assert_array_equal(as_array(read_image(path)), PIXELS)  # the cached image is not the caller's


@pytest.mark.parametrize("window", [(0, 0, 6, 7), (-1, 0, 2, 2), (2, 2, 2, 4), (4, 0, 3, 2)])
def test_a_window_that_is_not_inside_the_image_is_an_error(tmp_path: Path, window: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="5 x 7"):
        read_image(saved(tmp_path / "a.png"), window)


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PIXELS[:1, :1])
    np.testing.assert_array_equal(as_array(read_image(path)), PIXELS[:1, :1])
    assert image_size(path) == (1, 1)


def test_many_windows_of_a_scene_decode_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png")
    calls: list[object] = []
    monkeypatch.setattr(images._cache, "decode", lambda data, name: calls.append(name) or decode(data, name))
    for x in range(5):
        read_image(path, (x, 0, x + 1, 7))
    assert calls == [path]
    saved(path, PIXELS[:3])  # another file under the same name is another image
    assert read_image(path).shape == (3, 3, 5)


def test_the_cache_forgets_the_oldest_beyond_its_bytes_and_always_holds_the_newest(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{n}.png") for n in range(3)]  # 105 bytes each when decoded
    cache = images.DecodedCache(210, decode)
    for path in paths:
        cache.get(path)
    assert [key[0] for key in cache.images] == [str(path) for path in paths[1:]]
    small = images.DecodedCache(1, decode)
    small.get(paths[0])
    small.get(paths[1])
    assert [key[0] for key in small.images] == [str(paths[1])]


def test_two_images_larger_than_the_cache_are_never_held_together(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{n}.png") for n in range(3)]
    held = []

    def watched(data: bytes, name: object) -> torch.Tensor:
        held.append(cache.bytes)
        return decode(data, name)

    cache = images.DecodedCache(1, watched)
    for path in paths:
        cache.get(path)
    assert held == [0, 0, 0]
    assert cache.bytes > 0


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for path, words in [(tmp_path / "no.jpg", "no such image"), (tmp_path, "cannot read"), (empty, "empty")]:
        for function in (read_image, image_size):
            with pytest.raises(UserError, match=words) as caught:
                function(path)
            assert str(path) == caught.value.where
            assert caught.value.fix


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_is_an_error(tmp_path: Path, suffix: str, part: float) -> None:
    path = saved(tmp_path / f"a.{suffix}", np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert caught.value.where == str(path)


def test_text_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match="not an image"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_refused_and_said(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(path)
    with pytest.raises(UserError, match="8-bit") as caught:
        read_image(path)
    assert "--percentiles 1,99" in caught.value.fix
    assert image_size(path) == (4, 4)


def test_sixteen_bit_colour_is_refused_and_not_cut_to_eight(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(hand_made_png(2, 2, bits=16, rows=(b"\0" + bytes(12)) * 2))
    with pytest.raises(UserError, match="16 bits"):
        read_image(path)


def hand_made_png(width: int, height: int, *, bits: int, rows: bytes) -> bytes:
    """An RGB PNG; `rows` as the format has them, each with its filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_fourth_band_that_is_no_transparency_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGBX", (4, 4)).save(path)
    with pytest.raises(UserError, match="4 bands"):
        read_image(path)


def test_an_animation_is_refused_rather_than_read_as_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several images"):
        read_image(tmp_path / "a.gif")


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(hand_made_png(40_000, 40_000, bits=8, rows=bytes(100)))
    for function in (read_image, image_size):
        with pytest.raises(UserError, match="1600000000 pixels") as caught:
            function(path)
        assert MAX_PIXELS_VARIABLE in caught.value.fix
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1600000000")
    assert image_size(path) == (40_000, 40_000)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "34")
    with pytest.raises(UserError, match="35 pixels"):
        read_image(saved(tmp_path / "a.png"))
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(UserError, match="'many'"):
        image_size(path)


def _files() -> dict[str, bytes]:
    pixels = Image.fromarray(np.kron(PIXELS, np.ones((4, 4, 1), np.uint8)))
    made: dict[str, bytes] = {}
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"):
        buffer = io.BytesIO()
        pixels.save(buffer, kind)
        made[kind] = buffer.getvalue()
    return made


FILES = _files()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about strange TIFF tags
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_give_an_image_or_a_user_error_and_nothing_else(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(FILES[kind])
    for at, value in changes:
        data[at % len(data)] = value
    try:
        image = decode(bytes(data), "damaged")
    except UserError as error:
        assert error.where == "damaged"  # noqa: PT017
    else:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
