from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_jobs import wait_for

from vistruct.errors import UserError
from vistruct.study.display import Bars, Lines
from vistruct.study.jobs import Job, run_jobs


class Heard(Lines):
    """Keeps what the runner tells."""

    def __init__(self) -> None:
        self.begun: tuple[int, int] = (-1, -1)
        self.starts: list[str] = []
        self.ends: dict[str, float | None] = {}
        self.progress: list[tuple[str, float, float, str]] = []

    def begin(self, total, done):
        self.begun = (total, done)

    def started(self, name):
        self.starts.append(name)

    def progressed(self, name, done, total, text):
        self.progress.append((name, done, total, text))

    def ended(self, name, seconds):
        self.ends[name] = seconds


def add(name, a, needs=(), cost=1.0, **arguments):
    return Job(name=name, call="toy_jobs:add", arguments={"a": a, **arguments}, needs=needs, cost=cost)


def run(jobs, out, workers=1, show=None, threads=1):
    return run_jobs(jobs, out, workers=workers, threads=threads, show=show or Heard())


def test_a_cell_runs_after_its_needs_and_gets_their_results_in_one_lasting_worker(tmp_path):
    journal = tmp_path / "journal"
    jobs = [  # given the wrong way round
        add("top", 100, ("left", "right"), journal=str(journal)),
        add("left", 10, ("base",), journal=str(journal)),
        add("right", 20, ("base",), journal=str(journal)),
        add("base", 1, journal=str(journal)),
    ]
    results = run(jobs, tmp_path / "out")

    assert {name: result["sum"] for name, result in results.items()} == {
        "top": 132,
        "left": 11,
        "right": 21,
        "base": 1,
    }
    assert list(results) == ["top", "left", "right", "base"]
    lines = journal.read_text().splitlines()
    assert lines[:2] == ["start 1", "end 1"]
    assert lines[-2:] == ["start 100", "end 100"]
    assert len({result["pid"] for result in results.values()}) == 1
    assert results["top"]["pid"] != os.getpid()


def test_only_what_is_missing_or_asked_differently_runs_again(tmp_path):
    jobs = [add("a", 1), add("b", 2, ("a",)), add("c", 3)]
    first = run(jobs, tmp_path)

    again = Heard()
    assert run(jobs, tmp_path, show=again) == first
    assert again.starts == []
    assert again.begun == (3, 3)

    changed = Heard()
    results = run([add("a", 5), add("b", 2, ("a",)), add("c", 3)], tmp_path, show=changed)
    assert changed.starts == ["a", "b"]  # b was asked the same, of another a
    assert (results["a"]["sum"], results["b"]["sum"], results["c"]["sum"]) == (5, 7, 3)

    (tmp_path / "jobs" / "c.json").write_text('{"hash": "cut sh')
    broken = Heard()
    run([add("a", 5), add("b", 2, ("a",)), add("c", 3)], tmp_path, show=broken)
    assert broken.starts == ["c"]


def test_cost_and_threads_change_no_result_and_run_nothing_again(tmp_path):
    run([add("a", 1)], tmp_path)
    heard = Heard()
    run([add("a", 1, cost=7.0)], tmp_path, show=heard, threads=2, workers=2)
    assert heard.starts == []


def test_a_result_is_the_same_when_made_and_when_read_back(tmp_path):
    jobs = [Job(name="s", call="toy_jobs:shapes")]
    made = run(jobs, tmp_path)
    assert made == {"s": {"by_shots": {"5": [0.5, 1.0]}, "unknown": None}}
    assert run(jobs, tmp_path) == made
    record = json.loads((tmp_path / "jobs" / "s.json").read_text())
    assert record["call"] == "toy_jobs:shapes"
    assert record["result"] == made["s"]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["s.json"]  # nothing half-written, no empty log


def test_the_longest_chain_starts_first_and_equals_as_given(tmp_path):
    jobs = [
        add("short", 1, cost=2),
        add("also_short", 1, cost=2),
        add("long", 2, cost=5),
        add("first_of_chain", 3, cost=1),
        add("last_of_chain", 4, ("first_of_chain",), cost=9),
    ]
    heard = Heard()
    run(jobs, tmp_path, show=heard)
    assert heard.starts == ["first_of_chain", "last_of_chain", "long", "short", "also_short"]


