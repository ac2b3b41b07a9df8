"""YOLO text labels: one object a line, its class by number, everything in shares of the image's width and height.

    3 0.51 0.43 0.10 0.20                        class, centre x and y, width, height
    3 0.46 0.33 0.56 0.35 0.55 0.53 0.45 0.51    class, four corners: an oriented box (YOLO-OBB)
    3 0.46 0.33 0.56 0.35 0.55 0.53              class, three or more points: a mask

Rows of four corners are oriented boxes, unless other rows show that the data set is of masks, or masks are wanted; as
`yolo-obb` they are oriented boxes, as `yolo-masks` outlines. As `yolo-conf` they are of a detector, with a score
behind each that is not read. Boxes among outlines are boxes, and where masks are wanted an error; boxes among rows of
four corners are a question. With `kpt_shape` in its yaml every row is a box with key
points behind it. `yolo_find` says where the files may lie. Coordinates are written with nine decimals: 2e-5 pixels of
an image of 20,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from vistruct.data.formats.boxes.coco_walk import NO_MASK
from vistruct.data.formats.boxes.image_names import ImageFolder
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, ImageObjects
from vistruct.data.formats.boxes.places import below
from vistruct.data.formats.boxes.yolo_find import (
    YoloLayout,
    find_layout,
    images_of,
    label_file,
    looks_like,
    swapped_file,
)
from vistruct.data.formats.boxes.yolo_rows import Four, Kind, Labels, add, kind_of, read_rows
from vistruct.data.formats.boxes.yolo_write import join, write, write_oriented
from vistruct.data.formats.format import Ask, Format, Stop, Walked, Writer
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter

NO_LABELS = "image without a label file: taken as one without objects"
NO_IMAGE = "label file left out: no image of its name"
UPRIGHT = "box among oriented ones: taken as upright"
HULL = "outline among boxes: a detector without masks takes its hull"
NO_NAMES = "class without a name: taken by its number"


def splits(path: Path) -> tuple[str, ...]:
    """The names of the splits of a data set."""
    return tuple(find_layout(path).splits)


def walk(
    path: Path, ask: Ask, report: IssueCounter, stop: Stop, *, four: Four = "auto", has_scores: bool = False
) -> Walked:
    """Read a split of a yaml, of a darknet file, or of the folder of a data set.

    A folder of images that is asked for takes the place of the split's; its labels are beside it, or in the data set.
    """
    layout = find_layout(path, ask.images)
    places, listed = _listed(path, layout, ask)
    files = _opened(listed, path, report, stop, ask)
    for one in files:
        one.rows = read_rows(one.file, layout, stop, has_scores=has_scores)
    kind = kind_of(files, layout, four, ask.masks, stop)
    _count_mixed(files, kind, report)
    for one in files:
        for row in one.rows:
            add(one, row, kind, layout, report)
    _count_lonely_labels(places, files, report)
    class_names = layout.class_names
    if class_names is None:
        used = sorted({row.label for one in files for row in one.objects.rows})
        class_names = tuple(str(number) for number in range(max(used, default=-1) + 1))
        for number in used:
            report.note(NO_NAMES, f"{path}: class {number}", "repaired")
    num_points = layout.keypoint_shape[0] if layout.keypoint_shape else 0
    is_oriented, has_masks = kind == "oriented box", kind == "mask"
    records = [
        one.objects.record(is_oriented=is_oriented, has_masks=has_masks, num_keypoints=num_points) for one in files
    ]
    return Walked(records=records, class_names=class_names)


def _listed(path: Path, layout: YoloLayout, ask: Ask) -> tuple[tuple[Path, ...], list[tuple[str, Path, Path | None]]]:
    """The folders and lists of a split; and of each image its name, its file, and its labels where they are elsewhere.

    Raises:
        UserError: no such split, or nothing there.
    """
    if ask.images is None:
        names = chosen(ask.split, layout.splits, path)
        places = tuple(place for name in names for place in layout.splits[name])
        return places, [(name, image, None) for name, image in images_of(places)]
    known = ask.split is not None or len(layout.splits) == 1
    names = chosen(ask.split, layout.splits, path) if known else []
    own = [place for name in names for place in layout.splits[name] if place != ask.images]
    lists = [place for place in own if place.is_file()]
    if lists:
        folder = ImageFolder(ask.images, is_named=True)
        return (), [(n, folder.find(n) or ask.images / n, label_file(image)) for n, image in images_of(lists)]
    places = below(ask.images, ask.split)
    root = path if path.is_dir() else path.parent
    found: list[tuple[str, Path, Path | None]] = []
    for name, image in images_of(places):
        text = Path(name).with_suffix(".txt")
        homes = [swapped_file(place / name) for place in own] + [root / text, root / "labels" / text]
        found.append((name, image, next((home for home in homes if home.is_file()), None)))
    return places, found


def _opened(
    listed: list[tuple[str, Path, Path | None]],
    path: Path,
    report: IssueCounter,
    stop: Stop,
    ask: Ask,
) -> list[Labels]:
    """The images with their sizes; those that are not there, or no images, are said."""
    files: list[Labels] = []
    absent = [image for _, image, _ in listed if not image.is_file()]
    if not listed:
        stop(UserError("no images here", where=path, fix="check where the images are"))
    elif absent and ask.missing == "stop":
        shown = ", ".join(str(image) for image in absent[:3]) + (", ..." if len(absent) > 3 else "")
        where = f"{path}: {len(absent)} of {len(listed)}: {shown}"
        stop(UserError("images that are not on disk", where=where, fix=WHERE_IMAGES))
    elif len(absent) == len(listed):
        stop(UserError("none of the images is on disk", where=path, fix=WHERE_IMAGES))
    gone = set(absent)
    owner: dict[Path, str] = {}
    for name, image, elsewhere in listed:
        if image in gone:
            if ask.missing == "drop":
                report.note(MISSING_IMAGE, str(image))
            continue
        try:
            size_hw = image_size(image)
            file = elsewhere or label_file(image)
        except UserError as error:
            stop(error)
            continue
        if file in owner:
            where = f"{file}: {owner[file]}, {name}"
            stop(UserError("two images have the same label file", where=where, fix="rename one of them"))
            continue
        owner[file] = name
        if not file.is_file():
            report.note(NO_LABELS, name, "kept")
        files.append(Labels(ImageObjects(name, image, size_hw, as_written=ask.as_written), file))
    return files


def _count_mixed(files: list[Labels], kind: Kind, report: IssueCounter) -> None:
    """Boxes among rows of another kind; they stay."""
    reason = {"mask": NO_MASK, "oriented box": UPRIGHT}.get(kind)
    boxes = [f"{one.file}, line {row.number}" for one in files for row in one.rows if len(row.values) == 4]
    for place in boxes if reason is not None else ():
        report.note(reason or "", place, "kept")
    if boxes and kind == "mask":
        for place in (f"{one.file}, line {row.number}" for one in files for row in one.rows if len(row.values) > 4):
            report.note(HULL, place, "kept")


def _count_lonely_labels(places: Sequence[Path], files: Sequence[Labels], report: IssueCounter) -> None:
    expected = {one.file for one in files}
    for place in places:
        folder = swapped_file(place / "x.jpg").parent
        if place.is_dir() and folder != place and folder.is_dir():
            for file in sorted(folder.rglob("*.txt")):
                if file not in expected and file.name != "classes.txt":
                    report.note(NO_IMAGE, str(file))


FORMAT = Format(
    kind="boxes", looks_like=looks_like, splits=splits, walk=walk, writer=Writer(write=write, join=join, masks=True)
)
ORIENTED = replace(
    FORMAT, walk=partial(walk, four="oriented"), writer=Writer(write=write_oriented, join=join, quads=True)
)
MASKS = replace(FORMAT, walk=partial(walk, four="masks"), writer=None)
SCORED = replace(FORMAT, walk=partial(walk, has_scores=True), writer=None)
