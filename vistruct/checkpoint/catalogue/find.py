"""From a name to its entry: those listed here, and any model of timm as `timm:NAME`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from vistruct.checkpoint.catalogue.entries import ENTRIES, LIKE_TIMM
from vistruct.checkpoint.catalogue.entry import APACHE, CC_BY_NC, DINO_V3, MIT, UNKNOWN, Copy, Entry, Licence
from vistruct.errors import UserError, closest, nearest

TIMM = "timm:"  # before a name of timm's
_BY_NAME = {entry.name: entry for entry in ENTRIES}
# By what timm calls them; the rest have terms of their own, of which some forbid commercial use.
_LICENCES = {
    "apache-2.0": APACHE,
    "mit": MIT,
    "bsd-3-clause": Licence(name="BSD-3-Clause", terms="open"),
    "cc-by-4.0": Licence(name="CC-BY-4.0", terms="open"),
    "cc-by-nc-4.0": CC_BY_NC,
    "fair-noncommercial-research-license": Licence(name="FAIR Noncommercial Research License", terms="non-commercial"),
    "dinov3-license": DINO_V3,
    "unknown": UNKNOWN,
}


def names() -> list[str]:
    """All that are listed; timm's are many more."""
    return list(_BY_NAME)


def entry_of(source: Path | str) -> Entry | None:
    """The entry that is meant where a path is expected; None: there is such a file or folder, or no such name.

    Raises:
        UserError: `timm:NAME`, and timm has no such model or no weights for it.
    """
    name = str(source)
    if name not in _BY_NAME and not name.startswith(TIMM):
        return None
    return None if Path(source).exists() else entry_named(name)


def entry_named(name: str) -> Entry:
    """
    Raises:
        UserError: no such name; with the closest one.
    """
    if name.startswith(TIMM):
        return _timm_entry(name.removeprefix(TIMM))
    if name not in _BY_NAME:
        raise UserError(f"no public weights {name!r}", fix=f"{closest(name, _BY_NAME)} `vistruct weights` lists them")
    return _BY_NAME[name]


def near(text: str) -> str | None:
    """The name that a path which is not there may be a typo of; None: it looks like no name."""
    return None if "/" in text or "\\" in text else nearest(text, _BY_NAME)


def backbone_of(entry: Entry) -> Any:
    """The configuration of the backbone that an entry's weights are of."""
    from pydantic import TypeAdapter

    from vistruct.kinds import BackbonePart  # and torch

    return TypeAdapter(BackbonePart).validate_python(dict(entry.backbone))


@cache
def _timm_entry(name: str) -> Entry:
    import timm  # seconds to import

    known = timm.list_pretrained()
    card: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if card is None or not (card.hf_hub_id or card.url):
        what = f"timm {timm.__version__} has no weights called {name!r}"
        raise UserError(what, fix=closest(name, known) if nearest(name, known) else "see timm.list_pretrained()")
    copies = []
    if card.hf_hub_id:
        for file in (card.hf_hub_filename,) if card.hf_hub_filename else ("model.safetensors", "pytorch_model.bin"):
            copies.append(Copy(layout="timm", repo=card.hf_hub_id, file=file))
    if card.url:
        copies.append(Copy(layout="timm", file=card.url.rpartition("/")[2], url=card.url))
    own = Licence(name=str(card.license), terms="own", url=f"https://huggingface.co/{card.hf_hub_id}")
    return Entry(
        name=f"{TIMM}{name}",
        what=f"timm's {card.architecture}" + (f", {card.tag}" if card.tag else ""),
        backbone={"kind": "timm", "name": f"{card.architecture}.{card.tag}" if card.tag else card.architecture},
        licence=_LICENCES.get(str(card.license or "unknown"), own),
        copies=tuple(copies),
        verified=LIKE_TIMM,
    )
