"""One training step of a small vision-language model: ours beside `transformers`' own, same weights, same samples.

Run:  uv run python benchmarks/instruct_step.py

(a) `transformers`' InternVL with its own loss: logits of all positions, then AdamW as it comes.
(b) ours: only supervised positions reach the vocabulary, fused AdamW, VRL off.
(c) ours with VRL as in the paper: rows that get shorter.
Interleaved in one process; medians and ratios. The vocabulary is Qwen2.5's, where the logits are half of the work.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import DataInfo, Sample, Turn
from vistruct.tasks.instruct import ChatBatch, InstructConfig
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.names import LanguageNames, to_ours
from vistruct.vlm.tiling import Tiling
from vistruct.vlm.vrl import PRESETS

VOCABULARY = 151_674
VIT = InternVitConfig(width=384, depth=6, heads=6, mlp_width=1536, patch=14, image_size=224)
QWEN = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 1024, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
}  # fmt: skip
RUNS = 5


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ours = InstructConfig(
            backbone=VIT, language=LanguageConfig(options=QWEN, vocab_size=600), tiling=Tiling(size=224), vrl="off"
        ).build(
            DataInfo(corpus=lambda: iter(["how many trees ?", "twelve trees in the upper left"] * 50)), Path(folder)
        )
    theirs = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={
                "hidden_size": VIT.width, "num_hidden_layers": VIT.depth, "num_attention_heads": VIT.heads,
                "intermediate_size": VIT.mlp_width, "image_size": [224, 224], "patch_size": [14, 14],
                "attention_bias": True, "use_mean_pooling": True,
            },
            text_config={"model_type": "qwen2", **QWEN}, image_token_id=ours.image_token, downsample_ratio=0.5,
        )
    )  # fmt: skip
    ours.load_state_dict(to_ours(theirs.state_dict(), "transformers", LanguageNames.of(ours.language))[0])
    batch = ours.collator([sample(i) for i in range(2)])
    optimizers = {
        "transformers": torch.optim.AdamW(theirs.parameters(), lr=1e-6),
        "ours": torch.optim.AdamW(ours.parameters(), lr=1e-6, fused=True),
    }

    def step_theirs() -> float:
        pixels = (batch.tiles.float() / 255 - ours.pixel_mean) / ours.pixel_std
        loss = theirs(
            input_ids=batch.input_ids, pixel_values=pixels, labels=batch.labels,
            attention_mask=(~batch.is_padding).long(),
        ).loss  # fmt: skip
        return finish(loss, optimizers["transformers"])

    def step_ours(vrl: str) -> float:
        ours.vrl = PRESETS[vrl]
        return finish(ours(batch).loss, optimizers["ours"])

    steps = {
        "transformers": step_theirs,
        "ours, VRL off": lambda: step_ours("off"),
        "ours, VRL": lambda: step_ours("paper"),
    }
    first = {name: step() for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(RUNS):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    report(batch, first, {name: statistics.median(times) for name, times in seconds.items()})


def finish(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def sample(index: int) -> Sample:
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=generator)
    turns = tuple(
        turn
        for _ in range(4)
        for turn in (
            Turn(role="user", text="how many trees are in the upper left of the image ?"),
            Turn(role="assistant", text="twelve trees"),
        )
    )
    return Sample(id=str(index), image_id=str(index), seed=index, images=[image], turns=turns)


def report(batch: ChatBatch, first: dict[str, float], seconds: dict[str, float]) -> None:
    supervised = int((batch.labels >= 0).sum())
    table = Table(
        "step", "first loss", "CPU s, median", "times as fast",
        title=f"{batch.input_ids.shape[0]} rows of {batch.input_ids.shape[1]} tokens, {supervised} supervised, "
        f"vocabulary {VOCABULARY:,}, float32, one thread",
    )  # fmt: skip
    for name, median in seconds.items():
        table.add_row(name, f"{first[name]:.4f}", f"{median:.2f}", f"{seconds['transformers'] / median:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
