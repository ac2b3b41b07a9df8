"""Teachers of a study: what they are written out as, at which compute, with which controls, and which one pays."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_run_study import TOYS, Heard, Text
from toy_study import recipe

from vistruct.cli.study import resolve
from vistruct.config import with_values
from vistruct.errors import UserError
from vistruct.recipes import detect
from vistruct.samples import trees
from vistruct.study.asked import with_teachers
from vistruct.study.finished import written_out
from vistruct.study.pace import Pace
from vistruct.study.pretraining import begun_jobs, keeps_statistics, pace_jobs, pretraining_jobs, samples_of_a_step
from vistruct.study.results import by_pretraining
from vistruct.study.ring import Member, controls, expanded, members, pairs, verdicts
from vistruct.study.runner import run_study
from vistruct.study.study import Budget, Study, read_study, study_to_yaml

TEACHERS = {
    "labels": {"recipe": "labels", "control": "shuffled"},
    "aligned": {"recipe": "masked", "part": 0.25, "is_step": True},
    "asked": {"recipe": "masked", "after": "aligned", "part": 0.75, "control": {"hidden": 0.5}},
}


def ring(**more) -> Study:
    return Study.model_validate({"recipe": "detect", "teachers": TEACHERS, "seeds": 3, **more})


def test_each_teacher_goes_on_from_each_start_with_its_controls(tmp_path):
    study = ring(starts={"random": "random", "net": str(tmp_path)}, pretrain_seeds=2, budget={"samples": 400})
    found = expanded(study)
    assert list(found.inits) == [
        "random", "labels.random", "asked.random", "labels.random.shuffled", "asked.random.shuffled",
        "net", "labels.net", "asked.net", "labels.net.shuffled", "asked.net.shuffled",
    ]  # fmt: skip
    assert found.inits["random"] == (
        "start.random.0",
        "start.random.1",
    )
    assert found.inits["net"] == "start.net"
    assert found.inits["labels.net"] == ("labels.net.0", "labels.net.1")
    one = found.pretrain["labels.random.1"]
    assert (one.backbone, one.seed, one.budget) == ("start.random.1", 1, Budget(samples=400))
    assert found.pretrain["labels.net.1"].backbone == "start.net"
    step, end = found.pretrain["aligned.net.0"], found.pretrain["asked.net.shuffled.0"]
    assert (step.budget, step.backbone) == (Budget(samples=100), "start.net")
    assert (end.budget, end.start, end.options) == (Budget(samples=300), "aligned.net.0", {"hidden": 0.5})
    assert found.pretrain["labels.net.shuffled.0"].is_shuffled
    assert not end.is_shuffled
    assert found.against[0] == found.baseline == "random"
    assert ("labels.net", "net") in found.pairs
    assert ("labels.net", "labels.net.shuffled") in found.pairs
    assert ("labels.net", "random") not in found.pairs
    assert read_study_again(study, tmp_path) == study


def test_a_start_may_be_compared_as_it_is(tmp_path):
    starts = {"random": "random", "net": str(tmp_path)}
    alone = {name: {**one, "starts": ["random"]} for name, one in TEACHERS.items()}
    study = ring(teachers=alone, starts=starts)
    found = expanded(study)
    assert list(found.inits) == ["random", "labels", "asked", "labels.shuffled", "asked.shuffled", "net"]
    assert found.pairs[-1] == ("net", "random")
    assert found.pretrain["asked"].start == "aligned"


def read_study_again(study: Study, folder: Path) -> Study:
    (folder / "study.yaml").write_text(study_to_yaml(study))
    return read_study(folder / "study.yaml")


def test_of_one_start_the_names_are_short_and_statistics_alone_are_a_control():
    study = ring()
    assert [one.init for one in members(study)][:3] == ["random", "labels", "asked"]
    whole = members(study, ["random"])
    assert whole[-1] == Member(init="normalised", start="random", teacher="labels", control="normalised")
    assert [one.init for one in controls(whole[1], whole)] == ["labels.shuffled", "normalised"]
    assert ("asked", "normalised") in pairs(whole)
    assert "optim.lr=1e-30" in expanded(study, ["random"]).pretrain["normalised"].settings


@pytest.mark.parametrize(
    ("teachers", "more", "what"),
    [
        ({"a": {"recipe": "masked", "options": {"steps": 3}}}, {}, "sets 'steps'"),
        ({"a": {"recipe": "masked", "after": "b"}}, {}, "no teacher above it"),
        ({"a": {"recipe": "masked", "part": 0.5}}, {}, "is 0.5, and teachers have equal ones"),
        ({"a": {"recipe": "masked", "is_step": True}}, {}, "all teachers are steps"),
        ({"a": {"recipe": "masked", "starts": ["here"]}}, {}, "no start 'here'"),
        ({"random": {"recipe": "masked"}}, {}, "two inits are called 'random'"),
    ],
)
def test_teachers_that_cannot_be_compared_are_named(teachers, more, what):
    with pytest.raises(UserError, match=what):
        expanded(Study.model_validate({"recipe": "detect", "teachers": teachers, **more}))


def test_more_pretrainings_than_trials_and_budgets_of_two_kinds_are_refused():
    with pytest.raises(UserError, match="4 pretrainings of each kind"):
        ring(pretrain_seeds=4)
    with pytest.raises(UserError, match="samples or seconds"):
        ring(budget={"samples": 3, "seconds": 3})


def test_the_steps_are_those_that_fill_the_budget(tmp_path):
    data = {"data": str(trees().train), "size": 96, "overlap": 24, "channels": 16}
    study = Study.model_validate(
        {
            "recipe": "detect", "options": data, "budget": {"samples": 100},
            "teachers": {"labels": {"recipe": "labels", "options": {**data, "batch": 3, "map_head": "linear"}}},
        }
    )  # fmt: skip
    jobs, _ = pretraining_jobs(expanded(study), tmp_path)
    run = jobs[-1].arguments["run"]
    assert run["steps"] == 33  # two tasks learn from the same samples
    assert run["seed"] == 0
    timed = study.model_copy(update={"budget": Budget(seconds=10.0)})
    ((name, job),) = pace_jobs(expanded(timed), {}).items()
    assert (name, job.name) == ("labels", "pace-labels")
    assert job.arguments["run"]["init"] is None
    jobs, _ = pretraining_jobs(expanded(timed), tmp_path, {name: pace_of(0.5)})
    assert jobs[-1].arguments["run"]["steps"] == 20
    with pytest.raises(UserError, match="not one step of labels, which takes 20 seconds"):
        pretraining_jobs(expanded(timed), tmp_path, {name: pace_of(20.0)})


def test_a_recipe_goes_on_gently_from_every_start_but_random_weights(tmp_path):
    save_file({name: torch.zeros(2) for name in ("a", "b")}, tmp_path / "net.safetensors")
    of_net = {"recipe": "detect", "options": {"timm": "test_vit3", "backbone": str(tmp_path / "net.safetensors")}}
    alike = {"data": [str(trees().train.parent)], "model": "small", "batch": 4, "anchor_weight": 2.0}
    study = Study.model_validate(
        {
            "recipe": "detect", "options": {"data": str(trees().train)}, "budget": {"samples": 80},
            "starts": {"random": {}, "net": of_net},
            "teachers": {"alike": {"recipe": "self_distill", "options": alike}},
        }
    )  # fmt: skip
    jobs, places = pretraining_jobs(expanded(study), tmp_path / "out")
    runs = {job.name.removeprefix("pretrain-"): job.arguments["run"] for job in jobs}
    one, other = runs["alike.random"], runs["alike.net"]
    assert (one["task"]["anchor"], one["task"]["heads_first"], one["trainable"]) == (None, 0, [])
    assert one["optim"]["final_weight_decay"] == 0.4
    assert other["task"]["anchor"] == other["init"] == str(places["start.net"])
    assert (other["task"]["heads_first"], other["loss_weights"]) == (2, {"anchor": 2.0})  # a tenth of 20 steps
    assert [(rule["pattern"], rule["lr_factor"]) for rule in other["trainable"]] == [("backbone", 0.05)]
    assert other["optim"]["final_weight_decay"] is None
    timed = study.model_copy(update={"budget": Budget(seconds=10.0)})
    starts, begun = begun_jobs(expanded(timed), tmp_path / "out")
    assert {job.name for job in starts} == {"pretrain-start.random", "pretrain-start.net"}
    held = pace_jobs(expanded(timed), begun)["alike.net"].arguments["run"]
    assert held["task"]["anchor"] == str(begun["start.net"])


@pytest.mark.parametrize("setting", ["steps=5", "patience=2"])
def test_settings_do_not_end_a_teacher_at_another_step_than_its_budget(tmp_path, setting):
    options = {"data": [str(trees().train.parent)], "val": [str(trees().test.parent)], "model": "small", "batch": 4}
    masked = {"recipe": "masked", "options": options, "settings": [setting, "eval_every=5", "best_by=val/loss"]}
    starts = {"random": {"recipe": "masked", "options": options}}
    study = ring(teachers={"masked": masked}, budget={"samples": 100}, starts=starts)
    with pytest.raises(UserError, match=f"{setting} would end it at another step than the budget of 100 samples"):
        pretraining_jobs(expanded(study), tmp_path)


def pace_of(seconds: float) -> Pace:
    return Pace(phases={"": {"": seconds}}, samples={}, a_map=0.0, seconds=1.0)


def test_repetitions_and_controls_have_the_pace_of_their_teacher():
    study = expanded(ring(budget={"seconds": 8.0}, pretrain_seeds=2))
    paced = {name: one.paced_as for name, one in study.pretrain.items() if one.budget is not None}
    assert paced["labels.1"] == paced["labels.shuffled.0"] == paced["labels.0"] == "labels.0"
    assert paced["asked.shuffled.1"] == "asked.0"
    assert paced["aligned.1"] == "aligned.0"


def test_a_teacher_that_cannot_be_run_is_named_before_anything_is_written(tmp_path):
    options = {"data": str(trees().train), "val": str(trees().test), "size": 96, "overlap": 24}
    study = Study(recipe="detect", options=options, teachers={"masked": {"recipe": "masked"}})
    with pytest.raises(UserError) as told:
        run_study(study, tmp_path / "out")
    assert told.value.where.startswith("masked, the pretraining masked")
    assert "--teacher-option" in told.value.fix
    assert not (tmp_path / "out").exists()


def test_layers_that_keep_statistics_are_found():
    run = detect.tiny()
    assert not keeps_statistics(run)
    with_norms = detect.recipe(data=trees().train, timm="resnet18", size=64, overlap=16)
    assert keeps_statistics(with_norms)
    assert samples_of_a_step(with_values(run, steps=3)) == 2


def test_trials_of_one_pretraining_are_one_pair():
    assert by_pretraining([1.0, 2.0, 3.0, 5.0], 2) == [2.0, 3.5]
    assert by_pretraining([1.0, 2.0], 1) == [1.0, 2.0]


def gain(init: str, against: str, p: float | None, verdict: str = "clear gain", mean: float = 0.1) -> dict:
    named = {"init": init, "against": against, "fraction": 1.0, "tuning": "full"}
    return {**named, "p": p, "verdict": verdict, "mean": mean, "student": [0.0, 0.2]}


def test_a_teacher_pays_where_it_beats_its_start_and_its_controls_corrected_for_how_many_there_are():
    whole = [
        Member(init="random", start="random"),
        Member(init="a", start="random", teacher="a"),
        Member(init="b", start="random", teacher="b"),
        Member(init="c", start="random", teacher="c"),
        Member(init="a.shuffled", start="random", teacher="a", control="shuffled"),
    ]
    gains = [
        gain("a", "random", 0.001),
        gain("a", "a.shuffled", 0.02),
        gain("b", "random", 0.012),
        gain("c", "random", 0.4, "not clear"),
        gain("a.shuffled", "random", 0.001),
    ]
    values = {(name, 1.0, "full"): value for name, value in {"a": 0.5, "b": 0.4, "c": 0.9}.items()}
    (found,) = verdicts(whole, gains, 0.95, values)
    rows = {row["init"]: row for row in found["teachers"]}
    # Holm over three: the smallest is b's .012 x 3, then a's larger one of two, .02 x 2.
    assert {name: row["p_holm"] for name, row in rows.items()} == pytest.approx({"b": 0.036, "a": 0.04, "c": 0.4})
    assert found["best"] == "a"  # c is higher, and not clear
    assert [name for name, row in rows.items() if row["pays"]] == ["a", "b"]
    gains[1] = gain("a", "a.shuffled", 0.2, "not clear")
    (found,) = verdicts(whole, gains, 0.95, values)
    assert found["best"] == "b"
    assert found["teachers"][0]["unbeaten"] == ["a.shuffled"]
    (found,) = verdicts(whole, [gain(g["init"], g["against"], None, "one pair") for g in gains], 0.95, values)
    assert found["best"] is None


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> tuple[Path, dict]:
    """A ring of the toys' recipe: its own teacher, one that comes after a step, and a control."""
    out = tmp_path_factory.mktemp("ring") / "study"
    with pytest.MonkeyPatch.context() as patch:
        with_toys(patch)
        study = Study(
            recipe="toy",
            teachers={
                "more": {"recipe": "toy"},
                "first": {"recipe": "toy", "part": 0.5, "is_step": True},
                "late": {"recipe": "toy", "after": "first", "part": 0.5, "control": {"lr": 1e-6}},
            },
            budget={"samples": 80},
            pretrain_seeds=2,
            seeds=4,
        )
        return out, run_study(study, out, show=Heard(), workers=1, **TOYS)


