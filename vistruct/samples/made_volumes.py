"""Made-up volumes for the tiny twins, in the true layouts of AMOS 2022, BraTS 2021 and COVID-QU-Ex.

Bodies are ellipsoids whose brightness tells what they are, so that a small model can learn them in seconds. Numbers are
of the right kind (Hounsfield units, four sequences, grey pictures), shapes are not those of real organs.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image

from vistruct.data.formats.volumes.amos import CLASSES
from vistruct.data.formats.volumes.brats import MODALITIES
from vistruct.samples.made_scenes import kept_by_content

SIDE = 48  # voxels of a slice
SLICES = 6


def amos_folder() -> Path:
    """Four CT volumes with spleen, right kidney and liver, two for training and two for validation, and one MR."""

    def write(folder: Path) -> None:
        listed: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
        cases = (("Tr", 4), ("Tr", 5), ("Va", 8), ("Va", 13), ("Tr", 507))
        for place, (end, number) in enumerate(cases):
            rng = np.random.default_rng(place)
            volume = rng.normal(-20, 12, (SIDE, SIDE, SLICES))
            inside = _ellipsoid(volume.shape, (SIDE / 2, SIDE / 2, SLICES / 2), (23, 23, 3 * SLICES))
            volume[~inside] = -1000  # air
            labels = np.zeros(volume.shape, np.uint8)
            for class_number, units, centre in ((1, 120, (33, 16)), (2, 190, (14, 34)), (6, 60, (15, 15))):
                middle = (*(centre + rng.uniform(-2, 2, 2)), SLICES / 2)
                body = _ellipsoid(volume.shape, middle, (9, 8, SLICES / 1.5)) & inside
                volume[body] = rng.normal(units, 10, int(body.sum()))
                labels[body] = class_number
            name = f"amos_{number:04d}.nii.gz"
            spacing = (-0.8, -0.8, 5.0)  # to the left and to the back, as scanners write it
            _nifti(folder / f"images{end}" / name, volume.round().astype(np.int16), spacing)
            _nifti(folder / f"labels{end}" / name, labels, spacing)
            pair = {"image": f"./images{end}/{name}", "label": f"./labels{end}/{name}"}
            listed["training" if end == "Tr" else "validation"].append(pair)
        content = {"name": "AMOS", "labels": dict(enumerate(CLASSES)), **listed}
        (folder / "dataset.json").write_text(json.dumps(content, indent=1))

    return kept_by_content(write)


def brats_folder(num_patients: int = 5) -> Path:
    """Patients with a tumour of three parts, each of which one sequence shows best."""

    def write(folder: Path) -> None:
        for number in range(num_patients):
            rng = np.random.default_rng(number)
            shape = (SIDE, SIDE, SLICES)
            brain = _ellipsoid(shape, (SIDE / 2, SIDE / 2, SLICES / 2), (21, 18, SLICES))
            centre = (*rng.uniform(19, 29, 2), SLICES / 2)
            parts = {2: (11, SLICES), 4: (7, SLICES / 1.5), 1: (4, SLICES / 2)}  # oedema, enhancing around necrosis
            labels = np.zeros(shape, np.uint8)
            for value, (radius, depth) in parts.items():
                labels[_ellipsoid(shape, centre, (radius, radius, depth)) & brain] = value
            name = f"BraTS2021_{number:05d}"
            brightness = {"t1": (300, 150, 260, 280), "t1ce": (300, 120, 260, 900)}
            brightness |= {"t2": (250, 700, 520, 400), "flair": (250, 420, 800, 600)}
            for sequence in MODALITIES:
                volume = np.zeros(shape)  # the skull is taken off: exactly 0 outside
                for value, mean in zip((0, 1, 2, 4), brightness[sequence], strict=True):
                    own = brain & (labels == value)
                    volume[own] = rng.normal(mean, 25, int(own.sum())).clip(1)
                _nifti(folder / name / f"{name}_{sequence}.nii.gz", volume.round().astype(np.int16), (-1, -1, 1))
            _nifti(folder / name / f"{name}_seg.nii.gz", labels, (-1, -1, 1))

    return kept_by_content(write)


def covid_folder() -> Path:
    """Chest pictures with two lungs, and bright infection in those of the folder COVID-19."""

    def write(folder: Path) -> None:
        root = folder / "Infection Segmentation Data" / "Infection Segmentation Data"
        for place, split in enumerate(("Train", "Val", "Test")):
            for kind, name in (("COVID-19", "covid"), ("Non-COVID", "non_COVID"), ("Normal", "normal")):
                for number in range(4 if split == "Train" else 2):
                    rng = np.random.default_rng([place, number, len(kind)])
                    image = rng.normal(150, 10, (SIDE, SIDE))
                    flat = (SIDE, SIDE, 1)
                    lungs = _ellipsoid(flat, (24, 14, 0), (17, 9, 1)) | _ellipsoid(flat, (24, 34, 0), (17, 9, 1))
                    image[lungs[..., 0]] = rng.normal(60, 10, int(lungs.sum()))
                    infection = np.zeros(flat, bool)
                    if kind == "COVID-19":
                        centre = (rng.uniform(18, 32), rng.choice([14, 34]), 0)
                        infection = _ellipsoid(flat, centre, (8, 6, 1)) & lungs
                        image[infection[..., 0]] = rng.normal(210, 10, int(infection.sum()))
                    own = root / split / kind
                    _png(own / "images" / f"{name}_{place}{number}.png", image.clip(0, 255))
                    _png(own / "lung masks" / f"{name}_{place}{number}.png", lungs[..., 0] * 255)
                    _png(own / "infection masks" / f"{name}_{place}{number}.png", infection[..., 0] * 255)

    return kept_by_content(write)


def _ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """bool[...], true inside."""
    places = np.indices(shape)
    apart = [(place - middle) / radius for place, middle, radius in zip(places, centre, radii, strict=True)]
    return sum(one**2 for one in apart) <= 1


def _nifti(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float]) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    path.write_bytes(
        gzip.compress(image.to_bytes(), mtime=0)
    )  # the same bytes at every call: the folder is named by them


def _png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
