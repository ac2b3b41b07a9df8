"""What is in a data set of boxes and what is wrong with it, found by the same walkers that read it for training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.beside_objects import label_reader
from vistruct.data.boxes import NOT_LEARNED, unlearned
from vistruct.data.checks.images import IN_TWO_SPLITS, decoded, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints
from vistruct.data.formats.boxes.objects import CLIPPED, OUTSIDE, ROUNDING_PX
from vistruct.data.formats.format import Walked
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

MANY = 0.2  # part of all boxes clipped or outside above which their layout is doubted
SAME_PX = 1.0  # edges that differ by no more are the same box drawn twice; also SAME_SHARE of its sides
SAME_SHARE = 0.02
IMPLAUSIBLE = 100.0  # times longer or shorter than its class's median side
ENOUGH = 20  # objects of a class that make a median

Found = dict[str, list[str]]  # places by what is found


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Numbers, hints and doubtful objects of a data set of boxes."""
    lists = {part.class_names for part in parts.walked.values() if part.class_names}
    class_names = next(iter(lists)) if len(lists) == 1 else tuple(sorted({name for names in lists for name in names}))
    walked = {name: replace(part, records=_renumbered(part, class_names)) for name, part in parts.walked.items()}
    parts = replace(parts, walked=walked)
    records = parts.records()
    paths = [record.images[0] for record in records]
    sizes, of_bands = decoded(paths[:decode_at_most], parts.errors, parts.part.intake)
    for part in walked.values():
        _read_label_maps(parts, part, decode_at_most)
    counts, classes = count_boxes(records, class_names)
    return Findings(
        counts={"images": len(paths), **counts, "images decoded": len(paths[:decode_at_most])},
        classes=classes,
        sizes=sizes_in_words(sizes.values()) | _object_sizes(records),
        problems=[
            *_hints(records, class_names, parts.report, parts.family.format),
            *_in_two_splits(parts.images()),
            *of_bands,
            *_unknown_in_train(parts.walked, class_names),
            *tiny_images(sizes),
        ],
    )


def _read_label_maps(parts: Parts, part: Walked, at_most: int | None) -> None:
    """Adds an error for every raster beside the objects that training would stop at, where it is told to read them."""
    if parts.part.label_maps != "files":
        return
    try:
        reader = label_reader("files", part, parts.part.intake, parts.family.path, parts.report)
    except UserError as error:
        parts.errors.append(error)
        return
    for record in part.records[:at_most]:
        try:
            reader(record)
        except UserError as error:
            parts.errors.append(error)


def _unknown_in_train(walked: Mapping[str, Walked], class_names: Sequence[str]) -> list[Problem]:
    """Classes with objects in another split and none in train: a run that measures on that split stops at them."""
    own = next((name for name in walked if name.lower().startswith("train")), None)
    known = {int(label) for record in (walked[own].records if own else ()) for label in record.objects.labels}
    found: list[str] = []
    for name, part in walked.items() if known else ():
        used = {int(label) for record in part.records for label in record.objects.labels} - known
        found += [f"{class_names[label]} ({name})" for label in sorted(used)]
    what = "class with objects in another split and none in train: measuring on that split stops"
    kept = ",".join(class_names[label] for label in sorted(known))
    return hints({what: found}, {what: f"--classes {kept}, which leaves out the others"})


def _renumbered(part: Walked, class_names: Sequence[str]) -> list[Record]:
    """Labels that count in the classes of all splits."""
    to = np.array([class_names.index(name) for name in part.class_names] or [-1], np.int64)
    return [record.with_columns(labels=to[record.objects.labels]) for record in part.records]