def with_toys(patch: pytest.MonkeyPatch) -> None:
    """Every recipe is the toys', and jobs run here."""
    patch.setattr("vistruct.study.pretraining.find", lambda name: type("toys", (), {"recipe": staticmethod(recipe)}))
    patch.setattr("vistruct.study.runner.run_jobs", here)
    patch.setattr("vistruct.study.pretraining.train_and_report", plain)
    for name in ("draw_first_batch", "draw_predictions", "write_run_report"):  # ten times as long as the steps
        patch.setattr(f"vistruct.runs.{name}", lambda _: None)


def ticking(seconds: float):
    told = itertools.count()
    return lambda _: next(told) * seconds


def plain(run, out, on_step, **_):
    from vistruct.engine.train import train

    train(run, out, on_step=on_step)


def here(jobs, out, **_) -> dict:
    """As `run_jobs`, without a worker."""
    import importlib

    results: dict = {}
    for job in jobs:
        module, _, name = job.call.partition(":")
        more = {"with_pictures": True} if module == "toy_study" else {}  # else it leaves them out for good
        results[job.name] = getattr(importlib.import_module(module), name)(
            **json.loads(json.dumps(job.arguments)), results=results, report=lambda *_: None, **more
        )
    return results


def test_a_ring_runs_from_its_starts_to_its_verdict(toys):
    out, found = toys
    assert list(found["plan"]["inits"]) == ["random", "more", "late", "late.shuffled"]
    assert len(found["trials"]) == 16
    ring = {one["init"]: one for one in found["ring"]["members"]}
    assert ring["more"]["samples"] == ring["late"]["samples"] == 80
    assert ring["more"]["in_steps"] > 0
    assert ring["more"]["around"] > 0
    assert ring["more"]["asked"] is None
    by_name = found["pretraining_seconds"]
    parts = [by_name[f"first.{p}"]["in_steps"] + by_name[f"late.{p}"]["in_steps"] for p in (0, 1)]
    assert ring["late"]["range"] == pytest.approx([min(parts), max(parts)])
    assert ring["random"]["samples"] is None
    by_name = {trial["name"]: trial for trial in found["trials"]}
    runs = [json.loads((out / by_name[f"full-more-1-{s}"]["run"] / "backbone" / "backbone.json").read_text())["source"]
            for s in range(4)]  # fmt: skip
    begun = [run["started_from"] for run in runs]
    assert begun[0] == begun[2] != begun[1] == begun[3]  # seed s goes on from pretraining s % 2
    own = {g["against"]: g for g in found["gains"] if g["init"] == "late"}
    assert set(own) == {"random", "late.shuffled"}
    assert own["random"]["pairs"] == 2
    (verdict,) = found["ring"]["verdicts"]
    assert {row["teacher"] for row in verdict["teachers"]} == {"more", "late"}
    page = Text((out / "report.html").read_text())
    assert "Which teacher pays" in page.text
    assert "80 samples for each teacher" in page.text


