"""A twin of going on from public weights: what a backbone knew of one domain is lost on another, less if it is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.backbones.intern_vit import InternVit, InternVitConfig
from vistruct.contracts import DataInfo, Sample
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.samples.made_classes import texture
from vistruct.tasks.self_distill import SelfDistillConfig
from vistruct.transforms.views import ViewsConfig

VIT = InternVitConfig(width=24, depth=2, heads=2, mlp_width=48, patch=8, image_size=32, layer_scale=1.0)


def hues(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """float[N, 3, 32, 32] and int64[N]: twelve hues, faint before noise and light that say nothing."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 12
    angle = (labels[:, None] / 6 - np.array([0, 2 / 3, 4 / 3])) * np.pi
    light = draw.uniform(-1, 1, (count, 1, 1, 1))
    images = light + 0.25 * np.cos(angle)[:, :, None, None] + draw.normal(0, 0.3, (count, 3, 32, 32))
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


def general() -> InternVit:
    """It tells hues apart."""
    torch.manual_seed(0)
    backbone, head, (images, labels) = VIT.build(), nn.Linear(24, 12), hues(240, 0)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=3e-3)
    for step in range(60):
        at = slice(step % 10 * 24, step % 10 * 24 + 24)
        pooled = F.normalize(backbone.tokens(images[at]).patches.mean(dim=1), dim=1)
        optimizer.zero_grad()
        F.cross_entropy(10 * head(pooled), labels[at]).backward()
        optimizer.step()
    return backbone.eval()


def right_neighbours(backbone: Any) -> float:
    images, labels = hues(180, 1)
    with torch.no_grad():
        found = F.normalize(backbone.tokens(images).patches.mean(dim=1), dim=1)
    near = (found @ found.T).fill_diagonal_(-1).argmax(dim=1)
    return float((labels[near] == labels).float().mean())


def gone_on(start: InternVit, weight: float) -> float:
    """Right neighbours after steps on stripes of four colours, at a rate that does harm."""
    torch.manual_seed(1)
    plain: dict[str, Any] = {"size": 32, "blur": 0.0}
    model = SelfDistillConfig(
        backbone=VIT,
        global_views=(ViewsConfig(**plain),),
        local_views=(),
        head=PrototypesConfig(hidden=24, bottleneck=8, number=16),
        anchor=Path("start") if weight else None,
        momentum=0.5,
        mean=(0.5,),
        std=(0.25,),
    ).build(DataInfo(), Path())
    model.backbone.load_state_dict(start.state_dict())
    for teacher in model.traits.teachers.values():
        held: Any = teacher.begin()
        held.load_state_dict(start.state_dict())
    images = [torch.from_numpy(texture(n % 4, n).transpose(2, 0, 1).copy()) for n in range(8)]
    batch = model.collator([Sample(id=f"{n}", image_id=f"{n}", seed=n, images=[one]) for n, one in enumerate(images)])
    learning = [p for name, p in model.named_parameters() if not name.startswith("teacher")]
    optimizer = torch.optim.AdamW(learning, lr=5e-3)
    units = model.units(batch)
    for step in range(30):
        model.before_step(step, 60)
        terms = model.train()(batch).terms
        optimizer.zero_grad()
        parts = [(weight if name == "anchor" else 1.0) * term / units[name] for name, term in terms.items()]
        torch.stack(parts).sum().backward()
        optimizer.step()
        model.after_step()
    return right_neighbours(model.eval().backbone)


def test_neighbours_of_another_domain_are_lost_less_with_an_anchor() -> None:
    start = general()
    before, free, held = right_neighbours(start), gone_on(start, 0), gone_on(start, 10.0)
    assert before > 0.95
    assert before - free > 0.1
    assert before - held < 0.5 * (before - free), (before, free, held)
