"""A ViT block with rotated windows beside one with plain windows, and what relative positions cost in full attention.

Run:  uv run python benchmarks/rvsa.py [--device cuda] [--width 768 --heads 12] [--rounds 5]

Blocks of ViT-B (norms, attention, MLP), forward and backward, in one process, turn about: windows of 7 x 7 by
`scaled_dot_product_attention`, plain and rotated; all patches by the same, without relative positions, with them as
further numbers of queries and keys (ours), and with them as one table of all pairs, which is then the attention's
bias; the last two give the same. float32; milliseconds are medians, of processor time of one thread, on a GPU by the
clock; `kept` is what the forward pass keeps for the backward pass, beside weights and input.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vistruct.backbones.vit_rvsa import Block, FullAttention, VitRvsaConfig, rows_by_distance
from vistruct.backbones.windows import from_windows, to_windows

INPUTS = ((14, 4), (28, 1), (50, 1))  # patches a side (224, 448 and 800 pixels), images


class PlainWindows(nn.Module):
    def __init__(self, config: VitRvsaConfig) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        windows, _ = to_windows(self.qkv(x), grid_hw, self.window)
        q, k, v = windows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(from_windows(out, grid_hw, self.window))


class AsTable(FullAttention):
    def forward(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        (h, w), (b, n, width) = grid_hw, x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, grid_hw) * q.shape[-1] ** -0.5
        rows = torch.einsum("bhyxd,ykd->bhyxk", grid, rows_by_distance(self.full_attn_rel_pos_h, h))
        columns = torch.einsum("bhyxd,xkd->bhyxk", grid, rows_by_distance(self.full_attn_rel_pos_w, w))
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)  # [B, H, L, L]
        return self.proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(b, n, width))


def blocks(width: int, heads: int, side: int, device: torch.device) -> dict[str, Block]:
    """By what they are called; those with relative positions have the same weights."""
    config = VitRvsaConfig(width=width, heads=heads, image_size=16 * side, drop_path=0.0)
    without = config.model_copy(update={"full_rel_pos": False})
    made = {
        "plain windows": Block(config, 0),
        "rotated windows": Block(config, 0),
        "all patches": Block(without, 2),
        "relative positions": Block(config, 2),
        "... as a table": Block(config, 2),
    }
    made["plain windows"].attn = PlainWindows(config)
    made["... as a table"].attn = AsTable(config)
    for name, table in made["relative positions"].named_parameters():
        if "full_attn_rel_pos" in name:
            nn.init.normal_(table, std=0.1)
    made["... as a table"].load_state_dict(made["relative positions"].state_dict())
    return {name: block.to(device) for name, block in made.items()}


def kept_mib(call: Callable[[], Tensor], block: Block) -> float:
    """Memory that autograd holds after the call, each storage once."""
    own, found = {p.untyped_storage().data_ptr() for p in block.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = call()
    del out
    return sum(found.values()) / 2**20


def seconds(call: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """Of the forward and of the backward pass."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    marks = []

    def mark() -> None:
        if on_gpu:
            torch.cuda.synchronize()
        marks.append(clock())

    mark()
    out = call()
    mark()
    out.square().mean().backward()
    mark()
    return marks[1] - marks[0], marks[2] - marks[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(asked.device)
    table = Table("grid", "images", "block", "forward ms", "backward ms", "times the first", "kept MiB")
    for side, images in INPUTS:
        made = blocks(asked.width, asked.heads, side, device)
        x = torch.randn(images, side * side, asked.width, device=device, requires_grad=True)
        calls = {name: (lambda block=block, x=x, side=side: block(x, (side, side))) for name, block in made.items()}
        with torch.no_grad():
            torch.testing.assert_close(calls["relative positions"](), calls["... as a table"]())
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for number in range(asked.rounds + 1):
            for name, call in calls.items():
                one = seconds(call, device)
                if number:  # the first is for warming up
                    times[name].append(one)
        first = 0.0
        for name, found in times.items():
            both = statistics.median(a + b for a, b in found)
            first = both if name in ("plain windows", "all patches") else first
            forward, backward = (1000 * statistics.median(part) for part in zip(*found, strict=True))
            kept = kept_mib(calls[name], made[name])
            numbers = (f"{forward:.1f}", f"{backward:.1f}", f"{both / first:.2f}", f"{kept:.0f}")
            table.add_row(f"{side} x {side}", f"{images}", name, *numbers)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
