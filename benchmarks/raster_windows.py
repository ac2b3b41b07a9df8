"""Windows of a large raster, beside plain rasterio.

Run:  uv run python benchmarks/raster_windows.py [--width 12000] [--height 9000] [--windows 40] [--rounds 5]

The same random windows of 512 pixels out of the same files, in one process, turn about; the pixels must be the same.
rasterio opens the file for each window, as a data set must whose files are many; `kept` keeps it open, with as much of
the machine's memory for decoded blocks as GDAL takes by itself. Seconds of processor time, medians; peak is the memory
that a process of its own has more at its end than before the first window.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table

from vistruct.files.images import read_image

SIDE = 512
Places = Sequence[tuple[int, int]]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles, deflate": {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"},
    "strips, deflate": {"compress": "deflate"},
    "strips": {},
}


def made(folder: Path, layout: str, width: int, height: int) -> Path:
    """RGB of 8 bits, in patches that compress as pictures do not: what is measured is more than inflating."""
    path = folder / f"{layout.replace(', ', '_')}.tif"
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pixels = small.repeat(8, 0).repeat(8, 1)[:height, :width].transpose(2, 0, 1)
    settings = {"width": width, "height": height, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", **settings, **LAYOUTS[layout]) as file:
        file.write(pixels)
    return path


def plain(path: Path, places: Places) -> list[np.ndarray]:
    found = []
    for x, y in places:
        with rasterio.open(path) as file:
            found.append(file.read(window=Window(x, y, SIDE, SIDE)))
    return found


def kept(path: Path, places: Places) -> list[np.ndarray]:
    with rasterio.open(path) as file:
        return [file.read(window=Window(x, y, SIDE, SIDE)) for x, y in places]


def ours(path: Path, places: Places) -> list[np.ndarray]:
    return [read_image(path, (x, y, x + SIDE, y + SIDE)).numpy() for x, y in places]


WAYS: dict[str, Callable[[Path, Places], list[np.ndarray]]] = {"rasterio": plain, "rasterio, kept": kept, "ours": ours}


def high_water() -> float:
    """MiB that this process had at most."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peak(path: Path, way: str, places: Places) -> float:
    """MiB, of windows that are given up one after the other."""
    text = ";".join(f"{x},{y}" for x, y in places)
    command = [sys.executable, __file__, "--peak", way, str(path), text]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    parser = argparse.ArgumentParser()
    for name, value in (("width", 12_000), ("height", 9_000), ("windows", 40), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:  # a process of its own, so that nothing else was ever in its memory
        way, path, text = given.peak
        before = high_water()
        for place in [text] if way == "rasterio, kept" else text.split(";"):
            WAYS[way](Path(path), [(int(x), int(y)) for x, y in (one.split(",") for one in place.split(";"))])
        print(high_water() - before)
        return
    rng = np.random.default_rng(1)
    table = Table("file", "way", "ms a window", "ratio", "peak, MiB")
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            path = made(Path(folder), layout, given.width, given.height)
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(given.rounds):
                corners = rng.integers(0, (given.width - SIDE, given.height - SIDE), (given.windows, 2))
                places = [(int(x), int(y)) for x, y in corners]
                found = []
                for way, work in WAYS.items():
                    start = time.process_time()
                    found.append(work(path, places))
                    taken[way].append((time.process_time() - start) / given.windows)
                for one in found[1:]:
                    np.testing.assert_array_equal(one, found[0])
            usual = statistics.median(taken["rasterio"])
            for way, seconds in taken.items():
                median = statistics.median(seconds)
                most = f"{peak(path, way, places):.0f}"
                table.add_row(layout, way, f"{1000 * median:.1f}", f"{median / usual:.2f}", most)
            path.unlink()
    Console().print(table)


if __name__ == "__main__":
    main()
