from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistruct.distributed.launch import launch


def run(code: str, devices: int) -> int:
    return launch(["-c", code], devices)


def test_each_process_knows_its_place(tmp_path):
    code = f"""
import os
keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w").write(" ".join(os.environ[k] for k in keys))
"""
    assert run(code, 3) == 0
    said = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:3] for words in said] == [[str(rank), str(rank), "3"] for rank in range(3)]
    assert len({tuple(words[3:]) for words in said}) == 1


def test_when_one_fails_the_others_are_ended_and_its_words_are_shown(capfd):
    code = """
import os, sys, time
if os.environ["RANK"] == "1":
    sys.exit("rank one could not go on")
time.sleep(60)
"""
    start = time.monotonic()
    assert run(code, 2) == 1
    assert time.monotonic() - start < 20
    assert "rank one could not go on" in capfd.readouterr().err


def test_a_mistake_that_all_make_is_told_once(capfd):
    assert run("import sys; print('the same mistake', file=sys.stderr); sys.exit(2)", 3) == 2
    assert capfd.readouterr().err.count("the same mistake") == 1


def test_the_words_are_those_of_the_one_that_failed_and_not_of_those_that_lost_it(capfd):
    code = """
import os, sys, time
if os.environ["RANK"] == "2":
    print("image 7 cannot be read", file=sys.stderr)
    sys.exit(2)
time.sleep(0.3)
print("lost the connection", file=sys.stderr)
sys.exit(3)
"""
    assert run(code, 3) == 2
    assert capfd.readouterr().err == "lost the connection\nimage 7 cannot be read\n"


def test_only_the_first_speaks(capfd):
    assert run("import os; print('rank', os.environ['RANK'])", 2) == 0
    assert capfd.readouterr().out == "rank 0\n"


def test_a_process_that_is_killed_gives_the_shells_code():
    assert run("import os; os.kill(os.getpid(), 9)", 1) == 137


def test_a_process_that_is_killed_is_named_and_the_others_are_ended(capfd):
    code = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    start = time.monotonic()
    assert run(code, 3) == 137
    assert time.monotonic() - start < 20
    assert "process 1 of 3 was killed (SIGKILL)" in capfd.readouterr().err


def test_a_second_signal_ends_processes_that_do_not_listen(tmp_path):
    child = f"""
import signal, time
signal.signal(signal.SIGTERM, lambda *_: open({str(tmp_path / "heard")!r}, "w").close())
open({str(tmp_path / "ready")!r}, "w").close()
while True:
    time.sleep(60)
"""
    code = f"import sys; from vistruct.distributed.launch import launch; sys.exit(launch(['-c', {child!r}], 1))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    for file in ("ready", "heard"):
        while not (tmp_path / file).exists():
            time.sleep(0.01)
        os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait(timeout=30) == 137


def test_sigterm_reaches_the_processes(tmp_path):
    child = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))
open({str(tmp_path / "ready")!r}, "w").close()
time.sleep(60)
"""
    code = f"import sys; from vistruct.distributed.launch import launch; sys.exit(launch(['-c', {child!r}], 1))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait(timeout=30) == 43


RANK = """
import os, signal, sys, time
from pathlib import Path
from vistruct.distributed.launch import end_with_launcher
end_with_launcher()
signal.signal(signal.SIGHUP, lambda *_: sys.exit(44))
place = Path({place!r}, os.environ["RANK"])
place.with_suffix(".new").write_text(str(os.getpid()))
place.with_suffix(".new").rename(place)
time.sleep(60)
"""


def launched(place: Path, devices: int) -> tuple[subprocess.Popen[bytes], list[int]]:
    child = RANK.format(place=str(place))
    code = f"import sys; from vistruct.distributed.launch import launch; sys.exit(launch(['-c', {child!r}], {devices}))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    files = [place / str(rank) for rank in range(devices)]
    while not all(file.exists() for file in files):
        time.sleep(0.01)
    return parent, [int(file.read_text()) for file in files]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_ranks_end_with_a_launcher_that_is_killed(tmp_path):
    parent, ranks = launched(tmp_path, 2)
    assert all(map(is_alive, ranks))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 15
    while any(map(is_alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, ranks))


@pytest.mark.usefixtures("with_a_terminal")
def test_a_closed_terminal_reaches_the_processes_and_several_of_its_signals_kill_none(tmp_path):
    parent, _ = launched(tmp_path, 1)
    for _ in range(3):
        os.kill(parent.pid, signal.SIGHUP)
    assert parent.wait(timeout=30) == 44
