"""The stages of VT-PLUG: what is trainable in each, what it learns, and that the published model can be built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from public_folders import ship_task
from toy_pointing import pointing, squares
from toy_vlm import build, tokenizer
from whole_loss import task_loss

from vistruct.checkpoint.whole import load_start
from vistruct.config import Run
from vistruct.contracts import DataInfo
from vistruct.engine.trainable import apply_rules, set_train_mode
from vistruct.recipes.vtplug import align, decoders, keypoints, tune
from vistruct.recipes.vtplug.parts import FAMILIES
from vistruct.tasks.instruct import Instruct
from vistruct.vlm.tiling import Tiling

STAGES: dict[str, Any] = {"align": align, "tune": tune, "decoders": decoders, "keypoints": keypoints}


def moving(run: Run) -> set[str]:
    """Parts of the task of which something learns."""
    task: Any = run.only.task
    words = tokenizer()
    words.add_tokens(list(task.pointing.added_tokens), special_tokens=True)
    with torch.device("meta"):
        built = Instruct(task, words)
    apply_rules(built, run.trainable)
    names = [name for name, p in built.named_parameters() if p.requires_grad]
    return {re.sub(r"^(pointing\.(?:decoders\.)?\w+|\w+)\..*", r"\1", name) for name in names}


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("align", {"projector"}),
        (
            "tune",
            {
                "projector",
                "language",
                "pointing.recall",
                "pointing.regions",
                "pointing.decoders.box",
                "pointing.decoders.mask",
            },
        ),
        ("decoders", {"pointing.recall", "pointing.regions", "pointing.decoders.box", "pointing.decoders.mask"}),
        ("keypoints", {"projector", "language", "pointing.recall", "pointing.regions", "pointing.decoders.keypoint"}),
    ],
)
def test_what_moves_in_each_stage(stage: str, parts: set[str]) -> None:
    run = STAGES[stage].recipe(data=Path("talk.jsonl"), size="small")
    assert moving(run) == parts


def stepped(run: Run) -> dict[str, bool]:
    """A toy model that takes a step by the rules of a run: of each of its weights, whether it is another one now."""
    task = pointing()
    plan = apply_rules(task, run.trainable)
    set_train_mode(task, plan)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    task_loss(task, task.collator([squares("a", 1)])).total.backward()
    optimiser.step()
    token = task.pointing.object_token
    tables = {
        f"{name} of <object>": not torch.equal(value[token], before[name][token])
        for name, value in task.state_dict().items()
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    return tables | {name: not torch.equal(value, before[name]) for name, value in task.state_dict().items()}


def test_under_adapters_the_tokens_that_point_are_learned() -> None:
    changed = stepped(tune.recipe(data=Path("talk.jsonl"), size="small", units=("box",), lora_rank=2))
    assert changed["language.model.embed_tokens.weight of <object>"]
    assert changed["language.lm_head.weight of <object>"]
    language = {name.removeprefix("language.model."): is_new for name, is_new in changed.items() if ".layers." in name}
    own = {name: is_new for name, is_new in language.items() if not name.startswith("pointing")}
    assert any(is_new for name, is_new in own.items() if "lora" in name)
    assert not any(is_new for name, is_new in own.items() if "lora" not in name and not name.startswith("backbone"))
    assert not any(is_new for name, is_new in changed.items() if name.startswith("backbone"))


def test_decoders_alone_leave_all_that_speaks_as_it_is() -> None:
    changed = stepped(decoders.recipe(data=Path("talk.jsonl"), size="small", units=("box",)))
    assert {name.split(".")[0] for name, is_new in changed.items() if is_new} == {"pointing"}


@pytest.mark.parametrize(("stage", "batch", "steps", "lr"), [("align", 256, 3558, 2e-5), ("tune", 120, 68900, 2e-6)])
def test_published_settings(stage: str, batch: int, steps: int, lr: float) -> None:
    run = STAGES[stage].recipe(data=Path("talk.jsonl"))
    assert (run.only.batch, run.steps, run.optim.lr) == (batch, steps, lr)
    assert run.schedule.warmup_steps == round(0.03 * steps)
    assert (run.optim.weight_decay, run.clip_norm) == (0.0, 1.0)


def test_objects_have_as_many_key_points_as_those_of_the_data(tmp_path: Path) -> None:
    data = tmp_path / "talk.jsonl"
    objects = '"objects": {"keypoints": [[1, 2, 2, 3, 4, 1, 5, 6, 0]]}'
    data.write_text('{"conversations": []}\n{' + objects + ', "conversations": [{"units": ["keypoint"]}]}\n')
    of = [keypoints.recipe(data=path, size="small").only.task for path in (data, tmp_path / "none.jsonl")]
    assert [task.pointing.decoders["keypoint"].points for task in of] == [3, 17]


def test_losses_of_decoders_count_half_as_published() -> None:
    assert tune.recipe(data=Path("talk.jsonl"), size="small").only.loss_weights == {"box.*": 0.5, "mask.*": 0.5}


def test_the_published_model_is_as_large_as_published() -> None:
    run = tune.recipe(data=Path("talk.jsonl"))
    task: Any = run.only.task
    with torch.device("meta"):
        backbone, tower = task.backbone.build(), task.pointing.tower.build()
    million = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in [("b", backbone), ("t", tower)]}
    assert round(million["t"], 1) == pytest.approx(196.2, abs=0.1)
    assert million["b"] == pytest.approx(303.5 - 12.6, abs=0.1)  # the last of 24 blocks is never read
    assert (backbone.width, FAMILIES["7b"].task.tiling.size // backbone.patch) == (1024, 24)


def test_a_stage_keeps_the_decoders_of_the_one_before_and_all_its_weights(tmp_path: Path) -> None:
    first = pointing()
    shipped = ship_task(tmp_path / "model", first)
    run = keypoints.recipe(data=tmp_path / "talk.jsonl", size="small", start=shipped)
    task: Any = run.only.task
    assert list(task.pointing.decoders) == ["box", "keypoint"]
    assert task.pointing.decoders["box"] == first.config.pointing.decoders["box"]
    second = task.build(DataInfo(), tmp_path / "assets")
    report = load_start(second, shipped)
    assert report.fresh
    assert all(name.startswith(("pointing.decoders.keypoint.", "pointing.recall.")) for name in report.fresh)
    state = second.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())


def test_a_model_that_points_starts_from_one_that_does_not(tmp_path: Path) -> None:
    words = build(tiling=Tiling(size=56, max_tiles=1))
    shipped = ship_task(tmp_path / "model", words)
    run = tune.recipe(data=tmp_path / "talk.jsonl", size="small", start=shipped)
    task: Any = run.only.task
    model = task.build(DataInfo(), tmp_path / "assets")
    report = load_start(model, shipped)
    assert report.fresh
    assert all(name.startswith("pointing.") for name in report.fresh)
    table, before = (one.language.get_input_embeddings().weight for one in (model, words))
    assert torch.equal(table[: len(before)], before)
    torch.testing.assert_close(table[len(before) :], before.mean(0).expand(len(table) - len(before), -1))


def test_a_stage_keeps_what_its_start_looks_at_whatever_size_is_said(tmp_path: Path) -> None:
    shipped = ship_task(tmp_path / "model", pointing())
    run = keypoints.recipe(data=tmp_path / "talk.jsonl", start=shipped)  # of 7b, which has a tower and writes <REF>
    task: Any = run.only.task
    assert task.pointing.tower is None
    assert task.pointing.grammar.spelling == "ours"
    assert [one.pattern for one in run.trainable] == ["backbone"]
    assert [one.pattern for one in keypoints.recipe(data=tmp_path / "talk.jsonl").trainable] == [
        "backbone",
        "pointing.tower",
    ]
