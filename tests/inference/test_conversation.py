"""A conversation that goes on: whatever a model wrote can be read by it again, and regions fit their image."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.cli.predict import region_of
from vistruct.contracts import Grounded, Objects, Region, Turn
from vistruct.errors import UserError
from vistruct.inference.conversation import objects_of, turn_of
from vistruct.vlm.grammar import Grammar, read_answer, write_answer

NESTED = (
    "<Phrase>two trees</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>)(<Unit>mask</Unit>[0]<object>) by <Phrase>a "
    "<Phrase>roof</Phrase>(<Unit>box</Unit>[0]<object>) house</Phrase>(<Unit>mask</Unit>[0]<object>)."
)


def again(text: str) -> tuple[Turn, str]:
    """An answer as a turn that was said, with its words."""
    read, num = read_answer(text, Grammar()), text.count("<object>")
    objects = Objects(labels=torch.zeros(num, dtype=torch.int64), boxes_xyxy=torch.zeros(num, 4))
    found = Grounded(words=read.words, phrases=read.phrases, objects=objects, plan=read.plan, defects=read.defects)
    return turn_of(found, 3), read.words


def test_phrases_with_several_units_and_phrases_in_phrases_are_said_again_as_they_were() -> None:
    turn, _ = again(NESTED)
    assert turn.text == (
        "<Phrase>two trees</Phrase><object><object> by <Phrase>a <Phrase>roof</Phrase><object> house</Phrase><object>."
    )
    assert (turn.points, turn.units) == (((3, 4), (5,), (6,), (7,)), ("box", "mask", "box", "mask"))
    assert write_answer(turn, Grammar(cot=False)).text == NESTED


def test_whatever_a_model_wrote_can_be_read_again() -> None:
    draw = random.Random(0)
    pieces = [*re.findall(r"<[^>]*>|\[\d\]|\w+|.", NESTED), "<region>", "<image>", "<Task>", "two words", " "]
    for _ in range(1500):
        turn, words = again("".join(draw.choices(pieces, k=draw.randrange(1, 40))))
        written = write_answer(turn, Grammar())
        assert read_answer(written.text, Grammar()).words.replace("\u2039", "<") == words


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    with pytest.raises(UserError, match="a mask of 5 x 4 pixels for an image of 8 x 6"):
        objects_of([Region(kind="mask", mask=np.ones((4, 5), bool))], [], (6, 8))


@pytest.mark.parametrize("text", ["point:nan,3", "box:0,0,inf,3", "scribble:1,2,3", "lasso:1,2"])
def test_what_shows_no_region_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="shows no region"):
        region_of(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "point"},
        {"kind": "ball", "xy": ((1, 2),)},
        {"kind": "point", "xy": ((math.nan, 2),)},
        {"kind": "box", "xy": ((1, 2),)},
        {"kind": "mask", "xy": ((1, 2),)},
        {"kind": "scribble"},
    ],
)
def test_a_region_that_shows_nothing_is_refused_where_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Region(**wrong)


def test_what_is_transparent_in_a_mask_file_is_not_drawn(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 128, np.uint8)
    pixels[..., 3] = 0
    pixels[1, 2] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "mask.png")
    mask = region_of(f"mask:{tmp_path / 'mask.png'}").mask
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[1, 2]]
