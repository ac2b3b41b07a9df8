"""Maps of a frozen backbone kept on disk: the same training, fewer forward passes, and never another's maps."""

from __future__ import annotations

import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks
from test_shared_samples import two_heads_on_two_sets

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import CacheMaps, Lora, Run, Trainable, with_values
from vistruct.engine import kept_maps
from vistruct.engine.run import build
from vistruct.engine.train import loader_of, train
from vistruct.errors import UserError
from vistruct.recipes.visft import detect, segment
from vistruct.samples.made_scenes import coco_folder
from vistruct.tasks.joint import learned
from vistruct.transforms.augment import Augment

FROZEN = (Trainable(pattern="backbone", mode="frozen"),)


def plain(folder: Path | None, recipe: Any = detect, **changes: Any) -> Run:
    """The tiny run, but for its variation; two images of different sizes on one canvas."""
    scenes = coco_folder(("plane", "ship"), "annotations", "{split}", masks=True)
    told: dict[str, Any] = {
        "data": scenes / "annotations/train.json",
        "model": "eva_g",
        "backbone": scenes,
        "size": 70,
        "augment": False,
    }
    run = recipe.recipe(**told, cache=None if folder is None else str(folder), steps=6)
    tiny: Any = recipe.tiny().only.task
    task: Any = run.only.task
    task = task.model_copy(update={"backbone": tiny.backbone, "head": tiny.head})
    run = with_values(run, task=task, batch=2, workers=0, log_every=1, amp="off")
    return run.model_copy(update={"init": None, **changes})


def weights_of(run: Run, place: Path, **more: Any) -> dict[str, torch.Tensor]:
    return read_tensors(train(run, place, **more) / "model" / "model.safetensors")