def count_boxes(records: Sequence[Record], class_names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of everything, and of the objects of each class."""
    labels: Counter[int] = Counter()
    for record in records:
        labels.update(record.objects.labels.tolist())
    counts = {
        "images without objects": sum(len(record.objects) == 0 for record in records),
        "objects": labels.total(),
        "crowds": sum(int(record.objects.is_crowd.sum()) for record in records),
        "difficult objects": sum(int(record.objects.is_difficult.sum()) for record in records),
        "classes": len(class_names),
    }
    kinds = {
        "oriented boxes": sum(len(record.objects.quads) for record in records if record.objects.quads is not None),
        "masks": sum(bool(mask) for record in records for mask in record.objects.masks or ()),
        "objects with key points": sum(
            int((points[..., 2] > 0).any(axis=1).sum())
            for points in (record.objects.keypoints for record in records)
            if points is not None
        ),
    }
    return counts | {name: count for name, count in kinds.items() if count}, {
        name: labels[number] for number, name in enumerate(class_names)
    }


def _in_two_splits(images: Mapping[str, Sequence[Path]]) -> list[Problem]:
    """Files that are annotated in two splits; that their contents are alike means nothing here: water is water."""
    seen: set[Path] = set()
    shared: list[str] = []
    for split, paths in images.items():
        shared += [f"{path} ({split})" for path in paths if path in seen]
        seen |= set(paths)
    return hints({IN_TWO_SPLITS: shared})


def _hints(records: Sequence[Record], class_names: Sequence[str], report: IssueCounter, format_: str) -> list[Problem]:
    """What training accepts and a person should look at."""
    classes = count_boxes(records, class_names)[1]
    found: Found = defaultdict(list)
    num_outside = report.counts[CLIPPED] + report.counts[OUTSIDE]
    num_boxes = sum(classes.values()) + report.counts[OUTSIDE]
    if num_boxes and num_outside > MANY * num_boxes:
        doubt = ": corners instead of [x, y, width, height]?" if format_ == "coco" else ": boxes of other images?"
        found[f"many boxes leave their image{doubt}"].append(f"{num_outside} of {num_boxes}")
    found["class without objects"] = [name for name, count in classes.items() if count == 0]
    not_learned = unlearned(records)
    found[NOT_LEARNED] = [class_names[label] for label in not_learned]
    found["classes that differ in capitals, spaces or hyphens only"] = alike(classes)
    for record in records:
        _look_at(record, class_names, found)
    found["object of implausible size for its class"] = [*_implausible(records, class_names)]
    problems = hints(found)
    if records and not any(classes.values()):
        fix = "annotate some objects"
        problems.append(Problem(what="no boxes are left", effect="stops training", count=1, fix=fix))
    elif records and len(not_learned) == sum(count > 0 for count in classes.values()):
        what, fix = "no object to learn from: all are crowds or ignored", "iscrowd 0 for those that are to be found"
        problems.append(Problem(what=what, effect="stops training", count=1, fix=fix))
    return problems


def alike(names: Sequence[str] | dict[str, int]) -> list[str]:
    """Names that differ in capitals, spaces or hyphens only, group by group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(letter for letter in name.lower() if letter not in "-_ \t")].append(name)
    return [" / ".join(repr(name) for name in group) for group in groups.values() if len(group) > 1]


def _look_at(record: Record, class_names: Sequence[str], found: Found) -> None:
    """The doubtful objects of one image."""
    objects = record.objects
    for one, other in _pairs(objects.boxes_xyxy, objects.quads):
        if objects.is_crowd[one] or objects.is_crowd[other]:
            continue
        first, second = class_names[objects.labels[one]], class_names[objects.labels[other]]
        if first == second:
            found["the same box drawn twice"].append(f"{_place(record, one)}: {first}")
        else:
            found["the same box with two classes"].append(f"{_place(record, one)}: {first} and {second}")
    sides = objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]
    is_thin = (sides < 1).any(axis=1)
    if objects.quads is not None:
        lengths = np.linalg.norm(objects.quads - np.roll(objects.quads, -1, axis=1), axis=2)  # [N, 4]
        is_thin |= (lengths < 1).sum(axis=1) >= 2
        touching = ((lengths <= ROUNDING_PX).any(axis=1)) & ~is_thin
        found["oriented box of three corners, two being at one place"] += [
            _place(record, number) for number in np.flatnonzero(touching)
        ]
        if record.size_hw is not None:
            height, width = record.size_hw
            is_cut = (objects.quads < -ROUNDING_PX).any(axis=(1, 2))
            is_cut |= (objects.quads > np.array([width, height]) + ROUNDING_PX).any(axis=(1, 2))
            found["oriented box over the border of its image, as annotated"] += [
                _place(record, number) for number in np.flatnonzero(is_cut)
            ]
    found["object thinner than one pixel"] += [_place(record, number) for number in np.flatnonzero(is_thin)]


