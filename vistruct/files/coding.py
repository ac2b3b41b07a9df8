"""What the numbers or colours in a label raster mean.

Source of the traps: in MMSegmentation, a raster of 0 and 255 read as classes has 254 classes that never occur, and
`reduce_zero_label` turns 0 into "not counted". Here a class is said by its value or colour, and a value that nobody
said is an error that names the file.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import IGNORED, RGB
from vistruct.errors import UserError

_MOST = 65535  # that a PNG has room for
SHOWN = "`vistruct check DATA` shows what values there are; beside objects, with --label-maps files"


class Coding(Part):
    """Classes in their order, and how a raster writes each."""

    classes: tuple[str, ...] = Field(min_length=1)
    values: tuple[int, ...] | None = None  # raster value of each class; None: 0, 1, 2, ... (unless colours say it)
    colours: tuple[RGB, ...] | None = None  # raster colour of each class, where it is written in colour
    more: dict[str, tuple[int | RGB, ...]] = Field({})  # further values or colours of a class: classes that were joined
    ignored: tuple[int, ...] = (255,)  # values that are neither learned nor counted
    ignored_colours: tuple[RGB, ...] = ()
    others: str = "stop"  # what a value that nobody said does: stop, or ignored
    threshold: int | None = None  # of two classes: values from here on are the second (lossy files), whatever else
    palette: tuple[RGB, ...] | None = None  # colours to draw classes in; None: `colours`, else our own

    @model_validator(mode="after")
    def _fits(self) -> Coding:
        for name, given in {"values": self.values, "colours": self.colours, "palette": self.palette}.items():
            if given is not None and len(given) != len(self.classes):
                what = f"{len(given)} {name} for {len(self.classes)} classes"
                raise UserError(what, where="coding", fix="one for each class, in their order")
        if self.threshold is not None and len(self.classes) != 2:
            raise UserError("a threshold tells two classes apart", where="coding", fix="two classes, or no threshold")
        if self.others not in ("stop", "ignored"):
            raise UserError(f"others={self.others!r}", where="coding", fix="stop or ignored")
        return self

    @property
    def shown(self) -> tuple[RGB, ...] | None:
        """Colours of the data set itself, if it has any."""
        return self.palette or self.colours

    @property
    def written(self) -> Coding:
        """A coding that `decode` of this one reads, and in which every class and a pixel of none can be written: one
        value a class, and values that nothing else has for what has none."""
        if self.colours is not None:
            free = ((grey, grey, grey) for grey in range(256) if (grey, grey, grey) not in (self.colours or ()))
            none = self.ignored_colours[:1] or (next(free),)
            return Coding(classes=self.classes, colours=self.colours, ignored_colours=none, palette=self.palette)
        values = self.values if self.values is not None else tuple(range(len(self.classes)))
        if self.threshold is not None:
            values = (0, max(255, self.threshold))
        if max(values) > _MOST:
            values = tuple(range(len(self.classes)))
        taken = {*values, *(one for more in self.more.values() for one in more)}
        spare = (one for one in (*self.ignored, *range(255, -1, -1), *range(_MOST, 255, -1)) if one not in taken)
        unused = iter(dict.fromkeys(one for one in spare if 0 <= one <= _MOST))
        none = next(unused)
        values = tuple(value if value >= 0 else next(unused) for value in values)
        return Coding(classes=self.classes, values=values, ignored=(none,), palette=self.palette)

    @property
    def in_numbers(self) -> Coding:
        """As `written`, of colours too: numbers of the classes in their place."""
        return self.written if self.colours is None else Coding(classes=self.classes).written

    def decode(self, raster: np.ndarray, where: object) -> np.ndarray:
        """int16[H, W] classes (or IGNORED) of an integer[H, W] or uint8[H, W, 3] raster.

        Raises:
            UserError: a value or colour that no class has, unless `others` are ignored; colours where numbers are
                meant, or the other way round.
        """
        is_colour = raster.ndim == 3
        if self.threshold is not None:
            grey = raster.max(axis=2) if is_colour else raster
            return (grey >= self.threshold).astype(np.int16)
        if is_colour and self.colours is None and (raster == raster[..., :1]).all():
            raster, is_colour = raster[..., 0], False  # numbers, written three times
        if is_colour != (self.colours is not None):
            found, meant = ("colours", "numbers") if is_colour else ("numbers", "colours")
            raise UserError(f"labels written in {found}, and {meant} are meant", where=where, fix=f"coding.{found}")
        if is_colour:
            numbers = raster.astype(np.int64) @ np.array([65536, 256, 1])
            values = [_packed(colour) for colour in self.colours or ()]
            ignored = [_packed(colour) for colour in self.ignored_colours]
        else:
            numbers, ignored = raster, list(self.ignored)
            values = list(self.values) if self.values is not None else list(range(len(self.classes)))
        found, inverse = np.unique(numbers, return_inverse=True)
        known = {value: IGNORED for value in ignored} | {value: number for number, value in enumerate(values)}
        for name, more in self.more.items():
            known |= {one if isinstance(one, int) else _packed(one): self.classes.index(name) for one in more}
        strange = [int(value) for value in found if int(value) not in known]
        if strange and self.others == "stop":
            text = ", ".join(f"#{value:06x}" if is_colour else str(value) for value in strange[:5])
            more = ", ..." if len(strange) > 5 else ""
            raise UserError(f"labels of no class: {text}{more}", where=where, fix=SHOWN)
        table = np.array([known.get(int(value), IGNORED) for value in found], np.int16)
        return table[inverse].reshape(numbers.shape)

    def encode(self, label_map: np.ndarray) -> np.ndarray:
        """The raster that `decode` reads back: uint8 or uint16[H, W], or uint8[H, W, 3]; IGNORED as the first ignored.

        Raises:
            UserError: pixels are IGNORED, and no value is.
        """
        if self.colours is not None:
            entries = [*self.colours, *self.ignored_colours[:1]]
        else:
            values = self.values if self.values is not None else tuple(range(len(self.classes)))
            entries = [*values, *self.ignored[:1]]
        if (label_map < 0).any() and len(entries) == len(self.classes):
            raise UserError("pixels without a class, and no value says so", where="coding", fix="--ignored VALUE")
        table = np.array(entries)
        table = table.astype(np.uint8 if table.max() < 256 else np.uint16)
        return table[np.where(label_map < 0, len(self.classes), label_map)]


def _packed(colour: RGB) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
