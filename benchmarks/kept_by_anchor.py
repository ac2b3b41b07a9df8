"""What does self-distillation on another domain cost of what a backbone knew, and how much of that does an anchor keep?

Run:  uv run python benchmarks/kept_by_anchor.py --lr 3e-3 [--seeds 0 1 2] [--steps 60] [--factor 1]

A twin of what happens to public weights: a small ViT learns to read the digits of scikit-learn (UCI), until the nearest
neighbour of most of them, which it has not seen, is the same digit. Then `self_distill` goes on from it on windows of
the shipped scene, its backbone as fast as the heads, which makes a few steps do what many would. The same neighbours
are asked again, of the teacher (what a run ships) and of the student. Drift is the mean squared change of cosines
between patches of digits, in units of their variance at the start. `terms` are the last 20 steps' loss of classes and
of patches: what an anchor costs.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vistruct.backbones.intern_vit import InternVit, InternVitConfig
from vistruct.contracts import DataInfo, Sample
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.samples import trees
from vistruct.tasks.self_distill import SelfDistill, SelfDistillConfig
from vistruct.tasks.self_distill_views import ViewsBatch
from vistruct.transforms.views import ViewsConfig

SIDE, ASKED = 32, 400  # pixels; digits whose neighbours are asked
POOL, BATCH = 30, 8  # batches of views that are drawn once, images in each
VIT = InternVitConfig(width=48, depth=2, heads=3, mlp_width=96, patch=8, image_size=SIDE, layer_scale=1.0)
HELD = [("gram", 0.1), ("gram", 1.0), ("gram", 10.0), ("gram", 100.0)]
HELD += [("feature", 0.1), ("feature", 1.0), ("feature", 10.0), ("feature", 100.0)]


def digits() -> tuple[Tensor, Tensor]:
    """uint8[1797, 3, S, S] and int64[1797]."""
    found: Any = load_digits()
    grey = F.interpolate(torch.from_numpy(found.images).float()[:, None] * 15, (SIDE, SIDE), mode="bilinear")
    return grey.byte().repeat(1, 3, 1, 1), torch.from_numpy(found.target)


def shown(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.45) / 0.225


def vectors(backbone: Any, images: Tensor) -> Tensor:
    """float[N, L, D], patches of length 1."""
    with torch.no_grad():
        return F.normalize(backbone.tokens(shown(images)).patches, dim=2)


def neighbours(backbone: Any, images: Tensor, labels: Tensor) -> float:
    """Share of images whose nearest other one is of the same class."""
    found = F.normalize(vectors(backbone, images).mean(dim=1), dim=1)
    near = (found @ found.T).fill_diagonal_(-math.inf).argmax(dim=1)
    return float((labels[near] == labels).float().mean())


def drift(before: Tensor, backbone: Any, images: Tensor) -> float:
    """Mean squared change of cosines between patches of all images, in units of their variance before."""
    own, start = (one[:, ::4].flatten(0, 1) for one in (vectors(backbone, images), before))
    start = start @ start.T
    return float((own @ own.T - start).square().mean() / start.var())


def general(seed: int, images: Tensor, labels: Tensor, steps: int = 600) -> InternVit:
    """A ViT that has learned to tell digits."""
    torch.manual_seed(seed)
    backbone, head = VIT.build(), nn.Linear(VIT.width, 10)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=3e-3, weight_decay=0.05, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = torch.randint(len(images), (32,))
        pooled = F.normalize(backbone.tokens(shown(images[chosen])).patches.mean(dim=1), dim=1)
        optimizer.zero_grad()
        F.cross_entropy(10 * head(pooled), labels[chosen]).backward()
        optimizer.step()
    return backbone.eval()


def scene() -> list[Sample]:
    """Windows of 48 pixels of the shipped training scene."""
    pixels = torch.from_numpy(np.asarray(Image.open(trees().train.with_suffix(".jpg")).convert("RGB")).copy())
    draw = torch.Generator().manual_seed(0)
    samples = []
    for number in range(POOL * BATCH):
        y, x = (int(torch.randint(side - 48, (1,), generator=draw)) for side in pixels.shape[:2])
        window = pixels[y : y + 48, x : x + 48].permute(2, 0, 1).contiguous()
        samples.append(Sample(id=f"{number}", image_id=f"{number}", seed=number, images=[window]))
    return samples


def task(backbone: InternVit, seed: int, **settings: Any) -> SelfDistill:
    """With the backbone's weights, and an anchor to them where there is one."""
    torch.manual_seed(seed)
    config = SelfDistillConfig(
        backbone=VIT,
        global_views=(ViewsConfig(number=1, size=SIDE, blur=1.0), ViewsConfig(number=1, size=SIDE, solarise=0.2)),
        local_views=(ViewsConfig(number=2, size=16, area=(0.05, 0.32)),),
        head=PrototypesConfig(hidden=256, bottleneck=64, number=512),
        momentum=0.99,
        mean=(0.45,),
        std=(0.225,),
        **settings,
    )
    built = config.build(DataInfo(), Path())
    built.backbone.load_state_dict(backbone.state_dict())
    for teacher in built.traits.teachers.values():
        held: Any = teacher.begin()
        held.load_state_dict(backbone.state_dict())
    built.teacher.requires_grad_(False)
    return built


