"""Rows of the original's data sets become the conversations that its converters and its builder make of them.

Golden: `converters.json` of `vtplug_grammar`. What is of the original alone is taken out of its texts first, and
said at each case: fixed sentences ({{...}}), "The answer is X ." around short answers, blanks before full stops, titles
in capitals, the word lost where <image> is removed in later turns, the blank and comma at the end of GRIT's lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, REGION_MARK, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known import find_source
from vistruct.data.known.source import answered, as_answer, asked
from vistruct.issues import IssueCounter
from vistruct.vlm.grammar import Grammar, write_answer

GOLDEN = Path(__file__).parents[2] / "golden" / "vtplug_grammar" / "converters.json"
SPELLED = Grammar(spelling="published")
Talk = Sequence[Turn]


@cache
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


def known_of(folder: Path, source: str, annotation: Any, name: str = "rows.jsonl") -> tuple[Known, IssueCounter]:
    """What a source says of the golden's row, whose image is made."""
    for image in ("a.jpg", "1.jpg", "a/a.jpg"):
        (folder / image).parent.mkdir(exist_ok=True)
        Image.new("RGB", tuple(golden()["image_size"])).save(folder / image)
    path, report = folder / name, IssueCounter()
    path.write_text(json.dumps(annotation))
    (known,) = find_source(source).read(path, Ask(), report)
    return known, report


def template(name: str, **words: str) -> str:
    text = golden()["question_templates"][name]
    for key, word in words.items():
        text = text.replace(f"<{key}>", word)
    return text


def regions(turn: Turn, boxes: np.ndarray) -> list[list[list[float]]]:
    return [[boxes[row].tolist() for row in group] for group in turn.points]


def plain(text: str) -> str:
    """Without what is wording of the original alone, and of ours."""
    text = re.sub(r"\{\{.*?\}\}|<image>", " ", text).replace("Candidates:", " ")
    text = re.sub(
        r"Choose a letter\.|Choose the letter of the reason\.|Give the reason\.|Reason( with boxes)?:", " ", text
    )
    text = re.sub(rf"\s*{REGION_MARK}\s*", REGION_MARK, text.lower())
    return re.sub(r"\s+(?=[,.?]|$)", "", " ".join(text.split())).rstrip(",.")


def told_boxes(case: dict[str, Any], turn: dict[str, Any]) -> list[list[list[float]]]:
    boxes = case["target"].get("boxes", [])
    return [[list(map(float, boxes[at])) for at in group] for group in turn.get("boxes_seq") or ()]


def check(case: dict[str, Any], talk: Talk, known: Known, *, answer: Callable[[str], str] = str) -> None:
    """Questions, answers with their chain of thought, and every box that they point at."""
    spoken = [turn for turn in case["conversations"] if turn["from"] != "system"]
    assert len(talk) == len(spoken)
    boxes = known.objects.boxes_xyxy
    for turn, theirs in zip(talk, spoken, strict=True):
        wanted, found = told_boxes(case, theirs), regions(turn, boxes)
        if turn.role == "user":  # the original takes them one by one
            wanted, found = [sorted(chain(*wanted))], [sorted(chain(*found))]
        assert list(map(len, found)) == list(map(len, wanted))
        for ours, others in zip(found, wanted, strict=True):
            np.testing.assert_allclose(sorted(ours), sorted(others), atol=1e-4)
        if turn.role == "user":
            assert plain(re.sub(f"({REGION_MARK})+", REGION_MARK, turn.text)) == plain(
                re.sub("(<boxes>)+", REGION_MARK, re.sub("</?Phrase>", "", theirs["value"]))
            )
    outputs = [turn["output"] for turn in case["built"]["turns"]]
    for turn, output in zip([turn for turn in talk if turn.role == "assistant"], outputs, strict=True):
        assert plain(write_answer(turn, SPELLED).text) == plain(answer(output))


def short(text: str) -> str:
    """Around a short answer the original writes a sentence."""
    return re.sub(r"The answer is (?!<Phrase>|\()(.*?) ?\.?$", r"\1", text)


@pytest.mark.parametrize("name", ["rec_target", "rec_expression"])
def test_expressions_are_found(tmp_path: Path, name: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "refcoco", case["annotation"])
    (said,) = known.expressions
    phrase = said.text if case["options"]["target"] else "target"
    text = f"<Phrase>{phrase}</Phrase>{OBJECT_MARK}."
    answer = answered(text, "grounding_detection", points=(said.rows,), units=("box",))
    check(case, [asked(template("REC", expr=said.text)), answer], known)


@pytest.mark.parametrize(
    ("name", "source"), [("region_caption_box", "refcoco"), ("region_caption_gc", "visual-genome")]
)
def test_regions_are_described(tmp_path: Path, name: str, source: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, source, case["annotation"])
    (said,) = known.expressions or known.regions
    assert bool(known.regions) == (source == "visual-genome")  # which may fit others
    question = template(case["options"]["template_name"], objs=REGION_MARK)
    check(case, [asked(question, points=(said.rows,)), answered(said.text)], known)