def calls_of(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[int]:
    """Images of each forward pass of the backbone, in all that follows."""
    seen: list[int] = []
    own = type(build_backbone(run))
    forward = own.forward

    def counted(self: Any, image: torch.Tensor) -> list[torch.Tensor]:
        seen.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(own, "forward", counted)
    return seen


def build_backbone(run: Run) -> Any:
    task: Any = run.only.task
    return task.backbone.build()


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if atol == 0 else torch.allclose(value, theirs[name], atol=atol), name


@pytest.mark.parametrize("recipe", [detect, segment])
def test_an_image_goes_through_the_backbone_once_and_the_head_learns_the_same(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = weights_of(plain(None, recipe), tmp_path / "without")
    run = plain(tmp_path / "maps", recipe)
    seen = calls_of(monkeypatch, run)
    first = weights_of(run, tmp_path / "first")
    assert seen[:2] == [1, 1]  # two images, six steps of two
    last = seen[2:]  # what is shipped is looked at, too
    again = weights_of(run, tmp_path / "again")
    assert seen == [1, 1, *last, *last]
    assert_same(first, again)
    assert_same(first, without, atol=1e-4)
    assert "maps of the backbone: 13 read, 0 computed" in (tmp_path / "again" / "train.log").read_text()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_run_that_goes_on_is_the_same_run(is_kept: bool, tmp_path: Path) -> None:
    straight = weights_of(plain(tmp_path / "a" if is_kept else None), tmp_path / "straight")

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run = plain(tmp_path / "b" if is_kept else None)
    with pytest.raises(SystemExit):
        train(run, tmp_path / "stopped", on_step=stop)
    shutil.rmtree(tmp_path / "b", ignore_errors=True)  # also where nothing is left of what was kept
    assert_same(weights_of(run, tmp_path / "stopped"), straight)


def test_a_frozen_backbone_makes_no_graph(tmp_path: Path) -> None:
    state = build(plain(tmp_path / "maps"), tmp_path / "out")
    task: Any = state.model
    image = torch.zeros(1, 3, 70, 70)
    assert all(level.grad_fn is None and not level.requires_grad for level in task.backbone(image))
    assert not task.backbone.training
    assert task.head.training


def test_a_damaged_file_is_computed_again_and_said(tmp_path: Path) -> None:
    run = plain(tmp_path / "maps")
    first = weights_of(run, tmp_path / "first")
    files = sorted((tmp_path / "maps").rglob("*.safetensors"))
    assert len(files) == 2
    content = bytearray(files[0].read_bytes())
    content[-5] ^= 16  # one bit, in the tensors
    files[0].write_bytes(content)
    files[1].write_bytes(files[1].read_bytes()[:100])
    assert_same(weights_of(run, tmp_path / "second"), first)
    assert "2 x kept maps were damaged, and computed again" in (tmp_path / "second" / "train.log").read_text()
    assert_same(weights_of(run, tmp_path / "third"), first)
    assert "were damaged" not in (tmp_path / "third" / "train.log").read_text()


def test_other_weights_other_settings_and_other_pixels_have_other_maps(tmp_path: Path) -> None:
    run = plain(tmp_path / "maps")
    folders = set()
    task: Any = run.only.task
    other = task.model_copy(update={"backbone": task.backbone.model_copy(update={"margin": "crop"})})
    shades = task.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    kept: Any = run.cache_maps
    as_bf16 = kept.model_copy(update={"dtype": "bf16"})
    for number, one in enumerate(
        (
            run,
            run.model_copy(update={"seed": 1}),
            with_values(run, task=other),
            run.model_copy(update={"cache_maps": as_bf16}),
            run.model_copy(update={"amp": "bf16"}),
        )
    ):
        state = build(one, tmp_path / f"out{number}")
        assert state.maps is not None
        folders.add(state.maps.folder)
    assert len(folders) == 5
    image = torch.zeros(3, 4, 4)
    assert kept_maps.name_of(image) != kept_maps.name_of(torch.zeros(3, 2, 8))
    train(run, tmp_path / "a")
    state = build(with_values(run, task=shades), tmp_path / "c")
    assert state.maps is not None
    assert state.maps.folder.is_dir()  # the same backbone
    before = len(list(state.maps.folder.rglob("*.safetensors")))
    train(with_values(run, task=shades), tmp_path / "b")
    assert len(list(state.maps.folder.rglob("*.safetensors"))) == 2 * before


@pytest.mark.parametrize("dtype", ["bf16", "float32"])
def test_maps_are_given_as_they_are_kept(dtype: Any, tmp_path: Path) -> None:
    run = plain(None).model_copy(update={"cache_maps": CacheMaps(folder=tmp_path / "maps", dtype=dtype)})
    state = build(run, tmp_path / "out")
    assert state.maps is not None
    image = torch.rand(2, 3, 70, 70)
    computed, read = state.maps(image), state.maps(image)
    for one, other in zip(computed, read, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)
    task: Any = state.model
    exact = task.backbone(image)[0]
    assert (computed[0] - exact).abs().max() <= (1e-5 if dtype == "float32" else exact.abs().max() / 128)


def test_several_tasks_read_the_maps_of_one_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one_pass in (False, True):
        run = two_heads_on_two_sets(trainable=FROZEN, one_pass=one_pass)
        without = build(run, tmp_path / "out")
        kept = build(run.model_copy(update={"cache_maps": CacheMaps(folder=tmp_path / "maps")}), tmp_path / "out")
        torch.manual_seed(0)
        for batch in next(iter(loader_of(without))):
            torch.manual_seed(1)
            ours = learned(kept.model, batch, kept.maps).terms
            torch.manual_seed(1)
            theirs = learned(without.model, batch).terms
            assert ours.keys() == theirs.keys()
            for name, term in ours.items():
                assert torch.allclose(term, theirs[name], rtol=1e-3, atol=1e-3), name


def test_what_would_make_maps_untrue_is_refused(tmp_path: Path) -> None:
    run = plain(tmp_path / "maps")
    data: Any = run.only.data
    cases = [
        (with_values(run, data=data.model_copy(update={"augment": Augment(hflip=True)})), "varied at random"),
        (run.model_copy(update={"trainable": ()}), "the backbone trains"),
        (
            run.model_copy(
                update={
                    "trainable": (
                        *FROZEN,
                        Trainable(pattern="backbone.blocks", mode="lora", lora=Lora(parts=("q", "v"))),
                    )
                }
            ),
            "the backbone trains",
        ),
    ]
    for one, said in cases:
        with pytest.raises(UserError, match=said):
            build(one, tmp_path / "out")
    with pytest.raises(UserError, match="never come twice") as caught:
        detect.recipe(data=Path(), model="eva_g", backbone=Path(), cache="maps")
    assert "--no-augment" in caught.value.fix


def test_room_is_said_before_and_a_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = namedtuple("Free", "total used free")
    monkeypatch.setattr(kept_maps.shutil, "disk_usage", lambda _: free(10, 10, 100))
    with pytest.raises(UserError, match=r"more, and 0\.0 MB are free") as caught:
        train(plain(tmp_path / "maps"), tmp_path / "a")
    assert "--set cache_maps.limit_gb=" in caught.value.fix
    monkeypatch.undo()
    run = plain(tmp_path / "other")
    limit = 5e-6  # 32 x 5 x 5 numbers of four bytes are 3.2 kB: one image
    small = run.model_copy(update={"cache_maps": CacheMaps(folder=tmp_path / "other", limit_gb=limit)})
    assert_same(weights_of(small, tmp_path / "b"), weights_of(run, tmp_path / "c"))
    log = (tmp_path / "b" / "train.log").read_text()
    assert "maps of the backbone for 2 images: about 0.0 MB" in log
    assert "is reached: the other images are computed each time" in log
    assert len(list((tmp_path / "other").rglob("*.safetensors"))) == 2


def test_a_full_disk_is_said_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_maps, "save_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(plain(tmp_path / "maps"), tmp_path / "a")


def test_two_ranks_share_a_folder_and_learn_as_one(tmp_path: Path) -> None:
    task: Any = plain(None).only.task  # whose dropout would be drawn otherwise on each rank
    still = task.model_copy(update={"head": task.head.model_copy(update={"dropout": 0.0})})
    run = with_values(plain(tmp_path / "maps", steps=3), task=still)
    alone = weights_of(run, tmp_path / "alone")
    shutil.rmtree(tmp_path / "maps")
    assert train_in_ranks(2, run, tmp_path / "two") == [0, 0]
    both = read_tensors(tmp_path / "two" / "model" / "model.safetensors")
    assert_same(both, alone, atol=1e-5)
    assert len(list((tmp_path / "maps").rglob("*.safetensors"))) == 2
    assert not list((tmp_path / "maps").rglob("*.tmp"))
