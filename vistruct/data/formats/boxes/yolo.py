"""YOLO text labels: one object a line, its class by number, everything in shares of the image's width and height.

    3 0.51 0.43 0.10 0.20                        class, centre x and y, width, height
    3 0.46 0.33 0.56 0.35 0.55 0.53 0.45 0.51    class, four corners: an oriented box (YOLO-OBB)
    3 0.46 0.33 0.56 0.35 0.55 0.53              class, three or more points: a mask

A data set is of one of these kinds. Rows of four corners are oriented boxes, unless other rows show that the data set
is of masks. With `kpt_shape` in its yaml every row is a box with key points behind it. `yolo_find` says where the
files may lie. Coordinates are written with nine decimals: 2e-5 pixels of an image of 20,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vistruct.data.formats.boxes.objects import MISSING_IMAGE, ImageObjects
from vistruct.data.formats.boxes.yolo_find import find_layout, images_of, label_file, looks_like
from vistruct.data.formats.boxes.yolo_rows import Labels, add, kind_of, read_rows
from vistruct.data.formats.boxes.yolo_write import write, write_oriented
from vistruct.data.formats.format import Ask, Format, Stop, Walked, Writer
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter

NO_LABELS = "image without a label file: taken as one without objects"
NO_IMAGE = "label file left out: no image of its name"
NO_NAMES = "class without a name: taken by its number"


def splits(path: Path) -> tuple[str, ...]:
    """The names of the splits of a data set."""
    return tuple(find_layout(path).splits)


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """Read a split of a yaml, or of the folder of a data set.

    A folder of images that is asked for takes the place of the split's; its labels are beside it as always.
    """
    layout = find_layout(path)
    known = layout.splits
    names = [] if ask.images is not None else chosen(ask.split, known, path)
    places = (ask.images,) if ask.images is not None else tuple(place for name in names for place in known[name])
    listed = images_of(places)
    files = _opened(listed, path, report, stop, ask.missing)
    for one in files:
        one.rows = read_rows(one.file, layout, stop)
    kind = kind_of(files, layout, stop)
    for one in files:
        for row in one.rows:
            add(one, row, kind, layout, report)
    _count_lonely_labels(places, listed, report)
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


def _opened(
    listed: list[tuple[str, Path]], path: Path, report: IssueCounter, stop: Stop, missing: Literal["stop", "drop"]
) -> list[Labels]:
    """The images with their sizes; those that are not there, or no images, are said."""
    files: list[Labels] = []
    absent = [image for _, image in listed if not image.is_file()]
    if not listed:
        stop(UserError("no images here", where=path, fix="check where the images are"))
    elif absent and missing == "stop":
        shown = ", ".join(str(image) for image in absent[:3]) + (", ..." if len(absent) > 3 else "")
        what = f"{len(absent)} of {len(listed)} images are not on disk: {shown}"
        stop(UserError(what, where=path, fix="say where the image folder is, or leave missing images out"))
    elif len(absent) == len(listed):
        stop(UserError("none of the images is on disk", where=path, fix="say where the image folder is"))
    gone = set(absent)
    owner: dict[Path, str] = {}
    for name, image in listed:
        if image in gone:
            if missing == "drop":
                report.note(MISSING_IMAGE, str(image))
            continue
        try:
            size_hw = image_size(image)
        except UserError as error:
            stop(error)
            continue
        file = label_file(image)
        if file in owner:
            what = f"the images {owner[file]} and {name} have the same label file"
            stop(UserError(what, where=file, fix="rename one of them"))
            continue
        owner[file] = name
        if not file.is_file():
            report.note(NO_LABELS, name, "kept")
        files.append(Labels(ImageObjects(name, image, size_hw), file))
    return files


def _count_lonely_labels(places: Sequence[Path], listed: list[tuple[str, Path]], report: IssueCounter) -> None:
    expected = {label_file(image) for _, image in listed}
    for place in places:
        folder = label_file(place / "x.jpg").parent
        if place.is_dir() and folder != place and folder.is_dir():
            for file in sorted(folder.rglob("*.txt")):
                if file not in expected and file.name != "classes.txt":
                    report.note(NO_IMAGE, str(file))


FORMAT = Format(kind="boxes", looks_like=looks_like, splits=splits, walk=walk, writer=Writer(write=write, masks=True))
ORIENTED = replace(FORMAT, writer=Writer(write=write_oriented, quads=True))  # read alike, written otherwise
