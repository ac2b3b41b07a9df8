"""The demo's study and report; the demo itself runs in CI as `vistruct demo --quick`."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from headless import LAPTOP, PHONE, Browser, assert_sound
from PIL import Image

from vistruct.config import run_from_dict, run_to_yaml
from vistruct.errors import UserError
from vistruct.metrics.answers import FamilyScore, by_family
from vistruct.recipes import detect, labels
from vistruct.recipes.vitp.pretrain import SIZES
from vistruct.samples import trees
from vistruct.study import answers_report, demo_report
from vistruct.study.answers_report import differences
from vistruct.study.demo import BUDGETS, TEST, TRAIN, data_jobs, split_target, study_of
from vistruct.study.demo_report import write_demo_report
from vistruct.study.plan import Plan, Trial, plan_trials
from vistruct.study.pretraining import pretraining_jobs
from vistruct.study.questions import UNTRAINED, question_jobs
from vistruct.study.results import results_of
from vistruct.study.study import read_study, study_to_yaml

BUDGET = BUDGETS["default"]
TAUGHT = ("instructions", "VRL", "labels")
ANSWERING = ("instructions", "VRL", "shuffled")
INITS = ("random", *TAUGHT, "shuffled")


def made(tmp_path: Path) -> dict:
    """What the jobs before the study would give."""
    return {
        "instructions": {
            "true": str(tmp_path / "true.jsonl"),
            "shuffled": str(tmp_path / "shuffled.jsonl"),
            "labels": str(tmp_path / "labels.json"),
            "families": [["presence", 10, "yes 50 %"]],
            "line": "10 questions",
        },
        "target": {"num_labelled": 90, "num_tested": 189, "labelled": "labelled.json", "tested": "tested.json"},
        "questions": {"test": "test.jsonl", "train": "train.jsonl"},
    }


def study_found(tmp_path: Path, lift: float) -> dict:
    """What the study would find: a `lift` of every number for the inits that were taught."""
    rng = np.random.default_rng(1)
    study, run = study_of(BUDGET, made(tmp_path)), detect.tiny()
    place = tmp_path / "study" / "run"
    (place / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 48), "blue").save(place / "samples" / "first_batch.png")
    (place / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 5, "loss": 1.0}\n')
    trials, results = [], {}
    for tuning in study.tune:
        for seed in range(study.seeds):
            noise = rng.normal(0, 0.01)
            for init in study.inits:
                one = Trial(init=init, fraction=BUDGET.fractions[0], seed=seed, tuning=tuning, run=run)
                value = 0.2 + (lift if init in TAUGHT else 0.0) + noise + rng.normal(0, 0.002)
                cost = {"seconds": 1.0, "step_seconds": 0.1, "samples": 8, "peak_memory_mb": 9}
                counts = {"trainable": 1, "parameters": 2}
                trials.append(one)
                numbers = {"val/AP50": value, "val/AP": 0.02}
                results[one.name] = {"run": str(place), "numbers": numbers, "cost": cost | counts}
    noise = rng.normal(0, 0.01, 8)
    for init in study.inits:
        more = lift if init in TAUGHT else 0.0
        values = (0.7 + more + noise + rng.normal(0, 0.004, 8)).tolist()
        patch, dense = dict.fromkeys(("5", "20", "50"), values), dict.fromkeys(("2", "8", "32"), values)
        turned = {shots: [value - 0.2 for value in values] for shots in ("20", "50", "100")}
        probed = {"patch": patch, "standardised": patch, "dense": dense, "turned": turned}
        results[f"few_labels-{init}"] = {"what": "tree", "values": probed}
        results[f"pretrain-{init}"] = {"seconds": 90.4}
        if init != "labels":  # a model of other tasks has nothing to say
            results[f"answers-{init}"] = {TRAIN: answers(0.5 + 3 * more), TEST: answers(0.5)}
    results[f"answers-{UNTRAINED}"] = {TRAIN: answers(0.0), TEST: answers(0.0)}
    places = dict.fromkeys(study.pretrain, place)
    return results_of(study, Plan(trials=trials), results, tmp_path / "study", {"train": "x"}, places)


def answers(score: float) -> dict:
    """What a model answers: a family of short answers, one of boxes, one of captions; constant answers have 0.55."""
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
    picture = Image.new("RGB", (64, 48), "green")
    monkeypatch.setattr(demo_report, "draw_conversations", lambda *_: [picture])
    monkeypatch.setattr(demo_report, "draw_scene", lambda *_: picture)
    found = study_found(tmp_path, lift)
    path = write_demo_report(tmp_path / "report.html", made(tmp_path), found, BUDGET, tmp_path / "study", name)
    page = Text()
    page.feed(path.read_text())
    return page


def test_report_says_gain_where_there_is_one_and_names_no_file_outside(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.1)
    for against in ("random", "shuffled"):
        said = page.text.split(f"Against {against}, paired by seed")[1].split("Against")[0]
        assert re.search(r"instructions, tree or ground, accuracy with 20 labels a class: a clear gain, \+0\.", said)
        assert re.search(r"VRL, tree at this cell, average precision with 32 labelled crops: a clear gain", said)
        assert re.search(r"labels, as it lies or half a turn, accuracy with 100 places a way: a clear gain", said)
        assert re.search(r"instructions, 25% of the labels, frozen backbone: a clear gain", said)
    assert "instructions 90 s, VRL 90 s, labels 90 s, shuffled 90 s" in page.text
    assert "Its weakness" in page.text
    assert page.tables >= 7
    assert "What the models themselves answer" in page.text
    assert page.links == []
    assert "mean nothing" not in page.text
    for honest in ("Read with care", "narrow side", "One pretraining of each kind", "not over pretrainings", "Holm"):
        assert honest in page.text


def test_report_says_loss_where_there_is_one(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, -0.1)
    assert "a clear loss" in page.text
    assert "a clear gain" not in page.text


def test_report_claims_nothing_where_there_is_nothing(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.0)
    assert re.search(r"instructions, 25% of the labels, frozen backbone: no clear difference", page.text)
    assert "a clear gain, +0.1" not in page.text


def test_quick_report_says_that_its_numbers_mean_nothing(tmp_path, monkeypatch):
    assert "These numbers mean nothing" in read(tmp_path, monkeypatch, 0.1, "quick").text


@pytest.mark.parametrize("name", list(BUDGETS))
def test_every_init_is_pretrained_with_the_same_budget_and_asked_the_same(tmp_path, name):
    budget = BUDGETS[name]
    study = study_of(budget, made(tmp_path))
    taught = {init: one for init, one in study.pretrain.items() if init != "aligned"}
    assert set(taught) == {*TAUGHT, "shuffled"}
    assert {one.start for one in taught.values()} == {"aligned"}
    told = {init: Path(one.options["data"]).stem for init, one in taught.items()}
    assert told == {"instructions": "true", "VRL": "true", "shuffled": "shuffled", "labels": "labels"}
    dense = taught.pop("labels")
    assert (dense.recipe, dense.options["steps"], dense.options["batch"]) == ("labels", budget.label_steps, 16)
    assert {one.options["steps"] for one in taught.values()} == {budget.pretrain_steps}
    assert [one.options["vrl"] for one in taught.values()] == ["off", "paper", "off"]
    assert (study.fractions, study.seeds, study.tune) == (budget.fractions, budget.seeds, budget.tune)
    assert tuple(study.inits) == INITS
    assert study.baseline == "random"
    assert study.pairs == [(init, other) for other in ("random", "shuffled") for init in TAUGHT]
    assert [job.name for job in data_jobs(budget, tmp_path)] == ["instructions", "questions", "target"]


def test_the_demos_study_is_a_file_that_vistruct_study_takes(tmp_path):
    study = study_of(BUDGET, made(tmp_path))
    (tmp_path / "study.yaml").write_text(study_to_yaml(study))
    assert read_study(tmp_path / "study.yaml") == study


def test_pretrainings_start_from_each_other_and_are_named_by_what_they_are(tmp_path):
    data = made(tmp_path)
    line = {"id": "a", "image": "a.png", "width": 8, "height": 8, "conversations": [
        {"from": "human", "value": "<image>\nAny tree?"}, {"from": "gpt", "value": "yes"}]}  # fmt: skip
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("true", "shuffled"):
        Path(data["instructions"][name]).write_text(json.dumps(line) + "\n")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 5], "iscrowd": 0, "area": 20}
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    found = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "tree"}]}
    Path(data["instructions"]["labels"]).write_text(json.dumps(found))
    study = study_of(BUDGET, data)
    jobs, places = pretraining_jobs(study, tmp_path / "out")
    by_name = {job.name: job for job in jobs}
    assert by_name["pretrain-aligned"].needs == ()
    assert {job.needs for name, job in by_name.items() if name != "pretrain-aligned"} == {("pretrain-aligned",)}
    assert by_name["pretrain-VRL"].arguments["run"]["start"] == str(places["aligned"])
    aligned, dense = (run_from_dict(by_name[f"pretrain-{name}"].arguments["run"]) for name in ("aligned", "labels"))
    assert dense.init == places["aligned"]  # not a whole model that answers: from its backbone
    for stream in dense.streams.values():
        same = [(t.backbone, t.mean, t.std) for t in (stream.task, aligned.only.task)]
        assert same[0] == same[1]
    assert (dense.optim.lr, dense.move[0].lr_factor) == (aligned.optim.lr, SIZES["small"].backbone_lr_factor)
    (places["aligned"] / "checkpoints" / "step_00000075").mkdir(parents=True)
    (places["aligned"] / "run.yaml").write_text(run_to_yaml(aligned))
    assert pretraining_jobs(study, tmp_path / "out")[1] == places  # what is there by then plans nothing anew
    longer = study_of(BUDGET.model_copy(update={"align_steps": 151}), data)
    _, others = pretraining_jobs(longer, tmp_path / "out")
    assert not set(others.values()) & set(places.values())  # what starts from another one is another one too
    assert set(study.with_weights(places).inits.values()) == {str(place) for place in places.values()}
    with pytest.raises(UserError, match="no earlier pretraining"):
        study.model_validate(study.model_dump() | {"pretrain": {"late": dict(recipe="vitp.pretrain", start="later")}})


def test_the_study_trains_the_same_detector_from_every_init_frozen_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vistruct.study.plan.weights_of", lambda study, init, seed: None)
    monkeypatch.setattr("vistruct.study.plan.TypeAdapter.validate_python", lambda self, value: value)
    trials = plan_trials(study_of(BUDGET, made(tmp_path))).trials
    assert len(trials) == len(INITS) * BUDGET.seeds * 2
    for one in trials:
        (move,) = one.run.move
        assert (move.pattern, move.mode, move.lr_factor) == (
            ("backbone", "frozen", 1.0) if one.tuning == "probe" else ("backbone", "full", 0.2)
        )
        stream = one.run.only
        assert (one.run.steps, stream.batch, one.run.optim.lr) == (BUDGET.detect_steps, 8, 3e-3)
        assert stream.task.head.nms_iou == 0.35
        assert stream.task.neck.strides == (16, 32)
        assert one.run.evals["val"].data.augment is None
        assert str(one.run.evals["val"].data.annotation) == "tested.json"
        assert str(stream.data.annotation) == "labelled.json"


def test_every_crown_of_the_test_scene_is_learned_from_or_measured_on(tmp_path):
    parts = split_target(out=str(tmp_path), results={}, report=lambda *_: None)
    assert parts["num_labelled"] + parts["num_tested"] == 279
    widths = [Image.open(Path(parts[name]).with_suffix(".png")).width for name in ("labelled", "tested")]
    assert (
        sum(widths)
        == Image.open(trees().test.parent / json.loads(trees().test.read_text())["images"][0]["file_name"]).width
    )


def test_default_demo_has_three_seeds():
    assert BUDGETS["default"].seeds >= 3
    assert len(BUDGETS["full"].fractions) > len(BUDGETS["default"].fractions)


@pytest.mark.parametrize(
    ("lift", "said"),
    [
        (0.1, "clearly better in **2** (presence, ground one), clearly worse in **none**"),
        (0.0, "clearly better in **none**, clearly worse in **none**"),
        (-0.1, "clearly better in **none**, clearly worse in **2** (presence, ground one)"),
    ],
)
def test_the_report_says_what_answers_gain_over_shuffled_ones(tmp_path, lift, said):
    sentences = answers_report.sentences(study_found(tmp_path, lift))
    assert f"{TRAIN}, instructions against shuffled: {said}" in sentences
    nothing = "clearly better in **none**, clearly worse in **none**"
    assert f"{TEST}, VRL against shuffled: {nothing}" in sentences


def test_a_difference_is_clear_beyond_two_standard_errors():
    def score(share: float) -> list[FamilyScore]:
        line = FamilyScore(family="cell", questions=100, measure="accuracy", score=share, constant=0.5, error=0.03)
        return [line, dataclasses.replace(line, family="caption", error=math.nan)]

    error = 0.03 * 2**0.5
    assert differences(score(0.5 + 2.2 * error), score(0.5)) == (["cell"], [])
    assert differences(score(0.5), score(0.5 + 2.2 * error)) == ([], ["cell"])
    assert differences(score(0.5 + 1.8 * error), score(0.5)) == ([], [])


def test_only_scores_above_the_constant_answer_and_the_control_are_marked(tmp_path):
    asked = study_found(tmp_path, 0.1)["questions"]
    scores = {
        about: {name: by_family({k: math.nan if v is None else v for k, v in one.items()}) for name, one in own.items()}
        for about, own in asked.items()
    }
    assert answers_report._best(scores[TEST], "shuffled") == []
    expected = [(row, column) for row in (1, 2, 3) for column in (5, 6)]
    assert answers_report._best(scores[TRAIN], "shuffled") == answers_report._best(scores[TRAIN], None) == expected


def test_every_model_is_asked_the_same_questions_and_one_of_them_untrained(tmp_path):
    study = study_of(BUDGET, made(tmp_path))
    for name in ("test", "train"):
        (tmp_path / f"{name}.jsonl").write_text("")
    study = study.model_copy(update={"questions": {a: tmp_path / p.name for a, p in study.questions.items()}})
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "run.yaml").write_text(run_to_yaml(labels.tiny()))
    ready = study.with_weights({name: tmp_path / name for name in study.pretrain})
    jobs = question_jobs(ready, dict.fromkeys(study.inits, "digest"))
    assert {job.name for job in jobs} == {f"answers-{name}" for name in (UNTRAINED, "random", *ANSWERING)}
    assert len({json.dumps(job.arguments["questions"]) for job in jobs}) == 1
    assert [job.name for job in jobs if not job.arguments["trained"]] == [f"answers-{UNTRAINED}"]


def test_the_report_is_whole_and_within_its_window(tmp_path, monkeypatch, browser: Browser):
    read(tmp_path, monkeypatch, 0.1)
    for size in (LAPTOP, PHONE):
        seen = browser.look(tmp_path / "report.html", size)
        assert_sound(seen, size)
        assert len(seen.tables) >= 7
        assert len(seen.images) >= 3


def test_the_study_of_the_docs_joins_heads_over_one_backbone():
    study = read_study(Path(__file__).parents[2] / "docs" / "visft_trees.yaml")
    joined, control = study.pretrain["visft"], study.pretrain["visft_shuffled"]
    assert joined.start == control.start == {name: name for name in ("boxes", "crowns", "captions")}
    assert joined.options == control.options
    assert set(control.settings) - set(joined.settings) == {f"streams.{name}.shuffled=true" for name in control.start}
    assert {study.pretrain[name].backbone for name in control.start} == {"base"}
