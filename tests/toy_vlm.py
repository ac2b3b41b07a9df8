"""A vision-language model of a few thousand weights, and conversations for it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from whole_loss import task_loss

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import Role, Sample, Turn
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.vlm.batch import ChatBatch
from vistruct.vlm.language import LanguageConfig, train_tokenizer
from vistruct.vlm.reading import Reading
from vistruct.vlm.tiling import Tiling

TEXTS = ["how many trees ?", "twelve trees", "is there a tree in the upper left ?", "yes", "no"] * 4
VIT = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56)
QWEN: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "rms_norm_eps": 1e-6, "vocab_size": 400,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip


@functools.cache
def tokenizer(vocab_size: int = 340) -> Any:
    """Trained once; at most 300 entries where the golden model's vocabulary has to hold them."""
    return train_tokenizer(iter(TEXTS), vocab_size)


def build(
    vrl: Any = "off", *, model_type: str = "qwen2", vocabulary: int = 340, language: Any = None, **settings: Any
) -> Any:
    """An Instruct with random weights, the same every time; `settings` are of InstructConfig."""
    torch.manual_seed(0)
    part = LanguageConfig(model_type=model_type, options={**QWEN, **(language or {})}, vocab_size=vocabulary)
    settings = {"backbone": VIT, "tiling": Tiling(size=56, max_tiles=4)} | settings
    return Instruct(InstructConfig(language=part, vrl=vrl, **settings), tokenizer(vocabulary))


def configure(task: Any, **settings: Any) -> Any:
    """The same model under other settings of how it is computed."""
    task.config = task.config.model_copy(update=settings)
    return task


def picture(height: int = 56, width: int = 56, seed: int = 1) -> Tensor:
    """uint8[3, H, W], channels last in memory, as a decoded image is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)


def talk(*texts: str) -> tuple[Turn, ...]:
    """User and assistant in turn."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple(Turn(role=role, text=text) for role, text in zip(itertools.cycle(roles), texts, strict=False))


def sample(name: str = "s", images: int = 1, size: int = 56, seed: int = 1, answer: str = "twelve trees") -> Sample:
    """One question about so many square images."""
    marks = "<image>\n" * images
    pictures = [picture(size, size, 10 * seed + number) for number in range(images)]
    return Sample(
        id=name, image_id=name, seed=seed, images=pictures, turns=talk(f"{marks}how many trees ?", answer)
    )  # fmt: skip


def assorted() -> list[Sample]:
    """One and two images, four tiles, none at all; a row much longer than the others, and three questions on one."""
    wide = sample("wide", seed=3)
    wide.images = [picture(56, 168, seed=3)]
    long = sample("long", seed=4, answer="yes no " * 140)
    many = sample("many", seed=5)
    many.turns = (*many.turns, *talk("is there a tree ?", "no", "in the upper left ?", "yes"))
    return [
        sample("two", images=2, seed=1), sample("one", seed=2, answer="no"), wide, long,
        sample("text", images=0, seed=6, answer="no"), many,
    ]  # fmt: skip


def logits(task: Any, batch: ChatBatch, reading: Reading | None = None) -> Tensor:
    """float[K, V], of every token that is read."""
    reading = reading or task.read(batch)
    return task.language.get_output_embeddings()(task.hidden(task.embed(batch, reading), reading))


def losses(task: Any, batch: ChatBatch) -> list[float]:
    """The loss of each row, from the logits of all its tokens: an independent way to the task's own number."""
    reading = task.read(batch)
    rows = logits(task, batch, reading).split(reading.lengths)
    labels = reading.labels.split(reading.lengths)
    return [
        torch.nn.functional.cross_entropy(row[:-1], label[1:], ignore_index=-100, reduction="sum").item()
        for row, label in zip(rows, labels, strict=True)
    ]


def gradients(task: Any, batches: Sequence[ChatBatch]) -> dict[str, Tensor]:
    """Of the summed loss over all batches."""
    task.zero_grad()
    for batch in batches:
        task_loss(task, batch).total.backward()
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