def go_on(model: SelfDistill, pool: list[ViewsBatch], asked: argparse.Namespace, weights: dict[str, float]) -> float:
    """The steps of a run, and its last loss without the anchor; `weights` are of terms that do not count once."""
    told = []
    slow = [p for n, p in model.named_parameters() if n.startswith("backbone.")]
    fast = [p for n, p in model.named_parameters() if not n.startswith(("backbone.", "teacher."))]
    groups: list[dict[str, Any]] = [{"params": slow, "factor": asked.factor}, {"params": fast, "factor": 1.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.04, fused=True)
    warm = max(1, asked.steps // 10)
    for step in range(asked.steps):
        model.train()
        model.teacher.eval()
        model.before_step(step, asked.steps)
        rate = step / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (asked.steps - warm))) / 2
        for group in optimizer.param_groups:
            group["lr"] = asked.lr * rate * group["factor"]
        batch = pool[step % len(pool)]
        units = model.units(batch)
        out = model(batch)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([weights.get(n, 1.0) * v / float(units[n]) for n, v in out.terms.items()]).sum().backward()
        nn.utils.clip_grad_norm_([*slow, *fast], 3.0)
        optimizer.step()
        model.after_step()
        told.append(sum(float(out.terms[name].detach()) / float(units[name]) for name in ("class", "patches")))
    model.before_step(asked.steps - 1, asked.steps)
    model.eval()
    return float(np.mean(told[-20:]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the heads; the recipe's for size small")
    parser.add_argument("--factor", type=float, default=1.0, help="rate of the backbone, as part of the heads'")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = digits()
    others, truth = images[:ASKED], labels[:ASKED]
    tenth = asked.steps // 10
    cases: list[tuple[str, dict[str, Any], dict[str, float]]] = [
        ("no anchor", {"heads_first": tenth}, {}),
        *(
            (f"{by} {weight:g}", {"heads_first": tenth, "anchor": Path("start"), "anchor_by": by}, {"anchor": weight})
            for by, weight in HELD
        ),
        ("no anchor, all at once", {}, {}),
        ("gram 1, all at once", {"anchor": Path("start")}, {"anchor": 1.0}),
        ("no anchor, KoLeo 0.1", {"heads_first": tenth, "koleo": 256}, {"koleo": 0.1}),
        ("gram 1, KoLeo 0.1", {"heads_first": tenth, "koleo": 256, "anchor": Path("start")}, {"koleo": 0.1}),
    ]
    samples, pool, starts = scene(), [], []
    rows: dict[str, list[list[float]]] = {}
    for seed in asked.seeds:
        backbone = general(seed, images[ASKED:], labels[ASKED:])
        random = neighbours(VIT.build().eval(), others, truth)
        starts.append(neighbours(backbone, others, truth))
        print(f"seed {seed}: neighbours {starts[-1]:.3f}, of random weights {random:.3f}", flush=True)
        before = vectors(backbone, others)
        for name, settings, weights in cases:
            model = task(backbone, seed, **settings)
            pool = pool or [model.collator(samples[at : at + BATCH]) for at in range(0, len(samples), BATCH)]
            begun = time.perf_counter()
            loss = go_on(model, pool, asked, weights)
            teacher: Any = model.teacher["backbone"]
            found = [neighbours(one, others, truth) for one in (teacher, model.backbone)]
            found += [drift(before, one, others) for one in (teacher, model.backbone)]
            total, views = model.start_spread.tolist()
            rows.setdefault(name, []).append([*found, loss, total / views if views else math.nan])
            seconds = time.perf_counter() - begun
            print(seed, name, " ".join(f"{one:.3f}" for one in rows[name][-1]), f"{seconds:.0f} s", flush=True)
    table = Table(title=f"start: neighbours {np.mean(starts):.3f} +- {np.std(starts):.3f}; {asked}")
    for head in ("case", "neighbours, teacher", "student", "drift, teacher", "student", "terms", "spread"):
        table.add_column(head)
    for name, found in rows.items():
        values = np.array(found)
        cells = [f"{m:.3f} +- {d:.3f}" for m, d in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
