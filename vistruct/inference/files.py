"""A model asked about many files: looked at one by one, kept, drawn, and written as others take it.

What was done stays done, also if this is interrupted; another model, other windows or another image of the same name
are looked at anew, and it is said. What cannot be read is left out and named at the end. No file that this folder's
predictions did not write is changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vistruct.errors import UserError, closest
from vistruct.files.owned import Owned, inside
from vistruct.files.text import printable
from vistruct.inference.cache import Parts
from vistruct.inference.kind import Asked, Done, EachFile, Kind, OneFile, Picture, Told, Use, Values, check_asked
from vistruct.inference.queue import check_queue, queue_file, queued
from vistruct.inference.scenes import Case
from vistruct.progress import notice, tracking

if TYPE_CHECKING:
    from vistruct.inference.model import Model

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
    cases = [replace(case, name=printable(case.name)) for case in cases]
    owned = Owned(target, "predict")
    asked = replace(asked or Asked(), quiet=False, scratch=owned.home)
    work = _Work(model, cases, owned, formats, asked)
    work.check()
    with owned.held():
        broken = _all_done(work)
        if broken and len(broken) == len(cases):
            raise broken[0][1]
        out = {case.name for case, _ in broken}
        done = [work.done(case) for case in cases if case.name not in out]
        if asked.queue is not None:
            done = queued(model.kind, done, asked.queue)
        files, made = work.written(done)
    return Results(done=done, broken=broken, told=model.kind.tell(model, done), files=files, made=made)


def _all_done(work: _Work) -> Broken:
    """Look at every case that is not done yet; the ones that could not be looked at."""
    ready, total, broken = work.begin(), len(work.cases), []
    if ready:
        notice(f"{work.owned.folder}: {len(ready)} of {total} {work.model.kind.what} were done before")
    left = [case for case in work.cases if case.name not in ready]
    with tracking("predicting", done=len(ready), total=total) as show:
        looked = looked_at(work.model, left, work.asked)
        every = itertools.chain(((case, None) for case in work.cases if case.name in ready), looked)
        for number, (case, found) in enumerate(every, 1):
            try:
                if isinstance(found, UserError):
                    raise found
                if found is None:
                    work.complete(case)
                else:
                    work.keep(case, found)
            except UserError as error:
                notice(f"{case.name} is left out: {error.what}")
                broken.append((case, error))
            show(number, case.name)
    return broken


class _Work:
    """What there is to do, and where everything goes."""

    def __init__(self, model: Model, cases: Sequence[Case], owned: Owned, formats: Sequence[str], asked: Asked) -> None:
        self.model, self.cases, self.owned, self.asked = model, cases, owned, asked
        check_asked(model.kind, model, cases, asked)
        if asked.queue is not None:
            check_queue(model.kind, asked.queue)
        self.chosen = chosen_formats(model.kind, formats, cases, model.class_names)
        if asked.probabilities and model.kind.probabilities is not None:
            self.chosen += model.kind.probabilities(model.class_names)
        if asked.queue is not None:
            self.chosen.append(queue_file(asked.queue))
        self.each = [format for format in self.chosen if isinstance(format, EachFile)]
        self.parts = Parts(owned.home / "parts", settings(model, asked))
        self.places: dict[str, dict[str, Path]] = {case.name: {} for case in cases}  # by case and format
        for format in self.each:
            for name, file in format.files(cases, bool(formats)).items():
                self.places[name][format.name] = owned.folder / format.folder / file

    def check(self) -> None:
        """
        Raises:
            UserError: a file would be written over that no prediction into this folder wrote.
        """
        others = {format.name for format in self.each if not self._is_current(format)}
        files = [self.owned.folder / format.file for format in self.chosen if isinstance(format, OneFile)]
        for case in self.cases:
            is_done, mine = self.is_done(case), self.places[case.name].items()
            files += [file for name, file in mine if not is_done or name in others or not file.is_file()]
        self.owned.check(files, [file for case in self.cases for file in case.files])

    def begin(self) -> set[str]:
        """What was written with other settings is removed; the names of the cases that are done."""
        if not self.parts.is_noted("settings", self.parts.settings):
            if (self.parts.folder / "settings.json").exists():
                what = "another model or another way to ask it than last time"
                notice(f"{self.owned.folder}: {what}; inference is run again on all {self.model.kind.what}")
            self.parts.note("settings", self.parts.settings)
        for format in self.each:
            if not self._is_current(format):
                for mine in self.places.values():
                    self.owned.remove(mine[format.name])
                self.parts.note(format.name, dict(format.settings(self.asked)))
        return {case.name for case in self.cases if self.is_done(case)}

    def _is_current(self, format: EachFile) -> bool:
        """Whether a format's files were written as they would be now."""
        own = dict(format.settings(self.asked))
        return not own or self.parts.is_noted(format.name, own)

    def is_done(self, case: Case) -> bool:
        """Whether it was looked at before; of an image in memory nobody knows that it is the same."""
        kept = [self.places[case.name][format.name] for format in self.each if format.is_kept]
        return bool(case.files) and self.parts.has(case.name, case.files) and all(file.is_file() for file in kept)

    def done(self, case: Case) -> Done:
        values, files = self.parts.read(case.name), self.places[case.name]

        def read() -> Any:
            return self._chosen(self.model.kind.unpack(self.model, case, values, files))

        return Done(case=case, values=values, read=read, is_all=self.asked.is_all)

    def _chosen(self, found: Any) -> Any:
        """Of a prediction what was asked for."""
        chosen = self.model.kind.chosen
        return found if chosen is None or self.asked.is_all else chosen(found, self.asked)

    def complete(self, case: Case) -> None:
        """Write the files that a case does not have yet, from what was kept of it."""
        mine = self.places[case.name]
        missing = [format for format in self.each if format.name in mine and not mine[format.name].is_file()]
        if missing:
            self._write(missing, case, self.done(case).read())

    def keep(self, case: Case, found: Any) -> None:
        """Write all files of a case; its part last, so that what is done has them."""
        self.parts.remove(case.name)
        self._write(self.each, case, self._chosen(found))
        self.parts.write(case.name, case.files, self.model.kind.pack(case, found))

    def _write(self, formats: Sequence[EachFile], case: Case, found: Any) -> None:
        for format in formats:
            file = self.places[case.name].get(format.name)
            if file is not None:
                with self.owned.making(file) as place:
                    format.write(self.model, case, found, place, self.asked)

    def written(self, done: Sequence[Done]) -> tuple[dict[str, Path], Path]:
        """What there is by format, the files about all cases being written now; and of these the one that there is, or
        that was asked for beside what is always written, else the folder of all."""
        names = {name for mine in self.places.values() for name in mine}
        files = {format.name: self.owned.folder / format.folder for format in self.each if format.name in names}
        for format in self.chosen:
            if isinstance(format, OneFile):
                file = self.owned.folder / format.file
                with self.owned.making(file) as place:
                    files[format.name] = file / format.write(self.model, done, place).relative_to(place)
        asked = [format for format in self.chosen if format.use != "always"] or self.chosen
        is_one = len(asked) == 1 and isinstance(asked[0], OneFile)
        return files, files[asked[0].name] if is_one else self.owned.folder


