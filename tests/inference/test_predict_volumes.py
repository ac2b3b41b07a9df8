"""What `predict` takes for a case of volumes: series, files of modalities, folders as data sets have them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from vistruct.data.input import Slices
from vistruct.inference.volumes import volumes_at


def model(*modalities: str) -> Any:
    """As far as it is asked for cases."""
    return SimpleNamespace(input=SimpleNamespace(slices=Slices(modalities=modalities)))


def save(file: Path, shape: tuple[int, ...] = (2, 3, 4)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), file)
    return file


def found(asked: Any, *sources: Path) -> dict[str, list[str]]:
    root = sources[0] if sources[0].is_dir() else sources[0].parent
    return {
        case.name: [Path(str(one)).relative_to(root).as_posix() for one in case.pictures]
        for case in volumes_at(asked, sources)
    }


def test_names_of_nnunet_are_cases_with_their_modalities_in_every_folder_of_a_data_set(tmp_path: Path) -> None:
    for case in ("imagesTr/a", "imagesTs/b"):
        for number in range(2):
            save(tmp_path / f"{case}_000{number}.nii.gz")
    save(tmp_path / "labelsTr" / "a.nii.gz")
    two = model("0000", "0001")
    expected = ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert found(two, tmp_path / "imagesTs") == {"b": expected}
    assert found(two, *(tmp_path / "imagesTs" / name for name in expected)) == {"b": expected}
    assert set(found(two, tmp_path)) == {"a", "b"}
    one = model("0000")
    for case in ("c", "d"):
        save(tmp_path / "single" / f"{case}_0000.nii.gz")
        save(tmp_path / "plain" / f"{case}.nii.gz")
    assert list(found(one, tmp_path / "single")) == ["c", "d"]
    assert list(found(model(""), tmp_path / "single")) == ["c", "d"]
    assert list(found(one, tmp_path / "plain")) == ["c", "d"]  # a single volume is the only modality


def test_what_a_case_lacks_is_its_fault_and_no_others(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000"):
        save(tmp_path / f"{name}.nii.gz")
    cases = {case.name: case for case in volumes_at(model("0000", "0001"), [tmp_path])}
    assert cases["a"].fault is None
    assert "'0001'" in cases["b"].fault.what
    [case] = volumes_at(model("", "t2"), [save(tmp_path / "one" / "x.nii.gz")])
    assert "a single volume" in case.fault.what


def test_a_file_of_four_axes_is_its_channels(tmp_path: Path) -> None:
    file = save(tmp_path / "imagesTs" / "a.nii.gz", (2, 3, 4, 2))
    assert found(model("T2", "ADC"), file) == {"a.nii.gz": ["a.nii.gz/0", "a.nii.gz/1"]}
    [case] = volumes_at(model("ADC"), [file])
    assert case.fault is not None  # nobody says which of them it is
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T2", "1": "ADC"}}')
    assert found(model("ADC"), file) == {"a.nii.gz": ["a.nii.gz/1"]}
    assert found(model("ADC", "T2"), tmp_path / "imagesTs") == {"a": ["a.nii.gz/1", "a.nii.gz/0"]}


@pytest.mark.parametrize("label", ["labels/a.nii.gz", "a_seg.nii.gz", "deep/down/here/now/a_label.nii.gz"])
def test_labels_are_not_looked_at(label: str, tmp_path: Path) -> None:
    image = {"labels/a.nii.gz": "images/a.nii.gz"}.get(label, label.replace("_seg", "").replace("_label", ""))
    save(tmp_path / image)
    save(tmp_path / label)
    assert [paths for paths in found(model(""), tmp_path).values()] == [[image]]
