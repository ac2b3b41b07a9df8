"""Oriented boxes: IoU and NMS beside shapely with a search tree, then the two sampling operators.

Run:  uv run python benchmarks/oriented_ops.py

`spread` are boxes of an aerial tile of 1024 px with log-normal sizes, 1 % of whose pairs overlap; of `piled` ones all
do. shapely builds its polygons and its tree and intersects only what the tree finds; its NMS keeps the best box, asks
for the overlaps of that one with those still alive, and goes on.
Both give the same boxes, and the same IoU (but that the quads were rounded to float32).
One thread, processor time: the medians of ours before and after shapely, which takes too long to repeat. Where there
is a GPU, the second table also has what ours takes there, by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import shapely
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vistruct.ops.deformable_attention import deformable_attention
from vistruct.ops.oriented import cxcywha_to_quads, normalize_le90
from vistruct.ops.oriented_iou import oriented_iou, quad_iou
from vistruct.ops.oriented_nms import oriented_batched_nms, oriented_nms
from vistruct.ops.roi_align_rotated import roi_align_rotated

RUNS = 3
THRESHOLD = 0.1


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=130)
    table = Table(
        "operation", "boxes", "overlap", "ours ms", "shapely + tree ms", "times", "largest difference",
        title="IoU and NMS, one thread",
    )  # fmt: skip
    for row in [*iou_rows(), *nms_rows()]:
        table.add_row(*row)
    console.print(table)
    table = Table("operation", "input", "processor ms", "GPU ms", title="ours, float32")
    on_gpu = operators(torch.device("cuda")) if torch.cuda.is_available() else None
    for i, (name, size, call) in enumerate(operators(torch.device("cpu"))):
        there = "no GPU here" if on_gpu is None else f"{wall_ms(on_gpu[i][2]):.1f}"
        table.add_row(name, size, f"{medians({'ours': call})['ours']:.1f}", there)
    console.print(table)


# --- boxes


def spread(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    width = torch.exp(0.6 * torch.randn(count, generator=draw) + 3.8)
    height = width * (0.25 + 0.75 * torch.rand(count, generator=draw))
    return boxes_at(1024 * torch.rand(count, 2, generator=draw), width, height, draw)


def piled(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    width, height = 60 + 60 * torch.rand(2, count, generator=draw)
    return boxes_at(50 * torch.rand(count, 2, generator=draw), width, height, draw)


def boxes_at(centre: Tensor, width: Tensor, height: Tensor, draw: torch.Generator) -> Tensor:
    angle = torch.pi * torch.rand(len(centre), generator=draw)
    return normalize_le90(torch.cat([centre, width[:, None], height[:, None], angle[:, None]], dim=1))


def polygons(boxes: Tensor) -> np.ndarray:
    return shapely.polygons(cxcywha_to_quads(boxes.double()).numpy())


# --- beside shapely


def shapely_iou(a: Tensor, b: Tensor) -> np.ndarray:
    a_polygons, b_polygons = polygons(a), polygons(b)
    rows, columns = shapely.STRtree(b_polygons).query(a_polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(a_polygons[rows], b_polygons[columns]))
    iou = np.zeros((len(a), len(b)))
    iou[rows, columns] = shared / (shapely.area(a_polygons)[rows] + shapely.area(b_polygons)[columns] - shared)
    return iou


def shapely_nms(boxes: Tensor, scores: Tensor, iou: float) -> np.ndarray:
    order = scores.argsort(descending=True, stable=True).numpy()
    shapes = polygons(boxes)[order]
    areas, tree = shapely.area(shapes), shapely.STRtree(shapes)
    is_alive, kept = np.ones(len(shapes), bool), []
    for i in range(len(shapes)):
        if is_alive[i]:
            kept.append(i)
            near = tree.query(shapes[i], predicate="intersects")
            near = near[is_alive[near] & (near > i)]
            shared = shapely.area(shapely.intersection(shapes[i], shapes[near]))
            is_alive[near[shared / (areas[i] + areas[near] - shared) > iou]] = False
    return order[kept]


def iou_rows() -> list[list[str]]:
    rows = []
    for name, make in (("spread", spread), ("piled", piled)):
        a, b = make(1000, 0), make(1000, 1)
        quads = cxcywha_to_quads(a), cxcywha_to_quads(b)
        calls = {"boxes": lambda a=a, b=b: oriented_iou(a, b), "quads": lambda quads=quads: quad_iou(*quads)}
        ms, truth, shapely_ms = beside(calls, lambda a=a, b=b: shapely_iou(a, b))
        truth = torch.from_numpy(truth)
        for kind, ours in (("boxes", oriented_iou(a, b)), ("quads", quad_iou(*quads))):
            rows.append(
                [
                    f"IoU of {kind}", f"1000 x 1000, {name}", f"{100 * (truth > 0).double().mean():.1f} %",
                    f"{ms[kind]:.1f}", f"{shapely_ms:.0f}", f"{shapely_ms / ms[kind]:.1f}",
                    f"{(ours - truth).abs().max():.0e}",
                ]
            )  # fmt: skip
    return rows


def nms_rows() -> list[list[str]]:
    rows = []
    for name, make in (("spread", spread), ("piled", piled)):
        boxes, scores = make(2000, 2), torch.rand(2000, generator=torch.Generator().manual_seed(3))
        kept = oriented_nms(boxes, scores, THRESHOLD)
        calls = {"ours": lambda boxes=boxes, scores=scores: oriented_nms(boxes, scores, THRESHOLD)}
        ms, truth, shapely_ms = beside(calls, lambda b=boxes, s=scores: shapely_nms(b, s, THRESHOLD))
        rows.append(
            [
                f"NMS at {THRESHOLD}", f"2000, {name}", f"{len(kept)} kept", f"{ms['ours']:.1f}",
                f"{shapely_ms:.0f}", f"{shapely_ms / ms['ours']:.1f}",
                "none" if kept.tolist() == truth.tolist() else "ANOTHER KEEP-SET",
            ]
        )  # fmt: skip
    return rows


# --- on either device


def operators(device: torch.device) -> list[tuple[str, str, Callable[[], object]]]:
    """Names, inputs and calls; the last two go forward and backward."""
    a, b = spread(1000, 0).to(device), spread(1000, 1).to(device)
    c, d = piled(1000, 0).to(device), piled(1000, 1).to(device)
    many, scores = spread(2000, 2).to(device), torch.rand(2000, device=device)
    labels = torch.arange(2000, device=device) % 15
    features = torch.randn(2, 256, 128, 128, device=device, requires_grad=True)
    rois = torch.cat([torch.arange(256, device=device)[:, None] % 2, spread(256, 4).to(device)], dim=1)
    sizes_hw = [(64, 64), (32, 32), (16, 16)]
    value = torch.randn(1, sum(h * w for h, w in sizes_hw), 8, 32, device=device, requires_grad=True)
    locations = torch.rand(1, 1024, 8, 3, 4, 2, device=device, requires_grad=True)
    weights = torch.rand(1, 1024, 8, 3, 4, device=device, requires_grad=True)

    def align() -> None:
        roi_align_rotated(features, rois, (7, 7), spatial_scale=1 / 8, sampling_ratio=2).sum().backward()

    def attend() -> None:
        deformable_attention(value, sizes_hw, locations, weights).sum().backward()

    return [
        ("IoU", "1000 x 1000, spread", lambda: oriented_iou(a, b)),
        ("IoU", "1000 x 1000, piled", lambda: oriented_iou(c, d)),
        ("NMS of 15 classes", "2000, spread", lambda: oriented_batched_nms(many, scores, labels, THRESHOLD)),
        ("RoIAlign + backward", "256 boxes, 7 x 7, 256 channels", align),
        ("deformable attention + backward", "1024 queries, 8 heads, 3 maps, 4 points", attend),
    ]


def wall_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])


def beside(
    calls: Mapping[str, Callable[[], object]], peer: Callable[[], np.ndarray]
) -> tuple[dict[str, float], np.ndarray, float]:
    """Medians of `calls` before and after one run of `peer`, what that one gave, its milliseconds."""
    before = medians(calls)
    start = time.process_time()
    truth = peer()
    peer_ms = 1000 * (time.process_time() - start)
    after = medians(calls)
    return {name: (before[name] + after[name]) / 2 for name in calls}, truth, peer_ms


def medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if run:  # the first is for warming up
                times[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
