"""The demo's plan and report; the demo itself runs in CI as `vistruct demo --quick`."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from headless import LAPTOP, PHONE, Browser, assert_sound
from PIL import Image

from vistruct.metrics.answers import FamilyScore, by_family
from vistruct.recipes import detect
from vistruct.study import demo_answers, demo_report
from vistruct.study.demo import BUDGETS, STARTS, plan, study_of
from vistruct.study.demo_answers import differences
from vistruct.study.demo_report import write_demo_report
from vistruct.study.plan import Plan, Trial, plan_trials
from vistruct.study.results import results_of

BUDGET = BUDGETS["default"]


def results(tmp_path, lift: float) -> dict:
    """Made-up results in which pretraining adds `lift` to every number."""
    rng = np.random.default_rng(0)
    picture = tmp_path / "scene.png"
    Image.new("RGB", (64, 48), "green").save(picture)
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 48), "blue").save(run / "samples" / "first_batch.png")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 5, "loss": 1.0}\n')
    out: dict = {
        "data": {"true": "x.jsonl", "families": [["presence", 10, "yes 50 %"]], "line": "10 questions"},
        "align": {"run": str(run)},
        "target": {"num_labelled": 90, "num_tested": 189, "labelled": "labelled.json", "tested": "tested.json"},
    }
    noise = rng.normal(0, 0.01, 8)
    out["questions"] = {scene: {"line": "90 questions", "jsonl": "y.jsonl"} for scene in ("test", "train")}
    out["answers-untrained"] = {"test": answers(0.0), "train": answers(0.0)}
    for start, cell in STARTS.items():
        out[cell] = {"run": str(run)}
        taught = 3 * lift if start in ("plain", "vrl") else 0.0
        out[f"answers-{start}"] = {"train": answers(0.5 + taught), "test": answers(0.5)}
        more = lift if start in ("plain", "vrl") else 0.0
        values = (0.7 + more + noise + rng.normal(0, 0.004, 8)).tolist()
        patch = dict.fromkeys(("5", "20", "50"), values)
        out[f"probe-{start}"] = {
            "patch": patch, "patch_control": patch, "dense": dict.fromkeys(("2", "8", "32"), values),
        }  # fmt: skip
    return out


def study_found(made: dict, lift: float) -> dict:
    """What the study of detectors would find: the made-up results' `lift` for the starts that were taught."""
    rng = np.random.default_rng(1)
    study = study_of(BUDGET, made)
    run = detect.tiny()
    planned, numbers = [], {}
    for tuning in study.tune:
        for seed in range(study.seeds):
            noise = rng.normal(0, 0.01)
            for start in study.inits:
                one = Trial(init=start, fraction=BUDGET.shares[0], seed=seed, tuning=tuning, run=run)
                more = lift if start in ("plain", "vrl") else 0.0
                value = 0.2 + more + noise + rng.normal(0, 0.002)
                planned.append(one)
                cost = {
                    "seconds": 1.0,
                    "step_seconds": 0.1,
                    "samples": 8,
                    "peak_memory_mb": 9,
                    "trainable": 1,
                    "parameters": 2,
                }
                place = Path(made["align"]["run"])
                numbers[one.name] = {"run": str(place), "numbers": {"val/AP50": value, "val/AP": 0.02}, "cost": cost}
    return results_of(study, Plan(trials=planned), numbers, Path(made["align"]["run"]).parent, {"train": "x"})


def answers(score: float) -> dict:
    """What `answer` gives: a family of short answers, one of boxes, one of captions; the constant answers have 0.55."""
    return {
        "questions": 90.0, "accuracy": score, "accuracy_macro": score, "constant": 0.55,
        "questions/presence": 30.0, "accuracy/presence": score, "constant/presence": 0.55, "error/presence": 0.09,
        "questions/ground_one": 30.0, "acc50/ground_one": score, "constant/ground_one": 0.55, "error/ground_one": 0.09,
        "questions/caption": 30.0, "cider_d/caption": 10 * score, "constant/caption": 5.5, "bleu4/caption": None,
    }  # fmt: skip


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tables, self.links = "", 0, []

    def handle_starttag(self, tag, attrs):
        self.tables += tag == "table"
        self.links += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("data:", "#"))]

    def handle_data(self, data):
        self.text += data


def read(tmp_path, monkeypatch, lift: float, name="default") -> Text:
    monkeypatch.setattr(demo_report, "draw_conversations", lambda *_: [])
    monkeypatch.setattr(demo_report, "draw_scene", lambda *_: tmp_path / "scene.png")
    (tmp_path / "study" / "run" / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "study" / "run" / "samples" / "first_batch.png")
    made = results(tmp_path, lift)
    path = write_demo_report(tmp_path / "report.html", made, study_found(made, lift), BUDGET, tmp_path, name)
    page = Text()
    page.feed(path.read_text())
    return page


def test_report_says_gain_where_there_is_one_and_names_no_file_outside(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.1)
    assert page.text.count("a clear gain") >= 3
    assert page.tables >= 7
    assert "What the models themselves answer" in page.text
    assert page.links == []
    assert "mean nothing" not in page.text


def test_report_says_loss_where_there_is_one(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, -0.1)
    assert "a clear loss" in page.text
    assert "a clear gain" not in page.text


