"""The demo's plan and report; the demo itself runs in CI as `vistruct demo --quick`."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vistruct.metrics.answers import FamilyScore, by_family
from vistruct.study import demo_answers, demo_report
from vistruct.study.demo import BUDGETS, STARTS, detect_name, plan
from vistruct.study.demo_answers import differences
from vistruct.study.demo_report import gain, write_demo_report

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
        "target": {"num_labelled": 90, "num_tested": 189},
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
        for share in BUDGET.shares:
            for seed in range(BUDGET.seeds):
                for frozen in (True, False):
                    name = detect_name(start, share, seed, frozen)
                    out[name] = {
                        "AP50": 0.05 + more + noise[seed],
                        "AP": 0.02,
                        "run": str(run),
                        "picture": str(picture),
                    }
    return out


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
    path = write_demo_report(tmp_path / "report.html", results(tmp_path, lift), BUDGET, tmp_path, name)
    page = Text()
    page.feed(path.read_text())
    return page


def test_gain_is_the_paired_t_statistic_of_scipy():
    after, before = [0.7, 0.8, 0.75, 0.9], [0.6, 0.81, 0.7, 0.8]
    ours = gain(after, before)
    assert ours.mean / ours.error == pytest.approx(stats.ttest_rel(after, before).statistic)
    assert (ours.wins, ours.pairs) == (3, 4)


def test_one_pair_proves_nothing():
    assert not gain([0.9], [0.1]).is_clear
    assert math.isnan(gain([0.9], [0.1]).error)


def test_report_says_gain_where_there_is_one_and_names_no_file_outside(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.1)
    assert page.text.count("a gain") >= 3
    assert page.tables >= 7
    assert "What the models themselves answer" in page.text
    assert page.links == []
    assert "mean nothing" not in page.text


def test_report_says_loss_where_there_is_one(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, -0.1)
    assert "a loss" in page.text
    assert "a gain" not in page.text


def test_report_claims_nothing_where_there_is_nothing(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.0)
    assert re.search(r"AP50 of the detector on the frozen backbone, 25% of the windows: no clear difference", page.text)
    assert "a gain, +0.1" not in page.text


def test_quick_report_says_that_its_numbers_mean_nothing(tmp_path, monkeypatch):
    assert "These numbers mean nothing" in read(tmp_path, monkeypatch, 0.1, "quick").text


@pytest.mark.parametrize("name", list(BUDGETS))
def test_every_start_is_probed_and_detected_with_the_same_budget(tmp_path, name):
    budget = BUDGETS[name]
    cells = {cell.name: cell for cell in plan(budget, tmp_path)}
    for start, made_by in STARTS.items():
        assert cells[f"probe-{start}"].needs == (made_by,)
        for share in budget.shares:
            for seed in range(budget.seeds):
                for frozen in budget.frozen:
                    cell = cells[detect_name(start, share, seed, frozen)]
                    assert cell.needs == ("target", made_by)
                    assert cell.arguments["steps"] == budget.detect_steps
                    assert cell.arguments["frozen"] == frozen
    trained = [c.arguments["steps"] for c in cells.values() if c.name.startswith("pretrain-")]
    assert trained == [budget.pretrain_steps] * 3


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
