"""The objects of one image as a table: a row is an object, a column a fact about each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

C = TypeVar("C", np.ndarray, Tensor)
Column = np.ndarray | Tensor | tuple[Any, ...]
_FILLED: Any = None  # by `__post_init__`


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects(Generic[C]):
    """Objects that were annotated or found, as arrays (beside a file) or as tensors (beside an image in memory).

    What everybody knows of an object is a field here, said once: the verbs below treat all columns alike. What a
    format or a method adds, a phrase or a group, is a column of `extra`; one of words is a tuple.
    """

    labels: C = _FILLED  # int64[N], indices into class_names
    boxes_xyxy: C = _FILLED  # float32[N, 4], pixels; of what is known more closely the hulls
    is_crowd: C = _FILLED  # bool[N]: many objects in one box
    is_difficult: C = _FILLED  # bool[N]: need not be found
    is_ignored: C = _FILLED  # bool[N]: in training neither an object nor background
    scores: C = _FILLED  # float32[N] in [0, 1]: how sure; 1 where nobody says
    boxes_cxcywha: C | None = None  # float32[N, 5], le90; None: horizontal boxes only
    quads: C | None = None  # float32[N, 4, 2], corners (x, y) one after the other; None: horizontal boxes only
    keypoints: C | None = None  # float32[N, K, 3]: x, y, COCO's visibility (0 not annotated, 1 hidden, 2 seen)
    # A tuple of COCO segmentations, depth maps (`files.depth`) or MaskPatch, pixels of the *whole* image; or [N, H, W]:
    # bool, or float32 in [0, 1] if soft, NaN where a depth is not known.
    masks: Any = None
    extra: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = self.__dict__["labels"] = np.zeros(0, np.int64) if self.labels is None else self.labels
        for name, (shape, value, dtype) in _DEFAULTS.items():
            if self.__dict__[name] is None:
                self.__dict__[name] = _full(labels, shape, value, dtype)
        for name, column in self.columns().items():
            if len(column) != len(labels):
                raise ValueError(f"{len(column)} {name} for {len(labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Objects):
            return NotImplemented
        ours, theirs = self.columns(), other.columns()
        return ours.keys() == theirs.keys() and all(_is_same(column, theirs[name]) for name, column in ours.items())

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Self:
        """A table of columns by name, as `columns` gives them."""
        known: dict[str, Any] = {name: column for name, column in columns.items() if name in _KNOWN}
        return cls(**known, extra={name: column for name, column in columns.items() if name not in _KNOWN})

    def columns(self) -> dict[str, Column]:
        """All that are there, those of `extra` too, by name."""
        known = {name: self.__dict__[name] for name in _KNOWN}
        return {name: column for name, column in {**known, **self.extra}.items() if column is not None}

    @property
    def is_single(self) -> C:
        """bool[N]: one object each, that is to be found; the others are regions to be left out of account."""
        crowd: Any = self.is_crowd
        return ~(crowd | self.is_ignored)

    @property
    def outlines(self) -> C:
        """float[N, 4, 2], where each is: its quad, else the corners of its box from the top left clockwise."""
        boxes: Any = self.boxes_xyxy
        return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) if self.quads is None else self.quads

    def keep(self, rows: C) -> Self:
        """Some of the rows, in the order asked for: bool[N] or int64[K]."""
        numbers: Any = rows
        if isinstance(rows, np.ndarray):
            numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        elif rows.dtype == torch.bool:
            numbers = rows.nonzero().squeeze(1)
        return self._each(lambda column: _rows_of(column, numbers))

    def to(self, device: torch.device) -> Self:
        """Tensors on `device`."""
        return self._each(lambda column: column.to(device) if isinstance(column, Tensor) else column)

    def tensors(self) -> Objects[Tensor]:
        """Copies of arrays as tensors; tuples stay."""
        return self._each(lambda column: torch.from_numpy(column.copy()) if isinstance(column, np.ndarray) else column)

    def arrays(self) -> Objects[np.ndarray]:
        """Tensors as arrays, on the CPU; tuples stay."""
        return self._each(lambda column: column.detach().cpu().numpy() if isinstance(column, Tensor) else column)

    def _each(self, change: Callable[[Any], Any]) -> Any:
        return type(self).of({name: change(column) for name, column in self.columns().items()})


_DEFAULTS = {
    "boxes_xyxy": ((4,), 0, "float32"),
    "is_crowd": ((), False, "bool"),
    "is_difficult": ((), False, "bool"),
    "is_ignored": ((), False, "bool"),
    "scores": ((), 1, "float32"),
}
_KNOWN = tuple(one.name for one in fields(Objects) if one.name != "extra")


def cat(tables: Sequence[Objects[C]]) -> Objects[C]:
    """The rows of several tables behind each other.

    Raises:
        ValueError: some have a column that others lack, or there is no table at all.
    """
    columns = [table.columns() for table in tables]
    if any(one.keys() != columns[0].keys() for one in columns):
        raise ValueError(
            f"tables with different columns: {sorted(set().union(*columns) - set.intersection(*map(set, columns)))}"
        )
    return Objects.of({name: _joined([one[name] for one in columns]) for name in columns[0]})


def _full(labels: Any, shape: tuple[int, ...], value: float, dtype: str) -> Any:
    """One value everywhere, a row for each of `labels`."""
    rows = (len(labels), *shape)
    if isinstance(labels, Tensor):
        # torch has a dtype by its name in no other way
        return torch.full(rows, value, dtype=getattr(torch, dtype), device=labels.device)
    return np.full(rows, value, dtype)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or type(one) is not type(other) or one.dtype != other.dtype:
        return isinstance(one, tuple) and one == other
    return torch.equal(one, other) if isinstance(one, Tensor) else np.array_equal(one, other)


def _rows_of(column: Any, rows: Any) -> Any:
    return tuple(column[i] for i in rows.tolist()) if isinstance(column, tuple) else column[rows]


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else tuple(row for part in parts for row in part)


NO_OBJECTS: Objects[np.ndarray] = Objects()
