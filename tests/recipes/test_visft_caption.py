"""ViSFT's first stage for captions: published settings, a released head with its words, kept maps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.backbones.eva_vit import EVA02_E
from vistruct.config import AdamW, CacheMaps, Trainable, read_run, run_to_yaml
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.heads.show_attend_tell import ShowAttendTellConfig
from vistruct.recipes.visft import caption
from vistruct.reports.measured import by_group, read_evaluations
from vistruct.samples.made_captions import karpathy_file
from vistruct.transforms.sizing import Size


def test_published_settings(tmp_path: Path) -> None:
    run = caption.recipe(data=karpathy_file(), split="train+restval", model="eva02_e", backbone=karpathy_file())
    assert run.optim == AdamW(lr=4e-4, weight_decay=1e-4, betas=(0.9, 0.999), eps=1e-8)
    assert (run.steps, run.only.batch, run.clip_norm, run.save_every) == (100_000, 256, 0.1, 1000)
    assert (run.schedule.shape, run.schedule.warmup_steps, run.schedule.final) == ("cosine", 2000, 0.0)
    assert run.trainable == (Trainable(pattern="backbone", mode="frozen"),)
    task: Any = run.only.task
    data: Any = run.only.data
    assert (task.backbone, task.head, task.least_count, task.longest) == (EVA02_E, ShowAttendTellConfig(), 6, 50)
    assert (task.head.attention, task.head.embed, task.head.hidden, task.head.dropout) == (384, 384, 384, 0.5)
    assert (data.resize, data.augment) == (Size(height=256, width=256, keep_aspect=False), None)
    (tmp_path / "run.yaml").write_text(run_to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


def test_a_released_head_needs_its_words(tmp_path: Path) -> None:
    (tmp_path / "heads.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="no file of its own") as caught:
        caption.recipe(data=karpathy_file(), start=tmp_path / "heads.ckpt", model="eva_g")
    assert "--words" in caught.value.fix


def test_the_tiny_twin_trains_with_kept_maps_and_only_its_head_moves(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tiny = caption.tiny()
    plain = train(tiny, tmp_path / "plain")
    lines = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(lines[-1]["val/CIDEr-D"])
    (measured,) = read_evaluations(plain)
    assert "CIDEr-D_constant" in measured.numbers
    assert not by_group(measured.numbers)  # no figure is one of a class
    assert {"loss_words", "loss_attention"} <= {name for line in lines for name in line}
    maps = CacheMaps(folder=tmp_path / "maps", limit_gb=1.0)
    again = tiny.model_copy(update={"cache_maps": maps, "evals": {}})
    kept = train(again, tmp_path / "kept")
    assert list((tmp_path / "maps").rglob("*.safetensors"))
    assert (kept / "model" / "words.json").is_file()
