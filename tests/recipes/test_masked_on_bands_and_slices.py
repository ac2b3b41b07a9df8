"""The whole command on images that are no pictures: rasters of 13 bands, and slices of volumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import vistruct
from vistruct.cli.main import main
from vistruct.contracts import Embedded

SMALL = ["--model", "small", "--size", "32", "--steps", "2", "--batch", "2", "--set", "workers=0"]


def rasters(folder: Path, number: int) -> Path:
    rasterio = pytest.importorskip("rasterio")
    folder.mkdir()
    where = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    for seed in range(number):
        values = np.random.default_rng(seed).integers(0, 4000, (13, 40, 36), np.uint16)
        profile = {"driver": "GTiff", "count": 13, "height": 40, "width": 36, "dtype": "uint16", **where}
        with rasterio.open(folder / f"{seed}.tif", "w", **profile) as file:
            file.write(values)
    return folder


def volumes(folder: Path, seed: int = 9) -> Path:
    nibabel = pytest.importorskip("nibabel")
    folder.mkdir()
    voxels = np.random.default_rng(seed).integers(-1000, 400, (36, 40, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 2, 1])), folder / "ct.nii.gz")
    return folder


def nibabel_slices(file: Path) -> list[np.ndarray]:
    """float32[H, W, 1] each, as they lie on a screen: rows from the front, columns from the patient's right."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(file)
    ras = np.asarray(nibabel.as_closest_canonical(image).dataobj, np.float32)
    return [np.ascontiguousarray(ras[::-1, ::-1, at].T)[..., None] for at in range(ras.shape[2])]


def run(*args: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert not caught.value.code


def test_thirteen_bands_are_learned_measured_and_asked(tmp_path: Path) -> None:
    data, out = rasters(tmp_path / "s2", 3), tmp_path / "run"
    bands = ",".join(map(str, range(1, 14)))
    values = ["--bands", bands, "--low", "0", "--high", "4000"]
    run("train", "masked", "--data", str(data), *values, "--train-fraction", "0.7", *SMALL, "--out", str(out))
    card = json.loads((out / "model" / "model.json").read_text())
    assert card["input"]["channels"] == 13
    assert len(card["input"]["intake"]["bands"]) == 13
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("health" in json.dumps(line) for line in lines)
    run("predict", str(out), str(data), "--out", str(tmp_path / "found"))
    assert (out / "samples" / "reconstructions_val.png").is_file()
    rows = list(csv.reader((tmp_path / "found" / "embeddings.csv").read_text().splitlines()))[1:]
    vectors = np.array([row[1:] for row in rows], float)
    assert [row[0] for row in rows] == ["0.tif", "1.tif", "2.tif"]
    assert np.allclose((vectors**2).sum(axis=1), 1, atol=1e-4)


def test_bands_and_slices_are_learned_in_one_run(tmp_path: Path) -> None:
    data, out = f"{rasters(tmp_path / 's2', 1)},{volumes(tmp_path / 'ct')}", tmp_path / "run"
    channels = ["--set", "data.intake.channels=13", "--set", "task.backbone.channels=13"]  # slices: 13 alike
    values = ["--percentiles", "1,99", "--normalise", "data", "--mix", "1,1"]
    run("train", "masked", "--data", data, *values, *channels, *SMALL, "--out", str(out))
    told = json.loads((out / "data.json").read_text())
    assert "slices" in json.dumps(told)
    assert (out / "backbone" / "backbone.safetensors").is_file()
    assert (out / "samples" / "reconstructions_train.png").is_file()
    assert "reconstructions train" in (out / "report.html").read_text()


def test_held_out_slices_are_measured_and_drawn(tmp_path: Path) -> None:
    data, val, out = volumes(tmp_path / "ct"), volumes(tmp_path / "other", seed=5), tmp_path / "run"
    told = ["--data", str(data), "--val", str(val), "--window", "abdomen"]
    run("train", "masked", *told, *SMALL, "--out", str(out))
    assert {one.name for one in (out / "samples").iterdir()} == {"first_batch.png", "reconstructions_val.png"}
    run("predict", str(out), str(val), "--out", str(tmp_path / "found"))
    whole = np.loadtxt(tmp_path / "found" / "embeddings.csv", delimiter=",", skiprows=1, usecols=range(1, 97))
    rows = np.loadtxt(tmp_path / "found" / "slices" / "ct.csv", delimiter=",", skiprows=1)
    assert rows[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(rows[:, 1:], axis=1), 1, atol=1e-5)
    mean = rows[:, 1:].mean(axis=0)
    np.testing.assert_allclose(whole, mean / np.linalg.norm(mean), atol=1e-5)
    model = vistruct.load(out)
    found = model.predict(str(val / "ct.nii.gz")).prediction
    assert isinstance(found, Embedded)
    assert found.slices is not None
    np.testing.assert_allclose(found.slices, rows[:, 1:], atol=1e-6)
    voxels = nibabel_slices(val / "ct.nii.gz")  # as pictures: the same numbers, looked at one by one
    one = model.predict(voxels[1]).prediction
    np.testing.assert_allclose(one.image, rows[1, 1:], atol=1e-4)  # ty: ignore[unresolved-attribute]
