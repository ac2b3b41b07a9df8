"""A large image through a network in overlapping windows, beside MONAI's sliding_window_inference.

Run:  uv run python benchmarks/slide.py [--side 1024] [--classes 16] [--window 512] [--overlap 256] [--rounds 5]

One network, the same windows, the same weights (MONAI is given ours as its importance map), one process, turn about;
the answers must agree. The network is small on purpose: a large one hides what the putting together costs. `blank` is
one that answers at once, so that nothing but the putting together is left. MONAI has the whole image and all of its
probabilities in memory and is called once with `sw_device` and `device` alike; ours reads windows, and gives strips
that are thrown away as a writer would. Seconds of processor time, medians; peak is the memory that each adds at most.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vistruct.windows.slide import Slide, slide

BATCH = 4


def network(name: str, classes: int) -> Callable[[Tensor], Tensor]:
    """uint8[B, 3, h, w] -> float[B, K, h, w] in [0, 1]."""
    if name == "blank":
        answer: dict[tuple[int, ...], Tensor] = {}

        def blank(images: Tensor) -> Tensor:
            shape = (len(images), classes, *images.shape[-2:])
            return answer.setdefault(shape, torch.rand(shape))

        return blank
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.GELU(), nn.Conv2d(16, 32, 3, padding=1), nn.GELU())
    head = nn.Conv2d(32, classes, 1)

    def look(images: Tensor) -> Tensor:
        found = head(layers(images.float() / 255))
        return nn.functional.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False).softmax(dim=1)

    return look


def ours(image: Tensor, how: Slide, look: Callable[[Tensor], Tensor], *, keep: bool) -> Tensor | None:
    strips = slide(
        lambda window: image[None, :, window[1] : window[3], window[0] : window[2]],
        (image.shape[1], image.shape[2]),
        how,
        lambda images: look(images[:, 0]),
    )
    if keep:
        return torch.cat([strip.probabilities for strip in strips], dim=1)
    for strip in strips:
        strip.probabilities.max(dim=0)
    return None


def monais(image: Tensor, how: Slide, look: Callable[[Tensor], Tensor], *, keep: bool) -> Tensor | None:
    size = how.size or 0
    steps = torch.arange(1, size + 1).float()
    ramp = torch.minimum(steps, steps.flip(0)).clamp(max=how.overlap + 1)
    found: Any = sliding_window_inference(
        image[None].float(),  # the answer takes the type of the image
        (size, size),
        how.batch,
        look,
        overlap=how.overlap / size,
        roi_weight_map=ramp[:, None] * ramp,
    )
    if keep:
        return found[0]
    found.max(dim=1)
    return None


WAYS: dict[str, Callable[..., Tensor | None]] = {"MONAI": monais, "ours": ours}


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def high_water() -> float:
    """MiB that this process had at most."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("side", 1024), ("classes", 16), ("window", 512), ("overlap", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    image = torch.randint(0, 256, (3, given.side, given.side), dtype=torch.uint8)
    how = Slide(size=given.window, overlap=given.overlap, batch=BATCH)
    if given.peak:  # a process of its own, so that nothing else was ever in its memory
        way, name = given.peak
        look = network(name, given.classes)
        with torch.no_grad():
            WAYS[way](image[:, : given.window, : given.window], how, look, keep=False)
            before = high_water()
            WAYS[way](image, how, look, keep=False)
        print(high_water() - before)
        return
    table = Table("network", "way", "seconds", "ratio", "peak, MiB")
    for name in ("small", "blank"):
        look = network(name, given.classes)
        with torch.no_grad():
            if name == "small":
                left, right = (way(image, how, look, keep=True) for way in WAYS.values())
                assert left is not None
                assert right is not None
                torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(given.rounds):
                for way, work in WAYS.items():
                    taken[way].append(seconds(partial(work, image, how, look, keep=False)))
        medians = {way: statistics.median(values) for way, values in taken.items()}
        for way, median in medians.items():
            peak = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--peak", way, name],
                capture_output=True,
                text=True,
                check=True,
            )
            ratio = medians["MONAI"] / median
            table.add_row(name, way, f"{median:.2f}", f"{ratio:.2f} x", f"{float(peak.stdout.split()[-1]):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