@pytest.mark.parametrize(("takes", "is_off"), [(0.05, False), (0.065, True)])
def test_seconds_asked_and_spent_stand_beside_each_other_and_a_gap_is_said(takes, is_off, tmp_path, monkeypatch):
    with_toys(monkeypatch)
    monkeypatch.setattr("vistruct.study.pace.compute_seconds", ticking(0.05))  # a step is one tick
    monkeypatch.setattr("vistruct.engine.train.compute_seconds", ticking(takes))
    teachers = {"more": {"recipe": "toy", "control": {"lr": 1e-6}}}
    study = Study(recipe="toy", teachers=teachers, budget={"seconds": 1.0}, seeds=2)
    found = run_study(study, tmp_path / "study", show=Heard(), workers=1, **TOYS)
    (one,) = [member for member in found["ring"]["members"] if member["init"] == "more"]
    assert one["asked"] == 1.0
    assert one["in_steps"] == pytest.approx(20 * takes)  # by the clock of the pace 20 steps fill a second
    said = [note for note in found["notes"] if "off those asked" in note]
    assert len(said) == is_off
    if is_off:
        assert "more 1.3 (1 asked), more.shuffled 1.3 (1 asked)" in said[0]
    page = Text((tmp_path / "study" / "report.html").read_text())
    assert "1 seconds of training steps for each teacher" in page.text
    assert ("off those asked" in page.text) == is_off


