"""docs/adding.md, done: a package outside of vistruct brings every kind of part, and no file of vistruct knows of it.

It is taken from the page as it is printed there, and checks, trains, is killed, resumes, measures, draws, predicts,
writes and studies.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from several_processes import command

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import read_run, run_to_yaml
from vistruct.contracts import FeatureSpec, Objects, Queries
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of, train
from vistruct.inference.model import load
from vistruct.kinds import part_class
from vistruct.recipes import find
from vistruct.runs import train_and_report
from vistruct.tasks.pointing import PointingConfig

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"
FILES = dict(re.findall(r"```python\n# (my_parts/\S+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package on Python's path, here and in every process that is started."""
    root = tmp_path_factory.mktemp("outside")
    for name, source in FILES.items():
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
    (root / "my_parts" / "__init__.py").touch()
    sys.path.insert(0, str(root))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *([before] if before else [])])
    yield root
    sys.path.remove(str(root))
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def squares(folder: Path, num: int, seed: int) -> Path:
    """Images of 64 x 64 with up to six bright squares, a table of their boxes, and where they are."""
    folder.mkdir()
    rng, rows = np.random.default_rng(seed), []
    for number in range(num):
        image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        label_map = np.zeros((64, 64), np.uint8)
        for _ in range(int(rng.integers(1, 7))):
            x, y = rng.integers(0, 54, 2)
            image[y : y + 8, x : x + 8] = 250
            label_map[y : y + 8, x : x + 8] = 1
            rows.append(f"{number}.jpg square {x} {y} {x + 8} {y + 8}\n")
        Image.fromarray(image).save(folder / f"{number}.jpg", quality=95)
        Image.fromarray(label_map).save(folder / f"{number}.truth.png")
    (folder / "boxes.table").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("squares")
    return squares(root / "train", 24, 0), squares(root / "val", 8, 1)


