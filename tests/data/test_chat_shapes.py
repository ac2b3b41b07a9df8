"""Conversations as other tools write them: every shape against the same conversation, written our way."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vistruct.contracts import Turn
from vistruct.data.chat.sources import IMAGE_UNREADABLE, Wanted, open_source
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.chat import turns as words
from vistruct.data.formats.chat.marks import RESERVED_TOKENS
from vistruct.data.formats.chat.schemas import Talk, parse
from vistruct.data.formats.json_kind import json_kind
from vistruct.files.images import read_image
from vistruct.vlm.chat import END, IMAGE_END, IMAGE_START, IMAGE_TOKEN, START


def of(entry: object) -> Talk:
    return parse(json.dumps(entry).encode())


def spoken(*texts: str, system: str = "") -> tuple[Turn, ...]:
    """Turns of user and assistant."""
    first = [Turn(role="system", text=system)] if system else []
    roles = ["user" if number % 2 == 0 else "assistant" for number in range(len(texts))]
    return (*first, *(Turn(role=role, text=text) for role, text in zip(roles, texts, strict=True)))  # ty: ignore


Q, A = "<image>\nHow many?", "four"
TYPED = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
ASKED = {"type": "input_text", "text": "How many?"}
SHAPES: dict[str, Any] = {
    "images beside conversations": {
        "images": ["a.png"],
        "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}],
    },
    "sharegpt with the words of chat models": {
        "images": ["a.png"],
        "conversations": [{"from": "user", "value": Q}, {"from": "assistant", "value": A}],
    },
    "messages with the words of sharegpt": {"images": "a.png", "messages": [{"from": "human", "value": Q}, TYPED[1]]},
    "nothing around the turns": [
        {"role": "user", "content": [{"image": "a.png"}, {"text": "How many?"}]},
        {"role": "assistant", "content": A},
    ],
    "query and response": {"query": Q, "response": A, "images": ["a.png"], "history": None},
    "alpaca": {"instruction": Q, "input": "", "output": A, "image": "a.png"},
    "alpaca with an input": {"instruction": "<image>", "input": "How many?", "output": A, "image": "a.png"},
    "question and answer": {"question": Q, "answer": A, "image": ["a.png"]},
    "a prompt of turns": {"prompt": [TYPED[0]], "completion": [TYPED[1]], "images": [{"path": "a.png"}]},
    "pairs": {"conversation": [{"human": Q, "assistant": A}], "image": "a.png"},
    "columns that are empty": {"messages": TYPED, "images": ["a.png"], "query": "", "videos": []},
    "the same image twice": {"messages": TYPED, "images": ["a.png"], "image": "a.png"},
    "an image of its turn": {"messages": [{"role": "user", "content": "How many?", "images": ["a.png"]}, TYPED[1]]},
    "responses": {
        "messages": [
            {"role": "user", "content": [{"type": "input_image", "image_url": "a.png"}, ASKED]},
            {"role": "assistant", "content": [{"type": "output_text", "text": A}]},
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_conversation(shape: str, tmp_path: Path) -> None:
    talk = of(SHAPES[shape])
    assert (talk.turns, talk.images) == (spoken(Q, A), ("a.png",))
    for name, indent in (("a.json", 1), ("b.json", None)):
        (tmp_path / name).write_text(json.dumps([SHAPES[shape]], indent=indent))
        assert json_kind(tmp_path / name) == "chat" or shape == "nothing around the turns"


def test_a_system_text_beside_the_turns_is_the_system_turn() -> None:
    assert of({"messages": TYPED, "images": ["a"], "system": "Be brief."}).turns == spoken(Q, A, system="Be brief.")
    both = {"messages": [{"role": "system", "content": "Be brief."}, *TYPED], "image": "a", "system": "Be brief."}
    assert of(both).turns == spoken(Q, A, system="Be brief.")
    with pytest.raises(words.Defect) as caught:
        of({**both, "system": "Be long."})
    assert "two system texts" in caught.value.what


def test_a_history_comes_before_the_question() -> None:
    entry = {"query": "Where?", "response": "top", "history": [["Q", "A"], ["R", "B"]]}
    assert of(entry).turns == spoken("Q", "A", "R", "B", "Where?", "top")


MARKS = [
    "<ImageHere>", "<image/>", "<image />", "<|image_pad|>", "<|image_pad|>" * 9, "<image_00>", "<image 1>",
    "<|image_1|>",
    "<|vision_start|><|image_pad|><|vision_end|>", "<img><ImageHere></img>", "<Img><ImageHere></Img>", "<|image|>",
    "<im_start><image><im_end>", "[IMG]", "<start_of_image>", "<image_placeholder>", "<IMAGE>", "<img>a.png</img>",
    "<img><image></img>",
]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_another_tool_is_the_place_of_the_image(mark: str) -> None:
    image = {} if "a.png" in mark else {"image": "a.png"}
    talk = of({**image, "conversations": [{"from": "human", "value": f"See {mark} here"}, {"from": "gpt", "value": A}]})
    assert (talk.turns, talk.images) == (spoken("See <image> here", A), ("a.png",))
    assert set(talk.notes) & {words.MARK_READ, words.PATH_IN_TEXT}


def test_several_foreign_marks_take_the_images_in_order() -> None:
    ask = {"from": "human", "value": "<image_1> or <image_2>?"}
    talk = of({"images": ["a", "b"], "conversations": [ask, {"from": "gpt", "value": A}]})
    assert (talk.turns[0].text, talk.images) == ("<image> or <image>?", ("a", "b"))
    by_name = {"image": {"<image_00>": "a", "<image_01>": "b"}}
    ask = {"role": "user", "content": "<image_01> or <image_00>?"}
    talk = of({**by_name, "conversations": [ask, {"role": "assistant", "content": A}]})
    assert (talk.turns[0].text, talk.images) == ("<image> or <image>?", ("b", "a"))
    two = "Picture 1: <img>a</img>\nPicture 2: <img>b</img>\nWhich?"
    talk = of({"conversations": [{"from": "user", "value": two}, {"from": "assistant", "value": A}]})
    assert (talk.turns[0].text, talk.images) == ("Picture 1: <image>\nPicture 2: <image>\nWhich?", ("a", "b"))


def test_what_the_model_writes_itself_is_reserved() -> None:
    assert {IMAGE_TOKEN, IMAGE_START, IMAGE_END, START, END} == set(RESERVED_TOKENS)


@pytest.mark.parametrize("off", [{"loss": False}, {"weight": 0}, {"train": False}, {"weight": 0.0}])
def test_a_turn_that_is_marked_so_is_not_taught(off: dict[str, Any]) -> None:
    more = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "top", "loss": True}]
    talk = of({"messages": [TYPED[0], {**TYPED[1], **off}, *more], "image": "a"})
    assert [turn.is_taught for turn in talk.turns if turn.role == "assistant"] == [False, True]
    assert talk.notes == (words.NOT_TAUGHT,)


def test_keys_that_carry_something_and_are_not_read_are_said() -> None:
    more = {"caption": "a small port", "depth": "d.png", "sample_weight": 2, "source": "vqa", "width": 3, "tags": ["x"]}
    talk = of({"messages": TYPED, "image": "a.png", **more})
    assert talk.notes == (
        "key caption, which holds texts, is not read",
        "key depth, which names images, is not read",
        "key sample_weight, which holds weights, is not read",
    )


# --- boxes


def grounded(bbox: object, size: tuple[int, int] = (48, 48), **more: object) -> str:
    objects = {"ref": ["boat"], "bbox": bbox, **more}
    messages = [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    turns = of({"messages": messages, "images": ["a"], "objects": objects}).filled([size]).turns
    assert turns[0].text == "<image>Find <ref>boat</ref>"
    return turns[1].text


def test_boxes_kept_apart_are_filled_in_as_thousandths() -> None:
    whole = [round(1000 * value / 48) for value in (4, 6, 20, 30)]
    assert grounded([[4.0, 6.0, 20.0, 30.0]]) == f"<box>[{whole}]</box>" == "<box>[[83, 125, 417, 625]]</box>"
    assert grounded([[4, 6, 20, 30]], (100, 50)) == "<box>[[80, 60, 400, 300]]</box>"  # height, width
    assert grounded([[0.083, 0.125, 0.417, 0.625]], bbox_type="norm1") == f"<box>[{whole}]</box>"
    assert grounded([whole], bbox_type="norm1000") == f"<box>[{whole}]</box>"
    with pytest.raises(words.Defect) as caught:
        grounded([[4, 6, 60, 30]])
    assert "does not lie in its image of 48 x 48" in caught.value.what


def test_a_box_beyond_its_image_leaves_its_line_out_at_the_start(tmp_path: Path) -> None:
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    talk = [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "<bbox>"}]
    boxes = ([4, 6, 20, 30], [4, 6, 200, 300])
    lines = [{"messages": talk, "images": ["a.png"], "objects": {"ref": [], "bbox": [box]}} for box in boxes]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    opened = open_source(Wanted(name="", annotation=tmp_path / "a.jsonl", root=tmp_path))
    assert opened.faults[words.OBJECTS].tolist() == [1]
    assert opened.source.record(0).turns[1].text == "<box>[[83, 125, 417, 625]]</box>"


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("<box>[[0.1, 0.2, 0.7, 0.9]]</box>", words.UNIT_BOXES),
        ("[0.1, 0.2, 0.7, 0.9]", words.UNIT_BOXES),
        ("<box>[[100, 20, 1700, 1900]]</box>", words.PIXEL_BOXES),
        ('```json\n[{"bbox_2d": [100, 20, 1700, 1900], "label": "boat"}]\n```', words.PIXEL_BOXES),
        ("<loc0010><loc0020><loc0500><loc0600> boat", words.OTHER_BOXES),
    ],
)
def test_boxes_of_another_scale_are_said(answer: str, note: str) -> None:
    assert of({"query": Q, "response": answer, "image": "a"}).notes == (note,)


@pytest.mark.parametrize("answer", ["<box>[[1, 2, 3, 1000]]</box>", "[1, 2]", "in 1998, [a] and [b]", "four"])
def test_other_answers_have_nothing_said_of_them(answer: str) -> None:
    assert of({"query": Q, "response": answer, "image": "a"}).notes == ()


# --- images inside of the lines, and damaged ones


def encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.json"])
def test_images_inside_of_the_lines_are_read_where_they_lie(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 9, 11, 3), np.uint8)
    uris = [
        ("data:image/png;base64," if number else "") + encoded(Image.fromarray(one))
        for number, one in enumerate(pixels)
    ]
    shown = [{"images": [uri]} for uri in uris[:2]]
    lines = [json.dumps({"messages": TYPED, **one}) for one in shown]
    parts = [{"type": "image_url", "image_url": {"url": uris[2]}}, {"type": "text", "text": "How many?"}]
    lines += [json.dumps({"messages": [{"role": "user", "content": parts}, TYPED[1]]})]
    lines += [json.dumps({"image": uris[3], "query": Q, "response": A}).replace("/", "\\/")]  # as PHP writes it
    is_list = name == "talk.json"
    (tmp_path / name).write_text(f"[{', '.join(lines)}]" if is_list else "\n".join(lines))
    assert json_kind(tmp_path / name) == "chat"
    data = ChatDataConfig(jsonl=tmp_path / name).build(tmp_path / "index")
    assert [record.size_hw for record in data.records] == [(9, 11)] * 4
    for number, one in enumerate(pixels):
        assert data.sample(number, seed=0).images[0].permute(1, 2, 0).numpy().tolist() == one.tolist()
    assert len("".join(map(str, data.records[0].images))) < 400


def test_base64_that_is_no_image_is_counted_and_never_shown(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"no image" * 1000).decode()
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TYPED, "images": [uri]}))
    account = open_source(Wanted(name="", annotation=tmp_path / "a.jsonl", root=tmp_path)).account
    assert account.left_out.counts == {IMAGE_UNREADABLE: 1}
    assert all(len(reason) < 300 for reason in account.dropped())


def test_a_long_line_of_base64_is_no_coco(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + "A" * 200_000
    for entry in ({"images": [uri], "messages": TYPED}, {"id": 1, "image": uri, "messages": TYPED}):
        (tmp_path / "a.jsonl").write_text(json.dumps(entry))
        assert json_kind(tmp_path / "a.jsonl") == "chat"
        (tmp_path / "a.json").write_text(json.dumps([entry]))
        assert json_kind(tmp_path / "a.json") == "chat"


def test_a_list_is_told_by_its_content_and_not_its_first_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"image_id": 3, "image": "a", "conversations": []}], indent=1))
    assert json_kind(path) == "chat"
    path.write_text(json.dumps([{"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    assert json_kind(path) is None


def test_a_jpeg_cut_short_is_found_at_the_start(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-900])
    lines = [json.dumps({"messages": TYPED, "images": [name]}) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    opened = open_source(Wanted(name="", annotation=tmp_path / "a.jsonl", root=tmp_path))
    assert opened.faults[IMAGE_UNREADABLE].tolist() == [1]


@pytest.mark.parametrize("zip", [True, False])
def test_a_png_with_a_long_text_is_an_image(tmp_path: Path, zip: bool) -> None:
    info = PngInfo()
    info.add_text("parameters", "x" * 3_000_000, zip=zip)
    info.add_itxt("workflow", "y" * 3_000_000, zip=zip)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    assert read_image(tmp_path / "a.png").permute(1, 2, 0).numpy().tolist() == pixels.tolist()
