"""`vistruct train`: a recipe or a saved run, trained, repeated or only shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vistruct.cli.lora import LoraOption, one_lora
from vistruct.cli.output import made, note
from vistruct.errors import UserError
from vistruct.verbs.train import default_dir, launched, run_of, with_lora

if TYPE_CHECKING:
    from vistruct.config import Run


def command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A name from `vistruct recipes`.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A saved run.yaml, instead.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value; repeatable.")
    ] = None,
    lora: LoraOption = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="The recipe's small twin: seconds, on a CPU.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the resolved run, what is trainable and the memory; train nothing."),
    ] = False,
    devices: Annotated[int, typer.Option(min=1, help="Processes, one for each device.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; by default runs/RECIPE-..., by what the run is.")
    ] = None,
    help: Annotated[bool, typer.Option("--help", "-h", help="Show this; with a recipe, its options.")] = False,
) -> None:
    """Train a recipe or a saved run; the same command again resumes from the last checkpoint.

    vistruct train detect --data annotations.json

    vistruct train RECIPE --help shows the options of the recipe itself: pretrained weights (--backbone, a file or a
    name), --epochs or --steps, --fraction of the labels, --patience (early stopping). The best checkpoint becomes
    RUN/model, the last one RUN/last. Which parameters are trainable and which frozen is shown by --dry-run, and changed
    by --set 'trainable=[{pattern: backbone, mode: frozen}]'.
    """
    if help:
        _help(context, recipe)
        return
    if out is not None and not dry_run and not {"RANK", "SLURM_PROCID"} & os.environ.keys():  # rank 0 has it by then
        from vistruct.files.in_use import check_free

        check_free(out)
    run = with_lora(resolve(recipe, config, context.args, settings or [], tiny), one_lora(lora))
    if dry_run:
        from vistruct.cli.dry_run import describe

        typer.echo(describe(run, devices), nl=False)
        return
    out_dir = out if out is not None else default_dir(run, config)
    if devices > 1:
        raise typer.Exit(launched(run, out_dir, devices))
    note(f"run directory: {out_dir}")
    from vistruct.distributed.ranks import leave, setup
    from vistruct.runs import train_and_report

    try:
        path = train_and_report(run, out_dir)
        if setup().is_main:
            made(path)
    finally:
        leave()


def resolve(
    recipe: str | None, config: Path | None, options: list[str], settings: list[str], tiny: bool = False
) -> Run:
    """The run that a command line asks for.

    Raises:
        UserError: neither or both of a recipe and a file, an unknown recipe, option, key or setting.
    """
    from vistruct.config import read_run
    from vistruct.recipes import find
    from vistruct.recipes.options import parse
    from vistruct.settings import with_settings

    if recipe is not None and recipe.startswith("-"):  # an option that train does not know came first
        options = [recipe, *options]
        recipe = None
    if config is not None:
        if recipe is not None or tiny:
            raise UserError("a saved run and a recipe at once", fix="leave one of them out")
        if options:
            name = options[0].lstrip("-").partition("=")[0]
            fix = f"--set {name}=VALUE; recipes' own options belong to recipes"
            raise UserError(f"no option {options[0]!r} beside -c", fix=fix)
        run = read_run(config)
    elif recipe is None:
        where = " ".join(["vistruct train", *options])
        raise UserError("no recipe given", where=where, fix="name one first: `vistruct recipes` lists them")
    else:
        module = find(recipe)
        if tiny and options:
            raise UserError(f"--tiny takes no options, got {options[0]!r}", fix="change values with --set")
        own = ("--config", "--set", "--lora", "--tiny", "--dry-run", "--devices", "--out")
        values = {} if tiny else parse(module.recipe, options, own)
        run = run_of(recipe, values, tiny=tiny, asked=" ".join(["vistruct train", recipe, *options]))
    return with_settings(run, settings) if settings else run


def _help(context: typer.Context, recipe: str | None) -> None:
    if recipe is None or recipe.startswith("-"):
        typer.echo(context.get_help())
        return
    from vistruct.cli.output import table
    from vistruct.recipes import find
    from vistruct.recipes.options import help_rows

    module = find(recipe)
    typer.echo((module.__doc__ or "").strip())
    table(["option", "value", "default"], help_rows(module.recipe))
    typer.echo("and those of `vistruct train --help`")