@pytest.mark.parametrize("name", ["region_caption_mask_two_polygons", "res_target_two_polygons"])
def test_masks_keep_all_their_polygons_where_the_original_keeps_the_first(tmp_path: Path, name: str) -> None:
    from vistruct.files.masks import rasterise

    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "refcoco", case["annotation"])
    mask, (width, height) = known.objects.masks[0], golden()["image_size"]
    assert rasterise(mask[:1], (0, 0, width, height)).sum() == case["target"]["masks"][0]["pixels"] == 100
    assert rasterise(mask, (0, 0, width, height)).sum() == 100 + 64
    assert [one.text for one in known.expressions] == ["the cat on the left"]


@pytest.mark.parametrize("name", ["flickr_boxes", "flickr_no_box"])
def test_sentences_of_flickr_point(tmp_path: Path, name: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "flickr30k-entities", case["annotation"])
    (told,) = known.sentences
    question = "" if name == "flickr_no_box" else template("flickr30k")  # the original falls back to a fixed question
    check(case, [asked(question), as_answer(told)], known)


def test_masks_of_flickr_are_pointed_at(tmp_path: Path) -> None:
    from vistruct.files.masks import rasterise

    case = golden()["cases"]["flickr_masks"]
    known, _ = known_of(tmp_path, "flickr30k-entities", case["annotation"])
    (told,) = known.sentences
    turn = as_answer(told, "mask")
    assert write_answer(turn, SPELLED).text == case["built"]["turns"][0]["output"]
    assert rasterise(known.objects.masks[0], (0, 0, 60, 48)).sum() == case["target"]["masks"][0]["pixels"]


def test_captions_of_flickr_have_no_blanks_before_commas(tmp_path: Path) -> None:
    case = golden()["cases"]["flickr_caption"]
    known, _ = known_of(tmp_path, "flickr30k-entities", case["annotation"])
    check(case, [asked(template("image_cap")), answered(known.sentences[0].text)], known)


def by_name(known: Known) -> dict[str, tuple[int, ...]]:
    groups: dict[str, tuple[int, ...]] = {}
    for row, name in enumerate(known.objects.extra["names"]):
        groups[name] = (*groups.get(name, ()), row)
    return groups


@pytest.mark.parametrize("name", ["grit_c", "grit_c_d"])
def test_captions_of_grit_point(tmp_path: Path, name: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "grit", case["annotation"])
    (told,) = known.sentences
    answer = as_answer(told) if name == "grit_c_d" else answered(told.text)
    check(case, [asked(template(case["options"]["template_name"])), answer], known)


def test_objects_of_grit_are_called_by_their_words(tmp_path: Path) -> None:
    case = golden()["cases"]["grit_d"]
    known, _ = known_of(tmp_path, "grit", case["annotation"])
    groups = by_name(known)
    text = ", ".join(f"<Phrase>{name}</Phrase>{OBJECT_MARK}" for name in groups)
    answer = answered(text, "detection", points=tuple(groups.values()), units=("box",) * len(groups))
    check(case, [asked(template("DET")), answer], known)
    np.testing.assert_allclose(known.objects.scores, [0.9, 0.9, 0.8, 0.7])


def later(text: str, number: int) -> str:
    """The original loses <image> in later turns."""
    return text if number == 0 else text.replace("<image>", "")


def test_classes_of_grit_are_found(tmp_path: Path) -> None:
    case = golden()["cases"]["grit_cond_d"]
    known, _ = known_of(tmp_path, "grit", case["annotation"])
    talk: list[Turn] = []
    for number, (name, rows) in enumerate(by_name(known).items()):
        text = f"<Phrase>{name}</Phrase>{OBJECT_MARK}"
        answer = answered(text, "grounding_detection", points=(rows,), units=("box",))
        talk += [asked(later(template("Cond_DET", cls=name), number)), answer]
    check(case, talk, known)


def test_expressions_of_grit_are_found_and_described(tmp_path: Path) -> None:
    case = golden()["cases"]["grit_r"]
    known, _ = known_of(tmp_path, "grit", case["annotation"])
    talk: list[Turn] = []
    for number, said in enumerate(known.expressions):
        text = f"<Phrase>target</Phrase>{OBJECT_MARK}"
        answer = answered(text, "grounding_detection", points=(said.rows,), units=("box",))
        talk += [asked(later(template("REC", expr=said.text), number)), answer]
    check(case, talk, known)
    case, described = golden()["cases"]["grit_g"], []
    for row, text in ((row, said.text) for said in known.expressions for row in said.rows):
        question = later(template("REG", objs=REGION_MARK), len(described))
        described += [asked(question, points=((row,),)), answered(text)]
    check(case, described, known)


