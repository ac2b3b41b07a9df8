"""What an image takes is compared with what is there, before it is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vistruct.files.decode as decode_file
import vistruct.files.memory as memory
from vistruct.files.decode import UnreadableImage, decode
from vistruct.files.memory import available_bytes
from vistruct.files.rasters import decode_raster


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(side: int, rows: int) -> bytes:
    """Zeros of `side` x `side` pixels, of which only the first rows are there; every checksum is right."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((side + 1) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [decode, decode_raster])
def test_a_file_that_cannot_hold_its_pixels_is_refused_before_memory_is_taken(read):
    with pytest.raises(UnreadableImage, match="cannot hold 29000 x 29000 pixels"):
        read(grey_png(29000, 2048), "bomb.png")


@pytest.mark.parametrize("read", [decode, decode_raster])
def test_what_is_needed_and_what_is_there_are_both_named(monkeypatch, read):
    monkeypatch.setattr(decode_file, "available_bytes", lambda: 2**20)
    with pytest.raises(UnreadableImage, match=r"take 0\.1 GiB while they are decoded, and 0\.0 GiB are left"):
        read(grey_png(4200, 4200), "large.png")
    assert read(grey_png(40, 40), "small.png").shape[-2:] == (40, 40)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
def test_strips_give_the_pixels_of_the_whole(monkeypatch, mode):
    pixels = np.random.default_rng(0).integers(0, 255, (53, 31, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    whole = decode(file.getvalue(), "x")
    monkeypatch.setattr(decode_file, "_LARGE", 100)
    assert (decode(file.getvalue(), "x") == whole).all()
    assert (whole.permute(1, 2, 0).numpy() == np.asarray(image.convert("RGB"))).all()


def test_the_least_of_machine_and_container_counts(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert available_bytes() == 4_096_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert available_bytes() == 4_096_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert available_bytes() == 995
    monkeypatch.setattr(memory, "_SYSTEM", Path("/nowhere"))
    monkeypatch.setattr(memory, "_GROUPS", Path("/nowhere"))
    assert available_bytes() is None
