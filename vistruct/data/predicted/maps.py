"""Label maps and label volumes that others wrote, as predictions about the records of a truth.

A file belongs to the image of its name, or to the labels of its name. Its values are those of the truth's own labels,
or the numbers of the classes: which, the values say; where both can be read and differ, it is a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vistruct.contracts import IGNORED, MapPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.format import Walked
from vistruct.data.formats.maps.sizes import with_sizes
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.volumes.names import rest_of_label
from vistruct.data.maps import LabelReader, MapDataConfig
from vistruct.data.predicted.images import UNKNOWN_IMAGE, bare
from vistruct.data.volumes import SliceLabelReader, VolumeDataConfig, check_labels
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.rasters import read_raster
from vistruct.files.volume_files import label_slice, label_values, open_labels, open_volume
from vistruct.issues import IssueCounter

NOT_PREDICTED = "image left out: no prediction about it"

Coded = Literal["auto", "labels", "classes"]


def matched(
    records: Sequence[Record], files: Sequence[Path], root: Path, missing: str, report: IssueCounter
) -> dict[str, Path]:
    """The file of each image (or case), by its id.

    Args:
        missing: what an image without a file does: stop, or drop.

    Raises:
        UserError: two files for one image; images without a file; nothing that fits.
    """
    names: dict[str, str] = {}
    twice: set[str] = set()
    for record in records:
        for name in dict.fromkeys(_names_of(record)):
            twice |= {name} if names.setdefault(name, record.image_id) != record.image_id else set()
    found: dict[str, Path] = {}
    for file in files:
        below = bare(file.relative_to(root).as_posix())
        name = below.rpartition("/")[2]
        tried = [one for one in (below, name) if one in names and one not in twice]
        rest = rest_of_label(name)
        tried += [rest] if rest in names and rest not in twice else []
        owner = names[tried[0]] if tried else None
        if owner is None:
            report.note(UNKNOWN_IMAGE, str(file))
        elif owner in found:
            where = f"{found[owner]}, {file}"
            raise UserError(f"two predictions about {owner}", where=where, fix="keep one of them")
        else:
            found[owner] = file
    lacking = [one for one in dict.fromkeys(record.image_id for record in records) if one not in found]
    if not found:
        what = f"none of these {len(files)} files is about an image of the truth: it has {lacking[0]}"
        raise UserError(what, where=root, fix="name predictions as the images or the labels are called")
    if lacking and missing == "stop":
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        fix = "add them; or --missing drop measures on the others"
        raise UserError(f"{len(lacking)} images have no prediction: {shown}", where=root, fix=fix)
    for one in lacking:
        report.note(NOT_PREDICTED, one)
    return found


def predicted_maps(
    dataset: RecordDataset, files: Mapping[str, Path], part: MapDataConfig, coded: Coded
) -> Iterator[MapPrediction]:
    """A prediction for each image that has a file.

    Raises:
        UserError: see `decoder`; rasters of another size or another place on the map than the truth's.
    """
    reader = dataset.read_label_map
    assert isinstance(reader, LabelReader)
    about = [record for record in dataset.records if record.image_id in files]
    placed = [replace(one, images=one.images[:1], label_map=files[one.image_id], size_hw=None) for one in about]
    with_sizes(Walked(records=placed), stop_here, are_checked=part.coordinates == "checked")
    decode = decoder(reader.coding, (read_raster(file) for file in files.values()), coded, next(iter(files.values())))
    for number, record in enumerate(dataset.records):
        if record.image_id in files:
            file = files[record.image_id]
            yield _prediction(dataset, number, decode(read_raster(file), file), file)


def predicted_volumes(
    dataset: RecordDataset, files: Mapping[str, Path], part: VolumeDataConfig, coded: Coded, report: IssueCounter
) -> Iterator[MapPrediction]:
    """A prediction for each slice of the volumes that have a file; see `predicted_maps`."""
    reader = dataset.read_label_map
    assert isinstance(reader, SliceLabelReader)
    about = [record for record in dataset.records if record.image_id in files]
    for record in {record.image_id: record for record in about}.values():
        image = open_volume(record.images[0], part.axis)
        check_labels(image, files[record.image_id], part.label_grid, report, axis=part.axis)
    like = {record.image_id: record.images[0] if part.label_grid == "image" else None for record in about}
    volumes = (label_values(open_labels(file, part.axis, like[name])) for name, file in files.items())
    decode = decoder(reader.coding, volumes, coded, next(iter(files.values())))
    for number, record in enumerate(dataset.records):
        if record.image_id in files:
            file = files[record.image_id]
            values = label_slice(file, record.slice or 0, part.axis, None, like[record.image_id])
            yield _prediction(dataset, number, decode(np.ascontiguousarray(values), file), file)


def decoder(
    coding: Coding, rasters: Iterator[np.ndarray], coded: Coded, where: Path
) -> Callable[[np.ndarray, object], np.ndarray]:
    """Raster -> int16, its classes.

    Args:
        coding: of the truth's labels.
        rasters: all of them, looked through for their values.
        coded: as labels, or as numbers of classes; auto: as the values say.

    Raises:
        UserError: values that are neither, or both and differ.
    """
    plain = Coding(classes=coding.classes, ignored=())
    if coded != "auto":
        return (coding if coded == "labels" else plain).decode
    values: set[int] = set()
    for raster in rasters:
        if raster.ndim == 3 and coding.colours is not None:
            return coding.decode
        values |= set(np.unique(raster).tolist())
    said = np.array([sorted(values)])
    found = {}
    for name, one in (("labels", coding), ("classes", plain)):
        try:
            found[name] = one.decode(said, where)
        except UserError as error:
            found[name] = error
    as_labels, as_classes = found["labels"], found["classes"]
    if isinstance(as_labels, UserError):
        if isinstance(as_classes, UserError):
            raise as_labels
        return plain.decode
    if isinstance(as_classes, UserError) or np.array_equal(as_labels, as_classes):
        return coding.decode
    what = f"values {', '.join(map(str, said[0][:8]))} may be those of the labels, or numbers of classes from 0"
    raise UserError(what, where=where, fix="--coded labels, or --coded classes")


def _prediction(dataset: RecordDataset, number: int, labels: np.ndarray, file: Path) -> MapPrediction:
    """
    Raises:
        UserError: pixels without a class where the truth has one.
    """
    label_map, record = torch.from_numpy(labels), dataset.records[number]
    if (label_map < 0).any():
        truth = dataset.truth(number)
        if truth.shape == label_map.shape and ((label_map < 0) & (truth != IGNORED)).any():
            what = "pixels that a prediction gives no class, and the truth does"
            raise UserError(what, where=f"{file}: {record.id}", fix="predict a class for every pixel that is measured")
        label_map = label_map.clamp(min=0)  # neither counted nor missed: see the truth
    return MapPrediction(
        id=record.id, image_id=record.image_id, label_map=label_map, class_names=dataset.info.class_names
    )


def _names_of(record: Record) -> Iterator[str]:
    files = [record.image_id, *([record.label_map.name] if record.label_map is not None else [])]
    for name in files:
        yield bare(name)
        yield bare(name).rpartition("/")[2]
