"""`vistruct study` and `vistruct compare` as they are typed: what is asked for, what is refused, what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistruct.cli.main import main
from vistruct.cli.study import resolve
from vistruct.errors import UserError
from vistruct.samples import trees
from vistruct.study.asked import inits, rates
from vistruct.study.study import read_study

DATA = ["--data", str(trees().train), "--val", str(trees().test)]


def run_main(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_a_dry_run_prints_a_study_that_is_its_own_input_and_its_cells(capsys, tmp_path: Path) -> None:
    words = ["study", "detect", *DATA, "--steps", "50", "--fraction", "0.1", "--fraction", "1", "--seeds", "2"]
    words += ["--tune", "head", "--tune", "full", "--lr", "head=1e-3", "--out", tmp_path / "none", "--dry-run"]
    code, out, err = run_main(capsys, *words)
    assert code == 0
    file = tmp_path / "study.yaml"
    file.write_text(out[: out.index("\n", out.index("robust:")) + 1])
    study = read_study(file)
    assert (study.fractions, study.seeds, study.tune, study.lr) == ((0.1, 1.0), 2, ("head", "full"), {"head": 1e-3})
    assert study.options["steps"] == 50
    assert study.options["data"] == str(trees().train)
    assert out.count("to do") == 8
    assert "head-random-0.1-1" in out
    assert "8 trials, 3,200 training samples; compared by val/AP50" in err
    assert not (tmp_path / "none").exists()
    code, again, _ = run_main(capsys, "study", "-c", file, "--seeds", "1", "--json", "--dry-run")
    assert code == 0
    assert len(json.loads(again)["trials"]) == 4


def test_words_become_starts_and_rates() -> None:
    assert inits(["random", "ours=a=b.pt", "runs/vit-s"]) == {
        "random": "random",
        "ours": "a=b.pt",
        "vit_s": "runs/vit-s",
    }
    assert rates(["1e-4", "head=2e-3"], ["head", "full"]) == {"head": 2e-3, "full": 1e-4}
    with pytest.raises(UserError, match="two inits"):
        inits(["random", "random"])
    with pytest.raises(UserError, match="no learning rate"):
        rates(["full=fast"], ["full"])


def test_mistakes_are_three_lines_with_a_way_out(capsys, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        code, _, err = run_main(capsys, "study", *words)
        assert code == 2
        assert [line[:6] for line in err.splitlines()[-3:]] == ["error:", "where:", "try:  "]
        return err

    assert "vistruct recipes" in refused()
    assert "vistruct recipes" in refused("--steps", "3")
    assert "did you mean 'detect'" in refused("detct", *DATA)
    assert "--seeds" in refused("detect", *DATA, "--seed", "3")
    assert "did you mean '--steps'" in refused("detect", *DATA, "--stps", "3")
    assert "--val" in refused("detect", *DATA[:2])
    assert "no such run" in refused("detect", *DATA, "--init", f"ours={tmp_path / 'absent'}")
    assert "head" in refused("detect", *DATA, "--tune", "half")
    assert "once" in refused("-c", tmp_path / "x.yaml", "detect")


def test_options_of_the_recipe_are_listed_without_those_that_a_study_sets(capsys) -> None:
    code, out, _ = run_main(capsys, "study", "detect", "--help")
    assert code == 0
    assert "--steps" in out
    assert "--backbone" not in out
    code, out, _ = run_main(capsys, "study", "--help")
    assert "--init" in out


def test_a_recipe_and_a_file_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at once"):
        resolve("detect", tmp_path / "study.yaml", [], {})


def test_compare_refuses_what_is_no_run(capsys, tmp_path: Path) -> None:
    code, _, err = run_main(capsys, "compare", tmp_path, tmp_path)
    assert code == 2
    assert "not a run, and not a study" in err


def test_compare_prints_numbers_and_ends_with_its_report(capsys, tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.75)):
        make_run(tmp_path / name, value)
    code, out, _ = run_main(capsys, "compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c.html")
    assert code == 0
    assert "val/AP50" in out
    assert "0.25" in out
    assert out.splitlines()[-1] == str(tmp_path / "c.html")
    code, out, _ = run_main(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json", "--out", tmp_path / "c.html")
    assert json.loads(out)["numbers"][0]["difference"] == 0.25


def make_run(folder: Path, value: float) -> None:
    """What a finished run leaves, without its weights."""
    from vistruct.config import run_to_yaml
    from vistruct.recipes.detect import recipe

    folder.mkdir()
    (folder / "run.yaml").write_text(run_to_yaml(recipe(data=trees().train, val=trees().test)))
    info = {"fingerprint": "0" * 64}
    (folder / "data.json").write_text(json.dumps({"train": {"main": info}, "evals": {"val": info}}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, "val/AP50": value}) + "\n")
