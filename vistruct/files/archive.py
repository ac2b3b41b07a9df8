"""Unpack a zip or tar of a data set without letting it write anywhere else, fill the disk, or stay half done.

Every member is looked at before the first byte is written: names with `..`, absolute names, two members of one name,
devices, links to anything but a file of the archive, more bytes than allowed or than the disk has. Then files are
created, never opened, in a fresh folder that gets its name only when all is there.

Python's own `extractall` follows such names out of the folder before 3.14 (tar), or quietly changes them (zip).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vistruct.errors import UserError
from vistruct.files.owned import new_folder, refuse

MAX_BYTES = 2 * 2**40  # unpacked, all members together
MAX_RATIO = 100.0  # unpacked bytes to packed ones; images reach 1, text 20, empty masks several hundred
SMALL = 2**30  # unpacked bytes up to which no ratio is suspicious
_MOST_AT_ONCE = 16 * 2**20  # bytes; a header that wants more is an attack on memory

_DAMAGE = (
    OSError, EOFError, ValueError, LookupError, OverflowError, NotImplementedError, struct.error, zlib.error,
    lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip  # what the two readers raise at damaged bytes


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of an archive."""

    name: str  # normalised, relative
    size: int  # bytes, unpacked; of a link, those of its file
    handle: Any  # ZipInfo or TarInfo
    target: str = ""  # of a link: the normalised name of the file of the archive that it stands for


def unpack(archive: Path, to: Path, *, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO) -> list[Path]:
    """Unpack an archive into a new folder; when anything goes wrong, nothing of it is left.

    A link to a file of the archive becomes a copy of the file.

    Args:
        archive: zip, or tar as it is or with gzip, bzip2 or xz.
        to: the folder to make; must not exist, or be empty.
        max_bytes: of all files together.
        max_ratio: of unpacked to packed bytes, from 1 GiB on.

    Returns:
        the files, in the order of the archive.

    Raises:
        UserError: no archive, a damaged or dangerous one, no room, or the folder is in use.
    """
    refuse(to, or_empty=True)
    with _opened(archive) as (reader, listed):
        members = _checked(listed, archive, max_bytes, max_ratio)
        to.parent.mkdir(parents=True, exist_ok=True)
        num_bytes, free = sum(m.size for m in members), shutil.disk_usage(to.parent).free
        if num_bytes > free:
            what = f"{_gib(num_bytes)} unpacked, but {_gib(free)} are free"
            raise UserError(what, where=to.parent, fix="make room, or choose another disk")
        with new_folder(to, or_empty=True) as staging:
            for member in sorted(members, key=lambda m: m.target != ""):  # what links stand for comes first
                _write(reader, member, staging)
    return [to / member.name for member in members]


def _write(reader: zipfile.ZipFile | tarfile.TarFile, member: Member, folder: Path) -> None:
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.target:
        shutil.copyfile(folder / member.target, path)
        return
    source: IO[bytes] | None = (
        reader.open(member.handle) if isinstance(reader, zipfile.ZipFile) else reader.extractfile(member.handle)
    )
    assert source is not None  # only files come here
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
    if path.stat().st_size != member.size:
        raise EOFError(f"{member.name} has {path.stat().st_size} bytes and not {member.size}")


@contextmanager
def _opened(archive: Path) -> Generator[tuple[zipfile.ZipFile | tarfile.TarFile, Iterator[Any]]]:
    """A reader and the list of its entries; whatever it finds wrong with the bytes is a UserError."""
    reader: zipfile.ZipFile | tarfile.TarFile
    try:
        if not archive.is_file():
            raise UserError("no such archive", where=archive, fix="check the path")
        with archive.open("rb") as file:
            start = file.read(512)
            if start[257:262] != b"ustar" and zipfile.is_zipfile(file):  # a tar may end with a zip
                with zipfile.ZipFile(file) as reader:
                    yield reader, iter(reader.infolist())
            else:
                file.seek(0)
                stream: Any = _Guarded(_decompressed(file, start))
                with tarfile.TarFile(fileobj=stream) as reader:
                    yield reader, _tar_entries(reader, stream)
    except FileNotFoundError:
        if archive.exists():
            raise
        raise UserError("no such archive", where=archive, fix="check the path") from None
    except FileExistsError as error:
        what = "two files whose names are one to this file system"
        raise UserError(what, where=f"{archive}: {error.filename}", fix="unpack it on another disk") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # no room, no permission: not the archive's fault
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the archive is damaged, or neither zip nor tar: {reason}", where=archive, fix="download it again"
        ) from error


