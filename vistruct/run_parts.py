"""What a run is made of beside its streams: how it learns, and the number that it is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vistruct.kinds import Part


class AdamW(Part):
    """AdamW, fused. Biases, norms and other vectors are not decayed."""

    lr: float = Field(2e-5, gt=0)  # peak
    weight_decay: float = Field(0.05, ge=0)
    final_weight_decay: float | None = Field(None, ge=0)  # at the last step, along half a cosine; None: the same
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)  # learning-rate factor from one backbone block to the one below
    fused: bool = True  # one kernel for a step; the same numbers, several times faster


class Schedule(Part):
    """Learning rate over steps as a factor of the peak."""

    shape: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup_steps: int | None = Field(0, ge=0)  # None: a tenth of all steps, 250 at most
    warmup_from: float = Field(0.0, ge=0, le=1)  # factor at step 0
    final: float = Field(0.0, ge=0, le=1)  # factor at the last step, cosine and poly
    power: float = Field(1.0, gt=0)  # poly only; 1 is a straight line
    drops_at: tuple[int, ...] = ()  # steps at which the rate is multiplied by `drop_by`, step shape only
    drop_by: float = Field(0.1, gt=0, lt=1)


class Lora(Part):
    """Low-rank adapters (LoRA) on the matched linear layers."""

    rank: int = Field(8, gt=0)
    alpha: float | None = Field(None, gt=0)  # what an adapter gives is multiplied by alpha / rank; None: by 16 / rank
    scale: float | None = Field(None, gt=0)  # or by this number, in place of alpha
    dropout: float = Field(0.0, ge=0, lt=1)  # of an adapter's input
    # Outputs of a fused layer of queries, keys and values that are adapted, and no other layer; (): every layer, whole.
    parts: tuple[Literal["q", "k", "v"], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Lora:
        if self.alpha is not None and self.scale is not None:
            raise ValueError("alpha and scale both say what an adapter is multiplied by: give one of them")
        if list(self.parts) != sorted(set(self.parts), key="qkv".index):
            raise ValueError(f"parts={list(self.parts)}: each once, in the order q, k, v")
        return self

    @property
    def factor(self) -> float:
        """What an adapter gives is multiplied by."""
        return self.scale if self.scale is not None else (16.0 if self.alpha is None else self.alpha) / self.rank


class Trainable(Part):
    """How the modules and parameters matching `pattern` train; of several matching rules the last one holds."""

    pattern: str  # of dotted names with `*`; 'backbone' also means all below it
    mode: Literal["full", "frozen", "lora"] = "full"
    lr_factor: float = Field(1.0, gt=0)
    lora: Lora | None = None  # mode lora alone; None: its defaults
    train_mode: bool = False  # of what is frozen: dropout and running statistics stay on

    @model_validator(mode="after")
    def _fits(self) -> Trainable:
        if self.lora is not None and self.mode != "lora":
            raise ValueError(f"lora says how to adapt, but mode is {self.mode}: set mode: lora")
        if self.train_mode and self.mode != "frozen":
            raise ValueError(f"train_mode is said of what is frozen, and mode is {self.mode}: leave train_mode out")
        return self


class Pack(Part):
    """Micro-batches filled by size instead of by number: each device gets the same work, and no padding."""

    tokens: int = Field(8192, gt=0)  # of one micro-batch at most, unless a single sample is longer
    tiles: int | None = Field(None, gt=0)  # of one micro-batch at most; None: as many as its tokens allow


class CacheMaps(Part):
    """What a frozen backbone gives for each image, kept on disk: it is computed once, however many epochs there are."""

    folder: Path  # may serve many runs: backbones have folders of their own in it
    limit_gb: float = Field(200.0, gt=0)  # of this backbone's maps; what does not fit is computed each time
    dtype: Literal["as_computed", "bf16", "float32"] = "as_computed"  # of what is kept


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A number of an evaluation that tells a better model from a worse one."""

    evaluation: str
    number: str
    higher_is_better: bool

    @property
    def name(self) -> str:
        """As it stands in metrics.jsonl."""
        return f"{self.evaluation}/{self.number}"

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value is better than the best before it (None: there is none); one that is not finite never is."""
        if not math.isfinite(value):
            return False
        return than is None or (value > than if self.higher_is_better else value < than)
