"""Pictures: what is drawn is where it should be, and nothing is hidden or lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tables import with_objects

from vistruct.contracts import BoxPrediction, Objects, Sample, Turn
from vistruct.pictures import chat as draw_chat
from vistruct.pictures import objects as draw
from vistruct.pictures import primitives as ink


def grey(height: int = 600, width: int = 600) -> torch.Tensor:
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def sample(boxes: list[list[float]], labels: list[int] | None = None, **other: object) -> Sample:
    values = {
        "images": [grey()],
        "boxes_xyxy": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
    }
    return Sample(id="a", image_id="a", seed=0, **with_objects(values | other))


def predicted(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> BoxPrediction:
    return BoxPrediction(
        id="a",
        image_id="a",
        objects=Objects(
            boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
        ),
        class_names=("tree", "car"),
    )


def where_is(picture: Image.Image, colour: tuple[int, int, int], height: int = 600) -> tuple[int, int, int, int]:
    """The bounding box (xyxy, exclusive end) of a colour in the picture, its legend left out."""
    rows, columns = np.nonzero((np.asarray(picture)[:height] == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_box_is_drawn_exactly_where_it_is() -> None:
    picture = draw.draw_sample(sample([[100, 150, 300, 420]]), ["tree"])
    assert where_is(picture, ink.PALETTE[0]) == (100, 150, 300, 420)


def test_a_box_on_an_enlarged_image_scales_with_it() -> None:
    small = sample([[10, 20, 40, 50]], images=[grey(64, 64)])
    picture = draw.draw_sample(small, ["tree"])
    assert picture.width == 512
    assert where_is(picture, ink.PALETTE[0], 512) == (80, 160, 320, 400)


def test_the_inside_of_a_box_stays_as_it_was() -> None:
    picture = draw.draw_sample(sample([[100, 150, 300, 420], [350, 150, 500, 300]], [0, 1]), ["tree", "car"])
    inside = np.asarray(picture)[155:415, 105:295]
    assert (inside == 90).all()


def test_a_sample_without_objects_or_of_one_pixel_or_without_an_image_is_drawn() -> None:
    for one in (sample([]), sample([], images=[grey(1, 1)]), sample([], images=[])):
        assert min(draw.draw_sample(one, ["tree"]).size) > 20


def test_a_box_without_area_and_one_outside_the_image_do_not_stop_drawing() -> None:
    picture = draw.draw_sample(sample([[100, 100, 100, 100], [-50, -50, 700, 700], [650, 0, 690, 10]]), ["tree"])
    assert picture.width == 600


def test_boxes_that_are_not_finite_are_counted_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = []
    real = draw.with_legend
    monkeypatch.setattr(draw, "with_legend", lambda p, e, note: notes.append(note) or real(p, e, note))
    draw.draw_prediction(grey(), predicted([[0, 0, float("nan"), 9], [1, 1, 50, 50]], [0.9, 0.8]))
    assert notes == ["1 boxes not finite, not drawn"]


def test_matching_takes_each_object_once_best_score_first() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    owner = draw.match(
        boxes,
        torch.tensor([0.5, 0.9, 0.8, 0.7]),
        torch.tensor([0, 0, 1, 0]),
        truth,
        torch.tensor([0, 0]),
        min_iou=0.5,
    )
    assert owner.tolist() == [-1, 0, -1, -1]  # a duplicate, a hit, the wrong class, nothing there


def test_matching_agrees_with_pycocotools_on_random_scenes() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        corner = torch.rand(12, 2, generator=generator) * 80
        truth = torch.cat([corner, corner + 15 + torch.rand(12, 2, generator=generator) * 10], 1)
        boxes = (truth.repeat(2, 1) + torch.randn(24, 4, generator=generator) * 3).clamp(min=0)
        scores = torch.rand(24, generator=generator)
        owner = draw.match(boxes, scores, torch.zeros(24).long(), truth, torch.zeros(12).long(), min_iou=0.5)
        coco = COCO()
        xywh = [[a, b, c - a, d - b] for a, b, c, d in truth.tolist()]
        coco.dataset = {
            "info": {}, "images": [{"id": 1}], "categories": [{"id": 1}],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                for i, b in enumerate(xywh)
            ],
        }  # fmt: skip
        coco.createIndex()
        found = [
            {"image_id": 1, "category_id": 1, "bbox": [a, b, c - a, d - b], "score": s}
            for (a, b, c, d), s in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        theirs = evaluation.evalImgs[0]["dtMatches"][0] > 0  # best score first
        assert (owner >= 0)[scores.argsort(descending=True)].tolist() == theirs.tolist()


def test_colours_tell_found_from_false_alarm_from_missed() -> None:
    truth = Objects(boxes_xyxy=np.float32([[100, 100, 200, 200], [300, 300, 400, 400]]), labels=np.array([0, 0]))
    shown = predicted([[100, 100, 200, 205], [450, 450, 500, 500], [1, 1, 9, 9]], [0.9, 0.8, 0.1])
    picture = draw.draw_prediction(grey(), shown, truth)
    assert picture.getpixel((450, 475)) == picture.getpixel((499, 475)) == draw.FALSE_ALARM
    assert picture.getpixel((1, 5)) == (90, 90, 90)  # below the least score
    left, top, right, bottom = where_is(picture, draw.MISSED)
    assert (left, top) == (300, 300)
    assert 390 <= right <= 401  # dashed: the last corner may fall into a gap
    assert 390 <= bottom <= 401
    assert picture.getpixel((150, 204)) == draw.FOUND


def test_a_contact_sheet_holds_every_image_in_cells_of_one_width() -> None:
    images = [Image.new("RGB", (width, 40), colour) for width, colour in ((30, "red"), (90, "lime"), (5, "blue"))]
    sheet = draw.contact_sheet(images, 2, ["a", "b" * 200, "c"], cell=100)
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        left, _, right, _ = where_is(sheet, colour, sheet.height)
        assert right - left == 100


def test_a_contact_sheet_refuses_no_images_and_unequal_captions() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw.contact_sheet([])
    with pytest.raises(ValueError, match="2 captions for 1"):
        draw.contact_sheet([Image.new("RGB", (9, 9))], captions=["a", "b"])


def talk(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role="user" if i % 2 == 0 else "assistant", text=t) for i, t in enumerate(texts))


def test_dropped_tokens_are_dark_and_kept_ones_are_untouched() -> None:
    kept = torch.tensor([True, False, False, True])
    one = sample([], images=[grey(512, 512)], turns=talk("<image>\nWhat?", "Grey."))
    picture = np.asarray(draw.draw_conversation(one, kept, (2, 2)))[14:, 14:]
    assert (picture[:256, :256] == 90).all()
    assert (picture[256:512, 256:512] == 90).all()
    assert picture[10:250, 260:500].max() < 60


def test_kept_tokens_may_be_given_by_index() -> None:
    one = sample([], images=[grey(512, 512)], turns=talk("Hm?", "Yes."))
    by_mask = draw.draw_conversation(one, torch.tensor([True, False, False, True]), (2, 2))
    by_index = draw.draw_conversation(one, torch.tensor([0, 3]), (2, 2))
    assert by_mask.tobytes() == by_index.tobytes()


def test_kept_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    one = sample([], turns=talk("Hm?", "Yes."))
    with pytest.raises(ValueError, match="do not fill a grid of 3 x 3"):
        draw.draw_conversation(one, torch.ones(4, dtype=torch.bool), (3, 3))
    with pytest.raises(ValueError, match="grid_hw"):
        draw.draw_conversation(one, torch.ones(4, dtype=torch.bool))


def test_a_box_in_the_text_is_drawn_at_its_place_in_the_image() -> None:
    one = sample([], images=[grey(500, 1000)], turns=talk("Where?", "<box>[[100, 200, 300, 600]]</box>"))
    picture = np.asarray(draw.draw_conversation(one))[14 : 14 + 500, 14 : 14 + 1000]
    rows, columns = np.nonzero((picture == ink.PALETTE[0]).all(axis=2))
    assert (columns.min(), columns.max() + 1, rows.max() + 1) == (100, 300, 300)
    assert 70 <= rows.min() < 95  # its number stands on top of it


def test_a_box_that_is_named_twice_keeps_its_number() -> None:
    _, spots = draw_chat._read(
        talk("<box>[[1, 2, 3, 4]]</box> or <box>[[5,6,7,8]]</box>?", "<box>[[5, 6, 7, 8]]</box>")
    )
    assert [(spot.number, spot.box) for spot in spots] == [(1, (1, 2, 3, 4)), (2, (5, 6, 7, 8))]


def test_what_is_not_four_integers_stays_text() -> None:
    read, spots = draw_chat._read(talk("a", "<box>[[1, 2, x]]</box>"))
    assert not spots
    assert "[[1, 2, x]]" in [run.text for run in read[1][1]]


def test_turns_that_do_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = []
    real = draw_chat.with_legend
    monkeypatch.setattr(draw_chat, "with_legend", lambda p, e, note: notes.append(note) or real(p, e, note))
    draw.draw_conversation(sample([], turns=talk(*["word " * 40] * 40)))
    assert len(notes) == 1
    assert notes[0].endswith("more turns are not shown")


def test_a_conversation_without_an_image_and_with_an_endless_word_is_drawn() -> None:
    picture = draw.draw_conversation(sample([], images=[], turns=talk("x" * 500, "")))
    assert picture.width > draw_chat.PANEL


def test_no_line_of_wrapped_text_is_wider_than_the_panel() -> None:
    font = ink.typeface(18)
    runs = [
        draw_chat.Run(f"box {i}", ink.PALETTE[0]) if i % 5 == 0 else draw_chat.Run("word" * (1 + i % 20) + ".")
        for i in range(100)
    ]
    lines = draw_chat._wrap(runs, font, 300)
    for x, last in (line[-1] for line in lines):
        assert x + font.getlength(last.text) + (12 if last.colour else 0) <= 300
    assert sum(len(line) for line in lines) == 100
