"""`vistruct weights`: public weights by name: which there are, what is here, how to get the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, made, note, table
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.checkpoint.catalogue.entry import Entry


def command(
    name: Annotated[str | None, typer.Argument(help="One of the list, or timm:NAME: all that is known of it.")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download it from the Hugging Face hub, with its sum checked.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List public pretrained weights that --backbone takes by name, with their licences; fetch one when told to.

    vistruct weights dinov2-s --fetch

    vistruct train detect --data annotations.json --backbone dinov2-s

    Nothing is downloaded unless --fetch says so.
    """
    from vistruct.checkpoint.catalogue.entries import ENTRIES
    from vistruct.checkpoint.catalogue.find import entry_named

    if name is None:
        if fetch:
            raise UserError("--fetch needs a name", fix="vistruct weights dinov2-s --fetch")
        if json:
            as_json([told(entry) for entry in ENTRIES])
            return
        _list(ENTRIES)
        return
    entry = entry_named(name)
    if fetch:
        from vistruct.checkpoint.catalogue.fetch import fetch as fetched

        made(fetched(entry, note))
    elif json:
        as_json(told(entry))
    else:
        _describe(entry)


def told(entry: Entry) -> dict[str, Any]:
    """All that is known of an entry, for a program."""
    from vistruct.checkpoint.catalogue.here import find_file, folder_of

    found = find_file(entry)
    return {
        "name": entry.name,
        "what": entry.what,
        "backbone": dict(entry.backbone),
        "licence": entry.licence.name,
        "terms": entry.licence.terms,
        "licence_url": entry.licence.url,
        "copies": [
            {"layout": c.layout, "file": c.file, "page": c.page, "size": c.size, "sha256": c.sha256, "gated": c.gated}
            for c in entry.copies
        ],
        "verified": entry.verified,
        "folder": folder_of(entry),
        "here": None if found is None else found.path,
    }


def _list(entries: tuple[Entry, ...]) -> None:
    from vistruct.checkpoint.catalogue.fetch import in_words
    from vistruct.checkpoint.catalogue.here import VARIABLE, find_file, root

    rows = []
    for entry in entries:
        terms = {"open": "", "non-commercial": ", not commercial", "own": ", own terms", "unknown": ""}
        size = in_words(entry.size) if entry.size else "not known"
        here = "yes" if find_file(entry) is not None else "by hand" if entry.fetched is None else "-"
        rows.append([entry.name, entry.what, size, entry.licence.name + terms[entry.licence.terms], here])
    table(["name", "what", "size", "licence", "here?"], rows)
    note("and any model that timm has weights for, as timm:NAME, for example timm:resnet50.a1_in1k")
    note(
        f"one in full: vistruct weights NAME; downloaded: vistruct weights NAME --fetch; kept in {root()} ({VARIABLE})"
    )


def _describe(entry: Entry) -> None:
    from vistruct.checkpoint.catalogue.fetch import in_words
    from vistruct.checkpoint.catalogue.here import find_file, looked, put

    found = find_file(entry)
    shape = ", ".join(f"{key} {value}" for key, value in entry.backbone.items() if key != "kind")
    rows: list[list[object]] = [
        ["what", entry.what],
        ["backbone", f"{entry.backbone['kind']}" + (f": {shape}" if shape else "")],
        ["licence", str(entry.licence)],
        ["verified", entry.verified],
        ["here?", found.path if found is not None else "no"],
        ["looked for in", looked(entry)],
    ]
    for number, copy in enumerate(entry.copies, 1):
        about = [
            copy.basename or "the file of weights",
            f"tensors as {copy.layout} names them",
            in_words(copy.size) if copy.size else "size not known",
            *(["its publisher wants to be asked first (gated)"] if copy.gated else []),
        ]
        digest = f"sha256 {copy.sha256}" if copy.sha256 else "sha256 not known"
        rows.append([f"file {number}", f"{copy.page}\n{', '.join(about)}\n{digest}"])
    if found is None:
        rows += [["fetch it", f"vistruct weights {entry.name} --fetch"]] if entry.fetched else []
        rows.append(["or by hand", put(entry.fetched or entry.copies[0], entry)])
    rows.append(["use it", f"vistruct train RECIPE --data DATA --backbone {entry.name}"])
    table(["", ""], rows, title=entry.name)
