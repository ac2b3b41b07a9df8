"""From the data sets of a mix, as they are asked for, to the lines that can be used and an account of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vistruct.data.account import Account
from vistruct.data.chat.image_facts import MISSING, UNREADABLE, ImageFacts, open_facts
from vistruct.data.chat.index import OK, Index, open_index
from vistruct.data.chat.records import Source
from vistruct.data.formats.chat.turns import LEFT_OUT, OBJECTS, REASONS, Defect, effect_of
from vistruct.errors import UserError
from vistruct.issues import Effect, IssueCounter
from vistruct.ops.seeds import derive

IMAGE_MISSING = f"{LEFT_OUT}an image is missing"
IMAGE_UNREADABLE = f"{LEFT_OUT}an image cannot be read"

FractionOf = Literal["random", "first-lines"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One data set as it is asked for."""

    name: str  # "" where it stands alone
    annotation: Path
    root: Path  # folder that its image paths start from
    fraction: float = 1.0  # part of its lines, in (0, 1]
    repeats: int = 1
    max_tiles: int | None = None
    reencode: bool = False


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One data set as it is: what can be used, and what became of the rest."""

    source: Source
    account: Account
    faults: dict[str, np.ndarray]  # by reason, int64[n] the rows of the index that are left out
    fingerprint: str  # sha256 over the annotation file, the rows used, and their images' names and sizes in bytes


def open_source(
    wanted: Wanted,
    *,
    fraction_of: FractionOf = "random",
    seed: int = 0,
    missing: Literal["count", "stop"] = "count",
    checksums: bool = True,
    cache: Path | None = None,
    as_they_are: bool = False,
) -> Opened:
    """Find out about every line and every image that is asked for.

    Args:
        fraction_of: which lines a fraction below 1 takes: drawn, or as many from the top.
        seed: of the draw; of one seed, a larger fraction contains a smaller.
        missing: what an image does that is not on disk: its conversation is counted, or all stops.
        checksums: read every image file whole, so that damage is found later.
        cache: folder for what is found out; None: it is not kept.
        as_they_are: see `open_facts`.

    Raises:
        UserError: no such annotation file, nothing in it, a list that is not json; a missing image, if so asked.
    """
    index = open_index(wanted.annotation, cache)
    rows = shared_rows(len(index), wanted.fraction, fraction_of, derive(seed, "share", wanted.name))
    status = index.status[rows]
    faults = {reason: rows[status == 1 + number] for number, reason in enumerate(REASONS)}
    usable = rows[status == OK]
    owners, images = index.image_rows(usable)
    facts = open_facts(index, wanted.root, images, checksums=checksums, cache=cache, as_they_are=as_they_are)
    is_missing = _any_of(facts.status[images] == MISSING, owners, len(usable))
    is_unreadable = _any_of(facts.status[images] == UNREADABLE, owners, len(usable)) & ~is_missing
    faults |= {IMAGE_MISSING: usable[is_missing], IMAGE_UNREADABLE: usable[is_unreadable]}
    if missing == "stop" and is_missing.any():
        raise _images_missing(index, facts, faults[IMAGE_MISSING], wanted.root)
    is_used = ~is_missing & ~is_unreadable
    is_beyond = np.zeros(len(usable), bool)
    is_beyond[is_used] = [_lies_beyond(index, facts, row) for row in usable[is_used]]
    faults[OBJECTS] = np.sort(np.concatenate([faults[OBJECTS], usable[is_beyond]]))
    faults = {reason: at for reason, at in faults.items() if len(at)}
    is_used &= ~is_beyond
    rows_used, images_used = usable[is_used], np.unique(images[is_used[owners]])
    account = Account(
        name=wanted.name,
        annotation=wanted.annotation,
        lines=len(index),
        beyond=len(index) - len(rows),
        used=len(rows_used),
        repeats=wanted.repeats,
        left_out=_report(index, facts, faults),
        repaired=_report(index, facts, index.noted(rows_used)),
        counts=count(index, rows_used, len(images_used)),
    )
    digest = _fingerprint(index, facts, rows_used, images_used, wanted.repeats)
    sizes = facts.sizes_hw[images_used].astype("<i4").tobytes()
    source = Source(
        name=wanted.name,
        index=index.without_names(),
        facts=facts,
        root=wanted.root,
        rows=rows_used,
        repeats=wanted.repeats,
        max_tiles=wanted.max_tiles,
        reencode=wanted.reencode,
        identity=hashlib.sha256(f"{digest} {wanted.max_tiles}\n".encode() + sizes).hexdigest(),
    )
    return Opened(source=source, account=account, faults=faults, fingerprint=digest)


def shared_rows(num_rows: int, fraction: float, fraction_of: FractionOf, seed: int) -> np.ndarray:
    """int64[K] of `num_rows` rows, in order; K is `int(num_rows * fraction)`, as in the published code.

    The draw is numpy's PCG64 bit stream, which is the same in every version.
    """
    if fraction == 1:
        return np.arange(num_rows)
    kept = int(num_rows * fraction)
    if fraction_of == "first-lines":
        return np.arange(kept)
    draw = np.random.PCG64(seed).random_raw(num_rows)
    return np.sort(np.argsort(draw, kind="stable")[:kept])


def _lies_beyond(index: Index, facts: ImageFacts, row: int) -> bool:
    """Whether a box that is to be filled in does not lie in its image."""
    if not index.lacks_boxes[row]:
        return False
    try:
        index.talk(row).filled([facts.size_hw(image) for image in index.images_of(row)])
    except Defect:
        return True
    return False


def short(name: str) -> str:
    """An image's path as it is said; what is no path may be of any length."""
    return name if len(name) <= 120 else f"{name[:60]}... ({len(name):,} characters)"


