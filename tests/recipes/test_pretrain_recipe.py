"""The ViTP recipe: its tiny twin runs to a model that answers; annotations become a model that looks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.weights import load_backbone
from vistruct.cli.main import main
from vistruct.config import Trainable, read_run, run_to_yaml, with_values
from vistruct.contracts import AnswerPrediction
from vistruct.data.instructions.control import shuffle_answers
from vistruct.data.instructions.write import write_instructions
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.inference.model import load
from vistruct.recipes import find
from vistruct.recipes.vitp.pretrain import SIZES, recipe, tiny
from vistruct.samples import trees
from vistruct.settings import with_settings
from vistruct.vlm.vrl import Vrl


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "pretrain"
    train(tiny(), out)
    return out


class Interrupted(Exception):
    pass


def test_the_tiny_twin_trains_measures_and_leaves_a_model_that_answers(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == tiny().steps
    assert np.isfinite(lines[-1]["val/loss"])
    assert lines[-1]["loss"] < lines[0]["loss"]
    said = load(run_dir).predict(trees().test.with_suffix(".jpg"), ask="How many trees are there?").prediction
    assert isinstance(said, AnswerPrediction)
    assert said.question == "How many trees are there?"


def test_weighed_tokens_and_alignment_are_options_and_train(tmp_path: Path) -> None:
    data = tiny().only.data.jsonl
    run = recipe(data=data, size="small", token_weights="prior", alignment=0.05)
    assert run.only.loss_weights == {"alignment": 0.05}
    own = {name: vars(run.only.task)[name] for name in ("token_weights", "alignment")}
    task = tiny().only.task.model_copy(update=own)
    stream = run.only.model_copy(update={"task": task, "batch": 2})
    train(with_values(tiny(), streams={"main": stream}, steps=3, evals={}), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_answers", "loss_alignment", "text_likelihood"} <= lines[-1].keys()
    assert recipe(data=data, size="small", start=tmp_path / "run").only.task.alignment is None
    with pytest.raises(UserError, match="below 0"):
        recipe(data=data, alignment=-1.0)


def test_the_running_means_of_weighed_tokens_and_alignment_are_resumed_to_the_bit(tmp_path: Path) -> None:
    data = tiny().only.data.jsonl
    asked = recipe(data=data, size="small", token_weights="prior", alignment=0.05).only
    own = {name: vars(asked.task)[name] for name in ("token_weights", "alignment")}
    stream = asked.model_copy(update={"task": tiny().only.task.model_copy(update=own), "batch": 2})
    run = with_values(tiny(), streams={"main": stream}, steps=5, save_every=2, evals={})

    def interrupt(step: int, _: dict[str, float]) -> None:
        if step == 3:  # between two checkpoints
            raise Interrupted

    train(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", on_step=interrupt)
    train(run, tmp_path / "cut")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    one, other = (
        [{k: v for k, v in json.loads(line).items() if k.startswith("loss")} for line in own] for own in lines
    )
    assert one == other
    assert "loss_alignment" in one[-1]


def test_a_vit_of_timm_goes_on_from_its_public_weights_in_a_language_model(tmp_path: Path) -> None:
    timm_model = TimmConfig(name="test_vit3").build()
    save_file(
        {k.removeprefix("model."): v for k, v in timm_model.state_dict().items()}, tmp_path / "public.safetensors"
    )
    small = tiny().only
    run = recipe(
        data=small.data.jsonl,
        timm="test_vit3",
        backbone=tmp_path / "public.safetensors",
        size="small",
        steps=1,
        batch=2,
    )
    task = run.only.task.model_copy(update={"language": small.task.language, "vrl": Vrl(drop_at="patches")})
    run = with_values(run, task=task)
    train(run, tmp_path / "run")
    again = TimmConfig(name="test_vit3").build()
    report = load_backbone(again, tmp_path / "run")
    assert (report.missing, report.unexpected) == ((), ())
    assert not torch.equal(again.model.blocks[0].attn.qkv.weight, timm_model.model.blocks[0].attn.qkv.weight)
    assert run.only.task.std == again.std
    assert recipe(data=small.data.jsonl, start=tmp_path / "run").only.task.backbone.name == "test_vit3"
    with pytest.raises(UserError, match="both name a backbone"):
        recipe(data=small.data.jsonl, timm="test_vit3", start=tmp_path / "run")


def test_a_run_goes_on_from_another_in_its_own_size_and_with_its_tokenizer(run_dir: Path) -> None:
    before = read_run(run_dir / "run.yaml").streams["main"].task
    task = recipe(data=run_dir / "a.jsonl", start=run_dir).streams["main"].task
    assert (task.backbone.width, task.backbone.depth) == (before.backbone.width, before.backbone.depth)
    assert task.language.options == before.language.options
    assert (task.tiling, task.shuffle) == (before.tiling, before.shuffle)
    assert task.language.tokenizer == run_dir / "model" / "tokenizer"


def test_a_question_on_the_command_line_is_answered(run_dir: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as end:
        main(
            [
                "predict",
                str(run_dir),
                str(tmp_path / "a.png"),
                "--ask",
                "Any tree?",
                "--out",
                str(tmp_path / "o"),
            ]
        )
    assert not end.value.code
    last = capsys.readouterr().out.splitlines()[-1]
    (line,) = Path(last).read_text().splitlines()
    assert json.loads(line)["question"] == "Any tree?"


def test_a_run_of_the_recipe_is_its_own_input(run_dir: Path, tmp_path: Path) -> None:
    assert find("vitp.pretrain").tiny() == tiny() == read_run(run_dir / "run.yaml")
    full = recipe(data=Path("a.jsonl"), val=Path("b.jsonl"), backbone=Path("w.safetensors"), vrl="off")
    (tmp_path / "run.yaml").write_text(run_to_yaml(full))
    assert read_run(tmp_path / "run.yaml") == full
    assert with_settings(full, ["task.vrl=published-code"]).only.task.vrl == "published-code"
    assert with_settings(full, ["task.vrl=off", "amp=off"]).amp == "off"  # words, whatever YAML 1.1 says of them


def test_the_full_size_is_the_published_one() -> None:
    """Values of the public scripts and of the two models' public configurations."""
    run = recipe(data=Path("a.jsonl"))
    assert (run.steps, run.only.batch, run.clip_norm) == (8000, 128, 1.0)
    assert (run.optim.lr, run.optim.weight_decay, run.optim.betas) == (2e-5, 0.01, (0.9, 0.999))
    assert (run.schedule.shape, run.schedule.warmup_steps, run.schedule.final) == ("cosine", 1600, 0.0)
    assert run.optim.layer_decay == 1.0
    assert all(rule.mode == "full" and rule.lr_factor == 1.0 for rule in run.trainable)
    task = run.only.task
    assert (task.backbone.width, task.backbone.depth, task.backbone.drop_path) == (1024, 24, 0.1)
    assert (task.tiling.size, task.tiling.max_tiles, task.tiling.thumbnail) == (448, 12, True)
    assert (task.vrl, task.shuffle, task.independent) == ("paper", 2, False)
    options = {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "tie_word_embeddings": False,
    }  # fmt: skip
    assert {name: task.language.options[name] for name in options} == options
    assert task.language.options["rope_parameters"]["rope_theta"] == 1e6


