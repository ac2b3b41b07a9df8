"""The three published pretraining recipes: their mixes, their settings, and a run of each at its smallest."""

from __future__ import annotations

import json

import pytest

from vistruct.data.chat.mix import MixDataConfig
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.vitp.mixes import size_of, template, write_template
from vistruct.recipes.vitp.published import write_mix
from vistruct.vlm.vrl import Vrl

NAMES = ["vitp.remote_sensing", "vitp.medical", "vitp.general"]


# What the published mix files add up to, with their `length` and `repeat_time`.
@pytest.mark.parametrize(
    ("name", "data_sets", "conversations"),
    list(zip(NAMES, [36, 20, 8], [1_088_702, 1_048_143, 1_023_375], strict=True)),
)
def test_mix_is_as_large_as_the_published_one(name, data_sets, conversations):
    mix = find(name).MIX
    assert (len(mix), size_of(mix)) == (data_sets, conversations)
    assert len({entry.name for entry in mix}) == data_sets


def test_shares_of_the_remote_sensing_mix_are_the_published_ones():
    mix = find("vitp.remote_sensing").MIX
    share = {e.name: round(100 * int(e.conversations * e.repeat) / size_of(mix), 2) for e in mix}
    assert (share["dior_rsvg_train"], share["vrsbench_train"], share["geochat_train"]) == (19.94, 17.77, 11.74)
    assert sum(e.jpeg for e in mix) == 2


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_published_ones(name, tmp_path):
    write_mix_files(tmp_path, name)
    run = find(name).recipe(data=tmp_path / "mix.json", vrl="published-code")
    assert (run.recipe, run.steps, run.only.batch, run.schedule.warmup_steps) == (name, 8000, 128, 1600)
    assert (run.optim.lr, run.optim.weight_decay, run.clip_norm, run.schedule.shape) == (2e-5, 0.01, 1.0, "cosine")
    task = run.only.task
    assert (task.tiling.size, task.tiling.max_tiles, task.max_tokens) == (448, 12, 4096)
    assert (task.backbone.drop_path, task.backbone.width, task.backbone.depth) == (0.1, 1024, 24)
    assert task.language.options["hidden_size"] == 896
    assert isinstance(run.only.data, MixDataConfig)


def write_mix_files(folder, name):
    write_mix(folder, find(name).MIX)


def test_template_is_a_mix_file_that_can_be_read_once_its_data_is_there(tmp_path):
    mix = find("vitp.medical").MIX
    write_template(mix, tmp_path / "mix.json")
    assert json.loads((tmp_path / "mix.json").read_text()) == template(mix)
    with pytest.raises(UserError, match=r"gmai_mmbench_val"):
        MixDataConfig(mix=tmp_path / "mix.json").build()
    with pytest.raises(UserError, match="there already"):
        write_template(mix, tmp_path / "mix.json")


@pytest.mark.parametrize("name", NAMES)
def test_tiny_run_trains_on_three_schemas_packed(name, tmp_path):
    run = find(name).tiny()
    assert run.only.pack is not None
    assert run.only.task.vrl == "paper" or run.only.task.vrl == Vrl()
    train(run, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    info = json.loads((tmp_path / "run" / "data.json").read_text())["train"]["main"]
    assert info["num_records"] == 2 * 6 + 5 + 4  # repeated twice; once; half of eight
    assert (tmp_path / "run" / "backbone" / "backbone.safetensors").is_file()
