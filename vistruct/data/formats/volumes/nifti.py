"""Volume files with label volumes, in the layouts that people keep them in.

    imagesTr/case.nii.gz          labelsTr/case.nii.gz       Medical Segmentation Decathlon; imagesVa, imagesTs likewise
    imagesTr/case_0000.nii.gz     labelsTr/case.nii.gz       nnU-Net: four digits are the modality
    images/case.nii.gz            labels/case.nii.gz         also below train/, val/, test/, or with those below
    case/image.nii.gz             case/label.nii.gz          a folder for each case (label, labels, seg, mask, gt)
    case/t1.nii.gz, t2.nii.gz     case/seg.nii.gz            likewise, with several modalities
    case.nii.gz                   case_label.nii.gz          side by side (_label, _labels, _seg, _mask, _gt)
    volume-1.nii                  segmentation-1.nii         likewise (LiTS)

A file of four axes holds modalities where a dataset.json names several (`modality` or `channel_names`), in its order.
Classes come from the `labels` of a dataset.json (either way round), or from the user. A case is a patient of its own
unless its name begins with BIDS's `sub-X`, or the user says which part of the name is the patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked
from vistruct.data.formats.order import stop_here
from vistruct.data.formats.volumes.cases import splits_of_cases
from vistruct.data.formats.volumes.names import LABEL_FOLDERS, by_case, is_of, rest_of_label
from vistruct.data.formats.volumes.series import has_series, series_below
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.json_files import read_json
from vistruct.files.volume_names import channel_path, is_volume_file, stem
from vistruct.issues import IssueCounter

SPLITS = {"Tr": "train", "Va": "val", "Ts": "test"}  # endings of imagesXX
FOLDERS = ("train", "val", "valid", "validation", "test")
_SUBJECT = re.compile(r"^(sub-[0-9A-Za-z]+)")
WITHOUT_LABELS = "volume left out: without labels"


def looks_like(root: Path) -> bool:
    """Whether there are volume files in any of the layouts that are no labels of DICOM series."""
    files = list(_walk(root))
    if not files or not has_series(root):
        return bool(files)
    claimed = {file for one in series_below(root)[0] for file in one.labels}
    return any(file not in claimed for file in files)


def cases(root: Path, wanted: Sequence[str] = (), stop: Stop = stop_here) -> list[VolumeCase]:
    """Every volume, with its labels where they are.

    Args:
        wanted: modalities that somebody asks for; they tell cases and modalities apart where names do not.
    """
    found: list[VolumeCase] = []
    for images, labels, split in folders_of(root):
        found += paired_cases(images, labels, split, root, wanted)
    return found or _side_by_side(root, wanted, stop)


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """See `cases`."""
    return Walked(cases=cases(root, ask.modalities or (), stop))


def described(root: Path) -> dict[str, Any]:
    """What the dataset.json of a data set says, or of the data set whose folder of images this is; else nothing.

    Raises:
        UserError: it is no json.
    """
    places = [root, root.parent] if root.name.startswith("images") else [root]
    file = next((place / "dataset.json" for place in places if (place / "dataset.json").is_file()), None)
    if file is None:
        return {}
    content = read_json(file)
    return content if isinstance(content, dict) else {}


def modality_names(root: Path) -> tuple[str, ...]:
    """Of `dataset.json` in the order of their numbers; (): it names none. Two of one name are called by their numbers.

    Raises:
        UserError: it is no json.
    """
    content = described(root)
    said = content.get("channel_names") or content.get("modality") or {}
    if not isinstance(said, dict) or not all(str(key).isdecimal() for key in said):
        return ()
    names = tuple(str(said[key]) for key in sorted(said, key=int))
    return names if len(set(names)) == len(names) else tuple(map(str, range(len(names))))


def coding(root: Path) -> Coding | None:
    """Of `dataset.json`."""
    file, labels = root / "dataset.json", described(root).get("labels")
    if not isinstance(labels, dict) or not labels:
        return None
    pairs: list[tuple[int, str]] = []
    for key, value in labels.items():
        number, name = (key, value) if str(key).lstrip("-").isdecimal() else (value, key)  # MSD, nnU-Net
        if not str(number).lstrip("-").isdecimal():
            what = f"labels of regions ({key}: {value}) are no classes"
            raise UserError(what, where=file, fix=_single_values(labels))
        pairs.append((int(number), str(name)))
    kept = sorted(pair for pair in pairs if pair[1].lower() != "ignore")
    ignored = tuple(number for number, name in pairs if name.lower() == "ignore")
    return Coding(classes=tuple(name for _, name in kept), values=tuple(number for number, _ in kept), ignored=ignored)


def _single_values(labels: dict[str, Any]) -> str:
    """Options that name the values that regions are made of."""
    lists = [value if isinstance(value, list) else [value] for value in labels.values()]
    plain = {int(value) for own in lists for value in own if str(value).isdecimal()}
    values = sorted(plain | {0})
    names = ["background" if value == 0 else f"class_{value}" for value in values]
    return f"--classes {','.join(names)} --values {','.join(map(str, values))}"


def paired_cases(
    images: Path, labels: Path | None, split: str, root: Path, wanted: Sequence[str] = ()
) -> list[VolumeCase]:
    """The volumes of one folder, modalities of one case together, with the labels of the same name."""
    known = {stem(file): file for file in _files(labels)} if labels is not None else {}
    rests = {rest: file for name, file in known.items() if (rest := rest_of_label(name))}
    found = []
    for name, files in _modalities(by_case(_files(images), known, wanted, len(modality_names(root))), root).items():
        label = known.get(name) or next((file for rest, file in rests.items() if is_of(rest, name)), None)
        found.append(VolumeCase(name=name, patient=patient_of(name, root), images=files, label=label, split=split))
    return found


def _modalities(volumes: dict[str, dict[str, Path]], root: Path) -> dict[str, dict[str, Path]]:
    """The same, with the channels of files that are alone where several modalities are named."""
    names = modality_names(root)
    if len(names) < 2:
        return volumes
    return {
        case: {name: channel_path(files[""], number) for number, name in enumerate(names)} if "" in files else files
        for case, files in volumes.items()
    }


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_volume_file(file))


def patient_of(name: str, root: Path) -> str:
    """The data set's folder is part of it: a `case_001` of another one is somebody else."""
    match = _SUBJECT.match(name)
    return f"{root.resolve().name}/{match[1] if match else name}"


