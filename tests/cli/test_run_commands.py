"""One small run through the commands: train, eval, predict, show, inspect, and the same run again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from box_sets import read_coco
from PIL import Image

from vistruct.cli.main import main
from vistruct.cli.train import resolve
from vistruct.config import read_run, run_to_yaml
from vistruct.errors import UserError
from vistruct.samples import trees
from vistruct.verbs.train import default_dir

SMALL = ["--set", "steps=2", "--set", "data.fraction=0.01", "--set", "evals={}"]


def run_main(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str]:
    """Exit code and stdout of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return int(caught.value.code or 0), capsys.readouterr().out


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the detector's tiny twin."""
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.raises(SystemExit) as caught:
        main(["train", "detect", "--tiny", *SMALL, "--out", str(out)])
    assert caught.value.code == 0
    return out


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two images of one name, one of them below, a text, and a COCO json of one image."""
    scene = Image.open(trees().test.with_suffix(".jpg"))
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    scene.crop((0, 0, 100, 80)).save(folder / "a.png")
    scene.crop((0, 0, 64, 64)).save(folder / "below" / "a.jpg")
    (folder / "notes.txt").write_text("not an image")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
    image = {"id": 1, "file_name": "a.png", "width": 100, "height": 80}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "tree"}]}
    (folder / "truth.json").write_text(json.dumps(document))
    return folder


def test_train_ends_with_its_directory_and_a_report(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    code, out = run_main(capsys, "train", "detect", "--tiny", *SMALL, "--out", run_dir)  # there already: goes on
    assert code == 0
    assert out.splitlines()[-1] == str(run_dir)
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_another_run_in_the_same_directory_is_refused(run_dir: Path) -> None:
    with pytest.raises(UserError, match="different run"):
        main(["train", "detect", "--tiny", *SMALL, "--set", "seed=9", "--out", str(run_dir), "--debug"])


def test_a_dry_run_prints_a_run_file_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = run_main(capsys, "train", "detect", "--tiny", *SMALL, "--dry-run")
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert "parameters trainable" in out
    (tmp_path / "run.yaml").write_text(out)
    assert read_run(tmp_path / "run.yaml") == resolve("detect", None, [], SMALL[1::2], tiny=True)


def test_eval_measures_other_data_and_writes_its_numbers(
    capsys: pytest.CaptureFixture[str], run_dir: Path, pictures: Path
) -> None:
    code, out = run_main(capsys, "eval", run_dir, "--data", pictures / "truth.json", "--json")
    assert code == 0
    value = json.loads(out)
    assert 0 <= value["evaluations"]["truth"]["AP50"] <= 1
    assert json.loads(Path(value["written"]).read_text()) == value["evaluations"]


def test_eval_of_the_files_that_a_model_wrote_has_the_numbers_of_the_model(
    capsys: pytest.CaptureFixture[str], run_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "below" / "a.jpg").unlink()
    truth, out = pictures / "truth.json", tmp_path / "out"
    by_model = json.loads(run_main(capsys, "eval", run_dir, "--data", truth, "--json")[1])["evaluations"]["truth"]
    run_main(capsys, "predict", run_dir, pictures, "--out", out, "--format", "all")
    by_folder = json.loads(run_main(capsys, "eval", out, "--data", truth, "--json")[1])["evaluations"]["truth"]
    by_zip = json.loads(run_main(capsys, "eval", out / "dota" / "Task2.zip", "--data", truth, "--json")[1])
    assert by_folder == pytest.approx(by_model, abs=1e-6, nan_ok=True)
    assert by_zip["evaluations"]["truth"] == pytest.approx(by_model, abs=0.02, nan_ok=True)
    with pytest.raises(UserError, match="no truth is given"):
        main(["eval", str(out), "--debug"])
    with pytest.raises(UserError, match="said of predictions in files"):
        main(["eval", str(run_dir), "--patches", "{name}_{x}_{y}", "--debug"])


def test_a_submission_about_patches_is_about_their_whole_image(
    capsys: pytest.CaptureFixture[str], run_dir: Path, tmp_path: Path
) -> None:
    """And it is what the scorer counts: a line for each detection that is left, in pixels of the whole image."""
    scene = Image.open(trees().test.with_suffix(".jpg")).crop((0, 0, 160, 100))
    (tmp_path / "patches").mkdir()
    for x in (0, 60):
        scene.crop((x, 0, x + 100, 100)).save(tmp_path / "patches" / f"P7__1__{x}___0.png")
    assert (
        run_main(capsys, "predict", run_dir, tmp_path / "patches", "--out", tmp_path / "out", "--format", "all")[0] == 0
    )
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    lines = [line.split() for line in (tmp_path / "out" / "dota" / "Task2_tree.txt").read_text().splitlines()]
    assert {line[0] for line in lines} == {"P7"}
    assert 0 < len(lines) < len(found["annotations"])  # those in both patches once
    best = max(found["annotations"], key=lambda one: one["score"])
    offset = 60 * (found["images"][best["image_id"] - 1]["file_name"] == "P7__1__60___0.png")
    assert float(lines[0][2]) == pytest.approx(best["bbox"][0] + offset, abs=0.01)


def test_eval_asks_for_the_split_that_only_training_has_named(
    capsys: pytest.CaptureFixture[str], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, edge in (("train", 20), ("test", 40)):
        for folder in ("images", "labelTxt"):
            (tmp_path / "set" / split / folder).mkdir(parents=True)
        Image.new("RGB", (64, 64), (20, 90, 20)).save(tmp_path / "set" / split / "images" / f"{split}.png")
        row = f"10 10 {edge} 10 {edge} 30 10 30 tree 0\n"
        (tmp_path / "set" / split / "labelTxt" / f"{split}.txt").write_text(row)
    monkeypatch.chdir(tmp_path / "set")
    with pytest.raises(UserError, match="--split train"):
        main(["eval", str(run_dir), "--data", ".", "--debug"])
    code, out = run_main(capsys, "eval", run_dir, "--data", ".", "--split", "test", "--json")
    value = json.loads(out)
    assert code == 0
    assert list(value["evaluations"]) == ["set-test"]
    assert Path(value["written"]).name == "eval-set-test.json"


def test_eval_without_any_data_says_how_to_give_some(run_dir: Path) -> None:
    with pytest.raises(UserError, match="no evaluation data"):
        main(["eval", str(run_dir), "--debug"])


def test_eval_refuses_data_of_another_kind(run_dir: Path, tmp_path: Path) -> None:
    chat = tmp_path / "a.jsonl"
    chat.write_text('{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n')
    with pytest.raises(UserError, match="these are conversations, the run was trained on annotated boxes"):
        main(["eval", str(run_dir), "--data", str(chat), "--debug"])


def test_predict_on_a_folder_writes_coco_json_that_reads_back_and_a_picture_each(
    capsys: pytest.CaptureFixture[str], run_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    from vistruct.inference.model import load

    target = tmp_path / "out"
    code, out = run_main(capsys, "predict", run_dir, pictures, "--out", target)
    assert code == 0
    assert out.splitlines()[-1] == str(target / "predictions.json")
    assert sorted(p.name for p in (target / "pictures").iterdir()) == ["a.png.jpg", "below__a.jpg"]
    document = json.loads((target / "predictions.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "below/a.jpg"]
    records, names, _ = read_coco(target / "predictions.json", pictures)
    assert names == ("tree",)
    direct = load(run_dir).predict(pictures / "a.png").prediction
    assert len(records[0].objects) == len(direct.objects) > 0
    assert records[0].objects.boxes_xyxy == pytest.approx(direct.objects.boxes_xyxy.numpy(), abs=1e-3)


def test_predict_in_windows_and_every_format_and_then_again_without_looking(
    capsys: pytest.CaptureFixture[str], run_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "below" / "a.jpg").rename(pictures / "below" / "b.jpg")  # a submission has no folders
    args = ["predict", run_dir, pictures, "--out", tmp_path / "out", "--format", "all", "--tile", 48, "--batch", 3]
    code, out = run_main(capsys, *args)
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "dota" / "Task2.zip") as archive:
        lines = archive.read("Task2_tree.txt").decode().splitlines()
    found = len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"])
    assert len(lines) == found > 0
    assert {line.split()[0] for line in lines} <= {"a", "b"}
    part = next((tmp_path / "out" / ".vistruct" / "parts").glob("@*a.png.json"))
    before = part.stat().st_mtime_ns
    value = json.loads(run_main(capsys, *args, "--json")[1])
    assert value["detections"] == found
    for_annotators = {"cvat", "label-studio", "yolo", "yolo-conf"}
    assert (
        set(value["files"]) == {"coco", "dota", "geojson", "gpkg", "pictures"} | for_annotators
    )  # FAIR1M has no trees
    assert part.stat().st_mtime_ns == before
    assert run_main(capsys, *args[:-4], "--tile", 64)[0] == 0
    assert part.stat().st_mtime_ns != before


def test_windows_for_a_question_and_an_overlap_of_a_whole_window_are_mistakes(run_dir: Path, pictures: Path) -> None:
    image = str(pictures / "a.png")
    with pytest.raises(UserError, match="windows are for boxes and pixels"):
        main(["predict", str(run_dir), image, "--ask", "How many?", "--tile", "64", "--debug"])
    with pytest.raises(UserError, match="overlap=64 is not below"):
        main(["predict", str(run_dir), image, "--tile", "64", "--overlap", "64", "--debug"])


def test_a_question_to_a_detector_is_a_mistake(run_dir: Path, pictures: Path) -> None:
    with pytest.raises(UserError, match="no language"):
        main(["predict", str(run_dir), str(pictures / "a.png"), "--ask", "How many?", "--debug"])


def test_show_and_inspect_know_a_run_directory(
    capsys: pytest.CaptureFixture[str], run_dir: Path, tmp_path: Path
) -> None:
    code, out = run_main(capsys, "show", run_dir, "--out", tmp_path / "x.png")
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "x.png")
    for part, what in ((run_dir, "run"), (run_dir / "model", "model"), (run_dir / "backbone", "backbone")):
        facts = json.loads(run_main(capsys, "inspect", part, "--json")[1])
        assert facts["what"] == what
        assert facts["parameters"] > 1000
        assert facts["licence"]
        assert run_main(capsys, "inspect", part)[0] == 0
    facts = json.loads(run_main(capsys, "inspect", run_dir, "--json")[1])
    assert facts["classes"] == ["tree"]
    assert (facts["input"]["images"], facts["input"]["channels"]) == (1, 3)
    assert len(facts["input"]["mean"]) == 3


def test_the_default_directory_follows_from_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = resolve("detect", None, [], SMALL[1::2], tiny=True)
    assert default_dir(run) == default_dir(run)
    assert default_dir(run).name.startswith("detect-")
    assert default_dir(run) != default_dir(run.model_copy(update={"seed": 1}))
    first = default_dir(run)
    first.mkdir(parents=True)
    (first / "run.yaml").write_text(run_to_yaml(run))
    assert default_dir(run, first / "run.yaml") == first.with_name(f"{first.name}-2")  # repeats, never mixes
    assert default_dir(run, tmp_path / "elsewhere.yaml") == first
