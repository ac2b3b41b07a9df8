"""Heads of several runs, frozen, adapt the backbone that they share."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from several_processes import samples_by_step, train_in_ranks

from vistruct.checkpoint.adapters import read_adapters
from vistruct.checkpoint.load import load_model
from vistruct.config import Run, run_from_dict, with_values
from vistruct.data.loading.streams import streams_of
from vistruct.data.reading import Named
from vistruct.engine.run import build
from vistruct.errors import UserError
from vistruct.recipes import detect, segment
from vistruct.recipes.small import small_vit
from vistruct.recipes.visft import joint
from vistruct.runs import train_and_report
from vistruct.samples import trees
from vistruct.settings import with_settings
from vistruct.study.pretraining import pretraining_jobs
from vistruct.study.study import Pretraining, Study


def over(run: Run, backbone: Path | None) -> Run:
    """One step of a head on a small frozen ViT."""
    task = run.only.task
    task = task.model_copy(update={"backbone": small_vit(stem="conv")})
    frozen = () if backbone is None else ({"pattern": "backbone", "mode": "frozen"},)
    told = dict(with_values(run, task=task)) | {"init": backbone, "trainable": frozen, "steps": 2, "save_every": 2}
    return Run.model_validate(told)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("heads")
    train_and_report(over(detect.tiny(), None), out / "base")
    for name, run in (("boxes", detect.tiny()), ("fields", segment.tiny())):
        train_and_report(over(run, out / "base"), out / name)
    return {name: out / name for name in ("boxes", "fields", "base")}


def recipe(heads: dict[str, Path], *names: str, **options) -> Run:
    start = tuple(Named(f"{name}={heads[name]}") for name in names or ("boxes", "fields"))
    return joint.recipe(start=start, **{"steps": 6, "lr": 1e-2, "rank": 2, **options})


def test_data_and_evaluations_of_the_runs_come_along(heads):
    run = recipe(heads, weight=(Named("boxes=3"),), batch=(Named("fields=2"),), loss=(Named("fields=0.5"),))
    assert {name: one.weight for name, one in run.streams.items()} == {"boxes": 3.0, "fields": 1.0}
    assert run.streams["fields"].batch == 2
    assert run.streams["fields"].loss_weights == {"*": 0.5}
    assert run.draw == "one"
    assert {name: one.task for name, one in run.evals.items()} == {"boxes": "boxes", "fields": "fields"}
    assert run.clip_norm == 0.1
    published = joint.recipe(start=(Named(f"detect={heads['boxes']}"), Named(f"caption={heads['fields']}")))
    assert [one.weight for one in published.streams.values()] == [0.3, 0.4]
    assert (published.steps, published.optim.lr, published.schedule.warmup_steps) == (100_000, 1e-5, 2000)
    assert published.trainable[1].lora.factor == 1 / 64


def test_adapters_alone_move_and_every_head_has_its_share(heads, tmp_path):
    run = recipe(heads).model_copy(update={"log_every": 1})
    before, _ = load_model(heads["boxes"])
    train_and_report(run, tmp_path / "run")
    after, _ = load_model(tmp_path / "run", task="boxes")
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed
    assert all(name.startswith("backbone.") and name.endswith("qkv.weight") for name in changed)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    drawn = [streams_of(run, step)[0] for step in range(run.steps)]
    assert set(drawn) == {"boxes", "fields"}
    assert [next(iter(key.partition(".")[0] for key in line if key.endswith(".loss"))) for line in lines[:6]] == drawn
    assert read_adapters(tmp_path / "run")


def test_frozen_heads_are_in_eval_mode_unless_as_published(heads, tmp_path):
    for dropout in (False, True):
        state = build(recipe(heads, head_dropout=dropout), tmp_path / f"{dropout}")
        assert {source.task.head.training for source in state.sources.values()} == {dropout}


def test_starts_over_different_backbones_are_refused(heads, tmp_path):
    moved = over(segment.tiny(), heads["base"]).model_copy(update={"trainable": ()})
    train_and_report(moved, tmp_path / "moved")
    with pytest.raises(UserError, match="start from different weights"):
        build(recipe(heads | {"fields": tmp_path / "moved"}), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"weight": (Named("boxez=3"),)}, "no task 'boxez'"),
        ({"data": (Named("boxez=/"),)}, "no task 'boxez'"),
        ({"option": (Named("boxes.size=3"),)}, "no task 'boxes' with a recipe"),
        ({"batch": (Named("boxes=none"),)}, "--batch boxes"),
        ({"model": "eva_g"}, "runs bring their backbone along"),
        ({"backbone": Path("base")}, "runs bring their backbone along"),
        ({"rank": 0}, "greater than 0"),
    ],
)
def test_what_is_said_of_no_task_is_refused(heads, options, what):
    with pytest.raises((UserError, ValidationError), match=what):
        recipe(heads, **options)


def test_a_run_that_measured_nothing_says_so_where_it_is_to_measure(heads, tmp_path):
    shutil.copytree(heads["boxes"], tmp_path / "boxes")
    card = tmp_path / "boxes" / "model" / "model.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"run": values["run"] | {"evals": {}}}))
    with pytest.raises(UserError, match="measures nothing"):
        recipe({"boxes": tmp_path / "boxes"}, "boxes", val=(Named(f"boxes={tmp_path}"),))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ((), "no task to start from"),
        (("boxes",), "--start boxes"),
        (("Boxes=/",), "--start Boxes"),
        (("detect=pyproject.toml",), "released heads come without data"),
        (("boxes=pyproject.toml",), "heads were released for"),
    ],
)
def test_starts_that_are_none(start, what):
    with pytest.raises(UserError, match=what):
        joint.recipe(start=tuple(map(Named, start)))


def test_a_study_joins_runs_that_it_trains_itself(heads, tmp_path):
    scenes = {"data": str(trees().train), "fraction": 0.1, "size": 256, "overlap": 64, "batch": 2, "steps": 2}
    small = f"task={{kind: detect, backbone: {json.dumps(small_vit(stem='conv').model_dump())}, head: {{kind: fcos}}}}"
    pretrain = {
        "base": Pretraining(recipe="detect", options=scenes, settings=(small,)),
        "boxes": Pretraining(recipe="detect", options=scenes, settings=(small,), backbone="base"),
        "adapted": Pretraining(
            recipe="visft.joint",
            options={"steps": 3, "weight": ["boxes=1"]},
            settings=("streams.boxes.shuffled=true",),
            start={"boxes": "boxes"},
        ),
    }
    study = Study(
        recipe="detect", options=scenes | {"val": str(trees().test)}, pretrain=pretrain, inits={"a": "adapted"}
    )
    jobs, places = pretraining_jobs(study, tmp_path)
    base, boxes, adapted = (run_from_dict(job.arguments["run"]) for job in jobs)
    assert jobs[2].needs == ("pretrain-boxes",)
    assert boxes.init == places["base"]
    assert boxes.only.task.backbone == base.only.task.backbone
    assert adapted.only.start == places["boxes"]
    assert adapted.only.data == boxes.only.data
    assert adapted.only.shuffled
    plain = pretrain | {"adapted": Pretraining(recipe="labels", options={}, start={"boxes": "boxes"})}
    with pytest.raises(UserError, match="not from one for each task"):
        pretraining_jobs(study.model_copy(update={"pretrain": plain}), tmp_path)
    late = {"adapted": pretrain["adapted"], "boxes": pretrain["boxes"]}
    with pytest.raises(UserError, match="no earlier pretraining"):
        Study.model_validate(study.model_dump() | {"pretrain": late})


def three_heads(batch: int = 2) -> Run:
    """DETR, Mask2Former and the LSTM over one small ViT, with few points and queries."""
    settings = ["streams.segment.task.head.loss.points=64", "streams.segment.task.head.layers.queries=8"]
    settings += [f"streams.{name}.batch={batch}" for name in joint.TASKS] + ["amp=off"]
    run = with_settings(joint.tiny(), [*settings, "evals={}", "save_every=2", "save_async=false"])
    return run.model_copy(update={"draw": "one", "steps": 7, "snapshots": (5,)})


def die_once(out_dir: Path, _rank: int, step: int, _metrics: dict[str, float]) -> None:
    if step == 5 and not (out_dir.parent / "died").exists():
        (out_dir.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_stage_two_ends_with_the_same_bits_and_two_ranks_go_the_same_way(tmp_path):
    run = three_heads()
    assert {streams_of(run, step)[0] for step in range(run.steps)} == set(joint.TASKS)
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [-signal.SIGKILL]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [0]
    assert train_in_ranks(2, run, tmp_path / "two") == [0, 0]
    seen = [samples_by_step(tmp_path / name, ranks) for name, ranks in (("whole", 1), ("cut", 1), ("two", 2))]
    assert seen[0] == seen[1]
    assert [sorted(ids) for ids in seen[0].values()] == [sorted(ids) for ids in seen[2].values()]
    for place in ("", "adapters/step_000005"):
        whole, cut, two = (read_adapters(tmp_path / name / place).layers for name in ("whole", "cut", "two"))
        for name, one in whole.items():
            assert one.equals(cut[name])
            torch.testing.assert_close(two[name].delta(), one.delta(), rtol=1e-3, atol=1e-6)
