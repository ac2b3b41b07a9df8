"""Which values label rasters have: all of them are looked at once, before the first step, and remembered by file.

What labels mean cannot be told from a few of them: five masks of another coding among forty are classes that vanish. A
mask is looked at in a few milliseconds, in threads (512 x 512 pixels: 4,000 PNGs of numbers take 9 seconds of one core
and 130 MiB, of colours 19 seconds; most of it is decoding); what was found is kept beside the run (`Ask.kept`), so that
going on, evaluating and further ranks do not look again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from vistruct.contracts import RGB, Record
from vistruct.errors import UserError
from vistruct.files.geo import images_of
from vistruct.files.images import image_size
from vistruct.files.intake import Intake
from vistruct.files.raster_files import may_lack_data, valid_in_all
from vistruct.files.rasters import palette_of, read_raster
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
    hidden: int = 0  # pixels where an image has no data, which are counted nowhere; a value that is only there has 0

    palette: Mapping[int, int] = field(default_factory=dict)  # of an indexed file: the colour of each value, packed

    def raster(self, *, by_colour: bool = False) -> np.ndarray:
        """Each value once, as a raster of one row that a coding decodes; numbers of a palette by their colours."""
        values = np.array([list(self.counts)], np.int64)
        if by_colour and self.palette:
            values = np.array([[self.palette[value] for value in self.counts]], np.int64)
        elif not self.is_colour:
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

Stamp = tuple[str, int, int]

_known: dict[Stamp, FileValues] = {}  # of this process, by path, time and size


def values_of(raster: np.ndarray, valid: np.ndarray | None = None) -> FileValues:
    """Of integer[H, W] or uint8[H, W, 3]. Runs of equal pixels are counted as one, which masks are made of.

    Args:
        valid: bool[H, W], the pixels that are counted; None: all.
    """
    is_colour = raster.ndim == 3
    rows = max(1, _STRIP // max(1, raster.shape[1]))
    counts: Counter[int] = Counter()
    for y in range(0, len(raster), rows):
        strip = raster[y : y + rows]
        flat = (_packed(strip) if is_colour else strip).ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        values = flat[starts]
        lengths = np.diff(starts, append=len(flat))
        if valid is not None:
            lengths = np.add.reduceat(valid[y : y + rows].ravel(), starts, dtype=np.int64)
        if values.dtype == np.uint8:  # three times as fast as the general way
            found = np.flatnonzero(np.bincount(values))
            pixels = np.bincount(values, weights=lengths)[found]
        else:
            found, inverse = np.unique(values, return_inverse=True)
            pixels = np.bincount(inverse.ravel(), weights=lengths)
        counts.update(dict(zip(found.tolist(), pixels.astype(np.int64).tolist(), strict=True)))
    common = dict(sorted(counts.most_common(_MOST)))
    hidden = 0 if valid is None else int(valid.size - np.count_nonzero(valid))
    return FileValues(common, is_colour, counts.total() - sum(common.values()), hidden)


def _packed(colours: np.ndarray) -> np.ndarray:
    """int32[...] of uint8[..., 3]."""
    red, green, blue = (colours[..., at].astype(np.int32) for at in range(3))
    return red << 16 | green << 8 | blue


def look_at(records: Sequence[Record], kept: Path | None = None, intake: Intake | None = None) -> Values:
    """The values of the label rasters of records; without those that cannot be read, which reading says.

    Args:
        kept: folder that keeps what was found for the next start.
        intake: of the images, which say where there are no data.
    """
    look = partial(_look, intake=intake)
    own = {record.label_map: record for record in records if record.label_map is not None}
    with ThreadPoolExecutor(_READERS) as pool:
        asked = zip(own.items(), pool.map(partial(_stamp, intake=intake), own.values()), strict=True)
        stamps = {file: (stamp, record) for (file, record), stamp in asked if stamp is not None}
        if kept is not None:
            _recall(kept / KEPT)
        new = {stamp: record for stamp, record in stamps.values() if stamp not in _known}
        with tracking("label values", 0, len(new), quiet=len(new) < _MANY) as show:
            for done, (stamp, found) in enumerate(zip(new, pool.map(look, new.values()), strict=True), 1):
                show(done, "")
                if found is not None:
                    _known[stamp] = found
    if kept is not None and new:
        _keep(kept / KEPT, [stamp for stamp, _ in stamps.values()])
    return {file: _known[stamp] for file, (stamp, _) in stamps.items() if stamp in _known}


def _look(record: Record, intake: Intake | None) -> FileValues | None:
    assert record.label_map is not None
    try:
        raster = read_raster(record.label_map)
        found = values_of(raster, _valid(record, raster.shape[:2], intake))
        palette = palette_of(record.label_map) if raster.dtype == np.uint8 and raster.ndim == 2 else None
        if palette is None:
            return found
        table = _packed(np.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], np.uint8)).tolist()
        return replace(found, palette={value: table[value] for value in found.counts})
    except UserError:
        return None


def _valid(record: Record, size_hw: tuple[int, ...], intake: Intake | None) -> np.ndarray | None:
    """bool[H, W], where all images of a record have data; None: everywhere, or they are of another size."""
    height, width = size_hw
    images = [files for files in images_of(record) if may_lack_data(files, intake)]
    if not images or any(image_size(files[0]) != (height, width) for files in images):
        return None
    rows = max(1, _STRIP // width)
    parts = [valid_in_all(images, (0, y, width, min(y + rows, height)), intake) for y in range(0, height, rows)]
    return np.concatenate([part for part in parts if part is not None])


def _stamp(record: Record, intake: Intake | None) -> Stamp | None:
    """Of a label raster; and, where its images may lack data, of them: paths, times and sizes together."""
    assert record.label_map is not None
    files = [record.label_map]
    with suppress(UserError):  # an image that cannot be read, which reading says
        files += [file for own in images_of(record) if may_lack_data(own, intake) for file in own]
    try:
        found = [os.stat(file) for file in files]
    except OSError:
        return None
    times, sizes = sum(one.st_mtime_ns for one in found), sum(one.st_size for one in found)
    return os.pathsep.join(map(os.path.abspath, files)), times, sizes


def _recall(file: Path) -> None:
    """What an earlier start kept; nothing where there is none, or it is damaged."""
    try:
        for path, time, size, is_colour, others, hidden, palette, values in json.loads(file.read_text()):
            counts, colours = ({int(key): int(value) for key, value in pairs} for pairs in (values, palette))
            found = FileValues(counts, bool(is_colour), int(others), int(hidden), colours)
            _known[str(path), int(time), int(size)] = found
    except (OSError, ValueError, TypeError, RecursionError):
        return


def _keep(file: Path, stamps: Iterable[Stamp]) -> None:
    """Beside what is there already (of the other splits)."""
    old = set(stamps)
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):  # there is none, or it is damaged
        old |= {(str(row[0]), int(row[1]), int(row[2])) for row in json.loads(file.read_text())}
    rows = [
        [*stamp, one.is_colour, one.others, one.hidden, list(one.palette.items()), list(one.counts.items())]
        for stamp in sorted(old)
        if (one := _known.get(stamp)) is not None
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, [json.dumps(rows)])
