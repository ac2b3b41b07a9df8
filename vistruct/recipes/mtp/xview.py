"""Horizontal detection on xView (60 classes) from a backbone pretrained with MTP: RetinaNet on tiles of 416 pixels.

Run:      vistruct train mtp.xview --data data/xView --model rvsa_l --backbone mtp_l_encoder.pth --devices 8
Needs:    8 accelerators. The folder of xView as published: xView_train.geojson and
          train_images
Expect:   published AP50, on tiles of images that were drawn without a seed, without MTP -> with it: rvsa_b
          14.6 -> 16.4, rvsa_l 15.0 -> 19.4, intern_xl 17.0 -> 18.2
Source:   MTP (arXiv:2403.13430), `retinanet_*_xview` of its public code: 12 epochs of 2,510 steps of (so it seems) 8
          tiles; P3 to P7, 700 images to learn from and the rest to measure
Differs:  nothing is written to disk: tiles are cut while training, side by side with the last ones moved inwards, where
          there all of them are spread evenly. Images fall to train and val by a hash of their names.
          Measured are whole images, joined of their tiles, and not each tile for itself. As `mtp.detection`
          and `mtp.fine_tuning`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.boxes import BoxDataConfig
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.recipes.mtp import detection
from vistruct.recipes.mtp.fine_tuning import BOX_RATES, Downstream, recipe_for, tiny_for
from vistruct.samples.made_scenes import xview_folder
from vistruct.transforms.augment import Augment
from vistruct.windows.tiles import Tiles

SHARES = {"train": 700 / 846, "val": 146 / 846}


def data(root: Path, split: str, size: int) -> tuple[BoxDataConfig, dict[str, Eval]]:
    train = BoxDataConfig(
        annotation=root,
        format="xview",
        split=split,
        random_split=SHARES,
        tiles=Tiles(size=size, overlap=0, skip_empty=True),
        augment=Augment(hflip=True),
    )
    whole = {"split": "val", "augment": None, "tiles": Tiles(size=size, overlap=0)}
    val = Eval(data=train.model_copy(update=whole), metric=CocoBoxesConfig())
    return train, {} if "val" in split.split("+") else {"val": val}


SET = Downstream(
    name="mtp.xview",
    size=416,
    split="train",
    batch=8,
    steps=12 * 2510,
    rates=BOX_RATES,
    data=data,
    task=detection.retina,
    schedule=detection.TWELVE_EPOCHS,
)
recipe = recipe_for(SET)
tiny = tiny_for(SET, xview_folder, size=96)
