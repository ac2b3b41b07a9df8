"""One process at a time works in a folder, and the mark of a dead one stops nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

import vistruct.files.in_use as in_use_file
from vistruct.errors import UserError
from vistruct.files.in_use import NAME, in_use

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of Unix")

HOLD = """
import sys, time
from pathlib import Path
from vistruct.files.in_use import in_use
with in_use(Path(sys.argv[1]), "this run is being trained"):
    print("held", flush=True)
    {then}
"""
FORK = "import os; os.fork() or time.sleep(8); time.sleep(8)"


def holder(folder: Path, then: str = "time.sleep(60)") -> subprocess.Popen[str]:
    code = HOLD.format(then=then)
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use_file, "GRACE_S", 0.2)
    monkeypatch.setattr(in_use_file, "BEAT_S", 0.1)
    monkeypatch.setattr(in_use_file, "WATCH_S", 0.6)


def test_the_second_is_told_which_process_has_it_on_which_machine_and_since_when(tmp_path):
    first = holder(tmp_path)
    try:
        mark = (tmp_path / NAME).read_bytes()
        with pytest.raises(UserError) as caught, in_use(tmp_path, "other"):
            pass
        assert caught.value.what.startswith(
            f"this run is being trained by process {first.pid} on machine {os.uname()[1]} since 2"
        )
        assert (tmp_path / NAME).read_bytes() == mark
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("then", ["time.sleep(60)", FORK])
def test_a_killed_process_stops_nobody_though_its_child_lives_on(tmp_path, then):
    first = holder(tmp_path, then)
    first.kill()
    first.wait()
    assert (tmp_path / NAME).exists()
    with in_use(tmp_path, "other"):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_it_goes_with_its_block_and_a_folder_that_was_made_for_nothing_too(tmp_path):
    with in_use(tmp_path / "a" / "b", "x"):
        pass
    with in_use(tmp_path / "c", "x"):
        (tmp_path / "c" / "kept").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "c", "kept"]


def test_one_process_does_not_have_it_twice(tmp_path):
    with in_use(tmp_path, "first"), pytest.raises(UserError, match="first by process"), in_use(tmp_path, "second"):
        pass


def elsewhere(folder: Path) -> Path:
    mark = {"doing": "this run is being trained", "process": 7, "host": "node3", "since": "yesterday", "boot": "other"}
    (folder / NAME).write_text(json.dumps(mark))
    return folder / NAME


def test_a_mark_of_another_machine_that_nobody_touches_is_that_of_a_dead_process(tmp_path, capsys):
    elsewhere(tmp_path)
    with in_use(tmp_path, "x"):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert "is process 7 on machine node3 alive?" in capsys.readouterr().err


def test_a_mark_that_another_machine_touches_is_respected_even_where_its_lock_is_not_seen(tmp_path):
    mark, done = elsewhere(tmp_path), threading.Event()

    def beat() -> None:
        while not done.wait(0.05):
            os.utime(mark)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="by process 7 on machine node3 since yesterday"), in_use(tmp_path, "x"):
            pass
    finally:
        done.set()
        thread.join()
    assert json.loads(mark.read_text())["process"] == 7


def test_without_locks_of_the_file_system_the_touched_mark_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(in_use_file, "_locked", lambda _: None)
    with in_use(tmp_path, "first"):
        in_use_file._own.clear()
        with pytest.raises(UserError, match="first by process"), in_use(tmp_path, "second"):
            pass
        time.sleep(0.2)


def test_a_mark_cut_short_and_a_link_in_its_place(tmp_path):
    (tmp_path / NAME).write_text('{"doing')
    with in_use(tmp_path, "x"):
        pass
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match="cannot write there"), in_use(tmp_path, "x"):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_three_lines(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there"), in_use(tmp_path / "file", "x"):
        pass
    with mock.patch("os.open", side_effect=PermissionError(13, "Permission denied")), pytest.raises(UserError):
        in_use(tmp_path, "x").__enter__()
