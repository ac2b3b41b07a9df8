"""A study of the toys from beginning to end: what runs, what is kept, what study.json and the report say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from headless import LAPTOP, PHONE, Browser, assert_sound
from toy_study import recipe, train_and_measure

from vistruct.config import with_values
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import segment
from vistruct.study.compare import compare
from vistruct.study.compare_report import write_comparison
from vistruct.study.display import Lines
from vistruct.study.plan import plan_trials, study_jobs
from vistruct.study.runner import describe, run_study
from vistruct.study.statistics import paired_gain
from vistruct.study.study import Study
from vistruct.study.trial import cost_of
from vistruct.study.trial import train_and_measure as train_trial

TOYS = {"train": "toy_study:train_and_measure", "robust": "toy_study:corrupted", "make": recipe}


class Heard(Lines):
    """Keeps which trials init."""

    def __init__(self) -> None:
        self.inits: list[str] = []

    def begin(self, total, done):
        pass

    def started(self, name):
        self.inits.append(name)

    def progressed(self, name, done, total, text):
        pass

    def ended(self, name, seconds):
        pass


class Text(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tables, self.images, self.links = "", 0, 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tables += tag == "table"
        self.images += tag == "img"
        self.links += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("data:", "#"))]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A run that has learned the toys' task."""
    out = tmp_path_factory.mktemp("runs") / "pretrained"
    train(recipe(steps=30, seed=9), out)
    return out


@pytest.fixture(scope="module")
def plan(pretrained) -> Study:
    inits = {"random": "random", "ours": str(pretrained)}
    return Study(recipe="toy", inits=inits, fractions=(0.5, 1.0), seeds=2, tune=("head", "full"), robust=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory, plan) -> Path:
    out = tmp_path_factory.mktemp("studies") / "study"
    smaller = plan.model_copy(update={"tune": ("full",), "fractions": (1.0,), "robust": False})
    heard = Heard()
    run_study(smaller, out, show=heard, workers=1, **TOYS)
    assert len(heard.inits) == 4
    heard = Heard()
    run_study(plan, out, show=heard, workers=1, **TOYS)  # a larger study in the same directory
    assert len(heard.inits) == 16 - 4 + 4  # runs, those of before, and the ones under corruptions
    assert not [name for name in heard.inits if re.fullmatch(r"full-\w+-1-\d", name)]
    return out


@pytest.fixture(scope="module")
def found(out) -> dict:
    return json.loads((out / "study.json").read_text())


def test_started_again_a_study_runs_nothing_and_says_the_same(plan, out, found):
    heard = Heard()
    again = run_study(plan, out, show=heard, workers=1, **TOYS)
    assert heard.inits == []
    assert json.loads(json.dumps(again)) == found


def test_every_cell_has_its_numbers_and_its_cost_and_no_checkpoints(out, found):
    assert len(found["trials"]) == 16
    for trial in found["trials"]:
        run = out / trial["run"]
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert trial["value"] == trial["numbers"]["val/loss"] == json.loads(lines[-1])["val/loss"]
        assert (run / "backbone" / "backbone.json").exists()
        assert not (run / "checkpoints").exists()
        trainable = {"head": 10, "full": 546}[trial["tuning"]]  # the head's 8 + 1 and its scale; all
        assert (trial["cost"]["trainable"], trial["cost"]["parameters"]) == (trainable, 546)
        assert trial["cost"]["samples"] == 32
        assert trial["cost"]["seconds"] > 0
        assert trial["cost"]["step_seconds"] > 0


def test_gains_are_those_of_the_cells_paired_by_seed(found):
    value = {(c["tuning"], c["init"], c["fraction"], c["seed"]): c["value"] for c in found["trials"]}
    assert len(found["gains"]) == 4
    for gain in found["gains"]:
        sides = [
            [value[gain["tuning"], init, gain["fraction"], seed] for seed in (0, 1)] for init in ("ours", "random")
        ]
        expected = paired_gain(*sides, higher_is_better=False)
        assert gain["mean"] == pytest.approx(expected.mean)
        assert gain["student"] == [expected.student.low, expected.student.high]
        assert gain["verdict"] == expected.verdict
        assert gain["p_holm"] >= gain["p"]
        assert gain["images"] is None
    assert found["higher_is_better"] is False


def test_the_report_is_one_file_with_every_section(out):
    page = Text((out / "report.html").read_text())
    assert page.links == []
    assert "What did pretraining buy?" in page.text
    for section in ("Gains", "Robustness", "How they learned", "What it cost", "How it was measured", "Read with care"):
        assert section in page.text
    assert "2 seeds" in page.text
    assert "4 gains were tested" in page.text
    assert page.tables >= 3
    assert page.images >= 3


def test_a_study_of_one_start_and_one_seed_claims_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("vistruct.study.runner.run_jobs", run_here)
    one = Study(recipe="toy", inits={"random": "random"}, seeds=1, metric="AP", options={"metric": "classes"})
    found = run_study(one, tmp_path / "study", show=Heard(), workers=1, **TOYS)
    assert found["gains"] == []
    assert found["trials"][0]["numbers"]["val/APs"] is None
    page = Text((tmp_path / "study" / "report.html").read_text())
    assert "nothing to compare it with" in page.text
    assert "One seed" in page.text


