"""Conversations that point, drawn: an answer without its marks, and its phrases in the colours of their objects."""

from __future__ import annotations

import numpy as np
import torch

from vistruct.contracts import Objects, Sample, Turn
from vistruct.pictures.pointed import draw_pointed, meant
from vistruct.pictures.primitives import PALETTE

SAID = "A <Phrase>tree</Phrase><object> and <Phrase>a car</Phrase><object>."
BOXES = torch.tensor([[100.0, 100, 200, 200], [300, 300, 400, 400]])


def sample() -> Sample:
    turns = (
        Turn(role="user", text="<image>\nBox <region>.", points=((1,),), prompts=("point",)),
        Turn(role="assistant", text=SAID, points=((0,), (1,))),
        Turn(role="user", text="How many?"),
        Turn(role="assistant", text="two"),
    )  # fmt: skip
    objects = Objects(labels=torch.zeros(2, dtype=torch.int64), boxes_xyxy=BOXES)
    image = torch.full((3, 512, 512), 90, dtype=torch.uint8)
    return Sample(id="a", image_id="a", seed=0, images=[image], objects=objects, turns=turns)


def test_an_answer_is_read_without_its_marks():
    found = meant(sample().turns[1], sample())
    assert found.words == "A tree and a car."
    assert [found.words[one.start : one.end] for one in found.phrases] == ["tree", "a car"]
    assert [found.objects.boxes_xyxy[list(one.rows)].tolist() for one in found.phrases] == [
        [BOXES[0].tolist()],
        [BOXES[1].tolist()],
    ]


def test_each_answer_has_a_picture_with_its_objects_in_the_colours_of_its_phrases():
    picture = np.asarray(draw_pointed(sample()), int)
    assert picture.shape[1] > 2 * 512
    hits = [(np.abs(picture - colour).max(axis=2) < 3).nonzero() for colour in PALETTE[:2]]
    assert all(len(hit[0]) > 4 * 80 for hit in hits)
    assert (hits[0][1] < picture.shape[1] // 2).all()  # the second answer points at nothing
