"""The command line: one verb a file, and one place where everything that goes wrong is told.

Nothing heavy is imported here: torch and the rest come with the verb that needs them; `--help` is instant.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from vistruct import __version__
from vistruct.cli import (
    check,
    compare,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    instruct,
    masks,
    predict,
    recipes,
    robust,
    show,
    study,
    train,
    unpack,
    web,
    weights,
)
from vistruct.distributed.launch import LOST
from vistruct.errors import LeftOut, UserError, closest

LEFT_OUT = 4
CTRL_C = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13
_NO_MEMORY = UserError(
    "there is not enough memory for this", fix="smaller images or windows, a smaller batch, or fewer workers"
)
# Some versions of typer carry their own copy of click, others use the package: find the class that it raises.
UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")

app = typer.Typer(
    name="vistruct",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = {
    "demo": (demo.command, "First"),
    "unpack": (unpack.command, "Data"),
    "check": (check.command, "Data"),
    "convert": (convert.command, "Data"),
    "instruct": (instruct.command, "Data"),
    "masks": (masks.command, "Data"),
    "show": (show.command, "Data"),
    "recipes": (recipes.command, "Training"),
    "weights": (weights.command, "Training"),
    "train": (train.command, "Training"),
    "study": (study.command, "Training"),
    "eval": (evaluate.command, "Models"),
    "predict": (predict.command, "Models"),
    "web": (web.command, "Models"),
    "robust": (robust.command, "Models"),
    "compare": (compare.command, "Models"),
    "export": (export.command, "Models"),
    "inspect": (inspect.command, "Models"),
    "doctor": (doctor.command, "This machine"),
}
for _name, (_command, _panel) in VERBS.items():
    own_help = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(_name, rich_help_panel=_panel, context_settings=own_help if _name in ("train", "study") else None)(
        _command
    )


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vistruct {__version__}")
        raise typer.Exit


@app.callback()
def vistruct(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Turn a domain's annotated images into a vision foundation model, and measure what it bought.

    Start with [bold]vistruct demo[/]; then [bold]vistruct check[/] your own data.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process: 0 done, 1 a fault of vistruct, 2 a user's mistake, 130 Ctrl-C.

    3 says that another process of the same run has failed, and not this one; 4 that all is done but for some items (an
    image that cannot be read), which are named.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]  # it may stand anywhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        verb = next((arg for arg in args if not arg.startswith("-")), None)
        if verb is not None and verb not in VERBS and args[0] == verb:
            raise UserError(f"no command {verb!r}", fix=closest(verb, VERBS))
        code = app(args, prog_name="vistruct", standalone_mode=False)
        if code == CTRL_C:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        if debug:
            raise
        _tell(error, args, LEFT_OUT if isinstance(error, LeftOut) else 2)
    except UsageError as error:
        if debug:
            raise
        _tell(_usage(error), args)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped by Ctrl-C", err=True)
        sys.exit(CTRL_C)
    except BrokenPipeError:  # whoever read our words has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except (OSError, UnicodeError, RecursionError, MemoryError, ValueError) as error:
        known = None if debug else _left(error)
        if known is None:
            raise
        _tell(known, args)
    except RuntimeError as error:
        torch = sys.modules.get("torch")
        if debug or torch is None:
            raise
        if "can't allocate memory" in str(error):  # torch's own, of arrays on the CPU
            _tell(_NO_MEMORY, args)
        if isinstance(error, torch.OutOfMemoryError):
            fix = "a smaller batch, or the same batch in more parts: --batch auto, --set accumulate=4"
            _tell(UserError("the device has no memory left", fix=fix), args)
        if isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL")):
            what = f"another process of this run has ended, or does not answer: {str(error).splitlines()[0]}"
            fix = "what it said itself is the reason; the same command resumes from the last checkpoint"
            _tell(UserError(what, fix=fix), args, LOST)
        raise


def _left(error: Exception) -> UserError | None:
    """What no reader has foreseen, of files, texts and memory; None of a fault of vistruct's own."""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, RecursionError):
        fix = "look for thousands of brackets or references in one another in the files that were given"
        return UserError("a file is nested too deeply", fix=fix)
    if isinstance(error, UnicodeError):
        fix = "save the file as UTF-8, or rename it with letters that UTF-8 has"
        return UserError(f"a text or a file name is not UTF-8: {error}", fix=fix)
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "make room and start again" if full else "check that the place exists and may be used by you"
        return UserError(error.strerror or str(error), where=error.filename or "", fix=fix)
    if "integer string conversion" in str(error):
        return UserError("a number of thousands of digits", fix="look for it in the files that were given")
    return None


def _tell(error: UserError, args: Sequence[str], code: int = 2) -> NoReturn:
    """Three lines: what, where, try."""
    command = shlex.join(["vistruct", *args])
    lines = {
        "error": error.what,
        "where": error.where or command,
        "try": error.fix or f"{command} --debug",
    }
    for title, text in lines.items():
        colour = typer.colors.RED if title == "error" else typer.colors.CYAN
        typer.echo(typer.style(f"{title + ':':<7}", fg=colour, bold=True) + " ".join(text.split()), err=True)
    sys.exit(code)


def _usage(error: Any) -> UserError:
    """A wrong option or argument, as a user's mistake with the closest right one."""
    context = vars(error).get("ctx")
    verb = context.command_path if context is not None else "vistruct"
    if name := vars(error).get("option_name"):
        known = [option for parameter in context.command.params for option in parameter.opts] if context else []
        if name not in known:
            return UserError(f"no option {name!r}", where=verb, fix=closest(name, [*known, "--help"]))
    return UserError(error.format_message(), where=verb, fix=f"{verb} --help")


if __name__ == "__main__":
    main()
