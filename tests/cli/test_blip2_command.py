"""`vistruct eval` on the folder of a BLIP-2: questions and captions, before and after an adapter."""

from __future__ import annotations

import json

import question_sets as sets
import torch
from blip2_folders import write_blip2
from typer.testing import CliRunner

from vistruct.cli.main import app


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [str(one) for one in (*arguments, "--json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_folder_is_measured_on_questions_and_on_captions_with_and_without_an_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blip2 = write_blip2(tmp_path / "blip2-opt", "opt")
    sets.vqa(tmp_path / "vqa")
    figures = run("eval", blip2, "--data", tmp_path / "vqa")["evaluations"]["vqa"]
    assert {name.partition("/")[2] for name in figures if name.startswith("questions/")} == {
        "yes/no",
        "number",
        "other",
    }
    assert figures["questions"] == 3
    assert figures["loss"] > 0

    generator = torch.Generator().manual_seed(0)
    shapes = {"A": (128, 32), "B": (64, 64)}
    names = {f"visual.blocks.{block}.attn.qkv.lora_{which}": shapes[which] for block in range(3) for which in "AB"}
    torch.save({name: torch.randn(shape, generator=generator) for name, shape in names.items()}, "lora.pth")
    found = run("eval", blip2, "--data", sets.nocaps(tmp_path / "nocaps"), "--lora", "lora.pth", "--max-new-tokens", 12)
    (numbers,) = found["evaluations"].values()
    assert numbers["cider_d"]["over"] == "images"
    assert numbers["cider_d"]["count"] == 3
    assert numbers["loss"]["before"] != numbers["loss"]["after"]
    assert {"cider_d/in-domain", "cider_d/near-domain", "cider_d/out-domain"} <= set(numbers)


def test_a_folder_without_data_or_with_other_data_is_told_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blip2 = write_blip2(tmp_path / "blip2-opt", "opt")
    for arguments, words in (([], "--data"), (["--data", str(tmp_path / "classes")], "image classes")):
        for name in ("a", "b"):
            sets.image(tmp_path / "classes" / name / "1.png", 1)
        result = CliRunner().invoke(app, ["eval", str(blip2), *arguments])
        assert result.exit_code != 0
        assert words in f"{result.output}{result.exception}"
