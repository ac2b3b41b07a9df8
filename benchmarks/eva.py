"""An EVA ViT beside timm's `Eva` with the same weights: forward and backward, all of it trained, or adapters alone.

Run:  uv run python benchmarks/eva.py [--device cuda] [--width 704 --depth 8 --heads 8] [--both] [--rounds 5]

Heads of 88 numbers at 224 pixels, as EVA-ViT-g has them, with a class token, in one process, turn about; their outputs
are compared first. float32; milliseconds are medians, of processor time of one thread, on a GPU by the clock; `kept` is
what the forward pass keeps for the backward pass, beside weights and input. Adapters are ours of rank 64 on queries and
values: timm reads the weight that they change, which is made anew for it in every forward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timm.models.eva import Eva
from torch import Tensor, nn

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.config import Lora, Trainable
from vistruct.engine.trainable import apply_rules

ADAPTERS = Trainable(pattern="backbone", mode="lora", lora=Lora(rank=64, scale=1 / 64, parts=("q", "v")))


def pair(config: EvaVitConfig, device: torch.device) -> dict[str, nn.Module]:
    """Ours and timm's with the same weights, by whose they are."""
    torch.manual_seed(0)
    ours = config.build()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.02)
    theirs = Eva(
        img_size=config.image_size, patch_size=config.patch, embed_dim=config.width, depth=config.depth,
        num_heads=config.heads, mlp_ratio=config.mlp_width / config.width, use_post_norm=config.post_norm,
        num_classes=0, global_pool="token",
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return {"ours": ours.to(device), "timm": theirs.to(device)}


def features(model: Any) -> Callable[[Tensor], Tensor]:
    """float[B, C, H, W] -> float[B, L, D], the patches behind the last norm."""
    if isinstance(model, Eva):
        return lambda image: model.forward_features(image)[:, 1:]
    return lambda image: model.tokens(image).patches


def kept_mib(call: Callable[[], Tensor], model: nn.Module) -> float:
    """Memory that autograd holds after the call, each storage once."""
    own, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = call()
    del out
    return sum(found.values()) / 2**20


def seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """Of forward and backward pass."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    begin = clock()
    call().square().mean().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=704)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--both", action="store_true", help="with norms behind attention too")
    parser.add_argument("--autocast", action="store_true", help="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(asked.device)
    table = Table("norms", "trained", "whose", "ms", "ours / timm", "kept MiB")
    image = torch.randn(1, 3, 224, 224, device=device)
    for post_norm in (False, True)[: 1 + asked.both]:
        config = EvaVitConfig(
            width=asked.width, depth=asked.depth, heads=asked.heads, mlp_width=int(asked.width * 4.3637),
            post_norm=post_norm, class_token=True,
        )  # fmt: skip
        for trained in ("all", "adapters"):
            models = pair(config, device)
            with torch.no_grad():
                apart = [features(model.eval())(image) for model in models.values()]
            assert (apart[0] - apart[1]).abs().max() < 1e-3, (apart[0] - apart[1]).abs().max()
            times: dict[str, list[float]] = {name: [] for name in models}
            kept: dict[str, float] = {}
            for name, model in models.items():
                if trained == "adapters":
                    apply_rules(nn.ModuleDict({"backbone": model}), [ADAPTERS])
                call = features(model.train())
                kept[name] = kept_mib(lambda call=call: call(image), model)
            for number in range(asked.rounds + 1):
                for name, model in models.items():
                    call = features(model)
                    with torch.autocast(device.type, torch.bfloat16, enabled=asked.autocast):
                        taken = seconds(lambda call=call: call(image), device)
                    if number:  # the first of each warms up
                        times[name].append(taken)
            medians = {name: statistics.median(values) for name, values in times.items()}
            for name in models:
                ratio = f"{medians['ours'] / medians['timm']:.2f}" if name == "ours" else ""
                table.add_row(
                    "behind" if post_norm else "before", trained, name, f"{1000 * medians[name]:.0f}", ratio,
                    f"{kept[name]:.0f}",
                )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
