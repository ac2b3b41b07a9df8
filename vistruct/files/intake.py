"""How the numbers in a file become channels, where they are not colours of 8 bits already.

Bands of 16 bits, radar amplitudes and Hounsfield units have no natural black and white, and every way to guess them is
silent and wrong for somebody: so the range is said, and what lies outside of it is clipped. The range becomes the
65,536 levels of uint16: no two values of a 12-bit scanner or a 16-bit camera fall together. uint8 is half as large
(400 Hounsfield units in 256 steps are 1.6 units apart, less than a scanner's noise), float32 twice as large.

Without a range float32 takes the values as they are, in their own unit (reflectance, Hounsfield units, decibels): mean
and standard deviation then are in that unit too, or are those of the data (`task.mean: data`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Pixels
from vistruct.errors import UserError, closest

# Lowest and highest Hounsfield units shown: level - width / 2 and level + width / 2 of radiology's customary windows.
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (-160.0, 240.0),  # width 400, level 40
    "soft_tissue": (-150.0, 250.0),  # width 400, level 50
    "liver": (-45.0, 105.0),  # width 150, level 30
    "mediastinum": (-125.0, 225.0),  # width 350, level 50
    "lung": (-1350.0, 150.0),  # width 1500, level -600
    "bone": (-500.0, 1300.0),  # width 1800, level 400
    "brain": (0.0, 80.0),  # width 80, level 40
    "stroke": (20.0, 60.0),  # width 40, level 40
}
PixelType = Literal["uint8", "uint16", "float32"]
BYTES: dict[Pixels, int] = {"uint8": 1, "uint16": 2, "float32": 4, "raw": 4}  # a value
FIX = "--low and --high, or --percentiles 1,99; or --dtype float32 --normalise data for values as they are"
FROM_TAGS = "tags"  # in place of a window's name: the one that a DICOM series itself says to show


class Intake(Part):
    """Which bands of a file are looked at, which of their values become black and white, and in what numbers."""

    bands: tuple[int, ...] | None = None  # numbers from 1, in the order of the channels; None: all there are
    low: tuple[float, ...] = ()  # value that becomes 0: one for all channels, or one for each
    high: tuple[float, ...] = ()  # value that becomes full scale (255, 65535 or 1), likewise
    window: str | None = None  # name of a CT window (or "tags": of DICOM, its own), in place of `low` and `high`
    percentiles: tuple[float, float] | None = None  # of each whole image or volume, in their place: 1 and 99, say
    background: float | None = None  # value around what was measured, not looked at for percentiles; None: every value
    # What a range becomes: 256 levels, 65,536 levels, or 0 to 1. float32 without a range: the values as they are.
    dtype: PixelType = "uint16"
    channels: int | None = Field(None, gt=0)  # a single band repeated so often; None: three times, as grey pictures are

    @model_validator(mode="after")
    def _one_range(self) -> Intake:
        said = [bool(self.low or self.high), self.window is not None, self.percentiles is not None]
        if sum(said) > 1:
            raise UserError(
                "two ranges of values are given", where="intake", fix="low and high, window, or percentiles"
            )
        if self.window is not None and self.window not in (*CT_WINDOWS, FROM_TAGS):
            raise UserError(f"no CT window {self.window!r}", where="intake", fix=closest(self.window, CT_WINDOWS))
        if len(self.low) != len(self.high) or any(a >= b for a, b in zip(self.low, self.high, strict=False)):
            raise UserError(
                f"low={self.low} and high={self.high} are no ranges",
                where="intake",
                fix="as many --low as --high, each below its own: --low 0 --high 4000",
            )
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise UserError(f"percentiles={self.percentiles}", where="intake", fix="for example 1 and 99")
        if any(band < 1 for band in self.bands or ()):
            raise UserError(f"bands={self.bands} count from 1", where="intake", fix="the first band is 1")
        return self

    @property
    def has_range(self) -> bool:
        """Whether it says what becomes black and white."""
        return bool(self.low) or self.window is not None or self.percentiles is not None

    @property
    def pixels(self) -> Pixels:
        """The type of the images; without a range only 8-bit values can be taken in, unless they stay as they are."""
        if self.has_range:
            return self.dtype
        return "raw" if self.dtype == "float32" else "uint8"

    def ranges(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64[C] values that become 0 and full scale.

        Args:
            values: number[C, ...], the *whole* image or volume; looked at for percentiles alone. Not finite: no data.

        Raises:
            UserError: another number of ranges than of channels; no finite value to take percentiles of; the range
                is that of a file's tags.
        """
        channels = len(values)
        if self.window == FROM_TAGS:
            raise UserError("only a DICOM series has a window in its tags", where="intake.window", fix="name one")
        if self.percentiles is not None:
            found = [channel[np.isfinite(channel) & (channel != self.background)] for channel in values]
            if any(not one.size for one in found):
                raise UserError("no finite values to take percentiles of", fix="say low and high")
            low, high = np.array([np.percentile(one, self.percentiles) for one in found], np.float64).T
            return low, np.where(high > low, high, low + 1)
        low, high = (CT_WINDOWS[self.window][:1], CT_WINDOWS[self.window][1:]) if self.window else (self.low, self.high)
        if len(low) not in (1, channels):
            raise UserError(
                f"{len(low)} ranges for {channels} channels", where="intake.low", fix=f"one range, or {channels}"
            )
        return np.broadcast_to(np.array(low, np.float64), channels), np.broadcast_to(
            np.array(high, np.float64), channels
        )

    def channels_of(self, bands: int) -> int:
        """How many channels so many bands become: a single one becomes three alike, as grey pictures do everywhere.

        Raises:
            UserError: several bands that should become another number of channels.
        """
        if self.channels is not None and bands not in (1, self.channels):
            what = f"{bands} bands cannot become {self.channels} channels"
            raise UserError(what, where="intake.channels", fix="choose bands")
        return self.channels or (3 if bands == 1 else bands)

    def taken(self, values: np.ndarray, ranges: tuple[np.ndarray, np.ndarray] | None = None) -> Tensor:
        """number[C', H, W], what `scaled` gives as channels (see `channels_of`).

        Raises:
            UserError: as both.
        """
        return self.repeated(torch.from_numpy(self.scaled(values, ranges)))

    def repeated(self, pixels: Tensor) -> Tensor:
        """number[C, H, W] -> number[C', H, W], grey as often as is asked for."""
        channels = self.channels_of(len(pixels))
        return pixels if len(pixels) == channels else pixels.expand(channels, -1, -1).contiguous()

    def scaled(self, values: np.ndarray, ranges: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Values as pixels, band by band; what is not finite becomes 0.

        Args:
            values: number[C, H, W] of the chosen bands.
            ranges: of the whole image, see `ranges`; None: values that stay as they are.

        Returns:
            uint8, uint16 or float32[C, H, W].

        Raises:
            UserError: values of more than 8 bits without a range.
        """
        if ranges is None and self.pixels == "raw":
            return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if ranges is None:
            if values.dtype != np.uint8:
                raise UserError(
                    f"values of type {values.dtype}, and no range that becomes black and white", where="intake", fix=FIX
                )
            return np.ascontiguousarray(values)
        low, high = (bound[:, None, None] for bound in ranges)
        share = (values.astype(np.float32) - low.astype(np.float32)) / (high - low).astype(np.float32)
        share = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
        if self.dtype == "float32":
            return share
        return (share * np.iinfo(self.dtype).max + 0.5).astype(self.dtype)
