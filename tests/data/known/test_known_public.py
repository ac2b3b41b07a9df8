"""Sources of boxes and words as they are published: what is told, what is read, what is counted."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import boxed_sets
import numpy as np
import pytest
from boxed_sets import image, lines, whole

from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known import SOURCES, detect, find_source
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

MADE: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "visual-genome": (boxed_sets.visual_genome,),
    "flickr30k-entities": (boxed_sets.flickr,),
    "grit": (boxed_sets.grit,),
    "pointqa": (boxed_sets.pointqa_local, boxed_sets.pointqa_twice),
    "visual7w": (boxed_sets.visual7w, boxed_sets.visual7w_telling),
    "vcr": (boxed_sets.vcr,),
    "vqa-explained": (boxed_sets.vqa_e, boxed_sets.vqa_x),
    "vqa-lines": (boxed_sets.pope, boxed_sets.clevr),
}
PLACES = [(name, make) for name, makers in MADE.items() for make in makers]


def read(name: str, path: Path, **ask: str) -> tuple[list[Known], IssueCounter]:
    report = IssueCounter()
    return list(find_source(name).read(path, Ask(**ask), report)), report  # ty: ignore


@pytest.mark.parametrize(("name", "make"), PLACES)
def test_a_public_set_is_told_by_its_content(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    assert detect(make(tmp_path)) == (name,)


def test_other_data_are_no_public_source(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "b"}]}
    talk = {"image": "a.jpg", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    others = [
        whole(tmp_path / "coco.json", coco),
        lines(tmp_path / "talk.jsonl", talk),
        whole(tmp_path / "llava.json", [talk]),
        lines(tmp_path / "captions.jsonl", {"img_path": "a.jpg", "caption": "A dog."}),
        whole(tmp_path / "vqa.json", {"questions": [{"image_id": 1, "question": "a?", "question_id": 1}]}),
        whole(tmp_path / "gqa.json", {"1": {"imageId": "a", "question": "a?", "answer": "b"}}),
        whole(tmp_path / "vizwiz.json", [{"image": "a.jpg", "question": "a?", "answers": [{"answer": "b"}]}]),
        lines(tmp_path / "answers.jsonl", {"image": "a.jpg", "question": "a?", "answer": "b"}),
        tmp_path / "a.jpg",
        tmp_path / "nothing",
        tmp_path,
    ]
    assert [detect(path) for path in others] == [()] * len(others)


def test_files_of_two_sources_that_are_written_alike_are_a_question(tmp_path: Path) -> None:
    row = {"expression": "the cat", "bbox": [1, 2, 3, 4]}
    for name, found in (
        ("COCO_train2014_000000000001.jpg", ("refcoco",)),
        ("VG_100K/1.jpg", ("visual-genome",)),
        ("1.jpg", ("visual-genome",)),
        ("a.jpg", ("refcoco", "visual-genome")),
    ):
        assert detect(lines(tmp_path / "rows.jsonl", {"img_path": name, **row})) == found


def test_every_source_of_the_table_is_there() -> None:
    assert all(callable(find_source(name).read) for name in SOURCES)
    with pytest.raises(UserError, match="no source"):
        find_source("refcok")


@pytest.mark.parametrize(("name", "make"), PLACES)
def test_a_lost_image_stops_or_is_counted(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    path, split = make(tmp_path), {"flickr30k-entities": "train", "visual7w": "train"}
    ask = {"split": split[name]} if name in split else {}
    for file in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png")]:
        file.unlink()
    with pytest.raises(UserError, match="not on disk") as caught:
        read(name, path, **ask)
    assert "--images" in caught.value.fix
    known, report = read(name, path, missing="drop", **ask)
    assert known == []
    assert report.counts["image left out: file missing"] >= 1


def test_regions_and_objects_of_visual_genome(tmp_path: Path) -> None:
    (regions, objects), report = read("visual-genome", boxed_sets.visual_genome(tmp_path))
    assert regions.image == tmp_path / "VG_100K_2/1.jpg"
    assert [(one.text, one.rows) for one in regions.regions] == [("a brown dog", (0,))]
    assert regions.expressions == ()  # a description may fit others
    np.testing.assert_array_equal(objects.objects.boxes_xyxy, [[3, 4, 20, 18]])
    assert objects.objects.extra["names"] == ("dog",)
    assert not objects.is_complete
    assert sum(report.counts.values()) == 3, report.lines()  # no words, no regions, outside


def test_an_image_of_another_size_is_left_out(tmp_path: Path) -> None:
    root = boxed_sets.visual_genome(tmp_path)
    whole(root / "image_data.json", [{"image_id": 1, "width": 30, "height": 24}])
    known, report = read("visual-genome", root / "region_descriptions.json")
    assert known == []
    assert report.counts["image left out: its annotations are of an image of another size"] == 1


def test_sentences_of_flickr_have_boxes_that_count_from_one(tmp_path: Path) -> None:
    path = boxed_sets.flickr(tmp_path)
    assert find_source("flickr30k-entities").splits(path) == ("train", "test")
    (known,), report = read("flickr30k-entities", path, split="train")
    np.testing.assert_array_equal(known.objects.boxes_xyxy, [[0, 0, 60, 48], [22, 9, 40, 30], [8, 25, 30, 40]])
    first, second = known.sentences
    assert first.text == "A brown dog and two cats lie on a sofa; it sags."
    assert [(one.text, one.rows) for one in first.phrases] == [("A brown dog", (0,)), ("two cats", (1, 2))]
    assert all(first.text[one.start : one.end] == one.text for one in first.phrases)
    assert (second.text, second.phrases) == ("Nobody moves.", ())
    assert sum(report.counts.values()) == 2, report.lines()  # the sofa has no box, image 3 no page


@pytest.mark.parametrize("form", ["folder", "lines"])
def test_spans_and_shares_of_grit(tmp_path: Path, form: str) -> None:
    path = boxed_sets.grit(tmp_path)
    if form == "lines":
        image(tmp_path / "other/000000012.jpg")
        row = {"key": "000000012", "caption": "A brown dog rests", "noun_chunks": [boxed_sets.CHUNK, [0, 99]]}
        row["ref_exps"] = [[0.0, 11.0, *boxed_sets.CHUNK[2:]]]
        path = lines(tmp_path / "other/grit.jsonl", row, ["no entry"])
    known, report = read("grit", path)
    assert [one.id for one in known] == (
        ["000000012.jpg"] if form == "lines" else ["00000/000000012.jpg", "00001/000000020.jpg"]
    )
    one = known[0]
    np.testing.assert_allclose(one.objects.boxes_xyxy, [[3, 6, 30, 24]])
    assert one.objects.extra["names"] == ("brown dog",)
    assert one.objects.scores.tolist() == pytest.approx([0.9])
    (told,) = one.sentences
    assert [(phrase.text, phrase.start, phrase.rows) for phrase in told.phrases] == [("brown dog", 2, (0,))]
    assert [(said.text, said.rows) for said in one.expressions] == [("A brown dog", (0,))]  # the same object
    assert sum(report.counts.values()) == (2 if form == "lines" else 3), report.lines()


def test_points_of_pointqa_are_rows_of_their_own(tmp_path: Path) -> None:
    (known,), _ = read("pointqa", boxed_sets.pointqa_local(tmp_path))
    assert [talk[1].text for talk in known.talks] == ["red", "red", "blue", "blue"]
    np.testing.assert_array_equal(known.objects.boxes_xyxy[[0, 2]], [[3, 4, 20, 18], [22, 9, 40, 30]])
    assert known.objects.keypoints is not None
    assert known.objects.keypoints[[1, 3], 0].tolist() == [[11, 11, 2], [31, 19, 2]]
    assert [(one.row, one.of) for one in known.drawn] == [(1, 0), (3, 2)]
    assert known.talks[1][0].points == ((1,),)
    assert known.talks[1][0].prompts == ("point",)


def test_look_twice_asks_three_questions(tmp_path: Path) -> None:
    (known,), report = read("pointqa", boxed_sets.pointqa_twice(tmp_path))
    assert len(known.talks) == 6
    assert {talk[1].text for talk in known.talks} == {"2"}
    assert report.counts == {"point left out: it is no place in its image": 1}


def test_candidates_of_visual7w(tmp_path: Path) -> None:
    path = boxed_sets.visual7w(tmp_path)
    with pytest.raises(UserError, match="split"):
        read("visual7w", path)
    (known,), report = read("visual7w", path, split="train")
    ((question, answer),) = known.talks
    assert question.points == tuple((row,) for row in np.argsort(known.objects.boxes_xyxy[:, 0]).tolist())
    assert known.objects.boxes_xyxy[answer.points[0][0]].tolist() == [20, 5, 29, 14]
    assert "thing" not in question.text + answer.text  # a name would give it away
    assert report.counts == {"words left out: an object that they mean was left out": 1}
    (told,), _ = read("visual7w", boxed_sets.visual7w_telling(tmp_path), split="train")
    assert [turn.text for turn in told.talks[0]] == ["<image>\nWhat barks?", "A dog."]


def test_people_of_vcr_have_names_and_outlines(tmp_path: Path) -> None:
    (known,), report = read("vcr", boxed_sets.vcr(tmp_path))
    assert known.objects.extra["names"] == ("person", "cup")
    assert known.objects.masks == ([[3, 4, 20, 4, 20, 18]], [[22, 9, 40, 9, 40, 30]])
    assert len(known.talks) == 9
    question, answer = known.talks[0]
    assert question.text == "<image>\nQuestion: Why doesn't <region> drink?"
    assert answer.text == "<Phrase>person</Phrase><object> dropped <Phrase>cup</Phrase><object>."
    assert (question.points, answer.points, answer.units) == (((0,),), ((0,), (1,)), ("box", "box"))
    reason = "question left out: which answer and which reason are right is not said"
    assert report.counts == {reason: 1, "words left out: an object that they mean was left out": 9}


def test_answers_with_and_without_reasons(tmp_path: Path) -> None:
    found = {}
    for name, make in PLACES:
        if name.startswith("vqa"):
            known, report = read(name, make(tmp_path / make.__name__))
            found[make.__name__] = [talk[1] for one in known for talk in one.talks], report
    turns, report = found["vqa_e"]
    assert [turn.text for turn in turns] == ["A cat lies on a sofa. So the answer is cat."]
    assert report.counts == {"question left out: it has no answer": 1}
    (turn,), _ = found["vqa_x"]
    assert (turn.text, turn.others) == ("it purrs. So the answer is cat.", ("it has whiskers. So the answer is cat.",))
    assert [(turn.text, turn.form) for turn in found["pope"][0]] == [("yes", "yes_no"), ("no", "yes_no")]
    assert [turn.text for turn in found["clevr"][0]] == ["3"]


def test_words_with_a_mark_of_ours_are_left_out(tmp_path: Path) -> None:
    image(tmp_path / "COCO_1.jpg")
    row = {"img_path": "COCO_1.jpg", "bbox": [1, 2, 30, 40]}
    path = lines(tmp_path / "a.jsonl", {**row, "expression": "a <object>"}, {**row, "expression": "a dog"})
    (known,), report = read("refcoco", path)
    assert [one.text for one in known.expressions] == ["a dog"]
    assert report.counts == {"words left out: a mark of our own stands in them": 1}


def test_a_million_lines_are_not_held(tmp_path: Path) -> None:
    import tracemalloc

    image(tmp_path / "1.jpg")
    rows = ({"img_path": "1.jpg", "expression": f"cat {n} " + "x" * 4000, "bbox": [1, 2, 30, 40]} for n in range(400))
    other = {"img_path": "2.jpg", "expression": "dog", "bbox": [1, 2, 30, 40]}
    image(tmp_path / "2.jpg")
    path = lines(tmp_path / "a.jsonl", *(one for row in rows for one in (row, other)))
    read_one = find_source("visual-genome").read
    next(iter(read_one(path, Ask(), IssueCounter())))
    tracemalloc.start()
    assert sum(len(one.regions) for one in read_one(path, Ask(), IssueCounter())) == 800
    assert tracemalloc.get_traced_memory()[1] < 900_000  # the file has 1.7 MB
    tracemalloc.stop()


JUNK = (None, 7, "x", [], {}, [1, 2], [[1, "a"]], {"a": None}, [None] * 4, -1, [float("nan")] * 4, True)


def _damaged(value: object, rng: random.Random) -> object:
    """A json with one of its values in the place of another, or something else."""
    if rng.random() < 0.12:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {key: _damaged(one, rng) for key, one in value.items() if rng.random() > 0.03}
    return [_damaged(one, rng) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "make"), [pair for pair in PLACES if pair[0] != "flickr30k-entities"])
def test_damaged_entries_are_counted_or_a_clear_error(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    path, rng = make(tmp_path), random.Random(0)
    files = [file for file in tmp_path.rglob("*.json*") if file.name != "broken.json"]
    whole_files = {file: file.read_text() for file in files}
    for _ in range(30):
        for file, text in whole_files.items():
            if file.suffix == ".jsonl" or make is boxed_sets.pope:
                lines(file, *(_damaged(json.loads(line), rng) for line in text.splitlines()))
            else:
                whole(file, _damaged(json.loads(text), rng))
        with contextlib.suppress(UserError):
            known, _ = read(name, path, missing="drop", **({"split": "train"} if make is boxed_sets.visual7w else {}))
            for one in known:
                rows = {row for talk in one.talks for turn in talk for group in turn.points for row in group}
                assert rows <= set(range(len(one.objects)))
                assert np.isfinite(one.objects.boxes_xyxy).all()


@pytest.mark.parametrize("source", ["refcoco", "flickr30k-entities", "grit", "pointqa", "visual7w", "vcr", "shikra-rd"])
def test_damaged_lines_are_counted_or_a_clear_error(tmp_path: Path, source: str) -> None:
    golden = json.loads((Path(__file__).parents[2] / "golden/vtplug_grammar/converters.json").read_text())["cases"]
    names = {
        "refcoco": "region_caption_mask_two_polygons",
        "flickr30k-entities": "flickr_boxes",
        "grit": "grit_c_d",
        "pointqa": "point_qa_local_b",
        "visual7w": "v7w_b",
        "vcr": "vcr_q-ra",
        "shikra-rd": "gpt4gen_bc",
    }
    for name in ("a.jpg", "1.jpg"):
        image(tmp_path / name)
    rng = random.Random(1)
    for _ in range(50):
        path = lines(tmp_path / "rows.jsonl", *(_damaged(golden[names[source]]["annotation"], rng) for _ in range(3)))
        with contextlib.suppress(UserError):
            read(source, path, missing="drop")
