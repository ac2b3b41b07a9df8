"""Everything that is wrong with a collection of volumes, before any training: what `vistruct check` says of one."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints
from vistruct.data.formats import find_format
from vistruct.data.formats.format import VolumeCase
from vistruct.data.formats.volumes.cases import in_split, straddles, straddling
from vistruct.data.formats.volumes.nifti import WITHOUT_LABELS
from vistruct.data.volumes import LabelGrid, check_labels, without_any_labels
from vistruct.errors import UserError
from vistruct.files.class_files import ClassFiles, Painting
from vistruct.files.coding import Coding
from vistruct.files.dicom_series import Series
from vistruct.files.intake import Intake
from vistruct.files.json_files import read_cached
from vistruct.files.volume_files import check_range, label_values, open_labels, open_volume
from vistruct.issues import IssueCounter

AIR = -500  # Hounsfield units: a CT scan without anything below this has no air in it, or is in other units
OVERLAP = "voxels in the files of two classes; the later class of the list has them"
SPLIT_WITHOUT = "volume of a split without any labels: for predictions alone"
_UNLABELLED = {WITHOUT_LABELS: ("volume without labels", "add them; or --missing drop leaves such volumes out")}
SPREAD = 4  # times between the finest and the coarsest spacing of one axis: more is worth a word


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Voxels, grids and doubtful volumes; of each a file is decoded in the order of the cases' names.

    Raises:
        UserError: no volumes here, or no such split.
    """
    path, format = parts.family.path, parts.family.format
    cases = parts.walked[""].cases
    if not cases and not parts.errors:
        more = f": {'; '.join(parts.report.lines())}" if parts.report.counts else ""
        raise UserError(f"no volumes of format {format} here{more}", where=path, fix="name the folder that holds them")
    for patient, own in straddling(cases).items():
        parts.errors.append(straddles(patient, own, path))
    cases = cases if parts.asked is None else in_split(cases, parts.asked, path)
    seen = Seen(_labels_of(parts), _is_ct(format, path), parts.part.label_grid, parts.part.intake_used())
    seen.labelled_splits = {case.split for case in cases if case.label is not None}
    for number, case in enumerate(cases):
        try:
            seen.headers(case, parts.report)
            if decode_at_most is None or number < decode_at_most:
                seen.voxels(case)
        except UserError as error:
            parts.errors.append(error)
    parts.errors.extend(seen.errors)
    if cases and all(case.label is None for case in cases):
        error = without_any_labels(len(cases), path)
        fix = f"{error.fix}; --format images reads them as images without labels"
        parts.errors.append(UserError(error.what, where=error.where, fix=fix))
    stopping = _UNLABELLED if parts.part.random_split is None else {}  # splits are drawn of what is labelled
    counts = {
        "volumes": len(cases),
        "patients": len({case.patient for case in cases}),
        "slices (axial)": sum(shape[0] for shape in seen.shapes),
        "volumes decoded": len(cases) if decode_at_most is None else min(decode_at_most, len(cases)),
    }
    return Findings(
        counts=counts, classes=dict(seen.classes), sizes=seen.sizes(), problems=seen.hints(), stopping=stopping
    )


def _labels_of(parts: Parts) -> tuple[Coding | None, Painting | None]:
    """What the part or its format says; None where nothing does, which `hints` tells."""
    part = parts.part
    if (
        part.coding is None
        and part.classes is None
        and find_format(parts.family.format, "volumes").coding(part.root) is None
    ):
        return None, None
    return part.labels_used(parts.report)


