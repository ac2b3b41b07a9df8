"""What a run leaves is what it trained: the loss of what was shipped, exported, and started from again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from public_folders import transformers_folder
from safetensors.torch import load_file

from vistruct.checkpoint.export import export
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.restore import read_weights
from vistruct.config import Eval, Run, with_values
from vistruct.data.dataset import ChatDataConfig
from vistruct.engine import ship
from vistruct.engine.evaluate import evaluate
from vistruct.engine.run import build
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes.vitp.pretrain import recipe
from vistruct.settings import with_settings
from vistruct.verbs.train import with_lora

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model in public layout whose input and output tables are one, and questions that it does not know."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tied")
    theirs: Any = transformers_folder(folder / "model", tie_word_embeddings=True)
    for name, parameter in theirs.named_parameters():
        if name.startswith("model.language_model.") and "norm" in name:
            torch.nn.init.ones_(parameter)
    theirs.save_pretrained(folder / "model")
    rows = []
    for number in range(12):
        asked, said = COLOURS[number % 3], COLOURS[(number * 7 + number // 3) % 3]
        turns = [{"from": "human", "value": f"{number} {asked}?"}, {"from": "gpt", "value": f"{said} {number}"}]
        rows.append(json.dumps({"conversations": turns}))
    (folder / "talk.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def run_of(folder: Path, pattern: str, steps: int = 24, **changes: Any) -> Run:
    talk, start = folder / "talk.jsonl", changes.pop("start", folder / "model")
    run = recipe(data=talk, val=talk, start=start, batch=6, lr=0.02, steps=steps, **changes)
    rule = f"trainable=[{{pattern: {pattern}, mode: lora, lora: {{rank: 8, alpha: 32}}}}]"
    settings = ["pack.tokens=512", "workers=0", "amp=off", f"eval_every={steps}", "task.max_new_tokens=4", rule]
    return with_settings(run, settings)


def loss_of(task: Any, folder: Path) -> float:
    measured = Eval(data=ChatDataConfig(jsonl=folder / "talk.jsonl"), metric=MeanLossConfig())
    return evaluate(task, measured, torch.device("cpu"), 6)["loss"]


@pytest.mark.parametrize("pattern", ["language.model", "language"])
def test_adapters_on_a_tied_language_model_are_in_all_that_comes_of_it(tmp_path, tied, pattern):
    out = train(run_of(tied, pattern), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    before, after = loss_of(build(run_of(tied, pattern), tmp_path / "new").model, tied), lines[-1]["val/loss"]
    assert after < 0.7 * before  # it has learned, so that a lost adapter would be seen
    task, _ = load_model(out)
    assert loss_of(task, tied) == pytest.approx(after, rel=0.02)
    kept = load_file(out / "model/model.safetensors")
    assert ("language.lm_head.weight" in kept) + ("language.model.embed_tokens.weight" in kept) == 1
    export(out, tmp_path / "public", format="transformers")
    again = build(run_of(tied, pattern, start=tmp_path / "public"), tmp_path / "again")
    assert loss_of(again.model, tied) == pytest.approx(after, rel=0.02)
    same = {"start": out, "task": again.run.only.task}  # one of our runs says its sizes in its own run.yaml
    assert loss_of(build(with_values(again.run, **same), tmp_path / "own").model, tied) == pytest.approx(
        after, rel=0.02
    )


def test_a_merge_that_forgets_an_adapter_is_no_finished_run(tmp_path, tied, monkeypatch):
    """The delta of one layer is lost on its way into what is shipped."""
    right = ship.merged_state

    def wrong(model, state=None):
        bare = {name: value for name, value in model.state_dict().items() if name.endswith("down_proj.weight")}
        return right(model, state) | bare

    monkeypatch.setattr(ship, "merged_state", wrong)
    with pytest.raises(UserError, match="not the one that was trained: answers of one sample is") as caught:
        train(run_of(tied, "language.model"), tmp_path / "run")
    assert "run/checkpoints" in caught.value.fix
    assert not (tmp_path / "run/model/model.json").exists()


def stopped(run: Run, out: Path, at: int) -> Path:
    """A run that ends in the middle, with a checkpoint behind it."""

    class Ended(Exception):
        pass

    def end(step: int, _: dict[str, float]) -> None:
        if step == at:
            raise Ended

    with pytest.raises(Ended):
        train(run, out, on_step=end)
    return out


def test_a_run_that_never_finished_is_started_from_at_its_newest_checkpoint(tmp_path, tied):
    run = with_settings(run_of(tied, "language", steps=5), ["save_every=3", "trainable=[]"])
    out = stopped(run, tmp_path / "run", at=5)
    weights = read_weights(out / "checkpoints/step_00000003")
    again = build(with_values(run, start=out), tmp_path / "again")
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())
    assert "has not finished: these are its weights after 3 steps" in "\n".join(again.coverages()[0].lines())
    assert (tmp_path / "again/model/tokenizer").is_dir()

    adapted = with_settings(run_of(tied, "language", steps=5), ["save_every=3"])
    out = stopped(adapted, tmp_path / "adapted", at=5)
    with pytest.raises(UserError, match="are not merged yet") as caught:
        build(with_values(run, start=out), tmp_path / "onward")
    assert f"vistruct train -c {out}/run.yaml --out {out}" in caught.value.fix


def test_the_recipe_adapts_and_begins_with_adapters(tmp_path, tied):
    talk = tied / "talk.jsonl"
    settings = ["pack.tokens=512", "workers=0", "amp=off"]
    run = with_settings(recipe(data=talk, start=tied / "model", batch=6, lr=0.02, steps=6, lora_rank=4), settings)
    out = train(run, tmp_path / "run")
    shipped = loss_of(load_model(out)[0], tied)
    onward = recipe(data=talk, start=tied / "model", batch=6, steps=1, lora_rank=4, recompute=True)
    onward = with_lora(onward, out)
    onward = with_settings(
        onward, [*settings, "trainable=[{pattern: language, mode: lora, lora: {rank: 4, alpha: 8}}]"]
    )
    assert onward.only.task.language.recompute
    assert onward.only.task.backbone.recompute
    state = build(onward, tmp_path / "onward")
    assert "14 train on, 0 were added" in "\n".join(state.coverages()[-1].lines())
    # Projector and backbone begin as they were; without images they are in no question.
    assert loss_of(state.model, tied) == pytest.approx(shipped, rel=1e-4)
