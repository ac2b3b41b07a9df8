"""How much of what a step computes is of use, and how evenly it is shared among eight devices.

Run:  uv run python benchmarks/packing.py

200,000 simulated conversations about images of the sizes that remote sensing and web collections have (the mix is
ours; it is no real data set), InternVL2.5-1B's tiling with 6 tiles at most and a thumbnail, 128 conversations a step.
Useful: tokens that exist, among positions that the language model computes. Balance: mean over largest work of eight
devices, averaged over steps; the slowest one is waited for.
"""

from __future__ import annotations

import hashlib

import numpy as np
from rich.console import Console
from rich.table import Table

from vistruct.config import Pack
from vistruct.data.loading.loader import Order
from vistruct.data.loading.plan import Costs, balance
from vistruct.vlm.tiling import Tiling, num_tiles

SAMPLES, BATCH, WORLD, STEPS = 200_000, 128, 8, 200
TILE_TOKENS = 256
TILE_WORK, TOKEN_WORK, HEAD_WORK = 2.17e12, 2.2e9, 0.82e9  # forward and backward of InternVL2.5-1B, operations
PACK = Pack(tokens=8192, tiles=24)


def simulate(number: int, seed: int = 0) -> Costs:
    """Costs of conversations about square scenes (62 %), photographs (33 %) and nothing (5 %)."""
    rng = np.random.default_rng(seed)
    tiling = Tiling(size=448, max_tiles=6)
    squares = [(s, s) for s in (256, 400, 512, 600, 800, 1024)]
    photos = [(480, 640), (640, 480), (600, 800), (375, 500), (768, 1024), (720, 1280), (427, 640)]
    sizes = [*squares, *photos, None]
    chances = [0.62 / len(squares)] * len(squares) + [0.33 / len(photos)] * len(photos) + [0.05]
    of_size = np.array([0 if size is None else num_tiles(size, tiling) for size in sizes])
    tiles = of_size[rng.choice(len(sizes), number, p=chances)].astype(np.int32)
    text = np.clip(rng.lognormal(4.6, 0.7, number), 24, 1000).astype(np.int32)
    supervised = np.clip(text * rng.uniform(0.1, 0.6, number), 1, None).astype(np.int32)
    visual = tiles * TILE_TOKENS
    return Costs(tokens=visual + text, visual=visual, supervised=supervised, tiles=tiles)


def work_of(costs: Costs) -> np.ndarray:
    return costs.tiles * TILE_WORK + costs.tokens * TOKEN_WORK + costs.supervised * HEAD_WORK


def evenness(loads: list[float]) -> float:
    return float(np.mean(loads) / max(loads))


def main() -> None:
    costs = simulate(SAMPLES)
    work, order = work_of(costs), Order(SAMPLES, BATCH, seed=0)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    digests = []
    for step in range(STEPS):
        indices = [index for _, index in order.keys(step)]
        own, load = costs.of(indices), work[indices]
        dealt = [list(range(rank, BATCH, WORLD)) for rank in range(WORLD)]
        even = evenness([float(load[places].sum()) for places in dealt])
        for name, longest in (("padded to 4096", 1), ("padded to the longest of 8", 8)):
            groups = [list(range(at, at + longest)) for at in range(0, BATCH, longest)] if longest > 1 else []
            positions = sum(int(own.tokens[g].max()) * len(g) for g in groups) if groups else 4096 * BATCH
            useful = float(own.tokens.sum()) / positions
            rows.setdefault(name, []).append((useful, even, BATCH / WORLD / longest))
        shares = balance(own, load, world=WORLD, pack=PACK)
        digests.append(str(shares))
        sums = [[int(own.tokens[places].sum()) for places in share] for share in shares]
        positions = sum(sum(part) for part in sums)  # what a packed row computes: its tokens and nothing else
        loads = [sum(float(load[places].sum()) for places in share) for share in shares]
        assert all(total <= PACK.tokens for part in sums for total in part)
        rows.setdefault("ours: packed, shared by work", []).append(
            (float(own.tokens.sum()) / positions, evenness(loads), float(len(shares[0])))
        )
    again = hashlib.sha256("".join(digests).encode()).hexdigest()
    repeated = [
        str(balance(costs.of(i), work[i], world=WORLD, pack=PACK))
        for i in ([index for _, index in Order(SAMPLES, BATCH, seed=0).keys(step)] for step in range(STEPS))
    ]
    assert hashlib.sha256("".join(repeated).encode()).hexdigest() == again, "the same seed shares out otherwise"

    quantiles = ", ".join(f"p{q} {np.percentile(costs.tokens, q):.0f}" for q in (50, 90, 100))
    table = Table(
        "layout", "useful tokens", "balance of 8 devices", "micro-batches a device and step",
        title=f"tokens: mean {costs.tokens.mean():.0f}, {quantiles}; tiles {costs.tiles.mean():.2f}; visual "
        f"{costs.visual.sum() / costs.tokens.sum():.0%}, supervised {costs.supervised.sum() / costs.tokens.sum():.1%}",
    )  # fmt: skip
    for name, values in rows.items():
        useful, even, parts = np.mean(values, axis=0)
        table.add_row(name, f"{useful:.3f}", f"{even:.3f}", f"{parts:.1f}")
    Console(width=120).print(table)
    print(f"{STEPS} steps; the same seed gives the same shares ({again[:12]})")


if __name__ == "__main__":
    main()
