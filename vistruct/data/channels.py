"""Whether all images of a data set have the bands that become channels: told from their headers, before training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vistruct.contracts import Record
from vistruct.data.formats.format import Stop
from vistruct.errors import UserError
from vistruct.files.decode import say
from vistruct.files.geo import bands_of_images
from vistruct.files.images import colour_size
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import header_of, stamp_of

_READERS = 8  # threads that look at headers


def check_channels(records: Sequence[Record], intake: Intake | None, stop: Stop) -> None:
    """Tell `stop` of every image that lacks a band that is asked for, or has another number of them than the first.

    Args:
        intake: None: all are pictures of 8 bits.
    """
    images = {record.images: record for record in records if record.images}
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(functools.partial(_channels, intake=intake), images.values()))
    usual = next((one for one in found if isinstance(one, int)), 0)
    for one, record in zip(found, images.values(), strict=True):
        if isinstance(one, UserError):
            stop(one)
        elif one != usual:
            what = f"an image of {one} bands among images of {usual}"
            fix = f"--bands {','.join(map(str, range(1, min(one, usual) + 1)))} takes the same of all; or leave it out"
            stop(UserError(what, where=record.images[0], fix=fix))


def _channels(record: Record, *, intake: Intake | None) -> int | UserError:
    try:
        if intake is None:
            for image in record.images:
                colour_size(image, say(len(header_of(stamp_of(image)).types)))
            return 3
        numbers = bands_of_images(record)
    except UserError as error:
        return error
    short = next((number for number in numbers if number < max(intake.bands or (1,))), None)
    if short is not None:
        what = f"no band {max(intake.bands or (1,))} in an image of {short}"
        return UserError(
            what, where=record.images[0], fix=f"--bands with numbers up to {short}; or leave the image out"
        )
    return max(numbers) if intake.bands is None else len(intake.bands)
