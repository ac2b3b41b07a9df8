"""`vistruct show`: draw what the loader gives, so that a person sees what a model will see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.output import made, note
from vistruct.errors import UserError


def command(
    path: Annotated[Path, typer.Argument(help="A data set, a run.yaml, or a run directory (its training data).")],
    count: Annotated[int, typer.Option(min=1, help="Samples to draw.")] = 9,
    start: Annotated[int | None, typer.Option(min=0, help="The first sample; without it, spread over all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random variation, where the run has one.")] = 0,
    tile: Annotated[int | None, typer.Option(min=1, help="Cut large images into windows of so many pixels.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of a folder of boxes: train, val, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="The picture; by default show-NAME.png here.")] = None,
) -> None:
    """Draw samples as a model gets them: boxes on images, conversations beside them."""
    from vistruct.engine.draw import contact_sheet, draw_conversation, draw_sample
    from vistruct.ops.seeds import derive

    dataset = data_of(path, tile, split).build()
    if len(dataset) == 0:
        raise UserError("no samples here", where=path, fix="`vistruct check` says more")
    if start is not None and start >= len(dataset):
        raise UserError(f"there are {len(dataset)} samples", where=f"--start {start}", fix="a smaller --start")
    count = min(count, len(dataset) - (start or 0))
    spread = [i * len(dataset) // count for i in range(count)]
    indices = spread if start is None else list(range(start, start + count))
    samples = [dataset.sample(index, derive(seed, 0, index)) for index in indices]
    chats = any(sample.turns for sample in samples)
    pictures = [
        draw_conversation(sample) if sample.turns else draw_sample(sample, dataset.info.class_names)
        for sample in samples
    ]
    captions = [f"{index}: {sample.id}" for index, sample in zip(indices, samples, strict=True)]
    target = out if out is not None else Path(f"show-{path.resolve().stem}.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, 1 if chats else 3, captions).save(target)
    note(f"{count} of {len(dataset)} samples")
    made(target)


def data_of(path: Path, tile: int | None = None, split: str | None = None) -> Any:
    """The data set that a path means, as a part of a run (`build()` gives the data set).

    Raises:
        UserError: nothing there that can be read; tiles for conversations.
    """
    from vistruct.config import read_run
    from vistruct.data.boxes import BoxDataConfig
    from vistruct.data.dataset import ChatDataConfig
    from vistruct.data.detect import TALK, detect_format, find_annotation
    from vistruct.data.formats import yolo
    from vistruct.data.mix import MixDataConfig
    from vistruct.data.tiles import Tiles

    run_file = path / "run.yaml" if path.is_dir() else path
    if run_file.suffix in (".yaml", ".yml") and run_file.is_file() and not yolo.looks_like(run_file):
        return read_run(run_file).data
    annotation = find_annotation(path)
    found = detect_format(annotation)
    if found not in TALK:
        tiles = Tiles(size=tile, overlap=0) if tile else None
        return BoxDataConfig(annotation=annotation, format=found, split=split, tiles=tiles)
    if tile:
        raise UserError("conversations are not cut into tiles", where=annotation, fix="leave --tile out")
    if found == "mix":
        return MixDataConfig(mix=annotation, checksums=False)
    return ChatDataConfig(jsonl=annotation, checksums=False)
