"""The loop. Pretraining, fine-tuning and everything between differ in the task and the recipe, never here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from vistruct.checkpoint.saver import Saver
from vistruct.config import Run
from vistruct.contracts import Watching
from vistruct.data.loading.fetch import aloud
from vistruct.data.loading.loader import Loader
from vistruct.data.loading.streams import JointCollator, Streams, learners, seed_of, turns_before
from vistruct.distributed.ranks import any_rank, barrier, setup
from vistruct.distributed.shard import gathered
from vistruct.engine.average import averages, in_place
from vistruct.engine.best import is_out_of_patience, judged, last_lines, leave_models
from vistruct.engine.environment import compute_seconds
from vistruct.engine.evaluate import keep_measured, measure, watched
from vistruct.engine.introduce import announce_maps, introduce, tell_replaced, tell_unused
from vistruct.engine.log import RunLog
from vistruct.engine.lora import AdapterWatch
from vistruct.engine.memory import fit_to_memory, next_split
from vistruct.engine.run import State, build, resume
from vistruct.engine.run_dir import note_data, note_plan, note_run, open_run_dir
from vistruct.engine.snapshots import write_snapshot
from vistruct.engine.step import train_step
from vistruct.engine.stop import EXIT_CODE, StopRequest
from vistruct.engine.trackers import check_trackers, open_trackers
from vistruct.progress import tracking


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run under way."""

    state: State
    log: RunLog
    stop: StopRequest
    progress: Progress | None = None  # a bar of a larger job to show the steps in


