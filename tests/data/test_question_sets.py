"""Sets of questions as they are published, read as conversations of one question each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import question_sets as sets

from vistruct.data.at_path import part_at
from vistruct.data.checks.check import check
from vistruct.data.formats.chat.asked import NO_ANSWER
from vistruct.data.formats.chat.vqa import UNASKED
from vistruct.data.formats.detect import family_of
from vistruct.data.questions import QuestionsDataConfig
from vistruct.data.reading import DESCRIBE, Reading
from vistruct.errors import UserError

LAYOUTS = {"vqa": sets.vqa, "gqa": sets.gqa, "text-vqa": sets.text_vqa}


@pytest.mark.parametrize(("name", "layout"), [*LAYOUTS.items(), ("text-vqa", sets.vizwiz)])
def test_a_set_is_told_by_its_content_and_checked(tmp_path, name, layout):
    annotation = layout(tmp_path)
    family = family_of(annotation)
    assert (family.kind, family.format) == ("questions", name)
    result = check(annotation)
    assert result.ok, result
    assert result.counts["questions"] == len(part_at(annotation).build())


def test_vqa_brings_every_answer_and_the_commonest_is_the_truth(tmp_path):
    annotation = sets.vqa(tmp_path)
    for named in (annotation, tmp_path, tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"):
        data = part_at(named).build()
        assert [record.id for record in data.records] == ["10", "11", "12"]
        for record in data.records:
            answer = record.turns[-1]
            assert Counter((answer.text, *answer.others)) == Counter(sets.PEOPLE[int(record.id)])
            assert answer.text == Counter(sets.PEOPLE[int(record.id)]).most_common(1)[0][0]
            assert answer.form == "vqa"
    assert data.records[0].turns[0].text == "<image>\nWhat is it?"
    assert [record.families for record in data.records] == [("other",), ("yes/no",), ("number",)]
    assert [record.image_id for record in data.records] == ["1", "1", "2"]
    assert data.sample(0, 0).images[0].shape == (3, 40, 52)


def test_images_may_be_called_as_coco_2017_calls_them_and_lie_elsewhere(tmp_path):
    annotation = sets.vqa(tmp_path / "vqa")
    for number in (1, 2):
        (tmp_path / "vqa" / "val2014" / f"COCO_val2014_{number:012d}.jpg").rename(tmp_path / f"{number:012d}.jpg")
    with pytest.raises(UserError, match="not on disk"):
        part_at(annotation).build()
    data = part_at(annotation, Reading(images=str(tmp_path))).build()
    assert [record.images[0].name for record in data.records] == ["000000000001.jpg"] * 2 + ["000000000002.jpg"]
    (tmp_path / "000000000002.jpg").unlink()
    dropped = part_at(annotation, Reading(images=str(tmp_path), missing="drop")).build()
    assert len(dropped) == 2
    assert sum(dropped.report.counts.values()) == 1


def test_halves_that_do_not_fit_are_counted_and_a_missing_half_is_named(tmp_path):
    annotation = sets.vqa(tmp_path)
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(questions.read_text())
    content["questions"][1]["question_id"] = 99
    questions.write_text(json.dumps(content))
    data = part_at(annotation).build()
    assert [record.id for record in data.records] == ["10", "12"]
    assert data.report.counts == {NO_ANSWER: 1, UNASKED: 1}
    questions.unlink()
    with pytest.raises(UserError, match="no questions"):
        part_at(annotation).build()


def test_two_splits_in_a_folder_are_a_question(tmp_path):
    sets.vqa(tmp_path)
    sets.vqa(tmp_path, "train2014")
    with pytest.raises(UserError, match="train2014"):
        part_at(tmp_path).build()
    assert len(part_at(tmp_path, split="val2014").build()) == 3


def test_gqa_is_answered_once_and_by_structure(tmp_path):
    data = part_at(sets.gqa(tmp_path)).build()
    assert [(r.turns[1].text, r.turns[1].others, r.families) for r in data.records] == [
        ("no", (), ("verify",)),
        ("the man", (), ("query",)),
    ]


def test_vizwiz_and_text_vqa_bring_ten_answers(tmp_path):
    for layout, truth in ((sets.vizwiz, "basil leaves"), (sets.text_vqa, "nokia")):
        (record,) = part_at(layout(tmp_path)).build().records
        assert record.turns[1].text == truth
        assert len(record.turns[1].others) == 9


def test_captions_become_the_question_for_one_with_every_reference_by_domain(tmp_path):
    data = QuestionsDataConfig(annotation=sets.nocaps(tmp_path)).build()
    assert [record.families for record in data.records] == [("in-domain",), ("near-domain",), ("out-domain",)]
    asked, answer = data.records[2].turns
    assert asked.text == f"<image>\n{DESCRIBE}"
    assert (answer.text, answer.others, answer.form) == ("A llama on a lake.", ("A llama on the grass.",), "caption")


def test_a_hint_stands_behind_the_question(tmp_path: Path):
    data = QuestionsDataConfig(annotation=sets.gqa(tmp_path), hint="Answer with a single word.").build()
    assert data.records[0].turns[0].text == "<image>\nIs it overcast?\nAnswer with a single word."
