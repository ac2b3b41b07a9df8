"""What is in a data set of image classes and what is wrong with it, by the walkers that read it for training.

The traps that go unnoticed elsewhere: the same image in two splits or in two classes (by content, whatever its name), a
class without images, classes that differ in capitals only, one class alone, classes of very different sizes, files that
are no images.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.checks.boxes import alike
from vistruct.data.checks.images import decoded_rasters, same_in_two, sizes_in_words, tiny_images
from vistruct.data.checks.problem import Problem, counted, stops
from vistruct.data.formats.detect import splits_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import walk
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

UNBALANCED = 20.0  # times as many images in the largest class as in the smallest
FEW = 5  # images of a class
SAME_TWICE = "the same image twice, under two names"
SAME_OTHERWISE = "the same image with two classes"


def look(
    path: Path, format: str, split: str | None, decode_at_most: int | None
) -> tuple[dict[str, int], dict[str, int], list[Problem], dict[str, str]]:
    """Everything in a data set of image classes; nothing in it is raised at.

    Args:
        split: None: all that there are.
        decode_at_most: how many images to decode; None: all. Contents are compared in any case.

    Returns:
        counts; images by class; problems; sizes in words.
    """
    errors: list[UserError] = []
    report = IssueCounter(keep=10**9)
    parts: dict[str, list[Record]] = {}
    class_names: tuple[str, ...] = ()
    for name in (split,) if split is not None else _splits(path, format, errors) or (None,):
        ask = Ask(split=name, missing="stop", multi_label=True)
        part = walk(path, "image_classes", format, ask, report, errors.append)
        class_names = part.class_names or class_names
        parts[name or ""] = part.records
    records = list({record.images: record for part in parts.values() for record in part}.values())
    counts: Counter[int] = Counter(label for record in records for label in record.image_labels or ())
    classes: dict[str, int] = {name: counts[number] for number, name in enumerate(class_names)}
    several = sum(len(record.image_labels or ()) > 1 for record in records)
    some = list(dict.fromkeys(record.images[0] for record in records))
    sizes, of_bands = decoded_rasters(some[:decode_at_most], errors)
    numbers = {
        "images": len(records),
        "classes": len(class_names),
        **{f"images of {name}": len(part) for name, part in parts.items() if name},
        **({"images of several classes": several} if several else {}),
        "images decoded": len(some[:decode_at_most]),
    }
    problems = [
        *stops(_once(errors)),
        *counted(report),
        *of_bands,
        *_hints(records, classes, several > 0),
        *_twins(records, class_names),
        *same_in_two({name: [record.images[0] for record in part] for name, part in parts.items()}),
        *tiny_images(sizes),
    ]
    return numbers, classes, problems, sizes_in_words(sizes.values())


def _splits(path: Path, format: str, errors: list[UserError]) -> tuple[str, ...]:
    """Those that together are the data set."""
    try:
        names = splits_of(path, format)
    except UserError as error:
        errors.append(error)
        return ()
    return tuple(name for name in names if name != "trainval" or not {"train", "val"} <= set(names))


def _once(errors: Sequence[UserError]) -> list[UserError]:
    """What every split complains of in the same words and place, once."""
    return list({(error.what, error.where): error for error in errors}.values())


def _hints(records: Sequence[Record], classes: Mapping[str, int], is_several: bool) -> list[Problem]:
    """What training accepts and a person should look at."""
    hints: list[Problem] = []
    if not records:
        return [Problem(what="no images are left", effect="stops training", count=1, fix="see the lines above")]
    present = {name: number for name, number in classes.items() if number}
    if len(classes) == 1 and not is_several:
        what = f"all images have one class, {next(iter(classes))!r}: there is nothing to tell apart"
        hints.append(Problem(what=what, effect="kept", count=1, fix="name the folder that holds the classes' folders"))
    if present and max(present.values()) > UNBALANCED * min(present.values()):
        least, most = min(present, key=lambda name: present[name]), max(present, key=lambda name: present[name])
        what = f"classes of very different sizes: {most!r} has {present[most]} images, {least!r} {present[least]}"
        hints.append(Problem(what=what, effect="kept", count=1, fix="look at mAcc and mF1 beside OA"))
    few = tuple(f"{name}: {number}" for name, number in present.items() if number < FEW)
    if few:
        hints.append(Problem(what=f"class of fewer than {FEW} images", effect="kept", count=len(few), places=few))
    pairs = tuple(alike(list(classes)))
    if pairs:
        what = "classes that differ in capitals, spaces or hyphens only"
        hints.append(Problem(what=what, effect="kept", count=len(pairs), places=pairs))
    return hints


def _twins(records: Sequence[Record], class_names: Sequence[str]) -> list[Problem]:
    """Files of the same bytes, of one class or of two. Only those of one size are read."""
    by_size: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.images[0].is_file():
            by_size[record.images[0].stat().st_size].append(record)
    found: dict[str, list[str]] = {SAME_OTHERWISE: [], SAME_TWICE: []}
    for same_size in by_size.values():
        first: dict[bytes, Record] = {}
        for record in same_size if len(same_size) > 1 else ():
            seen = first.setdefault(hashlib.sha256(record.images[0].read_bytes()).digest(), record)
            if seen is record:
                continue
            if seen.image_labels == record.image_labels:
                found[SAME_TWICE].append(f"{record.id} is {seen.id}")
            else:
                one, other = ("+".join(class_names[label] for label in of.image_labels or ()) for of in (record, seen))
                found[SAME_OTHERWISE].append(f"{record.id} ({one}) is {seen.id} ({other})")
    return [
        Problem(what=what, effect="kept", count=len(places), places=tuple(places))
        for what, places in found.items()
        if places
    ]
