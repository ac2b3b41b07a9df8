"""What the page's visitors do, without the page: open a run, choose or bring an image, ask, take files home.

A visit has a folder of its own for what was uploaded and what was written; it goes with the visit, and all go with the
server. A file on this machine is only ever read where the run's own data or a folder named at the start has it: the
page sends names, and this list says which files they are.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.files.text import printable
from vistruct.files.volume_names import is_volume_file
from vistruct.inference.files import Results, predict_files
from vistruct.inference.kind import Asked, Done, Exchange
from vistruct.inference.model import Model, load
from vistruct.inference.scenes import Case
from vistruct.inference.view import Frames, View

Runs = Mapping[str, Callable[[], Model]]
MOST_CHOICES = 1000  # images of a folder in the list
MOST_EXAMPLES = 24  # of the run's own data


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An image (or pair, or volume) that can be chosen by its name."""

    case: Case
    question: str = ""  # that its data ask about it


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run that is ready, and what can be chosen for it."""

    model: Model
    choices: Mapping[str, Choice]
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Visit:
    """One browser tab: where it is and what it has seen."""

    folder: Path
    run: str = ""
    choices: dict[str, Choice] = field(default_factory=dict)  # the run's, and what was uploaded
    name: str = ""  # of the choice
    case: Case | None = None
    frames: Frames | None = None
    done: Done | None = None
    view: View | None = None
    frame: int = 0  # that is shown
    told: list[str] = field(default_factory=list)  # of what was found, in sum
    files: list[Path] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)  # of the dialogue, as the page shows them
    asked: int = 0  # questions so far
    last: Asked = field(default_factory=Asked)
    drawn: str = "[]"  # the regions of the last question, as the page has them
    history: list[Exchange] = field(default_factory=list)
    number: int = 0  # folders so far

    def next_folder(self, name: str) -> Path:
        """A new one in the visit's own."""
        self.number += 1
        folder = self.folder / f"{name}{self.number}"
        folder.mkdir(parents=True)
        return folder

    def forget_answers(self) -> None:
        """What was found is about another image or by another model."""
        self.done, self.view, self.files, self.turns, self.history, self.drawn = None, None, [], [], [], "[]"

    def end(self) -> None:
        """Remove all that the visit has left on disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def runs_named(paths: Sequence[Path]) -> Runs:
    """Runs or their model directories by the names of their folders, as far as these differ."""
    names = Counter(path.resolve().name for path in paths)
    return {
        printable(path.resolve().name if names[path.resolve().name] == 1 else str(path)): partial(load, path)
        for path in dict.fromkeys(paths)
    }


class Desk:
    """The runs that a page offers; each is opened when it is first asked for, and stays open."""

    def __init__(self, runs: Runs, folders: Sequence[Path], scratch: Path) -> None:
        """
        Args:
            runs: by name, how each is opened.
            folders: images that may be chosen, beside those of the runs' own data.
            scratch: folder for the visits' own.
        """
        self.runs, self.folders, self.scratch = runs, tuple(folders), scratch
        self._opened: dict[str, Opened] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> Opened:
        """
        Raises:
            UserError: no such run here, or one that cannot be opened.
        """
        if name not in self.runs:
            raise UserError("this page has no such run", where=name, fix=f"one of {', '.join(self.runs)}")
        with self._lock:
            if name not in self._opened:
                model = self.runs[name]()
                choices, notes = _choices(model, self.folders)
                self._opened[name] = Opened(model=model, choices=choices, notes=(*model.card.notes, *notes))
        return self._opened[name]

    def visit(self) -> Visit:
        return Visit(folder=Path(tempfile.mkdtemp(prefix="visit", dir=self.scratch)))

    def enter(self, visit: Visit, run: str) -> Opened:
        """Go to a run; what was uploaded stays, where this kind of model can look at it."""
        opened = self.open(run)
        kept = {
            name: one for name, one in visit.choices.items() if one.case.files and _is_below(one.case, visit.folder)
        }
        visit.run, visit.choices = run, {**kept, **opened.choices}
        visit.name, visit.case, visit.frames = "", None, None
        visit.forget_answers()
        return opened

    def bring(self, visit: Visit, files: Sequence[Path]) -> str:
        """Take uploaded files over as images that can be chosen; the name of the first.

        Raises:
            UserError: files that this kind of model cannot look at.
        """
        model = self.open(visit.run).model
        folder, brought = visit.next_folder("upload"), []
        for file in files:
            place = folder / Path(file).name
            os.replace(file, place)
            brought.append(place)
        is_series = model.input.slices is not None and not any(is_volume_file(file) for file in brought)
        cases = model.kind.cases(model, [folder] if is_series else brought)
        names = []
        for case in cases:
            name = printable(case.name if case.files != (Path(case.name),) else Path(case.name).name)
            name = name if name not in visit.choices else f"{name} ({visit.number})"
            names.append(name)
            visit.choices = {name: Choice(case=replace(case, name=name)), **visit.choices}
        return names[0]

    def choose(self, visit: Visit, name: str) -> Frames:
        """
        Raises:
            UserError: no such image in the list, or one that cannot be read.
        """
        if name not in visit.choices:
            raise UserError("no such image here", where=name, fix="choose one of the list, or upload it")
        model, case = self.open(visit.run).model, visit.choices[name].case
        frames = model.kind.frames(model, case)
        visit.name, visit.case, visit.frames = name, case, frames
        visit.forget_answers()
        visit.asked += 1  # the files of another image are others
        return frames

    def ask(self, visit: Visit, asked: Asked, formats: Sequence[str] = ()) -> View:
        """Run the model on what is chosen (or take what it found before) and write the files.

        Raises:
            UserError: nothing is chosen, or as `predict_files`.
        """
        if visit.case is None:
            raise UserError("no image is chosen", fix="upload one, or choose one of the list")
        model = self.open(visit.run).model
        home = visit.folder / f"found{visit.asked}"
        results = predict_files(model, [visit.case], home, formats=tuple(formats), asked=asked)
        done, kind = results.done[0], model.kind
        if asked.question is not None and asked is not visit.last:
            answer = Exchange(question=asked.question, regions=asked.regions, answer=done.read())
            visit.history = [*visit.history, answer]
        visit.last = asked
        visit.done, visit.told = done, results.told.lines
        visit.files = _to_take(results, visit.next_folder("take"))
        visit.view = View(words="\n".join(visit.told)) if kind.view is None else kind.view(model, done)
        return visit.view


def _choices(model: Model, folders: Sequence[Path]) -> tuple[dict[str, Choice], list[str]]:
    """Those of folders, then of the run's data; and what is to be said of them."""
    found: dict[str, Choice] = {}
    notes = []
    if folders:
        try:
            cases = model.kind.cases(model, list(folders))
        except UserError as error:
            cases = []
            notes.append(f"--images: {error.what} ({error.where})")
        if len(cases) > MOST_CHOICES:
            notes.append(f"the list has the first {MOST_CHOICES} of {len(cases)} images")
        found |= {printable(case.name): Choice(case=case) for case in cases[:MOST_CHOICES]}
    try:
        examples = _examples(model) if "run" in model.card.values else {}
    except (UserError, OSError, ValueError) as error:  # its data may have moved, or need what is not installed
        examples = {}
        notes.append(f"no examples of the run's own data: {str(error).splitlines()[0]}")
    return {**found, **examples}, notes


