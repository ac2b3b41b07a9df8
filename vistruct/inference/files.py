"""A model asked about many files: looked at one by one, kept, drawn, and written as others take it.

What was done stays done, also if this is interrupted; another model, other windows or another image of the same name
are looked at anew, and it is said. What cannot be read is left out and named at the end. No file that this folder's
predictions did not write is changed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vistruct.errors import UserError, closest
from vistruct.files.text import write_text
from vistruct.inference.cache import Parts
from vistruct.inference.kind import Asked, Done, EachFile, Kind, OneFile, Told, check_asked
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.progress import notice, tracking

ALL = "all"  # every format that can hold the names and classes

Broken = list[tuple[Case, UserError]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was found and written."""

    done: list[Done]
    broken: Broken  # what could not be looked at, and why
    told: Told
    files: dict[str, Path]  # by format: its file, or the folder of its files
    made: Path  # the one file that was asked for, or the folder of all


def predict_files(
    model: Model, cases: Sequence[Case], target: Path, *, formats: Sequence[str] = (), asked: Asked | None = None
) -> Results:
    """Look at every case that is not done yet, and write what was asked for.

    Args:
        formats: by name; none: the usual ones of this kind of prediction; `all`: every one that is possible.

    Raises:
        UserError: a format that this kind does not have, or that cannot hold these names or classes; a file in the
            way that is not ours; nothing that can be looked at.
    """
    asked = replace(asked or Asked(), quiet=False, scratch=target / "parts")
    work = _Work(model, cases, target, formats, asked)
    work.begin()
    ready = [case for case in cases if work.is_done(case)]
    if ready:
        notice(f"{target}: {len(ready)} of {len(cases)} {model.kind.what} were done before")
    left = [case for case in cases if case not in ready]
    broken: Broken = []
    with tracking("predicting", done=len(ready), total=len(cases)) as show:
        for case in ready:
            work.complete(case)
        for number, (case, found) in enumerate(_looked(model, left, asked), len(ready) + 1):
            if isinstance(found, UserError):
                notice(f"{case.name} is left out: {found.what}")
                broken.append((case, found))
            else:
                work.keep(case, found)
            show(number, case.name)
    if broken and len(broken) == len(cases):
        raise broken[0][1]
    out = [case for case, _ in broken]
    done = [work.done(case) for case in cases if case not in out]
    files, made = work.written(done)
    return Results(done=done, broken=broken, told=model.kind.tell(model, done), files=files, made=made)


class _Work:
    """What there is to do, and where everything goes."""

    def __init__(self, model: Model, cases: Sequence[Case], target: Path, formats: Sequence[str], asked: Asked) -> None:
        self.model, self.cases, self.target, self.asked = model, cases, target, asked
        check_asked(model.kind, model, cases, asked)
        self.chosen = chosen_formats(model.kind, formats, cases, model.class_names)
        self.each = [format for format in self.chosen if isinstance(format, EachFile)]
        self.parts = Parts(target / "parts", settings(model, asked))
        self.places: dict[str, dict[str, Path]] = {case.name: {} for case in cases}  # by case and format
        for format in self.each:
            for name, file in format.files(cases, bool(formats)).items():
                self.places[name][format.name] = target / format.folder / file

    def begin(self) -> None:
        """Make the folder that of this work; what was written with other settings is removed.

        Raises:
            UserError: a file would be overwritten that no prediction into this folder wrote.
        """
        files = [file for mine in self.places.values() for file in mine.values()]
        files += [self.target / format.file for format in self.chosen if isinstance(format, OneFile)]
        given = {file.resolve() for case in self.cases for file in case.files}
        others = [file for file in files if file.resolve() in given or (self.parts.is_new and file.exists())]
        if others:
            what = f"{len(others)} files would be overwritten that no prediction wrote"
            raise UserError(what, where=others[0], fix="choose another --out")
        if self.parts.begin():
            what = "another model or another way to ask it than last time"
            notice(f"{self.target}: {what}; all {self.model.kind.what} are looked at again")
        for format in self.each:
            own, note = dict(format.settings(self.asked)), self.parts.folder / f"{format.name}.json"
            if own and not (note.is_file() and note.read_text() == json.dumps(own)):
                for mine in self.places.values():
                    mine[format.name].unlink(missing_ok=True)
                write_text(note, [json.dumps(own)])

    def is_done(self, case: Case) -> bool:
        kept = [self.places[case.name][format.name] for format in self.each if format.is_kept]
        return self.parts.has(case.name, case.files) and all(file.is_file() for file in kept)

    def done(self, case: Case) -> Done:
        values, files = self.parts.read(case.name), self.places[case.name]
        return Done(case=case, values=values, read=partial(self.model.kind.unpack, self.model, case, values, files))

    def complete(self, case: Case) -> None:
        """Write the files that a case does not have yet, from what was kept of it."""
        mine = self.places[case.name]
        missing = [format for format in self.each if format.name in mine and not mine[format.name].is_file()]
        if missing:
            self._write(missing, case, self.done(case).read())

    def keep(self, case: Case, found: Any) -> None:
        """Write all files of a case; its part last, so that what is done has them."""
        self.parts.remove(case.name)
        self._write(self.each, case, found)
        self.parts.write(case.name, case.files, self.model.kind.pack(case, found))

    def _write(self, formats: Sequence[EachFile], case: Case, found: Any) -> None:
        for format in formats:
            file = self.places[case.name].get(format.name)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                format.write(self.model, case, found, file, self.asked)

    def written(self, done: Sequence[Done]) -> tuple[dict[str, Path], Path]:
        """What there is by format, the files about all cases being written now; and of these the one that there is, or
        that was asked for beside what is always written, else the folder of all."""
        names = {name for mine in self.places.values() for name in mine}
        files = {format.name: self.target / format.folder for format in self.each if format.name in names}
        for format in self.chosen:
            if isinstance(format, OneFile):
                files[format.name] = format.write(self.model, done, self.target / format.file)
        asked = [format for format in self.chosen if format.use != "always"] or self.chosen
        is_one = len(asked) == 1 and isinstance(asked[0], OneFile)
        return files, files[asked[0].name] if is_one else self.target


