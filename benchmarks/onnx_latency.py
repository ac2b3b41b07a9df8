"""What an exported ONNX file takes beside the model itself: onnxruntime and torch, turn about in one process.

Run:  uv run python benchmarks/onnx_latency.py [--side 256] [--rounds 7]

Random weights; one image, one thread. Both do all that the file holds: normalising, the network, and for boxes NMS. One
round warms up, then they take turns. Processor time, medians; and the size of the file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.checkpoint.load import ModelCard
from vistruct.checkpoint.onnx_export import prove
from vistruct.checkpoint.onnx_graph import plan_of
from vistruct.checkpoint.onnx_images import mirrored_and_cut
from vistruct.checkpoint.onnx_run import FILE, OnnxFile
from vistruct.contracts import DataInfo, Sample
from vistruct.data.input import Input
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.tasks.classify import ClassifyConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

VIT = InternVitConfig(image_size=256, patch=16, width=384, depth=12, heads=6)
CONV = TimmConfig(name="resnet18")
MODELS = {
    "detect, ResNet-18, FPN, FCOS": DetectConfig(backbone=CONV, neck=FpnConfig(channels=128), head=FcosConfig()),
    "detect, ViT-S, FCOS": DetectConfig(backbone=VIT, neck=SimplePyramidConfig(channels=128), head=FcosConfig()),
    "detect, ResNet-18, FPN, Faster R-CNN": DetectConfig(
        backbone=CONV, neck=FpnConfig(channels=128), head=FasterRcnnConfig()
    ),
    "detect, ViT-Adapter-S, FCOS": DetectConfig(
        backbone=VitAdapterConfig(vit=VIT, groups=((0, 2), (3, 5), (6, 8), (9, 11)), heads=6),
        neck=FpnConfig(channels=128),
        head=FcosConfig(),
    ),
    "segment, ResNet-18, UPerNet": SegmentConfig(backbone=CONV, head=UperNetConfig(channels=128)),
    "classify, ViT-S": ClassifyConfig(backbone=VIT, head=PooledConfig()),
}
NAMES = ("a", "b", "c")


def measured(config: Any, side: int, rounds: int) -> tuple[float, float, float, str]:
    """Seconds of torch and of onnxruntime, the file's megabytes, and how near they are."""
    torch.manual_seed(0)
    task = config.build(DataInfo(class_names=NAMES), Path()).eval()
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    sample = Sample(id="a", image_id="a", seed=0, images=[pixels])
    batch = task.collator([sample])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        card = ModelCard(path=Path(), task=config, info=DataInfo(), input=Input())
        proved = prove(task, card, plan_of(task), mirrored_and_cut(sample, task.size_divisor), file)
        size, opened = file.stat().st_size / 1e6, OnnxFile(file, proved.freedom, proved.size_hw)
    seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, run in (("torch", lambda: task.predict(batch)), ("onnx", lambda: opened(pixels[None]))):
                start = time.process_time()
                run()
                if number:  # the first warms up
                    seconds[name].append(time.process_time() - start)
    own, theirs = (statistics.median(one) for one in seconds.values())
    return own, theirs, size, proved.apart.line()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(
        "", "torch", "onnxruntime", "torch / onnxruntime", "file", "apart", title=f"{asked.side} px, one image"
    )
    for name, config in MODELS.items():
        own, theirs, size, apart = measured(config, asked.side, asked.rounds)
        times = (f"{1000 * own:.0f} ms", f"{1000 * theirs:.0f} ms", f"{own / theirs:.2f}")
        table.add_row(name, *times, f"{size:.0f} MB", apart)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
