"""Depth as a soft mask of a whole image: read, carried by conversations, resized, and refused where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.data.checks.check import check
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.chat.turns import OBJECTS, Defect
from vistruct.errors import UserError
from vistruct.files.depth import LEAST, read_depth
from vistruct.ops.soft_masks import resized_soft


@pytest.fixture
def metres(tmp_path: Path) -> np.ndarray:
    """uint16[6, 8] on disk as `d.png`, 256 to a metre, 0 where nothing is known; an image of the size beside it."""
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 512
    values[2, 3] = 0
    Image.fromarray(values).save(tmp_path / "d.png")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "a.png")
    return values / 256


def line(**objects: object) -> bytes:
    turns = [
        {"from": "human", "value": "<image>\nHow far is it?"},
        {"from": "gpt", "value": "<object>", "points": [[0]], "units": "depth"},
    ]
    return json.dumps({"id": "1", "image": "a.png", "objects": objects, "conversations": turns}).encode() + b"\n"


DEPTH = {"depth": "d.png", "scale": 256, "most": 80.0}


def test_a_depth_map_is_metres_by_the_most_of_them_and_nothing_where_nothing_is_known(
    tmp_path: Path, metres: np.ndarray
) -> None:
    found = read_depth({**DEPTH, "depth": str(tmp_path / "d.png")}, (6, 8))
    known = metres > 0
    assert found.dtype == np.float32
    assert np.allclose(found[known], np.minimum(metres[known] / 80, 1))
    assert (found[known] == 1).any()
    assert np.isnan(found[~known]).all()
    assert read_depth({"depth": str(tmp_path / "d.png"), "most": 1.0, "unknown": None}, (6, 8))[0, 0] == LEAST


def test_a_conversation_carries_it_as_a_float_mask_beside_outlines(tmp_path: Path, metres: np.ndarray) -> None:
    square = [[1, 1, 4, 1, 4, 4, 1, 4]]
    boxes = [[0, 0, 8, 6], [1, 1, 4, 4]]
    (tmp_path / "t.jsonl").write_bytes(line(boxes=boxes, labels=["depth", "roof"], masks=[DEPTH, square]))
    data = ChatDataConfig(jsonl=tmp_path / "t.jsonl").build()
    masks = data.sample(0, 0).objects.masks
    assert masks.dtype == torch.float32
    assert tuple(masks.shape) == (2, 6, 8)
    assert np.array_equal(masks[0].numpy(), read_depth({**DEPTH, "depth": str(tmp_path / "d.png")}, (6, 8)), True)
    assert masks[1].sum() == 9
    assert set(masks[1].unique().tolist()) == {0.0, 1.0}
    row = chat.row(data.records[0], tmp_path)
    assert row["objects"]["masks"] == [DEPTH, square]
    assert chat.row(data.records[0], tmp_path / "below")["objects"]["masks"][0]["depth"] == "../d.png"


def test_disparities_are_turned_around_and_a_second_file_says_what_is_known(tmp_path: Path, metres: np.ndarray) -> None:
    near = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    valid = np.full((6, 8), 255, np.uint8)
    valid[1] = 0
    Image.fromarray(near).save(tmp_path / "n.png")
    Image.fromarray(valid).save(tmp_path / "v.png")
    mask = {"depth": "n.png", "most": 255, "unknown": None, "inverse": True, "valid": "v.png"}
    (tmp_path / "t.jsonl").write_bytes(line(boxes=[[0, 0, 8, 6]], masks=[mask]))
    data = ChatDataConfig(jsonl=tmp_path / "t.jsonl").build()
    found = data.sample(0, 0).objects.masks[0].numpy()
    assert np.allclose(found[valid > 0], 1 - near[valid > 0] / 255)
    assert np.isnan(found[1]).all()
    assert chat.row(data.records[0], tmp_path)["objects"]["masks"] == [mask]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"depth": "d.png"}, "most"),
        ({"depth": "d.png", "most": 0}, "most"),
        ({"depth": 3, "most": 1}, "path"),
        ({"depth": "d.png", "most": 1, "valid": ""}, "valid"),
        ({"depth": "d.png", "most": 1, "inverse": 1}, "inverse"),
        ({"depth": "d.png", "most": 1, "scale": -1}, "scale"),
        ({"depth": "d.png", "most": 1, "unit": "m"}, "unit"),
        ({"depth": "d.png", "most": 1, "unknown": 0.5}, "unknown"),
    ],
)
def test_what_is_no_depth_map_is_refused_by_its_name(mask: object, said: str) -> None:
    with pytest.raises(Defect) as caught:
        chat.parse(line(boxes=[[0, 0, 8, 6]], masks=[mask]))
    assert caught.value.reason == OBJECTS
    assert said in caught.value.what


def test_a_depth_map_needs_the_box_of_its_image() -> None:
    with pytest.raises(Defect, match="without a box"):
        chat.parse(line(masks=[DEPTH]))


def test_another_size_colours_and_nothing_known_are_refused(tmp_path: Path, metres: np.ndarray) -> None:
    with pytest.raises(UserError, match="8 x 6 pixels for an image of 6 x 8"):
        read_depth({**DEPTH, "depth": str(tmp_path / "d.png")}, (8, 6))
    with pytest.raises(UserError, match="colours"):
        read_depth({**DEPTH, "depth": str(tmp_path / "a.png")}, (6, 8))
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(tmp_path / "none.png")
    with pytest.raises(UserError, match="knows no pixel"):
        read_depth({**DEPTH, "depth": str(tmp_path / "none.png")}, (6, 8))


def test_check_says_which_depth_maps_are_missing(tmp_path: Path, metres: np.ndarray) -> None:
    gone = {**DEPTH, "depth": "gone.png"}
    (tmp_path / "t.jsonl").write_bytes(
        line(boxes=[[0, 0, 8, 6]], masks=[DEPTH]) + line(boxes=[[0, 0, 8, 6]], masks=[gone])
    )
    problems = {one.what: one for one in check(tmp_path / "t.jsonl").problems}
    found = problems["depth map that is not on disk"]
    assert found.count == 1
    assert found.places[0].endswith("gone.png")
    assert ":2" in found.places[0]


def test_resizing_takes_the_mean_of_what_is_known() -> None:
    masks = torch.rand(2, 7, 5)
    whole = torch.nn.functional.interpolate(masks[:, None], (14, 9), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(resized_soft(masks, (14, 9)), whole)
    masks[0, 3, 2] = torch.nan
    found = resized_soft(masks, (14, 9))
    assert torch.equal(found[1], whole[1])
    for y, x in np.ndindex(14, 9):  # by hand, place by place
        v, u = max((y + 0.5) * 7 / 14 - 0.5, 0), max((x + 0.5) * 5 / 9 - 0.5, 0)
        total = weight = 0.0
        for i, j in ((int(v), int(u)), (int(v), int(u) + 1), (int(v) + 1, int(u)), (int(v) + 1, int(u) + 1)):
            share = max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
            one = float(masks[0, min(i, 6), min(j, 4)])
            if share > 1e-6 and one == one:
                total, weight = total + share * one, weight + share
        assert (weight == 0 and bool(found[0, y, x].isnan())) or abs(float(found[0, y, x]) - total / weight) < 1e-4
    assert not resized_soft(torch.full((1, 2, 2), torch.nan), (4, 4)).isfinite().any()
    assert tuple(resized_soft(torch.zeros(0, 3, 3), (4, 4)).shape) == (0, 4, 4)