def test_all_teachers_of_a_repetition_begin_from_the_same_weights(toys):
    out, found = toys
    from safetensors.torch import load_file

    begun = [
        load_file(out / found["pretrained"][f"start.random.{p}"] / "backbone" / "backbone.safetensors") for p in (0, 1)
    ]
    assert any(not torch.equal(a, b) for a, b in zip(begun[0].values(), begun[1].values(), strict=True))
    for name in ("more.0", "first.0"):
        noted = json.loads((out / found["pretrained"][name] / "backbone" / "backbone.json").read_text())
        assert "start.random.0-" in noted["source"]["started_from"]
    still, before = (
        load_file(out / found["pretrained"][name] / "backbone" / "backbone.safetensors")
        for name in ("late.shuffled.0", "first.0")
    )
    for name, weights in still.items():  # at a rate of next to nothing next to nothing changes
        torch.testing.assert_close(weights, before[name], atol=1e-4, rtol=0)


def test_the_command_takes_teachers_by_recipe_with_their_options(tmp_path):
    found = with_teachers(
        ["masked", "plain=labels"],
        [f"masked.data={tmp_path}", "masked.model=small", "plain.control=shuffled", "plain.map-head=linear"],
        ["random", f"net={tmp_path}"],
        "samples=640",
        3,
    )
    study = Study.model_validate({"recipe": "detect", **found})
    assert study.teachers["masked"].options == {"data": [str(tmp_path)], "model": "small"}
    assert study.teachers["plain"].control == "shuffled"
    assert study.teachers["plain"].options == {"map_head": "linear"}
    assert study.starts["net"].options == {"backbone": str(tmp_path)}
    assert study.starts["random"].is_random
    assert study.budget == Budget(samples=640)
    assert study.pretrain_seeds == 3
    assert with_teachers([], [], [], None, None) == {}
    for words, options, what in (
        ([], ["a.b=c"], "there is none"),
        (["masked", "masked"], [], "two teachers"),
        (["maskd"], [], "did you mean"),
        (["masked"], ["maskd.data=x"], "no teacher 'maskd'"),
        (["masked"], ["masked.dat=x"], "has no option 'dat'"),
        (["masked"], ["masked"], "no option of a teacher"),
    ):
        with pytest.raises(UserError, match=what):
            with_teachers(words, options, [], None, None)


