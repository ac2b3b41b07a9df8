"""A recipe or a saved run, trained: `vistruct.train("segment", data="fields")`, and `vistruct train`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.options import called, taken

if TYPE_CHECKING:
    from vistruct.config import Run
    from vistruct.inference.model import Model

RUNS = Path("runs")
WORDS = ("config", "set", "lora", "tiny", "devices", "out")  # of `train` itself, beside those of recipes


@dataclass(frozen=True, kw_only=True)
class Best:
    """What a run is judged by, and its best step."""

    metric: str  # EVALUATION/NUMBER
    value: float
    step: int
    higher_is_better: bool | None


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run that has ended, by its directory."""

    path: Path

    @property
    def metrics(self) -> dict[str, float]:
        """By EVALUATION/NUMBER, of the weights in model/; NaN where nothing could be measured; {}: nothing was."""
        from vistruct.reports.measured import read_evaluations

        every = read_evaluations(self.path)
        return {f"{one.name}/{number}": value for one in every for number, value in one.numbers.items()}

    @property
    def best(self) -> Best | None:
        """None: nothing was measured that tells which step is best."""
        from vistruct.files.json_files import read_cached

        found = read_cached(self.path / "result.json", dict[str, Any]) or {}
        if found.get("best") is None:
            return None
        metric, value, step, higher = (found[key] for key in ("metric", "best", "best_step", "higher_is_better"))
        return Best(metric=metric, value=value, step=step, higher_is_better=higher)

    @property
    def report(self) -> Path:
        """A page with its curves, pictures and numbers."""
        return self.path / "report.html"

    def model(self, *, device: str | None = None, task: str = "") -> Model:
        """To predict with, as `vistruct.load` gives it.

        Raises:
            UserError: as `vistruct.load`.
        """
        from vistruct.inference.model import load

        return load(self.path, device=device, task=task)


def train(
    recipe: str | None = None,
    *,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    lora: str | Path | None = None,
    tiny: bool = False,
    devices: int = 1,
    out: str | Path | None = None,
    **options: Any,
) -> TrainedRun:
    """Train a recipe or a saved run, or resume it: the same call again goes on from the last checkpoint.

    Args:
        recipe: a name of `vistruct recipes`.
        config: a saved run.yaml, in place of a recipe.
        set: values of the run that are changed: {"optim.lr": 1e-4}, or ["optim.lr=1e-4"].
        lora: adapters that are added to the initial weights.
        tiny: the recipe's small twin, which takes no options.
        devices: processes, one for each device.
        out: directory of the run; None: runs/RECIPE-..., by what the run is.
        options: those of the recipe with underscores, which `vistruct train RECIPE --help` lists: `val_split="val"`.

    Raises:
        UserError: no such recipe or option (with the nearest), data or values that do not fit, what the user can mend.
        SystemExit: a SIGTERM or SIGHUP came; the state is saved.
    """
    from vistruct.config import read_run
    from vistruct.files.in_use import check_free

    asked = f"vistruct.train({recipe!r})" if config is None else f"vistruct.train(config={str(config)!r})"
    if config is not None:
        if recipe is not None or tiny or options:
            what = "a saved run says all of itself"
            raise UserError(what, where=asked, fix='change its values: set={"steps": 300}')
        run = read_run(Path(config))
    elif recipe is None:
        raise UserError("no recipe given", where=asked, fix="name one first: `vistruct recipes` lists them")
    else:
        if tiny and options:
            fix = 'change values: set={"steps": 3}'
            raise UserError(f"tiny takes no options, got {next(iter(options))!r}", where=asked, fix=fix)
        values = {} if tiny else taken(find(recipe).recipe, options, WORDS, asked)
        run = run_of(recipe, values, tiny=tiny, asked=asked)
    run = with_lora(changed(run, set), None if lora is None else Path(lora))
    place = Path(out) if out is not None else default_dir(run, None if config is None else Path(config))
    check_free(place)
    if devices > 1:
        code = launched(run, place, devices)
        if code:
            fix = "what its processes said is the reason"
            raise UserError(f"training ended with exit status {code}", where=place, fix=fix)
        return TrainedRun(path=place)
    from vistruct.distributed.ranks import leave
    from vistruct.runs import train_and_report

    try:
        return TrainedRun(path=train_and_report(run, place))
    finally:
        leave()


def run_of(recipe: str, values: Mapping[str, Any], *, tiny: bool = False, asked: str = "") -> Run:
    """The run of a recipe.

    Args:
        values: of its options, by name.
        asked: who asks, for errors.

    Raises:
        UserError: no such recipe; a value that a part of the run does not take.
    """
    from pydantic import ValidationError

    from vistruct.config import Run, explain

    module = find(recipe)
    try:
        run = module.tiny() if tiny else called(module.recipe, values)
    except ValidationError as error:
        raise explain(error, Run, asked) from error
    return run if run.recipe else run.model_copy(update={"recipe": recipe})


def changed(run: Run, set: Mapping[str, Any] | Sequence[str]) -> Run:
    """The run with single values changed.

    Raises:
        UserError: as `settings.with_settings`.
    """
    from vistruct.settings import settings_of, with_settings

    settings = settings_of(set)
    return with_settings(run, settings) if settings else run


def with_lora(run: Run, lora: Path | None) -> Run:
    """The run, begun with these adapters too.

    Raises:
        UserError: it has some already; it begins with random weights, which no adapter was trained beside.
    """
    if lora is None:
        return run
    if run.adapters is not None:
        what = f"this run begins with the adapters of {run.adapters} already"
        raise UserError(what, where=f"--lora {lora}", fix="leave --lora out, or --set adapters=null beside it")
    if run.init is None and all(stream.start is None for stream in run.streams.values()):
        what = "adapters belong to weights, and this run begins with random ones"
        raise UserError(what, where=f"--lora {lora}", fix="--backbone with the weights that they were trained beside")
    return run.model_copy(update={"adapters": lora})


def default_dir(run: Run, config: Path | None = None) -> Path:
    """`runs/RECIPE-1a2b3c`, from what the run is, so that the same command finds its directory again.

    A saved run that is repeated from its own directory gets a new one beside it.
    """
    from vistruct.config import run_to_yaml

    short = hashlib.sha256(run_to_yaml(run).encode()).hexdigest()[:6]
    place = first = RUNS / f"{(run.recipe or 'run').replace('.', '-')}-{short}"
    number = 1
    while config is not None and (
        place.resolve() == config.resolve().parent or any((place / "model").glob("**/model.json"))
    ):
        number += 1
        place = first.with_name(f"{first.name}-{number}")
    return place


def launched(run: Run, out_dir: Path, devices: int) -> int:
    """Train in one process for each device, each with the resolved run; 0, or the exit status of one that failed."""
    from vistruct.config import run_to_yaml
    from vistruct.distributed.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(run_to_yaml(run))
        argv = ["-m", "vistruct.cli.main", "train", "--config", str(file), "--out", str(out_dir)]
        return launch(argv, devices)
