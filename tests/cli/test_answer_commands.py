"""A small run that answers questions, through the commands: train with --val, eval, predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import question_sets as sets
import torch
from PIL import Image

from vistruct.checkpoint.load import load_model
from vistruct.cli.evaluate import on_other_data
from vistruct.cli.main import main
from vistruct.config import Eval, read_run
from vistruct.engine.evaluate import evaluate
from vistruct.errors import UserError
from vistruct.inference.answers import with_places
from vistruct.inference.model import load
from vistruct.metrics.answers import AnswersConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.reports.run_report import read_metrics


def run_main(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Stdout of a command that must work."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert not caught.value.code
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny twin."""
    out = tmp_path_factory.mktemp("runs") / "talker"
    with pytest.raises(SystemExit) as caught:
        main(["train", "vitp.pretrain", "--tiny", "--set", "steps=4", "--set", "eval_every=2", "--out", str(out)])
    assert not caught.value.code
    return out


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Four questions about two pictures; one picture's questions name no families."""
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    turns = [("How many?", "3"), ("Any tree?", "yes")]
    talk = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    rows = [
        {"image": "a.png", "conversations": talk, "families": ["count", "presence"]},
        {"image": "b.png", "conversations": talk},
    ]
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_training_measures_the_loss_now_and_then_and_the_answers_at_the_end(run_dir: Path) -> None:
    series = read_metrics(run_dir / "metrics.jsonl")
    assert [step for step, _ in series["val/loss"]] == [2, 4]
    assert [step for step, _ in series["answers/questions"]] == [4]
    assert "evaluation answers at the end" in (run_dir / "train.log").read_text()
    assert [p.name for p in (run_dir / "samples").glob("predictions_*")] == ["predictions_val.png"]  # one of the data


def test_eval_prints_families_beside_the_best_constant_answer_and_writes_all_numbers(
    capsys: pytest.CaptureFixture[str], run_dir: Path, talk: Path
) -> None:
    out = run_main(capsys, "eval", run_dir, "--data", talk)
    assert out.splitlines()[-1] == str(run_dir / "eval-talk.json")
    assert "best constant answer" in out
    for family in ("count", "presence", "(number)", "(yes_no)"):
        assert family in out
    figures = json.loads((run_dir / "eval-talk.json").read_text())["talk"]
    assert figures["questions"] == 4
    assert figures["unnamed"] == 2
    assert figures["constant/count"] == 1
    assert figures["loss"] > 0


def test_eval_asks_as_many_as_it_is_told_to(capsys: pytest.CaptureFixture[str], run_dir: Path, talk: Path) -> None:
    value = json.loads(run_main(capsys, "eval", run_dir, "--data", talk, "--limit", "1", "--json"))
    assert value["evaluations"]["talk"]["questions"] == 2


def test_a_run_that_asks_a_few_at_its_end_is_asked_all_of_other_data(run_dir: Path, talk: Path) -> None:
    run = read_run(run_dir / "run.yaml")
    metrics = [one.metric for _, one in on_other_data(run, talk, ("answers", "mean_loss"))]
    assert metrics == [AnswersConfig(limit=None), MeanLossConfig()]
    assert run.evals["answers"].metric not in metrics


def test_answers_do_not_depend_on_how_many_are_asked_at_once(run_dir: Path) -> None:
    task, card = load_model(run_dir)
    one = Eval(data=card.run.evals["val"].data, metric=AnswersConfig(limit=6))
    first, second = (evaluate(task, one, torch.device("cpu"), batch) for batch in (1, 4))
    assert first["questions"] > 10
    assert first == pytest.approx(second, nan_ok=True)


def test_a_question_goes_to_each_of_several_images(
    capsys: pytest.CaptureFixture[str], run_dir: Path, talk: Path, tmp_path: Path
) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    out = tmp_path / "out"
    value = json.loads(run_main(capsys, "predict", run_dir, *images, "--ask", "Any tree?", "--out", out, "--json"))
    assert [row["image"] for row in value["answers"]] == [str(image) for image in images]
    assert {row["question"] for row in value["answers"]} == {"Any tree?"}
    alone = [load(run_dir).predict(image, ask="Any tree?").prediction.answer for image in images]
    assert [row["answer"] for row in value["answers"]] == alone
    assert [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()] == value["answers"]
    plain = run_main(capsys, "predict", run_dir, tmp_path, "--ask", "Any tree?", "--out", out)
    assert plain.splitlines()[-1] == str(out / "answers.jsonl")
    assert plain.startswith("a.png: ")


def test_one_question_about_two_images_has_one_answer(
    capsys: pytest.CaptureFixture[str], run_dir: Path, talk: Path, tmp_path: Path
) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    asked = ("--ask", "What has changed?", "--together", "--json", "--out", tmp_path / "out")
    value = json.loads(run_main(capsys, "predict", run_dir, *images, *asked))
    (row,) = value["answers"]
    assert row["image"] == [str(image) for image in images]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a.png", "--ask", "  "], "question is empty"),
        (["a.png"], "answers questions, and there is none"),
        (["a.png", "--together"], "--together is for a question"),
        (["a.png", "b.png", "--ask", "<image> more?", "--together"], "1 <image> marks in the question for 2 images"),
        (["talk.jsonl", "--ask", "Any?"], "cannot decode the image"),
        (["no.png", "--ask", "Any?"], "no such image"),
    ],
)
def test_a_mistake_in_asking_is_told(
    run_dir: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(["predict", str(run_dir), *args, "--debug"])
    assert not list(tmp_path.glob("predictions"))


def test_images_go_in_front_of_a_question_that_does_not_place_them() -> None:
    assert with_places("How many?", 1, "") == "<image>\nHow many?"
    assert with_places("What changed?", 2, "") == "Image-1: <image>\nImage-2: <image>\nWhat changed?"
    assert with_places("From <image> to <image>?", 2, "") == "From <image> to <image>?"


def test_the_length_of_answers_is_an_option(
    capsys: pytest.CaptureFixture[str], run_dir: Path, talk: Path, tmp_path: Path
) -> None:
    asked = ("predict", run_dir, tmp_path / "a.png", "--ask", "Any tree?", "--json", "--out", tmp_path / "long")
    long = load(run_dir).answering(40).predict(tmp_path / "a.png", ask="Any tree?").prediction.answer
    assert json.loads(run_main(capsys, *asked, "--max-new-tokens", "40"))["answers"][0]["answer"] == long
    short = json.loads(run_main(capsys, *asked, "--max-new-tokens", "1"))["answers"][0]["answer"]
    assert len(short) <= len(long)
    run_main(capsys, "eval", run_dir, "--data", talk, "--max-new-tokens", "1")


def test_a_set_of_questions_and_captions_are_asked_of_a_model_of_ours(run_dir, tmp_path, capsys):
    sets.vqa(tmp_path / "vqa")
    figures = json.loads(run_main(capsys, "eval", run_dir, "--data", tmp_path / "vqa", "--json"))["evaluations"]["vqa"]
    assert figures["questions"] == 3
    assert {"accuracy/other", "accuracy/number", "accuracy/yes/no", "loss"} <= set(figures)
    told = ("--ask", "What is here?", "--max-new-tokens", "8", "--json")
    found = json.loads(run_main(capsys, "eval", run_dir, "--data", sets.nocaps(tmp_path / "nocaps"), *told))
    (figures,) = found["evaluations"].values()
    assert {"cider_d", "bleu4", "cider_d/in-domain", "cider_d/near-domain", "cider_d/out-domain"} <= set(figures)
