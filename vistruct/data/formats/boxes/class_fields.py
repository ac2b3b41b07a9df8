"""Which field of an object says its class: of the properties of GeoJSON, attributes of VIA, or columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vistruct.data.formats.format import Ask
from vistruct.errors import UserError, closest, typed
from vistruct.issues import IssueCounter

ONE_CLASS = "objects without any field that says a class: all are called object"
OBJECT = "object"  # the class where there is none
NONE = "none"  # of --class-field: all objects are one class

# The fields that are called after what they say; compared in small letters, without spaces, dashes and underscores.
CLASS_WORDS = frozenset(
    {"class", "label", "category", "classname", "labelname", "categoryname", "type", "species", "classes"}
    | {"klass", "objectclass", "objecttype", "labels", "taxonomy", "classlabel", "crowntype"}
)
_SURE = ("class", "classname", "label", "labelname", "category", "categoryname")  # before type and the like
_NOTHING = frozenset(  # fields that GIS and tools write by themselves
    {"id", "fid", "objectid", "ogcfid", "gid", "uuid", "area", "length", "shapearea", "shapelength", "shapeleng"}
    | {"perimeter", "left", "top", "right", "bottom", "layer", "path", "score", "confidence", "imagepath", "image"}
)


def class_field(
    said: Sequence[Mapping[str, Any]], ask: Ask, where: object, report: IssueCounter, *, takes_only: bool = False
) -> str | None:
    """The field that says the class of objects; None: all are one class, which is counted.

    Args:
        said: the fields of each object.
        takes_only: whether the only field there is, whatever it is called, says the class.

    Raises:
        UserError: several may be meant, or none is known; `--class-field` says which.
    """
    fields = list(dict.fromkeys(key for one in said for key in one))
    if ask.class_field is not None:
        if ask.class_field in fields:
            return ask.class_field
        if ask.class_field == NONE or not said:
            return None
        what = f"no field {ask.class_field!r} here"
        raise UserError(what, where=where, fix=typed("--class-field", [closest(ask.class_field, fields)]))
    known = {field: plain(field) for field in fields}
    for words in (frozenset(_SURE), CLASS_WORDS):
        found = [field for field in fields if known[field] in words]
        if len(found) > 1 and not _same(said, found):
            what = f"several fields may say the class: {', '.join(found)}"
            raise UserError(what, where=where, fix=f"say which: {typed('--class-field', found[:1])}")
        if found:
            return found[0]
    others = [field for field in fields if known[field] not in _NOTHING]
    if takes_only and len(others) == 1:
        return others[0]
    if others:
        what = f"no field is called as a class is; there are: {', '.join(others[:8])}"
        fix = f"say which: {typed('--class-field', others[:1])}; or --class-field {NONE} for one class"
        raise UserError(what, where=where, fix=fix)
    if said:
        report.note(ONE_CLASS, str(where), "kept")
    return None


def class_of(said: Any, field: str | None, where: str) -> str:
    """The class of one object.

    Raises:
        UserError: it has none.
    """
    if field is None:
        return OBJECT
    value = said.get(field) if isinstance(said, Mapping) else None
    if isinstance(value, Mapping) and sum(map(bool, value.values())) == 1:  # a check box: {"crown": true}
        value = next(key for key, is_set in value.items() if is_set)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or str(value).strip() == "":
        what = f"an object without a class in {field!r}"
        raise UserError(what, where=f"{where}: {value!r:.40}", fix="give it one, or remove it")
    return str(value).strip()


def plain(name: str) -> str:
    """A field's name as it is compared."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _same(said: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> bool:
    """Whether several fields say the same of every object."""
    return all(len({str(one.get(field)) for field in fields}) == 1 for one in said)
