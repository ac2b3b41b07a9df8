"""The demo's plan and report; the demo itself runs in CI as `vistruct demo --quick`."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vistruct.metrics.answers import by_family
from vistruct.study import demo_answers, demo_report
from vistruct.study.demo import BUDGETS, STARTS, detect_name, plan
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
    out["questions"] = {"line": "9 questions about 3 pictures", "jsonl": "y.jsonl"}
    out["answers-untrained"] = {"figures": answers(0.0)}
    for start, cell in STARTS.items():
        out[cell] = {"run": str(run)}
        out[f"answers-{start}"] = {"figures": answers(0.5 + (lift if start in ("plain", "vrl") else 0.0))}
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
        "questions": 9.0, "accuracy": score, "accuracy_macro": score, "constant": 0.55,
        "questions/presence": 3.0, "accuracy/presence": score, "constant/presence": 0.55, "yes/presence": 1.0,
        "questions/ground_one": 3.0, "acc50/ground_one": score, "constant/ground_one": 0.55, "iou/ground_one": score,
        "questions/caption": 3.0, "cider_d/caption": 10 * score, "constant/caption": 5.5, "bleu4/caption": None,
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
    assert page.tables >= 6
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


@pytest.mark.parametrize(("lift", "above"), [(0.1, 3), (-0.1, 0)])
def test_the_report_says_in_how_many_families_a_model_beats_the_best_constant_answer(tmp_path, lift, above):
    made = results(tmp_path, lift)
    scores = {s: by_family(made[f"answers-{s}"]["figures"]) for s in ("untrained", *STARTS)}
    page = " | ".join(demo_answers._sentences(made, scores, demo_report.NAMES))
    assert f"instructions: {0.5 + lift:.3f}; above the constant answer in {above} of 3 families" in page
    assert "untrained, all weights random: 0.000; above the constant answer in 0 of 3 families" in page


@pytest.mark.parametrize(("lift", "marked"), [(0.1, [(0, 6), (1, 6), (2, 6)]), (-0.1, [])])
def test_only_scores_above_the_constant_answer_are_marked(tmp_path, lift, marked):
    made = results(tmp_path, lift)
    scores = {s: by_family(made[f"answers-{s}"]["figures"]) for s in ("untrained", *STARTS)}
    assert demo_answers._best(scores) == marked


def test_every_model_is_asked_the_same_questions_and_one_of_them_untrained(tmp_path):
    cells = {cell.name: cell for cell in plan(BUDGET, tmp_path)}
    asked = {name: cell for name, cell in cells.items() if name.startswith("answers-")}
    assert set(asked) == {"answers-untrained", *(f"answers-{start}" for start in STARTS)}
    assert all("questions" in cell.needs for cell in asked.values())
    assert [name for name, cell in asked.items() if not cell.arguments["trained"]] == ["answers-untrained"]
