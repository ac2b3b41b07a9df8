"""SAMRS's label maps alone: `gray/NAME.png`, in which 255 is the background and other values are label ids.

The background counts, as it does where these maps were published: what nobody annotated is learned as background. Names
of classes come from the instances beside them. An image without objects has no label map, and is left out, counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vistruct.contracts import NO_OBJECTS
from vistruct.data.formats.boxes import samrs
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.partners import NO_LABELS
from vistruct.issues import IssueCounter


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record for each image that has a label map."""
    classes = None if ask.classes is None else tuple(name for name in ask.classes if name != "background")
    images = None if ask.images is None else (path if path.is_dir() else path.parent) / ask.images
    found = samrs.walk(path, replace(ask, classes=classes, images=images), report, stop)
    for record in found.records:
        if record.label_map is None:
            report.note(NO_LABELS, record.id)
    records = [replace(one, objects=NO_OBJECTS) for one in found.records if one.label_map is not None]
    return Walked(records=records, coding=ask.coding or found.coding)


FORMAT = Format(kind="maps", looks_like=samrs.looks_like, splits=samrs.splits, walk=walk)
