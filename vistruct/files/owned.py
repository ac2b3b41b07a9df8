"""Folders that results go to: what is there and not ours stays as it is, whatever is asked and whenever it ends.

    OUT/.vistruct/wrote      a line of json for each file that was put into OUT: by which command, its bytes and sum
    OUT/.vistruct/making/    what is not whole yet; it is moved to its place when it is
    OUT/.vistruct/...        what a command keeps for itself

A file is ours where the list has it as it is now: one that somebody else made, or changed since, is theirs. The line is
written before the file is moved, so that a kill leaves nothing of ours that is not known to be ours, and nothing half
done outside of `making`, which the next start empties. One process at a time writes into a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vistruct.errors import UserError
from vistruct.files.in_use import check_free, in_use, is_empty

HOME = ".vistruct"
_HEAD = json.dumps({"vistruct": "files that it wrote here", "format": 1})
MOST_OF_NAME, MOST_OF_PATH = 255, 4000  # bytes that disks take, room for names of unfinished files kept
_LONGEST = 200  # bytes of a name of ours; endings come on top
MARKS = (b'name="generator" content="vistruct"', b"Software\0vistruct", b"made by vistruct")  # a page, a PNG, a JPEG


class Owned:
    """A folder with what one command wrote into it, now and before."""

    def __init__(self, folder: Path, by: str) -> None:
        """Look, without a change on disk yet.

        Args:
            by: the command; what another one wrote is not ours.

        Raises:
            UserError: no folder, or its list is not ours.
        """
        self.folder, self.by = Path(folder), by
        self.home, self.list = self.folder / HOME, self.folder / HOME / "wrote"
        _short_enough(self.list)
        self.listed = _listed(self.folder, by)
        self.file: IO[bytes] | None = None

    def is_ours(self, file: Path) -> bool:
        """Whether this command wrote a file and nobody changed it since."""
        return _is_same(file, self.listed.get(file.relative_to(self.folder).as_posix(), []))

    def check(self, files: Iterable[Path], given: Iterable[Path] = ()) -> None:
        """Look whether all of these can be written, before the first one is.

        Args:
            files: or folders of them, below this one.
            given: the command's inputs.

        Raises:
            UserError: a file that is in the way and not ours, or is an input; a name that is too long for a file,
                leads out of the folder, or is that of two results.
        """
        inputs, seen = {Path(os.path.realpath(one)) for one in given}, set()
        others: list[Path] = []
        for file in files:
            if file in seen:
                raise UserError("two results would have this name", where=file, fix="give the images one by one")
            seen.add(file)
            others += [
                one for one in self._in_the_way(file) if Path(os.path.realpath(one)) in inputs or not self.is_ours(one)
            ]
        if others:
            what = f"{len(others)} files would be overwritten that `vistruct {self.by}` did not write, or not like this"
            raise UserError(what, where=others[0], fix=f"--out {free(self.folder)}")

    def _in_the_way(self, file: Path) -> list[Path]:
        """What is there now of a file, or of the files in a folder."""
        inside = file.relative_to(self.folder)
        if ".." in inside.parts or not inside.parts or inside.parts[0] == HOME:
            raise UserError("a name that leads out of the results' folder", where=file, fix="rename the image")
        for place in (self.home / "making" / inside, file):
            _short_enough(place)
        for place in reversed(file.parents[: len(inside.parts)]):
            if os.path.lexists(place) and not place.is_dir():
                return [place]
        if file.is_dir() and not file.is_symlink():
            return sorted(one for one in file.rglob("*") if one.is_symlink() or not one.is_dir())
        return [file] if os.path.lexists(file) else []

    @contextmanager
    def held(self) -> Generator[Owned]:
        """Make the folder, and keep every other process out of it.

        Raises:
            UserError: another process writes into it.
        """
        with in_use(self.home, f"`vistruct {self.by}` writes into this folder"), self.list.open("ab") as self.file:
            try:
                if self.file.tell() == 0:
                    self._note(_HEAD)
                self.listed = _listed(self.folder, self.by)  # as the process before left it
                _remove(self.home / "making")
                yield self
            finally:
                _remove(self.home / "making")
                self.file = None

    @contextmanager
    def making(self, file: Path) -> Generator[Path]:
        """Where to write a file, or a folder of files, of this folder; moved to its place at the end of the block.

        Raises:
            UserError: somebody put another file there in the meantime.
        """
        place = self.home / "making" / file.relative_to(self.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield place
            inside = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
            for one in inside:
                self._move(one, file / one.relative_to(place))
        finally:
            _remove(place)

    def remove(self, file: Path) -> None:
        """A file that is ours; any other stays."""
        if os.path.lexists(file) and self.is_ours(file):
            file.unlink()

    def _move(self, made: Path, file: Path) -> None:
        self.check([file])
        key, state = file.relative_to(self.folder).as_posix(), _state(made)
        self._note(json.dumps({"file": key, "by": self.by, **state}))
        self.listed.setdefault(key, []).append(state)
        file.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, file)

    def _note(self, line: str) -> None:
        assert self.file is not None, "held() comes first"
        os.write(self.file.fileno(), f"{line}\n".encode())  # at once, or a kill could cut it


def wrote(folder: Path) -> Iterator[Path]:
    """The files that vistruct wrote into a folder or into those below it, as far as nobody changed them."""
    for home in folder.rglob(HOME):
        with contextlib.suppress(UserError):  # somebody else's
            yield from (
                home.parent / key for key, states in _listed(home.parent).items() if _is_same(home.parent / key, states)
            )


def inside(name: str) -> Path:
    """A name, of whatever length and wherever it leads, as that of a file inside of a folder."""
    parts = []
    for part in PurePosixPath(name.lstrip("/")).parts:
        part = part.replace(".", "_") if part in ("..", HOME) else part
        if len(part.encode()) > _LONGEST:
            suffix = PurePosixPath(part).suffix[:16]
            start = part.encode()[: _LONGEST - 40].decode(errors="ignore")
            part = f"{start}-{hashlib.sha256(part.encode()).hexdigest()[:16]}{suffix}"
        parts.append(part)
    return Path(*parts)


@contextmanager
def new_folder(out: Path, flag: str = "", *, or_empty: bool = False) -> Generator[Path]:
    """Where to write a folder that is there whole or not at all, and never takes the place of another.

    Args:
        flag: what the name is given by.
        or_empty: an empty folder is as good as none.

    Raises:
        UserError: as `refuse`.
    """
    refuse(out, flag, or_empty=or_empty)
    out.parent.mkdir(parents=True, exist_ok=True)
    start, end = f".{out.name[:40]}.", ".making"
    for other in list(out.parent.iterdir()):
        if other.name.startswith(start) and other.name.endswith(end) and other.is_dir():
            _sweep(other)
    work = out.parent / f"{start}{os.getpid()}{end}"
    try:
        with in_use(work, "a folder is being made"):
            (work / HOME).write_text(_HEAD)
            made = work / "made"
            made.mkdir()
            yield made
            refuse(out, flag, or_empty=or_empty)
            os.rename(made, out)
    finally:
        _remove(work)


def refuse(out: Path, flag: str = "", *, or_empty: bool = False) -> None:
    """
    Args:
        or_empty: an empty folder is as good as none.

    Raises:
        UserError: there is something of this name, or it is too long.
    """
    _short_enough(out)
    if os.path.lexists(out) and not (or_empty and out.is_dir() and not out.is_symlink() and is_empty(out)):
        fix = f"name a new folder: {flag} {free(out)}"
        raise UserError("this exists already, and is not overwritten", where=out, fix=fix)


def _short_enough(path: Path) -> None:
    """
    Raises:
        UserError: a name, or the whole path, is longer than the disk takes.
    """
    names, whole = [os.fsencode(part) for part in path.parts], os.fsencode(os.path.abspath(path))
    if max(map(len, names)) > MOST_OF_NAME or len(whole) > MOST_OF_PATH:
        raise UserError("a name that is too long for a file", where=path, fix="choose a shorter --out")


def _sweep(work: Path) -> None:
    """Remove what a process left that was killed: known by our mark in it, and that nobody holds it."""
    with contextlib.suppress(OSError):
        work.rmdir()  # killed before it could make its mark
        return
    with contextlib.suppress(OSError, UserError):
        check_free(work)
        if (work / HOME).read_text() == _HEAD:
            shutil.rmtree(work)


def single_file(out: Path | None, usual: Path) -> Path:
    """The place of a picture or page that stands alone: one that carries our mark is replaced, no other is.

    Args:
        out: as asked for.
        usual: else; where that is somebody's, the next name that is free.

    Raises:
        UserError: the file that was asked for is there and not ours.
    """
    if out is None:
        return next(one for one in itertools.chain([usual], _numbered(usual)) if is_free(one))
    if not is_free(out):
        raise UserError("a file that vistruct did not write is there", where=out, fix=f"--out {free(out)}")
    return out


def is_free(file: Path) -> bool:
    """Whether nothing is there, or a picture or page of ours."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except FileNotFoundError:
        return not os.path.lexists(file)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=file, fix="choose another --out") from error
    return any(mark in head for mark in MARKS)


