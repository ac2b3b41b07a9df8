"""Images that turn unreadable, or into others, while a run reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_jpegs import conversations, flipped, zeroed
from PIL import Image
from several_processes import command
from toy_engine import toy_run

from vistruct.checkpoint.tensors import sha256
from vistruct.config import Run, run_to_yaml
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.loading.fetch import REPLACED
from vistruct.data.loading.loader import Order
from vistruct.engine.train import train
from vistruct.files.decode import UnreadableImage, decode
from vistruct.files.images import clear_cache

IMAGES, STEPS, BATCH = 24, 9, 8  # an epoch is 3 steps


@pytest.fixture(autouse=True)
def _alone():
    clear_cache()
    yield
    clear_cache()


def run_on(file: Path, **changes: Any) -> Run:
    return toy_run(data=ChatDataConfig(jsonl=file, **changes), steps=STEPS, batch=BATCH, save_every=2)


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


RNG = np.random.default_rng(0)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": rewrite(lambda data: data[: len(data) // 2]),
    "empty": rewrite(lambda data: b""),
    "deleted": lambda path: path.unlink(),
    "zeroed block": rewrite(lambda data: zeroed(data, RNG)),
    "flipped bits": rewrite(lambda data: flipped(data, RNG)),
    "another picture": lambda path: shutil.copy(path.with_name("0.jpg"), path),
    "a folder": become_a_folder,
    "no permission": lambda path: (path.unlink(), path.symlink_to(path)),  # a loop; the superuser may read anything
}


def due_in(step: int) -> int:
    """A sample that is due in a step and in none before, and is not the first."""
    order = Order(IMAGES, BATCH, 0)
    return next(index for _, index in order.keys(step) if index != 0)


def damage_after(step: int, path: Path, damage: Callable[[Path], object]) -> Callable[[int, dict[str, float]], None]:
    def on_step(done: int, _metrics: dict[str, float]) -> None:
        if done == step:
            damage(path)

    return on_step


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_run_stops_with_its_name_and_once_it_is_mended_ends_as_if_nothing_had_been(tmp_path, kind):
    file = conversations(tmp_path / "data", IMAGES)
    run, path = run_on(file), file.with_name(f"{due_in(2)}.jpg")
    shutil.copytree(file.parent, tmp_path / "backup")
    with pytest.raises(UnreadableImage) as caught:
        train(run, tmp_path / "cut", on_step=damage_after(1, path, DAMAGE[kind]))
    assert caught.value.where == str(path)
    assert caught.value.fix
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup" / path.name, path)
    train(run, tmp_path / "cut")
    clear_cache()
    train(run, tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def weights(out_dir: Path) -> str:
    return sha256(out_dir / "model" / "model.safetensors")


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kind", ["truncated", "deleted", "flipped bits"])
def test_where_asked_another_takes_its_place_counted_and_the_same_after_a_restart(tmp_path, kind):
    file = conversations(tmp_path / "data", IMAGES)
    run, path = run_on(file, on_broken="replace"), file.with_name(f"{due_in(2)}.jpg")
    shutil.copytree(file.parent, tmp_path / "backup")

    def cut_off(done: int, _metrics: dict[str, float]) -> None:
        damage_after(1, path, DAMAGE[kind])(done, {})
        if done == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", on_step=cut_off)
    train(run, tmp_path / "cut")
    damaged = None if kind == "deleted" else path.read_bytes()
    shutil.copy(tmp_path / "backup" / path.name, path)
    clear_cache()

    def damage(at: Path) -> None:
        at.unlink() if damaged is None else at.write_bytes(damaged)

    train(run, tmp_path / "whole", on_step=damage_after(1, path, damage))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    said = (tmp_path / "whole" / "train.log").read_text()
    assert said.count(f"{path}: {REPLACED}") == 1
    assert f"3 x {REPLACED} ({path}; {path}; {path})" in said  # once in each of three epochs


@pytest.mark.parametrize(("damage", "seen_by_decoding"), [(zeroed, 150), (flipped, 60)])
def test_the_checksums_of_the_index_find_every_damaged_jpeg_of_two_hundred(tmp_path, damage, seen_by_decoding):
    rng = np.random.default_rng(0)
    file = conversations(tmp_path / "data", 200)
    dataset = ChatDataConfig(jsonl=file).build(cache=tmp_path / "index")
    found = found_by_decoding = 0
    for index in range(200):
        path = file.with_name(f"{index}.jpg")
        path.write_bytes(damage(path.read_bytes(), rng))
        with pytest.raises(UnreadableImage) as caught:
            dataset.sample(index, seed=0)
        found += caught.value.where == str(path)
        try:
            decode(path.read_bytes(), path)
        except UnreadableImage:
            found_by_decoding += 1
    assert found == 200
    assert seen_by_decoding <= found_by_decoding < 200  # which is why there are checksums


def test_the_command_line_tells_it_in_three_lines(tmp_path):
    file = conversations(tmp_path / "data", IMAGES)
    (tmp_path / "run.yaml").write_text(run_to_yaml(run_on(file)))
    train_command = ["train", "-c", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    damaged = file.with_name(f"{due_in(0)}.jpg")
    DAMAGE["truncated"](damaged)  # before the run: the header is sound, and nothing else is known of it
    assert command(train_command, tmp_path / "said") == [2]
    lines = (tmp_path / "said").read_text().splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "where", "try"]
    assert damaged.name in lines[1]  # found before the first step, with its line


def stopped(tmp_path: Path) -> tuple[Path, Path]:
    """Conversations, and the image of theirs at which a run in `cut` has stopped."""
    file = conversations(tmp_path / "data", IMAGES)
    path = file.with_name(f"{due_in(2)}.jpg")
    with pytest.raises(UnreadableImage):
        train(run_on(file), tmp_path / "cut", on_step=damage_after(1, path, DAMAGE["truncated"]))
    with pytest.raises(UnreadableImage):  # it is still broken, and its sample is still due
        train(run_on(file), tmp_path / "cut")
    clear_cache()
    return file, path


def test_a_stopped_run_goes_on_with_the_image_saved_anew_and_says_so(tmp_path, capsys):
    file, path = stopped(tmp_path)
    with Image.open(file.with_name("0.jpg")) as whole:
        Image.new("RGB", whole.size, (9, 9, 9)).save(path, quality=50)  # other bytes, of the same size in pixels
    train(run_on(file), tmp_path / "cut")
    assert f"1 images have changed since they were indexed, and are read as they are now: {path.name}" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "cut" / "model" / "model.safetensors").exists()


def test_a_stopped_run_goes_on_with_another_sample_in_the_place(tmp_path):
    file, path = stopped(tmp_path)
    train(run_on(file, on_broken="replace"), tmp_path / "cut")
    assert f"{path}: {REPLACED}" in (tmp_path / "cut" / "train.log").read_text()


def test_what_was_left_out_when_a_run_began_stays_out_once_it_is_mended(tmp_path):
    file = conversations(tmp_path / "data", IMAGES)
    path = file.with_name("3.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    run = run_on(file).model_copy(update={"max_left_out": 0.1})

    def cut_off(done: int, _metrics: dict[str, float]) -> None:
        if done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", on_step=cut_off)
    path.write_bytes(whole)
    train(run, tmp_path / "cut")
    noted = json.loads((tmp_path / "cut" / "data.json").read_text())["train"]["main"]
    assert noted["num_records"] == IMAGES - 1
    assert len(ChatDataConfig(jsonl=file).build()) == IMAGES  # a new run has it
