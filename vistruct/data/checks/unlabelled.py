"""What is in folders of images without labels, and what is wrong with it: broken files, bands that differ, the same
image twice, images that are to be measured on; of volumes their grids and values too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.checks.images import decoded, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings
from vistruct.data.checks.problem import Problem, hints
from vistruct.data.checks.volumes import Seen
from vistruct.data.formats.format import Stop, VolumeCase
from vistruct.data.formats.order import stop_here
from vistruct.data.images_below import files_of, found_at, is_volume_path
from vistruct.data.twins import same_files, twins_of
from vistruct.data.unlabelled import FOUND_AT, UNREADABLE, ImagesDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import header_of, stamp_of
from vistruct.issues import IssueCounter
from vistruct.windows.tiles import Tiles, windows

WINDOW = 512  # pixels; what recipes cut large images into, where nothing else is said
MEASURED = "image that is to be measured on, by its bytes or pixels"
TWICE = "the same image twice, under two names"


def look(part: ImagesDataConfig, decode_at_most: int | None, errors: list[UserError], report: IssueCounter) -> Findings:
    """Numbers and hints; contents are compared in any case.

    Args:
        decode_at_most: images, and volumes, in the order of their names; None: all.

    Raises:
        UserError: no such path.
    """

    def stop(error: UserError) -> None:
        if part.unreadable == "stop":
            errors.append(error)
        else:
            report.note(UNREADABLE, f"{error.where}: {error.what}")

    records = part.whole(report, stop)
    volumes = [record for record in records if is_volume_path(record.images[0])]
    paths = [record.images[0] for record in records if not is_volume_path(record.images[0])]
    broken: list[UserError] = []
    sizes, of_bands = decoded(paths[:decode_at_most], broken, part.intake)
    if not of_bands:
        part.alike(records, broken.append)
    for error in broken:
        stop(error)
    seen = _volumes(volumes[:decode_at_most], part.intake, stop)
    cut = [one for record in records for one in windows(record.size_hw or (1, 1), Tiles(size=WINDOW, overlap=0))]
    folders = {files_of(record.images[0])[0].parent for record in records}
    counts = {
        "images": len(paths),
        "volumes": len(volumes),
        "slices (axial)": sum(shape[0] for shape in seen.shapes),
        "folders": len(folders),
        "groups": len({record.group for record in records}) if part.groups != "none" else 0,
        f"windows of {WINDOW}": len(cut) if len(cut) > len(records) else 0,
        "images decoded": len(paths[:decode_at_most]),
    }
    return Findings(
        counts={name: count for name, count in counts.items() if count or name == "images"},
        data_sets=_by_path(part.paths, records),
        sizes=_words(paths) | seen.sizes(),
        problems=[
            *of_bands,
            *_nothing(records, report),
            *_measured(part, records, report),
            *hints({TWICE: [f"{one} is {other}" for one, other in same_files(paths).items()]}),
            *tiny_images(sizes),
            *seen.hints(),
        ],
    )


def _volumes(records: Sequence[Record], intake: Intake | None, stop: Stop) -> Seen:
    """What their headers and voxels say."""
    seen = Seen((None, None), False, "header", intake or Intake())
    for record in records:
        case = VolumeCase(name=record.id, patient=record.group, images={"": record.images[0]})
        try:
            seen.headers(case, IssueCounter())  # which counts that there are no labels
            seen.voxels(case)
        except UserError as error:
            stop(error)
    for error in seen.errors:
        stop(error)
    return seen


def _words(paths: Sequence[Path]) -> dict[str, str]:
    """Sizes, bands and endings of images; nothing where there are none."""
    headers = [header_of(stamp_of(path)) for path in paths]
    bands = Counter(f"{len(one.types)} x {'/'.join(dict.fromkeys(one.types))}" for one in headers)
    endings = Counter(path.suffix.lower() for path in paths)
    said = {"bands": bands, "endings": endings}
    return sizes_in_words(one.size_hw for one in headers) | {
        name: ", ".join(f"{what} ({number})" for what, number in found.most_common())
        for name, found in said.items()
        if found
    }


def _by_path(tops: Sequence[Path], records: Sequence[Record]) -> dict[str, dict[str, int]]:
    if len(tops) == 1:
        return {}
    found = Counter(record.notes[FOUND_AT] for record in records)
    return {str(top): {"images and volumes": found[str(top)]} for top in tops}


def _nothing(records: Sequence[Record], report: IssueCounter) -> list[Problem]:
    if records:
        return []
    fix = "see the lines above" if report.counts else "name a folder with images in it"
    return [Problem(what="no images are left", effect="stops training", count=1, fix=fix)]


def _measured(part: ImagesDataConfig, records: Sequence[Record], report: IssueCounter) -> list[Problem]:
    """Which are among those of `not_in`."""
    if not part.not_in:
        return []
    others = [one.path for one in found_at(part.not_in, IssueCounter(), stop_here)]
    twins = twins_of([record.images[0] for record in records], others, part.intake, report)
    places = tuple(f"{image} is {other}" for image, other in twins.items())
    effect = "stops training" if part.twins == "stop" else "left out"
    fix = "take them away; or train with --set data.twins=drop"
    return [Problem(what=MEASURED, effect=effect, count=len(places), places=places, fix=fix)] if places else []
