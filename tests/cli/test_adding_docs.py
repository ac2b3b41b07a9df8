"""The example in docs/adding.md: its files are taken from the page, made known as it says, and trained."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import vistruct.kinds
import vistruct.recipes
from vistruct.config import run_from_dict, run_to_yaml

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"
FILES = re.findall(r"```python\n# (vistruct/\S+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
LINES = re.findall(r"The line in `(?:KINDS\[\"(\w+)\"\]|RECIPES)`: `\"(\w+)\": \"([\w.:]+)\"`", PAGE.read_text())


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """The page's modules, importable for one test."""
    modules = {}
    for path, source in FILES:
        name = path.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, path, "exec"), module.__dict__)
        module.__doc__ = module.__dict__.get("__doc__")
        modules[name.rpartition(".")[2]] = module
    tables = {**vistruct.kinds.KINDS, "": vistruct.recipes.RECIPES}
    for table, name, place in LINES:
        monkeypatch.setitem(tables[table], name, place)
    return modules


def test_the_page_names_every_file_in_a_line_of_a_table(example: dict[str, types.ModuleType]) -> None:
    assert [name for _, name, _ in LINES] == list(example) == ["plain_conv", "count_error", "count"]
    for _, _, place in LINES:
        module, _, thing = place.partition(":")
        assert not thing or hasattr(importlib.import_module(module), thing)


def test_every_file_that_the_page_points_to_is_there() -> None:
    named = set(re.findall(r"`(vistruct/[\w/]+\.py)`", PAGE.read_text()))
    named -= {path for path in named if path.endswith("/NAME.py")}
    assert len(named) >= 6
    assert [path for path in sorted(named) if not (PAGE.parents[1] / path).is_file()] == []


def test_the_example_backbone_keeps_its_promises(example: dict[str, types.ModuleType]) -> None:
    backbone = example["plain_conv"].PlainConvConfig(width=4, stages=3).build()
    for side in (8, 64):
        (features,) = backbone(torch.rand(2, 3, side, 2 * side))
        (spec,) = backbone.specs
        assert features.shape == (2, spec.channels, side // spec.stride, 2 * side // spec.stride)


def test_the_example_metric_counts(example: dict[str, types.ModuleType]) -> None:
    from vistruct.contracts import BoxPrediction

    metric = example["count_error"].CountError({"a": 3, "b": 0}, 0.5)
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    metric.update([BoxPrediction(id="a", image_id="a", boxes_xyxy=boxes, scores=torch.tensor([0.9, 0.1]),
                                 labels=labels, class_names=("x",))])  # fmt: skip
    assert metric.compute() == {"count_error": 1.0}


def test_the_example_recipe_trains_and_reads_back(example: dict[str, types.ModuleType], tmp_path: Path) -> None:
    import yaml

    from vistruct.engine.train import train

    run = example["count"].tiny()
    assert run_from_dict(yaml.safe_load(run_to_yaml(run))) == run
    out = train(run, tmp_path / "run")
    assert "train/count_error" in (out / "metrics.jsonl").read_text()