def test_as_many_cells_run_together_as_there_are_workers(tmp_path):
    def meeting(name, other):
        arguments = {"folder": str(tmp_path), "name": name, "others": [other]}
        return Job(name=name, call="toy_jobs:meet", arguments=arguments)

    run([meeting("a", "b"), meeting("b", "a")], tmp_path / "out", workers=2)


def test_a_failing_cell_stops_the_study_is_named_and_what_ran_beside_it_is_kept(tmp_path):
    folder = {"folder": str(tmp_path)}
    slow = Job(name="slow", call="toy_jobs:slow", arguments=folder, cost=3)
    failing = Job(name="failing", call="toy_jobs:boom_beside", arguments=folder, cost=2)
    heard = Heard()
    with pytest.raises(UserError, match="job 'failing' failed: ValueError: boom") as caught:
        run([slow, failing, add("later", 1)], tmp_path / "out", workers=2, show=heard)

    log = Path(caught.value.where)
    assert log == tmp_path / "out" / "jobs" / "failing.log"
    assert 'raise ValueError("boom")' in log.read_text()
    assert heard.starts == ["slow", "failing"]  # nothing new after the failure
    assert heard.ends["failing"] is None
    assert heard.ends["slow"] is not None

    again = Heard()
    results = run([slow, add("later", 1)], tmp_path / "out", show=again)
    assert again.starts == ["later"]
    assert results["slow"] == {"kept": True}


def test_every_way_to_fail_names_the_cell(tmp_path):
    def fails(call):
        with pytest.raises(UserError) as caught:
            run([Job(name="it", call=call)], tmp_path)
        assert "'it'" in caught.value.what
        assert caught.value.fix
        assert not (tmp_path / "jobs" / "it.json").exists()
        return caught.value

    error = fails("toy_jobs:mistake")
    assert (error.what, error.where, error.fix) == ("job 'it': no such file", "scene.json", "check the path")
    assert "gave list" in fails("toy_jobs:wrong").what
    assert "no_such_module" in fails("no_such_module:f").what
    assert "no_such_function" in fails("toy_jobs:no_such_function").what
    assert "exit code 3" in fails("toy_jobs:leave").what
    assert "SIGKILL" in fails("toy_jobs:killed").what
    assert Path(fails("toy_jobs:boom").where).read_text().startswith("about to fail")


def test_a_worker_killed_from_outside_is_reported_and_the_next_run_goes_on(tmp_path):
    class Killer(Heard):
        def progressed(self, name, done, total, text):
            if name == "counting":
                os.kill(worker_of("a", tmp_path), signal.SIGKILL)

    counting = Job(name="counting", call="toy_jobs:count", arguments={"total": 2000, "wait_s": 0.05})
    start = time.monotonic()
    with pytest.raises(UserError, match="job 'counting': its process was ended by SIGKILL"):
        run([add("a", 1, cost=2), counting], tmp_path, show=Killer())
    assert time.monotonic() - start < 20

    heard = Heard()
    results = run([add("a", 1, cost=2), add("b", 2, ("a",))], tmp_path, show=heard)
    assert heard.starts == ["b"]
    assert results["b"]["sum"] == 3


def test_a_worker_killed_between_two_cells_costs_nothing(tmp_path):
    class Killer(Heard):
        def ended(self, name, seconds):
            if name == "a":
                worker = worker_of("a", tmp_path)
                os.kill(worker, signal.SIGKILL)
                wait_for(lambda: not is_alive(worker))

    results = run([add("a", 1), add("b", 2, ("a",))], tmp_path, show=Killer())
    assert results["b"]["sum"] == 3
    assert results["b"]["pid"] != results["a"]["pid"]


def test_progress_reaches_the_parent_first_and_last_always_and_seldom_between(tmp_path):
    heard = Heard()
    run([Job(name="fast", call="toy_jobs:count", arguments={"total": 5000})], tmp_path, show=heard)
    assert heard.progress[0] == ("fast", 1, 5000, "step 1")
    assert heard.progress[-1] == ("fast", 5000, 5000, "step 5000")
    assert len(heard.progress) < 500
    assert [done for _, done, _, _ in heard.progress] == sorted(done for _, done, _, _ in heard.progress)


