"""Options of the recipes for classes of pixels and images, of which there may be few (class imbalance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vistruct.errors import UserError
from vistruct.heads.imbalance import ClassWeights
from vistruct.read_yaml import read_yaml


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """Options for classes of which there are few."""

    # Class imbalance: balanced weighs classes by their inverse frequency in the training data; or weights by name,
    # tree=5,ground=1; or a json or yaml file of them.
    class_weights: Literal["balanced", "none"] | str = "none"
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"  # focal: what is easy counts less
    focal_gamma: float = 2.0  # how much less: (1 - probability of the true class) ** gamma


AS_MANY = Imbalance()


def weights_asked(imbalance: Imbalance) -> ClassWeights | None:
    """The weights as a task's config takes them.

    Raises:
        UserError: a file that is none, or words that are no weights.
    """
    text = imbalance.class_weights
    if text == "none":
        return None
    if text == "balanced":
        return "balanced"
    where = f"--class-weights {text}"
    if "=" not in text:
        if not Path(text).is_file():
            fix = "balanced, none, NAME=WEIGHT,NAME=WEIGHT, or a file of them"
            raise UserError("no such file", where=where, fix=fix)
        pairs = dict(read_yaml(Path(text)))
    else:
        pairs = dict(pair.partition("=")[::2] for pair in text.split(","))
    return _as_numbers(pairs, where)


def focal_gamma_asked(imbalance: Imbalance) -> float:
    """0 where no focal loss is asked for.

    Raises:
        UserError: a gamma that makes no focal loss.
    """
    if imbalance.loss != "focal":
        if imbalance.focal_gamma != AS_MANY.focal_gamma:
            raise UserError("a gamma, and no focal loss", where="--focal-gamma", fix="--loss focal beside it")
        return 0.0
    if not imbalance.focal_gamma > 0:
        what = f"a focal loss of gamma {imbalance.focal_gamma:g} is none"
        raise UserError(what, where="--focal-gamma", fix="above 0, 2 usually; or --loss cross_entropy")
    return imbalance.focal_gamma


def _as_numbers(pairs: Mapping[str, object], where: str) -> dict[str, float]:
    found = {}
    for name, value in pairs.items():
        try:
            found[str(name).strip()] = float(str(value))
        except ValueError:
            raise UserError(f"{name}={value} is no weight", where=where, fix="NAME=NUMBER for each class") from None
    return found