@pytest.fixture(scope="module")
def run_dir(outside: Path, data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = find("my_parts.recipe").recipe(data=data[0], val=data[1], steps=150)
    return train_and_report(run, tmp_path_factory.mktemp("runs") / "count")


def test_the_page_brings_one_of_every_kind_and_every_file_that_it_points_to_is_there():
    assert set(FILES) == {f"my_parts/{name}.py" for name in ("net", "circle", "formats", "counting", "recipe")}
    kinds = re.findall(r'kind: Literal\["my_parts\.(\S+)"\]', "".join(FILES.values()))
    assert [kind.partition(":")[2] for kind in kinds] == [
        "ConvConfig", "PointwiseConfig", "CircleConfig", "CountingConfig", "CountErrorConfig",
    ]  # fmt: skip
    named = set(re.findall(r"`(vistruct/[\w/]+\.py)`", PAGE.read_text()))
    assert len(named) >= 6
    assert [path for path in sorted(named) if not (PAGE.parents[1] / path).is_file()] == []


def test_it_learns_is_measured_drawn_and_told(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "loss_where", "loss_number", "right"} <= lines[0].keys()
    assert lines[-1]["loss_number"] < lines[0]["loss_number"]
    assert lines[-1]["val/error"] < 2.0  # saying always the mean number is wrong by 1.5
    assert (run_dir / "samples" / "predictions_val.png").is_file()
    assert "val/error" in (run_dir / "report.html").read_text()


def test_its_two_terms_have_the_same_gradient_however_the_step_is_split(outside, data, tmp_path):
    def gradients(accumulate: int) -> list[torch.Tensor]:
        run = find("my_parts.recipe").recipe(data=data[0], val=data[1], steps=2)
        state = build(run.model_copy(update={"accumulate": accumulate, "clip_norm": None, "amp": "off"}), tmp_path)
        train_step(state, next(iter(loader_of(state))))
        return [p.grad for p in state.model.parameters() if p.grad is not None]

    for one, other in zip(gradients(1), gradients(4), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_its_run_file_is_its_own_input(outside, data, run_dir, tmp_path):
    run = find("my_parts.recipe").recipe(data=data[0], val=data[1], steps=150)
    assert read_run(run_dir / "run.yaml") == run
    tiny = find("my_parts.recipe").tiny()
    (tmp_path / "tiny.yaml").write_text(run_to_yaml(tiny))
    assert read_run(tmp_path / "tiny.yaml") == tiny


def test_killed_and_started_again_it_ends_with_the_same_bits(outside, data, tmp_path):
    run = find("my_parts.recipe").recipe(data=data[0], val=data[1], steps=9)
    run = run.model_copy(update={"save_every": 2, "save_async": False, "workers": 0})
    whole = train(run, tmp_path / "whole")

    def die(step: int, _: dict[str, float]) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        train(run, tmp_path / "cut", on_step=die)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    cut = train(run, tmp_path / "cut")
    assert "resuming from step 4" in (cut / "train.log").read_text()
    one, two = (read_tensors(out / "model" / "model.safetensors") for out in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


def test_the_command_line_checks_measures_and_predicts_with_it_and_goes_on_where_it_was(
    outside, data, run_dir, tmp_path
):
    train_data, images = str(data[0]), sorted(map(str, data[1].glob("*.jpg")))
    said = tmp_path / "said"
    assert command(["check", train_data, "--format", "my_parts.formats:TABLE"], said) == [0]
    assert "square" in said.read_text()
    assert command(["eval", str(run_dir), "--json"], said) == [0]
    assert json.loads(said.read_text()[said.read_text().index("{") :])["evaluations"]["val"]["error"] < 2.0
    out = tmp_path / "out"
    for _ in range(2):
        assert command(["predict", str(run_dir), *images, "--out", str(out)], said) == [0]
    rows = list(csv.DictReader((out / "counts.csv").open()))
    assert len(rows) == 8
    model = load(run_dir)
    for row in rows:
        assert model.predict(data[1] / row["image"]).prediction.number == pytest.approx(float(row["number"]), rel=1e-4)


def test_its_head_and_its_label_maps_serve_a_task_of_ours(outside, data, tmp_path):
    from my_parts.net import ConvConfig, PointwiseConfig

    from vistruct.config import Run
    from vistruct.data.maps import MapDataConfig
    from vistruct.tasks.segment import SegmentConfig

    task = SegmentConfig(backbone=ConvConfig(stages=2), head=PointwiseConfig())
    maps = MapDataConfig(root=data[0], format="my_parts.formats:TRUTH")
    run = Run.model_validate({"task": task, "data": maps, "batch": 4, "steps": 20, "optim": {"lr": 1e-2}})
    found = load(train(run, tmp_path / "run")).predict(data[1] / "0.jpg").prediction
    truth = torch.from_numpy(np.array(Image.open(data[1] / "0.truth.png"))).long()
    assert found.class_names == ("ground", "square")
    assert float((found.label_map == truth).float().mean()) > 0.8


def test_a_study_asks_what_a_pretrained_backbone_of_it_is_worth(outside, data, run_dir, tmp_path):
    words = [
        *("study", "my_parts.recipe", "--data", str(data[0]), "--val", str(data[1]), "--steps", "4"),
        *("--init", "random", "--init", f"ours={run_dir}", "--fraction", "1", "--tune", "head", "--seeds", "2"),
        *("--out", str(tmp_path / "study"), "--json"),
    ]
    done = subprocess.run([sys.executable, "-m", "vistruct.cli.main", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert study["metric"] == "val/error"
    assert {trial["init"] for trial in study["trials"]} == {"random", "ours"}


def test_its_decoder_draws_for_object_tokens(outside):
    config = part_class("my_parts.circle:CircleConfig", "decoder").model_validate({})
    assert PointingConfig.model_validate({"decoders": {"circle": config.model_dump()}}).decoders["circle"] == config
    torch.manual_seed(0)
    decoder = config.build((FeatureSpec(channels=8, stride=8),), 16)
    asked = Queries(states=torch.randn(2, 3, 16), groups=((2, 1), (1,)))
    seen, corners = [torch.randn(2, 8, 6, 6)], torch.tensor([[4.0, 4, 12, 12], [20, 30, 40, 44], [8, 0, 16, 8]])
    truths = [Objects(labels=torch.zeros(n, dtype=torch.int64), boxes_xyxy=corners[:n]) for n in (3, 1)]
    optimizer, losses = torch.optim.AdamW(decoder.parameters(), lr=0.03), []
    for _ in range(60):
        output = decoder(asked, seen)
        losses.append(decoder.loss(output, truths).terms["circle"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.5 * losses[0].item()
    assert decoder.units(truths) == {"circle": 4.0}
    turned = truths[0].keep(torch.tensor([1, 0, 2]))  # the objects of the first phrase in another order
    again = decoder.loss(output, [turned, truths[1]]).terms["circle"]
    torch.testing.assert_close(again, losses[-1])
    assert [len(one) for one in decoder.decode(output, (48, 48))] == [3, 1]
    nothing = decoder(Queries(states=torch.zeros(1, 0, 16), groups=((),)), [seen[0][:1]])
    optimizer.zero_grad()
    decoder.loss(nothing, [truths[0].keep(torch.zeros(3, dtype=torch.bool))]).terms["circle"].backward()
    assert all(one.grad is not None and not one.grad.any() for one in decoder.parameters())