def looked_at(model: Model, cases: Sequence[Case], asked: Asked) -> Iterator[tuple[Case, Any]]:
    """Each case with its prediction, or with the error that there was; where several go through together and one of
    them cannot be read, one by one."""
    step = asked.batch if model.kind.at_once else 1
    for start in range(0, len(cases), step):
        some = cases[start : start + step]
        try:
            found: list[Any] = model.look(some, asked)
        except UserError as error:
            if len(some) == 1:
                yield some[0], error
            else:
                yield from looked_at(model, some, replace(asked, batch=1))
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
        **asked.said,
        "longest": model.longest,
        "choice": None if model.kind.chosen is not None or asked.is_all else asked.choice,
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


def picture_format(
    draw: Picture, *, use: Use = "always", settings: Callable[[Asked], Values] = lambda asked: {}
) -> EachFile:
    """Pictures of a kind of prediction: a jpg for each case."""

    def write(model: Model, case: Case, found: Any, file: Path, asked: Asked) -> None:
        draw(model, case, found, asked).save(file, quality=90)

    return EachFile(name="pictures", folder="pictures", files=flat_files, write=write, use=use, settings=settings)


def flat_files(cases: Sequence[Case], _: bool = True) -> dict[str, Path]:
    """A jpg for each case: its path, flattened, so that no two are one."""
    flat = {case.name: case.name.strip("/").replace("/", "__") for case in cases}
    flat = {name: text if text.endswith(".jpg") else f"{text}.jpg" for name, text in flat.items()}
    number = Counter(flat.values())
    return {name: inside(text if number[text] == 1 else f"{quote(name, safe='')}.jpg") for name, text in flat.items()}


def own_files(ending: str, stem: Callable[[str], str], cases: Sequence[Case], _: bool = True) -> dict[str, Path]:
    """A file for each case in its folder; two that differ in their endings alone keep them.

    Args:
        stem: a name without its ending.
    """
    stems = {case.name: stem(case.name.lstrip("/")) for case in cases}
    number = Counter(stems.values())
    return {
        name: inside(f"{plain if number[plain] == 1 else name.lstrip('/')}{ending}") for name, plain in stems.items()
    }
