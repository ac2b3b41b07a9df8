"""The demo's domains: images with labels to teach from, others to learn a few labels from and to measure on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from vistruct.config import Part
from vistruct.errors import UserError
from vistruct.study.study import Probes

FETCH = "uv run scripts/fetch_nuclei.py"


class Domain(Part):
    """What the demo reads, and says of it."""

    name: Literal["trees", "cells"]
    taught: Path  # boxes that are pretrained on
    asked: Path  # boxes of the scene that is never pretrained on
    crop: tuple[int, int]  # smallest and largest side of what is taught, pixels: one object to several
    target: dict[str, Any] | None = None  # options of `segment`; None: `asked` in two, its left third to learn from
    metric: str
    probes: Probes | None
    of: str  # one image, in words
    about: str  # the images
    measured: str  # what is learned from and measured on


def domain_of(name: Literal["trees", "cells"], data: Path | None, draws: int) -> Domain:
    """
    Args:
        data: of cells the folder that `scripts/fetch_nuclei.py` has made.
        draws: of labels, for the probes.

    Raises:
        UserError: a folder for trees, which are shipped; none for cells, or one without them.
    """
    return _trees(data, draws) if name == "trees" else _cells(data)


def _trees(data: Path | None, draws: int) -> Domain:
    from vistruct.samples import trees

    if data is not None:
        raise UserError("the scenes of trees are shipped", where=f"--data {data}", fix="leave --data out")
    test, crowns = trees().test, [len(json.loads(p.read_text())["annotations"]) for p in (trees().train, trees().test)]
    return Domain(
        name="trees",
        taught=trees().train,
        asked=test,
        crop=(72, 144),
        metric="IoU/tree",
        probes=Probes(scene=test, elsewhere=trees().train, turned_shots=(20, 50, 100), draws=draws),
        of="aerial scene",
        about="Two aerial scenes of the National Ecological Observatory Network (10 cm), 13 km apart, with hand-drawn "
        f"tree crowns: {crowns[0]} in the training scene, {crowns[1]} in the test scene.",
        measured="the test scene's left third is learned from, the right two thirds are measured on: pixels that "
        "drawn crowns cover",
    )


def _cells(data: Path | None) -> Domain:
    if data is None:
        raise UserError("cells are not shipped", where="--domain cells", fix=f"{FETCH} nuclei, then --data nuclei")
    taught, asked = data / "pretrain" / "annotations.json", data / "objects" / "test.json"
    for path in (taught, asked, data / "pixels"):
        if not path.exists():
            raise UserError("not here, where the script would have put it", where=path, fix=f"{FETCH} {data}")
    return Domain(
        name="cells",
        taught=taught,
        asked=asked,
        crop=(72, 144),
        target={"data": str(data / "pixels"), "split": "train", "val_split": "test"},
        metric="IoU/nucleus",
        probes=None,  # a scene of 248 pixels has no third to draw crops from
        of="set of microscope pictures",
        about="Twenty pictures of cells that close a wound, nuclei in fluorescence and whole cells in relief, whose "
        "outlines are probably a program's; and, from another laboratory and another microscope, one picture of 125 "
        "nuclei outlined by hand.",
        measured="the left part of the outlined picture is learned from, the right part measured on: pixels of nuclei",
    )
