"""Which coding label rasters are written in: chosen where a format has several, guessed only where nothing else can be.

Certain without being told are a list of names beside the labels (`classes.txt`, one a line, numbered from 0;
`class_dict.csv` and `labelmap.txt`, names with colours), and labels of nothing but 0 and 1, or 0 and 255: two classes.
Everything else is an error that shows the values there are, and a coding to copy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistruct.contracts import RGB, Record
from vistruct.data.formats.format import Ask
from vistruct.data.formats.maps.values import Values, look_at
from vistruct.errors import UserError, typed
from vistruct.files.coding import Coding
from vistruct.files.json_files import read_json
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

TWO_CLASSES = ("background", "foreground")
SMEARED = "masks of every value, as a JPEG or resizing leaves them: changed from 128 on"
GUESSED = "coding not said: values of 0 and {high} taken as the first and the second class"
CHANGE = Coding(classes=("unchanged", "changed"), threshold=128, palette=((0, 0, 0), (255, 255, 255)))
CHANGE_INDEX = Coding(classes=("unchanged", "changed"), ignored=(), palette=((0, 0, 0), (255, 255, 255)))

_EXACT = 8  # values at most of a mask that nothing has smeared
_MOST_VALUES = 256  # of a coding to copy; more are no classes
_NAME_FILES = ("classes.txt", "class_names.txt", "labels.txt", "obj.names")
_COLOUR_FILES = (
    "class_dict.csv",
    "class_dict_seg.csv",
    "label_class_dict.csv",
    "labelmap.txt",
    "label_colors.txt",
    "label_colours.txt",
)


class CodingUnknown(UserError):
    """Nothing says what the labels mean."""


@dataclass
class Seen:
    """The numbers and the colours in some label rasters, with how many pixels have each."""

    numbers: Counter[int] = field(default_factory=Counter)
    colours: Counter[RGB] = field(default_factory=Counter)
    first: dict[int | RGB, str] = field(default_factory=dict)  # the first file that each is in


def to_type(classes: Sequence[str], values: Sequence[int] = (), ignored: Sequence[int] = ()) -> str:
    """`--classes field,'bare soil' --values 0,255 --ignored 7`."""
    options = [typed("--classes", classes)]
    options += [typed("--values", values)] if values else []
    options += [typed("--ignored", ignored)] if ignored else []
    return " ".join(options)


def merged(values: Values) -> Seen:
    """What is in some label rasters together."""
    seen = Seen()
    for file, found in values.items():
        numbers, colours = found.numbers, {} if found.numbers is not None else found.colours
        seen.numbers.update(numbers or {})
        seen.colours.update(colours)
        for value in (*(numbers or ()), *colours):
            seen.first.setdefault(value, str(file))
    return seen


def seen_in(records: Sequence[Record], ask: Ask) -> Seen:
    """What is in the label rasters of some records; those that cannot be read are passed over (reading says it)."""
    return merged(look_at(records, ask.kept, ask.intake))


def fitting(records: Sequence[Record], codings: Sequence[Coding], where: object, ask: Ask) -> Coding:
    """The first coding that knows all that is in the labels.

    Raises:
        UserError: none does; names what is there.
    """
    seen = seen_in(records, ask)
    for coding in codings:
        colours = {*(coding.colours or ()), *coding.ignored_colours}
        values = coding.values if coding.values is not None else range(len(coding.classes))
        is_known = set(seen.numbers) <= {*values, *coding.ignored} if coding.colours is None else True
        if coding.colours is not None:
            greys = {(value, value, value) for value in seen.numbers}
            is_known = {*seen.colours, *greys} <= colours or (coding.others == "ignored" and bool(seen.colours))
        elif seen.colours:
            is_known = False
        if is_known:
            return coding
    raise UserError(f"labels in another coding: {in_words(seen)}", where=where, fix=_to_copy(seen))


def change_coding(root: Path, records: Sequence[Record], ask: Ask, report: IssueCounter) -> Coding:
    """Of masks of change: 0 and 1; 0 and one value from 128 on; or, smeared by a JPEG, all: changed from 128 on.

    Raises:
        UserError: others, which could be coded in any way; shows the values there are.
    """
    files = [record.label_map for record in records if record.label_map is not None]
    found = look_at(records, ask.kept, ask.intake)
    seen = merged(found)
    numbers = Counter(seen.numbers)
    for colour, count in seen.colours.items():
        numbers[max(colour)] += count
    values, has_high = set(numbers), any(value >= 128 for value in numbers)
    if values == {0, 1} and not seen.colours:
        return CHANGE_INDEX
    is_mixed = has_high and not any(1 in one.counts and max(one.counts) > 1 for one in found.values())
    if values <= {0, max(values, default=0)} and (has_high or values <= {0}):
        return CHANGE
    if values <= {0, 1, max(values)} and is_mixed:  # some masks of 0 and 1, which are named where they are counted
        return CHANGE
    if is_lossy(numbers):
        if not all(file.suffix.lower() in (".jpg", ".jpeg") for file in files):
            report.note(SMEARED, str(root), "kept")
        return CHANGE
    told = sorted(values)
    what = f"masks of change in a coding that is not known: {in_words(seen)}"
    fix = f"--values {told[0]},{told[-1]}, that of unchanged first"
    if 2 < len(told) <= _MOST_VALUES:
        fix = f"--values {told[0]},{told[-1]} --ignored {','.join(map(str, told[1:-1]))}, that of unchanged first"
    raise CodingUnknown(what, where=root, fix=fix)


def is_lossy(numbers: Mapping[int, int]) -> bool:
    """Whether these are two values, near 0 and near 255, that a JPEG or a resizing has smeared."""
    total = sum(numbers.values())
    middle = sum(count for value, count in numbers.items() if 64 <= value < 192)
    is_both = any(0 <= value < 64 for value in numbers) and any(192 <= value < 256 for value in numbers)
    return len(numbers) > _EXACT and set(numbers) <= set(range(256)) and is_both and middle <= total / 10


def found_out(root: Path, records: Sequence[Record], ask: Ask, report: IssueCounter) -> Coding:
    """The coding of labels whose format says nothing of it.

    Raises:
        UserError: it cannot be known; shows the values there are.
    """
    named = _named(root, {record.label_map.parent for record in records if record.label_map is not None})
    if named is not None:
        return named
    seen = seen_in(records, ask)
    numbers = set(seen.numbers)
    is_two = not seen.colours and (ask.classes is None or len(ask.classes) == 2)
    if is_two and numbers <= {0, 255} and 255 in numbers:
        return _two(ask, (0, 255), report, root)
    if is_two and numbers == {0, 1}:
        return _two(ask, (0, 1), report, root)
    if not numbers and not seen.colours:
        raise UserError("none of the labels can be read", where=root, fix="`vistruct check` says more")
    if is_lossy(seen.numbers) and (ask.classes is None or not numbers <= {*range(len(ask.classes)), 255}):
        names = "" if ask.classes is not None and len(ask.classes) == 2 else f" {to_type(TWO_CLASSES)}"
        what = f"two classes near 0 and near 255, smeared as a JPEG smears them: {in_words(seen)}"
        raise CodingUnknown(what, where=root, fix=f"--threshold 128{names}: from there on it is the second class")
    if ask.classes is not None and not seen.colours:
        own = sorted(numbers)
        if len(own) == len(ask.classes) and not numbers <= {*range(len(own)), 255}:
            strange = [value for value in own if value not in {*range(len(own)), 255}]
            what = f"labels of no class: {', '.join(map(str, strange))}; there are {in_words(seen)}"
            fix = f"{to_type(ask.classes, own)}, if these are their values"
            if strange == [len(own)] and 255 not in own:  # as of a split that alone has one class more
                fix += f"; {to_type([*ask.classes, f'class_{strange[0]}'])}, if it is one more class"
            raise CodingUnknown(what, where=root, fix=fix)
        return Coding(classes=ask.classes)
    what = f"no word of what the labels mean; there are {in_words(seen)}"
    raise CodingUnknown(what, where=root, fix=_to_copy(seen))


def in_words(seen: Seen, most: int = 12) -> str:
    """`values 0 (93.1 %), 1 (6.9 %)`, the commonest first."""
    kinds = [("values", seen.numbers), ("colours", seen.colours)]
    words = []
    for kind, counts in kinds:
        total = counts.total()
        parts = [f"{_text(value)} ({100 * count / total:.3g} %)" for value, count in counts.most_common(most)]
        if parts:
            words.append(
                f"{kind} {', '.join(parts)}" + (f" and {len(counts) - most} more" if len(counts) > most else "")
            )
    return "; ".join(words) or "no values"


def _text(value: object) -> str:
    return "#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value)


def _to_copy(seen: Seen) -> str:
    """A coding with placeholders for names."""
    if seen.colours:
        colours = sorted(seen.colours | Counter({(value,) * 3: 1 for value in seen.numbers}))
        if len(colours) > _MOST_VALUES:
            return "more colours than classes: are these labels? A JPEG is none"
        names = ", ".join(f"class_{number}" for number in range(len(colours)))
        return f"for example: coding: {{classes: [{names}], colours: {[list(colour) for colour in colours]}}}"
    values = sorted(value for value in seen.numbers if 0 <= value != 255)
    ignored = sorted(set(seen.numbers) - set(values))  # as people write what does not count
    if len(values) > _MOST_VALUES:
        return "more values than classes: are these labels, or an image?"
    names = ", ".join(f"class_{value}" for value in values)
    options = to_type([f"class_{value}" for value in values], values, ignored)
    told = f", ignored: {ignored}" if ignored else ""
    return f"for example {options}; in a run file coding: {{classes: [{names}], values: {values}{told}}}"


def _two(ask: Ask, values: tuple[int, int], report: IssueCounter, root: Path) -> Coding:
    classes = ask.classes if ask.classes is not None and len(ask.classes) == 2 else TWO_CLASSES
    report.note(GUESSED.format(high=values[1]), str(root), "kept")
    return Coding(classes=classes, values=values, ignored=() if values[1] == 255 else (255,))


def _named(root: Path, labels: set[Path]) -> Coding | None:
    """From a list of names, in the folder of the data set or beside the labels; None: there is none."""
    folders = [root, *sorted({place for folder in labels for place in (folder, folder.parent)})]
    for folder in folders:
        for name in _COLOUR_FILES:
            if (folder / name).is_file():
                return _coloured(folder / name)
        for name in _NAME_FILES:
            if (folder / name).is_file():
                lines = [line.strip() for line in read_text(folder / name).splitlines()]
                return Coding(classes=tuple(line for line in lines if line))
        if (folder / "dataset.json").is_file() and (found := _of_nnunet(folder / "dataset.json")) is not None:
            return found
    return None


def _of_nnunet(path: Path) -> Coding | None:
    """`labels` of nnU-Net's dataset.json: `{"background": 0, "cell": 1, "ignore": 2}`, or the other way round."""
    values = read_json(path)
    labels = values.get("labels") if isinstance(values, dict) else None
    if not isinstance(labels, dict) or not labels:
        return None
    if all(str(key).isdigit() and isinstance(name, str) for key, name in labels.items()):
        labels = {name: int(key) for key, name in labels.items()}
    if not all(type(value) is int for value in labels.values()):
        raise UserError("regions, which overlap, are no classes", where=path, fix="--classes and --values say others")
    named = {str(name): value for name, value in labels.items() if name != "ignore"}
    ignored = tuple(value for name, value in labels.items() if name == "ignore")
    return Coding(classes=tuple(named), values=tuple(named.values()), ignored=ignored)


def _coloured(path: Path) -> Coding:
    """`name,r,g,b` (with or without a heading), CVAT's `name:r,g,b::`, CamVid's `r g b name`."""
    names, colours = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#") or (number == 1 and not re.search(r"\d", line)):
            continue
        middle = re.fullmatch(
            r"\s*(?P<name>[^,:\t]+?)\s*[,:\t]\s*(\d+)\s*[,\s]\s*(\d+)\s*[,\s]\s*(\d+)\s*(?::.*)?", line
        )
        first = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(?P<name>.+?)\s*", line)
        match = middle or first
        if match is None:
            raise UserError(
                f"no class with its colour: {line[:60]!r}", where=f"{path}, line {number}", fix="name,r,g,b"
            )
        numbers = [int(text) for text in match.groups() if text is not None and text.isdigit()][-3:]
        colour = tuple(numbers) if middle else tuple(int(match[place]) for place in (1, 2, 3))
        names.append(match["name"])
        colours.append((colour[0], colour[1], colour[2]))
    if not names:
        raise UserError("no classes in this file", where=path, fix="one class a line: name,r,g,b")
    return Coding(classes=tuple(names), colours=tuple(colours))
