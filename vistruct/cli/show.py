"""`vistruct show`: draw what the loader gives, so that a person sees what a model will see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.output import made, note
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from PIL import Image


@grouped
def command(
    path: Annotated[Path, typer.Argument(help="A data set, a run.yaml, or a run or model (its training data).")],
    reading: Reading,
    values: PixelValues,
    count: Annotated[int, typer.Option(min=1, help="Samples to draw.")] = 9,
    start: Annotated[int | None, typer.Option(min=0, help="The first sample; without it, spread over all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random variation, where the run has one.")] = 0,
    tile: Annotated[int | None, typer.Option(min=1, help="Cut large images into windows of so many pixels.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of a folder: train, val, ...")] = None,
    task: Annotated[str, typer.Option(help="Of a run with several tasks: whose data.")] = "",
    out: Annotated[Path | None, typer.Option(help="The picture; by default show-NAME.png here.")] = None,
) -> None:
    """Draw samples as a model gets them: boxes and label maps on images, pairs and conversations in rows; of volumes
    the slices of one case; images without labels as they are."""
    from PIL import Image

    from vistruct.files.owned import single_file
    from vistruct.ops.seeds import derive
    from vistruct.pictures.objects import contact_sheet
    from vistruct.pictures.samples import columns_for, draw_case, draw_one, is_volume

    target = single_file(out, Path(f"show-{path.resolve().stem}.png"))
    kind = Image.registered_extensions().get(target.suffix.lower())
    if kind is None:
        raise UserError("no kind of picture ends like this", where=target, fix=f"--out {target.with_suffix('.png')}")
    dataset = data_of(path, reading, values, tile=tile, split=split, task=task).build()
    if len(dataset) == 0:
        raise UserError("no samples here", where=path, fix="`vistruct check` says more")
    if start is not None and start >= len(dataset):
        raise UserError(f"there are {len(dataset)} samples", where=f"--start {start}", fix="a smaller --start")
    if is_volume(dataset) and all(record.slice is not None for record in dataset.records):
        case = dataset.records[start or 0].image_id
        _save(contact_sheet([draw_case(dataset, case, count, seed=seed)], 1, [case]), target, kind)
        cases = len({record.image_id for record in dataset.records})
        note(f"slices of {case}, one of {cases} volumes; --start chooses another by the number of one of its slices")
        made(target)
        return
    count = min(count, len(dataset) - (start or 0))
    spread = [i * len(dataset) // count for i in range(count)]
    indices = spread if start is None else list(range(start, start + count))
    samples = [dataset.sample(index, derive(seed, 0, index)) for index in indices]
    pictures = [draw_one(sample, dataset) for sample in samples]
    captions = [f"{index}: {sample.id}" for index, sample in zip(indices, samples, strict=True)]
    _save(contact_sheet(pictures, columns_for(samples), captions), target, kind)
    note(f"{count} of {len(dataset)} samples")
    made(target)


def _save(picture: Image.Image, target: Path, kind: str) -> None:
    """With our mark, by which it may be replaced."""
    from PIL.PngImagePlugin import PngInfo

    from vistruct.files.whole import whole_file

    mark = PngInfo()
    mark.add_text("Software", "vistruct")
    with whole_file(target) as place:
        picture.save(place, format=kind, pnginfo=mark, comment="made by vistruct")


def data_of(
    path: Path,
    reading: Reading = AS_FOUND,
    values: PixelValues = AS_THEY_ARE,
    *,
    tile: int | None = None,
    split: str | None = None,
    task: str = "",
) -> Any:
    """The data set that a path means, as a part of a run (`build()` gives the data set).

    Raises:
        UserError: nothing there that can be read; tiles for conversations; several tasks, and none is named.
    """
    from vistruct.checkpoint.load import read_card
    from vistruct.config import read_run
    from vistruct.data.at_path import any_at
    from vistruct.read_yaml import run_file_at
    from vistruct.windows.tiles import Tiles

    if (path / "model.json").is_file():
        return read_card(path).run.only.data
    run_file = run_file_at(path)
    if run_file is not None:
        run = read_run(run_file)
        if task and task not in run.streams:
            raise UserError(f"no task {task!r} in this run", where=run_file, fix=closest(task, run.streams))
        if not task and len(run.streams) > 1:
            names = list(run.streams)
            raise UserError(f"this run has several tasks: {', '.join(names)}", where=path, fix=f"--task {names[0]}")
        return run.streams[task].data if task else run.only.data
    part = any_at(path, reading, values, split=split)
    if tile is None:
        return part
    if "tiles" not in type(part).model_fields:
        raise UserError("these data are not cut into tiles", where=path, fix="leave --tile out")
    return part.model_copy(update={"tiles": Tiles(size=tile, overlap=0)})
