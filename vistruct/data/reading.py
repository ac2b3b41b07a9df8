"""How a data set is to be read, in the words that every command takes: two groups of options, told once.

`vistruct check`, `show`, `convert`, `eval`, `train RECIPE` and `predict` take the fields of these groups as options of
the same names (`recipes/options.py`, `cli/groups.py`), so that what one of them was told can be told to the others.
`data/at_path.py` turns them into a part of a run. Nothing heavy is imported here: `--help` reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from vistruct.errors import UserError

Named = NewType("Named", str)  # NAME=VALUE, about one of several things; an option that takes them is repeated


def _told(default: Any, help: str) -> Any:
    """A field with the sentence that `--help` says of it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which files are the data set, which of its classes are wanted, and what its labels mean."""

    format: str = _told("auto", "Which format, or module:NAME; images: without labels; found by itself.")
    images: str | None = _told(None, "Folder of the images, if they are not where they belong.")
    labels: str | None = _told(None, "Label maps: folder of the masks, if it is not where it belongs.")
    image_suffix: str | None = _told(None, "Label maps: how image names end, without the part that masks share.")
    label_suffix: str | None = _told(None, "Label maps: how mask names end.")
    classes: tuple[str, ...] | None = _told(None, "Class names in order: these and no others, or those of the values.")
    join: tuple[Named, ...] = _told((), "NEW=OLD,OLD: classes that become one; repeat. NEW=OLD renames.")
    drop: tuple[str, ...] = _told((), "Classes that are left out.")
    class_field: str | None = _told(
        None, "Boxes of a GeoJSON, VIA or a table: the field (column) of their classes; none: one class for all."
    )
    values: tuple[int, ...] | None = _told(None, "Label maps: the mask value of each of --classes.")
    ignored: tuple[int, ...] | None = _told(None, "Label maps: mask values that are neither learned nor counted.")
    threshold: int | None = _told(
        None, "Label maps of two classes: the second from this value on, as JPEGs need it: 128."
    )
    coordinates: Literal["checked", "ignored"] = _told(
        "checked", "Label maps: ignored, if masks or second images lie elsewhere on the map and are right all the same."
    )
    fill: Literal["masks", "boxes"] = _told("masks", "Label maps of annotated objects: what is painted.")
    label_maps: Literal["none", "files", "painted"] = _told(
        "none", "Boxes: with the class of every pixel beside them, from the format's own files or painted from objects."
    )
    modalities: tuple[str, ...] | None = _told(None, "Volumes: which become the channels, in order.")
    label_grid: Literal["header", "image"] = _told("header", "Volumes: where labels lie; image: as its array does.")
    missing: Literal["stop", "drop"] = _told("stop", "What an image (or label) that is not on disk does.")

    def joined(self) -> dict[str, tuple[str, ...]]:
        """`join`, by the new name.

        Raises:
            UserError: one without an equals sign, a name twice, a class that goes to two.
        """
        found: dict[str, tuple[str, ...]] = {}
        for text in self.join:
            new, is_one, old = text.partition("=")
            names = tuple(name.strip() for name in old.split(",") if name.strip())
            if not (is_one and new.strip() and names):
                raise UserError(f"--join {text}", where="--join", fix="--join vehicle=car,truck")
            if new.strip() in found:
                fix = f"--join {new.strip()}={','.join((*found[new.strip()], *names))}"
                raise UserError(f"{new.strip()!r} is said twice", where="--join", fix=fix)
            found[new.strip()] = names
        for name in _twice(name for names in found.values() for name in names):
            raise UserError(f"class {name!r} goes to two", where="--join", fix="name it once")
        return found


@dataclass(frozen=True, kw_only=True)
class PixelValues:
    """What becomes of the values of images that are not colours of 8 bits."""

    bands: tuple[int, ...] | None = _told(None, "Of files of many bands, from 1, in the order of the channels.")
    low: tuple[float, ...] = _told((), "Value that becomes 0, of all bands or of each.")
    high: tuple[float, ...] = _told((), "Value that becomes full scale.")
    percentiles: tuple[float, float] | None = _told(None, "Of each image or volume, in their place: 1,99.")
    window: str | None = _told(None, "Name of a CT window, in their place.")
    dtype: Literal["uint8", "uint16", "float32"] = _told(
        "uint16", "What a range becomes; float32 without a range: values in the unit of the files."
    )


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How sets of images without labels are put together, and which of them are measured on."""

    mix: tuple[float, ...] | None = _told(None, "Of each of --data, its part of an epoch; none: every image once.")
    groups: str = _told("none", "What is of one patient or scene stays on one side: folder, or such as '^([^_]+)_'.")
    train_fraction: float | None = _told(None, "Part of the images or groups drawn for training, the rest measured on.")


@dataclass(frozen=True, kw_only=True)
class Worded:
    """Which CLIP a public file is of, and how classes are put into words for it."""

    model: str | None = _told(None, "A CLIP's file: NAME or NAME/TAG in open_clip, or a json of its configuration.")
    templates: str = _told("openai", "A CLIP's: openai (80 of them), a file of lines, or one with {} for the name.")
    texts: str | None = _told(None, "A CLIP's: csv of a class and what it is called in texts; or imagenet, of wnids.")
    size: int | None = _told(None, "A CLIP's: pixels of images, in place of its own.")


AS_USUAL, EACH_ONCE = Worded(), Mixing()
DESCRIBE = "Describe this image in one sentence."  # what a model with language is asked of images with captions
AS_FOUND, AS_THEY_ARE = Reading(), PixelValues()  # nothing was said


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
