"""Classes of boxes that are given (`identified`): drawn and measured as boxes, but images alone are no question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from vistruct.errors import UserError
from vistruct.inference.boxes import BOXES
from vistruct.inference.kind import Asked
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case


def _refuse(model: Model, cases: Sequence[Case], asked: Asked) -> NoReturn:
    """
    Raises:
        UserError: in any case.
    """
    what = "this model says what is in boxes that are given, and images alone have none"
    raise UserError(what, where=model.card.path, fix=f"vistruct eval {model.card.path} --data ANNOTATIONS")


def _metrics(task: Any) -> tuple[str, ...]:
    return ("identified",)


IDENTIFIED = replace(
    BOXES, name="identified", look=_refuse, check=_refuse, seen_in=None, metrics=_metrics, windows="file"
)
