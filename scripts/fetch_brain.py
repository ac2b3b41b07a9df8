# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "nibabel"]
# ///
"""Make a data set of one real brain in MR: `uv run scripts/fetch_brain.py FOLDER [regions|tissues]`.

regions (the default): Colin27, a T1 image of one healthy man, the average of 27 scans (1 mm, 181 x 217 x 181), with the
automated anatomical labelling atlas (AAL), whose 116 regions were drawn by hand on this very image (Tzourio-Mazoyer et
al., NeuroImage 2002). They are joined to eight: the lobes, the insula, the deep nuclei and the cerebellum. Both lie in
Debian's package mricron-data, which `apt-get download` fetches without any rights. Regions take in the white matter
below their cortex, and most of the rest of the white matter has none. A lobe cannot be told by its brightness, its
place and folds decide.

tissues: the MNI152 template (the average of 152 people, skull taken off) with its grey and white matter, from nilearn
0.14.1 on the Python package index. These labels are the maxima of probability maps that a program made: worth less, and
nearly a matter of brightness alone. For machines without apt-get, and to try things out.

Training and test are different axial ranges of the same brain, 9 mm apart: the test is the middle, the training lies
above and below. So a score says how well a model fills a gap in one head, and nothing about other people.

Written as NIfTI with the geometry of the original: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json.

Licence: mricron-data is BSD-3-Clause (Chris Rorden), with Colin27 from the Montreal Neurological Institute and AAL from
the GIN, both free to use with citation; nilearn is BSD-3-Clause, the template's copyright notice (McConnell Brain
Imaging Centre, MNI) allows use and change.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

DEBIAN = "mricron-data"
PYPI = "nilearn==0.14.1"
# Thousands of AAL's numbers (the second column of its list): 2001 is the left precentral gyrus, 9110 the vermis.
REGIONS = {
    2: "frontal lobe",
    3: "insula",
    4: "limbic lobe",  # cingulum, hippocampus, amygdala
    5: "occipital lobe",
    6: "parietal lobe",
    7: "deep nuclei",  # caudate, putamen, pallidum, thalamus
    8: "temporal lobe",
    9: "cerebellum",
}
TISSUES = ("grey matter", "white matter")
# Slices from the feet up, first and last, in millimetres of the atlas. The test has every region but the cerebellum;
# insula and deep nuclei, which lie in the middle of a head, are in the top third of the part below alone.
RANGES_MM = {"below": ("Tr", -40, 1), "middle": ("Ts", 10, 26), "above": ("Tr", 35, 68)}

Volume = tuple[Any, np.ndarray, list[str]]  # image, uint8 labels on its grid, names of the labels from 1


def regions(folder: Path) -> Volume:
    """Colin27 with eight regions of AAL."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        sys.exit("apt-get is not here: say `tissues`, or unpack Debian's mricron-data on another machine")
    subprocess.run(["apt-get", "-q", "download", DEBIAN], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["dpkg", "-x", next(folder.glob(f"{DEBIAN}*.deb")).name, "."], cwd=folder, check=True)
    found = folder / "usr" / "fraction" / "mricron" / "templates"
    image, atlas = nibabel.load(found / "ch2.nii.gz"), nibabel.load(found / "aal.nii.gz")
    table = np.zeros(256, np.uint8)
    for line in (found / "aal.nii.txt").read_text().splitlines():
        if line.strip():
            number, _, code = line.split()
            table[int(number)] = list(REGIONS).index(int(code) // 1000) + 1
    return image, table[np.asarray(atlas.dataobj)], list(REGIONS.values())  # ty: ignore[missing-attribute]


def tissues(folder: Path) -> Volume:
    """MNI152 with grey and white matter."""
    subprocess.run(["uv", "pip", "install", "-q", "--no-deps", "--target", str(folder), PYPI], check=True)
    data = folder / "nilearn" / "datasets" / "data"
    image, *maps = (
        nibabel.load(data / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm", "wm")
    )
    shares = np.stack([np.asarray(one.dataobj, np.float32) for one in maps])  # ty: ignore[missing-attribute]
    is_tissue = shares.sum(axis=0) > 0.5 * shares.max()  # of 255
    return image, np.where(is_tissue, shares.argmax(axis=0) + 1, 0).astype(np.uint8), list(TISSUES)


def main(out: Path, which: str) -> None:
    if out.exists():
        sys.exit(f"{out} is there already")
    with tempfile.TemporaryDirectory() as folder:
        image, labels, names = (regions if which == "regions" else tissues)(Path(folder))
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine))
    whole = nibabel.Nifti1Image(labels, image.affine)
    height = np.arange(image.shape[2]) * image.affine[2, 2] + image.affine[2, 3]  # millimetres of each slice
    for part, (end, low, high) in RANGES_MM.items():
        own = np.flatnonzero((height >= low) & (height <= high))
        for kind, volume in (("images", image), ("labels", whole)):
            path = out / f"{kind}{end}" / f"{part}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(volume.slicer[:, :, own[0] : own[-1] + 1], path)
        print(f"{part} ({'training' if end == 'Tr' else 'test'}): {len(own)} slices")
    content = {
        "name": f"one brain, {which}",
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, **{name: number for number, name in enumerate(names, start=1)}},
    }
    (out / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")
    source = {"regions": f"Colin27 and AAL; taken from Debian's {DEBIAN}", "tissues": f"MNI152; taken from {PYPI}"}
    (out / "LICENSE.txt").write_text(f"{source[which]}. See the head of the script for terms and citations.\n")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or (which := sys.argv[2] if len(sys.argv) == 3 else "regions") not in (
        "regions",
        "tissues",
    ):
        sys.exit("usage: uv run scripts/fetch_brain.py FOLDER [regions|tissues]")
    main(Path(sys.argv[1]), which)