@pytest.mark.parametrize(
    ("name", "question", "prompt"),
    [
        ("point_qa_local_b", "question", "box"),
        ("point_qa_local_p", "question", "point"),
        ("point_qa_twice_oq-b", "obj_question", "box"),
        ("point_qa_twice_gq-p", "general_question", "point"),
    ],
)
def test_questions_at_a_place(tmp_path: Path, name: str, question: str, prompt: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "pointqa", case["annotation"])
    text = f"{IMAGE_MARK}\n{case['annotation'][question]} {REGION_MARK}"
    (talk,) = [talk for talk in known.talks if talk[0].text == text and talk[0].prompts == (prompt,)]
    assert len(known.talks) == 8  # four questions, at the point and at the box
    ((row,),) = talk[0].points
    if prompt == "box":
        assert known.objects.boxes_xyxy[row].tolist() == case["target"]["boxes"][0]
    else:
        assert known.objects.keypoints is not None
        assert known.objects.keypoints[row].tolist() == [[*case["target"]["points"][0], 2]]
        assert [(one.kind, one.row) for one in known.drawn] == [("point", row)]
    assert plain(write_answer(talk[1], SPELLED).text) == plain(short(case["built"]["turns"][0]["output"]))


@pytest.mark.parametrize("unit", ["box", "point"])
def test_one_of_four_boxes_is_pointed_at(tmp_path: Path, unit: str) -> None:
    case = golden()["cases"][f"v7w_{unit[0]}"]
    known, _ = known_of(tmp_path, "visual7w", case["annotation"])
    (talk,) = [talk for talk in known.talks if talk[1].units == (unit,)]
    boxes = known.objects.boxes_xyxy
    shown = list(chain(*regions(talk[0], boxes)))
    assert sorted(shown) == sorted(case["target"]["boxes"]) == shown  # from left to right, as ours are
    assert boxes[talk[1].points[0][0]].tolist() == case["annotation"]["answer"]
    ours, theirs = write_answer(talk[1], SPELLED).text, case["built"]["turns"][0]["output"]
    assert plain(ours) == plain(theirs.replace("The answer is ", ""))


VCR = ("q-a", "q-ra", "qc-a", "qc-ra", "qc-rac", "qa-r", "qac-r", "q-a-q-r", "qc-a-qc-r")


@pytest.mark.parametrize("way", VCR)
def test_all_nine_ways_to_ask_of_films(tmp_path: Path, way: str) -> None:
    case = golden()["cases"][f"vcr_{way}"]
    known, _ = known_of(tmp_path, f"vcr-{way}", case["annotation"])
    (talk,) = known.talks
    check(case, talk, known)
    every, _ = known_of(tmp_path, "vcr", case["annotation"])
    assert every.talks[VCR.index(way)] == talk
    assert len(every.talks) == 9


@pytest.mark.parametrize(("name", "source"), [("a", "answer"), ("c", "words"), ("bc", "boxes")])
def test_reasons_of_shikra_point(tmp_path: Path, name: str, source: str) -> None:
    case = golden()["cases"][f"gpt4gen_{name}"]
    known, _ = known_of(tmp_path, f"shikra-rd-{source}", case["annotation"])
    (talk,) = known.talks
    check(case, talk, known)
    assert len(known_of(tmp_path, "shikra-rd", case["annotation"])[0].talks) == 3


@pytest.mark.parametrize("name", ["vqa_short", "okvqa", "okvqa_all_answers", "pope"])
def test_short_answers(tmp_path: Path, name: str) -> None:
    case = golden()["cases"][name]
    known, _ = known_of(tmp_path, "vqa-lines", case["annotation"])
    (talk,) = known.talks
    if name == "okvqa_all_answers":  # of which the original writes the list of Python with its weights
        assert (talk[1].text, talk[1].others) == ("a cat", ("other",))
    else:
        check(case, talk, known, answer=short)


def test_answers_with_reasons(tmp_path: Path) -> None:
    case = golden()["cases"]["vqa_explained_e"]
    known, _ = known_of(tmp_path, "vqa-explained", case["annotation"])
    (talk,) = known.talks
    check(case, [talk[0], Turn(role="assistant", text=talk[1].text)], known)
    assert talk[1].others == ("Unused. So the answer is a cat.",)
    case = golden()["cases"]["vqa_explained_x"]
    known, _ = known_of(tmp_path, "vqa-explained", case["annotation"])
    # The original joins all reasons into one; here each is one, and the first is taken.
    assert known.talks[0][1].text == "It is. So the answer is a cat."
    assert known.talks[0][1].others == ("soft. So the answer is a cat.",)


def test_the_text_of_the_first_stage_is_the_same_boxes_as_words(tmp_path: Path) -> None:
    case = golden()["cases"]["rec_stage1"]
    known, _ = known_of(tmp_path, "refcoco", case["annotation"])
    x0, y0, x1, y1 = known.objects.boxes_xyxy[0]
    width, height = golden()["image_size"]
    words = ",".join(f"{share:.3f}" for share in (x0 / width, y0 / height, x1 / width, y1 / height))
    assert case["stage_1_text"][1] == f"Answer: [{words}]."
