"""One pretraining step of a small vision-language model, three ways, and what each of ours buys.

Run:  uv run python benchmarks/pretrain_step.py [--dtype float32|bf16] [--device cuda] [--vocabulary N] [--few]

(a) upstream style: every row padded to 2048 tokens, logits of all positions in float32 and shifted by a copy, VRL that
    drops and then pads the row back, AdamW as it comes.
(b) `transformers`' InternVL with its own loss, rows not padded, AdamW as it comes.
(c) ours, VRL off, as in the paper, and before the backbone; then ours with one lever taken back at a time.
The same weights, the same sample: one tile of 448 px, 384 tokens, 64 of them supervised. Steps are interleaved in one
process; medians of CPU seconds of one thread (of wall seconds on a GPU), and ratios. Peak memory is taken in a fresh
process for each way: what it has at its peak, less what it had before the model was made.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import DataInfo, Sample, Turn
from vistruct.distributed.precision import autocast
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.vlm.batch import ChatBatch, send
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.names import LanguageNames, to_public
from vistruct.vlm.tiling import Tiling
from vistruct.vlm.vrl import PRESETS, Vrl

VOCABULARY, LONGEST = 151_674, 2048
VIT = InternVitConfig(width=384, depth=12, heads=6, mlp_width=1536, patch=14, image_size=448)
QWEN = {
    "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 2752, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
}  # fmt: skip
UPSTREAM, THEIRS, OURS = "(a) upstream style", "(b) transformers", "(c) ours, VRL off"
PAPER, PATCHES = "(c) ours, VRL of the paper", "(c) ours, VRL before the backbone"
LEVERS = {
    "    rows padded to 2048": {"rows": "padded", "pad_to": LONGEST},
    "    logits of all positions": {"head": "all"},
    "    AdamW not fused": {},
    "    VRL that pads back": {"rows": "padded", "vrl": Vrl(drop_prob=1.0, drop_ratio=0.75, shorten=False)},
}
Step = Callable[[], float]


def build_ours(device: torch.device) -> Instruct:
    torch.manual_seed(0)
    config = InstructConfig(
        backbone=VIT, language=LanguageConfig(options=QWEN, vocab_size=600), tiling=Tiling(size=448), vrl="off"
    )
    texts = ["how many trees ?", "twelve trees in the upper left"] * 50
    with tempfile.TemporaryDirectory() as folder:
        return config.build(DataInfo(corpus=lambda: iter(texts)), Path(folder)).to(device).train()


def build_theirs(ours: Instruct) -> InternVLForConditionalGeneration:
    config = InternVLConfig(
        vision_config={
            "hidden_size": VIT.width, "num_hidden_layers": VIT.depth, "num_attention_heads": VIT.heads,
            "intermediate_size": VIT.mlp_width, "image_size": [448, 448], "patch_size": [14, 14],
            "attention_bias": True, "use_mean_pooling": True,
        },
        text_config={"model_type": "qwen2", **QWEN}, image_token_id=ours.image_token, downsample_ratio=0.5,
        tie_word_embeddings=False,
    )  # fmt: skip
    theirs = InternVLForConditionalGeneration(config)
    theirs.load_state_dict(to_public(ours.state_dict(), "transformers", LanguageNames.of(ours.language)))
    return theirs.to(ours.pixel_mean.device).train()


def sample_of(task: Instruct, tokens: int = 384, supervised: int = 64) -> ChatBatch:
    """A batch of one: one tile, a question and an answer as long as asked for."""
    image = torch.randint(0, 256, (3, 448, 448), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    word = " trees"
    answer, question = word * (supervised - 1), word
    while True:
        turns = (Turn(role="user", text=f"<image>\n{question}"), Turn(role="assistant", text=answer))
        batch = task.collator([Sample(id="0", image_id="0", seed=0, images=[image], turns=turns)])
        if len(batch.input_ids) >= tokens:
            return batch.to(task.pixel_mean.device)
        question += word


class Ways:
    """Every way to take the step, with one set of weights for ours and one for `transformers`."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None, names: list[str]) -> None:
        self.device, self.dtype = device, dtype
        self.ours = build_ours(device)
        self.batch = sample_of(self.ours)
        self.theirs = build_theirs(self.ours) if THEIRS in names else None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def optimizer(self, owner: str, *, fused: bool) -> torch.optim.Optimizer:
        """One for each model and kind, so that no step pays for another's state."""
        model: Any = self.theirs if owner == "theirs" else self.ours
        key = f"{owner} {fused}"
        if key not in self.optimizers:
            options = {"fused": True} if fused else {}
            self.optimizers[key] = torch.optim.AdamW(model.parameters(), lr=1e-6, **options)
        return self.optimizers[key]

    def finish(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def step(self, name: str) -> Step:
        if name == UPSTREAM:
            return self.upstream
        if name == THEIRS:
            return self.transformers
        settings = LEVERS.get(name, {})
        vrl = settings.get("vrl", {PAPER: "paper", PATCHES: Vrl(drop_at="patches")}.get(name, "off"))
        fused = name != "    AdamW not fused"
        config = self.ours.config.model_copy(update={k: v for k, v in settings.items() if k != "vrl"})

        def take() -> float:
            self.ours.config, self.ours.vrl = config, PRESETS[vrl] if isinstance(vrl, str) else vrl
            with autocast(self.dtype, self.device):
                answers = self.ours(self.batch).terms["answers"]
                loss = answers / max(1.0, self.ours.units(self.batch)["answers"])
            return self.finish(loss, self.optimizer("ours", fused=fused))

        return take

    def transformers(self) -> float:
        assert self.theirs is not None
        batch, device = self.batch, self.device
        pixels = (batch.tiles.float() / 255 - self.ours.pixel_mean) / self.ours.pixel_std
        ids, labels = send(batch.input_ids, device)[None], send(batch.labels, device)[None]
        with autocast(self.dtype, device):
            loss = self.theirs(
                input_ids=ids, pixel_values=pixels, labels=labels, attention_mask=torch.ones_like(ids)
            ).loss
        return self.finish(loss, self.optimizer("theirs", fused=False))

    def upstream(self) -> float:
        """Drop three quarters of the visual tokens, pad the row to its full length, take the loss over all of it."""
        ours, batch = self.ours, self.batch
        ours.vrl = PRESETS["paper"]
        reading = ours.read(batch)
        with autocast(self.dtype, self.device):
            rows = F.pad(ours.embed(batch, reading), (0, 0, 0, LONGEST - len(reading.labels)))[None]
            labels = F.pad(reading.labels, (0, LONGEST - len(reading.labels)), value=-100).to(self.device)[None]
            seen = (torch.arange(LONGEST, device=self.device) < len(reading.labels)).long()[None]
            positions = F.pad(reading.positions, (0, LONGEST - len(reading.labels))).to(self.device)[None]
            out = ours.language.get_decoder()(inputs_embeds=rows, attention_mask=seen, position_ids=positions)
            logits = ours.language.get_output_embeddings()(out.last_hidden_state).float()
            shifted, target = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
            loss = F.cross_entropy(shifted.flatten(0, 1), target.flatten())
        return self.finish(loss, self.optimizer("ours", fused=False))


def parts(ways: Ways, rounds: int) -> dict[str, float]:
    """Median seconds of each part of our step, forward and backward alone."""
    ours, batch = ways.ours, ways.batch
    ours.vrl = PRESETS["off"]
    reading = ours.read(batch)
    with torch.no_grad():
        rows = ours.embed(batch, reading)
        hidden = ours.hidden(rows, reading)
    rows.requires_grad_(), hidden.requires_grad_()
    head, at = ours.language.get_output_embeddings(), (reading.labels[1:] >= 0).nonzero().squeeze(1)
    target = reading.labels[1:][at].to(ways.device)
    work: dict[str, Callable[[], torch.Tensor]] = {
        "backbone and projector": lambda: ours.visual_tokens(batch.tiles).sum(),
        "language model's body": lambda: ours.hidden(rows, reading).sum(),
        "supervised-only head and loss": lambda: F.cross_entropy(head(hidden[at.to(ways.device)]).float(), target),
    }
    found = {}
    for name, forward in work.items():
        times = []
        for _ in range(rounds):
            start = clock(ways.device)
            with autocast(ways.dtype, ways.device):
                out = forward()
            out.backward()
            times.append(clock(ways.device) - start)
            ours.zero_grad(set_to_none=True)
        found[name] = statistics.median(times)
    return found


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_mb(name: str, device: torch.device, dtype: torch.dtype | None) -> float:
    """What two steps of one way need at their peak, in this process, which must be fresh."""
    before = highest_mb()
    step = Ways(device, dtype, [name]).step(name)
    step(), step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return highest_mb() - before


def highest_mb() -> float:
    """The most memory that this process has had; not `ru_maxrss`, which begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--few", action="store_true", help="(b) and (c) alone, and no memory: a few minutes")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what the fresh processes are asked
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, dtype = torch.device(args.device), torch.bfloat16 if args.dtype == "bf16" else None
    QWEN["vocab_size"] = args.vocabulary
    if args.memory_of:
        print(json.dumps(peak_mb(args.memory_of, device, dtype)))
        return
    ours = [THEIRS, OURS, PAPER, PATCHES]
    names = ours if args.few else [UPSTREAM, *ours, *LEVERS]
    ways = Ways(device, dtype, names)
    steps = {name: ways.step(name) for name in names}
    first = {}
    for name, step in steps.items():  # of weights that no step has changed yet
        finish, ways.finish = ways.finish, lambda loss, optimizer: loss.item()
        first[name] = step()
        ways.finish = finish
        step()  # makes the optimiser's state; not timed
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = clock(device)
            step()
            seconds[name].append(clock(device) - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    own = [sys.executable, __file__, "--dtype", args.dtype, "--device", args.device, "--vocabulary"]
    own += [str(args.vocabulary), "--memory-of"]
    memory = {
        name: float(json.loads(subprocess.run([*own, name], check=True, capture_output=True, text=True).stdout))
        for name in ([] if args.few else names)
    }
    report(ways, first, medians, memory, parts(ways, args.rounds), args)


def report(
    ways: Ways,
    first: dict[str, float],
    seconds: dict[str, float],
    memory: dict[str, float],
    of_parts: dict[str, float],
    args: argparse.Namespace,
) -> None:
    batch = ways.batch
    what = "one thread" if args.device == "cpu" else torch.cuda.get_device_name()
    table = Table(
        "step", "first loss", "seconds", "a / this", "b / this", "peak MB", "of a's",
        title=f"1 tile of 448 px, {len(batch.input_ids)} tokens, {int((batch.labels >= 0).sum())} supervised, "
        f"vocabulary {args.vocabulary:,}; {args.dtype}, {what}, torch {torch.__version__}, median of {args.rounds}",
    )  # fmt: skip
    for name, median in seconds.items():
        a = f"{seconds[UPSTREAM] / median:.2f}" if UPSTREAM in seconds else ""
        needs = [f"{memory[name]:,.0f}", f"{memory[name] / memory[UPSTREAM]:.2f}"] if memory else []
        table.add_row(name, f"{first[name]:.4f}", f"{median:.2f}", a, f"{seconds[THEIRS] / median:.2f}", *needs)
    console = Console(width=130)
    console.print(table)
    print(f"VRL before the backbone is {seconds[OURS] / seconds[PATCHES]:.2f} x our own step without VRL")
    share = Table("part of our step, VRL off", "seconds", "share")
    for name, value in of_parts.items():
        share.add_row(name, f"{value:.3f}", f"{value / seconds[OURS]:.0%}")
    rest = seconds[OURS] - sum(of_parts.values())
    share.add_row("optimiser and the rest", f"{rest:.3f}", f"{rest / seconds[OURS]:.0%}")
    console.print(share)


if __name__ == "__main__":
    main()
