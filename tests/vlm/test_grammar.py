"""Answers in the grammar: the golden cases of the published system, and what it refuses and we do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistruct.contracts import Turn
from vistruct.errors import UserError
from vistruct.vlm.answers import DEFECTS
from vistruct.vlm.grammar import Grammar, added_tokens, read_answer, refuse_twins, write_answer, write_turns

GOLDEN = Path(__file__).parents[1] / "golden" / "vtplug_grammar"
SCHEMA = json.loads((GOLDEN / "schema.json").read_text())
UNITS = {"<boxes>": "box", "<masks>": "mask", "<points>": "point"}


def turns_of(case: dict[str, Any]) -> list[Turn]:
    """A case of the published schema as our turns: one mark for the placeholders of a phrase."""
    said = case["conversations"]
    tasks = (f"{t['task']['task_name']}: {', '.join(e for e in t['task']['element'])}" for t in said[0]["value"])
    out = []
    for turn in said[1:]:
        asks = turn["from"] == "human"
        text = turn["value"].replace("<keypoints>", "")
        points: list[tuple[int, ...]] = []
        units: list[str] = []
        groups = {place: [*turn.get(f"{place[1:-1]}_seq", ())] for place in UNITS}
        if asks:  # each prompt is shown apart
            groups = {place: [[row] for rows in groups[place] for row in rows] for place in UNITS}
        while places := [(text.index(place), place) for place in UNITS if place in text]:
            at, place = min(places)
            rows = groups[place].pop(0) if groups[place] else []
            end = at + len(place)
            while not asks and text.startswith(place, end) and end < at + len(place) * len(rows):
                end += len(place)
            text = text[:at] + ("<region>" if asks else "<object>") + text[end:]
            points += [tuple(rows)] if rows else []
            units.append(UNITS[place])
        if asks and "<image>" in text:  # as the original moves it to the front
            text = "<image>\n" + text.replace("<image>\n", "").replace("<image>", "").strip()
        role = "user" if asks else "assistant"
        own = {"units": tuple(units), "task": next(tasks)} if not asks else {}
        out.append(Turn(role=role, text=text, points=tuple(points), **own))
    return out


def written(case: dict[str, Any]) -> Any:
    grammar = Grammar(cot=case.get("use_cot", True), command=True, spelling="published")
    return write_turns(turns_of(case), grammar)


RIGHT = [name for name, case in SCHEMA["cases"].items() if "raises" not in case["expected"]]
# What the original refuses and we write: turns of different units, two units in one answer, and one mark for several
# objects, of which none can be forgotten.
BETTER = {
    "units_with_a_caption_turn": ["box"],
    "boxes_and_masks_in_one_answer": ["box", "mask"],
    "too_few_placeholders": ["box", "box"],
}
REFUSED = {
    "phrase_without_unit": "phrase without objects",
    "unit_without_phrase": "objects without phrase",
    "prompt_count_wrong": "holds <region> itself",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_golden_annotation_becomes_its_conversation(name):
    case, expected = SCHEMA["cases"][name]["case"], SCHEMA["cases"][name]["expected"]
    turns, aims = written(case)
    commands, asked, answers = (turns[at::3] for at in range(3))
    assert [turn.text for turn in commands] == [turn["command"] for turn in expected["turns"]]
    assert [turn.text for turn in answers] == [turn["output"] for turn in expected["turns"]]
    prefix = SCHEMA["template"]["SYSTEM_PREFIX"]
    read = [
        f"{c.text}\nUSER: {q.text.replace('<region>', '[VPT]')} ASSISTANT:"
        for c, q in zip(commands, asked, strict=True)
    ]
    assert [prefix + read[0], *read[1:]] == [turn["input"] for turn in expected["turns"]]
    groups: dict[int, list[int]] = {}
    for aim in aims:
        groups.setdefault(aim.group, []).append(aim.row)
    assert list(groups) == list(range(len(groups)))
    assert (list(groups.values()) or None) == expected["decode_seqs"]
    assert {aim.unit for aim in aims} <= {expected["decode_units"]}


@pytest.mark.parametrize("name", BETTER)
def test_what_the_original_cannot_write_is_written(name):
    _, aims = written(SCHEMA["cases"][name]["case"])
    assert [aim.unit for aim in aims] == BETTER[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused_with_a_reason(name):
    with pytest.raises(UserError, match=REFUSED[name]):
        written(SCHEMA["cases"][name]["case"])


def test_every_case_of_the_golden_is_looked_at():
    assert {*RIGHT, *BETTER, *REFUSED} == set(SCHEMA["cases"])


def test_a_written_answer_in_full():
    text = "<Phrase>trees</Phrase><object><object> by <Phrase>a roof</Phrase><object>."
    turn = Turn(role="assistant", text=text, points=((2, 0), (2,), (1,)), units=("box", "mask", "mask"))
    done = write_answer(turn, Grammar())
    assert done.text == (
        "<Task>\nUnit decode (True). Class name, target unit and number:\n"
        "- Name: trees Unit: box Num: 2\n- Name: trees Unit: mask Num: 1\n- Name: a roof Unit: mask Num: 1\n</Task>\n"
        "<Phrase>trees</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>)(<Unit>mask</Unit>[0]<object>)"
        " by <Phrase>a roof</Phrase>(<Unit>mask</Unit>[0]<object>)."
    )
    assert [(a.row, a.unit, a.group) for a in done.aims] == [
        (2, "box", 0),
        (0, "box", 0),
        (2, "mask", 1),
        (1, "mask", 2),
    ]


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        (Turn(role="assistant", text="a <REF> b"), "holds <REF>"),
        (Turn(role="assistant", text="a <Task> b"), "holds <Task>"),
        (Turn(role="assistant", text="an <object>"), "holds <object>"),
        (Turn(role="user", text="an <Unit>"), "holds <Unit>"),
        (Turn(role="user", text="<region> and <region>?", points=((0,),)), "2 marks, 1 points"),
        (Turn(role="assistant", text="<Phrase>a</Phrase><object>", points=((),)), "1 marks, 1 points"),
        (Turn(role="assistant", text="<Phrase>a<object>", points=((0,),)), "phrase not closed"),
        (Turn(role="assistant", text="<Phrase> </Phrase><object>", points=((0,),)), "phrase empty"),
        (
            Turn(role="assistant", text="<Phrase>a</Phrase><object>", points=((0,),), units=("a b",)),
            "a unit for each mark",
        ),
        (
            Turn(role="assistant", text="<Phrase>a</Phrase><object>", points=((0,),), units=("box", "box")),
            "not one for each mark",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(turn, what):
    with pytest.raises(UserError, match=what):
        write_turns([turn], Grammar(spelling="published" if "REF" in what else "ours"))


def test_tokens_that_differ_by_case_alone_are_refused():
    with pytest.raises(UserError, match="<REF> and <ref>"):
        refuse_twins(added_tokens(Grammar(spelling="published")), ["<ref>", "</ref>", "<box>"])
    refuse_twins(added_tokens(Grammar()), ["<ref>", "</ref>", "<box>", "<object>"])


WORDS = st.text(alphabet="ab (,)[0].\n", min_size=1, max_size=8).map(lambda t: " ".join(t.split())).filter(bool)
PARTS = st.lists(
    st.tuples(
        WORDS,
        st.lists(st.tuples(st.sampled_from(["box", "mask", "tree-line"]), st.integers(1, 3)), min_size=1, max_size=2),
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(
    PARTS, st.lists(WORDS, min_size=6, max_size=6), st.booleans(), st.sampled_from(["ours", "published"]), st.booleans()
)
def test_what_was_written_is_read(parts, between, cot, spelling, blanks):
    text, plain, points, units, spans = "", "", [], [], []
    for (phrase, drawn), words in zip(parts, between[1:], strict=False):
        text += f"{words} <Phrase>{phrase}</Phrase>" + "<object>" * len(drawn) + " "
        spans += [(len(plain) + len(words) + 1, phrase)] * len(drawn)
        plain += f"{words} {phrase} "
        points += [tuple(range(count)) for _, count in drawn]
        units += [unit for unit, _ in drawn]
    turn = Turn(role="assistant", text=text + between[0], points=tuple(points), units=tuple(units))
    grammar = Grammar(cot=cot, spelling=spelling)
    done = write_answer(turn, grammar).text
    if blanks:  # as a tokenizer of Llama's kind writes what stands behind special tokens
        for token in ("</Task>", "<Phrase>", "<Unit>", "</Unit>", "</Phrase>", grammar.object_token):
            done = done.replace(token, token + " ").replace(token + " <", token + "<")
    read = read_answer(done, grammar, units=("box", "mask", "tree-line"))
    assert read.defects == ()
    assert read.words == plain + between[0]
    assert [(p.start, p.text) for p in read.phrases] == spans
    assert all(read.words[p.start : p.end] == p.text for p in read.phrases)
    assert [p.unit for p in read.phrases] == units
    assert [row for p in read.phrases for row in p.rows] == list(range(sum(map(len, points))))
    assert len(read.plan) == (len(units) if cot else 0)


BROKEN = {
    "<Phrase>tree(<Unit>box</Unit>[0]<object>)": ("tree", [("tree", "box", 1)], "phrase not closed"),
    "tree</Phrase>(<Unit>box</Unit>[0]<object>)": ("tree", [("", "box", 1)], "phrase not opened"),
    "<Phrase>tree</Phrase>(<Unit>box</Unit>[0]<object>": ("tree", [("tree", "box", 1)], "parenthesis missing"),
    "<Phrase>tree</Phrase>(<Unit>box</Unit>[0]<object>[1": ("tree", [("tree", "box", 1)], "parenthesis missing"),
    "<Phrase>tree</Phrase><Unit>box</Unit>[0]<object>)": ("tree", [("tree", "box", 1)], "parenthesis missing"),
    "<Phrase>a</Phrase>(<Unit>box</Unit>[1]<object>[0]<object>)": ("a", [("a", "box", 2)], "index order wrong"),
    "<Phrase>tree</Phrase>(<Unit>box</Unit><object>)": ("tree", [("tree", "box", 1)], "index order wrong"),
    "<Phrase>tree</Phrase>(<Unit>box</Unit>)": ("tree", [("tree", "box", 0)], "unit without objects"),
    "<Phrase>tree</Phrase>(<Unit>cat</Unit>[0]<object>)": ("tree", [("tree", "cat", 1)], "unit unknown"),
    "<Phrase>tree</Phrase>(<Unit></Unit>[0]<object>)": ("tree", [("tree", "", 1)], "unit missing"),
    "<Phrase>tree</Phrase>([0]<object>[1]<object>)": ("tree", [("tree", "", 2)], "unit missing"),
    "<Phrase>tree</Phrase><object>": ("tree", [("tree", "", 1)], "unit missing"),
    "<Phrase>tree</Phrase>(<Unit>box[0]<object>)": ("tree", [("tree", "box", 1)], "unit not closed"),
    "<Phrase>tree</Phrase>(box</Unit>[0]<object>)": ("tree", [("tree", "box", 1)], "unit not opened"),
    "<Phrase></Phrase>(<Unit>box</Unit>[0]<object>)": ("", [("", "box", 1)], "phrase empty"),
    "<Phrase>tree</Phrase> there": ("tree there", [("tree", "", 0)], "phrase without objects"),
    "here (<Unit>box</Unit>[0]<object>)": ("here", [("", "box", 1)], "objects without phrase"),
    "a tree <object>": ("a tree", [], "stray object token"),
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_answer_is_read_in_part_and_its_defect_named(text):
    words, phrases, defect = BROKEN[text]
    read = read_answer(text, Grammar(cot=False))
    assert (read.words, [(p.text, p.unit, len(p.rows)) for p in read.phrases]) == (words, phrases)
    assert defect in read.defects


ROW, HEAD = "- Name: tree Unit: box Num: 1\n", "Unit decode (True). Class name, target unit and number:\n"
TREE = "<Phrase>tree</Phrase>(<Unit>box</Unit>[0]<object>)"
PLANS = {
    TREE: ["no plan"],
    f"<Task>\n{HEAD}{ROW}</Task>\n{TREE}": [],
    f"<Task> \n{HEAD} {ROW}</Task> \n{TREE}": [],
    f"Yes. <Task>\n{HEAD}{ROW}</Task>\n{TREE}": ["plan not at the beginning"],
    f"<Task>\n{HEAD}{ROW}{TREE}": ["plan not closed"],
    f"{HEAD}{ROW}</Task>{TREE}": ["plan not opened", "no plan"],
    f"<Task>\n{HEAD}{ROW}</Task><Task>\n{HEAD}{ROW}</Task>\n{TREE}": ["plan repeated"],
    f"<Task>\n{HEAD}</Task>\n{TREE}": ["plan malformed", "phrases differ from plan", "count differs from plan"],
    f"<Task>\n{HEAD}{ROW}some words\n</Task>\n{TREE}": ["plan row malformed"],
    f"<Task>\n{HEAD}- Name: roof Unit: box Num: 1\n</Task>\n{TREE}": ["phrases differ from plan"],
    f"<Task>\n{HEAD}- Name: tree Unit: mask Num: 1\n</Task>\n{TREE}": ["phrases differ from plan"],
    f"<Task>\n{HEAD}- Name: tree Unit: box Num: 2\n</Task>\n{TREE}": ["count differs from plan"],
    f"<Task>\n{HEAD}- Name: tr": ["plan not closed", "plan row malformed", "plan malformed"],
}  # fmt: skip


@pytest.mark.parametrize("text", PLANS)
def test_a_broken_plan_is_named(text):
    read = read_answer(text, Grammar())
    assert list(read.defects) == PLANS[text]
    assert read.words.endswith("tree") or "Num" not in text.replace(HEAD, "")


def test_every_defect_can_be_found():
    texts = [(text, Grammar(cot=False)) for text in BROKEN] + [(text, Grammar()) for text in PLANS]
    texts.append(("<Phrase>" * 9, Grammar(cot=False)))
    assert {defect for text, grammar in texts for defect in read_answer(text, grammar).defects} == set(DEFECTS)
