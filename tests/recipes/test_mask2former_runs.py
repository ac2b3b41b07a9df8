"""Mask2Former from annotations to predictions: objects with masks, pixels of images, of volumes and of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.contracts import BoxPrediction
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask2former_maps import Mask2FormerMapsConfig
from vistruct.heads.mask_loss import MaskLoss
from vistruct.heads.mask_queries import MaskQueriesConfig
from vistruct.inference.model import load
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.recipes import change, detect, segment
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_maps import levir_folder, loveda_folder
from vistruct.samples.made_volumes import amos_folder
from vistruct.settings import with_settings
from vistruct.windows.views import Views

LAYERS = MaskQueriesConfig(
    queries=6, width=16, heads=2, encoder_layers=1, encoder_ffn=16, decoder_layers=2, decoder_ffn=16
)
LOSS = MaskLoss(points=64)
NECK = SimplePyramidConfig(channels=16, strides=(4, 8, 16))


def figures(out: Path) -> dict[str, Any]:
    return {
        key: value
        for line in (out / "metrics.jsonl").read_text().splitlines()
        for key, value in json.loads(line).items()
    }


def squares(folder: Path) -> Path:
    """COCO json: a bright square on each of two dark images, with its polygon; one image without."""
    folder.mkdir()
    images, marks = [], []
    for number, (x, y, side) in enumerate(((8, 12, 30), (40, 30, 44), (0, 0, 0))):
        pixels = np.full((96, 112, 3), 40, np.uint8)
        pixels[y : y + side, x : x + side] = 220
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 112, "height": 96})
        if side:
            corners = [x, y, x + side, y, x + side, y + side, x, y + side]
            shape = {"segmentation": [corners], "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
            marks.append({"id": number + 1, "image_id": number, "category_id": 1, **shape})
    known = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "square"}]}
    (folder / "train.json").write_text(json.dumps(known))
    return folder / "train.json"


def test_objects_from_annotations_to_masks(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = squares(tmp_path / "data")
    run = detect.recipe(data=data, val=data, head="mask2former", size=64, overlap=32, batch=3, steps=40)
    assert run.evals["val"].metric.kind == "coco_masks"
    assert detect.recipe(data=data, head="mask2former", channels=64).only.task.head.layers.heads == 2
    head = Mask2FormerConfig(layers=LAYERS, loss=LOSS)
    run = quick(run, {"backbone": small_vit(stem="conv"), "neck": NECK, "head": head})
    run = with_settings(run, ["batch=3", "optim.lr=0.003"]).model_copy(update={"evals": {"train": run.evals["val"]}})
    train(run, tmp_path / "run")
    found = figures(tmp_path / "run")
    assert found["loss_mask"] < 20
    assert "train/mask/AP" in found
    model = load(tmp_path / "run")
    for views in (None, Views(flips=("none", "horizontal"), scales=(1.0, 0.5))):
        model.task.config = model.task.config.model_copy(update={"views": views})
        seen = model.predict(read_image(tmp_path / "data/1.png")).prediction
        assert isinstance(seen, BoxPrediction)
        assert len(seen.objects) > 0
        for patch, box in zip(seen.objects.masks, seen.objects.boxes_xyxy.tolist(), strict=True):
            assert patch.pixels.dtype == bool
            assert 0 <= patch.x <= 112
            assert 0 <= box[0] < box[2] <= 112


@pytest.mark.parametrize("kind", ["maps", "volumes", "pairs"])
def test_pixels_from_labels_to_maps(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    sizes: dict[str, Any] = {"steps": 3, "size": 32, "overlap": 8, "batch": 2, "head": "mask2former"}
    if kind == "pairs":
        run = change.recipe(data=levir_folder(), split="train", val_split="test", **sizes)
    elif kind == "volumes":
        run = segment.recipe(data=amos_folder(), split="train", val_split="val", **sizes)
    else:
        run = segment.recipe(data=loveda_folder(), split="train", val_split="val", **sizes)
    assert run.only.task.head.kind == "mask2former"
    channels = run.only.task.backbone.channels
    head = Mask2FormerMapsConfig(layers=LAYERS, loss=LOSS)
    run = quick(run, {"backbone": small_vit(channels), "neck": NECK, "head": head})
    train(run, tmp_path / "run")
    found = figures(tmp_path / "run")
    assert any(key.startswith("val/") and value is not None for key, value in found.items())
    assert all(np.isfinite(found[f"loss_{term}"]) for term in ("class", "mask", "dice"))


def test_a_second_dice_loss_is_a_question() -> None:
    with pytest.raises(UserError, match="a dice loss of its own") as caught:
        segment.recipe(data=loveda_folder(), split="train", head="mask2former", dice=1)
    run = segment.recipe(data=loveda_folder(), split="train", head="mask2former")
    changed = with_settings(run, [caught.value.fix.split()[1]])
    assert changed.only.task.head.loss.dice_weight == 1
