"""A CLIP that tells what is in boxes by the names of their classes, measured as it is or taught more.

Run:      vistruct train clip.regions --clip CLIP --data data/train.json --val data/val.json
Needs:    memory for the whole CLIP; `vistruct eval CLIP --data BOXES` trains nothing
Expect:   no published number of this protocol
Source:   RegionCLIP (arXiv:2112.09106): regions read from the map beside texts; SigLIP (arXiv:2303.15343)
Differs:  the text of a region is the name of its class in templates, and boxes are the user's; the text tower stands
          still
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.config import Run, with_values
from vistruct.data.at_path import boxes_at
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, AS_USUAL, PixelValues, Reading, Worded
from vistruct.recipes.clip.parts import clip_at, run_of
from vistruct.recipes.clip.small import small_clip
from vistruct.recipes.detect import measured_on
from vistruct.samples.made_scenes import coco_folder
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # annotated objects: a COCO json, or a folder in any format that `vistruct check` knows
    clip: Path,  # a CLIP: file, folder, or one of our runs
    val: Path | None = None,  # those to measure on, never trained on; None: see val_split
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    tile: int | None = None,  # pixels of a window that images are cut into; None: whole images
    steps: int = 1000,
    batch: int = 16,
    lr: float = 1e-5,
    loss: Literal["softmax", "sigmoid"] = "softmax",  # sigmoid: of a SigLIP
    seed: int = 0,
    worded: Worded = AS_USUAL,  # which CLIP, and how classes are put into words
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """A CLIP with the objects of these data."""
    tiles = None if tile is None else Tiles(size=tile)
    train = boxes_at(data, reading, values, split=split, tiles=tiles)
    asked = measured_on(data, val, val_split)
    measured = None if asked is None else train.model_copy(update={"annotation": asked[0], "split": asked[1]})
    found = clip_at(clip, worded)
    run = run_of("clip.regions", clip, found, worded, train, measured, steps=steps, batch=batch, lr=lr, seed=seed)
    return with_values(run, task=run.only.task.model_copy(update={"loss": loss}))


def tiny() -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    folder = coco_folder(("plane", "ship"), "annotations", "{split}", masks=True)
    train, test = (
        boxes_at(folder / "annotations" / f"{split}.json", AS_FOUND, AS_THEY_ARE) for split in ("train", "test")
    )
    worded = Worded(templates="a photo of a {}.")
    run = run_of("clip.regions", None, small_clip(), worded, train, test, steps=3, batch=4, lr=1e-3, seed=0)
    return run.model_copy(update={"workers": 0})