def free(path: Path) -> Path:
    """`path` with the first number that makes it a name of nothing."""
    return next(one for one in _numbered(path) if not os.path.lexists(one))


def _numbered(path: Path) -> Iterator[Path]:
    start, end = (path.stem, path.suffix) if path.name.strip(".") else ("results", "")
    return (path.parent / f"{start}-{number}{end}" for number in itertools.count(2))


def _listed(folder: Path, by: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The list of a folder: by name, all that a file was (a kill may have come before the last); a line that was cut
    short is none.

    Raises:
        UserError: something where the list belongs that is not ours.
    """
    home, found = folder / HOME, {}
    try:
        text = (home / "wrote").read_text("utf-8", "replace")
    except FileNotFoundError:
        text = "?" if os.path.lexists(home) and not (home.is_dir() and is_empty(home)) else ""
    except (NotADirectoryError, IsADirectoryError):
        text = "?"
    head, *lines = text.split("\n")
    if text and head != _HEAD:
        raise UserError("not a list of what vistruct wrote", where=home, fix=f"--out {free(folder)}")
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            if by in (None, values["by"]):
                found.setdefault(values["file"], []).append(values)
    return found


def _state(file: Path) -> dict[str, Any]:
    found = file.stat()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": found.st_size, "changed": found.st_mtime_ns, "sum": digest}


def _is_same(file: Path, states: list[dict[str, Any]]) -> bool:
    """Whether a file is what it was once; the time tells it without reading, and a copy of a folder has other times."""
    if not states or file.is_symlink() or not file.is_file():
        return False
    found = file.stat()
    alike = [state for state in states if state["bytes"] == found.st_size]
    if any(state["changed"] == found.st_mtime_ns for state in alike):
        return True
    return bool(alike) and _state(file)["sum"] in [state["sum"] for state in alike]


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
