"""`vistruct study`: one recipe from several initial weights, and what better initial weights are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, made, note, table
from vistruct.errors import UserError
from vistruct.study.asked import study_of, told

if TYPE_CHECKING:
    from vistruct.study.study import Study

OWN = (
    *(
        "--config",
        "--init",
        "--lora",
        "--fraction",
        "--seeds",
        "--tune",
        "--lr",
        "--metric",
        "--against",
        "--set",
        "--out",
    ),
    *("--teacher", "--teacher-option", "--from", "--budget", "--pretrain-seeds", "--pretrained-by"),
    *("--workers", "--threads", "--robust", "--dry-run", "--json"),
)


def command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A name from `vistruct recipes`.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A saved study.yaml, instead.")] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Initial weights: a run, a file, a name of `vistruct weights`, or `random`; repeatable.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]RECIPE",
            help="A way to pretrain, from each --from, with its controls; instead of --init; repeatable.",
        ),
    ] = None,
    teacher_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME.OPTION=VALUE",
            help="An option of a teacher's recipe, as masked.data=images/; or NAME.control=shuffled; repeatable.",
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="NAME=PATH",
            help="Pretrained weights that teachers start from, or `random`, the default; repeatable.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="samples=N|seconds=N", help="Of each teacher; by default the steps of its recipe."),
    ] = None,
    pretrain_seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions of each teacher's pretraining; 1 unless told.")
    ] = None,
    pretrained_by: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY", help="Directory of a study that has ended: its pretrainings, measured on this recipe."
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Adapters (LoRA) that the init NAME begins with too; FILE alone: one more init, the only other one "
            "with weights and these adapters; repeatable.",
        ),
    ] = None,
    fraction: Annotated[list[float] | None, typer.Option(help="Fraction of the labels; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Repetitions of everything; 3 unless told.")] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(metavar="head|lora|full", help="Of the backbone train nothing, adapters, or all; repeatable."),
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(metavar="[MODE=]RATE", help="Learning rate, of one mode or of all; repeatable."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What is compared; by default the usual one of the task.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Init to compare with, by default the random one; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of every run; repeatable.")
    ] = None,
    robust: Annotated[bool, typer.Option("--robust", help="Also measure under twelve corruptions.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the study; what it has is not run again.")] = Path(
        "runs/study"
    ),
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a device.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each run, on a CPU.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs and what they cost; run none.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    help: Annotated[bool, typer.Option("--help", "-h", help="Show this; with a recipe, its options.")] = False,
) -> None:
    """Measure what initial weights are worth: one recipe from several of them, paired by seed. Or which way to make
    them pays on these images, at equal compute.

    vistruct study detect --data train.json --val val.json --init random --init ours=runs/pretrained --fraction 0.1
    --fraction 1 --tune head --tune full

    vistruct study detect --data train.json --val val.json --teacher masked --teacher-option masked.data=images/
    --teacher labels --teacher-option labels.data=train.json --from random --budget samples=20000 --pretrain-seeds 3

    vistruct study segment --data fields --split train --val-split val --pretrained-by runs/study --out runs/fields

    Options of the recipe itself pass through; study.yaml, study.json and report.html are in --out.
    """
    if help:
        _help(context, recipe)
        return
    if recipe is not None and recipe.startswith("-"):  # an option that only a recipe knows came first
        raise UserError("no recipe given", fix="name one first: `vistruct recipes` lists them")
    given = told(
        init=init or (),
        teacher=teacher or (),
        teacher_option=teacher_option or (),
        origin=origin or (),
        budget=budget,
        pretrain_seeds=pretrain_seeds,
        pretrained_by=pretrained_by,
        lora=lora or (),
        fraction=fraction or (),
        seeds=seeds,
        tune=tune or (),
        lr=lr or (),
        metric=metric,
        against=against or (),
        settings=settings or (),
        robust=robust,
    )
    study = resolve(recipe, config, context.args, given)
    if dry_run:
        _describe(study, out, json=json)
        return
    note(f"study directory: {out}")
    from vistruct.study.runner import run_study

    found = run_study(study, out, workers=workers, threads=threads)
    if json:
        as_json(found)
        return
    show(found)
    made(out / "report.html")


def resolve(recipe: str | None, config: Path | None, options: Sequence[str], given: dict[str, Any]) -> Study:
    """The study that a command line asks for.

    Raises:
        UserError: neither or both of a recipe and a file, an option that does not fit.
    """
    from vistruct.recipes import find
    from vistruct.recipes.options import parse

    if config is not None and (recipe is not None or options):
        raise UserError("a saved study and a recipe at once", fix="leave one of them out")
    parsed = {} if recipe is None else parse(find(recipe).recipe, options, OWN)
    return study_of(recipe, config, parsed, given)


def show(found: dict[str, Any]) -> None:
    """Print the gains, and which teacher pays."""
    rows = []
    for gain in found["gains"]:
        ends = gain["bootstrap"]
        interval = "" if ends is None else f"[{ends[0]:+.4f}, {ends[1]:+.4f}]"
        wins = f"{gain['wins']} of {gain['pairs']}"
        about = [gain[key] for key in ("init", "against", "fraction", "tuning", "before", "after", "mean")]
        rows.append([*about, interval, wins, gain["verdict"]])
    level = f"{found['plan']['level']:.0%} interval"
    headers = ["init", "against", "fraction", "tuning", "before", "after", "gain", level, "better", "verdict"]
    if rows:
        table(headers, rows, title=found["metric"])
    else:
        pairs = [[trial["name"], trial["value"]] for trial in found["trials"]]
        table(["run", found["metric"]], pairs)
    for line in found["notes"]:
        note(line)
    if found["ring"] is not None:
        from vistruct.study.ring_report import sentences

        for line in sentences(found):
            note(line.replace("**", ""))


def _describe(study: Study, out: Path, *, json: bool) -> None:
    from vistruct.study.finished import written_out
    from vistruct.study.plan import plan_trials, study_jobs
    from vistruct.study.pretraining import pretraining_jobs
    from vistruct.study.results import chosen_metric
    from vistruct.study.runner import describe
    from vistruct.study.study import study_to_yaml

    resolved = written_out(study)
    written = resolved.study
    plan = plan_trials(written.unpretrained)
    metric = chosen_metric(written, plan.trials[0].run)
    first = [] if resolved.before is not None else pretraining_jobs(written, out)[0]
    rows = describe(plan, [*first, *study_jobs(written.unpretrained, plan, out, {}, metric)], out)
    if json:
        names = ("name", "steps", "samples", "lr", "state")
        listed = [dict(zip(names, row, strict=True)) for row in rows]
        as_json({"plan": study.model_dump(mode="json"), "metric": metric, "trials": listed, "notes": plan.notes})
        return
    typer.echo(study_to_yaml(study), nl=False)
    samples = sum(one.run.steps * one.run.only.batch for one in plan.trials)
    table(["trial", "steps", "samples", "rate", "state"], rows)
    note(f"{len(plan.trials)} trials, {samples:,} training samples; compared by {metric}")
    if resolved.before is not None:
        note(f"pretrainings: the {len(resolved.before.places)} of {study.pretrained_by}, which are there")
    elif written.budget is not None and written.budget.seconds is not None:
        note(
            "steps of pretrainings are those of their recipes here: how many fill the seconds is timed before they run"
        )
    for line in plan.notes:
        note(line)


def _help(context: typer.Context, recipe: str | None) -> None:
    if recipe is None or recipe.startswith("-"):
        typer.echo(context.get_help())
        return
    from vistruct.recipes import find
    from vistruct.recipes.options import help_rows
    from vistruct.study.plan import VARIED

    rows = [row for row in help_rows(find(recipe).recipe) if row[0][2:].replace("-", "_") not in VARIED]
    table(["option of the recipe", "value", "default"], rows)
    typer.echo("and those of `vistruct study --help`")
