"""Every format of data there is, in one table; nothing of it is imported before it is asked for.

A format is a frozen value in a module of its own: `FORMAT = Format(family=..., looks_like=..., walk=..., ...)`, see
`format.py` for what it has. To add one to the package is that module and one line in FORMATS. To add one from outside,
nothing is edited: wherever the name of a format is taken, `module:NAME` is taken too, NAME being a Format in any module
that Python finds (`--format my_formats:FORMAT`, or `format: my_formats:FORMAT` in a run file). Such a format is never
guessed, it is always named.

`detect.py` says what lies at a path, `read.py` reads it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from vistruct.data.formats.format import Format, Kind

_JSON = (".json", ".jsonl")
_XML = (".xml",)
_YAML = (".yaml", ".yml", ".data")
_WORDS: dict[Kind, str] = {
    "boxes": "box format",
    "talk": "format of conversations",
    "maps": "format of label maps",
    "volumes": "format of volumes",
    "image_classes": "format of image classes",
    "captions": "format of captions",
    "questions": "format of questions",
}


@dataclass(frozen=True)
class Listed:
    """Where a format is, and what is known of it without looking."""

    kind: Kind
    at: str  # module:NAME below this package
    files: tuple[str, ...] = ()  # endings that one file of it may have; other files are not shown to it
    is_guessed: bool = True  # whether it may be found by looking; others must be named
    is_whole: bool = False  # what others would read of such a place is a part of it, so that no other is meant
    may_be_beside: bool = False  # another of the family at the same place is another data set, and one must be named


# Within a family from the particular to the general: of label maps, volumes and image classes that look like several,
# the first is meant; of boxes, it is an error that names them all.
FORMATS: dict[str, Listed] = {
    "samrs": Listed("boxes", "boxes.samrs:FORMAT", (".json",), is_whole=True),
    "coco": Listed("boxes", "boxes.coco:FORMAT", _JSON),
    "coco-degrees": Listed("boxes", "boxes.coco:DEGREES", _JSON, is_guessed=False),
    "coco-degrees-cw": Listed("boxes", "boxes.coco:DEGREES_CW", _JSON, is_guessed=False),
    "coco-radians": Listed("boxes", "boxes.coco:RADIANS", _JSON, is_guessed=False),
    "coco-radians-cw": Listed("boxes", "boxes.coco:RADIANS_CW", _JSON, is_guessed=False),
    "coco-upright": Listed("boxes", "boxes.coco:UPRIGHT", _JSON, is_guessed=False),
    "coco-panoptic": Listed("boxes", "boxes.coco_panoptic:FORMAT", (".json",), is_guessed=False),
    "dota": Listed("boxes", "boxes.dota:FORMAT", (".txt",)),
    "voc": Listed("boxes", "boxes.voc:FORMAT", _XML),
    "voc-from-0": Listed("boxes", "boxes.voc:FROM_0", _XML, is_guessed=False),
    "voc-degrees": Listed("boxes", "boxes.voc:DEGREES", _XML, is_guessed=False),
    "dior": Listed("boxes", "boxes.dior:DIOR", _XML),
    "dior_r": Listed("boxes", "boxes.dior:DIOR_R", _XML),
    "fair1m": Listed("boxes", "boxes.fair1m:FORMAT", _XML),
    "hrsc": Listed("boxes", "boxes.hrsc:SHIPS", _XML),
    "hrsc_classes": Listed("boxes", "boxes.hrsc:KINDS", _XML, is_guessed=False),
    "yolo": Listed("boxes", "boxes.yolo:FORMAT", _YAML),
    "yolo-obb": Listed("boxes", "boxes.yolo:ORIENTED", _YAML, is_guessed=False),
    "yolo-masks": Listed("boxes", "boxes.yolo:MASKS", _YAML, is_guessed=False),
    "yolo-conf": Listed("boxes", "boxes.yolo:SCORED", _YAML, is_guessed=False),
    "geojson": Listed("boxes", "boxes.geojson:FORMAT", (".geojson", ".json", ".gpkg", ".shp")),
    "xview": Listed("boxes", "boxes.xview:FORMAT", (".geojson", ".json")),
    "cvat": Listed("boxes", "boxes.cvat:FORMAT", _XML),
    "label-studio": Listed("boxes", "boxes.label_studio:FORMAT", (".json",)),
    "label-studio-latest": Listed("boxes", "boxes.label_studio:LATEST", (".json",), is_guessed=False),
    "label-studio-predictions": Listed("boxes", "boxes.label_studio:PREDICTIONS", (".json",), is_guessed=False),
    "labelme": Listed("boxes", "boxes.labelme:FORMAT", (".json",)),
    "datumaro": Listed("boxes", "boxes.datumaro:FORMAT", (".json",)),
    "supervisely": Listed("boxes", "boxes.supervisely:FORMAT", (".json",)),
    "csv-boxes": Listed("boxes", "boxes.csv_boxes:FORMAT", (".csv", ".tsv")),
    "via": Listed("boxes", "boxes.via:FORMAT", (".json", ".csv")),
    "csv-xywh": Listed("boxes", "boxes.csv_boxes:CORNER", (".csv", ".tsv"), is_guessed=False),
    "csv-cxcywh": Listed("boxes", "boxes.csv_boxes:CENTRE", (".csv", ".tsv"), is_guessed=False),
    "csv-xyxy": Listed("boxes", "boxes.csv_boxes:EDGES", (".csv", ".tsv"), is_guessed=False),
    "yolo-keras": Listed("boxes", "boxes.yolo_keras:FORMAT", (".txt",)),
    "chat": Listed("talk", "chat.schemas:FORMAT", (".jsonl", ".json")),
    "mix": Listed("talk", "chat.schemas:MIX", (".json",)),
    "samrs_maps": Listed("maps", "maps.samrs:FORMAT"),
    "isaid": Listed("maps", "maps.isaid:FORMAT"),
    "loveda": Listed("maps", "maps.loveda:FORMAT"),
    "uavid": Listed("maps", "maps.uavid:FORMAT"),
    "potsdam": Listed("maps", "maps.isprs:POTSDAM"),
    "vaihingen": Listed("maps", "maps.isprs:VAIHINGEN"),
    "oscd": Listed("maps", "maps.oscd:FORMAT"),
    "spacenet": Listed("maps", "maps.spacenet:FORMAT"),
    "s2looking": Listed("maps", "maps.change_folders:S2LOOKING"),
    "second": Listed("maps", "maps.second:FORMAT"),
    "covid_quex": Listed("maps", "maps.covid_quex:FORMAT"),
    "change_folders": Listed("maps", "maps.change_folders:FORMAT"),
    "mask_folders": Listed("maps", "maps.mask_folders:FORMAT"),
    # Annotations of boxes are boxes, unless somebody asks for their label maps.
    "objects": Listed("maps", "maps.painted_objects:FORMAT", is_guessed=False),
    "amos2022": Listed("volumes", "volumes.amos:CT"),
    "amos2022_mr": Listed("volumes", "volumes.amos:MR", is_guessed=False),
    "brats2021": Listed("volumes", "volumes.brats:FORMAT"),
    "class_files": Listed("volumes", "volumes.class_files:FORMAT"),
    "dicom": Listed("volumes", "volumes.dicom:FORMAT", may_be_beside=True),
    "nifti": Listed("volumes", "volumes.nifti:FORMAT"),
    "karpathy": Listed("captions", "captions.karpathy:FORMAT", (".json",)),
    "coco-captions": Listed("captions", "captions.coco:FORMAT", (".json",)),
    "caption-lines": Listed("captions", "captions.lines:FORMAT", _JSON),
    "caption-table": Listed("captions", "captions.tables:FORMAT", (".csv", ".tsv", ".token", ".txt")),
    "captions-hdf5": Listed("captions", "captions.hdf5:FORMAT"),
    "text-list": Listed("captions", "captions.text_lists:FORMAT", (".txt",)),
    # Names and words are images and their classes, unless somebody asks for the text in them.
    "text-pairs": Listed("captions", "captions.text_lists:PAIRS", (".txt",), is_guessed=False),
    "vqa": Listed("questions", "chat.vqa:FORMAT", (".json",)),
    "gqa": Listed("questions", "chat.gqa:FORMAT", (".json",)),
    "text-vqa": Listed("questions", "chat.text_vqa:FORMAT", (".json",)),
    # Conversations are conversations, unless somebody asks for the captions in them.
    "instructions": Listed("captions", "captions.lines:TALK", _JSON, is_guessed=False),
    "csv": Listed("image_classes", "classes.csv:FORMAT", (".csv", ".tsv")),
    "list": Listed("image_classes", "classes.lists:FORMAT", (".txt",)),
    "folders": Listed("image_classes", "classes.folders:FORMAT"),
    # Captions are captions, unless somebody asks for the words in them.
    "caption-words": Listed("image_classes", "classes.caption_words:FORMAT", is_guessed=False),
}


def names_of(kind: Kind) -> list[str]:
    """The formats of a family, in the order of the table."""
    return [name for name, listed in FORMATS.items() if listed.kind == kind]


def find_format(name: str, kind: Kind | None = None) -> Format:
    """The format of a name of FORMATS, or of `module:NAME`.

    Args:
        kind: the family that it must be of; None: any.

    Raises:
        UserError: no format of that name in the family; no such module, or nothing of the kind in it.
    """
    if ":" in name:
        return _from_outside(name, kind)
    known = list(FORMATS) if kind is None else names_of(kind)
    if name not in known:
        raise UserError(f"no {'format' if kind is None else _WORDS[kind]} {name!r}", fix=closest(name, known))
    module, _, value = FORMATS[name].at.partition(":")
    return vars(importlib.import_module(f"{__name__}.{module}"))[value]


def _from_outside(name: str, kind: Kind | None) -> Format:
    from vistruct.data.formats.format import Format

    module, _, value = name.partition(":")
    try:
        found = vars(importlib.import_module(module)).get(value)
    except ImportError as error:
        fix = "module:NAME names a Format in a module that Python finds: install it, or set PYTHONPATH"
        raise UserError(f"cannot import {module!r}: {error}", where=f"format {name}", fix=fix) from error
    if not isinstance(found, Format):
        what = (
            f"no {value!r} in {module}"
            if found is None
            else f"{value} is no Format, it is of type {type(found).__name__}"
        )
        raise UserError(what, where=f"format {name}", fix="FORMAT = Format(family=..., looks_like=..., walk=...)")
    if kind is not None and found.kind != kind:
        raise UserError(f"no {_WORDS[kind]}: this is a {_WORDS[found.kind]}", where=f"format {name}", fix="other data")
    return found
