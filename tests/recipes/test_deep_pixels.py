"""16-bit GeoTIFF, 12-bit CT as NIfTI and as DICOM, from the file to the prediction, against what other readers read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import vistruct
from vistruct.checkpoint.tensors import sha256
from vistruct.config import Run, with_values
from vistruct.contracts import DataInfo, Sample
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.files.volume_files import VolumeFile
from vistruct.inference.pixels import open_case, slices_of
from vistruct.recipes import segment
from vistruct.recipes.options import called
from vistruct.recipes.small import small_vit
from vistruct.runs import train_and_report
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, with_statistics

SIDE = 48
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def fields(root: Path) -> Path:
    """Three scenes of four bands of 12 bits in 16, where the class is in steps far finer than 8 bits tell apart."""
    for split in ("train", "val"):
        for number in range(3 if split == "train" else 1):
            rng = np.random.default_rng(number + 7 * (split == "val"))
            labels = (np.arange(SIDE)[:, None] // 8 + np.arange(SIDE) // 12 + number) % 2
            values = (2000 + 6 * labels + rng.integers(0, 3, (4, SIDE, SIDE))).astype(np.uint16)
            for folder in ("images", "masks"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            settings: dict[str, Any] = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 4, "dtype": "uint16"}
            with rasterio.open(root / split / "images" / f"{number}.tif", "w", **settings) as file:
                file.write(values)
            Image.fromarray(labels.astype(np.uint8)).save(root / split / "masks" / f"{number}.png")
    return root


def liver(root: Path) -> Path:
    """Two patients with Hounsfield units in int16, as scanners give them."""
    for split, name, seed in (("train", "a", 0), ("val", "b", 1)):
        rng = np.random.default_rng(seed)
        labels = np.zeros((SIDE, SIDE, 3), np.uint8)
        labels[8:30, 10:40] = 1
        voxels = (rng.integers(-1024, 3071, labels.shape) // 8 + 60 * labels).astype(np.int16)
        for folder, content in (("images", voxels), ("labels", labels)):
            path = root / split / folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(content, np.diag([-1.0, -1, 2, 1])), path)
    return root


def run_on(data: Path, steps: int = 4, **settings: Any) -> Run:
    run = segment.made_tiny(
        called(
            segment.recipe,
            {"data": data, "split": "train", "val_split": "val", "classes": ("no", "yes"), "steps": steps}
            | {"size": 32, "overlap": 8, **settings},
        )
    )
    task: Any = run.only.task
    channels = len(settings.get("bands") or (0, 0, 0))
    task = task.model_copy(update={"backbone": small_vit(channels), "slide": None})
    return with_values(run, task=task, save_every=2)


def read_tif(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read().astype(np.float64)


def card(out: Path) -> dict[str, Any]:
    return json.loads((out / "model" / "model.json").read_text())


@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_a_range_of_a_geotiff_is_rasterios_values_on_full_scale(tmp_path: Path, dtype: Any, full: int) -> None:
    data: Any = run_on(fields(tmp_path), bands=(4, 2, 1), low=(0,), high=(4095,), dtype=dtype, flips=False).only.data
    dataset = data.model_copy(update={"augment": None, "tiles": None}).build()
    assert dataset.info.pixels == dtype
    for index, record in enumerate(dataset.records):
        image = dataset.sample(index, 0).images[0]
        wanted = read_tif(record.images[0])[[3, 1, 0]] / 4095 * full
        assert str(image.dtype) == f"torch.{dtype}"
        assert np.abs(image.numpy() - wanted).max() <= (0.51 if full > 1 else 1e-6)


def test_values_in_the_unit_of_the_file_are_exactly_rasterios(tmp_path: Path) -> None:
    run = run_on(fields(tmp_path), bands=(4, 2, 1), dtype="float32")
    data: Any = run.only.data
    assert data.augment.photometric == 0
    assert (run.only.task.mean, run.only.task.std) == ("data", "data")
    dataset = data.model_copy(update={"augment": None, "tiles": None}).build()
    assert dataset.info.pixels == "raw"
    for index, record in enumerate(dataset.records):
        assert np.array_equal(dataset.sample(index, 0).images[0].numpy(), read_tif(record.images[0])[[3, 1, 0]])


def test_images_one_level_apart_are_different_inputs_and_were_not_in_8_bits() -> None:
    values = np.full((3, 4, 4), 1234, np.uint16)
    above = values + np.uint16(1)
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
    for dtype, is_told_apart in (("uint8", False), ("uint16", True), ("float32", True)):
        intake = Intake(low=(0,), high=(65535,), dtype=dtype)
        one, other = (normalise(intake.taken(one, intake.ranges(one))) for one in (values, above))
        assert bool((one != other).all()) is is_told_apart
        assert torch.equal(one, other) is not is_told_apart


def test_every_type_is_normalised_to_the_same_numbers() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (3, 9, 9)).astype(np.int16)
    normalise, found = Normalise(IMAGENET_MEAN, IMAGENET_STD), {}
    for dtype, least in (("uint8", 0.5 / 255 / 0.22), ("uint16", 0.5 / 65535 / 0.22), ("float32", 1e-6)):
        intake = Intake(low=(0,), high=(4095,), dtype=dtype)
        found[dtype] = normalise(intake.taken(values, intake.ranges(values))).numpy()
        mean, std = (np.array(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
        assert np.abs(found[dtype] - (values / 4095.0 - mean) / std).max() <= least + 1e-6


@pytest.mark.parametrize(
    "settings",
    [{"low": (1900,), "high": (2100,)}, {"low": (0,), "high": (4095,), "normalise": "data"}, {"dtype": "float32"}],
)
def test_a_geotiff_through_training_evaluation_and_prediction(tmp_path: Path, settings: dict[str, Any]) -> None:
    root, bands = fields(tmp_path / "data"), (4, 2, 1)
    out = train_and_report(run_on(root, bands=bands, **settings), tmp_path / "run")
    is_raw, is_measured = "low" not in settings, "low" not in settings or "normalise" in settings
    log = (out / "train.log").read_text()
    assert ("in the unit of the files (float32)" if is_raw else "16 bits (uint16)") in log
    told = json.loads((out / "data.json").read_text())["train"]["main"]
    assert told["pixels"] == ("raw" if is_raw else "uint16")
    assert (told["mean"] is not None) == is_measured
    if is_measured:
        files = sorted((root / "train" / "images").iterdir())
        pixels = np.stack([read_tif(file)[[3, 1, 0]] for file in files]) / (1 if is_raw else 4095)
        # Windows of 32 of images of 48 show the middle twice, and every pixel of them counts.
        assert np.allclose(told["mean"], pixels.mean(axis=(0, 2, 3)), rtol=2e-3)
        assert np.allclose(told["std"], pixels.std(axis=(0, 2, 3)), rtol=0.05)
        assert card(out)["input"]["mean"] == told["mean"]
    model = vistruct.load(out, device="cpu")
    whole = model.input.model_copy(update={"windows": None})  # all of it at once
    model = dataclasses.replace(model, card=dataclasses.replace(model.card, input=whole))
    file = root / "val" / "images" / "0.tif"
    found: Any = model.predict(file).prediction
    values = read_tif(file)[[3, 1, 0]]
    again: Any = model.predict(
        values.astype(np.uint16).transpose(1, 2, 0)
    ).prediction  # an array as it comes from rasterio
    assert torch.equal(found.label_map, again.label_map)
    low, high = (settings[name][0] if not is_raw else side for name, side in (("low", 0.0), ("high", 1.0)))
    share = torch.from_numpy(((values - low) / (high - low)).clip(*((0, 1) if not is_raw else (None, None)))).float()
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (model.task.config.mean, model.task.config.std))
    with torch.no_grad():
        logits = model.task.logits(((share - mean) / std)[None, None])[0]
    surest = logits.softmax(dim=0).amax(dim=0) > 0.51  # others may fall either way by rounding
    assert torch.equal(logits.argmax(dim=0)[surest].short(), found.label_map[surest])
    assert list((out / "samples").glob("*.png"))


@pytest.mark.parametrize("settings", [{"low": (1900,), "high": (2100,)}, {"dtype": "float32"}])
def test_a_run_on_deep_images_that_was_cut_off_ends_bit_identical(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = run_on(fields(tmp_path / "data"), bands=(4, 2, 1), **settings).model_copy(update={"workers": 1})

    class Interrupted(Exception):
        pass

    def on_step(done: int, _: dict[str, float]) -> None:
        if done == 3:
            raise Interrupted

    whole = train_and_report(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_and_report(run, tmp_path / "cut", on_step=on_step)
    cut = train_and_report(run, tmp_path / "cut")
    assert sha256(cut / "model" / "model.safetensors") == sha256(whole / "model" / "model.safetensors")


@pytest.mark.parametrize("settings", [{"window": "abdomen"}, {"dtype": "float32"}])
def test_a_ct_through_training_evaluation_and_prediction(tmp_path: Path, settings: dict[str, Any]) -> None:
    root = liver(tmp_path / "data")
    run = run_on(root, steps=2, **settings)
    data: Any = run.only.data
    dataset = data.model_copy(update={"augment": None, "empty": 1.0}).build(cache=tmp_path / "cache")
    units = np.asarray(nibabel.load(root / "train" / "images" / "a.nii.gz").dataobj).astype(np.float64)
    for index, record in enumerate(dataset.records):
        plane = units[:, :, record.slice].T  # the affine points to the left and to the back, as the screen does
        wanted = plane if "dtype" in settings else ((plane + 160) / 400).clip(0, 1) * 65535
        image = dataset.sample(index, 0).images[0]
        assert np.abs(image.numpy() - wanted).max() <= (0 if "dtype" in settings else 0.51)
        assert image.dtype == (torch.float32 if "dtype" in settings else torch.uint16)
    copies = [np.load(file, mmap_mode="r").dtype for file in (tmp_path / "cache").rglob("*.npy")]
    assert np.dtype("float32" if "dtype" in settings else "uint16") in copies
    out = train_and_report(run, tmp_path / "run")
    model = vistruct.load(out, device="cpu")
    opened = open_case(model, [root / "val" / "images" / "b.nii.gz"])
    plane = np.asarray(nibabel.load(root / "val" / "images" / "b.nii.gz").dataobj)[:, :, 1].T.astype(np.float64)
    wanted = plane if "dtype" in settings else ((plane + 160) / 400).clip(0, 1) * 65535
    assert np.abs(opened.slice(1).numpy() - wanted).max() <= (0 if "dtype" in settings else 0.51)
    assert torch.stack([rows.label_map for rows in slices_of(model, opened)]).shape == (3, SIDE, SIDE)
    assert "val/mDice" in (out / "metrics.jsonl").read_text()


def test_twelve_bits_of_a_dicom_series_keep_their_levels(tmp_path: Path) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(str(tmp_path / "s" / "1.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    one.SeriesInstanceUID, one.PatientID, one.Modality = generate_uid(), "P", "CT"
    one.Rows = one.Columns = 64
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelSpacing, one.ImageOrientationPatient, one.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 0]
    one.SliceThickness, one.PixelData = 1, stored.tobytes()
    (tmp_path / "s").mkdir()
    one.save_as(tmp_path / "s" / "1.dcm", enforce_file_format=True)
    units = pydicom.dcmread(tmp_path / "s" / "1.dcm").pixel_array.astype(np.float64) - 1024
    raw = VolumeFile.open(tmp_path / "s", intake=Intake(dtype="float32", channels=1)).slice(0)[0]
    assert np.array_equal(raw.numpy(), units)
    deep = VolumeFile.open(tmp_path / "s", intake=Intake(low=(-1024,), high=(3071,), channels=1)).slice(0)[0]
    assert len(np.unique(deep.numpy())) == 4096
    assert np.abs(deep.numpy() / 65535 * 4095 - 1024 - units).max() < 0.032  # half a level
    few = VolumeFile.open(tmp_path / "s", intake=Intake(low=(-1024,), high=(3071,), dtype="uint8", channels=1)).slice(0)
    assert len(np.unique(few.numpy())) == 256


def test_mean_and_std_of_colours_are_refused_for_values_in_a_unit_of_their_own(tmp_path: Path) -> None:
    run = run_on(fields(tmp_path), bands=(4, 2, 1), dtype="float32")
    plain: Any = run.only.task.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    with pytest.raises(UserError, match="in the unit of the files"):
        with_statistics(plain, DataInfo(pixels="raw"))
    with pytest.raises(UserError, match="not known"):
        with_statistics(run.only.task, DataInfo(pixels="raw"))
    with pytest.raises(UserError, match="one of mean and std"):
        with_statistics(run.only.task.model_copy(update={"std": (1.0,)}), DataInfo(mean=(1.0,), std=(1.0,)))
    assert with_statistics(run.only.task, DataInfo(mean=(7.0,), std=(2.0,))).mean == (7.0,)


def test_8_and_16_bits_do_not_share_a_batch() -> None:
    from vistruct.tasks.segment import MapCollator

    samples = [
        Sample(id=str(bits), image_id="", seed=0, images=[torch.zeros(3, 4, 4, dtype=bits)])
        for bits in (torch.uint8, torch.uint16)
    ]
    with pytest.raises(UserError, match=r"torch\.uint16 and torch\.uint8 in one batch"):
        MapCollator(num_images=1, channels=3, num_classes=2)(samples)
