"""Reading answers: what the published evaluators read of them, and what no string may do to the reader."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
from broken_answers import answers, check, growing

from vistruct.contracts import Turn
from vistruct.vlm.answers import DEFECTS
from vistruct.vlm.grammar import Grammar, read_answer, write_answer

PUBLISHED = Grammar(spelling="published")
*READ, EXTRACTED = json.loads((Path(__file__).parents[1] / "golden" / "vtplug_grammar" / "reading.json").read_text())
# The original's captions have a blank in the place of objects and lose whatever else is in parentheses.
WORDS = ["person,dog.", "bench near person.", "A b on (old) c."]


@pytest.mark.parametrize(("case", "words"), list(zip(READ, WORDS, strict=True)))
def test_phrases_and_counts_are_those_of_the_published_reader(case, words):
    read = read_answer(case["text"], PUBLISHED)
    assert [[phrase.text, len(phrase.rows)] for phrase in read.phrases] == case["phrases_and_counts"]
    assert read.words == words


def test_the_plan_of_the_tagged_form_is_read_as_the_published_reader_does():
    plan = (
        "<Task>\nUnit decode (True). Class name, target unit and number:\n"
        "- Name: <Phrase>bench</Phrase> Unit: <Unit>mask</Unit> Num: 1\n"
        "- Name: <Phrase>person</Phrase> Unit: <Unit>mask</Unit> Num: 2\n</Task>\n"
    )
    told = EXTRACTED["answer_extract"]
    rows = tuple(zip(told["classes"], told["units"], told["nums"], strict=True))
    assert read_answer(plan + READ[1]["text"].split("</Task>\n")[1], PUBLISHED).plan == rows
    plain = read_answer(READ[1]["text"], PUBLISHED)  # as it is trained: the original finds no plan in it
    assert plain.plan == rows
    assert plain.defects == ()


def test_blanks_behind_special_tokens_hide_nothing():
    """As tokenizers of Llama's kind decode; the original's reader finds nothing in it."""
    text = (
        "A <Phrase> tree</Phrase> (<Unit> box</Unit> [0]<REF> [1]<REF> ) near "
        "<Phrase> a roof</Phrase> (<Unit> mask</Unit> [0]<REF> )."
    )
    read = read_answer(text, Grammar(cot=False, spelling="published"))
    assert read.words == "A tree near a roof."
    assert [(p.text, p.unit, p.rows, p.start) for p in read.phrases] == [
        ("tree", "box", (0, 1), 2),
        ("a roof", "mask", (2,), 12),
    ]
    assert read.defects == ()


def test_a_phrase_within_a_word_has_its_own_place():
    """The original looks for phrases as texts in the caption: of "a cat", the first two letters of it."""
    text = (
        "Cat food for two <Phrase>cat</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>)s "
        "and a <Phrase>cat</Phrase>(<Unit>box</Unit>[0]<object>)."
    )
    read = read_answer(text, Grammar(cot=False))
    assert read.words == "Cat food for two cats and a cat."
    assert [p.start for p in read.phrases] == [17, 28]


def test_the_other_spelling_is_words():
    text = "<Phrase>a</Phrase>(<Unit>box</Unit>[0]<REF>)"
    assert read_answer(text, Grammar(cot=False)).phrases[0].rows == ()
    assert read_answer(text, Grammar(cot=False, spelling="published")).phrases[0].rows == (0,)


def test_any_string_is_read():
    for text, grammar in itertools.islice(answers(seed=1), 3000):
        check(text, grammar)


def test_long_answers_take_time_in_proportion():
    """Twenty times as long, less than a hundred times the time; a square would be four hundred."""

    def took(text: str) -> float:
        begun = time.process_time()
        read_answer(text, Grammar())
        return time.process_time() - begun

    for (name, short), (_, long) in zip(growing(1_000), growing(20_000), strict=True):
        most = 100 * max(took(short), 5e-4)
        assert any(took(long) < most for _ in range(4)), name  # a square would never be; a busy machine is, once


def test_the_docs_tell_the_grammar_as_it_is():
    docs = (Path(__file__).parents[2] / "docs" / "vtplug.md").read_text().split("\n## The grammar\n")[1]
    line = json.loads(docs.split("```json\n")[1].split("```")[0])
    points, units = tuple(map(tuple, line["points"])), tuple(line["units"])
    turn = Turn(role="assistant", text=line["value"], points=points, units=units, task=line["task"])
    assert write_answer(turn, Grammar()).text == docs.split("```\n")[2].rstrip("\n")
    asked = docs.split('read_answer("')[1].split('"')[0]
    said = " ".join(docs.split("Grammar())\n")[1].split("```")[0].split())
    assert repr(read_answer(asked, Grammar())) == said
    rows = docs.split("names of defects")[1].split("\n\n")[0]
    assert all(defect in rows for defect in DEFECTS)
