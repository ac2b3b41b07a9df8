"""`--lora FILE`, the same in every command: adapters that are added into the weights of the model that is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vistruct.errors import UserError

LoraOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora",
        metavar="FILE",
        help="Adapters (LoRA) to add into its weights: a run, a folder in peft's format, or a file of ViSFT.",
    ),
]


def one_lora(given: Sequence[Path] | None) -> Path | None:
    """
    Raises:
        UserError: several, of which the second would be trained beside the first or not: no file says.
    """
    if given is not None and len(given) > 1:
        fix = "give one; with that in its weights a model is made by vistruct export RUN --lora FILE --format merged"
        raise UserError("--lora twice: adapters are added once", where=", ".join(map(str, given)), fix=fix)
    return given[0] if given else None