def folders_of(root: Path) -> Iterator[tuple[Path, Path | None, str]]:
    """Folders of volumes, those of their labels, and the name of the split."""
    for ending, split in SPLITS.items():
        if (root / f"images{ending}").is_dir():
            labels = root / f"labels{ending}"
            yield root / f"images{ending}", labels if labels.is_dir() else None, split
    for split in ("", *FOLDERS):
        for images in {root / split / "images", root / "images" / split}:
            if images.is_dir() and any(is_volume_file(file) for file in images.iterdir()):
                is_below = images.name != "images"
                beside = images.parent.parent if is_below else images.parent
                tail = images.name if is_below else ""
                labels = next((beside / name / tail for name in LABEL_FOLDERS if (beside / name / tail).is_dir()), None)
                yield images, labels, {"valid": "val", "validation": "val"}.get(split, split)


def _side_by_side(root: Path, wanted: Sequence[str], stop: Stop) -> list[VolumeCase]:
    """Pairs in one folder, or in a folder for each case."""
    found = []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        labels = {file: rest for file in _files(folder) if (rest := rest_of_label(stem(file))) is not None}
        files = [file for file in _files(folder) if file not in labels]
        volumes = by_case(files, [*labels.values()], wanted, len(modality_names(root)))
        if folder != root and len(files) > 1 and (one := _one_case(files, labels, wanted)):
            volumes = {folder.name: one}
        for name, images in _modalities(volumes, root).items():
            is_alone = folder != root and len(volumes) == 1
            fitting = [file for file, rest in labels.items() if is_of(rest, name)]
            fitting = list(labels) if not fitting and is_alone else fitting
            if len(fitting) > 1:
                where = ", ".join(map(str, fitting))
                stop(UserError(f"{len(fitting)} label volumes for {name}", where=where, fix="keep one"))
            case, label = folder.name if is_alone else name, fitting[0] if len(fitting) == 1 else None
            found.append(VolumeCase(name=case, patient=patient_of(case, root), images=images, label=label))
    return found


def _one_case(files: Sequence[Path], labels: dict[Path, str], wanted: Sequence[str]) -> dict[str, Path]:
    """The modalities of a folder that is one case: its only label is that of no single volume, or they are those that
    are asked for. Names lose what they have in common. Else nothing."""
    names = [stem(file) for file in files]
    first, last = min(names), max(names)
    common = next((at for at in range(len(first)) if not last.startswith(first[: at + 1])), len(first))
    common = max(first.rfind(sign, 0, common) for sign in "_-.") + 1
    own = {name[common:]: file for name, file in zip(names, files, strict=True)}
    rests = list(labels.values())
    is_one = len(rests) == 1 and not any(is_of(rests[0], name) for name in names)
    return own if is_one or (not rests and bool(wanted) and set(wanted) <= set(own)) else {}


def _walk(root: Path) -> Iterator[Path]:
    """NIfTI files, not deeper than the layouts have them."""
    for pattern in ("*.*", "*/*.*", "*/*/*.*"):
        yield from (file for file in root.glob(pattern) if is_volume_file(file))


FORMAT = Format(
    kind="volumes",
    looks_like=looks_like,
    splits=lambda root: splits_of_cases(cases(root)),
    walk=walk,
    coding=coding,
)
