"""Reading text on a frozen backbone: settings, the tiny twin, and other data of the same kind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vistruct.cli.main import main
from vistruct.config import Trainable
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.metrics.texts import TextConfig
from vistruct.recipes import ocr
from vistruct.recipes.fit import Fit
from vistruct.samples.made_words import words_folder
from vistruct.transforms.sizing import Size


def test_settings_and_the_backbone_that_is_needed() -> None:
    words = words_folder()
    run = ocr.recipe(data=words / "train", val=words / "test", model="eva_g", backbone=words)
    task: Any = run.only.task
    data: Any = run.only.data
    assert (task.units, task.longest, task.beams) == ("characters", 25, 1)
    assert (data.resize, data.augment) == (Size(height=112, width=448, keep_aspect=False), None)
    assert run.evals["val"].metric == TextConfig()
    assert run.trainable == (Trainable(pattern="backbone", mode="frozen"),)
    assert ocr.recipe(data=words / "train", model="eva_g", backbone=words, fit=Fit(tune="full")).trainable == ()
    with pytest.raises(UserError, match="none is named"):
        ocr.recipe(data=words / "train")


def test_the_tiny_twin_spells_and_measures_other_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    out = train(ocr.tiny(), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(lines[-1]["val/CER"])
    assert {"O", "2", "<unk>"} <= json.loads((out / "model" / "words.json").read_text()).keys()
    words = words_folder()
    pairs = words / "test" / "gt.txt"
    other = tmp_path / "pairs.txt"  # of names and words, which would be classes to others
    rows = [line.split(", ") for line in pairs.read_text().splitlines()]
    other.write_text("".join(f"{name} {text.strip(chr(34))}\n" for name, text in rows))
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(out), "--data", str(other), "--images", str(words / "test"), "--json"])
    assert not stopped.value.code
    (found,) = json.loads(capsys.readouterr().out)["evaluations"].values()
    assert set(found) == {"accuracy", "exact", "CER", "accuracy_constant", "unfinished"}
    assert found["CER"] == pytest.approx(lines[-1]["val/CER"])
