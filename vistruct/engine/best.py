"""Which weights of a run are its model: those that measured best on held-out data, or the last ones.

A new best is saved as a checkpoint of its own step (`checkpoint.save.commit` keeps it as long as it is the best of one
that stays), and how the run stands is a part of every checkpoint: a run that was killed goes on to the same choice.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vistruct.checkpoint.manifest import Standing
from vistruct.checkpoint.restore import restore
from vistruct.checkpoint.save import fault_of_all, step_name, write_json
from vistruct.config import Judge, Run
from vistruct.distributed.ranks import barrier
from vistruct.engine.average import averages, in_place
from vistruct.engine.run import State
from vistruct.engine.ship import ship
from vistruct.errors import UserError, closest
from vistruct.files.json_files import read_cached

LAST, RESULT = "last", "result.json"
MOST_NUMBERS = 6  # of an evaluation in the last lines of a run


def judged(judge: Judge, standing: Standing, step: int, numbers: Mapping[str, float]) -> Standing:
    """How a run stands after an evaluation.

    Args:
        numbers: by EVALUATION/NUMBER.

    Raises:
        UserError: the number that it is judged by is none of them.
    """
    if judge.name not in numbers:
        what = f"the run is judged by {judge.name}, which was not measured"
        raise UserError(what, where="best_by", fix=closest(judge.name, numbers))
    value = numbers[judge.name]
    last = value if math.isfinite(value) else None
    if judge.is_better(value, standing.best):
        return Standing(best_step=step, best=value, last=last)
    return Standing(best_step=standing.best_step, best=standing.best, last=last, since=standing.since + 1)


def is_out_of_patience(run: Run, standing: Standing) -> bool:
    """Whether so many evaluations brought nothing better that the run ends."""
    return run.patience is not None and standing.since >= run.patience


def leave_models(state: State, measure: Callable[[], object], say: Callable[[str], None]) -> None:
    """Ship the run's model, and where that is not of the last step, the last one too, in `last/`.

    All ranks call it together, with the last checkpoint written. The state is afterwards that of what was shipped.

    Args:
        measure: asks the task of the state all evaluations of the run.

    Raises:
        UserError: as `engine.ship.ship`.
    """
    place, last_step, best_step = state.out_dir / LAST, state.step, state.standing.best_step
    goes_back = state.run.keep_model == "best" and best_step is not None and best_step != last_step
    kept = state.out_dir / "checkpoints" / step_name(best_step or 0)
    if goes_back and (wrong := fault_of_all(kept)) is not None:
        say(f"WARNING: the best step's checkpoint, {kept.name}, is damaged ({wrong}): model/ is of the last step")
        goes_back = False
    if state.run.keep_model == "best" and state.run.evals and best_step is None:
        say("WARNING: no evaluation gave a finite number to choose by: model/ is of the last step")
    if goes_back:
        if state.ranks.is_main:
            _keep_evaluations(state.out_dir, place, last_step)
        with in_place(state.average):
            ship(state, place, note=weights_in_words(state, LAST))
        state.step = restore(kept, model=state.model, optimizer=state.optimizer, average=averages(state.average))
        measure()
    elif state.ranks.is_main:
        shutil.rmtree(place, ignore_errors=True)
    if state.ranks.is_main:
        write_json(state.out_dir / RESULT, result_of(state, last_step))
    if state.average is not None:
        state.average.settle()
        state.average = None
    ship(state, state.out_dir, note=weights_in_words(state, "model" if goes_back else ""))
    barrier()


def _keep_evaluations(out_dir: Path, place: Path, step: int) -> None:
    """What was measured after the last step, beside the weights of that step."""
    for file in sorted((out_dir / "evaluations").glob("*.json")):
        if (read_cached(file, dict[str, Any]) or {}).get("step") == step:
            (place / "evaluations").mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place / "evaluations" / file.name)


def result_of(state: State, last_step: int) -> dict[str, Any]:
    """What `result.json` says: the step of model/, and the best and the last figure of what the run is judged by."""
    judge, standing = state.run.judge, state.standing
    return {
        "step": state.step,
        "last_step": last_step,
        "planned_steps": state.run.steps,
        "metric": None if judge is None else judge.name,
        "higher_is_better": None if judge is None else judge.higher_is_better,
        "best_step": standing.best_step,
        "best": standing.best,
        "last": standing.last,
        "ema": state.run.ema,
    }


def weights_in_words(state: State, kept_as: str) -> str:
    """Which step's weights these are, for their card; "": of a run that was judged by nothing.

    Args:
        kept_as: `model` or `last`, where a run leaves both.
    """
    judge, standing = state.run.judge, state.standing
    if judge is None or standing.best is None or standing.best_step is None:
        return ""
    best = f"{judge.name} {standing.best:.4g} at step {standing.best_step:,}"
    last = "not finite" if standing.last is None else f"{standing.last:.4g}"
    if kept_as == LAST:
        return f"of the last step ({last}); the best, {best}, is `model/`"
    if kept_as:
        return f"the best by {best}, chosen on that data; the last step's ({last}) are in `{LAST}/`"
    return f"of the last step ({judge.name} {last}); the best evaluation was {best}"


def last_lines(state: State) -> list[str]:
    """A finished run in a few lines: its numbers, its best step, where its report is."""
    result = read_cached(state.out_dir / RESULT, dict[str, Any])
    if result is None:
        return []
    lines = []
    for name in state.run.evals:
        kept = read_cached(state.out_dir / "evaluations" / f"{name}.json", dict[str, Any]) or {}
        numbers = {one: value for one, value in kept.get("numbers", {}).items() if "/" not in one and value is not None}
        told = ", ".join(f"{one} {value:.4g}" for one, value in list(numbers.items())[:MOST_NUMBERS])
        lines.append(f"{name}, step {kept.get('step') or 0:,}: {told or 'no number that is finite'}")
    if (early := result["last_step"]) < result["planned_steps"]:
        lines.append(f"ended early, after step {early:,} of {result['planned_steps']:,}: patience={state.run.patience}")
    if result["best"] is not None:
        best = f"best by {result['metric']}: {result['best']:.4g}, step {result['best_step']:,}"
        last = "" if result["last"] is None else f"; last: {result['last']:.4g}, step {result['last_step']:,}"
        where = f" (model/ is the best, {LAST}/ the last)" if result["step"] != result["last_step"] else ""
        averaged = "" if state.run.ema is None else ", of the averaged weights (EMA)"
        lines.append(best + last + where + averaged)
    report = state.out_dir / "report.html"
    return [*lines, *([f"report: {report}"] if report.exists() else [])]