def test_without_a_terminal_a_line_tells_each_start_and_end(tmp_path, capsys):
    run([add("a", 1), add("b", 2, ("a",))], tmp_path, show=Lines())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a starts"
    assert lines[1].startswith("a done in ")
    assert lines[1].endswith("(1 of 2 jobs)")
    assert lines[-1].endswith("(2 of 2 jobs)")
    run([add("a", 1), add("b", 2, ("a",))], tmp_path, show=Lines())
    assert capsys.readouterr().err == "2 of 2 jobs have their results from before\n"


def test_bars_show_each_running_cell_with_its_rate_and_the_cells_as_a_whole():
    bars = Bars()
    bars.begin(3, 1)
    bars.started("a")
    bars.started("b")
    bars.progressed("a", 10, 100, "loss 1.5")
    time.sleep(0.01)
    bars.progressed("a", 20, 100, "[1/2] loss 1.2")
    tasks = {task.description: task for task in bars.progress.tasks}
    assert (tasks["[bold]jobs"].completed, tasks["[bold]jobs"].total) == (1, 3)
    assert (tasks["a"].completed, tasks["a"].total) == (20, 100)
    assert "/s  " in tasks["a"].fields["note"]
    bars.ended("a", 2.0)
    bars.ended("b", None)
    assert [(task.description, task.completed) for task in bars.progress.tasks] == [("[bold]jobs", 2)]


def test_a_worker_imports_nothing_heavy_and_torch_gets_the_asked_threads(tmp_path):
    light = Job(name="light", call="toy_jobs:modules", cost=2)
    torch_cells = [Job(name=name, call="toy_jobs:threads") for name in ("importing", "imported")]
    results = run([light, *torch_cells], tmp_path, threads=2)
    assert results["light"] == {"loaded": []}
    assert results["importing"] == results["imported"] == {"omp": "2", "torch": 2}


STUDY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from vistruct.study.jobs import Job, run_jobs
if __name__ == "__main__":
    out = Path(sys.argv[1])
    jobs = [Job(name=n, call="toy_jobs:hang", arguments={"folder": str(out)}) for n in ("a", "b")]
    run_jobs(jobs, out, workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_parent_that_is_interrupted_or_killed(tmp_path, how):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    command = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2, limit_s=60)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]

    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does at Ctrl-C: the workers get it too
    else:
        parent.send_signal(how)
    _, said = parent.communicate(timeout=10)
    wait_for(lambda: not any(is_alive(pid) for pid in workers), limit_s=5)
    assert parent.returncode != 0
    if how == signal.SIGINT:
        assert said.count("KeyboardInterrupt") == 1
        assert [log.read_text() for log in (tmp_path / "jobs").glob("*.log")] == ["", ""]


def test_cells_that_cannot_be_run_are_refused_before_anything_starts(tmp_path):
    def refused(*jobs, workers=1):
        with pytest.raises(UserError) as caught:
            run(jobs, tmp_path / "out", workers=workers)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "did you mean 'random_start'" in refused(add("random_start", 1), add("b", 1, ("random_strat",)))
    circle = refused(add("a", 1, ("b",)), add("b", 1, ("c",)), add("c", 1, ("a",)), add("d", 1))
    assert any(f"{x} -> {y} -> {z} -> {x}" in circle for x, y, z in ("abc", "bca", "cab"))
    assert "a -> a" in refused(add("a", 1, ("a",)))
    assert "two jobs are named 'a'" in refused(add("a", 1), add("a", 2))
    assert "cannot name" in refused(add("../a", 1))
    assert "module:function" in refused(Job(name="a", call="toy_jobs.add"))
    assert "not JSON" in refused(add("a", Path("x")))
    assert "'report'" in refused(add("a", 1, report=3))
    assert "workers=0" in refused(add("a", 1), workers=0)


def test_no_cells_give_no_results(tmp_path):
    assert run([], tmp_path) == {}


def worker_of(name: str, out: Path) -> int:
    return json.loads((out / "jobs" / f"{name}.json").read_text())["result"]["pid"]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(os.listdir(f"/proc/{pid}/task"))  # those that are still dying hold the pipe open
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" or threads > 1
