"""Parts and runs so small that a few steps take seconds on two cores: what every recipe's `tiny()` is made of."""

from __future__ import annotations

from typing import Any, Literal

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import Part, Run, with_values


def small_adapter(channels: int = 3) -> VitAdapterConfig:
    """A ViT-Adapter with all its parts, for images of about 96 pixels."""
    vit = small_vit(channels, depth=4, drop_path=0.1)
    groups = ((0, 0), (1, 1), (2, 2), (3, 3))
    return VitAdapterConfig(vit=vit, groups=groups, heads=2, points=2, conv_width=8, extra_extractors=1)


def small_vit(
    channels: int = 3, *, depth: int = 2, drop_path: float = 0.0, stem: Literal["patch", "conv"] = "patch"
) -> InternVitConfig:
    """A ViT for images of about 96 pixels."""
    return InternVitConfig(
        width=32,
        depth=depth,
        heads=2,
        mlp_width=64,
        patch=16,
        image_size=96,
        drop_path=drop_path,
        stem=stem,
        channels=channels,
    )


def quick(run: Run, parts: dict[str, Part]) -> Run:
    """The run with these parts of its task in place of its own, and steps that take no time."""
    task: Any = run.only.task
    changes = {
        "task": task.model_copy(update=parts),
        "schedule": run.schedule.model_copy(update={"warmup_steps": 1}),
        "optim": run.optim.model_copy(update={"lr": 1e-3}),
        "batch": 2,
        "workers": 0,
        "log_every": 1,
        "eval_every": None,
    }
    return with_values(run, **changes)
