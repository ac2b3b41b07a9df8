"""Images that are given as files, folders, and pairs of them matched by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vistruct.errors import UserError
from vistruct.files.owned import HOME, wrote
from vistruct.inference.scenes import Case
from vistruct.progress import notice

IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2"}


def cases_at(sources: Sequence[Path], images: int) -> list[Case]:
    """`images_at`, or `pairs_at` for a model that looks at two images together.

    Raises:
        UserError: as these; or no two sources for pairs.
    """
    if images == 1:
        return images_at(sources)
    if len(sources) != 2:
        what = f"{len(sources)} sources, and this model compares before and after"
        raise UserError(what, where=", ".join(map(str, sources)), fix="two: before/ after/, or two images")
    return pairs_at(sources)


def images_at(sources: Sequence[Path]) -> list[Case]:
    """The images themselves, and all images in folders and below them by name, in the order given.

    Raises:
        UserError: nothing at a path, or no image in a folder.
    """
    found: list[tuple[Path, str]] = []
    for source in sources:
        for file in [source] if source.is_file() else _images_in(source):
            found.append((file, file.relative_to(source).as_posix() if source.is_dir() else file.name))
    found = list(dict.fromkeys(found))
    names = Counter(name for _, name in found)
    return [Case(pictures=(file,), name=name if names[name] == 1 else file.as_posix()) for file, name in found]


def pairs_at(sources: Sequence[Path]) -> list[Case]:
    """Before and after: two images, or two folders whose images are matched by name (endings may differ).

    Raises:
        UserError: an image without its other, two of one name, or a file and a folder.
    """
    before, after = sources
    if before.is_file() and after.is_file():
        return [Case(pictures=(before, after), name=after.name)]
    if not (before.is_dir() and after.is_dir()):
        raise UserError("an image and a folder make no pairs", where=f"{before}, {after}", fix="two of a kind")
    earlier, later = _by_stem(before), _by_stem(after)
    alone = sorted(earlier.keys() ^ later.keys())
    if alone:
        folder, other = (before, after) if alone[0] in earlier else (after, before)
        what = f"{len(alone)} images without their other, first {alone[0]!r} in {folder}"
        raise UserError(what, where=other, fix="both folders hold images of the same names")
    return [
        Case(pictures=(earlier[stem], file), name=file.relative_to(after).as_posix()) for stem, file in later.items()
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in _images_in(folder):
        stem = str(PurePosixPath(file.relative_to(folder).as_posix()).with_suffix(""))
        if stem in found:
            raise UserError(f"two images called {stem}", where=f"{found[stem]}, {file}", fix="keep one of them")
        found[stem] = file
    return found


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError("no such image or folder", where=folder, fix="check the path")
    mine = set(wrote(folder))
    every = [p for p in folder.rglob("*") if HOME not in p.parts and p not in mine and p.is_file()]
    files = sorted(p for p in every if p.suffix.lower() in IMAGES)
    if not files:
        raise UserError("no images in this folder", where=folder, fix=f"images end in {', '.join(sorted(IMAGES))}")
    if mine:
        notice(f"{folder}: {len(mine)} files in it that vistruct wrote are skipped")
    others = len(every) - len(files)
    if others:
        notice(f"{folder}: {len(files)} images; {others} other files are skipped")
    return files
