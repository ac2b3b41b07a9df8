"""Every public source of instructions in one table; nothing of it is imported before it is asked for.

A source is a frozen value in a module of its own: `SOURCE = Source(read=..., looks_like=..., splits=...)`, see
`source.py`. To add one is that module and one line in SOURCES. Sources in the formats that train a detector or a
segmenter (COCO, LVIS, VOC, label maps, ...) are read as such, see `data/formats`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from vistruct.data.known.source import Source


@dataclass(frozen=True)
class Listed:
    """Where a source is, and what it is."""

    at: str  # module:NAME below this package
    says: str  # one line, for a list
    is_guessed: bool = True  # whether it may be found by looking; others must be named


SOURCES: dict[str, Listed] = {
    "refcoco": Listed("refcoco:SOURCE", "RefCOCO, RefCOCO+, RefCOCOg: expressions, boxes, masks"),
    "grand": Listed("grand:SOURCE", "GranD (GLaMM): objects with masks and attributes, grounded captions"),
    "coco-interactive": Listed("interactive:SOURCE", "COCO-Interactive (PSALM): objects with four drawn prompts each"),
    "llava-grounding": Listed("llava_grounding:SOURCE", "LLaVA-Grounding: conversations that point at masks"),
    "open-psg": Listed("gcg:OPEN_PSG", "OpenPSG and GranD-f of GLaMM: captions whose phrases have masks"),
    "refcocog-gcg": Listed("gcg:REFCOCOG", "RefCOCOg of GLaMM: captions whose phrases have masks"),
    "flickr-gcg": Listed("gcg:FLICKR", "Flickr30k of GLaMM: captions whose phrases have masks"),
    "gcg": Listed("gcg:PAIR", "GLaMM's GCG, validation and test: captions beside a file of masks"),
    "png": Listed("narratives:SOURCE", "Panoptic Narrative Grounding: long captions and panoptic segments"),
    "osprey": Listed("osprey:SOURCE", "Osprey-724K: conversations about regions, descriptions of regions"),
}


def find_source(name: str) -> Source:
    """The source of a name of SOURCES.

    Raises:
        UserError: there is none.
    """
    if name not in SOURCES:
        raise UserError(f"no source {name!r}", fix=closest(name, SOURCES))
    module, _, value = SOURCES[name].at.partition(":")
    return vars(importlib.import_module(f"{__name__}.{module}"))[value]


def detect(path: Path) -> tuple[str, ...]:
    """The sources that a path looks like, told by its content: none of a data set in another format; several where
    files of two sources are written in the same way, and one must be named."""
    path = Path(path)
    if not path.exists():
        return ()
    return tuple(name for name, listed in SOURCES.items() if listed.is_guessed and find_source(name).looks_like(path))
