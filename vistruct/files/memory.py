"""How much memory this process can still have, asked before something large is decoded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
_SYSTEM, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """The least of what the machine, the container and this process's limits leave; None: nothing says."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    with suppress(OSError, ValueError, LookupError):
        lines = (_SYSTEM / "meminfo").read_text().splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for most, used in _CGROUPS:
        with suppress(OSError, ValueError):  # "max": none
            yield int((_GROUPS / most).read_text()) - int((_GROUPS / used).read_text())
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            pages = int((_SYSTEM / "self" / "statm").read_text().split()[0])
            yield most - pages * os.sysconf("SC_PAGE_SIZE")
