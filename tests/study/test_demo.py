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
from vistruct.recipes import labels, segment
from vistruct.recipes.vitp.pretrain import SIZES
from vistruct.samples import trees
from vistruct.study import answers_report, demo_report
from vistruct.study.answers_report import differences
from vistruct.study.demo import EFFORTS, TEST, TRAIN, data_jobs, split_target, study_of
from vistruct.study.demo_report import write_demo_report
from vistruct.study.domains import domain_of
from vistruct.study.plan import Plan, Trial, plan_trials
from vistruct.study.pretraining import pretraining_jobs
from vistruct.study.questions import UNTRAINED, question_jobs
from vistruct.study.results import results_of
from vistruct.study.ring import chain_of, expanded, members
from vistruct.study.study import read_study, study_to_yaml

EFFORT = EFFORTS["default"]
TREES = domain_of("trees", None, EFFORT.draws)
TAUGHT = ("masked", "labels", "instructions")  # where no weights of ImageNet are at hand
CONTROLS = ("labels.shuffled", "instructions.shuffled")
INITS = ("random", *TAUGHT, *CONTROLS)


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
    asked = study_of(EFFORT, TREES, made(tmp_path))
    study, run = expanded(asked), segment.tiny()
    place = tmp_path / "study" / "run"
    (place / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 48), "blue").save(place / "samples" / "first_batch.png")
    (place / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 5, "loss": 1.0}\n')
    trials, results = [], {}
    for tuning in study.tune:
        for seed in range(study.seeds):
            noise = rng.normal(0, 0.01)
            for init in study.inits:
                one = Trial(init=init, fraction=EFFORT.fractions[0], seed=seed, tuning=tuning, run=run)
                value = 0.2 + (lift if init in TAUGHT else 0.0) + noise + rng.normal(0, 0.002)
                cost = {"seconds": 1.0, "step_seconds": 0.1, "samples": 8, "peak_memory_mb": 9}
                counts = {"trainable": 1, "parameters": 2}
                trials.append(one)
                numbers = {"val/IoU/tree": value, "val/mIoU": 0.02}
                results[one.name] = {"run": str(place), "numbers": numbers, "cost": cost | counts}
    for init in study.inits:
        more = lift if init in TAUGHT else 0.0
        for number in range(EFFORT.pretrain_seeds):
            values = (0.7 + more + rng.normal(0, 0.004, 8)).tolist()
            patch, dense = dict.fromkeys(("5", "20", "50"), values), dict.fromkeys(("2", "8", "32"), values)
            turned = {shots: [value - 0.2 for value in values] for shots in ("20", "50", "100")}
            probed = {"patch": patch, "standardised": patch, "dense": dense, "turned": turned}
            results[f"few_labels-{init}.{number}"] = {"what": "tree", "values": probed}
        if init in ("random", "instructions", "instructions.shuffled"):  # a model of other tasks has nothing to say
            results[f"answers-{init}"] = {TRAIN: answers(0.5 + 3 * more), TEST: answers(0.5)}
    results |= {f"pretrain-{name}": {"seconds": 90.4} for name in study.pretrain}
    results[f"answers-{UNTRAINED}"] = {TRAIN: answers(0.0), TEST: answers(0.0)}
    places = dict.fromkeys(study.pretrain, place)
    plan = Plan(trials=trials)
    return results_of(study, plan, results, tmp_path / "study", {"train": "x"}, places, ring=members(asked))


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
    found = study_found(tmp_path, lift)
    path = write_demo_report(tmp_path / "report.html", made(tmp_path), found, TREES, tmp_path / "study", name)
    page = Text()
    page.feed(path.read_text())
    return page


def test_report_says_gain_where_there_is_one_and_names_no_file_outside(tmp_path, monkeypatch):
    page = read(tmp_path, monkeypatch, 0.1)
    assert re.search(r"fine-tuned whole, 100% of the labels, from random: use \w+, \+0\.1", page.text)
    assert "would pay too" in page.text
    assert "1,600 samples for each teacher" in page.text
    assert "Its weakness" in page.text
    assert page.tables >= 7
    assert "What the models themselves answer" in page.text
    assert page.links == []
    assert "mean nothing" not in page.text
    for honest in ("Read with care", "they are not free", "Holm", "No layer of random keeps such statistics"):
        assert honest in page.text
    assert "Of masked nothing was shuffled" in page.text


@pytest.mark.parametrize("lift", [-0.1, 0.0])
def test_report_names_no_teacher_where_none_pays(tmp_path, monkeypatch, lift):
    page = read(tmp_path, monkeypatch, lift)
    assert "fine-tuned whole, 100% of the labels, from random: use none." in page.text
    assert "would pay too" not in page.text