def _any_of(is_so: np.ndarray, owners: np.ndarray, num_owners: int) -> np.ndarray:
    """bool[num_owners], whether it is so of anything they own: bool[K] and int64[K]."""
    found = np.zeros(num_owners, bool)
    found[owners[is_so]] = True
    return found


def _report(index: Index, facts: ImageFacts, rows_of: dict[str, np.ndarray]) -> IssueCounter:
    report = IssueCounter()
    for reason, rows in rows_of.items():
        effect: Effect = "left out" if reason.startswith(LEFT_OUT) else effect_of(reason)
        for row in rows[:3]:
            bad = [image for image in index.images_of(row) if facts.status[image] in (MISSING, UNREADABLE)]
            report.note(reason, f"{index.offsets.place(row)}{f': {short(index.name(bad[0]))}' if bad else ''}", effect)
        report.counts[reason] += max(0, len(rows) - 3)
    return replace(report, counts=+report.counts)


def count(index: Index, rows: np.ndarray, num_images: int | None = None) -> dict[str, int]:
    """See `Account.counts`; `num_images` if that is known."""
    return {
        "conversations": len(rows),
        "turns": int(index.turns[rows].sum()),
        "answers": int(index.answers[rows].sum()),
        "images": len(np.unique(index.image_rows(rows)[1])) if num_images is None else num_images,
    }


def _fingerprint(index: Index, facts: ImageFacts, rows: np.ndarray, images: np.ndarray, repeats: int) -> str:
    digest = hashlib.sha256(f"{index.digest} {repeats}\n".encode())
    digest.update(rows.astype("<i8").tobytes())
    # A sum, since nothing else of a million names is both quick and blind to their order.
    digest.update(facts.digests[images].sum(axis=0, dtype=np.uint64).astype("<u8").tobytes())
    return digest.hexdigest()


def _images_missing(index: Index, facts: ImageFacts, rows: np.ndarray, root: Path) -> UserError:
    gone = [image for image in np.unique(index.image_rows(rows)[1]) if facts.status[image] == MISSING]
    shown = ", ".join(short(index.name(image)) for image in gone[:3]) + (", ..." if len(gone) > 3 else "")
    what = f"{len(gone)} images are not on disk: {shown}"
    return UserError(what, where=index.offsets.whole_place(rows[0]), fix=f"images are sought from {root}")


def joined_fingerprint(opened: Sequence[Opened]) -> str:
    """sha256 over those of several data sets, in their order; of one data set, its own."""
    if len(opened) == 1:
        return opened[0].fingerprint
    return hashlib.sha256("\n".join(one.fingerprint for one in opened).encode()).hexdigest()
