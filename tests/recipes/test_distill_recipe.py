"""Distillation as a whole run: what it leaves, what it does not, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks

from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.cli.dry_run import describe
from vistruct.config import AdamW, CacheMaps, Run, with_values
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import distill
from vistruct.recipes.small import small_vit
from vistruct.samples.made_classes import eurosat_folder
from vistruct.tasks.distill import LessonConfig


class Cut(Exception):
    pass


def cut(done: int, _metrics: dict[str, float]) -> None:
    if done == 3:
        raise Cut


def losses(run_dir: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = distill.tiny().model_copy(update={"save_every": 2})
    return run, train(run, tmp_path_factory.mktemp("distilled") / "whole")


def test_a_run_that_was_cut_off_ends_with_the_same_bits(done: tuple[Run, Path], tmp_path: Path) -> None:
    run, whole = done
    with pytest.raises(Cut):
        train(run, tmp_path / "cut", on_step=cut)
    train(run, tmp_path / "cut")
    files = [folder / "model" / "model.safetensors" for folder in (whole, tmp_path / "cut")]
    assert sha256(files[0]) == sha256(files[1])


def interrupt(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 3:
        raise UserError("interrupted")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = distill.tiny().model_copy(update={"amp": "off", "steps": 4, "save_every": 2, "evals": {}})
    out_dir = tmp_path_factory.mktemp("distilled_ranks") / "two"
    assert train_in_ranks(2, run, out_dir) == [0, 0]
    return run, out_dir


def test_two_ranks_take_the_steps_of_one(two: tuple[Run, Path], tmp_path: Path) -> None:
    run, out_dir = two
    train(run, tmp_path / "one")
    one, other = (read_tensors(path / "model" / "model.safetensors") for path in (tmp_path / "one", out_dir))
    assert one.keys() == other.keys() > {"lessons.0.standard.sums"}
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_two_ranks_that_was_cut_off_ends_with_the_same_bits(
    workers: int, two: tuple[Run, Path], tmp_path: Path
) -> None:
    run = two[0].model_copy(update={"workers": workers})
    assert train_in_ranks(2, run, tmp_path / "cut", interrupt) == [2, 2]
    assert train_in_ranks(2, run, tmp_path / "cut") == [0, 0]
    for name in ("backbone/backbone.safetensors", "model/model.safetensors"):
        assert sha256(two[1] / name) == sha256(tmp_path / "cut" / name)


def test_the_teacher_is_told_of_and_not_left(done: tuple[Run, Path]) -> None:
    run, whole = done
    task: Any = run.only.task
    file = task.lessons["made"].teacher.weights
    for saved in whole.rglob("*.safetensors"):
        assert not any("teacher" in name for name in read_tensors(saved)), saved
    assert (
        read_tensors(whole / "backbone" / "backbone.safetensors").keys()
        == small_vit(stem="conv").build().state_dict().keys()
    )
    card = (whole / "model" / "README.md").read_text()
    assert f"- Taught by: made, {file} (sha256 {sha256(file)}); licence: unknown: that of teacher.safetensors" in card
    assert "- Licence of the weights: unknown: that of teacher.safetensors holds" in card
    told = json.loads((whole / "backbone" / "backbone.json").read_text())
    assert told["source"]["taught_by"][0].startswith(f"made, {file}")
    assert "teacher made from" in (whole / "train.log").read_text()


def test_two_teachers_one_of_them_a_run(done: tuple[Run, Path], tmp_path: Path) -> None:
    run, whole = done
    task: Any = run.only.task
    ours = distill.teachers_of([str(whole)])["t_whole"]
    assert ours.backbone == task.backbone
    lessons = {**task.lessons, "whole": LessonConfig(teacher=ours, features="cosine", head="mlp")}
    both = with_values(run, task=task.model_copy(update={"lessons": lessons}), steps=2)
    assert "teacher whole from" in describe(both)
    train(both, tmp_path / "both")
    first, second = losses(tmp_path / "both")
    assert first["loss_features_whole"] == 0 < second["loss_features_whole"]
    assert second["loss"] == pytest.approx(sum(second[f"loss_{n}"] for n in (
        "features_made", "relations_made", "features_whole")))  # fmt: skip
    card = (tmp_path / "both" / "model" / "README.md").read_text()
    assert card.count("- Taught by:") == 2
    assert "unknown: that of teacher.safetensors holds" in card


def test_a_student_comes_to_see_what_its_teacher_sees(tmp_path: Path) -> None:
    run = with_values(distill.tiny(), batch=8, optim=AdamW(lr=3e-3), steps=24, amp="off")
    train(run.model_copy(update={"evals": {}}), tmp_path / "a")
    told = losses(tmp_path / "a")
    for first, name in ((1, "features_made"), (0, "relations_made")):  # features are learned from the second step on
        late = sum(line[f"loss_{name}"] for line in told[-5:]) / 5
        assert late < 0.5 * told[first][f"loss_{name}"], name


def kept(cache: Path | None) -> Run:
    """Whole images; of the student alone the colours change."""
    run = distill.tiny()
    told: dict[str, Any] = {"cache": None if cache is None else str(cache), "augment": False, "model": "small"}
    data: Any = run.only.data
    other = distill.recipe(data=data.paths, teacher=("a.safetensors",), steps=6, size=32, batch=4, **told)
    task: Any = run.only.task
    return with_values(other, task=task.model_copy(update={"colours": 0.4}), amp="off", log_every=1)


def test_an_image_goes_through_its_teacher_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(kept(None), tmp_path / "without")
    train(kept(tmp_path / "maps"), tmp_path / "first")
    assert " read, 10 computed" in (tmp_path / "first" / "train.log").read_text()  # of 10 images, in 24 places
    train(kept(tmp_path / "maps"), tmp_path / "again")
    log = (tmp_path / "again" / "train.log").read_text()
    assert "maps of teacher made for 10 images: about" in log
    assert " 0 computed" in log
    without, first, again = (losses(tmp_path / name) for name in ("without", "first", "again"))
    for one, other, third in zip(without, first, again, strict=True):
        assert other["loss"] == third["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_what_is_varied_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never come twice") as caught:
        distill.recipe(data=(eurosat_folder(),), teacher=("a",), cache=str(tmp_path))
    assert "--no-augment" in str(caught.value)
    run = distill.tiny().model_copy(update={"cache_maps": CacheMaps(folder=tmp_path / "maps")})
    with pytest.raises(UserError, match="never come twice"):
        train(run, tmp_path / "out")


def test_what_is_said_of_teachers(done: tuple[Run, Path], tmp_path: Path) -> None:
    _, whole = done
    said = distill.teachers_of(["vit_tiny_patch16_224.augreg_in21k=a.safetensors", f"{whole}/backbone", str(whole)])
    assert list(said) == ["t_vit_tiny_patch16_224_augreg_in21k", "t_whole", "t_whole_again1"]
    first = said["t_vit_tiny_patch16_224_augreg_in21k"]
    assert first.backbone == TimmConfig(name="vit_tiny_patch16_224.augreg_in21k")
    assert (first.weights, first.mean) == (Path("a.safetensors"), (0.5, 0.5, 0.5))
    run = distill.recipe(data=(eurosat_folder(),), teacher=("a.safetensors",), steps=10)
    assert (run.only.batch, run.optim.weight_decay) == (256, 0.04)
    assert run.optim.lr == pytest.approx(5e-4 / 6**0.5)


def test_a_model_that_was_left_can_be_asked_without_its_teacher(done: tuple[Run, Path]) -> None:
    import vistruct

    model = vistruct.load(str(done[1]))
    image = next(eurosat_folder().rglob("*.jpg"))
    found: Any = model.predict(image).prediction
    assert found.image.norm() == pytest.approx(1)
    assert torch.isfinite(found.image).all()
