"""What lists and tables of images have in common: their splits, and an image that must not be in two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vistruct.data.formats.format import Stop
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError

IN_TWO_SPLITS = "image in two splits"


def chosen_splits(split: str | None, known: Sequence[str], where: object) -> list[str]:
    """The names on disk of what is asked for; by itself trainval is not meant.

    Raises:
        UserError: one is unknown; or none is asked for and there are several.
    """
    names = known if split is not None else [name for name in known if name != "trainval"] or known
    return chosen(split, names, where)


def refuse_straddlers(members: Mapping[str, Iterable[str]], stop: Stop, where: object) -> None:
    """Tell `stop` of every image that is in two splits; trainval may repeat the others."""
    seen: dict[str, str] = {}
    for split, names in members.items():
        if split.lower() == "trainval":
            continue
        for name in names:
            if seen.setdefault(name, split) != split:
                fix = f"take {name} from {seen[name]} or from {split}"
                stop(UserError(f"{IN_TWO_SPLITS}: {seen[name]} and {split}", where=f"{where}: {name}", fix=fix))
