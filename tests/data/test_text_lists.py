"""Lists of images and the text in them: each published layout, what may be classes as well, and each kind of damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.cli.main import main
from vistruct.data.at_path import captions_at, part_at
from vistruct.data.checks.check import check
from vistruct.data.formats.captions.text_lists import UNREADABLE
from vistruct.data.formats.detect import family_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, Reading
from vistruct.errors import UserError
from vistruct.samples.made_words import EACH, WORDS, word_image, words_folder


def listed(folder: Path, file: str, lines: list[str], images: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(word_image("ab", number)).save(folder / name)
    (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return folder / file


def texts(path: Path, reading: Reading = AS_FOUND, split: str | None = None) -> dict[str, tuple[str, ...]]:
    dataset = part_at(path, reading, split=split).build()
    return {record.id: record.captions for record in dataset.records}


def test_icdars_lists_keep_commas_and_quotes(tmp_path: Path) -> None:
    lines = ['word_1.png, "Tiredness"', 'word_2.png, "a, \\"b\\" \\\\ c"', "", 'word_10.png, "###"']
    file = listed(tmp_path, "gt.txt", lines, ("word_1.png", "word_2.png", "word_10.png"))
    expected = {"word_1.png": ("Tiredness",), "word_2.png": ('a, "b" \\ c',)}
    for place in (file, tmp_path):
        assert (family_of(place).kind, family_of(place).format) == ("captions", "text-list")
        assert texts(place) == expected
    assert part_at(file).build().report.counts == {UNREADABLE: 1}
    assert check(tmp_path).ok


def test_mjsynths_words_are_in_the_names(tmp_path: Path) -> None:
    names = ("2425/1/115_Lube_45484.jpg", "2425/1/114_SPENCERIAN_73323.jpg", "12/3/7_4x4_7.jpg")
    rows = [f"./{name} {number}" for name, number in zip(names, (45484, 73323, 7), strict=True)]
    listed(tmp_path, "annotation_train.txt", rows[:2], names)
    (tmp_path / "annotation_val.txt").write_text(rows[2] + "\n")
    (tmp_path / "imlist.txt").write_text("".join(f"./{name}\n" for name in names))
    assert family_of(tmp_path).format == "text-list"
    assert texts(tmp_path, split="train") == {names[0]: ("Lube",), names[1]: ("SPENCERIAN",)}
    assert texts(tmp_path, split="val") == {names[2]: ("4x4",)}
    with pytest.raises(UserError, match="several splits"):
        texts(tmp_path)


def test_names_and_words_are_classes_unless_text_is_asked_for(tmp_path: Path) -> None:
    lines = ["img/word_1.png hello", "img/word_2.png\tPresses & more", "img/word_3.png, 24"]
    file = listed(tmp_path, "rec_gt_test.txt", lines, tuple(f"img/word_{n}.png" for n in (1, 2, 3)))
    assert family_of(file).kind == "image_classes"
    expected = {"img/word_1.png": ("hello",), "img/word_2.png": ("Presses & more",), "img/word_3.png": ("24",)}
    assert texts(file, Reading(format="text-pairs")) == expected
    asked = captions_at(file, AS_FOUND, AS_THEY_ARE).build()
    assert {record.id: record.captions for record in asked.records} == expected


def test_a_line_unlike_the_first_stops(tmp_path: Path) -> None:
    lines = ['word_1.png, "one"', "word_2.png two"]
    file = listed(tmp_path, "gt.txt", lines, ("word_1.png", "word_2.png"))
    with pytest.raises(UserError, match="unlike the first") as caught:
        texts(file)
    assert str(caught.value.where).endswith("gt.txt, line 2")
    with pytest.raises(UserError, match="no list of images"):
        texts(listed(tmp_path / "other", "none.txt", ["nothing"], ()), Reading(format="text-list"))


def test_made_words_are_as_wide_as_they_are_long() -> None:
    folder = words_folder()
    found = texts(folder / "train")
    assert sorted(found.values()) == sorted((word,) for word in WORDS for _ in EACH["train"])
    shapes = {word: word_image(word, 0).shape for word in ("OPEN", "24h")}
    assert shapes["OPEN"][1] / shapes["OPEN"][0] > shapes["24h"][1] / shapes["24h"][0]
    assert np.array_equal(word_image("taxi", 1), word_image("taxi", 1))


def test_texts_in_files_are_measured_as_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = listed(tmp_path, "gt.txt", ['word_1.png, "Exit"', 'word_2.png, "24h"'], ("word_1.png", "word_2.png"))
    rows = [{"image_id": 1, "caption": "exit"}, {"image_id": 2, "caption": "25h"}]  # as `predict` numbers such names
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(tmp_path / "captions.json"), "--data", str(truth), "--json"])
    assert not stopped.value.code
    (found,) = json.loads(capsys.readouterr().out)["evaluations"].values()
    assert (found["accuracy"], found["exact"]) == (0.5, 0.0)
    assert found["CER"] == pytest.approx(2 / 7)