def _tar_entries(reader: tarfile.TarFile, stream: _Guarded) -> Iterator[tarfile.TarInfo]:
    yield from reader
    stream.seek(reader.offset)
    if stream.read(512) != bytes(512):  # `tarfile` takes a broken header for the end
        raise tarfile.ReadError(f"a broken header at byte {reader.offset}, or cut short there")


def _decompressed(file: IO[bytes], start: bytes) -> Any:
    if start[:2] == b"\x1f\x8b":
        return gzip.open(file)
    if start[:3] == b"BZh":
        return bz2.open(file)
    return lzma.open(file) if start[:6] == b"\xfd7zXZ\0" else file


class _Guarded:
    """A stream whose reader cannot be talked into holding more in memory than a block of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _checked(entries: Iterator[Any], archive: Path, max_bytes: int, max_ratio: float) -> list[Member]:
    """The files among the entries, if every single entry is harmless.

    Raises:
        UserError: which one is not, and why.
    """
    packed = archive.stat().st_size
    members: dict[str, Member] = {}
    folders: set[str] = set()
    total = 0
    for entry in entries:
        name = entry.filename if isinstance(entry, zipfile.ZipInfo) else entry.name
        where = f"{archive}: {name!r}"
        member = _member(entry, where)
        if member is None:
            folders.add(_normalised(name, where))
            continue
        if member.name in members:
            raise _refused("two files of one name", where)
        total += member.size
        _check_size(total, packed, where, max_bytes, max_ratio)  # now: the next header may lie behind petabytes
        members[member.name] = member
        folders.update(str(parent) for parent in PurePosixPath(member.name).parents)
    if not members:
        raise UserError("there is no file in this archive", where=archive, fix="download it again")
    if both := folders & members.keys():
        raise _refused("a file and a folder of one name", f"{archive}: {min(both)!r}")
    for name, member in members.items():
        if member.target:
            source = members.get(member.target)
            if source is None or source.target:  # of a folder, of another link, of nothing
                raise _refused("a link to what is no file of the archive", f"{archive}: {name!r}")
            members[name] = replace(member, size=source.size)
            total += source.size
            _check_size(total, packed, f"{archive}: {name!r}", max_bytes, max_ratio)
    return list(members.values())


def _check_size(total: int, packed: int, where: str, max_bytes: int, max_ratio: float) -> None:
    if total > max_bytes:
        fix = f"if you trust it: --max-gib {math.ceil(total / 2**30)} or more"
        raise UserError(f"more than {_gib(max_bytes)} unpacked", where=where, fix=fix)
    if total > max(SMALL, max_ratio * packed):
        ratio = math.ceil(total / packed)
        what = f"unpacked it is {ratio} times as large, as hardly anything but a decompression bomb is"
        raise UserError(what, where=where, fix=f"if you trust it: --max-ratio {ratio} or more")


def _member(entry: zipfile.ZipInfo | tarfile.TarInfo, where: str) -> Member | None:
    """A file; None for a folder."""
    if isinstance(entry, zipfile.ZipInfo):
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir():
            return None
        if kind not in (0, stat.S_IFREG):
            raise _refused("a link" if kind == stat.S_IFLNK else "a device", where)
        if entry.flag_bits & 1:
            raise UserError("the archive needs a password", where=where, fix="unpack it yourself")
        return Member(name=_normalised(entry.filename, where), size=entry.file_size, handle=entry)
    name = _normalised(entry.name, where)
    if entry.isdir():
        return None
    if entry.issym() or entry.islnk():
        # A symbolic link is relative to where it stands, a hard link to the root of the archive.
        target = posixpath.join(posixpath.dirname(name), entry.linkname) if entry.issym() else entry.linkname
        if entry.linkname.startswith("/") or posixpath.normpath(target).startswith(".."):
            raise _refused("a link out of the archive", f"{where} -> {entry.linkname!r}")
        return Member(name=name, size=0, handle=entry, target=posixpath.normpath(target))
    if not entry.isfile() or entry.size < 0:
        raise _refused("a device", where)
    return Member(name=name, size=entry.size, handle=entry)


def _normalised(name: str, where: str) -> str:
    """The name without `.` and doubled slashes; a backslash is a slash to Windows, so it must not hide anything."""
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", name):
        raise _refused("a name that leads out of the folder", where)
    return posixpath.normpath(name)


def _refused(what: str, where: str) -> UserError:
    return UserError(f"{what}; nothing was unpacked", where=where, fix="do not trust this archive; get it elsewhere")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