def test_report_claims_nothing_where_there_is_nothing(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.0)
    assert re.search(r"AP50 of the detector on the frozen backbone, 25% of the windows: no clear difference", page.text)
    assert "a clear gain, +0.1" not in page.text


def test_quick_report_says_that_its_numbers_mean_nothing(tmp_path, monkeypatch):
    assert "These numbers mean nothing" in read(tmp_path, monkeypatch, 0.1, "quick").text


@pytest.mark.parametrize("name", list(BUDGETS))
def test_every_start_is_probed_and_detected_with_the_same_budget(tmp_path, name):
    budget = BUDGETS[name]
    cells = {cell.name: cell for cell in plan(budget, tmp_path)}
    for made_by in STARTS.values():
        assert cells[made_by].arguments["out"] == str(tmp_path)
    for start, made_by in STARTS.items():
        assert cells[f"probe-{start}"].needs == (made_by,)
    trained = [c.arguments["steps"] for c in cells.values() if c.name.startswith("pretrain-")]
    assert trained == [budget.pretrain_steps] * 3
    study = study_of(budget, results(tmp_path, 0.0))
    assert (study.fractions, study.seeds, study.tune) == (budget.shares, budget.seeds, budget.tune)
    assert list(study.inits) == list(STARTS)
    assert study.baseline == "random"


def test_the_study_trains_the_same_detector_from_every_start_frozen_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vistruct.study.plan.weights_of", lambda study, init: None)
    monkeypatch.setattr("vistruct.study.plan.TypeAdapter.validate_python", lambda self, value: value)
    study = study_of(BUDGET, results(tmp_path, 0.0))
    runs = plan_trials(study).trials
    assert len(runs) == len(STARTS) * BUDGET.seeds * 2
    for one in runs:
        (move,) = one.run.move
        assert (move.pattern, move.mode, move.lr_factor) == (
            ("backbone", "frozen", 1.0) if one.tuning == "probe" else ("backbone", "full", 0.2)
        )
        assert (one.run.steps, one.run.only.batch, one.run.optim.lr) == (BUDGET.detect_steps, 8, 3e-3)
        assert one.run.only.task.head.nms_iou == 0.35
        assert one.run.only.task.neck.strides == (16, 32)
        assert one.run.evals["val"].data.augment is None
        assert str(one.run.evals["val"].data.annotation) == "tested.json"
        assert str(one.run.only.data.annotation) == "labelled.json"


def test_default_demo_has_three_seeds():
    assert BUDGETS["default"].seeds >= 3
    assert len(BUDGETS["full"].shares) > len(BUDGETS["default"].shares)


@pytest.mark.parametrize(
    ("lift", "said"),
    [
        (0.1, "clearly better in **2** (presence, ground one), clearly worse in **none**"),
        (0.0, "clearly better in **none**, clearly worse in **none**"),
        (-0.1, "clearly better in **none**, clearly worse in **2** (presence, ground one)"),
    ],
)
def test_the_report_says_what_answers_gain_over_shuffled_ones(tmp_path, lift, said):
    made = results(tmp_path, lift)
    sentences = demo_answers._sentences(made, lines_of(made), demo_report.NAMES)
    assert f"the training scene, other crops, instructions against shuffled answers: {said}" in sentences
    nothing = "clearly better in **none**, clearly worse in **none**"
    assert f"the test scene, instructions, VRL against shuffled answers: {nothing}" in sentences


def lines_of(made: dict) -> dict:
    return {
        scene: {start: by_family(made[f"answers-{start}"][scene]) for start in ("untrained", *STARTS)}
        for scene in ("train", "test")
    }


def test_a_difference_is_clear_beyond_two_standard_errors():
    def score(share: float) -> list[FamilyScore]:
        line = FamilyScore(family="cell", questions=100, measure="accuracy", score=share, constant=0.5, error=0.03)
        return [line, dataclasses.replace(line, family="caption", error=math.nan)]

    error = 0.03 * 2**0.5
    assert differences(score(0.5 + 2.2 * error), score(0.5)) == (["cell"], [])
    assert differences(score(0.5), score(0.5 + 2.2 * error)) == ([], ["cell"])
    assert differences(score(0.5 + 1.8 * error), score(0.5)) == ([], [])


def test_only_scores_above_the_constant_answer_and_the_control_are_marked(tmp_path):
    made = lines_of(results(tmp_path, 0.1))
    assert demo_answers._best(made["test"]) == []
    assert demo_answers._best(made["train"]) == [(row, column) for row in (1, 2, 3) for column in (5, 6)]


def test_every_model_is_asked_the_same_questions_and_one_of_them_untrained(tmp_path):
    cells = {cell.name: cell for cell in plan(BUDGET, tmp_path)}
    asked = {name: cell for name, cell in cells.items() if name.startswith("answers-")}
    assert set(asked) == {"answers-untrained", *(f"answers-{start}" for start in STARTS)}
    assert all("questions" in cell.needs for cell in asked.values())
    assert [name for name, cell in asked.items() if not cell.arguments["trained"]] == ["answers-untrained"]


def test_the_report_is_whole_and_within_its_window(tmp_path, monkeypatch, browser: Browser):
    read(tmp_path, monkeypatch, 0.1)
    for size in (LAPTOP, PHONE):
        seen = browser.look(tmp_path / "report.html", size)
        assert_sound(seen, size)
        assert len(seen.tables) >= 7
        assert len(seen.images) >= 3
