"""Which values label rasters have: all of them are looked at once, before the first step, and remembered by file.

What labels mean cannot be told from a few of them: five masks of another coding among forty are classes that vanish. A
mask is looked at in a few milliseconds, in threads (512 x 512 pixels: 4,000 in about ten seconds of one core); what was
found is kept beside the run (`Ask.kept`), so that going on, evaluating and further ranks do not look again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistruct.contracts import RGB
from vistruct.errors import UserError
from vistruct.files.rasters import read_raster
from vistruct.files.text import write_text
from vistruct.progress import tracking

KEPT = "label_values.json"

_READERS = 8  # threads; decoders let go of Python's lock
_MANY = 500  # files from which on the looking is shown
_STRIP = 2**22  # pixels counted in one go
_MOST = 1024  # values of a file that are kept, the commonest; what has more is an image


@dataclass(frozen=True)
class FileValues:
    """Pixels by value of one raster; colours packed, red first."""

    counts: Mapping[int, int]
    is_colour: bool = False
    others: int = 0  # pixels of values beyond the commonest

    def raster(self) -> np.ndarray:
        """Each value once, as a raster of one row that a coding decodes."""
        values = np.array([list(self.counts)], np.int64)
        if not self.is_colour:
            return values
        return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1).astype(np.uint8)

    @property
    def numbers(self) -> dict[int, int] | None:
        """Pixels by number; of colours that are grey throughout too. None: colours."""
        if not self.is_colour:
            return dict(self.counts)
        if all(value >> 16 == value >> 8 & 255 == value & 255 for value in self.counts):
            return {value & 255: count for value, count in self.counts.items()}
        return None

    @property
    def colours(self) -> dict[RGB, int]:
        """Pixels by colour, where it is one of colours."""
        return {(value >> 16, value >> 8 & 255, value & 255): count for value, count in self.counts.items()}


Values = dict[Path, FileValues]

_known: dict[tuple[str, int, int], FileValues] = {}  # of this process, by path, time and size


def values_of(raster: np.ndarray) -> FileValues:
    """Of integer[H, W] or uint8[H, W, 3]. Runs of equal pixels are counted as one, which masks are made of."""
    is_colour = raster.ndim == 3
    rows = max(1, _STRIP // max(1, raster.shape[1]))
    counts: Counter[int] = Counter()
    for y in range(0, len(raster), rows):
        strip = raster[y : y + rows]
        flat = (strip.astype(np.int32) @ np.array([65536, 256, 1], np.int32) if is_colour else strip).ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        found, inverse = np.unique(flat[starts], return_inverse=True)
        pixels = np.bincount(inverse.ravel(), weights=np.diff(starts, append=len(flat)))
        counts.update(dict(zip(found.tolist(), pixels.astype(np.int64).tolist(), strict=True)))
    common = dict(sorted(counts.most_common(_MOST)))
    return FileValues(common, is_colour, counts.total() - sum(common.values()))


def look_at(files: Sequence[Path], kept: Path | None = None) -> Values:
    """The values of label rasters; without those that cannot be read, which reading says.

    Args:
        kept: folder that keeps what was found for the next start.
    """
    stamps = {file: stamp for file in dict.fromkeys(files) if (stamp := _stamp(file)) is not None}
    if kept is not None:
        _recall(kept / KEPT)
    new = {file: stamp for file, stamp in stamps.items() if stamp not in _known}
    with ThreadPoolExecutor(_READERS) as pool, tracking("label values", 0, len(new), quiet=len(new) < _MANY) as show:
        for done, (stamp, found) in enumerate(zip(new.values(), pool.map(_look, new), strict=True), 1):
            show(done, "")
            if found is not None:
                _known[stamp] = found
    if kept is not None and new:
        _keep(kept / KEPT, stamps.values())
    return {file: _known[stamp] for file, stamp in stamps.items() if stamp in _known}


def _look(file: Path) -> FileValues | None:
    try:
        return values_of(read_raster(file))
    except UserError:
        return None


def _stamp(file: Path) -> tuple[str, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return os.path.abspath(file), status.st_mtime_ns, status.st_size


def _recall(file: Path) -> None:
    """What an earlier start kept; nothing where there is none, or it is damaged."""
    try:
        for path, time, size, is_colour, others, values in json.loads(file.read_text()):
            counts = {int(value): int(count) for value, count in values}
            _known[str(path), int(time), int(size)] = FileValues(counts, bool(is_colour), int(others))
    except (OSError, ValueError, TypeError, RecursionError):
        return


def _keep(file: Path, stamps: Iterable[tuple[str, int, int]]) -> None:
    """Beside what is there already (of the other splits)."""
    old = set(stamps)
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):  # there is none, or it is damaged
        old |= {(str(row[0]), int(row[1]), int(row[2])) for row in json.loads(file.read_text())}
    rows = [
        [*stamp, one.is_colour, one.others, list(one.counts.items())]
        for stamp in sorted(old)
        if (one := _known.get(stamp)) is not None
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, [json.dumps(rows)])
