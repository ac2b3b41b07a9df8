"""Predictions that lie at a path, made by whatever program: told by their content, read as those of a model."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistruct.contracts import BoxPrediction, CaptionPrediction, MapPrediction
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.data.maps import MapDataConfig
from vistruct.data.predicted.boxes import Detections, read_coco, read_dota, read_xview, read_yolo
from vistruct.data.predicted.captions import predicted_captions
from vistruct.data.predicted.images import TruthImages, bare
from vistruct.data.predicted.maps import Coded, matched, predicted_maps, predicted_volumes
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.archive import unpack
from vistruct.files.volume_names import is_volume_file
from vistruct.issues import IssueCounter

_OURS = {"maps": "labels", "volumes": "nifti"}  # folders of `vistruct predict`
_KNOWN = "COCO results, predictions.json, Task1_CLASS.txt, YOLO rows with scores, xView's 1036.tif.txt"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was found at a path."""

    predictions: Iterator[BoxPrediction | MapPrediction | CaptionPrediction]  # read as they are asked for
    report: IssueCounter  # complete once all are
    is_oriented: bool = False
    has_masks: bool = False


@contextmanager
def opened(path: Path) -> Generator[Path]:
    """A file or folder as it is; what an archive holds, unpacked for a while.

    Raises:
        UserError: nothing there, or an archive that cannot be unpacked.
    """
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    if path.is_dir() or path.suffix.lower() not in (".zip", ".tar", ".tgz"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, Path(folder) / path.stem)
        yield Path(folder) / path.stem


def predictions_at(
    path: Path, part: Any, dataset: RecordDataset, *, patches: str | None = None, coded: Coded = "auto"
) -> Predicted:
    """Predictions about the images of a truth.

    Args:
        part: the data config that `dataset` was built from.
        patches: how patches of images are called, see `windows/patches.py`.
        coded: how predicted label maps are written, see `predicted/maps.py`.

    Raises:
        UserError: nothing that is known here, or of two kinds; what the readers raise.
    """
    report = IssueCounter()
    if isinstance(part, BoxDataConfig):
        return _boxes(path, part, dataset, patches, report)
    if isinstance(part, CaptionDataConfig):
        return Predicted(predictions=predicted_captions(path, dataset, report), report=report)
    if not isinstance(part, MapDataConfig | VolumeDataConfig):
        what = "predictions in files are scored on boxes, label maps, volumes and captions"
        raise UserError(what, where=path, fix="vistruct eval RUN --data PATH, with a trained run")
    own = path / _OURS[part.kind]
    root = own if own.is_dir() else path
    files = [file for file in below(root) if _is_raster(file, part.kind)]
    if not files:
        what = "no masks here" if part.kind == "maps" else "no label volumes here"
        raise UserError(what, where=root, fix="name the folder that holds a file for each image")
    root = root if root.is_dir() else root.parent
    found = matched(dataset.records, files, root, part.missing, report)
    if isinstance(part, MapDataConfig):
        return Predicted(predictions=predicted_maps(dataset, found, part, coded), report=report)
    return Predicted(predictions=predicted_volumes(dataset, found, part, coded, report), report=report)


def _boxes(
    path: Path, part: BoxDataConfig, dataset: RecordDataset, patches: str | None, report: IssueCounter
) -> Predicted:
    images = TruthImages(dataset.whole_records, report, patches)
    found = Detections(images=images, class_names=dataset.info.class_names, ask=part.ask(), report=report)
    own = path / "predictions.json"
    files = [own] if own.is_file() else below(path)
    jsons = [file for file in files if file.suffix.lower() == ".json"]
    tasks = [file for file in files if re.fullmatch(r"Task[12]_.+\.txt", file.name)]
    texts = [file for file in files if file.suffix.lower() == ".txt" and file not in tasks]
    texts = [file for file in texts if file.name not in ("classes.txt", "notes.txt")]
    kinds = [kind for kind in (jsons, tasks, texts) if kind]
    if len(kinds) > 1 or len(jsons) > 1:
        names = ", ".join(str(kind[0]) for kind in kinds) if len(kinds) > 1 else ", ".join(map(str, jsons[:3]))
        raise UserError(f"several predictions are here: {names}", where=path, fix=f"name one: {kinds[0][0]}")
    if jsons:
        read_coco(jsons[0], found, part)
    elif tasks:
        read_dota(tasks, found)
    elif texts and all(re.fullmatch(r".+\.tiff?\.txt", file.name, re.IGNORECASE) for file in texts):
        read_xview(texts, found)
    elif texts:
        root = path if path.is_dir() else path.parent
        read_yolo({bare(file.relative_to(root).as_posix()): file for file in texts}, found, part)
    else:
        raise UserError("no detections here", where=path, fix=f"known are {_KNOWN}")
    images.check(path)
    return Predicted(
        predictions=found.predictions(), report=report, is_oriented=found.is_oriented, has_masks=found.has_masks
    )


def below(path: Path) -> list[Path]:
    """The file itself, or all in a folder and below but hidden ones."""
    if path.is_file():
        return [path]
    found = []
    for folder, inside, names in os.walk(path):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _is_raster(file: Path, kind: str) -> bool:
    return is_volume_file(file) if kind == "volumes" else file.suffix.lower() in IMAGE_SUFFIXES
