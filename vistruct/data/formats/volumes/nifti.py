"""NIfTI volumes with label volumes, in the layouts that people keep them in.

    imagesTr/case.nii.gz          labelsTr/case.nii.gz       Medical Segmentation Decathlon; imagesVa, imagesTs likewise
    imagesTr/case_0000.nii.gz     labelsTr/case.nii.gz       nnU-Net: four digits are the modality
    images/case.nii.gz            labels/case.nii.gz         also below train/, val/, test/, or with those below
    case/image.nii.gz             case/label.nii.gz          a folder for each case (label, labels, seg, mask)
    case.nii.gz                   case_label.nii.gz          side by side (_label, _labels, _seg, _mask)

Classes come from the `labels` of a dataset.json (either way round), or from the user. A case is a patient of its own
unless its name begins with BIDS's `sub-X`, or the user says which part of the name is the patient.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.data.formats.volumes.cases import splits_of_cases
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.nifti import is_nifti, stem
from vistruct.issues import IssueCounter

SPLITS = {"Tr": "train", "Va": "val", "Ts": "test"}  # endings of imagesXX
FOLDERS = ("train", "val", "valid", "validation", "test")
_LABEL_FOLDERS = ("labels", "label", "masks", "segmentations", "annotations")
_LABEL_NAMES = ("label", "labels", "seg", "segmentation", "mask")
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_SUBJECT = re.compile(r"^(sub-[0-9A-Za-z]+)")
WITHOUT_LABELS = "volume left out: without labels"


def looks_like(root: Path) -> bool:
    """Whether there are NIfTI files in any of the layouts."""
    return next(iter(_walk(root)), None) is not None


def cases(root: Path) -> list[VolumeCase]:
    """Every volume, with its labels where they are."""
    found: list[VolumeCase] = []
    for images, labels, split in _folders(root):
        found += paired_cases(images, labels, split, root)
    return found or _side_by_side(root)


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """See `cases`."""
    return Walked(cases=cases(root))


def coding(root: Path) -> Coding | None:
    """Of `dataset.json`."""
    file = root / "dataset.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"not valid json: {error}", where=file, fix="correct the file") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        return None
    pairs: list[tuple[int, str]] = []
    for key, value in labels.items():
        number, name = (key, value) if str(key).lstrip("-").isdecimal() else (value, key)  # MSD, nnU-Net
        if not str(number).lstrip("-").isdecimal():
            what = f"labels of regions ({key}: {value}) are no classes"
            raise UserError(what, where=file, fix="say data.coding, and regions in the metric")
        pairs.append((int(number), str(name)))
    kept = sorted(pair for pair in pairs if pair[1].lower() != "ignore")
    ignored = tuple(number for number, name in pairs if name.lower() == "ignore")
    return Coding(classes=tuple(name for _, name in kept), values=tuple(number for number, _ in kept), ignored=ignored)


def paired_cases(images: Path, labels: Path | None, split: str, root: Path) -> list[VolumeCase]:
    """The volumes of one folder, modalities of one case together, with the labels of the same name."""
    known = {stem(file): file for file in sorted(labels.iterdir()) if is_nifti(file)} if labels is not None else {}
    volumes: dict[str, dict[str, Path]] = {}
    for file in sorted(images.iterdir()):
        if not is_nifti(file):
            continue
        match = _CHANNEL.match(stem(file))
        if match and stem(file) not in known:
            volumes.setdefault(match[1], {})[match[2]] = file
        else:
            volumes.setdefault(stem(file), {})[""] = file
    return [
        VolumeCase(name=name, patient=patient_of(name, root), images=files, label=known.get(name), split=split)
        for name, files in volumes.items()
    ]


def patient_of(name: str, root: Path) -> str:
    """The data set's folder is part of it: a `case_001` of another one is somebody else."""
    match = _SUBJECT.match(name)
    return f"{root.resolve().name}/{match[1] if match else name}"


def _folders(root: Path) -> Iterator[tuple[Path, Path | None, str]]:
    """Folders of volumes, those of their labels, and the name of the split."""
    for ending, split in SPLITS.items():
        if (root / f"images{ending}").is_dir():
            labels = root / f"labels{ending}"
            yield root / f"images{ending}", labels if labels.is_dir() else None, split
    for split in ("", *FOLDERS):
        for images in {root / split / "images", root / "images" / split}:
            if images.is_dir() and any(is_nifti(file) for file in images.iterdir()):
                is_below = images.name != "images"
                beside = images.parent.parent if is_below else images.parent
                tail = images.name if is_below else ""
                labels = next(
                    (beside / name / tail for name in _LABEL_FOLDERS if (beside / name / tail).is_dir()), None
                )
                yield images, labels, {"valid": "val", "validation": "val"}.get(split, split)


def _side_by_side(root: Path) -> list[VolumeCase]:
    """Pairs in one folder, or in a folder for each case."""
    found = []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        files = {stem(file): file for file in sorted(folder.iterdir()) if is_nifti(file)}
        labels = {name: file for name, file in files.items() if _without_ending(name) is not None}
        volumes = {name: file for name, file in files.items() if name not in labels}
        for name, file in volumes.items():
            fitting = [one for label, one in labels.items() if _without_ending(label) == name]
            if not fitting and folder != root and len(volumes) == 1:
                fitting = list(labels.values())
            if len(fitting) > 1:
                where = ", ".join(map(str, fitting))
                raise UserError(f"{len(fitting)} label volumes for {file.name}", where=where, fix="keep one")
            case = folder.name if folder != root and len(volumes) == 1 else name
            label = fitting[0] if fitting else None
            found.append(VolumeCase(name=case, patient=patient_of(case, root), images={"": file}, label=label))
    return found


def _without_ending(name: str) -> str | None:
    """What is left of a label's name, "" where it is nothing but `label`; None: it is not a label's."""
    if name.lower() in _LABEL_NAMES:
        return ""
    return next((name[: -len(end) - 1] for end in _LABEL_NAMES if name.lower().endswith((f"_{end}", f"-{end}"))), None)


def _walk(root: Path) -> Iterator[Path]:
    """NIfTI files, not deeper than the layouts have them."""
    for pattern in ("*.nii*", "*/*.nii*", "*/*/*.nii*"):
        yield from (file for file in root.glob(pattern) if is_nifti(file))


FORMAT = Format(
    kind="volumes",
    looks_like=looks_like,
    splits=lambda root: splits_of_cases(cases(root)),
    walk=walk,
    coding=coding,
)
