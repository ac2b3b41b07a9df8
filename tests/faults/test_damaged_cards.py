"""Files of ours that somebody has damaged: three lines and code 2, or made again where they only keep what can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy_engine import toy_run

from vistruct.checkpoint.load import read_card
from vistruct.checkpoint.tensors import read_tensors
from vistruct.checkpoint.weights import read_source
from vistruct.cli.main import main
from vistruct.config import read_run
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.inference.cache import Parts
from vistruct.reports.measured import read_evaluations
from vistruct.reports.run_report import read_metrics, write_run_report

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(toy_run(steps=2), tmp_path_factory.mktemp("toy") / "out")


@pytest.fixture
def run_dir(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: {name: value for name, value in values.items() if name != key}


def with_(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values | {key: value}


def info(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values | {"info": values["info"] | {key: value}}


MODEL = {
    "no info": without("info"),
    "no sha256": without("sha256"),
    "no run": without("run"),
    "no task": without("task"),
    "no input": without("input"),
    "no class names": lambda values: values | {"info": without("class_names")(values["info"])},
    "info a list": with_("info", []),
    "info null": with_("info", None),
    "sha256 a number": with_("sha256", 5),
    "format a list": with_("format", [2]),
    "format of 4,000 digits": with_("format", int("9" * 4000)),
    "task a text": with_("task", "detect"),
    "task of no kind": with_("task", {}),
    "input a list": with_("input", [1]),
    "class names 5": info("class_names", 5),
    "class names numbers": info("class_names", [1, None]),
    "palette of pairs": info("palette", [[1, 2]]),
    "mean a text": info("mean", "grey"),
    "channels a list": info("channels", [3]),
    "pixels unknown": info("pixels", "int3"),
    "a list": lambda _: [],
    "a number": lambda _: 3,
}


@pytest.mark.parametrize("name", MODEL)
def test_a_model_card_that_lacks_something_or_has_it_otherwise(run_dir, name):
    file = run_dir / "model" / "model.json"
    file.write_text(json.dumps(MODEL[name](json.loads(file.read_text()))))
    with pytest.raises(UserError) as caught:
        read_card(run_dir)
    assert caught.value.where.startswith(str(file))
    assert caught.value.fix


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{\x00}\x00", DEEP.encode(), b'{"format": ' + b"9" * 5000 + b"}"]
)
@pytest.mark.parametrize("name", ["model/model.json", "backbone/backbone.json", "data.json", "evaluations/x.json"])
def test_what_is_no_json_at_all(run_dir, name, content, capsys):
    file = run_dir / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    look: dict[str, Callable[[], Any]] = {
        "model/model.json": lambda: read_card(run_dir),
        "backbone/backbone.json": lambda: read_source(run_dir),
        "data.json": lambda: train(toy_run(steps=2), run_dir),
        "evaluations/x.json": lambda: read_evaluations(run_dir),
    }
    with pytest.raises(UserError) as caught:
        look[name]()
    assert caught.value.where.startswith(str(file))
    assert caught.value.fix


@pytest.mark.parametrize("aliases", ['{"b": "nope"}', '["b"]', "{", '{"b": 3}', DEEP])
def test_tied_tensors_that_are_not_there(tmp_path, aliases):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"aliases": aliases})
    with pytest.raises(UserError, match="tied tensors"):
        read_tensors(tmp_path / "x.safetensors")


RUNS = {
    "UTF-16": "steps: 3\n".encode("utf-16"),
    "deep": b"a: " + DEEP.encode(),
    "5,000 digits": b"steps: " + b"9" * 5000,
    "4,000 digits": b"steps: " + b"9" * 4000,
    "hexadecimal": b"steps: 0x" + b"f" * 9000,
    "no date": b"recipe: 2020-99-99\n",
    "no such bytes": b"recipe: !!binary x\n",
    "no number": b"steps: !!int x\n",
    "no truth": b"steps: !!bool x\n",
    "code": b"steps: !!python/object/apply:os.system [exit]\n",
    "a list": b"- 1\n",
    "empty": b"",
    "zeros": bytes(30),
}


@pytest.mark.parametrize("name", RUNS)
def test_run_files(tmp_path, name):
    file = tmp_path / "run.yaml"
    file.write_bytes(RUNS[name])
    with pytest.raises(UserError) as caught:
        read_run(file)
    assert caught.value.where.startswith(str(file))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"image": "x", "settings": "", "state": 3, "values": {}}', '{"image": "x"', DEEP]
)
def test_a_damaged_part_of_a_prediction_is_made_again(tmp_path, content):
    parts = Parts(tmp_path, {"model": 1})
    parts.write("x", [], {})
    assert parts.has("x", [])
    parts.file("x").write_text(content)
    assert not parts.has("x", [])


def test_lines_of_metrics_that_are_none(run_dir):
    lines = [
        '{"step": 1, "loss": 2.5}',
        "[1]",
        '{"step": "x", "loss": 1}',
        '{"loss": 1}',
        DEEP,
        '{"step": 3, "loss": null}',
    ]
    (run_dir / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert read_metrics(run_dir / "metrics.jsonl")["loss"][0] == (1, 2.5)
    for name in ("data.json", "plan.json", "env.json"):
        (run_dir / name).write_text(DEEP)
    assert write_run_report(run_dir).is_file()


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("x"),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        OSError(36, "File name too long", "n" * 300),
        ValueError("Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
def test_what_nobody_foresaw_is_three_lines_all_the_same(monkeypatch, capsys, error):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("vistruct.cli.inspect.gather", fail)
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "x"])
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert [line.partition(":")[0] for line in lines] == ["error", "where", "try"]


def test_a_fault_of_our_own_is_told_as_one(monkeypatch):
    def fail(*_: Any) -> None:
        raise ValueError("a wrong turn")

    monkeypatch.setattr("vistruct.cli.inspect.gather", fail)
    with pytest.raises(ValueError, match="a wrong turn"):
        main(["inspect", "x"])
