"""`vistruct web`: a page on this machine to try models on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import note
from vistruct.errors import UserError


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories or their model directories.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder of images that may be chosen on the page; repeat."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="By default the first free one from 7860 on; 0: any.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine can see the page.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
) -> None:
    """Open a page to try models on: choose or upload an image, draw, ask, look, and take the results as files.

    Nothing leaves this machine. Ctrl-C ends it and removes what was uploaded.
    """
    from vistruct.checkpoint.load import read_card
    from vistruct.web.desk import runs_named
    from vistruct.web.server import LOCAL, open_browser, serving

    for run in runs:
        read_card(run)
    for folder in images or ():
        if not folder.exists():
            raise UserError("no such folder", where=f"--images {folder}", fix="give a folder with images")
    if host not in LOCAL:
        note(f"warning: everybody who can reach {host} can use these models and see the images in --images")
    with serving(runs_named(runs), images or (), host=host, port=port) as (address, thread):
        typer.echo(address)
        note("Ctrl-C ends it")
        if not no_browser:
            open_browser(address)
        thread.join()
