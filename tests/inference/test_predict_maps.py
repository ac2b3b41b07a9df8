"""Models of pixels and images asked about many files: what is written, read back, measured, and not done twice."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pixel_models import NAMES, classifier, picture, segmenter, strongest

from vistruct.cli.main import main
from vistruct.contracts import IGNORED
from vistruct.data.formats.maps import loveda
from vistruct.data.input import Slices
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.rasters import read_raster
from vistruct.inference import maps as module
from vistruct.inference import volumes
from vistruct.inference.files import Results, predict_files
from vistruct.inference.kind import Asked
from vistruct.inference.maps import Area
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case
from vistruct.inference.sources import images_at, pairs_at
from vistruct.windows.slide import Slide


def folder(tmp_path: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    for number, (name, size_hw) in enumerate(sizes.items()):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size_hw, number).permute(1, 2, 0).numpy()).save(file)
    return tmp_path / "images"


def geotiff(file: Path, pixels: torch.Tensor, crs: str = "EPSG:32633") -> Path:
    channels, height, width = pixels.shape
    place = {"crs": crs, "transform": rasterio.Affine(2, 0, 500000, 0, -2, 5000000)}
    with rasterio.open(
        file, "w", driver="GTiff", height=height, width=width, count=channels, dtype="uint8", **place
    ) as out:
        out.write(pixels.numpy())
    return file


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def areas_of(model: Model, found: Results) -> list[Area]:
    return module.areas_of(model, found.done)


def blind(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.task, "probabilities", lambda _: pytest.fail("looked again"))


def test_numbers_colours_pictures_and_areas_of_every_image(tmp_path: Path, monkeypatch):
    images = images_at([folder(tmp_path, {"a.png": (20, 31), "below/b.png": (9, 12), "a.bmp": (5, 5)})])
    model = segmenter(monkeypatch, slide=Slide(size=16, overlap=4))
    found = predict_files(model, images, tmp_path / "out", asked=Asked(batch=3))
    palette, areas = model.palette, areas_of(model, found)
    assert found.files["png"] == tmp_path / "out" / "labels"
    for case, stem in zip(images, ("a.bmp", "a.png", "below/b"), strict=True):  # both called a keep their endings
        truth = strongest(torch.from_numpy(np.array(Image.open(case.files[0]))).permute(2, 0, 1)).numpy()
        numbers = tmp_path / "out" / "labels" / f"{stem}.png"
        assert (Coding(classes=NAMES).decode(read_raster(numbers), numbers) == truth).all()
        colours = tmp_path / "out" / "colour" / f"{stem}.png"
        assert (Coding(classes=NAMES, colours=palette).decode(read_raster(colours), colours) == truth).all()
        mine = [area for area in areas if area.name == case.name]
        assert [area.count for area in mine] == np.bincount(truth.ravel(), minlength=3).tolist()
    names = sorted(file.name for file in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["a.bmp.jpg", "a.png.jpg", "below__b.png.jpg"]
    table = rows(tmp_path / "out" / "areas.csv")
    assert len(table) == 9
    assert table[0] == {
        "image": "a.bmp", "class": "red", "pixels": str(areas[0].count), "share": f"{areas[0].share:.6f}", "m2": "",
    }  # fmt: skip


def test_what_is_done_is_not_done_again_and_other_formats_come_from_it(tmp_path: Path, monkeypatch):
    images = images_at([folder(tmp_path, {"1.png": (20, 31), "2.png": (9, 12)})])
    model = segmenter(monkeypatch, names=("red", "green", "blue"))
    first = predict_files(model, images, tmp_path / "out", formats=["png"])
    sighted = model.task.probabilities
    blind(model, monkeypatch)
    again = predict_files(model, images, tmp_path / "out", formats=["color", "geotiff"])
    assert again.told == first.told
    with rasterio.open(tmp_path / "out" / "geotiff" / "1.tif") as file:
        truth = strongest(picture(20, 31, 0)).numpy()
        assert (file.read(1) == truth).all()
    Image.fromarray(picture(9, 12, 5).permute(1, 2, 0).numpy()).save(images[1].files[0])  # another image of that name
    looked = []
    monkeypatch.setattr(model.task, "probabilities", lambda one: looked.append(one.shape) or sighted(one))
    predict_files(model, images, tmp_path / "out", formats=["color"])
    assert [tuple(shape) for shape in looked] == [(1, 1, 3, 9, 12)]
    assert (read_raster(tmp_path / "out" / "labels" / "2.png") == strongest(picture(9, 12, 5)).numpy()).all()
    looked.clear()
    predict_files(model.in_windows(8, 0), images, tmp_path / "out")  # other windows: all again
    assert len(looked) > 2


def test_what_was_stopped_in_the_middle_goes_on_with_the_next_image(tmp_path: Path, monkeypatch):
    images = images_at([folder(tmp_path, {"1.png": (20, 31), "2.png": (9, 12), "3.png": (4, 4)})])
    model = segmenter(monkeypatch)
    whole = predict_files(model, images, tmp_path / "whole")
    sighted, seen = model.task.probabilities, []

    def stopped(one: torch.Tensor) -> torch.Tensor:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(one)
        return sighted(one)

    monkeypatch.setattr(model.task, "probabilities", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, images, tmp_path / "out")
    monkeypatch.setattr(model.task, "probabilities", lambda one: seen.append(one) or sighted(one))
    assert predict_files(model, images, tmp_path / "out").told == whole.told
    assert len(seen) == 3
    for name in ("labels/1.png", "colour/2.png", "labels/3.png", "areas.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_geotiff_keeps_its_place_and_its_areas_are_square_metres(tmp_path: Path, monkeypatch, on_disk):
    if on_disk:
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    pixels = picture(70, 50)
    case = Case(pictures=(geotiff(tmp_path / "a.tif", pixels),), name="a.tif")
    model = segmenter(monkeypatch, slide=Slide(size=32, overlap=8))
    areas = areas_of(model, predict_files(model, [case], tmp_path / "out"))
    with rasterio.open(tmp_path / "out" / "geotiff" / "a.tif") as file, rasterio.open(case.files[0]) as source:
        assert (file.crs, file.transform) == (source.crs, source.transform)
        assert (file.read(1) == strongest(pixels).numpy()).all()
    assert [area.measured for area in areas] == [area.count * 4.0 for area in areas]
    assert not list((tmp_path / "out").rglob("*.npy"))
    in_degrees = Case(pictures=(geotiff(tmp_path / "b.tif", pixels, "EPSG:4326"),), name="b.tif")
    areas = areas_of(model, predict_files(model, [in_degrees], tmp_path / "other"))
    assert {area.measured for area in areas} == {None}


def test_a_submission_is_refused_before_any_image_is_looked_at(tmp_path: Path, monkeypatch):
    images = images_at([folder(tmp_path, {"1.png": (8, 8)})])
    model = segmenter(monkeypatch)
    blind(model, monkeypatch)
    with pytest.raises(UserError, match="loveda has the classes"):
        predict_files(model, images, tmp_path / "out", formats=["loveda"])
    land = segmenter(monkeypatch, names=loveda.CLASSES, cell=2)
    found = predict_files(land, images, tmp_path / "land", formats=["loveda"])
    assert found.made == found.files["loveda"] == tmp_path / "land" / "loveda" / "loveda.zip"
    with zipfile.ZipFile(found.made) as archive:
        assert archive.namelist() == ["1.png"]  # the server finds nothing in a folder
        assert archive.read("1.png") == (tmp_path / "land" / "loveda" / "1.png").read_bytes()
    assert (read_raster(tmp_path / "land" / "loveda" / "1.png") == read_raster(tmp_path / "land/labels/1.png")).all()
    assert not (tmp_path / "land" / "colour").exists()


def test_pairs_are_matched_by_name_and_drawn(tmp_path: Path, monkeypatch):
    for side, seed in (("before", 0), ("after", 1)):
        for name in ("x/1", "x/2"):
            file = tmp_path / side / f"{name}.{'png' if side == 'before' else 'bmp'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(12, 16, seed if name == "x/1" else 7).permute(1, 2, 0).numpy()).save(file)
    cases = pairs_at([tmp_path / "before", tmp_path / "after"])
    assert [case.name for case in cases] == ["x/1.bmp", "x/2.bmp"]
    assert [file.parent.parent.name for file in cases[0].files] == ["before", "after"]
    model = segmenter(monkeypatch, names=("unchanged", "changed"), kind="change", fusion="difference")
    found = predict_files(model, cases, tmp_path / "out")
    assert len(areas_of(model, found)) == 4
    assert found.told.lines[0] == "2 pairs"
    with Image.open(tmp_path / "out" / "pictures" / "x__1.bmp.jpg") as drawn:
        assert drawn.width > 2 * 16
    (tmp_path / "before" / "x" / "3.png").write_bytes((tmp_path / "before" / "x" / "2.png").read_bytes())
    with pytest.raises(UserError, match=r"1 images without their other, first 'x/3' in .*before"):
        pairs_at([tmp_path / "before", tmp_path / "after"])


def test_pixels_without_data_have_no_class_in_any_file(tmp_path: Path, monkeypatch):
    pixels = picture(9, 12, 1).clamp(min=1)
    pixels[:, :, :5] = 0
    with rasterio.open(geotiff(tmp_path / "a.tif", pixels), "r+") as out:
        out.nodata = 0
    truth = strongest(pixels).numpy()
    truth[:, :5] = IGNORED
    model = segmenter(monkeypatch)
    results = tmp_path / "out"
    asked = Asked(probabilities=True)
    for again in (False, True):  # at last from the number PNG
        if again:
            blind(model, monkeypatch)
            (results / "geotiff" / "a.tif").unlink()
            (results / "colour" / "a.png").unlink()
        found = predict_files(model, images_at([tmp_path / "a.tif"]), results, asked=asked)
        counts = np.bincount(truth[:, 5:].ravel(), minlength=3).tolist()
        assert [area.count for area in areas_of(model, found)] == counts
        with rasterio.open(results / "geotiff" / "a.tif") as file:
            assert (np.where(file.read(1) == file.nodata, IGNORED, file.read(1).astype(int)) == truth).all()
        colours = read_raster(results / "colour" / "a.png")
        coding = Coding(classes=NAMES, colours=model.palette, ignored_colours=(tuple(colours[0, 0].tolist()),))
        assert (coding.decode(colours, "") == truth).all()
    with Image.open(results / "labels" / "a.png") as numbers:
        assert (np.array(numbers) == np.where(truth < 0, 255, truth)).all()
        assert np.array(numbers.convert("RGB"))[0, 0].tolist() == colours[0, 0].tolist()
    (shares, *_) = sorted(results.glob("probabilities/*/a.tif"))
    with rasterio.open(shares) as file:
        assert (file.dataset_mask()[:, :5] == 0).all()
        assert (file.dataset_mask()[:, 5:] == 255).all()


def volume(file: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), file)
    return file


def test_volumes_come_back_on_their_own_grid_with_the_label_values_of_training(tmp_path: Path, monkeypatch):
    shown = {
        "slices": Slices(),
        "coding": Coding(classes=("air", "flesh"), values=(0, 7), ignored=()),
        "intake": Intake(low=(0,), high=(255,), channels=1),
    }
    model = segmenter(monkeypatch, shown=shown, channels=1, names=("air", "flesh"))
    with torch.no_grad():  # flesh from 128 on
        model.task.backbone.look.weight.copy_(torch.tensor([1.0, 0, 0]).reshape(3, 1, 1, 1))
        model.task.backbone.look.bias.zero_()
        model.task.head.linear.weight.copy_(torch.tensor([[0.0, 0, 0], [40.0, 0, 0]])[..., None, None])
        model.task.head.linear.bias.copy_(torch.tensor([0.0, -20.0]))
    values = np.random.default_rng(0).choice([20, 220], (9, 7, 5))
    turned = np.array([[0, -1.5, 0, 4], [2, 0, 0, 5], [0, 0, -3.0, 6], [0, 0, 0, 1]])
    volume(tmp_path / "scans" / "p1.nii.gz", values, turned)
    volume(tmp_path / "scans" / "p2.nii", values[::-1], np.diag([1, 1, 2, 1]))
    cases = volumes.volumes_at(model, [tmp_path / "scans"])
    assert [case.files[0].name for case in cases] == ["p1.nii.gz", "p2.nii"]
    asked = Asked(batch=3, probabilities=True)
    areas = areas_of(model, predict_files(model, cases, tmp_path / "out", asked=asked))
    for number, name in enumerate(("0_air", "1_flesh")):
        share = nibabel.load(tmp_path / "out" / "probabilities" / name / "p1.nii.gz")
        assert (share.get_data_dtype(), share.affine.tolist()) == (np.float32, turned.tolist())
        np.testing.assert_allclose(np.asarray(share.dataobj) > 0.5, (values == 220) == bool(number))
    found = nibabel.load(tmp_path / "out" / "nifti" / "p1.nii.gz")
    assert (found.affine == turned).all()
    assert (np.asarray(found.dataobj) == np.where(values == 220, 7, 0)).all()
    assert (
        np.asarray(nibabel.load(tmp_path / "out" / "nifti" / "p2.nii.gz").dataobj)
        == np.where(values == 220, 7, 0)[::-1]
    ).all()
    flesh = int((values == 220).sum())
    assert [area.count for area in areas] == [values.size - flesh, flesh] * 2
    assert areas[1].measured == pytest.approx(flesh * 9 / 1000)
    assert (tmp_path / "out" / "pictures").is_dir()
    blind(model, monkeypatch)
    again = predict_files(model, cases, tmp_path / "out")
    assert areas_of(model, again) == areas
    read = again.done[0].read()  # from the NIfTI file
    opened = volumes.open_case(model, cases[0].files)
    slices = torch.stack([opened.slice(number)[0] for number in range(opened.num_slices)])
    assert torch.equal(read.label_map, (slices.int() > 257 * 128).to(torch.int16))


def test_probabilities_are_a_map_for_each_class_whose_strongest_is_the_label(tmp_path: Path, monkeypatch):
    model, pixels = segmenter(monkeypatch), picture(20, 30).permute(1, 2, 0).numpy()
    images = tmp_path / "in"
    images.mkdir()
    Image.fromarray(pixels).save(images / "plain.png")
    geotiff(images / "lies.tif", picture(20, 30))
    with torch.no_grad():  # so weak that no class is certain
        model.task.head.linear.weight.mul_(0.05)
    cases = images_at([images])
    predict_files(model, cases, tmp_path / "out", asked=Asked(probabilities=True))
    expected = (pixels / 255 * 2).transpose(2, 0, 1)
    expected = np.exp(expected) / np.exp(expected).sum(axis=0)
    for number, name in enumerate(model.class_names):
        folder = tmp_path / "out" / "probabilities" / f"{number}_{name}"
        assert sorted(file.name for file in folder.iterdir()) == ["lies.tif", "plain.png"]
        with rasterio.open(folder / "lies.tif") as file:
            assert (file.dtypes, file.transform.c) == (("float32",), 500000)
            np.testing.assert_allclose(file.read(1), expected[number], atol=1e-4)
        np.testing.assert_allclose(np.asarray(Image.open(folder / "plain.png")) / 255, expected[number], atol=0.5 / 255)
    (folder / "plain.png").unlink()
    predict_files(model, cases, tmp_path / "out", asked=Asked(probabilities=True))
    assert (folder / "plain.png").is_file()  # looked at again: it is in no other file
    with pytest.raises(UserError, match="no probability maps"):
        predict_files(classifier(monkeypatch), cases, tmp_path / "classes", asked=Asked(probabilities=True))


def test_classes_of_images_are_a_table_and_are_not_looked_at_twice(tmp_path: Path, monkeypatch):
    for number, colour in enumerate(((250, 10, 10), (10, 250, 10), (10, 250, 250))):
        Image.new("RGB", (6, 4), colour).save(tmp_path / f"{number}.png")
    cases = images_at([tmp_path / f"{number}.png" for number in range(3)])
    model = classifier(monkeypatch, multi_label=True)
    found = predict_files(model, cases, tmp_path / "out", asked=Asked(batch=2))
    table, predictions = rows(found.made), [one.read() for one in found.done]
    assert [row["class"] for row in table] == ["red", "green", "green;blue"]
    assert float(table[0]["red"]) == pytest.approx(float(predictions[0].scores[0]), rel=1e-5)
    monkeypatch.setattr(model.task, "predict", lambda _: pytest.fail("looked again"))
    again = predict_files(model, cases, tmp_path / "out")
    assert [one.values["scores"] for one in again.done] == [one.scores.tolist() for one in predictions]
    single = classifier(monkeypatch)
    found = predict_files(single, cases, tmp_path / "single")
    assert sum(found.done[0].values["scores"]) == pytest.approx(1)


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["predict", *map(str, args)])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_the_command_takes_windows_views_and_formats_for_maps(tmp_path: Path, monkeypatch, capsys):
    images = folder(tmp_path, {"1.png": (40, 31), "2.png": (9, 12)})
    model, loaded = segmenter(monkeypatch), []
    monkeypatch.setattr("vistruct.inference.model.load", lambda run, lora=None: loaded.append(run) or model)
    code, out, _ = command(
        capsys, tmp_path / "run", images, "--out", tmp_path / "out", "--tile", 16, "--flip", "horizontal",
        "--scale", 1, "--format", "color", "--json",
    )  # fmt: skip
    assert code == 0
    value = json.loads(out)
    assert value["images"] == 2
    assert sum(value["shares"].values()) == pytest.approx(1)
    settings = json.loads((tmp_path / "out" / ".vistruct" / "parts" / "settings.json").read_text())
    assert (settings["input"]["windows"]["size"], settings["input"]["windows"]["overlap"]) == (16, 3)
    assert settings["views"]["flips"] == ["none", "horizontal"]
    for more, why in (
        (["--format", "coco"], "gives no coco"),
        (["--format", "nifti"], "gives no nifti"),
        ([images, "--pairs"], "takes single images"),
        (["--overlap", 4], "an overlap of no windows"),
    ):
        code, _, err = command(capsys, tmp_path / "run", images, *more)
        assert code == 2
        assert why in err


def test_the_command_says_how_pairs_and_classes_are_given(tmp_path: Path, monkeypatch, capsys):
    images = folder(tmp_path, {"1.png": (8, 8)})
    change = segmenter(monkeypatch, names=("unchanged", "changed"), kind="change", fusion="difference")
    monkeypatch.setattr("vistruct.inference.model.load", lambda run, lora=None: change)
    assert "before/ after/ --pairs" in command(capsys, tmp_path / "run", images)[2]
    assert "--pairs with 1 sources" in command(capsys, tmp_path / "run", images, "--pairs")[2]
    code, out, _ = command(capsys, tmp_path / "run", images, images, "--pairs", "--out", tmp_path / "out")
    assert code == 0
    assert "1 pairs" in out
    model = classifier(monkeypatch)
    monkeypatch.setattr("vistruct.inference.model.load", lambda run, lora=None: model)
    code, out, _ = command(capsys, tmp_path / "run", images, "--out", tmp_path / "classes")
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "classes" / "classes.csv")
    assert "takes whole images" in command(capsys, tmp_path / "run", images, "--tile", 4)[2]
    assert "one of csv, all" in command(capsys, tmp_path / "run", images, "--format", "png")[2]