def test_quick_report_says_that_its_numbers_mean_nothing(tmp_path, monkeypatch):
    assert "These numbers mean nothing" in read(tmp_path, monkeypatch, 0.1, "quick").text


@pytest.mark.parametrize("name", list(EFFORTS))
def test_every_teacher_shows_as_many_pictures_from_the_same_weights(tmp_path, name):
    effort = EFFORTS[name]
    asked = study_of(effort, TREES, made(tmp_path), tmp_path / "lite0.pth")
    study = expanded(asked)
    shown = [one for one in members(asked) if one.is_teacher]
    assert [one.teacher for one in shown if one.start == "random"] == list(effort.teachers)
    assert [one.teacher for one in shown if one.start == "ImageNet"] == list(effort.from_imagenet)
    for one in shown:
        chains = [chain_of(study, source) for source in study.sources(one.init)]
        assert len(chains) == effort.pretrain_seeds
        for number, chain in enumerate(chains):
            assert sum(study.pretrain[name].budget.samples for name in chain) == effort.samples
            begun = {study.pretrain[name].backbone for name in chain} - {None}
            own = study.sources(one.start)
            assert begun == {own[number % len(own)]}
    assert (study.fractions, study.seeds, study.tune) == (effort.fractions, effort.seeds, effort.tune)
    assert study.baseline == "random"
    assert [job.name for job in data_jobs(effort, TREES, tmp_path)] == ["instructions", "questions", "target"]
    without = study_of(effort, TREES, made(tmp_path))
    assert list(without.teachers) == [one for one in asked.teachers if one != "distilled"]


def test_the_demos_study_is_a_file_that_vistruct_study_takes(tmp_path):
    study = study_of(EFFORT, TREES, made(tmp_path))
    (tmp_path / "study.yaml").write_text(study_to_yaml(study))
    assert read_study(tmp_path / "study.yaml") == study


def with_files(tmp_path: Path) -> dict:
    data = made(tmp_path)
    line = {"id": "a", "image": "images/a.png", "width": 96, "height": 96, "conversations": [
        {"from": "human", "value": "<image>\nAny tree?"}, {"from": "gpt", "value": "yes"}]}  # fmt: skip
    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 96)).save(tmp_path / "images" / "a.png")
    for name in ("true", "shuffled"):
        Path(data["instructions"][name]).write_text(json.dumps(line) + "\n")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 5], "iscrowd": 0, "area": 20}
    image = {"id": 1, "file_name": "images/a.png", "width": 96, "height": 96}
    found = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "tree"}]}
    Path(data["instructions"]["labels"]).write_text(json.dumps(found))
    return data


def test_pretrainings_start_from_each_other_and_are_named_by_what_they_are(tmp_path):
    data = with_files(tmp_path)
    study = expanded(study_of(EFFORT, TREES, data))
    jobs, places = pretraining_jobs(study, tmp_path / "out")
    by_name = {job.name: job for job in jobs}
    assert by_name["pretrain-start.random.1"].needs == ()
    assert by_name["pretrain-masked.1"].needs == by_name["pretrain-aligned.1"].needs == ("pretrain-start.random.1",)
    assert by_name["pretrain-instructions.shuffled.2"].needs == ("pretrain-aligned.2",)
    asked, dense, begun = (
        run_from_dict(by_name[f"pretrain-{name}"].arguments["run"])
        for name in ("instructions.0", "labels.0", "start.random.0")
    )
    assert asked.only.start == places["aligned.0"]
    assert dense.init == places["start.random.0"]
    assert (asked.steps, dense.steps, dense.seed) == (75, 100, 0)
    for stream in dense.streams.values():
        same = [(t.backbone, t.mean, t.std) for t in (stream.task, begun.only.task)]
        assert same[0] == same[1]
    assert (dense.optim.lr, dense.trainable[0].lr_factor) == (asked.optim.lr, SIZES["small"].backbone_lr_factor)
    (places["aligned.0"] / "checkpoints" / "step_00000075").mkdir(parents=True)
    (places["aligned.0"] / "run.yaml").write_text(run_to_yaml(asked))
    assert pretraining_jobs(study, tmp_path / "out")[1] == places  # what is there by then plans nothing anew
    longer = expanded(study_of(EFFORT.model_copy(update={"samples": 4000}), TREES, data))
    _, others = pretraining_jobs(longer, tmp_path / "out")
    taught = {name for name in places if not name.startswith("start.")}
    assert not {others[name] for name in taught} & {places[name] for name in taught}
    with pytest.raises(UserError, match="no earlier pretraining"):
        study.model_validate(study.model_dump() | {"pretrain": {"late": dict(recipe="vitp.pretrain", start="later")}})


