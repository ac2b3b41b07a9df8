"""Tables of objects, made and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from vistruct.contracts import Objects


def assert_same(one: Objects[Any], other: Objects[Any]) -> None:
    """The same columns with the same values, bit for bit."""
    ours, theirs = one.columns(), other.columns()
    assert ours.keys() == theirs.keys()
    for name, column in ours.items():
        if isinstance(column, tuple):
            assert column == theirs[name], name
        else:
            np.testing.assert_array_equal(column, theirs[name], err_msg=name, strict=True)


def with_objects(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a sample or a record, those that are columns put into a table of objects."""
    known = {one.name for one in fields(Objects)}
    columns = {name: value for name, value in values.items() if name in known}
    others = {name: value for name, value in values.items() if name not in known}
    return others | {"objects": Objects.of(columns)} if columns else others
