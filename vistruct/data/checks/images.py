"""Whether images decode, how large they are, and which of them are the same: what every check of a data set asks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vistruct.data.checks.problem import Problem, hints
from vistruct.errors import UserError
from vistruct.files.embedded import image_bytes
from vistruct.files.geo import describe, raster_size
from vistruct.files.images import UnreadableImage, decode, image_size

IN_TWO_SPLITS = "image in a second split: what is measured on it was learned by heart"
NO_PICTURE = "image that is no 8-bit colours and needs an intake"


def decoded(paths: Iterable[Path], errors: list[UserError]) -> dict[Path, tuple[int, int]]:
    """(height, width) of every image that decodes; an error for each that does not."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            height, width = decode(image_bytes(path), path).shape[1:]
            sizes[path] = (height, width)
        except UserError as error:
            errors.append(error)
        except OSError as error:
            errors.append(UserError(f"cannot read the image: {error.strerror}", where=path, fix="check its rights"))
    return sizes


def decoded_rasters(
    paths: Sequence[Path], errors: list[UserError]
) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    """Sizes of all that decode; and what is to be said of rasters that are no 8-bit colours, which need an intake."""
    plain, rasters = [], []
    for path in paths:
        is_raster = path.suffix.lower() in (".tif", ".tiff") and path.is_file() and not _is_picture(path)
        (rasters if is_raster else plain).append(path)
    sizes = decoded(plain, errors)
    told = ""
    for path in rasters:
        try:
            told = told or describe(path)  # decodes it too
            sizes[path] = raster_size(path)
        except UserError as error:
            errors.append(error)
    if not told:
        return sizes, []
    fix = (
        "say it in training: --bands 3,2,1 --low 0 --high 3000 (or --percentiles 1,99), "
        "or --dtype float32 for values as they are; in a run file data.intake"
    )
    places = tuple(str(path) for path in rasters)
    what = f"{NO_PICTURE}: {told}"
    return sizes, [Problem(what=what, effect="stops training", count=len(rasters), places=places, fix=fix)]


def _is_picture(path: Path) -> bool:
    try:
        image_size(path)
    except UnreadableImage:
        return False
    return True


def tiny_images(sizes: Mapping[Path, tuple[int, int]]) -> list[Problem]:
    """Images that cannot be meant."""
    tiny = [str(image) for image, (height, width) in sizes.items() if min(height, width) <= 1]
    return hints({"image that is one pixel high or wide": tiny})


def sizes_in_words(sizes_hw: Iterable[tuple[int, int]]) -> dict[str, str]:
    """`40 x 30 to 80 x 60`, by area; nothing where there are none."""
    by_area = sorted(sizes_hw, key=lambda size: size[0] * size[1])
    if not by_area:
        return {}
    low, high = by_area[0], by_area[-1]
    return {"image pixels": f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"}


def same_in_two(splits: Mapping[str, Sequence[Path]]) -> list[Problem]:
    """Images of the same content (bytes of the file) in two splits, under whatever names."""
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, paths in splits.items():
        for path in paths:
            if path.is_file():
                by_size[path.stat().st_size].append((split, path))
    places = []
    for alike in by_size.values():
        if len({split for split, _ in alike}) < 2:
            continue
        first: dict[bytes, tuple[str, Path]] = {}
        for split, path in alike:
            seen = first.setdefault(hashlib.sha256(path.read_bytes()).digest(), (split, path))
            if seen[0] != split:
                places.append(f"{path} ({split}) is {seen[1]} ({seen[0]})")
    return hints({IN_TWO_SPLITS: places})