def test_the_study_trains_the_same_segmenter_from_every_init_frozen_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vistruct.study.plan.weights_of", lambda study, init, seed: None)
    monkeypatch.setattr("vistruct.study.plan.TypeAdapter.validate_python", lambda self, value: value)
    trials = plan_trials(expanded(study_of(EFFORT, TREES, made(tmp_path)))).trials
    assert len(trials) == len(INITS) * EFFORT.seeds * 2
    for one in trials:
        assert [(rule.pattern, rule.mode) for rule in one.run.trainable] == (
            [("backbone", "frozen")] if one.tuning == "head" else []
        )
        stream = one.run.only
        rate = 1e-2 if one.tuning == "head" else 1e-3
        assert (one.run.steps, stream.batch, one.run.optim.lr) == (EFFORT.steps, 8, rate)
        assert stream.task.head.kind == "linear"
        assert str(one.run.evals["val"].data.root) == "tested.json"
        assert str(stream.data.root) == "labelled.json"


def test_every_crown_of_the_test_scene_is_learned_from_or_measured_on(tmp_path):
    parts = split_target(out=str(tmp_path), asked=str(trees().test), results={}, report=lambda *_: None)
    assert parts["num_labelled"] + parts["num_tested"] == 279
    widths = [Image.open(Path(parts[name]).with_suffix(".png")).width for name in ("labelled", "tested")]
    assert (
        sum(widths)
        == Image.open(trees().test.parent / json.loads(trees().test.read_text())["images"][0]["file_name"]).width
    )


def test_cells_are_of_a_folder_that_a_script_makes(tmp_path):
    with pytest.raises(UserError, match="not shipped"):
        domain_of("cells", None, 2)
    with pytest.raises(UserError, match="fetch_nuclei"):
        domain_of("cells", tmp_path, 2)
    with pytest.raises(UserError, match="are shipped"):
        domain_of("trees", tmp_path, 2)
    for place in ("pretrain/annotations.json", "objects/test.json", "pixels/images"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("{}")
    cells = domain_of("cells", tmp_path, 2)
    study = study_of(EFFORT, cells, made(tmp_path))
    assert study.options["data"] == str(tmp_path / "pixels")
    assert (study.options["split"], study.options["val_split"], study.metric) == ("train", "test", "IoU/nucleus")
    assert study.probes is None
    assert [job.name for job in data_jobs(EFFORT, cells, tmp_path)] == ["instructions", "questions"]


def test_default_demo_repeats_pretraining_and_what_comes_after_it():
    assert EFFORTS["default"].seeds >= EFFORTS["default"].pretrain_seeds >= 3
    assert len(EFFORTS["full"].fractions) > len(EFFORTS["default"].fractions)


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
    assert f"{TRAIN}, instructions against instructions.shuffled: {said}" in sentences
    nothing = "clearly better in **none**, clearly worse in **none**"
    assert f"{TEST}, instructions against instructions.shuffled: {nothing}" in sentences


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
    assert answers_report._best(scores[TEST], "instructions.shuffled") == []
    expected = [(row, 5) for row in (1, 2, 3)]
    assert (
        answers_report._best(scores[TRAIN], "instructions.shuffled")
        == answers_report._best(scores[TRAIN], None)
        == expected
    )


def test_every_model_that_answers_is_asked_the_same_and_one_of_them_untrained(tmp_path):
    study = study_of(EFFORT, TREES, made(tmp_path))
    for name in ("test", "train"):
        (tmp_path / f"{name}.jsonl").write_text("")
    asked = {about: tmp_path / path.name for about, path in study.questions.items()}
    study = expanded(study.model_copy(update={"questions": asked}))
    places = {name: tmp_path / name for name in study.pretrain}
    for name in places:
        if name.partition(".")[0] in ("labels", "masked"):
            places[name].mkdir()
            (places[name] / "run.yaml").write_text(run_to_yaml(labels.tiny()))
    ready = study.with_weights(places)
    jobs = question_jobs(ready, {init: ("digest",) * 4 for init in study.inits})
    answering = ("random", "instructions", "instructions.shuffled")
    assert {job.name for job in jobs} == {f"answers-{name}" for name in (UNTRAINED, *answering)}
    assert len({json.dumps(job.arguments["questions"]) for job in jobs}) == 1
    assert [job.name for job in jobs if not job.arguments["trained"]] == [f"answers-{UNTRAINED}"]
    assert {job.arguments["model"] for job in jobs if job.name == "answers-instructions"} == {
        str(places["instructions.0"])
    }


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
