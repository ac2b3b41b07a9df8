from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vistruct.engine.log import RunLog
from vistruct.errors import UserError
from vistruct.progress import tracking


def write(out_dir: Path, resumed_at: int, steps: range, offset: float = 0.0) -> None:
    with RunLog(out_dir) as log:
        log.open_at(resumed_at)
        for step in steps:
            log.write(step, {"loss": step + offset})
        log.flush()


def lines(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def test_steps_that_are_taken_again_are_written_once(tmp_path):
    write(tmp_path, 0, range(1, 8))
    write(tmp_path, 4, range(5, 10), offset=0.5)
    assert [(m["step"], m["loss"]) for m in lines(tmp_path)] == [
        *((n, n) for n in range(1, 5)),
        *((n, n + 0.5) for n in range(5, 10)),
    ]


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
    write(tmp_path, 0, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    write(tmp_path, 3, range(4, 6))
    assert [m["step"] for m in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_tensorboard_reads_the_same_numbers_each_step_once(tmp_path):
    write(tmp_path, 0, range(1, 8))
    time.sleep(1.1)  # its files are in the order of the second that they were begun in
    write(tmp_path, 4, range(5, 10), offset=0.5)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(m["step"], m["loss"]) for m in lines(tmp_path)]


def test_a_number_that_is_not_finite_is_null_and_the_line_is_json(tmp_path):
    with RunLog(tmp_path) as log:
        log.open_at(0)
        log.write(1, {"AP": float("nan"), "loss": float("inf"), "lr": 0.1})
    assert lines(tmp_path) == [{"step": 1, "AP": None, "loss": None, "lr": 0.1}]


def test_the_log_is_spoken_and_written_with_the_time(tmp_path, capsys):
    with RunLog(tmp_path) as log:
        log.say("one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"
    assert [line[21:] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


def test_a_silent_log_still_writes_and_a_quiet_one_does_not(tmp_path, capsys):
    with RunLog(tmp_path, aloud=False) as log:
        log.say("one")
    (tmp_path / "other").mkdir()
    with RunLog(tmp_path / "other", quiet=True) as log:
        log.open_at(0)
        log.say("two")
        log.write(1, {"loss": 1.0})
        log.flush()
    assert capsys.readouterr() == ("", "")
    assert "one" in (tmp_path / "train.log").read_text()
    assert list((tmp_path / "other").iterdir()) == []


def test_what_stopped_a_run_is_in_its_log(tmp_path):
    with pytest.raises(UserError), RunLog(tmp_path):
        raise UserError("cannot be read", where="a.jpg")
    assert "stopped: cannot be read" in (tmp_path / "train.log").read_text()


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(capsys):
    with tracking("run", 0, 1000) as show:
        for step in range(1, 1001):
            show(step, "loss 1")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("run 1/1000  loss 1")
    assert said[1].startswith("run 1000/1000")


def test_other_ranks_show_no_progress(capsys):
    with tracking("run", 0, 2, quiet=True) as show:
        show(1, "")
    assert capsys.readouterr().err == ""
