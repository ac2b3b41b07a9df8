"""`vistruct unpack` on archives that would write elsewhere or fill the disk: three lines, and nothing is written."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vistruct.cli.main import main


def tar_of(*members: tuple[str, bytes, str, int]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for name, kind, link, size in members:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.size = kind, link, size
                tar.addfile(entry, io.BytesIO(bytes(size)))

    return write


def zip_of(name: str, mode: int = 0) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("good.txt", "good")
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            file.writestr(entry, "/etc/passwd")

    return write


def bomb(path: Path) -> None:
    """A header that promises 4 GiB, and 64 MiB of zeros in 64 KiB to begin with."""
    entry = tarfile.TarInfo("zeros")
    entry.size = 4 << 30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(entry.tobuf())
        for _ in range(16):
            file.write(bytes(1 << 20))


OUTSIDE = Path(tempfile.gettempdir(), "vistruct-outside")  # where an absolute name would write
FILE, SOFT, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
GOOD = ("good.txt", FILE, "", 4)
ARCHIVES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "parent": ("a.tar", tar_of(GOOD, ("../outside", FILE, "", 4))),
    "parent in the middle": ("a.tar", tar_of(GOOD, ("a/../../outside", FILE, "", 4))),
    "absolute": ("a.tar", tar_of(GOOD, (str(OUTSIDE), FILE, "", 4))),
    "symbolic link out": ("a.tar", tar_of(GOOD, ("link", SOFT, "../..", 0), ("link/outside", FILE, "", 4))),
    "symbolic link to a file outside": ("a.tar", tar_of(GOOD, ("link", SOFT, "/etc/passwd", 0))),
    "hard link out": ("a.tar", tar_of(GOOD, ("link", HARD, "../outside", 0))),
    "device": ("a.tar", tar_of(GOOD, ("null", tarfile.CHRTYPE, "", 0))),
    "parent in a zip": ("a.zip", zip_of("../outside")),
    "absolute in a zip": ("a.zip", zip_of(str(OUTSIDE))),
    "backslashes in a zip": ("a.zip", zip_of("..\\outside")),
    "link in a zip": ("a.zip", zip_of("link", 0o120777)),
    "bomb": ("a.tar.gz", bomb),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_nothing_is_written_anywhere(tmp_path, kind, capfd):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    name, write = ARCHIVES[kind]
    write(inner / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["unpack", str(inner / name), str(inner / "out")])
    assert end.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "where", "try"]
    assert any(word in lines[0] for word in ("leads out of the folder", "a link", "a device", "bomb"))
    assert str(inner / name) in lines[1]
    assert sorted(tmp_path.rglob("*")) == before
    assert not OUTSIDE.exists()
