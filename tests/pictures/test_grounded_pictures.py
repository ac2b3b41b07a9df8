"""Answers that point, as pictures: what is drawn has the colour of its phrase, in the answer and in the truth."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vistruct.contracts import Grounded, GroundedPrediction, MaskPatch, Objects, Phrase, Region, Sample, Turn
from vistruct.pictures.grounded import draw_grounded, draw_grounded_sample, regions_of
from vistruct.pictures.primitives import INK, PALETTE

SIDE = 512  # no picture is smaller, so that nothing is enlarged
GREY = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
BOXES = torch.tensor([[20.0, 20, 120, 120], [200, 40, 300, 140], [60, 300, 160, 400]])


def grounded(words: str, *phrases: tuple[str, str, tuple[int, ...]], **columns: object) -> Grounded:
    found = [
        Phrase(text=text, unit=unit, rows=rows, start=words.find(text), end=words.find(text) + len(text))
        for text, unit, rows in phrases
    ]
    objects = Objects(labels=torch.zeros(3, dtype=torch.int64), boxes_xyxy=BOXES, **columns)  # ty: ignore
    return Grounded(words=words, phrases=tuple(found), objects=objects)


def prediction(found: Grounded, truth: Grounded | None = None, question: str = "<image>\nWhat?") -> GroundedPrediction:
    return GroundedPrediction(id="a", image_id="a", question=question, answer="", found=found, truth=truth)


def share(picture: Image.Image, colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> float:
    """Of the pixels of a part, those of that colour."""
    return float((np.abs(np.asarray(picture.crop(box), int) - colour).max(axis=2) < 3).mean())


def test_phrases_have_the_colours_of_their_objects_and_the_truth_has_them_too():
    found = grounded("a tree and a house", ("tree", "box", (0,)), ("house", "box", (1,)))
    truth = grounded("The House, and a bush", ("House", "box", (1,)), ("bush", "box", (2,)))
    picture = draw_grounded(GREY, prediction(found, truth))
    assert picture.width > 2 * SIDE
    top = next(y for y in range(SIDE) if share(picture, (90, 90, 90), (14, y, 24, y + 1)) == 1.0)
    edges = {"tree": (20, 30, 24, 110), "house": (200, 50, 204, 130), "bush": (60, 310, 64, 390)}
    right = 14 + SIDE + 8  # where the truth begins
    for colour, (name, left) in zip(
        (PALETTE[0], PALETTE[1], PALETTE[1], PALETTE[2]),
        (("tree", 14), ("house", 14), ("house", right), ("bush", right)),
        strict=True,
    ):
        x1, y1, x2, y2 = edges[name]
        assert share(picture, colour, (x1 + left, y1 + top, x2 + left, y2 + top)) > 0.4, name
        below = (0, top + SIDE, picture.width, picture.height)
        assert share(picture, colour, below) > 0, name


def test_masks_points_and_depths_are_drawn_as_what_they_are():
    mask = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    mask[0, 20:120, 20:120] = True
    depth = torch.zeros(3, SIDE, SIDE)
    depth[:, :, 256:] = 1.0
    masked = draw_grounded(GREY, prediction(grounded("it", ("it", "mask", (0,)), masks=mask)))
    ground = np.asarray(masked)[14 + 70, 14 + 70].astype(int)
    assert np.abs(ground - (0.65 * 90 + 0.35 * np.array(PALETTE[0]))).max() <= 2
    patches = tuple(MaskPatch(pixels=mask[i].numpy()[20:120, 20:120], x=20, y=20) for i in range(3))
    again = draw_grounded(GREY, prediction(grounded("it", ("it", "mask", (0,)), masks=patches)))
    assert np.array_equal(np.asarray(again), np.asarray(masked))
    pointed = draw_grounded(GREY, prediction(grounded("it", ("it", "point", (0,)))))
    assert share(pointed, PALETTE[0], (14 + 69, 14 + 69, 14 + 72, 14 + 72)) == 1.0
    assert share(pointed, PALETTE[0], (14 + 20, 14 + 30, 14 + 24, 14 + 110)) == 0.0
    deep = np.asarray(draw_grounded(GREY, prediction(grounded("it", ("it", "depth", (0,)), masks=depth)))).astype(int)
    assert np.abs(deep[100, 114] - 18).max() <= 1
    assert np.abs(deep[100, 414] - (18 + 0.8 * np.array(PALETTE[0]))).max() <= 1


def test_what_a_question_shows_is_drawn_and_numbered():
    regions = (Region(kind="box", xy=((120.0, 120), (20, 20))), Region(kind="scribble", xy=((200.0, 300), (400, 300))))
    picture = draw_grounded(GREY, prediction(Grounded(words=""), question="<region> or <region>?"), regions)
    assert share(picture, INK, (14 + 220, 14 + 299, 14 + 380, 14 + 301)) > 0.9
    assert 0.2 < share(picture, INK, (14 + 20, 14 + 20, 14 + 22, 14 + 120)) < 0.8


def test_prompts_of_a_turn_become_regions():
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    masks[2, 300:400, 60:160] = True
    objects = Objects(labels=torch.zeros(3, dtype=torch.int64), boxes_xyxy=BOXES, masks=masks)
    turn = Turn(
        role="user", text="<region><region><region>", points=((0,), (1,), (2,)), prompts=("box", "point", "mask")
    )
    box, point, mask = regions_of(turn, objects)
    assert box.xy == ((20.0, 20.0), (120.0, 120.0))
    assert point.xy == ((250.0, 90.0),)
    assert mask.mask is not None
    assert mask.mask.sum() == 100 * 100


def test_answers_about_one_sample_stand_below_each_other_and_nothing_is_no_error():
    image = torch.full((3, 60, 40), 90, dtype=torch.uint8)
    turns = (Turn(role="user", text="<image>\nWhat?"), Turn(role="assistant", text="none"))
    sample = Sample(id="a", image_id="a", seed=0, images=[image], turns=turns * 6)
    nothing = prediction(Grounded(words="", defects=("no end",)), Grounded(words="none"))
    one, many = draw_grounded_sample(sample, [nothing]), draw_grounded_sample(sample, [nothing] * 6)
    assert 3.9 * one.height < many.height < 4.4 * one.height
    assert draw_grounded_sample(sample, []).height > 0
