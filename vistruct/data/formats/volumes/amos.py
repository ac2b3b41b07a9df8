"""AMOS 2022: abdominal organs in CT (`amos2022`) and in MR (`amos2022_mr`, which must be named).

    imagesTr/amos_0001.nii.gz   labelsTr/amos_0001.nii.gz   imagesVa, labelsVa   imagesTs (labels not published)

Source: Ji et al., AMOS: A large-scale abdominal multi-organ benchmark, arXiv:2206.08023, and the dataset.json of its
release: numbers up to 500 are CT, 507 to 600 MR; 15 organs. `arota` is written `aorta` here, and `prostate/uterus`
without the stroke, which divides names of figures.

ViTP reports 14 classes in CT and does not say which. All 15 are read here, and a figure over them is not that figure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from vistruct.data.formats.format import Ask, Format, Stop, VolumeCase, Walked, never
from vistruct.data.formats.volumes.cases import splits_of_cases
from vistruct.data.formats.volumes.nifti import SPLITS, paired_cases
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

INTAKE = Intake(window="soft_tissue", channels=3)  # of CT; ours: the paper does not say its own
MR_INTAKE = Intake(percentiles=(0.5, 99.5), background=0.0, channels=3)  # values of MR have no unit

CLASSES = (
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate or uterus",
)
LAST_CT = 500
_NAME = re.compile(r"^amos_(\d{4})$")
MR_LEFT_OUT = "volume left out: MR, and CT is meant (format amos2022_mr reads them)"
CT_LEFT_OUT = "volume left out: CT, and MR is meant (format amos2022 reads them)"


def looks_like(root: Path) -> bool:
    """Whether the release lies here."""
    return any(_NAME.match(file.name.split(".")[0]) for end in SPLITS for file in root.glob(f"images{end}/amos_*.nii*"))


def _format(is_ct: bool) -> Format:
    def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
        found = all_cases(root)
        for case, number in found:
            if (number <= LAST_CT) != is_ct:
                report.note(MR_LEFT_OUT if is_ct else CT_LEFT_OUT, case.name)
        return Walked(cases=[case for case, number in found if (number <= LAST_CT) == is_ct])

    return Format(
        kind="volumes",
        looks_like=looks_like if is_ct else never,
        splits=lambda root: splits_of_cases([case for case, number in all_cases(root) if (number <= LAST_CT) == is_ct]),
        walk=walk,
        intake=INTAKE if is_ct else MR_INTAKE,
        coding=coding,
    )


def coding(root: Path) -> Coding | None:
    """The same in every copy."""
    return Coding(classes=CLASSES, ignored=())


def all_cases(root: Path) -> list[tuple[VolumeCase, int]]:
    """Every case with its number."""
    found = []
    for ending, split in SPLITS.items():
        images, labels = root / f"images{ending}", root / f"labels{ending}"
        if images.is_dir():
            for case in paired_cases(images, labels if labels.is_dir() else None, split, root):
                match = _NAME.match(case.name)
                if match:  # every examination is of another person, as far as the release says
                    found.append((replace(case, patient=f"amos2022/{case.name}"), int(match[1])))
    return found


CT, MR = _format(is_ct=True), _format(is_ct=False)
