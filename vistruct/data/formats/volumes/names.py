"""How volumes, their labels and their modalities are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from vistruct.files.volume_names import stem

LABEL_FOLDERS = ("labels", "label", "masks", "segmentations", "annotations")
_LABEL_WORDS = ("labels", "label", "segmentation", "seg", "mask", "gt")
_IMAGE_WORDS = ("volume", "image", "imaging", "img", "scan", "vol", "ct", "mr", "mri")
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


def rest_of_label(name: str) -> str | None:
    """What is left of a label's name without the word for it, "" where it is nothing else; None: it is no label's."""
    return _without(name, _LABEL_WORDS)


def is_of(label_rest: str, image: str) -> bool:
    """Whether a label's name, without its word, is that of an image: `1` of `volume-1`, `a` of `a` and of `a_image`."""
    return label_rest in (image, _without(image, _IMAGE_WORDS))


def _without(name: str, words: Sequence[str]) -> str | None:
    """`case_seg`, `case.seg`, `segmentation-0`, `label0001` without the word; "" of the word alone."""
    small = name.lower()
    for word in words:
        if small == word:
            return ""
        if small.endswith(tuple(f"{sign}{word}" for sign in "_-.")):
            return name[: -len(word) - 1]
        if small.startswith(word) and (small[len(word)] in "_-." or small[len(word)].isdigit()):
            return name[len(word) :].lstrip("_-.")
    return None


def by_case(
    files: Sequence[Path], known: Collection[str] = (), wanted: Sequence[str] = (), listed: int = 0
) -> dict[str, dict[str, Path]]:
    """Volumes by case and modality: four digits at the end of a name are one (nnU-Net), where they can be.

    They cannot where there are labels of that name. Without any labels a run of numbers from 0000 is of modalities, but
    for a single run, which may as well be of cases: there it has to be known how many modalities there are.

    Args:
        known: names of labels.
        wanted: modalities that somebody asks for.
        listed: how many a dataset.json names; 0: none.
    """
    split = {file: match for file in files if stem(file) not in known and (match := _CHANNEL.match(stem(file)))}
    cases, numbers = {match[1] for match in split.values()}, sorted({match[2] for match in split.values()})
    is_run = numbers == [f"{number:04d}" for number in range(len(numbers))]
    is_said = len(cases) > 1 or len(numbers) in (1, listed) or set(numbers) <= set(wanted)
    are_modalities = bool(cases & set(known)) or (is_run and is_said)
    found: dict[str, dict[str, Path]] = {}
    for file in files:
        if are_modalities and file in split:
            found.setdefault(split[file][1], {})[split[file][2]] = file
        else:
            found.setdefault(stem(file), {})[""] = file
    return found
