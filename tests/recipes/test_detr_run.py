"""A detector with DETR as a run: cut off and resumed, its batches split, asked for an image larger than its windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Run, with_values
from vistruct.engine.train import train
from vistruct.files.images import read_image
from vistruct.heads.detr import DetrConfig
from vistruct.inference.model import load
from vistruct.recipes.detect import made_tiny, recipe
from vistruct.samples import trees


class Interrupted(Exception):
    """In place of a signal."""


def detr_run(dropout: float = 0.1) -> Run:
    run = recipe(data=trees().train, head="detr", steps=4, size=128, overlap=32, batch=4, fraction=0.05, channels=16)
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "hidden": 16, "queries": 10, "dropout": dropout}
    head = run.only.task.head.model_copy(update={"heads": 2, "score_threshold": 0.0, **sizes})
    tiny = made_tiny(run, head=head)
    task: Any = tiny.only.task.model_copy(update={"neck": None})
    return with_values(tiny, task=task, save_every=2, batch=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detr") / "run"
    train(detr_run(), out)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_recipe_takes_the_backbones_own_map_and_its_channels() -> None:
    task: Any = recipe(data=trees().train, head="detr", channels=64).only.task
    assert task.neck is None
    assert (task.head.encoder_width, task.head.decoder_width) == (64, 64)
    assert recipe(data=trees().train, head="detr").only.task.head == DetrConfig()


def test_a_run_that_was_cut_off_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    def cut(step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(detr_run(), tmp_path / "cut", on_step=cut)
    train(detr_run(), tmp_path / "cut")
    again, once = weights(tmp_path / "cut"), weights(whole)
    assert all(torch.equal(again[name], once[name]) for name in once)
    assert losses(tmp_path / "cut") == losses(whole)


def test_a_batch_in_two_parts_takes_the_same_steps(tmp_path: Path) -> None:
    run = with_values(detr_run(dropout=0.0), amp="off", steps=2)
    train(run, tmp_path / "one")
    train(with_values(run, accumulate=2), tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_large_image_is_asked_in_windows_and_a_start_keeps_the_head(whole: Path) -> None:
    image = read_image(trees().test.with_suffix(".jpg"))[:, :200, :260]
    found = load(whole).predict(image).prediction
    assert len(found.objects) > 0
    assert found.objects.boxes_xyxy[:, 2].max() > 128
    started: Any = recipe(data=trees().train, start=whole).only.task
    trained: Any = detr_run().only.task
    assert (started.head, started.neck) == (trained.head, None)
    assert recipe(data=trees().train, start=whole, head="fcos").only.task.neck is not None
