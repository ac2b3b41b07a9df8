"""`--backbone NAME`: the architecture follows, the weights are used, and their licence stays with what they become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from vistruct.checkpoint.catalogue import find
from vistruct.checkpoint.catalogue.here import root
from vistruct.cli.train import resolve
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import classify, detect, distill, masked, segment
from vistruct.recipes.mtp.fine_tuning import model_of
from vistruct.recipes.options import help_rows, parse
from vistruct.recipes.visft.parts import CLIP_MEAN, backbone_of
from vistruct.samples import trees
from vistruct.samples.made_classes import eurosat_folder
from vistruct.samples.made_maps import loveda_folder
from vistruct.study.plan import init_digest, weights_of
from vistruct.study.study import Study
from vistruct.tasks.pixels import IMAGENET_MEAN


@pytest.fixture
def mae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A narrow ViT under the name of MAE's, in our folder: its weights."""
    monkeypatch.setenv("VISTRUCT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entry = find.entry_named("mae-b")
    narrow = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    small = replace(entry, backbone={**entry.backbone, "image_size": 32, "options": narrow})
    monkeypatch.setitem(find._BY_NAME, "mae-b", small)
    torch.manual_seed(0)
    state = find.backbone_of(small).build().state_dict()
    file = root() / "mae-b" / "mine.safetensors"
    file.parent.mkdir(parents=True)
    save_file({name.removeprefix("model."): value for name, value in state.items()}, file)
    return file


def empty(name: str, weights: Path) -> Path:
    """A file in the place of a name's weights, where only its presence matters."""
    file = weights.parents[1] / name / "any.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_a_run_begins_with_the_weights_and_carries_their_licence(mae: Path, tmp_path: Path) -> None:
    words = ["--data", str(eurosat_folder()), "--train-fraction", "0.6", "--backbone", "mae-b", "--size", "32"]
    settings = ["batch=2", "workers=0", "trainable=[{pattern: backbone, mode: frozen}]"]
    run = resolve("classify", None, [*words, "--steps", "2"], settings)
    assert run.init == Path("mae-b")
    task: Any = run.only.task
    assert task.backbone == find.backbone_of(find.entry_named("mae-b"))
    out = train(run, tmp_path / "run")
    log = (out / "train.log").read_text()
    licence = "CC-BY-NC-4.0, not for commercial use (https://creativecommons.org/licenses/by-nc/4.0/legalcode)"
    assert log.count(licence) == 1
    assert f"mae-b is {mae}" in log
    assert f"- Licence of the weights: {licence}: MAE ViT-B/16, ImageNet-1k" in (out / "model/README.md").read_text()
    assert json.loads((out / "backbone/backbone.json").read_text())["licence"].startswith("CC-BY-NC-4.0")
    assert yaml.safe_load((out / "run.yaml").read_text())["init"] == "mae-b"
    left, begun = load_file(out / "backbone/backbone.safetensors"), load_file(mae)
    assert all(torch.equal(left[f"model.{name}"], value) for name, value in begun.items())


def test_the_licence_of_a_teacher_by_name_is_carried_too(mae: Path, tmp_path: Path) -> None:
    run = distill.recipe(
        data=(eurosat_folder(),), teacher=("mae-b",), model="small", steps=1, size=32, batch=2,
    )  # fmt: skip
    out = train(run, tmp_path / "run")
    card = (out / "model/README.md").read_text()
    assert "- Taught by: t_mae_b, mae-b (sha256 " in card
    assert "Licence of the weights: CC-BY-NC-4.0, not for commercial use" in card


def test_a_name_on_the_command_line(mae: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)]
    assert parse(classify.recipe, [*data, "--backbone", "mae-b"])["backbone"] == Path("mae-b")
    with pytest.raises(UserError, match="no such file or directory, and no such weights") as told:
        parse(classify.recipe, [*data, "--backbone", "mae-bb"])
    assert "did you mean 'mae-b'?" in told.value.fix
    with pytest.raises(UserError, match="the weights called dinov2-s are not on this machine") as told:
        parse(classify.recipe, [*data, "--backbone", "dinov2-s"])
    assert "vistruct weights dinov2-s --fetch" in told.value.fix
    with pytest.raises(UserError, match="no such file or directory") as told:
        parse(classify.recipe, ["--data", "mae-b"])  # data have no names
    assert "weights" not in told.value.what
    assert ("--backbone", "PATH|NAME", "None") in help_rows(classify.recipe)


def test_generic_recipes_build_what_the_name_says(mae: Path) -> None:
    scenes, fields, images = trees().train, loveda_folder(), eurosat_folder()
    runs = (
        detect.recipe(data=scenes, backbone=Path("mae-b")),
        segment.recipe(data=fields, split="train", backbone=Path("mae-b")),
        masked.recipe(data=(images,), backbone=Path("mae-b")),
    )
    for run in runs:
        task: Any = run.only.task
        assert run.init == Path("mae-b")
        assert task.backbone.options["embed_dim"] == 32
        assert task.mean == IMAGENET_MEAN


def test_recipes_that_take_a_model_do_not_need_one_beside_a_name(mae: Path) -> None:
    empty("mtp-l", mae), empty("eva-clip-g", mae), empty("eva02-clip-e", mae)
    assert model_of(None, None) == "rvsa_b"
    assert model_of(None, Path("mtp-l")) == "rvsa_l"
    assert model_of("rvsa_b", Path("mae-b")) == "rvsa_b"
    with pytest.raises(UserError, match="mtp-l is for --model rvsa_l, not rvsa_b"):
        model_of("rvsa_b", Path("mtp-l"))
    with pytest.raises(UserError, match="none of MTP's three backbones"):
        model_of(None, Path("eva-clip-g"))
    parts, mean_std = backbone_of(None, Path("eva02-clip-e"), None, None, "clip")
    assert (parts.width, parts.depth, parts.post_norm) == (1792, 64, True)
    assert mean_std["mean"] == CLIP_MEAN
    assert backbone_of(None, Path("mae-b"), None, None, None)[0].kind == "timm"


def test_a_study_compares_names(mae: Path) -> None:
    study = Study.model_validate({"recipe": "classify", "inits": {"random": "random", "mae": "mae-b", "typo": "mae-x"}})
    assert weights_of(study, "mae") == weights_of(study, "random") == Path("mae-b")
    assert init_digest(Path("mae-b")) == init_digest(mae)
    with pytest.raises(UserError, match="no such run, backbone, file or name of weights") as told:
        weights_of(study, "typo")
    assert "did you mean 'mae-" in told.value.fix