def run_here(trials, out, **_) -> dict:
    """As `run_jobs`, without a worker."""
    return {
        trial.name: train_and_measure(**trial.arguments, results={}, report=lambda *_: None, with_pictures=True)
        for trial in trials
    }


def test_a_metric_that_was_not_measured_is_named_with_the_closest(plan, out):
    with pytest.raises(UserError, match="did you mean 'val/loss'"):
        run_study(plan.model_copy(update={"metric": "val/los", "robust": False}), out, show=Heard(), **TOYS)


def test_a_count_is_no_metric_to_compare_by(tmp_path, monkeypatch):
    monkeypatch.setattr("vistruct.study.runner.run_jobs", run_here)
    one = Study(recipe="toy", inits={"random": "random"}, seeds=1, metric="asked", options={"metric": "classes"})
    with pytest.raises(UserError, match="neither more nor less"):
        run_study(one, tmp_path / "study", show=Heard(), workers=1, **TOYS)


def test_a_directory_of_something_else_is_refused(plan, out, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        run_study(plan, tmp_path, show=Heard(), **TOYS)
    with pytest.raises(UserError, match="a study of 'toy'"):
        run_study(plan.model_copy(update={"recipe": "other"}), out, show=Heard(), **TOYS)


def test_a_dry_run_lists_what_is_done_and_what_is_to_do(plan, out, tmp_path):
    planned = plan_trials(plan, recipe)
    trials = study_jobs(plan, planned, out, {}, "val/loss")
    assert len(trials) == 20
    assert {row[-1] for row in describe(planned, trials, out)} == {"done"}
    fresh = {name: state for name, *_, state in describe(planned, trials, tmp_path)}
    assert fresh["full-ours-1-1"] == "to do"
    assert fresh["robust-full-ours-1-0"] == "to do after full-ours-1-0"


def test_two_runs_of_a_study_compare_and_their_differences_are_the_numbers(out, found, tmp_path):
    a, b = (next(c for c in found["trials"] if c["name"] == f"full-{s}-1-0") for s in ("random", "ours"))
    comparison = compare(out / a["run"], out / b["run"])
    number = next(n for n in comparison.numbers if n.name == "val/loss")
    assert (number.a, number.b) == (a["value"], b["value"])
    assert number.difference == pytest.approx(b["value"] - a["value"])
    assert {key for key, *_ in comparison.settings} == {"init", "optim.layer_decay"}
    assert comparison.warnings == []
    page = Text(write_comparison(tmp_path / "compare.html", comparison).read_text())
    assert "Two runs are one pair" in page.text
    assert page.images == 1
    assert json.loads(json.dumps(comparison.as_json()))["numbers"][0]["name"] == "val/loss"


def test_two_studies_compare_by_what_both_have(out, tmp_path):
    comparison = compare(out, out)
    assert len(comparison.numbers) == 8
    assert all(number.difference == 0 and number.count == 2 for number in comparison.numbers)
    assert comparison.settings == []
    assert "A" in Text(write_comparison(tmp_path / "c.html", comparison).read_text()).text


def test_runs_measured_on_other_data_are_refused_unless_asked_for_loudly(out, found, tmp_path):
    a, b = (out / c["run"] for c in found["trials"][:2])
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("run.yaml", "metrics.jsonl"):
        (moved / name).write_text((b / name).read_text())
    data = json.loads((b / "data.json").read_text())
    data["evals"]["val"]["fingerprint"] = "1" * 64
    (moved / "data.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="measured on different data"):
        compare(a, moved)
    loud = compare(a, moved, other_data=True)
    assert "DIFFERENT" in loud.warnings[0]
    assert "DIFFERENT" in Text(write_comparison(tmp_path / "c.html", loud).read_text()).text
    with pytest.raises(UserError, match="a study and a run"):
        compare(a, out)
    with pytest.raises(UserError, match="not a run"):
        compare(a, tmp_path)


def test_the_cost_of_a_run_that_noted_nothing_is_unknown(tmp_path):
    cost = cost_of(tmp_path, seconds=1.0, samples=3)
    unknown = ("step_seconds", "peak_memory_mb", "trainable", "parameters")
    assert all(cost[name] is None for name in unknown)


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_the_report_is_whole_and_within_its_window(out, browser: Browser, size):
    seen = browser.look(out / "report.html", size)
    assert_sound(seen, size)
    assert seen.tables
    assert seen.images


def test_a_trial_is_drawn_for_the_first_seed_alone(tmp_path):
    tiny = segment.tiny()
    run = with_values(tiny, steps=2, eval_every=2, keep_model="last")
    drawn = []
    for seed in (0, 1):
        place = tmp_path / "runs" / f"seed-{seed}"
        asked = with_values(run, seed=seed).model_dump(mode="json")
        found = train_trial(
            run=asked, directory=str(place), data={}, weights="", results={}, report=lambda *_: None
        )  # what is measured is the same
        assert found["numbers"]
        drawn.append(((place / "report.html").exists(), (place / "samples").exists(), (place / "model").exists()))
    assert drawn == [(True, True, True), (False, False, True)]