class Seen:
    """What has been found out so far."""

    def __init__(
        self, labels: tuple[Coding | None, Painting | None], is_ct: bool, label_grid: LabelGrid, intake: Intake
    ) -> None:
        (self.coding, self.painting), self.is_ct, self.label_grid, self.intake = labels, is_ct, label_grid, intake
        coding = self.coding
        names = coding.classes if coding is not None else ()
        self.classes: Counter[str] = Counter(dict.fromkeys(names, 0))
        self.shapes: list[tuple[int, int, int]] = []
        self.spacings: list[tuple[float, float, float]] = []
        self.codes: Counter[str] = Counter()
        self.digests: dict[str, list[str]] = defaultdict(list)
        self.found: dict[str, list[str]] = defaultdict(list)
        self.labelled = 0
        self.labelled_splits: set[str] = set()
        self.errors: list[UserError] = []  # of values, where the labels are looked at all the same

    def headers(self, case: VolumeCase, report: IssueCounter) -> None:
        """Of all files of a case."""
        volumes = [open_volume(path) for path in case.images.values()]
        grid = volumes[0].grid
        self.shapes.append(grid.stack_shape)
        self.spacings.append(grid.spacing)
        self.codes[grid.code] += 1
        self.is_ct = self.is_ct or (isinstance(volumes[0], Series) and volumes[0].modality == "CT")
        for other in volumes[1:]:
            grid.check_same(other.grid, f"{volumes[0].path}, {other.path}", "modalities")
        if case.label is None:
            report.note(WITHOUT_LABELS if case.split in self.labelled_splits else SPLIT_WITHOUT, case.name)
        else:
            check_labels(volumes[0], case.label, self.label_grid, report, self.painting)

    def voxels(self, case: VolumeCase) -> None:
        """Of the first modality, and of the labels."""
        first = next(iter(case.images.values()))
        values = open_volume(first).values()
        try:
            check_range(values, self.intake, first)
        except UserError as error:
            self.errors.append(error)
        if not np.isfinite(values).all():
            self.found["values that are no numbers (NaN or infinite); they become 0"].append(case.name)
        if values.min() == values.max():
            self.found["volume of one value everywhere"].append(case.name)
        if self.is_ct and values.min() > AIR:
            what = "CT whose lowest value is above that of air: not in Hounsfield units, or cut off?"
            self.found[what].append(f"{case.name}: {values.min():g} to {values.max():g}")
        content = np.ascontiguousarray(values, np.float32)
        self.digests[hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()].append(
            f"{case.name} ({case.split})" if case.split else case.name
        )
        if case.label is not None:
            labels = open_labels(case.label, painting=self.painting)
            if not isinstance(labels, ClassFiles):
                self.labels(case, label_values(labels))
                return
            painted, lost = labels.painted()
            for (name, other), number in sorted(lost.items()):
                self.found[OVERLAP].append(f"{case.name}: {number} of {other} are {name}")
            self.labels(case, painted)

    def labels(self, case: VolumeCase, values: np.ndarray) -> None:
        """Voxels by class."""
        self.labelled += 1
        numbers, times = np.unique(values, return_counts=True)
        if len(numbers) == 1:
            self.found["labels of one value everywhere"].append(f"{case.name}: {numbers[0]}")
        if self.coding is None:
            self.classes.update({f"value {n}": int(t) for n, t in zip(numbers, times, strict=True)})
            return
        own = self.coding.values or tuple(range(len(self.coding.classes)))
        names = dict(zip(own, self.coding.classes, strict=True)) | dict.fromkeys(self.coding.ignored, "(ignored)")
        strange = [int(number) for number in numbers if int(number) not in names]
        self.classes.update({names[int(n)]: int(t) for n, t in zip(numbers, times, strict=True) if int(n) in names})
        if strange:
            text = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
            raise UserError(f"labels of no class: {text}", where=case.label or case.name,
                            fix="--classes and --values name them all; or mend the labels")  # fmt: skip

    def hints(self) -> list[Problem]:
        """What training accepts and a person should look at; and what makes every figure wrong."""
        copies = [", ".join(names) for names in self.digests.values() if len(names) > 1]
        if len(self.codes) > 1:
            self.found["orientations of the files differ (they are read in one and the same)"] = [
                f"{code}: {number}" for code, number in self.codes.most_common()
            ]
        for place, axis in enumerate(("slices", "rows", "columns")):
            own = [spacing[place] for spacing in self.spacings]
            if own and max(own) > SPREAD * min(own):
                what = f"spacing of {axis} differs more than {SPREAD} times among volumes; nothing is resampled"
                self.found[what].append(f"{min(own):.3g} to {max(own):.3g} mm")
        if self.coding is not None and self.labelled:
            absent = [name for name, number in self.classes.items() if number == 0]
            self.found["class without voxels in the volumes decoded"] = absent
        what = "the same voxels under several names"
        self.found[what] = copies
        problems = hints(self.found, {what: "keep one of each: in two splits, the test is part of the training"})
        if self.coding is None and self.classes:
            values = ",".join(name.removeprefix("value ") for name in self.classes)
            names = ",".join(["background", *(f"class_{name}" for name in values.split(",")[1:])])
            fix = f"--classes {names} --values {values}"
            what = "nothing says what label values mean"
            problems.append(Problem(what=what, effect="stops training", count=1, fix=fix))
        return problems

    def sizes(self) -> dict[str, str]:
        """In words."""
        if not self.shapes:
            return {}
        low, high = np.min(self.shapes, axis=0), np.max(self.shapes, axis=0)
        near, far = np.min(self.spacings, axis=0), np.max(self.spacings, axis=0)
        return {
            "slices x rows x columns": f"{' x '.join(map(str, low))} to {' x '.join(map(str, high))}",
            "spacing, mm": f"{' x '.join(f'{v:.3g}' for v in near)} to {' x '.join(f'{v:.3g}' for v in far)}",
            "orientation of files": ", ".join(f"{code} {number}" for code, number in self.codes.most_common()),
        }


def _is_ct(name: str, path: Path) -> bool:
    """Whether the format, or a dataset.json of its folder, says that all volumes are CT."""
    if name == "amos2022":
        return True
    file = path / "dataset.json"
    if name != "nifti" or not file.is_file():
        return False
    content = read_cached(file, dict[str, Any]) or {}  # its reader says what is wrong with it
    said = content.get("modality") or content.get("channel_names") or {}
    return isinstance(said, dict) and bool(said) and all(str(one).upper() == "CT" for one in said.values())
