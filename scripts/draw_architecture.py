"""Draw docs/architecture.png from the imports: rooms on their floors, with their lines and whom they rely upon.

    uv run python scripts/draw_architecture.py

The floors are those of tests/test_floors.py, which holds their order. An arrow that follows from others is not drawn:
where a room imports one that a room between them imports too, the way leads over that one. Nor are arrows to the
five ground floors, which everybody imports.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_floors import ARROWS, FLOORS, MODULES, room_of  # noqa: E402

INK, PAPER, LINE = "#1f2a36", "#fbfaf7", "#8a97a6"
BANDS = ("#eef2f1", "#f6f4ee")
WIDTH, HEIGHT, GAP = 1.9, 0.68, 1.22  # of a box; between floors
SPREAD = 2.5  # between the middles of neighbours
GROUND = 5  # floors
COLOURS = {
    "data": "#cfe3d4", "files": "#cfe3d4", "windows": "#cfe3d4", "transforms": "#cfe3d4", "samples": "#cfe3d4",
    "backbones": "#f3d9b8", "necks": "#f3d9b8", "heads": "#f3d9b8", "vlm": "#f3d9b8", "tasks": "#f3d9b8",
    "engine": "#cddcf0", "checkpoint": "#cddcf0", "distributed": "#cddcf0", "runs": "#cddcf0",
    "inference": "#e4d3ea", "web": "#e4d3ea", "pictures": "#e4d3ea", "reports": "#e4d3ea", "metrics": "#e4d3ea",
}  # fmt: skip
MEANING = {"#cfe3d4": "data", "#f3d9b8": "models", "#cddcf0": "training", "#e4d3ea": "answers and measures"}


def lines_of() -> dict[str, int]:
    """Lines of every room."""
    found: dict[str, int] = {}
    for module, file in MODULES.items():
        if module != "vistruct":
            found[room_of(module)] = found.get(room_of(module), 0) + len(file.read_text().splitlines())
    return found


def needed() -> dict[str, set[str]]:
    """Whom each room imports, without the ground and without those that one of the others imports anyhow."""
    own: dict[str, set[str]] = {room: set() for rooms, _ in FLOORS for room in rooms.split()}
    for module, _, target in ARROWS:
        if room_of(module) != room_of(target):
            own[room_of(module)].add(room_of(target))
    below: dict[str, set[str]] = {}
    for rooms, _ in FLOORS:  # from the ground up: those below are complete
        for room in rooms.split():
            below[room] = own[room].union(*(below[other] for other in own[room]))
    ground = {room for rooms, _ in FLOORS[:GROUND] for room in rooms.split()}
    left = {room: others - ground for room, others in own.items()}
    return {room: {o for o in others if not any(o in below[b] for b in others)} for room, others in left.items()}


def places(arrows: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """The middle of each room's box: floors from below, each in the order in which its arrows cross least."""
    floors = [rooms.split() for rooms, _ in FLOORS]
    at = {room: SPREAD * (k - (len(rooms) - 1) / 2) for rooms in floors for k, room in enumerate(rooms)}
    for turn in range(60):
        for rooms in floors if turn % 2 else floors[::-1]:

            def pull(room: str) -> float:
                others = [*arrows[room], *(o for o, theirs in arrows.items() if room in theirs)]
                return sum(at[o] for o in others) / len(others) if others else at[room]

            middle = sum(pull(room) for room in rooms) / len(rooms)
            middle = max(-SPREAD, min(SPREAD, middle)) if len(rooms) < 3 else 0.0
            for k, room in enumerate(sorted(rooms, key=pull)):
                at[room] = middle + SPREAD * (k - (len(rooms) - 1) / 2)
    return {room: (at[room], GAP * number) for number, rooms in enumerate(floors) for room in rooms}


def _bend(room: str, other: str, at: dict[str, tuple[float, float]]) -> float:
    """How much an arrow must be bent (matplotlib's `arc3`) to pass no other box and stay inside: the least of it."""
    half = np.array([0, HEIGHT / 2])
    start, end = np.array(at[room]) - half, np.array(at[other]) + half
    along = end - start
    boxes = np.array([place for name, place in at.items() if name not in (room, other)])
    across = [x for x, _ in at.values()]
    t = np.linspace(0, 1, 200)[:, None]

    def hits(bend: float) -> int:
        control = (start + end) / 2 + bend * np.array([along[1], -along[0]])
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        near = np.abs(curve[:, None] - boxes) < [WIDTH / 2 + 0.08, HEIGHT / 2 + 0.05]
        outside = (curve[:, 0] < min(across) - 1.1) | (curve[:, 0] > max(across) + 1.1)
        return int(near.all(axis=2).sum() + outside.sum())

    return min((sign * step / 25 for step in range(22) for sign in (1, -1)), key=lambda bend: (hits(bend), abs(bend)))


def draw(path: Path) -> None:
    """The picture, as PNG."""
    arrows, lines = needed(), lines_of()
    at = places(arrows)
    left, right = min(x for x, _ in at.values()) - 1.2, max(x for x, _ in at.values()) + 1.2
    figure, axes = plt.subplots(figsize=(13.2, 12.4), facecolor=PAPER)
    for number, (_, why) in enumerate(FLOORS):
        y = GAP * number
        axes.axhspan(y - GAP / 2, y + GAP / 2, color=BANDS[number % 2], zorder=0, lw=0)
        why = textwrap.fill(why, 46)
        axes.text(right + 0.3, y, why, ha="left", va="center", fontsize=10, color="#55616e", style="italic")
    for room, others in arrows.items():
        for other in others:
            (x, y), (to_x, to_y) = at[room], at[other]
            bend = _bend(room, other, at)
            axes.add_patch(
                FancyArrowPatch(
                    (x, y - HEIGHT / 2),
                    (to_x, to_y + HEIGHT / 2),
                    connectionstyle=f"arc3,rad={bend}",
                    arrowstyle="-|>",
                    mutation_scale=9,
                    lw=1.0,
                    color=LINE,
                    shrinkA=0,
                    shrinkB=1,
                    zorder=1,
                )
            )
    for room, (x, y) in at.items():
        box = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=COLOURS.get(room, "#ffffff"), edgecolor=INK, lw=0.9, zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y + 0.11, room, ha="center", va="center", fontsize=11, color=INK, weight="bold", zorder=3)
        axes.text(x, y - 0.17, f"{lines[room]:,} lines", ha="center", va="center", fontsize=8, color=INK, zorder=3)
    for k, (colour, what) in enumerate(MEANING.items()):
        axes.text(
            left + 2.6 * k, GAP * len(FLOORS) - 0.42, what, fontsize=9, color=INK,
            bbox={"facecolor": colour, "edgecolor": INK, "lw": 0.6, "boxstyle": "round,pad=0.3"},
        )  # fmt: skip
    axes.set(xlim=(left, right + 6.3), ylim=(-GAP / 2, GAP * len(FLOORS)))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.15, facecolor=PAPER)


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.png")
