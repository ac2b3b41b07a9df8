"""MTP's pretraining: any tasks on any number of data sets, the same step however it is split, published settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks

from vistruct.checkpoint.tensors import read_tensors
from vistruct.cli.main import main
from vistruct.config import AdamW, Run, read_run, run_to_yaml, with_values
from vistruct.contracts import IGNORED, Sample
from vistruct.data.formats.boxes.published import DIOR_R, SOTA
from vistruct.data.reading import Named
from vistruct.engine.introduce import introduce
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of, train
from vistruct.errors import UserError
from vistruct.recipes.mtp import dior_r, pretrain
from vistruct.samples.made_scenes import coco_folder
from vistruct.transforms.crop import stretched


def given(**places: Any) -> tuple[Named, ...]:
    return tuple(Named(f"{name}={path}") for name, path in places.items())


@pytest.fixture(scope="module")
def sets() -> dict[str, Path]:
    names = {"near": ("plane", "ship"), "far": ("ship", "bridge", "dam")}
    return {name: coco_folder(own, "", "images", masks=True) / "train.json" for name, own in names.items()}


def test_published_settings(sets: dict[str, Path]) -> None:
    for model, lr, decay, size, drop_path in (
        ("rvsa_b", 6e-5, 0.9, 224, 0.1),
        ("rvsa_l", 6e-5, 0.9, 448, 0.1),
        ("intern_xl", 2e-5, 0.94, 448, 0.2),
    ):
        run = pretrain.recipe(data=given(**sets), model=model)
        assert run.optim == AdamW(lr=lr, weight_decay=0.05, layer_decay=decay)
        assert (run.steps, run.clip_norm, run.schedule.shape, run.schedule.warmup_steps) == (80_000, 5.0, "cosine", 0)
        task: Any = run.streams["near_ss"].task
        assert task.backbone.drop_path == drop_path
        assert task.head.channels == 256
        augment: Any = run.streams["near_ss"].data.augment
        assert augment.crop == augment.fit == (size, size)
        published = pretrain.recipe(data=given(**sets), model=model, as_published=True)
        assert published.optim.layer_decay == (0.94 if model == "intern_xl" else 1.0)
        assert published.amp == "off"
        assert published.streams["near_ss"].data.augment.stretch_labels


def test_any_tasks_on_any_data_sets(sets: dict[str, Path], tmp_path: Path) -> None:
    run = pretrain.recipe(data=given(**sets), tasks=("rd", "ss"), batch=5, weight=given(rd=2))
    assert list(run.streams) == ["near_ss", "near_rd", "far_ss", "far_rd"]
    assert [(one.samples, one.trunk) for one in run.streams.values()] == [
        ("", ""),
        ("near_ss", ""),
        ("", "near_ss"),
        ("far_ss", "near_rd"),
    ]
    assert [one.batch for one in run.streams.values()] == [3, 3, 2, 2]
    assert [one.weight for one in run.streams.values()] == [1, 2, 1, 2]
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run
    alone = pretrain.recipe(data=given(near=sets["near"]), tasks=("is",))
    assert list(alone.streams) == ["near_is"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"data": ("near",)}, "no data set with a name"),
        ({"data": ("1a=x",)}, "a data set called '1a'"),
        ({"size": 0}, "crops of 0 pixels"),
        ({"data": ("near=/nowhere/a.json",)}, "nowhere"),
        ({"val": given(other="HERE")}, "no data set 'other'"),
        ({"batch": 1}, "1 images in a step, of 2 data sets"),
        ({"weight": given(cd=1)}, "no task 'cd'"),
        ({"weight": (*given(ss=1), *given(ss=2))}, "two weights of 'ss'"),
        ({"weight": given(rd=1), "tasks": ("ss",)}, "no task 'rd' is learned"),
        ({"tasks": ()}, "no task to learn"),
    ],
)
def test_what_cannot_be_is_said(sets: dict[str, Path], told: dict[str, Any], words: str) -> None:
    told = {
        k: tuple(str(one).replace("HERE", str(sets["near"])) for one in v) if k == "val" else v for k, v in told.items()
    }
    with pytest.raises(UserError, match=words):
        pretrain.recipe(**{"data": given(**sets)} | told)


def test_batches_go_by_the_numbers_of_images_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Data(list):
        def build(self) -> list:
            return self

    train: Any = {"small": Data([0]), "large": Data([0] * 100), "middle": Data([0] * 50)}
    assert pretrain._shares(train, 32, "ratio") == {"small": 2, "large": 19, "middle": 11}
    assert pretrain._shares(train, 32, "avg") == {"small": 11, "large": 11, "middle": 10}
    assert pretrain._shares(train, 3, "ratio") == {"small": 1, "large": 1, "middle": 1}


def calm(run: Run, **changes: Any) -> Run:
    """Nothing of it depends on how a step is split: no dropout, no varied images, norms of one image each."""
    streams = {}
    for name, stream in run.streams.items():
        task: Any = stream.task
        data: Any = stream.data
        backbone = task.backbone.model_copy(update={"drop_path": 0.0})
        head = task.head
        if name.endswith("_ss"):
            head = head.model_copy(update={"norm": "group", "dropout": 0.0})
        resize = data.augment.fit
        data = data.model_copy(update={"augment": None, "resize": pretrain.Size(height=resize[0], width=resize[1])})
        told = {"task": task.model_copy(update={"backbone": backbone, "head": head}), "data": data}
        streams[name] = stream.model_copy(update=told)
    return run.model_copy(update={"streams": streams, "evals": {}, "amp": "off", "clip_norm": None, **changes})


def gradients(run: Run, out: Path) -> dict[str, torch.Tensor]:
    state = build(run, out)
    train_step(state, next(iter(loader_of(state))))
    return {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}


def test_a_step_of_three_tasks_on_two_sets_is_the_same_however_it_is_split(tmp_path: Path) -> None:
    run = calm(pretrain.tiny())
    whole = gradients(run, tmp_path)
    assert sum(name.startswith("backbone.") for name in whole) > 40
    total = torch.stack([g.norm() for g in whole.values()]).norm()
    for changes in ({"accumulate": 2}, {"one_pass": False}):
        split = gradients(run.model_copy(update=changes), tmp_path)
        assert whole.keys() == split.keys()
        assert torch.stack([(split[name] - g).norm() for name, g in whole.items()]).norm() < 1e-5 * total, changes


def test_what_is_read_once_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    introduce(build(pretrain.tiny(), tmp_path), said.append)
    assert sum("order of SOTA's label ids" in line for line in said) == 2  # of training, and of what is measured
    assert sum(line.startswith("evaluation ") for line in said) == 6


def test_two_ranks_take_the_same_steps_as_one(tmp_path: Path) -> None:
    run = calm(pretrain.tiny(), steps=2)
    for world in (1, 2):
        assert train_in_ranks(world, run, tmp_path / str(world)) == [0] * world
    for name in run.streams:
        one, two = (read_tensors(tmp_path / str(n) / "model" / name / "model.safetensors") for n in (1, 2))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=2e-5)


def test_fine_tuning_begins_with_the_decoder_of_pretraining(tmp_path: Path) -> None:
    run = pretrain.tiny()
    out = train(run.model_copy(update={"evals": {}, "steps": 1, "one_pass": True}), tmp_path / "pre")
    # Of its 18 classes and DIOR's 20 some have one name; all layers but the last are those of pretraining.
    small = dior_r.tiny()
    again = dior_r.recipe(data=small.only.data.annotation, start=out / "model" / "sota_rd", split="train+val", size=96)
    task: Any = again.only.task.model_copy(update={"backbone": small.only.task.backbone})
    state = build(with_values(again, task=task, workers=0), tmp_path / "fine")
    there = read_tensors(out / "model" / "sota_rd" / "model.safetensors")
    here = state.model.state_dict()
    shared = [key for key in here if key.startswith(("neck.", "head.rpn.", "head.roi.layers.", "backbone.blocks.1."))]
    assert len(shared) > 30
    assert all(torch.equal(here[key], there[key]) for key in shared)
    logits = "head.roi.logits.weight"
    assert torch.equal(here[logits][DIOR_R.index("bridge")], there[logits][SOTA.index("bridge")])
    assert "classes" in "\n".join(state.only.coverage.lines() if state.only.coverage else [])


def die_once(out_dir: Path, _rank: int, step: int, _metrics: dict[str, float]) -> None:
    if step == 3 and out_dir.name == "cut" and not (out_dir.parent / "died").exists():
        (out_dir.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_in_the_middle_changes_no_bit(tmp_path: Path) -> None:
    run = pretrain.tiny().model_copy(update={"evals": {}, "save_every": 2, "save_async": False})
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [-signal.SIGKILL]
    assert train_in_ranks(1, run, tmp_path / "cut", die_once) == [0]
    assert "resuming from step 2" in (tmp_path / "cut" / "train.log").read_text()
    for name in run.streams:
        one, two = (read_tensors(tmp_path / part / "model" / name / "model.safetensors") for part in ("whole", "cut"))
        assert all(torch.equal(one[key], two[key]) for key in one.keys() | two.keys()), name


def test_labels_are_stretched_over_the_margin_only_where_asked() -> None:
    label_map = torch.arange(40 * 33).reshape(40, 33).to(torch.int16)
    wide = stretched(label_map, (128, 128))
    assert wide.shape == (128, 128)
    assert torch.equal(wide[::2, ::2][:40, :33], label_map)  # 40 x 33 padded to 64 x 64, twice as large
    assert (wide[80:] == IGNORED).all()
    sample = Sample(id="a", image_id="a", seed=3, images=[torch.zeros(3, 64, 64, dtype=torch.uint8)])
    sample.label_map = torch.ones(64, 64, dtype=torch.int16)
    shares = {}
    for stretch in (False, True):
        augment = pretrain.augment(64, stretch=stretch).model_copy(update={"scale": (0.5, 0.5), "distort": None})
        label_map = augment(sample).label_map
        assert label_map is not None
        shares[stretch] = float((label_map == 1).float().mean())
    assert shares == {False: 0.25, True: 1.0}


def test_from_the_command_line(sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "mtp.pretrain", "--data", f"near={sets['near']}", "--tasks", "is,rd", "--size", "64"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "run"), "--dry-run", "--batch", "2"])
    assert not ended.value.code
    assert "near_rd" in capsys.readouterr().out
