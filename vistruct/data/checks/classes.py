"""What is in a data set of image classes and what is wrong with it, by the walkers that read it for training.

The traps that go unnoticed elsewhere: the same image in two splits or in two classes (by content, whatever its name), a
class without images, classes that differ in capitals only, one class alone, class imbalance, files that
are no images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vistruct.contracts import Record
from vistruct.data.checks.boxes import alike
from vistruct.data.checks.images import decoded, same_in_two, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints
from vistruct.data.twins import same_files

UNBALANCED = 20.0  # times as many images in the largest class as in the smallest
FEW = 5  # images of a class
SAME_TWICE = "the same image twice, under two names"
SAME_OTHERWISE = "the same image with two classes"


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Numbers, hints and twins of a data set of image classes. Contents are compared in any case."""
    class_names = next((part.class_names for part in parts.walked.values() if part.class_names), ())
    records = parts.records()
    counts: Counter[int] = Counter(label for record in records for label in record.image_labels or ())
    classes: dict[str, int] = {name: counts[number] for number, name in enumerate(class_names)}
    several = sum(len(record.image_labels or ()) > 1 for record in records)
    some = list(dict.fromkeys(record.images[0] for record in records))[:decode_at_most]
    sizes, of_bands = decoded(some, parts.errors, parts.part.intake)
    return Findings(
        counts={
            "images": len(records),
            "classes": len(class_names),
            **{f"images of {name}": len(part.records) for name, part in parts.walked.items() if name},
            **({"images of several classes": several} if several else {}),
            "images decoded": len(some),
        },
        classes=classes,
        sizes=sizes_in_words(sizes.values()),
        problems=[
            *of_bands,
            *_hints(records, classes, several > 0),
            *_twins(records, class_names),
            *same_in_two(parts.images()),
            *tiny_images(sizes),
        ],
    )


def _hints(records: Sequence[Record], classes: Mapping[str, int], is_several: bool) -> list[Problem]:
    """What training accepts and a person should look at."""
    if not records:
        return [Problem(what="no images are left", effect="stops training", count=1, fix="see the lines above")]
    found: dict[str, list[str]] = {}
    fixes: dict[str, str] = {}
    present = {name: number for name, number in classes.items() if number}
    if len(classes) == 1 and not is_several:
        what = f"all images have one class, {next(iter(classes))!r}: there is nothing to tell apart"
        found[what], fixes[what] = [""], "name the folder that holds the classes' folders"
    if present and max(present.values()) > UNBALANCED * min(present.values()):
        least, most = min(present, key=lambda name: present[name]), max(present, key=lambda name: present[name])
        what = f"class imbalance: {most!r} has {present[most]} images, {least!r} {present[least]}"
        found[what], fixes[what] = [""], "look at mAcc and mF1 beside OA"
    few = [f"{name}: {number}" for name, number in present.items() if number < FEW]
    found[f"class of fewer than {FEW} images"] = few
    found["classes that differ in capitals, spaces or hyphens only"] = alike(list(classes))
    return hints(found, fixes)


def _twins(records: Sequence[Record], class_names: Sequence[str]) -> list[Problem]:
    """Files of the same bytes, of one class or of two."""
    by_file = {record.images[0]: record for record in records if record.images[0].is_file()}
    found: dict[str, list[str]] = {SAME_OTHERWISE: [], SAME_TWICE: []}
    for record, seen in ((by_file[one], by_file[other]) for one, other in same_files(list(by_file)).items()):
        if seen.image_labels == record.image_labels:
            found[SAME_TWICE].append(f"{record.id} is {seen.id}")
        else:
            one, other = ("+".join(class_names[label] for label in of.image_labels or ()) for of in (record, seen))
            found[SAME_OTHERWISE].append(f"{record.id} ({one}) is {seen.id} ({other})")
    return hints(found)