def test_warm_up_is_a_fifth_of_any_number_of_steps() -> None:
    for size in SIZES:
        assert recipe(data=Path("a.jsonl"), size=size, steps=50).schedule.warmup_steps == 10


def test_a_backbone_s_own_shape_is_taken_and_its_weights_too(run_dir: Path) -> None:
    for place in (run_dir, run_dir / "backbone"):
        run = recipe(data=Path("a.jsonl"), backbone=place, size="small")
        assert run.only.task.backbone == tiny().only.task.backbone
        assert run.init == place
    assert recipe(data=Path("a.jsonl"), backbone=Path("w.safetensors")).only.task.backbone == InternVitConfig(
        drop_path=0.1
    )


def test_a_frozen_backbone_stays_and_the_rest_learns(run_dir: Path) -> None:
    run = recipe(data=Path("a.jsonl"), size="small", freeze_backbone=True)
    assert run.trainable == (Trainable(pattern="backbone", mode="frozen"),)


def test_a_value_that_no_run_takes_is_three_lines(run_dir: Path, capsys) -> None:
    data = str(tiny().only.data.jsonl)
    with pytest.raises(SystemExit) as end:
        main(["train", "vitp.pretrain", "--data", data, "--lr", "-1", "--dry-run"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: lr: Input should be greater than 0, got -1.0"
    with pytest.raises(UserError, match="no option"):
        main(["train", "vitp.pretrain", "--data", data, "--sizes", "small", "--debug"])


def coloured(folder: Path, num_images: int, seed: int) -> tuple[Path, list[str]]:
    """Pictures of one red or blue block on noise, as COCO; and each one's colour."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    images, annotations, colours = [], [], []
    for number in range(num_images):
        pixels = rng.integers(60, 120, (48, 48, 3)).astype(np.uint8)
        colour, side = int(rng.integers(2)), int(rng.integers(28, 44))
        x, y = (int(v) for v in rng.integers(0, 48 - side, 2))
        pixels[y : y + side, x : x + side] = ((220, 40, 40), (40, 40, 220))[colour]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 48, "height": 48})
        box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": colour, **box})
        colours.append(("red", "blue")[colour])
    categories = [{"id": 0, "name": "red block"}, {"id": 1, "name": "blue block"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json", colours


def test_annotations_become_a_model_that_answers_by_looking(tmp_path: Path) -> None:
    """The whole chain on one core in seconds: boxes, instructions, training under VRL, questions about new pictures."""
    torch.set_num_threads(1)
    source, _ = coloured(tmp_path / "train", 160, seed=0)
    summary = write_instructions(source, tmp_path / "out", families=("caption",), questions=2)
    run = recipe(data=summary.path, size="small", steps=70, batch=12, lr=4e-3)
    small = {
        "tiling.size": 48, "answer_dropout": 0.0, "max_new_tokens": 24, "language.vocab_size": 400,
        "backbone.image_size": 48, "backbone.width": 48, "backbone.depth": 1, "backbone.heads": 2,
        "backbone.mlp_width": 96, "language.options.hidden_size": 48, "language.options.num_hidden_layers": 1,
        "language.options.intermediate_size": 96,
    }  # fmt: skip
    run = with_settings(run, [f"task.{name}={value}" for name, value in small.items()])
    model = load(train(run, tmp_path / "run"))

    _, colours = coloured(tmp_path / "test", 24, seed=1)
    right = [tmp_path / "test" / f"{n}.png" for n in range(24)]
    rows = [{"image": n, "conversations": n} for n in range(24)]
    wrong = [right[row["conversations"]] for row in shuffle_answers(rows, seed=0)]  # another picture for each truth

    def accuracy(pictures: list[Path]) -> float:
        said = [one.prediction for one in model.predict(pictures, ask="What does the image show?")]
        return float(np.mean([colour in one.answer for colour, one in zip(colours, said, strict=True)]))

    assert accuracy(right) >= 0.9
    assert accuracy(wrong) <= 0.7
