"""docs/python.md, done: its blocks are run one after another, as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistruct.recipes import find
from vistruct.runs import train_and_report
from vistruct.samples import trees

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, place in (("segment", "runs/seg"), ("detect", "runs/det")):
        train_and_report(find(name).tiny().model_copy(update={"steps": 2, "evals": {}}), Path(place))
    scene = Image.open(trees().test.with_suffix(".jpg"))
    scene.crop((0, 0, 120, 90)).save("scene.jpg")
    Path("images").mkdir()
    for number in range(2):
        scene.crop((100 * number, 0, 100 * number + 100, 80)).save(f"images/{number}.png")
    names: dict[str, Any] = {}
    assert len(BLOCKS) > 2
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert names["found"].prediction.class_names == ("tree",)
    assert {one.name for one in Path("out").iterdir()} > {"scene.png", "geojson"}
    assert len(names["several"]) == 2
    assert names["done"].broken == []
    assert names["table"].shape == (len(names["found"].prediction.objects), 4)
