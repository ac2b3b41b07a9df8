"""`convert` and `check` on folders of boxes, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from box_sets import make_dota, read_boxes

from vistruct.cli.main import main
from vistruct.samples import trees


def run_main(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    text = capsys.readouterr()
    return int(caught.value.code or 0), text.out, text.err


def test_convert_says_what_is_lost_and_ends_with_the_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_dota(tmp_path / "in")
    out = tmp_path / "out"
    code, printed, remarks = run_main(capsys, "convert", tmp_path / "in", out, "--to", "yolo-obb", "--split", "val")
    assert (code, printed) == (0, f"{out}\n")
    assert "3 images, 18 objects" in remarks
    assert "2 x difficult flag lost" in remarks
    assert "6 x note on an image lost" in remarks
    assert len(read_boxes(out)[0]) == 3


def test_the_sample_converts_and_links_its_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, _ = run_main(capsys, "convert", trees().test, out, "--to", "dota", "--pictures", "link")
    assert code == 0
    (record,), names, _ = read_boxes(out)
    assert (len(record.objects), names) == (279, ("tree",))
    assert record.images[0].is_symlink()


WRONG = [
    (["--to", "doto"], "no box format 'doto'", "dota"),
    (["--to", "dota", "--format", "vocc"], "no box format 'vocc'", "voc"),
    (["--to", "dota", "--split", "trian"], "trian", "train"),
    (
        ["--to", "dota", "--split", "train", "--random-split", "train:0.8"],
        "no names of splits",
        "--random-split train=0.8,val=0.2",
    ),
    (
        ["--to", "dota", "--split", "train", "--random-split", "train=0.8,../x=0.2"],
        "no names",
        "--random-split train=0.8,val=0.2",
    ),
    (
        ["--to", "dota", "--split", "train", "--random-split", "train=0.8,val=0.8"],
        "no names",
        "--random-split train=0.8,val=0.2",
    ),
    (["--to", "dota", "--split", "train", "--skip-empty"], "tiles are not asked for", "--tile PX"),
    ([], "Missing option", "--help"),
    (["--to", "dota", "--split", "train", "--pictures", "move"], "move", "--help"),
]


@pytest.mark.parametrize(("options", "what", "fix"), WRONG)
def test_a_mistake_is_told_in_three_lines_and_nothing_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], what: str, fix: str
) -> None:
    make_dota(tmp_path / "in")
    code, printed, remarks = run_main(capsys, "convert", tmp_path / "in", tmp_path / "out", *options)
    assert (code, printed) == (2, "")
    told = {line[:6]: line for line in remarks.splitlines()}
    assert what in told["error:"]
    assert fix in told["try:  "]
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_never_written_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_dota(tmp_path / "in")
    code, _, remarks = run_main(capsys, "convert", tmp_path / "in", tmp_path / "in", "--to", "coco", "--split", "val")
    assert code == 2
    assert "not overwritten" in remarks
    assert not (tmp_path / "in" / "annotations.json").exists()


def test_check_reads_a_folder_and_names_the_faulty_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_dota(tmp_path)
    code, printed, _ = run_main(capsys, "check", tmp_path)
    assert code == 0
    assert "dota" in printed
    file = tmp_path / "val" / "labelTxt" / "P0003.txt"
    file.write_text("10 10 30 10 30 20 10 20 ship 0\n10 10 30 10 30 20 10 20 ship\n1 2 3\n")
    code, printed, _ = run_main(capsys, "check", tmp_path, "--json")
    assert code == 1
    problems = {problem["effect"]: problem for problem in json.loads(printed)["problems"]}
    assert problems["stops training"]["places"] == [f"{file}, line 3"]
    assert problems["left out"]["places"] == [f"{file}, line 2"]
    assert run_main(capsys, "check", tmp_path, "--split", "train")[0] == 0