@pytest.fixture(scope="module")
def second(toys, tmp_path_factory) -> tuple[Path, dict]:
    """The toys' pretrainings on another task: they are classified now."""
    out = tmp_path_factory.mktemp("second") / "study"
    with pytest.MonkeyPatch.context() as patch:
        with_toys(patch)
        study = Study(recipe="toy", options={"metric": "classes"}, pretrained_by=toys[0], seeds=2)
        return out, run_study(study, out, show=Heard(), workers=1, **TOYS)


def chances_in(found: dict) -> list[float]:
    return [row["p"] for verdict in found["ring"]["verdicts"] for row in verdict["teachers"]]


def test_another_task_is_measured_on_the_same_pretrainings(toys, second):
    (first, before), (out, found) = toys, second
    assert found["metric"] == "val/AP"
    assert not (out / "pretrained").exists()
    for name, place in found["pretrained"].items():
        assert (out / place).resolve() == (first / before["pretrained"][name]).resolve()
    assert found["pretraining_seconds"] == before["pretraining_seconds"]
    assert [one["init"] for one in found["ring"]["members"]] == [one["init"] for one in before["ring"]["members"]]
    run = out / next(trial["run"] for trial in found["trials"] if trial["name"] == "full-more-1-1")
    begun = json.loads((run / "backbone" / "backbone.json").read_text())["source"]["started_from"]
    assert Path(begun).name == Path(before["pretrained"]["more.1"]).name
    assert read_study(out / "study.yaml").teachers == {}
    page = Text((out / "report.html").read_text())
    assert "which measured them by val/loss of toy: nothing was pretrained for this one" in page.text
    assert "and for 2 tests of the study before it" in page.text


