"""Whether images decode, how large they are, and which of them are the same: what every check of a data set asks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vistruct.data.checks.problem import Problem, hints
from vistruct.errors import UserError
from vistruct.files.decode import say
from vistruct.files.geo import describe
from vistruct.files.images import check_pixels, image_size
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import header_of, stamp_of

IN_TWO_SPLITS = "image in a second split: what is measured on it was learned by heart"
NO_PICTURE = "image that is no 8-bit colours and needs an intake"


def decoded(
    paths: Iterable[Path], errors: list[UserError], intake: Intake | None = None
) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    """(height, width) of every image that decodes, an error for each that does not; and what is to be said of those
    that are no 8-bit colours, where no intake says what becomes of them."""
    sizes: dict[Path, tuple[int, int]] = {}
    told, fix, places = "", "", []
    for path in paths:
        try:
            size_hw = image_size(path)
            if intake is None and not header_of(stamp_of(path)).is_colour:
                fix = fix or say(len(header_of(stamp_of(path)).types))
                told = told or describe(path)  # decodes some of it too
                places.append(str(path))
            else:
                check_pixels(path, intake)
            sizes[path] = size_hw
        except UserError as error:
            errors.append(error)
    if not told:
        return sizes, []
    what = f"{NO_PICTURE}: {told}"
    return sizes, [Problem(what=what, effect="stops training", count=len(places), places=tuple(places), fix=fix)]


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
