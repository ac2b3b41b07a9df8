"""Rows in the Vicuna template against the published system's, for a tokenizer of Llama's kind and one of Qwen's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_grammar import GOLDEN, RIGHT, SCHEMA, turns_of
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vistruct.contracts import Turn
from vistruct.errors import UserError
from vistruct.vlm import vicuna
from vistruct.vlm.chat import IGNORE, IMAGE_TOKEN
from vistruct.vlm.grammar import (
    Grammar,
    added_tokens,
    read_answer,
    spell_answer,
    write_coordinates,
    write_turns,
)

PUBLISHED = Grammar(command=True, spelling="published")
CASES = [(name, kind) for name in RIGHT for kind in SCHEMA["cases"][name]["tokens"]]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    out = {}
    for kind in ("prefix", "bytes"):
        core = Tokenizer.from_file(str(GOLDEN / f"tokenizer_{kind}.json"))
        out[kind] = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=vicuna.END)
        out[kind].add_tokens([*added_tokens(PUBLISHED), *vicuna.ADDED_TOKENS], special_tokens=True)
    return out


def test_added_tokens_have_the_published_numbers(tokenizers):
    for token, numbers in SCHEMA["special_token_ids"].items():
        assert {kind: tokenizers[kind].convert_tokens_to_ids(token) for kind in numbers} == numbers


def row_of(name: str, tokenizer: Any) -> Any:
    case = SCHEMA["cases"][name]["case"]
    turns, _ = write_turns(turns_of(case), PUBLISHED.model_copy(update={"cot": case.get("use_cot", True)}))
    prefix = Turn(role="system", text=SCHEMA["template"]["SYSTEM_PREFIX"].removesuffix("\n"))
    images = [1] if case["image"] else []
    return vicuna.encode([prefix, *turns], images, tokenizer, begin=vicuna.beginning(tokenizer))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_tokens_and_labels_are_the_published_ones(tokenizers, name, kind):
    tokenizer, expected = tokenizers[kind], SCHEMA["cases"][name]["tokens"][kind]
    row = row_of(name, tokenizer)
    place = {tokenizer.convert_tokens_to_ids(IMAGE_TOKEN): -200, tokenizer.convert_tokens_to_ids("<region>"): -300}
    assert [place.get(number, number) for number in row.input_ids] == expected["ids"]
    supervised = {at for start, end in expected["supervised"] for at in range(start, end)}
    assert row.labels == [token if at in supervised else IGNORE for at, token in enumerate(row.input_ids)]


@pytest.mark.parametrize("kind", ["prefix", "bytes"])
@pytest.mark.parametrize("name", RIGHT)
def test_supervised_tokens_are_spelled_as_the_answers_they_were(tokenizers, name, kind):
    row, expected = row_of(name, tokenizers[kind]), SCHEMA["cases"][name]["expected"]
    runs = "".join("x" if label == IGNORE else "o" for label in row.labels).replace("xo", "x o").split()
    answers, at = [], 0
    for run in runs:
        start = at + run.find("o")
        at += len(run)
        if "o" in run:
            answers.append(spell_answer(row.labels[start : start + run.count("o")], tokenizers[kind], PUBLISHED))
    assert answers == [turn["output"] for turn in expected["turns"]]


def test_words_that_look_like_a_token_are_none(tokenizers):
    tokenizer = tokenizers["bytes"]
    pieces = ["<", "REF", "> and "]
    ids = [number for piece in pieces for number in tokenizer.encode(piece, add_special_tokens=False)]
    ids += [tokenizer.convert_tokens_to_ids(token) for token in ("<REF>", "<region>", vicuna.END)]
    text = spell_answer(ids, tokenizer, PUBLISHED)
    assert text == "\u2039REF> and <REF>"
    assert read_answer(text, PUBLISHED).words == "\u2039REF> and"


def test_a_row_to_be_answered_is_the_beginning_of_the_row_that_teaches(tokenizers):
    turns = [
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="How many?"),
        Turn(role="assistant", text="2"),
    ]
    for tokenizer in tokenizers.values():
        whole = vicuna.encode(turns, [3], tokenizer, begin=[1])
        asked = vicuna.encode(turns[:2], [3], tokenizer, begin=[1], answer=True)
        assert whole.input_ids[: len(asked.input_ids)] == asked.input_ids
        assert whole.labels[len(asked.input_ids)] != IGNORE
        assert set(asked.labels) == {IGNORE}
        assert asked.input_ids.count(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)) == 3
        unsaid = vicuna.encode([*turns[:2], replace(turns[2], is_taught=False)], [3], tokenizer, begin=[1])
        assert set(unsaid.labels) == {IGNORE}


def test_images_and_marks_must_agree(tokenizers):
    with pytest.raises(UserError, match="2 <image> marks for 1 images"):
        vicuna.encode([Turn(role="user", text="<image> or <image>?")], [1], tokenizers["bytes"])
    with pytest.raises(UserError, match="holds <IMG_CONTEXT> itself"):
        vicuna.encode([Turn(role="user", text="<IMG_CONTEXT>?")], [], tokenizers["bytes"])


# The image is 60 x 48 pixels; texts of the published first stage.
BOXES = [[3, 4, 20, 18], [22, 9, 40, 30], [8, 25, 30, 40]]
RELATIVE = [[x0 / 60, y0 / 48, x1 / 60, y1 / 48] for x0, y0, x1, y1 in BOXES]


def test_coordinates_are_written_as_in_the_published_first_stage():
    text = "A <Phrase>brown dog</Phrase><object> and <Phrase>two cats</Phrase><object> rest on a sofa."
    turns = [
        Turn(role="user", text="What is at <region>?", points=((1,),), prompts=("mask",)),
        Turn(role="assistant", text=text, points=((0,), (1, 2)), units=("mask", "mask")),
    ]
    (asked, said), aims = write_turns(turns, Grammar(coordinates=True), RELATIVE)
    assert asked == Turn(role="user", text="What is at [0.367,0.188,0.667,0.625]?")
    assert said.text == (
        "A brown dog[0.050,0.083,0.333,0.375] and two cats[0.367,0.188,0.667,0.625;0.133,0.521,0.500,0.833] "
        "rest on a sofa."
    )
    assert aims == []
    assert said.points == ()


def test_coordinates_beyond_the_picture_are_refused():
    turn = Turn(role="assistant", text="<object>", points=((0,),))
    assert write_coordinates(turn, [[-1e-4, 0, 1, 1.0004]]).text == "[0.000,0.000,1.000,1.000]"
    with pytest.raises(UserError, match="beyond its image"):
        write_coordinates(turn, [[-0.1, 0, 1, 1]])


def test_a_system_turn_may_show_tags_and_no_object():
    tags = Turn(role="system", text="Names are <Phrase>so</Phrase>, shapes <Unit>so</Unit>.")
    assert write_turns([tags], Grammar()) == ([tags], [])
    with pytest.raises(UserError, match="holds <object>"):
        write_turns([Turn(role="system", text="<object>")], Grammar())
