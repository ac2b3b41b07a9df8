"""Samples as pictures with their truth, each as what it is; volumes also with what a model says of their slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vistruct.contracts import Dataset, Sample
from vistruct.ops.seeds import derive
from vistruct.pictures.areas import beside
from vistruct.pictures.captions import draw_captions
from vistruct.pictures.chat import draw_conversation
from vistruct.pictures.classes import draw_classes
from vistruct.pictures.in_sample import map_in_sample
from vistruct.pictures.maps import draw_map, draw_pair
from vistruct.pictures.objects import contact_sheet, draw_sample
from vistruct.pictures.pointed import draw_pointed
from vistruct.pictures.primitives import enlarge, to_pil
from vistruct.pictures.volume import draw_volume, evenly


def draw_samples(samples: list[Sample], dataset: Dataset, path: Path) -> Path:
    """A sheet of samples with their truth; pairs and conversations each have a row."""
    pictures = [draw_one(sample, dataset) for sample in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns_for(samples), [sample.id for sample in samples]).save(path)
    return path


def columns_for(samples: Sequence[Sample]) -> int:
    """How many samples stand side by side."""
    is_wide = any(
        one.turns or len(one.images) > 1 or (len(one.objects) and one.label_map is not None) for one in samples
    )
    return 1 if is_wide else 3


def draw_one(sample: Sample, dataset: Any) -> Image.Image:
    """One sample with its truth: a conversation, a pair, a label map, classes or captions of the whole image,
    or objects."""
    info = dataset.info
    if sample.turns and any(turn.points for turn in sample.turns) and len(sample.images) == 1:
        return draw_pointed(sample)
    if sample.turns:
        return draw_conversation(sample)
    if len(sample.images) == 2:
        return draw_pair(*sample.images, sample.label_map, None, info.class_names, info.palette)
    if sample.label_map is not None and info.map_class_names:
        maps = draw_map(sample.images[0], sample.label_map, info.map_class_names)
        return beside([("objects", draw_sample(sample, info.class_names)), ("label map", maps)])
    if sample.label_map is not None:
        image = _slice(sample.images[0]) if is_volume(dataset) else sample.images[0]
        return draw_map(image, sample.label_map, info.class_names, info.palette)
    if sample.image_labels is not None:
        return draw_classes(sample, None, info.class_names)
    if sample.captions:
        return draw_captions(sample)
    if not info.class_names and len(sample.images) == 1:  # nothing is known of it
        return enlarge(to_pil(sample.images[0]))[0]
    return draw_sample(sample, info.class_names)


def is_volume(dataset: Any) -> bool:
    """Whether its records are slices."""
    return len(dataset.records) > 0 and dataset.records[0].slice is not None


def draw_case(
    dataset: Any, case: str, most: int, ask: Callable[[Sample], Sequence[Any]] | None = None, seed: int = 0
) -> Image.Image:
    """A volume as a grid of at most `most` of its slices, with the truth, and with what `ask` says of each.

    Four times as many slices are read, and those drawn lie evenly among the ones that have labels.
    """
    indices = [index for index, record in enumerate(dataset.records) if record.image_id == case]
    read = [(i, dataset.sample(i, derive(seed, "eval", i))) for i in evenly(indices, 4 * most)]
    with_labels = [pair for pair in read if pair[1].label_map is not None and (pair[1].label_map > 0).any()]
    chosen = evenly(with_labels or read, most)
    maps = [found[0] for _, sample in chosen for found in [ask(sample)]] if ask is not None else []
    predictions = [map_in_sample(one, sample) for one, (_, sample) in zip(maps, chosen, strict=False)]
    return draw_volume(
        [sample.images[0] for _, sample in chosen],
        [sample.label_map for _, sample in chosen],
        dataset.info.class_names,
        dataset.info.palette,
        numbers=[dataset.records[i].slice for i, _ in chosen],
        predictions=predictions or None,
        most=most,
    )


def _slice(image: Tensor) -> Tensor:
    """uint8[1, H, W], the middle channel: the slice itself, where its neighbours are channels too."""
    return image[image.shape[0] // 2][None]