def _examples(model: Model) -> dict[str, Choice]:
    """Images that the run was measured on, evenly spaced, as far as they are still there."""
    run = model.card.run
    data = [one.data for one in run.evals.values()] or [one.data for one in run.streams.values()]
    records = data[0].build().records
    cases: dict[str, Choice] = {}
    step = max(1, len(records) // (4 * MOST_EXAMPLES))  # of slices and windows, many are of one case
    for number in range(0, len(records), step):
        record = records[number]
        name = printable(record.image_id)
        question = next((turn.text for turn in record.turns if turn.role == "user"), "")
        if name not in cases and all(Path(file).exists() for file in Case(pictures=record.images, name=name).files):
            cases[name] = Choice(case=Case(pictures=record.images, name=name), question=question)
        if len(cases) == MOST_EXAMPLES:
            break
    return cases


def _is_below(case: Case, folder: Path) -> bool:
    return all(file.is_relative_to(folder) for file in case.files)


def _to_take(results: Results, folder: Path) -> list[Path]:
    """Each file that was written, those of folders too, under a name that says its format where two are alike."""
    found: dict[Path, str] = {}
    for format, place in results.files.items():
        for file in [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file()):
            found.setdefault(file, format)
    names = Counter(file.name for file in found)
    taken = []
    for number, (file, format) in enumerate(found.items()):
        name = file.name if names[file.name] == 1 else f"{format}-{file.name}"
        place = folder / name if not (folder / name).exists() else folder / f"{number}-{name}"
        os.link(file, place)
        taken.append(place)
    return taken


def streamed(work: Callable[[Callable[[str], None]], Any]) -> Iterator[tuple[str, Any]]:
    """Run `work(say)` in a thread: ("said", text) for each that it says, at last ("done", what it gives).

    Raises:
        Exception: what `work` raised.
    """
    said: queue.Queue[tuple[str, Any]] = queue.Queue()

    def run() -> None:
        try:
            said.put(("done", work(lambda text: said.put(("said", text)))))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            said.put(("failed", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        what, value = said.get()
        if what == "failed":
            raise value
        yield what, value
        if what == "done":
            return
