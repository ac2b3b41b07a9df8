"""A folder in which one process at a time works: `.vistruct.lock` says which, on which machine, since when.

The kernel keeps the lock. It ends with its process, however that ends, and no child inherits it. File systems that
several machines share may keep locks for each machine alone, or none at all; therefore who holds one also touches the
mark every few seconds. The mark of another machine (or boot) is watched for a while before it is taken for a dead
process's.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.progress import notice

NAME = ".vistruct.lock"
BEAT_S = 5.0
WATCH_S = 3.2 * BEAT_S  # without a beat of another machine, until its process is taken for dead
GRACE_S = 2.0  # ranks of a launcher that was killed just now are still on their way out
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_own: set[Path] = set()  # the kernel gives a process its own lock a second time


@contextmanager
def in_use(folder: Path, doing: str) -> Generator[None]:
    """Have `folder`, which is made if it is missing, to oneself.

    Args:
        doing: what others are told of it, such as "this run is being trained".

    Raises:
        UserError: another process has it, or nothing can be written there; nothing in it is changed.
    """
    if sys.platform == "win32":  # has no such locks
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    path, is_new = folder.resolve() / NAME, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path, doing)
    except OSError as error:
        fix = "choose a place that is a folder and may be written to"
        raise UserError(f"cannot write there: {error.strerror}", where=folder, fix=fix) from error
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(descriptor, done), name="lock", daemon=True)
    beat.start()
    _own.add(path)
    try:
        yield
    finally:
        _own.discard(path)
        done.set()
        beat.join()
        path.unlink(missing_ok=True)  # before the lock goes: who gets it then sees that the file is another
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def check_free(folder: Path) -> None:
    """Say at once, before anything heavy is imported, what `in_use` would say.

    Raises:
        UserError: another process has it.
    """
    path = folder.resolve() / NAME
    if sys.platform == "win32" or not path.is_file():
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if _locked(descriptor) is False:
                raise _held(_mark(descriptor), path)
        finally:
            os.close(descriptor)


def is_empty(folder: Path) -> bool:
    """But for the mark, and for what a start that was killed has left."""
    return all(file.name == NAME or file.name.endswith(".partial") for file in folder.iterdir())


def _take(path: Path, doing: str) -> int:
    """The mark's descriptor, once the lock and the mark are ours."""
    deadline = time.monotonic() + GRACE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            locked = False if path in _own else _locked(descriptor)
            if locked is False and time.monotonic() > deadline:
                raise _held(_mark(descriptor), path)
            if locked is not False and _is_there(path, descriptor):
                before = _mark(descriptor)
                if before and (locked is None or before["boot"] != _boot()) and _lives(path, before):
                    raise _held(before, path)
                if _sign(descriptor, doing, sure=locked is True):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.1)


def _locked(descriptor: int) -> bool | None:
    """Whether the kernel gives the lock; None: this file system has none."""
    import fcntl  # not on Windows

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the file is still the one of that name: its last holder removes it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int, doing: str, *, sure: bool) -> bool:
    """Write our mark; without a lock, whether it is still ours when others who began with us have written theirs."""
    mark = {
        "doing": doing,
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "boot": _boot(),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(mark).encode(), 0)
    if sure:
        return True
    time.sleep(1.0)
    return _mark(descriptor) == mark


def _mark(descriptor: int) -> dict[str, Any] | None:
    """What it says; None of one that was not written to its end."""
    try:
        values = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return None
    keys = ("doing", "process", "host", "since", "boot")
    return values if isinstance(values, dict) and all(key in values for key in keys) else None


def _lives(path: Path, mark: dict[str, Any]) -> bool:
    """Whether somebody touches the mark."""
    notice(f"{path.parent}: is process {mark['process']} on machine {mark['host']} alive? watching for {WATCH_S:.0f} s")
    deadline, first = time.monotonic() + WATCH_S, path.stat().st_mtime_ns
    while time.monotonic() < deadline:
        time.sleep(BEAT_S / 10)
        if path.stat().st_mtime_ns != first:
            return True
    return False


def _held(mark: dict[str, Any] | None, path: Path) -> UserError:
    if mark is None:
        return UserError("another process has just begun to work here", where=path.parent, fix="choose another --out")
    who = f"process {mark['process']} on machine {mark['host']}"
    fix = f"wait for it, or end it with `kill {mark['process']}`; or choose another --out"
    return UserError(f"{mark['doing']} by {who} since {mark['since']}", where=path.parent, fix=fix)


def _beat(descriptor: int, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with suppress(OSError):  # a share that is away for a while
            os.utime(descriptor)


def _boot() -> str:
    """Of this machine since it was started."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()
