"""A class that no pixel is of can neither be learned nor measured: refused before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.maps.coding import to_type
from vistruct.data.formats.maps.counted import refused
from vistruct.errors import UserError


def is_named(part: Any) -> bool:
    """Whether somebody named the classes for these data; a list that lies beside them may have more than there are."""
    said = vars(part)
    return said.get("classes") is not None or said.get("coding") is not None


def check_counted(streams: Mapping[str, Any], evals: Mapping[str, tuple[str, Any]], named: Mapping[str, bool]) -> None:
    """Refuse data of which fewer than two classes count, or where a class that was named is nowhere.

    Args:
        streams: data sets that are learned from, by name.
        evals: the stream that an evaluation belongs to, and its data set, by the name of the evaluation.
        named: of each stream, `is_named`.

    Raises:
        UserError: says what there is.
    """
    for stream, train in streams.items():
        pixels = _pixels(train)
        if pixels is None:
            continue
        names = train.info.pixel_class_names
        _refuse(refused(names, pixels, named=False), train, f"training data of {stream!r}")
        measured = {name: found for name, (own, data) in evals.items() if own == stream and (found := _pixels(data))}
        for name, own in measured.items():
            if not any(own[number] for number in range(len(names))):
                _refuse("no pixel of these label maps counts", train, f"evaluation {name!r}")
        together = sum(measured.values(), pixels)
        where = "training data" if not measured else f"training data, and {', '.join(measured)}"
        _refuse(refused(names, together, named=named[stream]), train, where)


def _refuse(why: str, dataset: RecordDataset, where: str) -> None:
    if not why:
        return
    pixels = dataset.class_pixels or Counter()
    there = [name for number, name in enumerate(dataset.info.pixel_class_names) if pixels[number]]
    fix = "--values says what the masks have for each of --classes; `vistruct check` shows the values that there are"
    if len(there) > 1:
        fix = f"{to_type(there)}, if there are no others; {fix}"
    raise UserError(why, where=where, fix=fix)


def _pixels(dataset: Any) -> Counter[int] | None:
    return dataset.class_pixels if isinstance(dataset, RecordDataset) else None
