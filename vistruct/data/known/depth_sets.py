"""Depth sets by the layouts of their folders: one soft mask of the whole image, no object (`files.depth`).

    KITTI depth prediction: 256 to a metre, 80 m and farther is 1, most pixels are not known
        train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png
        train/2011_09_26_drive_0001_sync/image_02/data/0000000005.png: images of the raw data beside them, or
        2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png: below the root (or --images) by their date
        depth_selection/val_selection_cropped/groundtruth_depth/... beside image/...
    NYU Depth v2 as it is trained on: millimetres, 10 m and farther is 1
        SCENE/rgb_00045.jpg beside SCENE/sync_depth_00045.png, below the root or a split of it
    HR-WSI: disparities without a unit, an order of near and far
        train/imgs/a.jpg, train/gts/a.png, train/valid_masks/a.png

Unknown pixels are NaN. Name the root; folders directly below it are splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vistruct.contracts import Objects
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES
from vistruct.data.formats.chat.objects import NAMES
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import Source
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter

_TRUTH = "proj_depth/groundtruth/image_0[23]/*.png"
_CROPPED = "val_selection_cropped"
_ENDINGS = (".png", ".jpg")

Pair = tuple[list[Path], dict[str, Any]]  # places where the image may be, and its depth map


def _kitti(folder: Path, root: Path, images: Path | None) -> Iterator[Pair]:
    for truth in (one for drive in sorted(folder.glob("*_sync")) for one in sorted(drive.glob(_TRUTH))):
        camera, drive = truth.parent.name, truth.parents[3].name
        inner = f"{camera}/data/{truth.stem}"
        tops = [truth.parents[3]] if images is None else [images / drive]
        tops += [(root if images is None else images) / drive[:10] / drive]
        yield _named(top / inner for top in tops), {"depth": str(truth), "scale": 256, "most": 80.0}
    for truth in sorted(folder.glob(f"{_CROPPED}/groundtruth_depth/*.png")):
        place = truth.parents[1] / "image" if images is None else images
        name = truth.stem.replace("groundtruth_depth", "image")
        yield _named([place / name]), {"depth": str(truth), "scale": 256, "most": 80.0}


def _nyu(folder: Path, root: Path, images: Path | None) -> Iterator[Pair]:
    scenes = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
    for truth in (one for scene in scenes for one in sorted(scene.glob("sync_depth_*.png"))):
        place = truth.parent if images is None else images / truth.parent.relative_to(root)
        name = truth.stem.replace("sync_depth", "rgb")
        yield _named([place / name]), {"depth": str(truth), "scale": 1000, "most": 10.0}


def _hrwsi(folder: Path, root: Path, images: Path | None) -> Iterator[Pair]:
    for truth in sorted(folder.glob("gts/*.png")):
        with Image.open(truth) as file:
            most = 255 if file.mode in ("L", "P") else 65535
        valid = folder / "valid_masks" / truth.name
        mask = {"depth": str(truth), "most": most, "inverse": True, "unknown": None if valid.is_file() else 0}
        mask |= {"valid": str(valid)} if valid.is_file() else {}
        place = folder / "imgs" if images is None else images / folder.relative_to(root) / "imgs"
        yield _named([place / truth.stem]), mask


def _named(stems: Iterable[Path]) -> list[Path]:
    return [stem.with_name(stem.name + ending) for stem in stems for ending in _ENDINGS]


Finder = Callable[[Path, Path, Path | None], Iterator[Pair]]


def _folders(path: Path, find: Finder) -> dict[str, Path]:
    """Those that hold pairs, by their names: of a root without splits itself, as ""."""
    if not path.is_dir():
        return {}
    inner = {one.name: one for one in sorted(path.iterdir()) if one.is_dir() and _has_any(one, path, find)}
    return {"": path} if _has_any(path, path, find) else inner


def _has_any(folder: Path, root: Path, find: Finder) -> bool:
    return next(find(folder, root, None), None) is not None


def _looks_like(path: Path, find: Finder) -> bool:
    return bool(_folders(path, find))


def _splits(path: Path, find: Finder) -> tuple[str, ...]:
    return tuple(name for name in _folders(path, find) if name)


def _read(path: Path, ask: Ask, report: IssueCounter, find: Finder) -> Iterator[Known]:
    """A depth map after the other, in the order of their paths."""
    folders = _folders(path, find)
    names = tuple(name for name in folders if name)
    for name in chosen_splits(ask.split, names, path) if names else ("",):
        for places, mask in find(folders[name], path, ask.images):
            image = next((place for place in places if place.is_file()), None)
            if image is None and ask.missing == "stop":
                what = f"the image {places[0]} is not on disk"
                raise UserError(what, where=mask["depth"], fix=WHERE_IMAGES)
            if image is None:
                report.note(MISSING_IMAGE, str(places[0]))
                continue
            size_hw = image_size(image)
            objects: Objects[np.ndarray] = Objects(
                labels=np.full(1, -1),
                boxes_xyxy=np.array([[0, 0, size_hw[1], size_hw[0]]], np.float32),
                masks=(mask,),
                extra={NAMES: ("",)},
            )
            id = Path(mask["depth"]).relative_to(path).as_posix()
            yield Known(id=id, image=image, size_hw=size_hw, objects=objects)


def _source(find: Finder) -> Source:
    return Source(
        read=partial(_read, find=find), looks_like=partial(_looks_like, find=find), splits=partial(_splits, find=find)
    )


KITTI, NYU, HRWSI = _source(_kitti), _source(_nyu), _source(_hrwsi)
