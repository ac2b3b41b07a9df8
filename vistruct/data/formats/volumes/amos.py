"""AMOS 2022: abdominal organs in CT (`amos2022`) and MR (`amos2022_mr`, see `amos_mr.py`).

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

from vistruct.data.formats.volumes.nifti import SPLITS, paired_cases
from vistruct.data.formats.volumes.registry import Case
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

MODALITIES: tuple[str, ...] = ()
INTAKE = Intake(window="soft_tissue", channels=3)  # ours: the paper does not say its own

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
OTHER_MODALITY = "volume left out: MR, and CT is meant (format amos2022_mr reads them)"


def looks_like(root: Path) -> bool:
    """Whether the release lies here."""
    return any(_NAME.match(file.name.split(".")[0]) for end in SPLITS for file in root.glob(f"images{end}/amos_*.nii*"))


def cases(root: Path, report: IssueCounter) -> list[Case]:
    """The CT volumes."""
    found = all_cases(root)
    for case, number in found:
        if number > LAST_CT:
            report.note(OTHER_MODALITY, case.name)
    return [case for case, number in found if number <= LAST_CT]


def coding(root: Path) -> Coding | None:
    """The same in every copy."""
    return Coding(classes=CLASSES, ignored=())


def all_cases(root: Path) -> list[tuple[Case, int]]:
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
