"""What a frozen backbone is worth with few labels: three probes on one annotated scene.

`label_efficiency` tells object patches from ground patches by their pooled features; `dense_probe` says of
each cell of a feature map whether an object is there; `turned_probe` tells patches as they lie from those turned by
half a turn, which no annotation of objects says, and no colour. All fit a logistic regression on a few labels and test
on the rest. Which patches and crops are drawn depends on the scene and the seed alone, so that backbones are
compared pair by pair.

The control: a backbone that knows a domain may gain only because its features are centred and scaled to it.
Give both probes `reference=statistics(features of the training scene)`: features are then standardised by
that scene instead of by the few labels, for a random backbone as for a trained one.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.study.linear import (
    Statistics,
    average_precision,
    logistic_regression,
    standardised,
    statistics,
)
from vistruct.study.patches import cell_labels, cut, dense_crops, generator
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD

RGB = tuple[float, float, float]


@torch.no_grad()
def dense_features(
    backbone: nn.Module, patches: Tensor, mean: RGB = IMAGENET_MEAN, std: RGB = IMAGENET_STD, batch: int = 64
) -> Tensor:
    """The last feature map of each patch, from the backbone in eval mode.

    Args:
        backbone: a `contracts.Backbone`, on any device.
        patches: uint8[N, 3, S, S].
        mean, std: of RGB in [0, 1], as the backbone was trained.
        batch: patches at a time.

    Returns:
        float32[N, h, w, C] on the CPU.

    Raises:
        UserError: no patches, or the backbone gives NaN or infinity.
    """
    if not len(patches):
        raise UserError("no patches to probe", fix="use a scene with objects")
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    centre = torch.tensor(mean, device=device).view(3, 1, 1)
    spread = torch.tensor(std, device=device).view(3, 1, 1)
    maps = []
    with _in_eval(backbone):
        for part in patches.split(batch):
            images = (part.to(device).float() / 255 - centre) / spread
            maps.append(backbone(images)[-1].float().permute(0, 2, 3, 1).cpu())  # [B, h, w, C]
    features = torch.cat(maps)
    if not features.isfinite().all():
        raise UserError("the backbone gives NaN or infinity", fix="look at its training: it may have diverged")
    return features


def pooled_features(
    backbone: nn.Module, patches: Tensor, mean: RGB = IMAGENET_MEAN, std: RGB = IMAGENET_STD, batch: int = 64
) -> Tensor:
    """float32[N, C]: the mean over the last map of each patch; otherwise as `dense_features`."""
    return dense_features(backbone, patches, mean, std, batch).mean((1, 2))


def label_efficiency(
    features: Tensor,
    labels: Tensor,
    shots: Sequence[int] = (5, 20, 50),
    draws: int = 8,
    seed: int = 0,
    *,
    l2: float = 1.0,
    reference: Statistics | None = None,
) -> dict[int, list[float]]:
    """Accuracy on all other patches after learning from `shots` of each class.

    A draw orders the patches of each class once and takes its first 5, 20, ... : larger shots contain the
    smaller ones, and backbones are compared on the same patches. Neighbouring patches may overlap, so that
    accuracies compare backbones and say nothing of another scene.

    Args:
        features: float[N, C], a row for each patch of `object_patches`.
        labels: int64[N], 0 or 1.
        reference: standardise by these statistics; None: by those of the labelled patches of each draw.

    Returns:
        for each number of shots, `draws` accuracies in [0, 1]; chance is the share of the larger class.

    Raises:
        UserError: a class has too few patches to learn from and still test on.
    """
    by_class = [(labels == value).nonzero()[:, 0] for value in (0, 1)]
    fewest = min(len(places) for places in by_class)
    _check_shots(shots, draws)
    if max(shots) >= fewest:
        raise UserError(
            f"{max(shots)} labels a class leave nothing to test on: the smaller class has {fewest} patches",
            fix=f"use fewer than {fewest} shots" if fewest > 1 else "use a scene with more objects",
        )
    accuracies: dict[int, list[float]] = {n: [] for n in shots}
    for draw in range(draws):
        source = generator("labelled patches", seed, draw)
        shuffled = [places[torch.randperm(len(places), generator=source)] for places in by_class]
        for n in shots:
            train = torch.cat([places[:n] for places in shuffled])
            test = torch.cat([places[n:] for places in shuffled])
            scale = reference or statistics(features[train])
            w, b = logistic_regression(standardised(features[train], scale), labels[train], l2)
            is_object = standardised(features[test], scale) @ w + b > 0
            accuracies[n].append(float((is_object == (labels[test] == 1)).double().mean()))
    return accuracies


def turned_probe(
    upright: Tensor,
    turned: Tensor,
    shots: Sequence[int] = (20, 50, 100),
    draws: int = 8,
    seed: int = 0,
    *,
    l2: float = 1.0,
) -> dict[int, list[float]]:
    """Accuracy of "this place is shown as it lies, or turned by half a turn" after learning from few places of each.

    Where light falls from one side it can be seen, by the shadows. Places that are learned from are shown one way; all
    others are tested both ways, so that what does not change with the turn, such as colours, gives exactly a half.

    Args:
        upright, turned: float[N, C], features of the same N places.
        shots: numbers of places that are learned from as they lie, and as many that are turned.

    Returns:
        for each number of shots, `draws` accuracies in [0, 1]; chance is 1/2.

    Raises:
        UserError: no place is left to test on.
    """
    _check_shots(shots, draws)
    most = max(shots)
    if 2 * most >= len(upright):
        what = f"{most} places of each of two ways leave none of {len(upright)} to test on"
        raise UserError(what, fix=f"use fewer than {(len(upright) + 1) // 2} shots, or smaller patches")
    accuracies: dict[int, list[float]] = {n: [] for n in shots}
    for draw in range(draws):
        order = torch.randperm(len(upright), generator=generator("turned places", seed, draw))
        ways, test = (order[:most], order[most : 2 * most]), order[2 * most :]
        for n in shots:
            x, y = torch.cat([upright[ways[0][:n]], turned[ways[1][:n]]]), torch.arange(2).repeat_interleave(n)
            scale = statistics(x)
            w, b = logistic_regression(standardised(x, scale), y, l2)
            right = [standardised(upright[test], scale) @ w + b <= 0, standardised(turned[test], scale) @ w + b > 0]
            accuracies[n].append(float(torch.cat(right).double().mean()))
    return accuracies


def dense_probe(
    backbone: nn.Module,
    image: Tensor,
    boxes_xyxy: Tensor | np.ndarray,
    crop: int,
    shots: Sequence[int] = (2, 8, 32),
    draws: int = 5,
    seed: int = 0,
    *,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    batch: int = 64,
    l2: float = 1.0,
    reference: Statistics | None = None,
) -> dict[int, list[float]]:
    """Average precision of "an object is at this cell" after learning from `shots` labelled crops.

    Args:
        image: uint8[3, H, W].
        crop: side in pixels, a multiple of the stride of the backbone's last map.
        shots: numbers of labelled crops from the scene's left third; tested on crops of the rest.
        reference: standardise by these statistics of cells; None: by those of the labelled cells.

    Returns:
        for each number of shots, `draws` values in [0, 1]; chance is the share of object cells.

    Raises:
        UserError: a crop that the scene or the stride does not allow, or one kind of cell only.
    """
    _check_shots(shots, draws)
    stride = cast(tuple[FeatureSpec, ...], backbone.specs)[-1].stride
    if crop % stride:
        fix = f"use crop={max(crop // stride, 1) * stride}"
        raise UserError(f"crop={crop} is not a multiple of the backbone's stride of {stride}", fix=fix)
    height, width = image.shape[1:]
    crops = dense_crops((height, width), boxes_xyxy, crop, max(shots), draws, seed, fewest=min(shots))

    def read(corners: Tensor) -> tuple[Tensor, Tensor]:
        features = dense_features(backbone, cut(image, corners, crop), mean, std, batch)  # [K, h, w, C]
        labels = cell_labels(boxes_xyxy, corners, crop, stride)  # [K, h, w]
        if features.shape[:3] != labels.shape:
            got, want = list(features.shape[1:3]), list(labels.shape[1:])
            raise ValueError(f"the last map of a crop is {got}, its stride of {stride} says {want}")
        return features, labels

    test_x, test_y = (part.flatten(0, 2) for part in read(crops.tested))
    _check_both(test_y, "tested crops")
    precision: dict[int, list[float]] = {n: [] for n in shots}
    for corners in crops.labelled:
        features, labels = read(corners)
        for n in shots:
            x, y = features[:n].flatten(0, 2), labels[:n].flatten()
            _check_both(y, f"{n} labelled crops")
            scale = reference or statistics(x)
            w, b = logistic_regression(standardised(x, scale), y, l2)
            precision[n].append(average_precision(standardised(test_x, scale) @ w + b, test_y))
    return precision


def _check_shots(shots: Sequence[int], draws: int) -> None:
    if not shots or min(shots) < 1 or draws < 1:
        raise UserError(f"shots={tuple(shots)} and draws={draws} must be at least 1", fix="shots=(5, 20), draws=8")


def _check_both(y: Tensor, what: str) -> None:
    if y.all() or not y.any():
        found = "objects" if y.all() else "ground"
        raise UserError(f"the cells of the {what} are {found} only", fix="use larger crops or more of them")


@contextmanager
def _in_eval(module: nn.Module) -> Generator[None]:
    """Eval mode, and back to what each part was in before."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, was_training in before.items():
            part.training = was_training
