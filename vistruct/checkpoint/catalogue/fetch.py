"""Weights fetched from the Hugging Face hub, when somebody asks for them: whole, with the right sum, or not at all.

What arrives lies in a folder of its own until it is complete and its sha256 is right: the one known here, else the one
that the hub says. A line that is cut is tried again; where nobody answers any more, nothing is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from vistruct.checkpoint.catalogue.entry import Copy, Entry
from vistruct.checkpoint.catalogue.here import find_file, folder_of, put, root
from vistruct.errors import UserError

_BESIDE = ["*.json", "*.txt", "*.model"]  # of a whole model; never code


def fetch(entry: Entry, say: Callable[[str], None]) -> Path:
    """Fetch the weights of an entry into our folder, unless they are on this machine.

    Args:
        say: gets what is being done, and the licence.

    Returns:
        the file; of a whole model its folder.

    Raises:
        UserError: no copy is on the hub; no connection; its publisher wants to be asked first; another file than the
            one known here; no room.
    """
    copy = entry.fetched
    found = find_file(entry)
    if found is not None:
        say(f"here already: {found.path}; licence: {entry.licence}")
        return found.path.parent if copy is not None and copy.folder else found.path
    if copy is None:
        what = f"{entry.name} is not on the hub, and only from there files are fetched"
        raise UserError(what, where=entry.copies[0].page, fix=put(entry.copies[0], entry))
    place, partial = folder_of(entry), root() / f".{folder_of(entry).name}.partial"
    size = f", {in_words(copy.size)}" if copy.size else ""
    say(f"fetching {copy.file} of {copy.repo}{size}; licence: {entry.licence}")
    try:
        file = _download(copy, entry, partial)
        place.mkdir(parents=True, exist_ok=True)
        beside = [path for path in partial.glob("*") if path.is_file() and path != file] if copy.folder else []
        for arrived in (*beside, file):  # the weights last: with them it is here
            arrived.replace(place / arrived.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place if copy.folder else place / copy.basename


def _download(copy: Copy, entry: Entry, folder: Path) -> Path:
    """The file of weights, complete and checked, and what belongs beside it, in `folder`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
    )

    from vistruct.checkpoint.tensors import sha256

    by_hand = put(copy, entry)
    try:
        told = get_hf_file_metadata(hf_hub_url(copy.repo, copy.file))
        at_hub = told.etag if told.etag is not None and len(told.etag) == 64 else None  # git's own sums are shorter
        if copy.sha256 is not None and at_hub is not None and at_hub != copy.sha256:
            what = f"the hub has another file by now than the one known here: sha256 {at_hub}, not {copy.sha256}"
            fix = f"look at {copy.page}; if it is what you want, download it and give its path in place of the name"
            raise UserError(what, where=copy.page, fix=fix)
        file = Path(hf_hub_download(copy.repo, copy.file, local_dir=folder))
        if copy.folder:
            snapshot_download(copy.repo, local_dir=folder, allow_patterns=_BESIDE)
    except GatedRepoError as error:
        fix = f"ask for it at https://huggingface.co/{copy.repo}, then `hf auth login` and this command again"
        raise UserError("its publisher wants to be asked first", where=copy.page, fix=f"{fix}; or {by_hand}") from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise UserError(f"it is not there any more: {_first(error)}", where=copy.page, fix=by_hand) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        what = f"it could not be fetched: {_first(error)}"
        fix = f"the same command again, with a connection; or {by_hand}"
        raise UserError(what, where=copy.page, fix=fix) from error
    wanted = copy.sha256 or at_hub
    digest = sha256(file)
    if wanted is not None and digest != wanted:
        file.unlink()
        what = f"what arrived is not the published file: its sha256 is {digest}, that of the other {wanted}"
        raise UserError(what, where=copy.page, fix="fetch it again; nothing of it was kept")
    return file


def in_words(size: int) -> str:
    """Bytes as the hub writes them: 88 MB, 1.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