def _pairs(boxes: np.ndarray, quads: np.ndarray | None) -> Iterator[tuple[int, int]]:
    """Objects whose outlines are the same but for a little; every pair once.

    Boxes are looked at in the order of their left edges, so that only neighbours in it need comparing.
    """
    order = np.argsort(boxes[:, 0], kind="stable")
    boxes = boxes[order]
    outline = boxes if quads is None else np.concatenate([boxes, _sorted_corners(quads)[order]], axis=1)
    tolerance = np.minimum(SAME_PX, SAME_SHARE * (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf))
    for step in range(1, len(boxes)):
        near = boxes[step:, 0] - boxes[:-step, 0] <= tolerance[:-step]
        if not near.any():
            return
        same = near & (np.abs(outline[step:] - outline[:-step]).max(axis=1) <= tolerance[:-step])
        for number in np.flatnonzero(same):
            one, other = sorted((int(order[number]), int(order[number + step])))
            yield one, other


def _sorted_corners(quads: np.ndarray) -> np.ndarray:
    """float[N, 8] that does not depend on the corner which comes first, nor on the direction."""
    keys = quads[..., 0] * 3 + quads[..., 1]
    order = np.argsort(keys, axis=1, kind="stable")
    return np.take_along_axis(quads, order[..., None], axis=1).reshape(-1, 8)


def _implausible(records: Sequence[Record], class_names: Sequence[str]) -> Iterator[str]:
    """Objects much larger or smaller than the others of their class."""
    boxes = [record.objects.boxes_xyxy for record in records]
    sides = [np.sqrt(np.prod(own[:, 2:] - own[:, :2], axis=1)) for own in boxes]
    if not sides:
        return
    all_sides, all_labels = np.concatenate(sides), np.concatenate([record.objects.labels for record in records])
    medians = np.full(len(class_names), np.nan)
    for label in np.unique(all_labels):
        own = all_sides[all_labels == label]
        medians[label] = np.median(own) if len(own) >= ENOUGH else np.nan
    for record, own in zip(records, sides, strict=True):
        ratio = own / medians[record.objects.labels]  # NaN where there is no median
        for number in np.flatnonzero((ratio > IMPLAUSIBLE) | (ratio < 1 / IMPLAUSIBLE)):
            name = class_names[record.objects.labels[number]]
            yield f"{_place(record, number)}: {name}, {own[number]:.4g} pixels a side"


def _place(record: Record, number: int | np.integer) -> str:
    x0, y0, x1, y1 = record.objects.boxes_xyxy[number]
    return f"{record.id}: object {number} at {x0:.6g}, {y0:.6g} to {x1:.6g}, {y1:.6g}"


def _object_sizes(records: Sequence[Record]) -> dict[str, str]:
    sides = [
        record.objects.boxes_xyxy[:, 2:] - record.objects.boxes_xyxy[:, :2]
        for record in records
        if len(record.objects.boxes_xyxy)
    ]
    if not sides:
        return {}
    side = np.sqrt(np.prod(np.concatenate(sides), axis=1))
    return {"object side, pixels": f"{side.min():.1f} to {side.max():.1f}, median {np.median(side):.1f}"}
