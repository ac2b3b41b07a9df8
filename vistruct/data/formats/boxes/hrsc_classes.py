"""HRSC2016 with its 31 kinds of ship told apart; never found by itself, since the files are `hrsc`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.formats.boxes import hrsc
from vistruct.data.formats.boxes.objects import Stop
from vistruct.issues import IssueCounter


def looks_like(path: Path) -> bool:
    """Never: it is asked for by name."""
    return False


def walk(
    path: Path,
    images: Path | None,
    report: IssueCounter,
    stop: Stop,
    *,
    split: str | None = None,
    missing: Literal["stop", "drop"] = "stop",
) -> tuple[list[Record], tuple[str, ...]]:
    """As `hrsc.walk`, with the class of each object."""
    return hrsc.walk(path, images, report, stop, split=split, missing=missing, kinds=True)
