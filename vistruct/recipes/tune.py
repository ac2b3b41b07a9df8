"""How much of a backbone learns (fine-tuning): all of it, adapters in it, or nothing but what stands on it."""

from __future__ import annotations

from typing import Any, Literal

from vistruct.config import Lora, Trainable

# full: everything is trainable; lora: the backbone is frozen but for adapters (LoRA); head: the backbone is frozen.
Tuning = Literal["full", "lora", "head"]


def tuned(tune: Tuning, task: Any, lora: Lora | None = None) -> tuple[Trainable, ...]:
    """The rules that a run needs for it.

    Args:
        task: its config. Of an adapter backbone only the ViT inside has weights to keep: the rest is a head.
        lora: None: a rank of 8.
    """
    if tune == "full":
        return ()
    mode = "frozen" if tune == "head" else "lora"
    return (Trainable(pattern=kept_part(task), mode=mode, lora=(lora or Lora()) if tune == "lora" else None),)


def kept_part(task: Any) -> str:
    """The module whose weights were pretrained."""
    backbone = vars(task).get("backbone")
    inner = backbone is not None and vars(backbone).get("kind") == "vit_adapter"
    return "backbone.vit" if inner else "backbone"
