"""What is in a folder and not ours stays, byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistruct.errors import UserError
from vistruct.files.owned import Owned, free, inside, new_folder, single_file, wrote
from vistruct.reports.page import Report


def put(folder: Path, name: str, text: str, by: str = "predict") -> Path:
    owned = Owned(folder, by)
    owned.check([folder / name])
    with owned.held(), owned.making(folder / name) as place:
        place.write_text(text)
    return folder / name


def test_what_the_same_command_wrote_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = put(out, "labels/a.txt", "1")
    put(out, "labels/a.txt", "2")
    assert file.read_text() == "2"
    with pytest.raises(UserError, match="would be overwritten that `vistruct instruct`"):
        put(out, "labels/a.txt", "3", by="instruct")
    file.write_text("by hand")
    with pytest.raises(UserError, match="would be overwritten") as refused:
        put(out, "labels/a.txt", "3")
    assert refused.value.fix == f"--out {tmp_path / 'out-2'}"
    (out / "labels" / "b.txt").write_text("theirs")
    with pytest.raises(UserError, match="would be overwritten"):
        put(out, "labels/b.txt", "3")
    with pytest.raises(UserError, match="would be overwritten"):
        Owned(out, "predict").check([out / "labels"])  # a folder with what is not ours in it
    assert (file.read_text(), (out / "labels" / "b.txt").read_text()) == ("by hand", "theirs")


def test_a_copy_of_a_folder_is_ours_too(tmp_path: Path) -> None:
    put(tmp_path / "a", "x.txt", "1")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b" / "x.txt", (1, 1))
    assert put(tmp_path / "b", "x.txt", "2").read_text() == "2"


@pytest.mark.parametrize("theirs", ["labels", "labels/a.txt", ".vistruct", "out"])
def test_a_file_a_link_or_a_folder_in_the_way_stays(tmp_path: Path, theirs: str) -> None:
    for make in (lambda one: one.write_text("mine"), lambda one: one.symlink_to("nowhere")):
        out = tmp_path / "out"
        place = out if theirs == "out" else out / theirs
        place.parent.mkdir(parents=True, exist_ok=True)
        make(place)
        with pytest.raises(UserError):
            put(out, "labels/a.txt", "1")
        assert place.is_symlink() or place.read_text() == "mine"
        place.unlink()


def test_inputs_are_never_written_not_even_our_own(tmp_path: Path) -> None:
    file = put(tmp_path, "labels/a.png", "1")
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    with pytest.raises(UserError, match="would be overwritten"):
        Owned(tmp_path, "predict").check([file], [tmp_path / "link" / "a.png"])


@pytest.mark.parametrize("name", ["../x.txt", "a/../../x.txt", ".vistruct/wrote", "n" * 300, "n/" * 3000 + "x"])
def test_names_that_lead_elsewhere_or_are_too_long_are_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match=r"leads out|too long"):
        put(tmp_path / "out", name, "1")
    assert not (tmp_path / "out").exists()


def test_any_name_lies_inside() -> None:
    assert inside("/a/../../b/./c.png") == Path("a/__/__/b/c.png")
    assert inside(".vistruct/wrote") == Path("_vistruct/wrote")
    long = [inside("ä" * 300 + end + ".png") for end in "ab"]
    assert all(len(os.fsencode(one)) <= 200 and one.suffix == ".png" for one in long)
    assert long[0] != long[1]
    assert free(Path(".")).name == "results-2"


def test_a_picture_or_page_with_our_mark_is_replaced_and_no_other(tmp_path: Path) -> None:
    usual = tmp_path / "compare.html"
    usual.write_text("mine")
    for _ in range(2):
        assert single_file(None, usual) == tmp_path / "compare-2.html"
        assert Report("a", "").write(usual) == tmp_path / "compare-2.html"
    assert single_file(tmp_path / "compare-2.html", usual) == tmp_path / "compare-2.html"
    with pytest.raises(UserError, match="did not write"):
        single_file(usual, usual)
    assert usual.read_text() == "mine"


def test_the_files_that_we_wrote_are_known_below_any_folder(tmp_path: Path) -> None:
    file = put(tmp_path / "deep" / "out", "a.txt", "1")
    (tmp_path / "b.txt").write_text("theirs")
    (tmp_path / "c" / ".vistruct").mkdir(parents=True)
    (tmp_path / "c" / ".vistruct" / "wrote").write_text("theirs")
    assert list(wrote(tmp_path)) == [file]


KILLED = """
import sys, time
from pathlib import Path
from vistruct.files.owned import Owned, new_folder
out = Path(sys.argv[1])
if sys.argv[2] == "new":
    with new_folder(out) as place:
        (place / "half").write_text("x"); print("in", flush=True); time.sleep(60)
owned = Owned(out, "predict")
with owned.held():
    with owned.making(out / "a.txt") as place:
        place.write_text("first")
    with owned.making(out / "a.txt") as place:
        place.write_text("half"); print("in", flush=True); time.sleep(60)
"""


def killed(out: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_a_killed_process_leaves_whole_files_and_the_next_one_sweeps_behind_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = killed(out, "folder")
    with pytest.raises(UserError, match="writes into this folder"):
        put(out, "b.txt", "1")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "a.txt").read_text() == "first"
    assert list((out / ".vistruct" / "making").iterdir())
    put(out, "a.txt", "again")
    assert sorted(one.name for one in (out / ".vistruct").iterdir()) == ["wrote"]


def test_a_killed_new_folder_is_swept_and_only_that(tmp_path: Path) -> None:
    process = killed(tmp_path / "out", "new")
    theirs = tmp_path / ".out.77.making"
    theirs.mkdir()
    (theirs / "notes").write_text("mine")
    with new_folder(tmp_path / "out") as place:
        (place / "whole").write_text("1")  # beside one that is still at work
    assert len(list(tmp_path.glob(".out.*"))) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.01)
    with pytest.raises(UserError, match="not overwritten"), new_folder(tmp_path / "out"):
        pytest.fail("a folder in the way")
    shutil.rmtree(tmp_path / "out")
    with new_folder(tmp_path / "out") as place:
        (place / "whole").write_text("2")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".out.77.making", "out"]
    assert (theirs / "notes").read_text() == "mine"


def test_nothing_is_left_of_a_new_folder_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out") as place:
        (place / "there" / "half").write_text("1")
    assert not list(tmp_path.iterdir())
