"""Files that run code when they are unpickled, or imported, wherever the program takes a file from others."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_engine import toy_run

from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.weights import load_backbone
from vistruct.cli.main import main
from vistruct.config import read_run, run_to_yaml
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.loading.columns import read_columns, write_columns
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.vlm.language import read_language, read_tokenizer

CANARY = "canary"  # in the current folder: made by code that should not have run


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(CANARY),)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()


def test_the_evil_file_does_run_where_it_is_unpickled():
    pickle.loads(pickle.dumps(Evil()))
    assert Path(CANARY).exists()
    Path(CANARY).unlink()


def as_torch(path: Path) -> None:
    torch.save({"model": {"embed.weight": Evil()}}, path)


def as_old_torch(path: Path) -> None:
    torch.save({"embed.weight": Evil()}, path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"embed.weight": Evil()}))


def as_state_of_a_tensor(path: Path) -> None:
    """Hidden behind real tensors, in the attributes that a subclass of Tensor may bring along."""
    tensor = torch.zeros(2)
    tensor.__dict__["extra"] = Evil()
    torch.save({"embed.weight": tensor, "optimizer": {"state": {0: Evil()}}}, path)


WRITERS = [as_torch, as_old_torch, as_pickle, as_state_of_a_tensor]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl", ""])
def test_no_file_of_weights_runs_code_whatever_it_is_called(write: Callable[[Path], None], suffix: str):
    path = Path(f"weights{suffix}")
    write(path)
    run = toy_run()
    task: Any = run.only.task
    with pytest.raises(UserError) as caught:
        load_backbone(task.backbone.build(), path)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("setting", ["init", "start"])
@pytest.mark.parametrize("name", ["weights.bin", "folder/pytorch_model.bin"])
def test_the_command_line_refuses_them_in_three_lines(setting: str, name: str, capfd):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    as_torch(path)
    (path.parent / "folder.txt").touch()
    Path("run.yaml").write_text(run_to_yaml(toy_run()))
    given = path if path.parent == Path() else path.parent
    with pytest.raises(SystemExit) as end:
        main(["train", "-c", "run.yaml", "--out", "out", "--set", f"{setting}={given}"])
    assert end.value.code == 2
    lines = capfd.readouterr().err.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "where", "try"]


def test_pickles_in_a_checkpoint_are_not_opened(tmp_path):
    """Torch's own sharded format has a pickle, `.metadata`, which its loader runs."""
    run = toy_run(steps=4, save_every=2)
    train(run, tmp_path / "plain")

    def interrupt(done: int, _metrics: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", on_step=interrupt)
    root = tmp_path / "run" / "checkpoints"
    assert [path.name for path in steps(root)] == ["step_00000002"]
    torchs = root / "step_00000003"  # newer than ours, and all pickles
    torchs.mkdir()
    for folder in (root, steps(root)[-1], torchs):
        for name in (".metadata", "optimizer.pt", "rng_state.pth", "__0_0.distcp", "manifest.pkl", "model.safetensors"):
            (folder / name).write_bytes(pickle.dumps(Evil()))
    train(run, tmp_path / "run")
    assert "step_00000003 is damaged" in (tmp_path / "run" / "train.log").read_text()
    model = Path("model", "model.safetensors")
    assert sha256(tmp_path / "run" / model) == sha256(tmp_path / "plain" / model)


@pytest.mark.parametrize("name", ["manifest.json", "shard_00000-of-00001.safetensors"])
def test_a_pickle_in_the_place_of_our_own_files_is_a_damaged_checkpoint(tmp_path, name):
    run = toy_run(steps=2, save_every=2)
    train(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step_00000002" / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="none of the 1 checkpoints is intact"):
        train(run, tmp_path / "run")


def test_objects_in_the_caches_of_the_data_are_made_anew_and_never_unpickled(tmp_path, capfd):
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "trees"}]
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"conversations": turns}) + "\n")
    data, cache = ChatDataConfig(jsonl=file), tmp_path / "cache"
    first = data.build(cache=cache)
    kept = sorted(cache.iterdir())
    assert kept
    for path in kept:
        with_objects(path)
    again = data.build(cache=cache)
    assert again.info.fingerprint == first.info.fingerprint
    assert again.records[0].turns == first.records[0].turns
    assert "made anew" in capfd.readouterr().err


def with_objects(path: Path) -> None:
    """Replace the columns by pickled objects; header and checksum are as they should be."""
    body = path.read_bytes()[:-4]
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name.startswith("__header__"):
                new.writestr(name, old.read(name))
                continue
            array = io.BytesIO()
            np.save(array, np.array([Evil()], dtype=object), allow_pickle=True)
            new.writestr(name, array.getvalue())
    path.write_bytes(out.getvalue() + zlib.crc32(out.getvalue()).to_bytes(4, "little"))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.npz.pkl"])
def test_a_cache_that_is_a_pickle_is_noticed(tmp_path, name):
    path = tmp_path / name
    write_columns(path, {}, {"a": np.zeros(1)})
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Exception, match="damaged"):
        read_columns(path, {})


@pytest.mark.parametrize("name", ["annotations.pkl", "annotations.json", "annotations.jsonl", "annotations.npy"])
def test_pickled_annotations_are_not_opened(name: str, capfd):
    Path(name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SystemExit) as end:
        main(["check", name])
    assert end.value.code in (1, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_file_is_data_and_not_a_program():
    Path("run.yaml").write_text(f"steps: !!python/object/apply:os.mkdir [{CANARY}]\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_run(Path("run.yaml"))
    Path("run.yaml").write_text(run_to_yaml(toy_run()).replace("toy_engine:ToyTaskConfig", "os:system"))
    with pytest.raises(UserError, match=r"os:system is no vistruct\.config\.Part"):
        read_run(Path("run.yaml"))


def public_folder_with_code() -> Path:
    """A language model as the hub has them: its configuration names Python files beside it."""
    folder = Path("theirs")
    folder.mkdir()
    code = f"import pathlib\npathlib.Path({os.path.abspath(CANARY)!r}).touch()\n"
    for name in ("configuration_evil", "modeling_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(code)
    kinds = {
        "AutoConfig": "configuration_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilModel",
        "AutoTokenizer": ["tokenization_evil.EvilTokenizer", None],
    }
    config = {"model_type": "evil", "architectures": ["EvilModel"], "auto_map": kinds, "vocab_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EvilTokenizer", "auto_map": kinds}))
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_code_beside_a_public_model_is_not_imported():
    folder = public_folder_with_code()
    for load in (read_tokenizer, read_language):
        with pytest.raises(UserError) as caught:
            load(folder)
        assert str(folder) in str(caught.value)
