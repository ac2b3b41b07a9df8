"""`vistruct masks` through the command line: what it says, its page in a browser, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_sam
from headless import LAPTOP, PHONE, Browser, assert_sound
from PIL import Image

from vistruct.cli.main import main
from vistruct.samples import trees


def run_main(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    text = capsys.readouterr()
    return int(caught.value.code or 0), text.out, text.err


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam.save_sam(tmp_path_factory.mktemp("sam") / "tiny")


def make_boxes(folder: Path) -> Path:
    """Two images of a few boxes each, and one of none."""
    folder.mkdir()
    images, annotations = [], []
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 255, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 150})
        for place in range(4 if number < 3 else 0):
            box = {"bbox": [10 + 45 * place, 20, 30, 12 * number], "category_id": 1 + place % 2, "iscrowd": place // 3}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "segmentation": []} | box)
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "*plane*"}]
    (folder / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder


def test_masks_by_a_model_say_what_was_rejected_and_are_checked_and_shown(
    capsys: pytest.CaptureFixture[str], sam: Path, browser: Browser, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    args = [
        "masks",
        make_boxes(tmp_path / "in"),
        "--sam",
        sam,
        "--out",
        out,
        "--tile",
        "128",
        "--margin",
        "8",
        "--maps",
    ]
    code, printed, remarks = run_main(capsys, *args)
    assert (code, printed) == (0, f"report: {out / 'report.html'}\n{out}\n")
    assert "3 images, 8 objects" in remarks
    assert "x mask rejected: less of it lies inside its box than --min-inside" in remarks
    assert "--else ellipse (or box) fills them" in remarks
    for size in (LAPTOP, PHONE):
        seen = browser.look(out / "report.html", size)
        assert_sound(seen, size)
        assert len(seen.images) == 3  # a plot, and the two with boxes
        assert [table["rows"] for table in seen.tables] == [4, 3]
    code, printed, remarks = run_main(capsys, *args, "--else", "ellipse", "--min-iou", "-100")
    assert code == 0
    assert "8 with a mask" in remarks
    assert "3 of 3 images are done already" in remarks
    assert run_main(capsys, "check", out)[0] == 0


WRONG = [
    ([], "masks come from a segmenter or from filling", "--fill ellipse"),
    (["--fill", "box", "--sam", "x"], "not from both", "--sam FOLDER"),
    (["--sam", "nowhere"], "no such folder", "sam2.1"),
    (["--fill", "blob"], "blob", "--help"),
    (["--fill", "box", "--prompt", "box"], "--prompt is for a segmenter", "leave --prompt out"),
    (["--sam", "SAM", "--prompt", "bx"], "no prompt 'bx'", "box"),
    (["--sam", "SAM", "--prompt", "quad"], "no oriented boxes in this data", "--prompt box"),
    (["--sam", "SAM", "--tile", "100", "--margin", "50"], "leaves nothing of a tile", "--margin 6"),
]


@pytest.mark.parametrize(("options", "what", "fix"), WRONG)
def test_mistakes_are_three_lines(
    capsys: pytest.CaptureFixture[str], sam: Path, tmp_path: Path, options: list[str], what: str, fix: str
) -> None:
    options = [str(sam) if option == "SAM" else option for option in options]
    code, printed, remarks = run_main(capsys, "masks", trees().test, "--out", tmp_path / "out", *options)
    lines = [line for line in remarks.splitlines() if line.startswith(("error:", "where:", "try:"))]
    assert (code, printed, len(lines)) == (2, "", 3)
    assert what in lines[0]
    assert fix in lines[2]
    assert not (tmp_path / "out").exists()