def _looked(model: Model, cases: Sequence[Case], asked: Asked) -> Iterator[tuple[Case, Any]]:
    """Each case with its prediction, or with the error that there was; where several go through together and one of
    them cannot be read, one by one."""
    step = asked.batch if model.kind.at_once else 1
    for start in range(0, len(cases), step):
        some = cases[start : start + step]
        try:
            found: list[Any] = model.kind.look(model, some, asked)
        except UserError as error:
            if len(some) == 1:
                yield some[0], error
            else:
                yield from _looked(model, some, replace(asked, batch=1))
        else:
            yield from zip(some, found, strict=True)


def settings(model: Model, asked: Asked) -> dict[str, object]:
    """What decides the results, in words for json."""
    card = json.dumps(model.card.values, sort_keys=True, default=str)
    return {
        "model": hashlib.sha256(card.encode()).hexdigest(),  # its weights' checksum is among the values
        "kind": model.kind.name,
        "input": model.input.model_dump(mode="json"),
        "views": None if model.views is None else model.views.model_dump(mode="json"),
        "question": asked.question,
    }


def chosen_formats(
    kind: Kind, names: Sequence[str], cases: Sequence[Case], class_names: Sequence[str]
) -> list[EachFile | OneFile]:
    """The formats to write; with `all` it is said of the others why not.

    Raises:
        UserError: a format that this kind does not have, or one that cannot hold the names of images or classes; said
            before hours of work and not after.
    """
    known = {format.name: format for format in kind.formats}
    for name in names:
        if name not in known and name != ALL:
            what = f"a model of {kind.name} gives no {name}"
            raise UserError(what, where="--format", fix=f"one of {', '.join([*known, ALL])}; {closest(name, known)}")
    chosen = [
        format
        for format in kind.formats
        if format.use == "always" or format.name in names or (format.use == "usual" and not names)
    ]
    for format in chosen:
        format.check(cases, class_names)
    for format in kind.formats if ALL in names else ():
        if format not in chosen:
            try:
                format.check(cases, class_names)
            except UserError as error:
                notice(f"no {format.name}: {error.what}")
            else:
                chosen.append(format)
    return chosen


def flat_files(cases: Sequence[Case], _: bool = True) -> dict[str, Path]:
    """A jpg for each case: its path, flattened, so that no two are one."""
    flat = {case.name: case.name.strip("/").replace("/", "__") for case in cases}
    flat = {name: text if text.endswith(".jpg") else f"{text}.jpg" for name, text in flat.items()}
    number = Counter(flat.values())
    return {name: Path(text if number[text] == 1 else f"{quote(name, safe='')}.jpg") for name, text in flat.items()}


def own_files(ending: str, stem: Callable[[str], str], cases: Sequence[Case], _: bool = True) -> dict[str, Path]:
    """A file for each case in its folder; two that differ in their endings alone keep them.

    Args:
        stem: a name without its ending.
    """
    stems = {case.name: stem(case.name.lstrip("/")) for case in cases}
    number = Counter(stems.values())
    return {name: Path(f"{plain if number[plain] == 1 else name.lstrip('/')}{ending}") for name, plain in stems.items()}
