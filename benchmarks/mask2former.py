"""How long does a training step of Mask2Former's layers take, beside transformers' with the same sizes?

Both get the same feature maps and the same masks, in one process and in turns; the median of the rounds counts. Ours in
ViSFT's one-level form is timed too, on one map of stride 14.

    uv run python benchmarks/mask2former.py [--size 256] [--objects 10] [--batch 2] [--rounds 5] [--points 12544]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Mask2FormerConfig as TheirConfig
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig

from vistruct.contracts import BoxTarget, FeatureSpec
from vistruct.heads.mask2former import VISFT_MASK2FORMER, Mask2FormerConfig
from vistruct.heads.mask_loss import MaskLoss

CHANNELS = (32, 64, 128, 256)


def theirs(features: list[Tensor], masks: list[Tensor], labels: list[Tensor], points: int) -> Callable[[], Tensor]:
    """Their pixel decoder, decoder and loss; the backbone gives what it is given."""
    stages = [f"stage{i}" for i in range(1, 5)]
    swin = SwinConfig(embed_dim=CHANNELS[0], depths=[1] * 4, num_heads=[1] * 4, out_features=stages)
    config = TheirConfig(
        backbone_config=swin, num_labels=80, train_num_points=points, encoder_layers=6, dropout=0.0, decoder_layers=10
    )
    model = Mask2FormerForUniversalSegmentation(config).train()
    model.model.pixel_level_module.encoder.forward = lambda *args, **kwargs: SimpleNamespace(feature_maps=features)
    image = torch.zeros(len(masks), 3, *masks[0].shape[1:])
    return lambda: model(pixel_values=image, mask_labels=[one.float() for one in masks], class_labels=labels).loss


def ours(
    config: Mask2FormerConfig, features: list[Tensor], specs: Any, targets: list[BoxTarget]
) -> Callable[[], Tensor]:
    """Our layers and loss."""
    head = config.build(specs, 80).train()
    units = head.units(targets, (0, 0))

    def loss() -> Tensor:
        terms = head.loss(head(features), targets).terms
        return torch.stack([term / units[name] for name, term in terms.items()]).sum()

    return loss


def timed(step: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds of the processor, forwards (with the loss) and backwards; others on the machine do not count."""
    begun = time.process_time()
    loss = step()
    between = time.process_time()
    loss.backward()
    return between - begun, time.process_time() - between


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("size", 256), ("objects", 10), ("batch", 2), ("rounds", 5), ("points", 12544)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    torch.manual_seed(0)
    specs = tuple(FeatureSpec(channels=c, stride=4 << i) for i, c in enumerate(CHANNELS))
    sides = [asked.size // spec.stride for spec in specs]
    features = [torch.randn(asked.batch, c, side, side) for c, side in zip(CHANNELS, sides, strict=True)]
    masks, labels = [], []
    for _ in range(asked.batch):
        low = torch.randint(0, asked.size // 2, (asked.objects, 2, 1, 1))
        at = torch.arange(asked.size)
        masks.append(((at > low[:, 0]) & (at < low[:, 0] + 40)) & ((at > low[:, 1]) & (at < low[:, 1] + 40)).mT)
        labels.append(torch.randint(0, 80, (asked.objects,)))
    targets = [
        BoxTarget(labels=name, masks=mask, boxes_xyxy=torch.rand(len(name), 4))
        for name, mask in zip(labels, masks, strict=True)
    ]
    one = FeatureSpec(channels=CHANNELS[-1], stride=14)
    side = asked.size // 14
    loss = MaskLoss(points=asked.points)
    steps = {
        "transformers": theirs(features, masks, labels, asked.points),
        "ours": ours(Mask2FormerConfig(loss=loss), features, specs, targets),
        "ours, one map of stride 14": ours(
            VISFT_MASK2FORMER.model_copy(update={"loss": loss}),
            [torch.randn(asked.batch, CHANNELS[-1], side, side)],
            (one,),
            targets,
        ),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(asked.rounds + 1):
        for name, step in steps.items():
            seconds = timed(step)
            if number:  # the first is to warm up
                rounds[name].append(seconds)
    for name, found in rounds.items():
        forward, backward = (statistics.median(each) for each in zip(*found, strict=True))
        print(f"{name:28s} forward and loss {forward:6.2f} s   backward {backward:6.2f} s")


if __name__ == "__main__":
    main()
