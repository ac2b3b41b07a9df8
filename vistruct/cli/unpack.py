"""`vistruct unpack`: a downloaded zip or tar into a folder, safely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import made, note


def command(
    archive: Annotated[Path, typer.Argument(help="A zip, or a tar as it is or with gzip, bzip2 or xz.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    max_gib: Annotated[float, typer.Option(min=0, help="Refuse more than so many GiB unpacked.")] = 2048,
    max_ratio: Annotated[float, typer.Option(min=1, help="Refuse what grows more than so many times.")] = 100,
) -> None:
    """Unpack a data set, refusing an archive that would write elsewhere or fill the disk.

    All of it or nothing.
    """
    from vistruct.files.archive import unpack

    files = unpack(archive, folder, max_bytes=int(max_gib * 2**30), max_ratio=max_ratio)
    note(f"{len(files):,} files")
    made(folder)
