"""The data set that lies at a path, as a part of a run: what every command that is given a path opens.

Recipes that know their family ask for it (`boxes_at`, `maps_at`, ...); commands that take any data set ask `part_at`.
An option that a family has no use for is an error, so that nothing that was said is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistruct.config import Part
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.chat.mix import MixDataConfig
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.detect import family_of, has_annotations
from vistruct.data.formats.format import Kind
from vistruct.data.formats.maps.coding import CHANGE, TWO_CLASSES
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.images_below import has_images
from vistruct.data.maps import MapDataConfig
from vistruct.data.questions import QuestionsDataConfig
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, Mixing, PixelValues, Reading
from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.transforms.sizing import Sizing

_CHOICE = {"format", "classes", "join", "drop", "missing"}
_VALUES = {field.name for field in dataclasses.fields(PixelValues)}
_CHANGES = {"change_folders", "s2looking"}  # formats whose two classes have names, whatever their values
_RANGES = {"low", "high", "window", "percentiles"}
_TAKEN: dict[Kind, set[str]] = {  # the options that mean something for each family
    "boxes": _CHOICE | _VALUES | {"images", "class_field", "label_maps"},
    "maps": _CHOICE
    | _VALUES
    | {"images", "labels", "image_suffix", "label_suffix", "values", "ignored"}
    | {"threshold", "coordinates", "fill"},
    "volumes": _CHOICE | _VALUES | {"values", "ignored", "modalities", "label_grid"},
    "image_classes": _CHOICE | _VALUES | {"images"},
    "captions": _VALUES | {"format", "images", "missing"},
    "questions": {"format", "images", "missing"},
    "images": _VALUES | {"format", "missing"},
    "talk": {"format", "images"},
}
WORDS: dict[str, str] = {  # by family, and by kind of data set
    "boxes": "annotated boxes",
    "maps": "label maps",
    "volumes": "volumes",
    "image_classes": "image classes",
    "captions": "captions",
    "questions": "questions about images",
    "images": "images without labels",
    **dict.fromkeys(("talk", "chat", "mix"), "conversations"),
}


def part_at(
    path: Path, reading: Reading = AS_FOUND, values: PixelValues = AS_THEY_ARE, *, split: str | None = None
) -> Part:
    """The data set at a path, whatever its family; whole, without windows or variation.

    Raises:
        UserError: nothing there, several families, or an option that means nothing for its family.
    """
    if reading.labels is not None and reading.format == "auto":
        return maps_at(path, reading, values, split=split)
    family = family_of(path, reading.format)
    reading = dataclasses.replace(reading, format=family.format)
    if family.kind == "boxes" and (reading.values is not None or reading.fill != "masks"):
        return maps_at(family.path, dataclasses.replace(reading, format="objects"), values, split=split)
    if family.kind == "boxes":
        return boxes_at(family.path, reading, values, split=split)
    if family.kind == "maps":
        if family.format in _CHANGES and reading.classes is None and (reading.values or reading.threshold) is not None:
            reading = dataclasses.replace(reading, classes=CHANGE.classes)
        return maps_at(family.path, reading, values, split=split)
    if family.kind == "volumes":
        return volumes_at(family.path, reading, values, split=split)
    if family.kind == "image_classes":
        return classes_at(family.path, reading, values, split=split)
    if family.kind == "captions":
        return captions_at(family.path, reading, values, split=split)
    if family.kind == "questions":
        return questions_at(family.path, reading, values, split=split)
    _fits("talk", reading, values, family.path)
    root = None if reading.images is None else Path(reading.images)
    if family.format == "mix":
        return MixDataConfig(mix=family.path, root=root, checksums=False)
    return ChatDataConfig(jsonl=family.path, root=root, checksums=False)


def any_at(
    path: Path,
    reading: Reading = AS_FOUND,
    values: PixelValues = AS_THEY_ARE,
    *,
    split: str | None = None,
    not_in: tuple[Path, ...] = (),
) -> Part:
    """As `part_at`; and images without labels, where these are asked for or nothing else is there.

    Args:
        not_in: images to measure on, of images without labels.

    Raises:
        UserError: as `part_at`; what means nothing for images without labels, or for others.
    """
    is_plain = reading == AS_FOUND and has_images(path) and not has_annotations(path)
    if reading.format != "images" and not is_plain:
        if not_in:
            what = "--not-in means nothing for images with labels"
            raise UserError(what, where=path, fix="--format images reads them without their labels")
        return part_at(path, reading, values, split=split)
    _fits("images", reading, values, path)
    if split is not None:
        raise UserError("--split means nothing for images without labels", where=path, fix="name its folder")
    return images_at((path,), values, unreadable=reading.missing, not_in=not_in)


def boxes_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> BoxDataConfig:
    """Annotated boxes.

    Args:
        more: other fields of the config.

    Raises:
        UserError: an option that means nothing for boxes; two folders that `--images` may mean.
    """
    _fits("boxes", reading, values, path)
    images = None if reading.images is None else _folder(path, reading.images, "--images")
    told = {"class_field": reading.class_field, "label_maps": reading.label_maps, "intake": intake_of(values)}
    return BoxDataConfig(annotation=path, images=images, **_chosen(reading), **told | more)


def maps_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> MapDataConfig:
    """Label maps; see `boxes_at`."""
    _fits("maps", reading, values, path)
    folders = {"images": reading.images, "labels": reading.labels}
    below: dict[str, Any] = {
        name: None if said is None else str(_below(path, said, f"--{name}")) for name, said in folders.items()
    }
    return MapDataConfig(
        root=path,
        **below,
        image_suffix=reading.image_suffix,
        label_suffix=reading.label_suffix,
        coordinates=reading.coordinates,
        fill=reading.fill,
        intake=intake_of(values),
        **_coded(reading, (255,)),
        **more,
    )


def volumes_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> VolumeDataConfig:
    """Volumes; see `boxes_at`."""
    _fits("volumes", reading, values, path)
    more = {"modalities": reading.modalities, "label_grid": reading.label_grid, **more}
    return VolumeDataConfig(root=path, intake=intake_of(values), **_coded(reading, ()), **more)


def classes_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> ClassDataConfig:
    """Images with classes; see `boxes_at`."""
    _fits("image_classes", reading, values, path)
    images = None if reading.images is None else str(_below(path, reading.images, "--images"))
    more = {"multi_label": reading.format == "caption-words"} | more
    return ClassDataConfig(root=path, images=images, intake=intake_of(values), **_chosen(reading), **more)


def images_at(paths: Sequence[Path], values: PixelValues = AS_THEY_ARE, **more: Any) -> ImagesDataConfig:
    """Images without a word about them: folders, or files."""
    return ImagesDataConfig(paths=tuple(paths), intake=intake_of(values), **more)


def learned_and_measured(
    data: Sequence[Path], val: Sequence[Path], values: PixelValues, mixing: Mixing, *, resize: Sizing, **more: Any
) -> tuple[ImagesDataConfig, ImagesDataConfig | None]:
    """Images without labels to learn from, and those to measure on: `val`, or what is drawn of `data`; None: nothing.

    Args:
        resize: of whole images or windows, to measure on.
        more: of those to learn from: `augment`, and what is cut into windows.

    Raises:
        UserError: both are said; a fraction that is none.
    """
    fraction = mixing.train_fraction
    if not data:
        raise UserError("nothing to learn from", where="--data", fix="--data FOLDER")
    if fraction is None:
        measured = images_at(val, values, groups=mixing.groups, tiles=more.get("tiles"), resize=resize) if val else None
        learned = images_at(data, values, mix=mixing.mix, groups=mixing.groups, not_in=tuple(val), **more)
        return learned, measured
    if val or not 0 < fraction < 1:
        what = (
            "--val and --train-fraction both say what is measured on"
            if val
            else f"--train-fraction {fraction} leaves nothing"
        )
        raise UserError(
            what, where="--train-fraction", fix="leave --train-fraction out" if val else "--train-fraction 0.9"
        )
    random_split = {"train": fraction, "val": 1 - fraction}
    measured = images_at(data, values, groups=mixing.groups, random_split=random_split, split="val",
                         tiles=more.get("tiles"), resize=resize)  # fmt: skip
    learned = images_at(
        data, values, mix=mixing.mix, groups=mixing.groups, random_split=random_split, split="train", **more
    )
    return learned, measured


def captions_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> CaptionDataConfig:
    """Images with captions; see `boxes_at`."""
    _fits("captions", reading, values, path)
    images = None if reading.images is None else _folder(path, reading.images, "--images")
    told: dict[str, Any] = {"format": reading.format, "missing": reading.missing, "intake": intake_of(values)}
    return CaptionDataConfig(annotation=path, images=images, **told | more)


def questions_at(path: Path, reading: Reading, values: PixelValues, **more: Any) -> QuestionsDataConfig:
    """Questions about images, or captions as the question for one; see `boxes_at`."""
    _fits("questions", reading, values, path)
    images = None if reading.images is None else _folder(path, reading.images, "--images")
    told: dict[str, Any] = {"format": reading.format, "missing": reading.missing}
    return QuestionsDataConfig(annotation=path, images=images, **told | more)


def intake_of(values: PixelValues, known: Intake | None = None) -> Intake | None:
    """How pixel values are taken in; None: nothing is said of it.

    Args:
        known: what is so where nothing is said, such as in a model's training; one range takes the place of another.
    """
    told = {name: value for name, value in vars(values).items() if value != vars(AS_THEY_ARE)[name]}
    base = {} if known is None else known.model_dump()
    if told.keys() & _RANGES:
        base = {name: value for name, value in base.items() if name not in _RANGES}
    asked = Intake(**(base | told))
    return None if asked == Intake() else asked


def _chosen(reading: Reading) -> dict[str, Any]:
    """What all families are told alike."""
    return {
        "format": reading.format,
        "classes": reading.classes,
        "others": "stop" if reading.classes is None else "drop",
        "join": reading.joined(),
        "drop": reading.drop,
        "missing": reading.missing,
    }


def _coded(reading: Reading, usual: tuple[int, ...]) -> dict[str, Any]:
    """Of labels that are numbers: names alone are chosen or given; values make it a coding of one's own.

    Args:
        usual: values that do not count, where nothing is said of them and no class has them.
    """
    if reading.threshold is not None:
        coding = Coding(classes=reading.classes or TWO_CLASSES, threshold=reading.threshold)
        return {**_chosen(reading), "coding": coding, "classes": None, "others": "stop"}
    if reading.values is None and reading.ignored is None:
        return _chosen(reading)
    if reading.classes is None:
        raise UserError("values without classes", where="--values", fix="--classes background,field")
    known = reading.values if reading.values is not None else range(len(reading.classes))
    ignored = reading.ignored
    if ignored is None and (not usual or any(value in known for value in usual)):
        ignored = tuple(value for value in usual if value not in known)
    coding = Coding(classes=reading.classes, values=reading.values)
    if ignored is not None:  # what is said is not doubted where few labels have it
        coding = Coding(classes=reading.classes, values=reading.values, ignored=ignored)
    return {**_chosen(reading), "coding": coding, "classes": None, "others": "stop"}


def _fits(kind: Kind, reading: Reading, values: PixelValues, path: Path) -> None:
    """
    Raises:
        UserError: something was said that means nothing for the family.
    """
    for group in (reading, values):
        for field in dataclasses.fields(group):
            if vars(group)[field.name] != field.default and field.name not in _TAKEN[kind]:
                flag = f"--{field.name.replace('_', '-')}"
                what = f"{flag} means nothing for {WORDS[kind]}"
                raise UserError(what, where=path, fix=f"leave {flag} out, or name other data")


def _below(root: Path, said: str, flag: str) -> Path:
    """A folder relative to the data set's, where it is below it; else its absolute place."""
    folder = _folder(root, said, flag)
    top = root if root.is_dir() else root.parent
    return folder.relative_to(top) if folder.is_relative_to(top) else folder.absolute()


def _folder(root: Path, said: str, flag: str) -> Path:
    """The folder that is meant: below the data set's own, or from where the command was typed.

    Raises:
        UserError: there is none; or both are there and are not the same.
    """
    top = root if root.is_dir() else root.parent
    found = [place for place in (top / said, Path(said)) if place.is_dir()]
    if not found:
        raise UserError(f"no folder {said!r}", where=f"{flag} {said}", fix=f"a folder below {str(top)!r}, or its path")
    if len({place.resolve() for place in found}) > 1:
        what = f"two folders may be meant: {found[0]} and {found[1].absolute()}"
        raise UserError(what, where=f"{flag} {said}", fix=f"{flag} {found[0].absolute()}")
    return found[0]
