"""Several ranks enter one run directory."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from several_processes import in_ranks
from toy_engine import toy_run

from vistruct.config import read_run, run_to_yaml
from vistruct.distributed.ranks import Ranks, setup
from vistruct.engine.run_dir import open_run_dir
from vistruct.errors import UserError


def enter(run_file: str, out_dir: str, late_s: float) -> None:
    toy_run()
    ranks = setup()
    look = Path.exists

    def look_slowly(path: Path) -> bool:
        found = look(path)
        time.sleep(late_s if path.name == "run.yaml" and not ranks.is_main else 0)
        return found

    try:
        with (
            mock.patch.object(Path, "exists", look_slowly),
            open_run_dir(read_run(Path(run_file)), Path(out_dir), ranks),
        ):
            pass
    except UserError as error:
        Path(f"{out_dir}.{os.environ['RANK']}.err").write_text(error.what)
        sys.exit(2)


def test_a_slow_rank_enters_the_directory_that_the_first_has_made_meanwhile(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(run_to_yaml(toy_run()))
    assert in_ranks(2, enter, str(file), str(tmp_path / "out"), 0.3) == [0, 0]


def test_every_rank_is_refused_alike(tmp_path):
    file, out = tmp_path / "run.yaml", tmp_path / "out"
    file.write_text(run_to_yaml(toy_run()))
    out.mkdir()
    (out / "thesis.tex").touch()
    assert in_ranks(2, enter, str(file), str(out), 0.0) == [2, 2]
    assert {Path(f"{out}.{rank}.err").read_text() for rank in range(2)} == {"not empty, and not a run directory"}
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_run_that_never_began_may_be_corrected_in_place(tmp_path):
    out, ranks = tmp_path / "out", Ranks()
    for steps in (4, 5):
        with open_run_dir(toy_run(steps=steps), out, ranks):
            pass  # and then its data could not be read
    assert read_run(out / "run.yaml").steps == 5
    (out / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"steps: 5 -> 6"), open_run_dir(toy_run(steps=6), out, ranks):
        pass
