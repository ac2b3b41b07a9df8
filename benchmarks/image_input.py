"""From an image file to normalised tiles: ours beside the published pipeline, in samples per core.

Run:  uv run python benchmarks/image_input.py

(a) the published pipeline: Pillow decodes, resizes and cuts; each tile is resized again (which changes nothing), made a
    float tensor and normalised, in the loader.
(b) ours: uint8 all the way, channels last; tiles are normalised on the device, which the last columns add on the
    CPU for where there is no other device.
One thread, CPU time, interleaved, medians. The pictures are made of the aerial scene that comes with vistruct:
`fine` is a part of it as it is (much detail, which makes a JPEG large and slow to decode), `smooth` is enlarged
twice, closer to most photos.
Then the loader: which share of its time the main process waits if a step takes as long as the workers need for it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision import transforms

from vistruct.contracts import DataInfo, Sample
from vistruct.data.loading.loader import Loader
from vistruct.files.images import clear_cache, read_image
from vistruct.samples import trees
from vistruct.tasks.instruct import IMAGENET_MEAN, IMAGENET_STD
from vistruct.vlm.tiling import Tiling, choose_grid, normalise, tile

RUNS = 15
TILING = Tiling()
PUBLISHED = transforms.Compose(
    [
        transforms.Resize((448, 448), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)
MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        input_table(Path(folder))
        stall_table(Path(folder))


# --- one sample


def published(path: Path, max_tiles: int) -> Tensor:
    image = Image.open(path).convert("RGB")
    columns, rows = choose_grid((image.height, image.width), TILING, max_tiles)
    whole = image.resize((448 * columns, 448 * rows))
    cut = [whole.crop((448 * c, 448 * r, 448 * c + 448, 448 * r + 448)) for r in range(rows) for c in range(columns)]
    if len(cut) > 1:
        cut.append(image.resize((448, 448)))
    return torch.stack([PUBLISHED(t) for t in cut])


def ours(path: Path, max_tiles: int) -> Tensor:
    clear_cache()
    return tile(read_image(path), TILING, max_tiles=max_tiles)


def input_table(folder: Path) -> None:
    table = Table(
        "image", "file KB", "max tiles", "tiles", "published ms", "ours ms", "times", "+ normalise ms", "times",
        "decode ms", "values off by 1, 2",
        title="file to tiles, one thread", caption="decode: Pillow's -> ours; off: grey levels from the published",
    )  # fmt: skip
    for name, path, max_tiles in pictures(folder):
        table.add_row(*row(name, path, max_tiles))
    Console(width=150).print(table)


def row(name: str, path: Path, max_tiles: int) -> list[str]:
    tiles = ours(path, max_tiles)
    exact = ((published(path, max_tiles) * STD + MEAN) * 255).round()
    off = (tiles - exact).abs().flatten().int().bincount(minlength=3) / tiles.numel()
    ms = medians(
        {
            "published": lambda: published(path, max_tiles),
            "ours": lambda: ours(path, max_tiles),
            "normalised": lambda: normalise(ours(path, max_tiles), MEAN, STD),
            "pillow": lambda: Image.open(path).convert("RGB"),
            "decode": lambda: (clear_cache(), read_image(path)),
        }
    )
    return [
        name, f"{path.stat().st_size / 1000:.0f}", str(max_tiles), str(len(tiles)),
        f"{ms['published']:.1f}", f"{ms['ours']:.1f}", f"{ms['published'] / ms['ours']:.1f}",
        f"{ms['normalised']:.1f}", f"{ms['published'] / ms['normalised']:.1f}",
        f"{ms['pillow']:.1f} -> {ms['decode']:.1f}", f"{100 * off[1]:.1f} %, {1e6 * off[2:].sum():.0f} ppm",
    ]  # fmt: skip


def pictures(folder: Path) -> list[tuple[str, Path, int]]:
    scene = Image.open(trees().train.with_suffix(".jpg")).convert("RGB")

    def made(name: str, width: int, height: int, suffix: str, *, smooth: int = 1, **options: Any) -> Path:
        part = scene.crop((0, 0, width // smooth, height // smooth)).resize((width, height))
        path = folder / f"{name.replace(' ', '_')}_{width}x{height}.{suffix}"
        part.save(path, **options)
        return path

    jpeg: dict[str, Any] = {"suffix": "jpg", "quality": 85}
    return [
        ("448 x 448 jpeg", made("small", 448, 448, **jpeg), 12),
        ("1024 x 1024 jpeg, fine", made("fine", 1024, 1024, **jpeg), 6),
        ("1024 x 1024 jpeg, fine", made("fine", 1024, 1024, **jpeg), 12),
        ("1024 x 1024 jpeg, smooth", made("smooth", 1024, 1024, smooth=2, **jpeg), 6),
        ("1024 x 1024 jpeg, smooth", made("smooth", 1024, 1024, smooth=2, **jpeg), 12),
        ("1024 x 683 jpeg, fine", made("fine", 1024, 683, **jpeg), 6),
        ("1024 x 768 jpeg, fine", made("fine", 1024, 768, **jpeg), 12),
        ("1920 x 1080 jpeg, fine", made("fine", 1920, 1080, **jpeg), 12),
        ("1024 x 1024 png, fine", made("fine", 1024, 1024, "png"), 12),
        ("1024 x 1024 png, smooth", made("smooth", 1024, 1024, "png", smooth=2), 12),
        ("1024 x 1024 webp, fine", made("fine", 1024, 1024, "webp", quality=85), 12),
    ]


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if run:  # the first is for warming up
                times[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


# --- the loader


@dataclass(frozen=True)
class Pictures:
    """The same few files again and again, decoded each time."""

    paths: tuple[Path, ...]

    info = DataInfo()
    records = ()

    def __len__(self) -> int:
        return 4096

    def sample(self, index: int, seed: int) -> Sample:
        clear_cache()
        path = self.paths[index % len(self.paths)]
        return Sample(id=str(index), image_id=path.name, seed=seed, images=[read_image(path)])


def collate(samples: list[Sample]) -> Tensor:
    return torch.cat([tile(image, TILING) for sample in samples for image in sample.images])


def stall_table(folder: Path, batch: int = 8, steps: int = 25) -> None:
    table = Table(
        "workers", "s a batch", "step, of what the workers need", "share of time waited",
        title=f"batches of {batch} images of mixed sizes, a step that only sleeps",
    )  # fmt: skip
    data: Any = Pictures(tuple(path for _, path, _ in pictures(folder) if path.suffix == ".jpg"))
    for workers in (1, 2):
        for factor in (1.0, 1.25, 1.5):
            batches = iter(Loader(data, collate, batch=batch, workers=workers))
            waits(batches, 3 * workers, 0)
            batch_s = waits(batches, steps, 0) / steps  # as fast as they can, now
            slept = factor * batch_s
            waited = waits(batches, steps, slept)
            share = waited / (waited + steps * slept)
            table.add_row(str(workers), f"{batch_s:.3f}", f"{factor:.2f} x", f"{100 * share:.1f} %")
            batches.close()
    Console(width=150).print(table)


def waits(batches: Iterator[Any], steps: int, step_s: float) -> float:
    """Seconds that the main process waited for so many batches."""
    waited = 0.0
    for _ in range(steps):
        time.sleep(step_s)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    return waited


if __name__ == "__main__":
    main()