def test_verdicts_are_corrected_for_the_chances_in_both_studies(toys, second):
    own, before = chances_in(second[1]), chances_in(toys[1])
    assert second[1]["pretrained_by"]["tests"] == before
    corrected = [row["p_holm"] for verdict in second[1]["ring"]["verdicts"] for row in verdict["teachers"]]
    p = np.array([*own, *before])
    by_rank = np.maximum.accumulate(np.minimum(1, np.sort(p) * np.arange(len(p), 0, -1)))  # Holm's definition
    assert corrected == pytest.approx(by_rank[p.argsort().argsort()][: len(own)].tolist())


def test_a_study_of_the_second_study_has_the_pretrainings_of_the_first(toys, second, monkeypatch):
    with_toys(monkeypatch)
    written = written_out(Study(recipe="toy", pretrained_by=second[0], seeds=2))
    assert written.study.pretrain == written_out(read_study(toys[0] / "study.yaml")).study.pretrain
    assert written.before.places["late.1"] == (toys[0] / toys[1]["pretrained"]["late.1"]).resolve()
    assert written.before.as_json(toys[0])["tests"] == [*chances_in(second[1]), *chances_in(toys[1])]


def test_pretrainings_that_are_not_there_or_have_changed_are_refused(toys, tmp_path, monkeypatch):
    with_toys(monkeypatch)

    def refused(folder: Path, what: str, **more) -> None:
        with pytest.raises(UserError, match=what):
            written_out(Study.model_validate({"recipe": "toy", "pretrained_by": folder, "seeds": 2, **more}))

    refused(tmp_path, "no study is here")
    refused(
        toys[0], "takes teachers, budget from the study of", teachers={"a": {"recipe": "toy"}}, budget={"samples": 8}
    )
    refused(toys[0], "2 pretrainings of each kind, and trials of 1 seeds", seeds=1)
    copy = tmp_path / "copy"
    shutil.copytree(toys[0], copy, ignore=shutil.ignore_patterns("runs", "jobs", "index"))
    written_out(Study(recipe="toy", pretrained_by=copy, seeds=2))  # as a whole it may be moved
    plan = (copy / "study.yaml").read_text()
    (copy / "study.yaml").write_text(plan.replace("samples: 80", "samples: 88"))
    refused(copy, "its study.yaml has changed since .budget, pretrain.: what is there")
    (copy / "study.yaml").write_text(plan)
    weights = copy / toys[1]["pretrained"]["more.1"] / "backbone" / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused(copy, "the pretraining 'more.1' is not there any more, or not as it was")
    (copy / "study.json").unlink()
    refused(copy, "has not ended")
    plain_study = tmp_path / "plain"
    plain_study.mkdir()
    (plain_study / "study.yaml").write_text(study_to_yaml(Study(recipe="toy", inits={"random": "random"})))
    (plain_study / "study.json").write_text("{}")
    refused(plain_study, "has pretrained nothing")


def test_the_command_names_the_study_that_pretrained(tmp_path):
    study = resolve("segment", None, ["--data", str(tmp_path)], {"pretrained_by": str(tmp_path)})
    assert (study.pretrained_by, study.inits) == (tmp_path, {})
    with pytest.raises(UserError, match="takes inits from"):
        written_out(study.model_copy(update={"inits": {"random": "random"}}))
