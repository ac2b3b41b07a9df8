"""Archives made to do harm, each really made: refused whole, with nothing written anywhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vistruct.errors import UserError
from vistruct.files import archive as archive_
from vistruct.files.archive import unpack

FILES = {"images/a.jpg": b"jpeg" * 1000, "images/b.jpg": b"", "train.jsonl": "ä\n".encode()}


def entry(name: str, data: bytes = b"evil", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, b"", type=kind, linkname=target)


def tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes], mode: Any = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def zip_of_kind(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_back_its_files(tmp_path: Path, mode: str, layout: int) -> None:
    folders = [entry(".", b"", type=tarfile.DIRTYPE), entry("./images", b"", type=tarfile.DIRTYPE)]
    long = {f"{'d' * 90}/{'n' * 60}.txt": b"x"}  # needs each format's own way to say a long name
    made = tar(
        tmp_path / "a.bin", *folders, *(entry(f"./{n}", d) for n, d in (FILES | long).items()), mode=mode, format=layout
    )
    files = unpack(made, tmp_path / "out" / "data")
    assert tree(tmp_path / "out" / "data") == FILES | long
    assert files == [tmp_path / "out" / "data" / name for name in FILES | long]


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_a_zip_gives_back_its_files(tmp_path: Path, method: int) -> None:
    made = zipped(tmp_path / "a.bin", ("images/", b""), *FILES.items(), compression=method)
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    unpack(made, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", *FILES.items(), compression=zipfile.ZIP_STORED).read_bytes()
    unpack(tar(tmp_path / "a.tar", entry("inner.zip", inner)), tmp_path / "out")
    assert tree(tmp_path / "out") == {"inner.zip": inner}


def test_links_to_files_of_the_archive_become_copies(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "a.tar",
        link("train/a.jpg", "../images/a.jpg"),  # before what it stands for
        entry("images/a.jpg", b"pixels"),
        link("hard.jpg", "images/a.jpg", tarfile.LNKTYPE),
    )
    unpack(made, tmp_path / "out")
    assert tree(tmp_path / "out") == dict.fromkeys(["hard.jpg", "images/a.jpg", "train/a.jpg"], b"pixels")
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


OUT = "leads out of the folder"
EVIL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tar ..": (lambda p: tar(p, entry("../escaped")), OUT),
    "tar .. inside": (lambda p: tar(p, entry("a/../../escaped")), OUT),
    "tar .. that stays": (lambda p: tar(p, entry("a/../b")), OUT),
    "tar absolute": (lambda p: tar(p, entry(f"{p.parent}/escaped")), OUT),
    "tar backslash": (lambda p: tar(p, entry("a\\..\\..\\escaped")), OUT),
    "tar drive": (lambda p: tar(p, entry("C:escaped")), OUT),
    "tar gz ..": (lambda p: tar(p, entry("ok"), entry("../escaped"), mode="w:gz"), OUT),
    "zip ..": (lambda p: zipped(p, ("../escaped", b"evil")), OUT),
    "zip absolute": (lambda p: zipped(p, (f"{p.parent}/escaped", b"evil")), OUT),
    "zip backslash": (lambda p: zipped(p, ("..\\escaped", b"evil")), OUT),
    "zip .. folder": (lambda p: zipped(p, ("../escaped/", b""), ("a", b"")), OUT),
    "symlink out": (lambda p: tar(p, link("a", "../../etc/passwd")), "link out"),
    "symlink absolute": (lambda p: tar(p, link("a", "/etc/passwd")), "link out"),
    "symlink then write through it": (lambda p: tar(p, link("a", ".."), entry("a/escaped")), "link out"),
    "symlink to a folder then write": (
        lambda p: tar(p, entry("d/x"), link("a", "d"), entry("a/escaped")),
        "a file and a folder",
    ),
    "symlink to the root": (lambda p: tar(p, link("a", "."), entry("b")), "no file of the archive"),
    "symlink to a symlink": (lambda p: tar(p, entry("c"), link("b", "c"), link("a", "b")), "no file of the archive"),
    "symlink to itself": (lambda p: tar(p, link("a", "a")), "no file of the archive"),
    "symlink overwritten": (lambda p: tar(p, entry("c"), link("a", "c"), entry("a")), "two files of one name"),
    "hard link out": (lambda p: tar(p, link("a", "../../etc/passwd", tarfile.LNKTYPE)), "link out"),
    "hard link absolute": (lambda p: tar(p, link("a", "/etc/passwd", tarfile.LNKTYPE)), "link out"),
    "hard link to nothing": (lambda p: tar(p, link("a", "b", tarfile.LNKTYPE)), "no file of the archive"),
    "zip symlink": (lambda p: zipped(p, (zip_of_kind("a", stat.S_IFLNK), b"/etc/passwd")), "a link"),
    "device": (lambda p: tar(p, entry("a", b"", type=tarfile.CHRTYPE)), "device"),
    "pipe": (lambda p: tar(p, entry("a", b"", type=tarfile.FIFOTYPE)), "device"),
    "zip pipe": (lambda p: zipped(p, (zip_of_kind("a", stat.S_IFIFO), b"")), "device"),
    "two of a name": (lambda p: tar(p, entry("a"), entry("./a")), "two files of one name"),
    "file as a folder": (lambda p: tar(p, entry("a"), entry("a/b")), "a file and a folder"),
    "no file": (lambda p: tar(p, entry("a", b"", type=tarfile.DIRTYPE)), "no file in this archive"),
}


@pytest.mark.parametrize("name", EVIL)
def test_nothing_of_a_harmful_archive_is_written(tmp_path: Path, name: str) -> None:
    make, words = EVIL[name]
    made = make(tmp_path / "evil.bin")
    (tmp_path / "work").mkdir()
    with pytest.raises(UserError, match=words) as caught:
        unpack(made, tmp_path / "work" / "out")
    assert str(made) in caught.value.where
    assert caught.value.fix
    assert tree(tmp_path) == {"evil.bin": made.read_bytes()}
    assert not list((tmp_path / "work").iterdir())


def packed(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    inner = tar(path.with_suffix(".inner"), entry("zeros", bytes(20_000_000)))
    path.write_bytes(compress(inner.read_bytes()))
    inner.unlink()
    return path


BOMBS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda p: zipped(p, *((f"{n}", bytes(5_000_000)) for n in range(4))),
    "gz": lambda p: packed(p, gzip.compress),
    "bz2": lambda p: packed(p, bz2.compress),
    "xz": lambda p: packed(p, lzma.compress),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_by_its_size_and_by_its_ratio(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BOMBS[kind](tmp_path / "bomb")
    with pytest.raises(UserError, match="unpacked") as caught:
        unpack(made, tmp_path / "out", max_bytes=15_000_000)
    assert "--max-gib" in caught.value.fix
    monkeypatch.setattr(archive_, "SMALL", 1_000_000)
    with pytest.raises(UserError, match="times as large") as caught:
        unpack(made, tmp_path / "out")
    assert "--max-ratio" in caught.value.fix
    assert not (tmp_path / "out").exists()
    assert sum(p.stat().st_size for p in unpack(made, tmp_path / "out", max_ratio=1e6)) == 20_000_000


def test_links_count_as_the_copies_that_they_become(tmp_path: Path) -> None:
    made = tar(tmp_path / "a.tar", entry("a", bytes(1000)), *(link(f"l{n}", "a") for n in range(50)))
    with pytest.raises(UserError, match="unpacked"):
        unpack(made, tmp_path / "out", max_bytes=50_000)
    unpack(made, tmp_path / "out", max_bytes=51_000)


def test_more_than_the_disk_has_is_refused_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tar(tmp_path / "a.tar", entry("a", bytes(1000)))
    monkeypatch.setattr(archive_.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 999}))
    with pytest.raises(UserError, match="are free"):
        unpack(made, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


def test_a_header_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**31  # a pax header, which is read as a whole
    made = tmp_path / "a.tar"
    made.write_bytes(info.tobuf() + bytes(10_240))
    with pytest.raises(UserError, match="header of"):
        unpack(made, tmp_path / "out")


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz", "zip"])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.6, 0.9])
def test_an_archive_that_was_cut_short_leaves_nothing(tmp_path: Path, kind: str, part: float) -> None:
    noise = [(f"{n}.bin", random.Random(n).randbytes(20_000)) for n in range(6)]
    made = tmp_path / "a.bin"
    if kind == "zip":
        zipped(made, *noise)
    else:
        tar(made, *(entry(n, d) for n, d in noise), mode=kind)
    data = made.read_bytes()
    made.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError) as caught:
        unpack(made, tmp_path / "out")
    assert str(made) in caught.value.where
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin"]


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    made = tar(tmp_path / "a.tar", *(entry(f"{n}", bytes(100)) for n in range(4)))
    data = bytearray(made.read_bytes())
    data[2048 + 10] ^= 255  # third header
    made.write_bytes(data)
    with tarfile.open(made) as file:
        assert len(file.getmembers()) == 2  # and not a word
    with pytest.raises(UserError, match="broken header at byte 2048"):
        unpack(made, tmp_path / "out")


def test_a_flipped_byte_in_a_zip_is_found_and_what_was_written_is_gone(tmp_path: Path) -> None:
    made = zipped(tmp_path / "a.zip", *((str(n), bytes(1000)) for n in range(4)), compression=zipfile.ZIP_STORED)
    data = bytearray(made.read_bytes())
    data[2500] ^= 1
    made.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        unpack(made, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_password_a_text_and_a_folder_in_use_are_named(tmp_path: Path) -> None:
    made = zipped(tmp_path / "a.zip", ("a", b"a"))
    data = bytearray(made.read_bytes())
    data[6] |= 1  # encrypted, says the file's header ...
    data[data.index(b"PK\1\2") + 8] |= 1  # ... and the directory
    made.write_bytes(data)
    with pytest.raises(UserError, match="password"):
        unpack(made, tmp_path / "out")
    (tmp_path / "text").write_text("<html>404</html>" * 100)
    with pytest.raises(UserError, match="neither zip nor tar"):
        unpack(tmp_path / "text", tmp_path / "out")
    with pytest.raises(UserError, match="no such archive"):
        unpack(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        unpack(made, tmp_path)


def test_the_command_says_what_it_made_and_refuses_in_three_lines(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "vistruct.cli.main", *words], capture_output=True, text=True)

    made = tar(tmp_path / "a.tar", *(entry(n, d) for n, d in FILES.items()))
    good = run("unpack", str(made), str(tmp_path / "out"))
    assert (good.returncode, good.stdout.strip(), good.stderr.strip()) == (0, str(tmp_path / "out"), "3 files")
    evil = run("unpack", str(tar(tmp_path / "evil.tar", entry("../x"))), str(tmp_path / "other"))
    assert evil.returncode == 2
    assert [line.split(":")[0] for line in evil.stderr.splitlines()] == ["error", "where", "try"]
