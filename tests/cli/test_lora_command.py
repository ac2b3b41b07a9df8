"""`--lora FILE`, in every command that takes a model: added once, to the weights it belongs to, and what it changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from vistruct.checkpoint.adapters import read_adapters
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.weights import load_backbone, read_public
from vistruct.cli.main import main
from vistruct.config import Lora, Trainable, with_values
from vistruct.engine.train import train
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes import classify


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A model; the same with adapters trained in its backbone; another model."""
    folder = tmp_path_factory.mktemp("lora")
    run = classify.tiny()
    loss = run.evals["val"].model_copy(update={"metric": MeanLossConfig()})
    base = with_values(run, steps=4, keep_model="last", evals=run.evals | {"loss": loss})
    found = {"base": train(base, folder / "base")}
    rules = (
        Trainable(pattern="*", mode="frozen"),
        Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2, scale=100.0, parts=("q", "v"))),
    )
    optim = base.optim.model_copy(update={"lr": 3e-2})
    tuned = with_values(base, start=found["base"], init=None, trainable=rules, optim=optim)
    found["tuned"] = train(tuned, folder / "tuned")
    found["other"] = train(base.model_copy(update={"seed": 1}), folder / "other")
    return found


def run_main(capsys: Any, *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def evaluated(capsys: Any, *words: object) -> Any:
    code, out = run_main(capsys, "eval", *words, "--json")[:2]
    assert code == 0
    return json.loads(out)


def test_eval_measures_without_and_with_them_and_says_how_sure_the_difference_is(capsys, runs):
    measured = [evaluated(capsys, runs[name])["evaluations"] for name in ("base", "tuned")]
    base, tuned = (one["val"] for one in measured)
    found = evaluated(capsys, runs["base"], "--lora", runs["tuned"])
    numbers = found["evaluations"]["val"]
    assert {name: one["before"] for name, one in numbers.items()} == pytest.approx(base, nan_ok=True)
    assert {name: one["after"] for name, one in numbers.items()} == pytest.approx(tuned, nan_ok=True)
    before, after = (one["loss"]["loss"] for one in measured)
    loss = found["evaluations"]["loss"]["loss"]
    assert (loss["before"], loss["after"]) == pytest.approx((before, after), abs=1e-5)
    assert abs(after - before) > 1e-3
    assert loss["interval"] is None  # of no image alone
    assert numbers["OA"]["difference"] == pytest.approx(tuned["OA"] - base["OA"])
    low, high = numbers["OA"]["interval"]
    assert low <= numbers["OA"]["difference"] <= high
    assert numbers["OA"]["over"] == "images"
    assert Path(found["written"]).name == "eval-lora-tuned.json"
    assert json.loads(Path(found["written"]).read_text())["val"] == numbers
    assert json.loads((runs["base"] / "eval.json").read_text())["val"] == base  # its own result is left as it was


def test_a_model_with_adapters_added_gives_what_the_one_gives_that_trained_them(runs):
    added, card = load_model(runs["base"], lora=runs["tuned"] / "adapters")
    trained, own = load_model(runs["tuned"])
    assert_close(dict(added.named_parameters()), dict(trained.named_parameters()), rtol=0, atol=1e-5)
    assert card.values["adapters"][0]["digest"] == own.values["adapters"][0]["digest"]


@pytest.mark.parametrize(
    ("model", "lora", "said"),
    [
        ("tuned", ("tuned",), "in the weights already"),
        ("other", ("tuned",), "beside other weights"),
        ("base", ("tuned", "tuned"), "--lora twice"),
        ("base", ("base",), "no adapters here"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_refused(capsys, runs, model, lora, said):
    words = [word for name in lora for word in ("--lora", runs[name])]
    code, _, err = run_main(capsys, "eval", runs[model], *words)
    assert code == 2
    assert said in err


def test_a_copy_of_the_numbers_alone_is_still_known_by_what_is_in_the_model(capsys, runs, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(runs["tuned"] / "adapters", copied)
    (copied / "base.json").unlink()
    code, _, err = run_main(capsys, "predict", runs["tuned"], tmp_path, "--lora", copied)
    assert code == 2
    assert "in the weights already" in err


def exported(capsys: Any, *words: object) -> Path:
    code, out, err = run_main(capsys, "export", *words)
    assert code == 0, err
    return Path(out.strip().splitlines()[-1])


def test_adapters_go_out_alone_and_come_back(capsys, runs, tmp_path):
    trained, _ = load_model(runs["tuned"])
    ours = exported(capsys, runs["tuned"], "--format", "lora", "--out", tmp_path / "lora")
    assert read_adapters(ours).digest == read_adapters(runs["tuned"]).digest
    assert read_adapters(ours).base == read_adapters(runs["tuned"]).base
    theirs = exported(capsys, runs["tuned"], "--format", "lora-visft", "--out", tmp_path / "visft")
    again = exported(capsys, theirs, "--format", "lora", "--out", tmp_path / "again")
    for file in (ours, theirs, theirs / "lora.pt", again):
        added, _ = load_model(runs["base"], lora=file)
        assert_close(dict(added.named_parameters()), dict(trained.named_parameters()), rtol=0, atol=1e-5)


def test_a_model_with_them_goes_out_whole_and_is_known_to_have_them(capsys, runs, tmp_path):
    words = ("--format", "merged", "--lora", runs["tuned"], "--out", tmp_path / "merged")
    out = exported(capsys, runs["base"], *words)
    model, trained = load_model(out)[0], load_model(runs["tuned"])[0]
    assert_close(dict(model.named_parameters()), dict(trained.named_parameters()), rtol=0, atol=1e-5)
    backbone = model.config.backbone.build()
    assert load_backbone(backbone, out).adapters == (read_adapters(runs["tuned"]).record,)
    assert_close(dict(backbone.named_parameters()), dict(trained.backbone.named_parameters()), rtol=0, atol=1e-5)
    code, _, err = run_main(capsys, "predict", out, tmp_path, "--lora", runs["tuned"])
    assert (code, "in the weights already" in err) == (2, True)
    code, _, err = run_main(capsys, "export", runs["tuned"], *words[:-1], tmp_path / "twice")
    assert (code, "in the weights already" in err) == (2, True)


def test_a_backbone_for_others_says_which_adapters_are_in_it(capsys, runs, tmp_path):
    out = exported(capsys, runs["tuned"], "--format", "backbone-transformers", "--out", tmp_path / "hf")
    backbone = load_model(runs["tuned"])[0].config.backbone.build()
    assert [one["digest"] for one in load_backbone(backbone, out).adapters] == [read_adapters(runs["tuned"]).digest]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_of_others_keep_their_names_and_their_kind_of_file(capsys, golden, tmp_path, suffix):
    base = golden("visft_lora/visual.safetensors").tensors
    state = {f"visual.{name}": value for name, value in base.items()} | {"logit_scale": torch.ones(())}
    source = tmp_path / f"clip.{suffix}"
    torch.save(state, source) if suffix == "pt" else save_file(state, source)
    released = GOLDEN / "visft_lora" / "eva_e_lora_500.pt"
    out = exported(capsys, source, "--format", "merged", "--lora", released, "--out", tmp_path / "merged")
    merged = read_public(out / f"clip.{suffix}")[0]
    assert merged.keys() == state.keys()
    expected = golden("visft_lora/expected.safetensors")
    for name, value in merged.items():
        own = expected.tensors.get(f"merged.{name.removeprefix('visual.')}", state[name].float())
        assert_close(value, own, rtol=0, atol=1e-6)
    for again in (out, out / f"clip.{suffix}"):
        twice = (again, "--format", "merged", "--lora", released, "--out", tmp_path / "twice")
        code, _, err = run_main(capsys, "export", *twice)
        assert (code, "in the weights already" in err) == (2, True)
    half = (source, "--format", "merged", "--lora", released, "--dtype", "bf16", "--out", tmp_path / "half")
    code, _, err = run_main(capsys, "export", *half)
    assert code == 0
    assert "rounding to bf16 moves them by" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tuned", "--format", "lora", "--lora", "tuned"), "writes the adapters of what is named first"),
        (("base", "--format", "merged"), "merged with which adapters?"),
        (("base", "--format", "lora"), "no adapters here"),
        (("other", "--format", "merged", "--lora", "tuned"), "beside other weights"),
    ],
)
def test_what_cannot_go_out_is_refused(capsys, runs, tmp_path, words, said):
    code, _, err = run_main(capsys, "export", *(runs.get(word, word) for word in words), "--out", tmp_path / "x")
    assert code == 2
    assert said in err
    assert not (tmp_path / "x").exists()


def test_train_begins_with_them_by_one_option(capsys, runs, tmp_path):
    words = ("train", "-c", runs["base"] / "run.yaml", "--set", "steps=3", "--out", tmp_path / "run")
    code, _, err = run_main(capsys, *words, "--lora", runs["tuned"])
    assert (code, "begins with random ones" in err) == (2, True)
    code, _, err = run_main(capsys, *words, "--set", f"start={runs['base']}", "--lora", runs["tuned"])
    assert code == 0, err
    assert "were added into the weights" in err
    again = ("train", "-c", tmp_path / "run" / "run.yaml", "--lora", runs["tuned"], "--out", tmp_path / "again")
    code, _, err = run_main(capsys, *again)
    assert (code, "begins with the adapters of" in err) == (2, True)


def test_predictions_without_and_with_them_are_not_taken_for_each_other(capsys, runs, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32), (90, 120, 40)).save(picture)
    words = ("predict", runs["base"], picture, "--out", tmp_path / "out")
    assert run_main(capsys, *words)[0] == 0
    assert "another model" not in run_main(capsys, *words)[2]
    assert "another model" in run_main(capsys, *words, "--lora", runs["tuned"])[2]