def train(
    run: Run,
    out_dir: Path,
    *,
    progress: Progress | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train from the start, or from where this run directory stands; `runs.train_and_report` also draws and reports.

    Args:
        progress: a bar of a larger job to show the steps in; the run's words then go to train.log alone.
        on_step: told of each step done, with its metrics and `compute_seconds`: what it and its data took of the
            processor, or of the accelerator (`environment.compute_seconds`).

    Returns:
        `out_dir`, with `model/` and `backbone/` in it.

    Raises:
        UserError: whatever the user can mend; NonFiniteGradient is one.
        SystemExit: a SIGTERM or SIGHUP came; the state is saved.
    """
    with started(run, out_dir, progress=progress) as training:
        train_steps(training, on_step)
    return out_dir


@contextmanager
def started(
    run: Run, out_dir: Path, *, progress: Progress | None = None, index: Path | None = None
) -> Generator[Training]:
    """A run that is ready for its next step, and its log, which says at the end how it came out.

    Args:
        progress: as `train`.
        index: as `engine.run.build`.

    Raises:
        UserError: as `train`.
    """
    check_trackers(run.log)
    ranks = setup()
    with (
        open_run_dir(run, out_dir, ranks),
        RunLog(out_dir, quiet=not ranks.is_main, aloud=progress is None) as log,
        StopRequest() as stop,
    ):
        state = build(run, out_dir, ranks, index)
        note_data(
            {name: source.dataset.info for name, source in state.sources.items()},
            {name: dataset.info for name, dataset in state.eval_datasets.items()},
            out_dir,
            ranks,
        )
        fit_to_memory(state, log.say)
        note_run(state.run, out_dir, ranks)
        note_plan(state.plan, out_dir, ranks)
        introduce(state, log.say)
        announce_maps(state, log.say)
        resume(state, log.say)
        yield Training(state=state, log=log, stop=stop, progress=progress)
        barrier()
        log.say("\n".join([*last_lines(state), f"finished: {out_dir}"]))


def train_steps(training: Training, on_step: Callable[[int, dict[str, float]], None] | None = None) -> None:
    """The steps that are left, measured, saved and said; at the end the model is shipped.

    Raises:
        UserError, SystemExit: as `train`.
    """
    state, log, stop = training.state, training.log, training.stop
    run, ranks = state.run, state.ranks
    log.open_at(state.step, lambda: open_trackers(run, state.out_dir))
    first, stopping, keeps_best = state.step, False, run.keep_model == "best"
    bar = tracking(state.out_dir.name, state.step, run.steps, quiet=not ranks.is_main, progress=training.progress)
    if state.step == 0:
        for source in state.sources.values():
            if source.task.traits.before_step is not None:  # what is measured first may be a teacher
                source.task.traits.before_step(0, run.steps)
        if before := evaluate_all(state, log.say, due_evals(run, before=True), before=True):
            log.write(0, before)
    feed, watch = Feed(state, log.say), AdapterWatch(state.model, resumed=state.step > 0)
    is_over = state.step == run.steps or is_out_of_patience(run, state.standing)
    with saver_of(state, log.say) as saver, closing(feed), bar as show:
        while not is_over and not stopping:
            began = compute_seconds(state.device)
            metrics = train_step(state, next(feed))
            spent = compute_seconds(state.device) - began
            show(state.step, f"loss {metrics['loss']:.4g}  {metrics['samples_per_second']:.3g} samples/s")
            if state.step == first + 1:
                tell_unused(state, log.say)
            if metrics.get("overflow"):
                scale = metrics["loss_scale"]
                log.say(f"step {state.step:,}: gradients overflow in fp16: the step is skipped, scale {scale:g} now")
            is_over = state.step == run.steps
            watch.after_step(is_last=is_over)
            if state.step in run.snapshots:  # before any checkpoint that a run could go on from behind it
                with in_place(state.average):
                    log.say(f"adapters after step {state.step:,}: {write_snapshot(state)}")
            if on_step is not None:
                on_step(state.step, {**metrics, "compute_seconds": spent})

            line: dict[str, float] = {}
            if due(state.step, run.log_every, last=run.steps):
                line |= metrics
            is_best = False
            if due(state.step, run.eval_every, last=run.steps):
                line |= evaluate_all(state, log.say, due_evals(run, at_end=is_over))
                is_best, gives_up = stand(state, line, log.say)
                if gives_up and not is_over:
                    is_over = True
                    line |= metrics | evaluate_all(state, log.say, due_evals(run, along=False, at_end=True))
            if line:
                log.write(state.step, line)
            stopping, broken = any_rank(stop.requested, saver.failed)
            if broken:
                saver.finish()  # says why, on every rank
            if stopping or is_over or (is_best and keeps_best) or due(state.step, run.save_every, last=run.steps):
                log.flush()
                scaler = None if state.scaler is None else state.scaler.state_dict()
                saver.save(state.step, state.model, state.optimizer, state.standing, averages(state.average), scaler)
    tell_replaced(feed.loader, log.say)
    for maps in (state.maps, *(one.maps for one in state.teachers)):
        if maps is not None:
            maps.tell(log.say)
    if not is_over:
        log.say(f"{stop.name}: saved at step {state.step}; the same command resumes from there")
        raise SystemExit(EXIT_CODE)
    log.flush()
    leave_models(state, lambda: evaluate_all(state, log.say, due_evals(run, at_end=True)), log.say)


class Feed:
    """The micro-batches of one step after the other, smaller ones from where memory ran out."""

    def __init__(self, state: State, say: Callable[[str], None]) -> None:
        self.state, self.say = state, say
        self._open()
        if state.cuts_again:
            state.smaller = self.smaller

    def _open(self) -> None:
        self.loader = loader_of(self.state, self.say)
        self.batches = iter(self.loader)

    def __next__(self) -> Any:
        return next(self.batches)

    def close(self) -> None:
        """End the loader's workers."""
        self.batches.close()

    def smaller(self) -> Any | None:
        """The step that the state is at once more, in at least twice as many micro-batches; None: they are single
        samples already."""
        number = next_split(self.state)
        if number is None:
            return None
        before = self.state.run.pieces
        self.close()
        tell_replaced(self.loader, self.say)
        self.state.run = self.state.run.model_copy(update={"accumulate": number})
        note_run(self.state.run, self.state.out_dir, self.state.ranks)
        said = f"step {self.state.step + 1:,}: out of memory with micro-batches of 1/{before} of the batch"
        self.say(f"{said}: of 1/{number} from now on; the batch is the same")
        self._open()
        return next(self)


def due(step: int, every: int | str | None, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and after the last one, happens after `step`."""
    return step == last or (isinstance(every, int) and step % every == 0)


def stand(state: State, line: Mapping[str, float], say: Callable[[str], None]) -> tuple[bool, bool]:
    """Judge what was measured after this step: whether it is the best so far, and whether that was waited for in vain.

    Raises:
        UserError: as `engine.best.judged`.
    """
    run, judge = state.run, state.run.judge
    is_asked = run.keep_model == "best" or run.patience is not None or run.best_by
    if judge is None or (judge.name not in line and (run.evals[judge.evaluation].at_end or not is_asked)):
        return False, False
    state.standing = judged(judge, state.standing, state.step, line)
    is_best = state.standing.best_step == state.step
    told = f"step {state.step:,}: {judge.name} {line[judge.name]:.4g}"
    best = "" if is_best or state.standing.best is None else f" (best {state.standing.best:.4g})"
    if run.eval_every is not None:
        say(told + (", the best so far" if is_best else best))
    return is_best, is_out_of_patience(run, state.standing)


def loader_of(state: State, say: Callable[[str], None] = aloud) -> Streams:
    """The training batches of this rank from the state's step on; `say` is told of images that were replaced."""
    run, turns = state.run, turns_before(state.run, state.step)
    loaders = {}
    sources = {name: source for name, source in state.sources.items() if not source.stream.samples}
    for name, source in sources.items():
        pack = source.stream.pack
        costs = source.costs if pack is not None else None
        collators = {one: state.sources[one].task.collator for one in learners(run, name)}
        loaders[name] = Loader(
            source.dataset,
            collators[name] if len(collators) == 1 else JointCollator(collators=collators),
            batch=source.stream.batch,
            accumulate=run.pieces,
            seed=seed_of(run, name),
            workers=-(-run.workers // len(sources)),
            rank=state.ranks.rank,
            world=state.ranks.world,
            first_step=turns[name],
            costs=costs,
            work=None if costs is None else source.task.traits.work(costs),
            pack=pack,
            say=say,
        )
    return Streams(run, loaders, state.step)


def due_evals(run: Run, *, along: bool = True, at_end: bool = False, before: bool = False) -> list[str]:
    """The evaluations that are measured now.

    Args:
        along: those that are measured along the way.
        at_end: those that are measured at the end only.
        before: it is before the first step, when only what watches over a run is measured.
    """
    return [
        name
        for name, one in run.evals.items()
        if (at_end if one.at_end else along) and (not before or isinstance(one.metric, Watching))
    ]


def evaluate_all(
    state: State, say: Callable[[str], None], names: Sequence[str], *, before: bool = False
) -> dict[str, float]:
    """`<evaluation>/<metric>` of evaluations of the run; the rest goes to `evaluations/`.

    Args:
        say: is told of alarms.
        before: the first step.
    """
    line: dict[str, float] = {}
    if not names:
        return line
    with in_place(state.average), gathered(state.model):
        for name in names:
            asked = state.run.evals[name]
            source, dataset = state.asked(name), state.eval_datasets[name]
            batch = source.microbatch(state.ranks.world, state.run.pieces)
            measured = measure(
                source.task, asked, state.device, batch, state.run.workers, dataset=dataset, amp=state.amp
            )
            line |= {f"{name}/{metric}": value for metric, value in measured.numbers.items()}
            if state.ranks.is_main:
                metric: Any = asked.metric
                path = state.out_dir / "evaluations" / f"{name}.json"
                if before:
                    path.unlink(missing_ok=True)  # of an attempt that never came to a checkpoint
                measured = watched(path, metric, measured)
                for alarm in measured.details.get("alarms", ()):
                    say(f"{name}, step {state.step:,}: {alarm}")
                keep_measured(path, metric.kind, state.step, measured)
    return line


def saver_of(state: State, say: Callable[[str], None]) -> Saver:
    """What writes this run's checkpoints."""
    return Saver(
        state.out_dir / "checkpoints",
        keep=state.run.keep,
        parallel=state.run.parallel,
        background=state.run.save_async,
        say=say,
    )
