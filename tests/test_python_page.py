"""docs/python.md, done: its blocks are run one after another, as they are printed there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vistruct
from vistruct.errors import UserError
from vistruct.samples import trees
from vistruct.samples.made_maps import loveda_folder
from vistruct.settings import settings_of
from vistruct.study.plan import plan_trials
from vistruct.study.study import Study
from vistruct.verbs.train import train

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def planned(study: Study, out: Path, **how: Any) -> dict[str, Any]:
    """What a study of these trials says, which are planned and not run: `tests/study` runs some."""
    trials = plan_trials(study).trials
    rows = [
        {"name": one.name, "init": one.init, "fraction": one.fraction, "seed": one.seed, "tuning": one.tuning}
        for one in trials
    ]
    rows = [{**row, "value": 0.5} for row in rows]
    gain = {"init": "ours", "against": study.baseline, "fraction": 1.0, "tuning": trials[0].tuning, "mean": 0.25}
    gain |= {"before": 0.25, "after": 0.5, "bootstrap": None, "wins": 1, "pairs": 1, "verdict": "not clear"}
    assert (len(trials), out, how) == (2, Path("runs/study"), {"workers": 1, "threads": 1})
    return {"metric": "val/mIoU", "trials": rows, "gains": [gain], "notes": []}


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(loveda_folder(), "data/fields")
    scene = Image.open(trees().test.with_suffix(".jpg"))
    scene.crop((0, 0, 120, 90)).save("scene.jpg")
    for folder in ("images", "data/images"):
        Path(folder).mkdir()
        for number in range(2):
            scene.crop((100 * number, 0, 100 * number + 100, 80)).save(f"{folder}/{number}.png")
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}]
    files = [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 80} for number in range(2)]
    content = {"images": files, "annotations": boxes, "categories": [{"id": 1, "name": "tree"}]}
    Path("data/boxes.json").write_text(json.dumps(content))
    monkeypatch.setattr("vistruct.study.runner.run_study", planned)
    names: dict[str, Any] = {}
    assert len(BLOCKS) > 5
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert names["checked"].counts["images"] == 2
    run = names["run"]
    assert run.best.metric == "val/mIoU"
    assert run.best.value == pytest.approx(run.metrics["val/mIoU"])
    assert run.report.exists()
    assert {one.name for one in Path("out").iterdir()} > {"scene.png", "geojson"}
    assert len(names["several"]) == 2
    assert names["done"].broken == []
    assert names["table"].shape[1] == 4
    (gain,) = names["found"].gains
    assert (gain.init, gain.against, gain.tuning) == ("ours", "random", "head")
    assert (gain.mean, gain.interval, names["found"].trials[0].value) == (0.25, None, 0.5)


def test_what_is_told_in_python_is_what_the_command_line_is_told(tmp_path: Path) -> None:
    from vistruct.cli.train import resolve
    from vistruct.recipes import find
    from vistruct.recipes.options import taken
    from vistruct.verbs.train import changed, run_of

    data = str(loveda_folder())
    words = [
        "--data",
        data,
        "--split",
        "train",
        "--val-split",
        "val",
        "--join",
        "a=b,c",
        "--bands",
        "1,2,3",
        "--no-flips",
    ]
    typed = resolve(
        "segment", None, [*words, "--steps", "7", "--low", "0", "--high", "1"], ["optim.lr=0.5", "workers=0"]
    )
    options: dict[str, Any] = {
        "data": loveda_folder(),
        "split": "train",
        "val_split": "val",
        "steps": 7,
        "flips": False,
    }
    options |= {"join": {"a": ["b", "c"]}, "bands": [1, 2, 3], "low": "0", "high": [1]}
    told = taken(find("segment").recipe, options)
    assert changed(run_of("segment", told), {"optim.lr": 0.5, "workers": 0}) == typed
    assert settings_of("a.b=c") == ["a.b=c"]


def test_mistakes_name_the_nearest_and_the_call(tmp_path: Path) -> None:
    data = loveda_folder()
    with pytest.raises(UserError, match=r"no option 'stepz'\nvistruct.train\('segment'\)\ndid you mean 'steps'"):
        train("segment", data=data, stepz=3)
    with pytest.raises(UserError, match="did you mean 'out'"):
        train("segment", data=data, ouz="x")
    with pytest.raises(UserError, match="needs data"):
        train("segment")
    with pytest.raises(UserError, match=r"size: (.|\n)*size=INT"):
        train("segment", data=data, size=[3])
    with pytest.raises(UserError, match="no such file"):
        train("segment", data=tmp_path / "absent")
    with pytest.raises(UserError, match="did you mean 'segment'"):
        train("segmant", data=data)
    with pytest.raises(UserError, match="says all of itself"):
        train(config=tmp_path / "run.yaml", steps=3)
    with pytest.raises(UserError, match="did you mean 'classes'"):
        vistruct.check(data, clases="a,b")
    with pytest.raises(UserError, match="did you mean 'tune'"):
        vistruct.study("segment", data=data, tunes="head")
    with pytest.raises(UserError, match="no recipe"):
        vistruct.study()
    assert not (tmp_path / "runs").exists()
