"""`check` finds everything at once, raises at nothing, and agrees with what training does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.data.account import check_left_out
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.checks.check import CheckResult, check
from vistruct.data.checks.problem import counted
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.chat import turns as chat_turns
from vistruct.data.formats.detect import detect_annotation
from vistruct.data.reading import Reading
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.samples import trees


def effects(result: CheckResult) -> dict[str, tuple[str, int]]:
    return {problem.what: (problem.effect, problem.count) for problem in result.problems}


def test_the_sample_is_clean_and_counted() -> None:
    result = check(trees().test)
    assert result.ok
    assert not result.problems
    assert (result.format, result.classes, result.counts["images"]) == ("coco", {"tree": 279}, 1)
    assert result.counts["objects"] == 279
    assert result.sizes["image pixels"] == "1249 x 1035 to 1249 x 1035"
    assert "279" in str(result)
    assert "nothing stops training" in str(result)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Every mistake at once."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for name in ("good", "cut", "big"):
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-100])
    (tmp_path / "zero.png").touch()
    (tmp_path / "text.png").write_text("no image")
    names = ["good", "cut", "big", "dot", "zero", "text", "gone"]
    images: list[dict[str, Any]] = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(names)]
    images[2] |= {"width": 80, "height": 60}
    boxes: list[Any] = [[1, 1, 5, 5], [1, 1, 5, 5], [1, 1, 0, 5], [1, 1, -4, 5], [50, 1, 5, 5], [36, 1, 9, 5]]
    boxes += [[float("nan"), 1, 5, 5], [1, 2, 3], [8, 8, 5, 5]]
    annotations = [{"id": 100 + n, "image_id": 0, "category_id": 1, "bbox": bbox} for n, bbox in enumerate(boxes)]
    annotations[-1]["category_id"] = 5
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "Ship "}]
    path = tmp_path / "messy.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


def test_every_mistake_in_boxes_is_found_in_one_go(messy: Path) -> None:
    result = check(messy)
    assert not result.ok
    found = effects(result)
    expected = {
        "box left out: duplicate": ("left out", 1),
        "box left out: no area": ("left out", 2),
        "box left out: outside its image": ("left out", 1),
        "box clipped to its image": ("repaired", 1),
        "box left out: NaN or infinite": ("left out", 1),
        "class without objects": ("kept", 1),
        "classes that differ in capitals, spaces or hyphens only": ("kept", 1),
        "image that is one pixel high or wide": ("kept", 1),
        "the image file is empty (0 bytes)": ("stops training", 1),
    }
    assert expected.items() <= found.items()
    stops = "\n".join(f"{p.what} {' '.join(p.places)}" for p in result.problems if p.effect == "stops training")
    for sign in (
        "cut.png",
        "zero.png",
        "text.png",
        "gone.png",
        "80 x 60",
        "annotation 107",
        "annotation 108",
    ):
        assert sign in stops
    assert result.counts["objects"] == 2
    assert result.classes == {"ship": 2, "Ship ": 0}


def test_it_stops_where_training_stops_and_passes_where_training_passes(messy: Path) -> None:
    with pytest.raises(UserError):
        BoxDataConfig(annotation=messy).build()
    content = json.loads(messy.read_text())
    content["images"] = [image for image in content["images"] if image["file_name"] in ("good.png", "dot.png")]
    content["annotations"] = content["annotations"][:-2]
    messy.write_text(json.dumps(content))
    result = check(messy)
    assert result.ok
    dataset = BoxDataConfig(annotation=messy).build()
    counted = {p.what: p.count for p in result.problems if p.effect in ("left out", "repaired")}
    assert dict(dataset.info.dropped) == counted
    assert dict(dataset.info.counts) == result.classes


def test_a_result_is_ready_for_json_and_for_people(messy: Path) -> None:
    result = check(messy)
    again = json.loads(json.dumps(result.to_dict()))
    assert again["ok"] is False
    assert again["problems"][0]["what"] == result.problems[0].what
    for problem in result.problems:
        assert problem.what in str(result)


def test_decoding_can_be_limited(messy: Path) -> None:
    assert check(messy, decode_at_most=1).counts["images decoded"] == 1
    assert not any("cut.png" in " ".join(p.places) for p in check(messy, decode_at_most=1).problems)


def test_corners_in_place_of_width_and_height_are_suspected(tmp_path: Path) -> None:
    content = json.loads(trees().test.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    result = check(path, Reading(images=str(trees().test.parent)), decode_at_most=0)
    assert any("corners instead" in problem.what for problem in result.problems)


@pytest.mark.parametrize("text", ["", '{"images": [', '{"images": 3}', "[]", "\x00"])
def test_a_broken_file_is_a_problem_and_no_exception(tmp_path: Path, text: str) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(text)
        result = check(tmp_path / name)
        assert not result.ok
        assert result.problems[0].places[0].startswith(str(tmp_path / name))


def chats(folder: Path, *lines: object) -> Path:
    path = folder / "chat.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def talk(question: str, answer: str, **more: object) -> dict[str, Any]:
    return {**more, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def test_every_faulty_line_of_a_conversation_file_is_found_with_its_number(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    path = chats(
        tmp_path,
        talk("<image>Q", "A", image="a.png"),
        "{not json",
        talk("<image><image>", "A", image="a.png"),
        talk("Q", ""),
        talk("Q", "A", image="gone.png"),
        "{not json",
        talk("Q", "A", image="cut.jpg"),
    )
    result = check(path)
    assert (result.format, result.ok) == ("chat", False)
    places = [place for problem in result.problems if problem.effect == "stops training" for place in problem.places]
    for number in (2, 3, 4, 5, 6, 7):
        assert any(f":{number}" in place for place in places)
    assert any(place.endswith("cut.jpg") for place in places)
    assert effects(result)[chat_turns.NOT_JSON] == ("stops training", 2)
    assert result.counts["conversations"] == 1
    allowed = check(path, max_left_out=6 / 7)
    assert allowed.ok
    assert effects(allowed)[chat_turns.EMPTY_ANSWER] == ("left out", 1)
    with pytest.raises(UserError, match=r"chat\.jsonl: 6 of 7 lines"):
        check_left_out(ChatDataConfig(jsonl=path).build().accounts, 0.01)


def test_a_good_conversation_file_passes_as_it_does_in_training(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = chats(tmp_path, talk("<image>Q", "A", image="a.png"), talk("Q", "A"))
    result = check(path)
    assert result.ok
    assert ChatDataConfig(jsonl=path).build().info.counts["answers"] == result.counts["answers"] == 2
    assert (result.counts["different answers"], result.counts["without an image"]) == (1, 1)


def test_the_format_is_known_by_content(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "coco.jsonl").write_text(trees().test.read_text())
    (tmp_path / "chat.json").write_text(json.dumps(talk("Q", "A")))
    (tmp_path / "pretty.json").write_text(json.dumps(json.loads(trees().test.read_text()), indent=1))
    assert detect_annotation(tmp_path / "coco.jsonl") == "coco"
    assert detect_annotation(tmp_path / "chat.json") == "chat"
    assert detect_annotation(tmp_path / "pretty.json") == "coco"


def test_a_folder_means_its_only_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.json"):
        check(tmp_path)
    chats(tmp_path, talk("Q", "A"))
    assert check(tmp_path).annotation == tmp_path / "chat.jsonl"
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"2 annotation files: b\.json, chat\.jsonl"):
        check(tmp_path)
    with pytest.raises(UserError, match="no such"):
        check(tmp_path / "nowhere")


def test_a_folder_of_several_coco_files_is_one_data_set_of_splits(tmp_path: Path) -> None:
    text = trees().test.read_text()
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(text)
    images = str(trees().test.parent)
    result = check(tmp_path, Reading(images=images), decode_at_most=0)
    assert (result.annotation, result.format, result.splits) == (tmp_path, "coco", ("train", "val"))
    assert result.counts["objects"] == 279  # one image, in both
    assert any("second split" in problem.what for problem in result.problems)
    assert check(tmp_path, Reading(images=images), split="val", decode_at_most=0).splits == ("val",)


def test_a_folder_may_keep_its_file_in_annotations(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    chats(tmp_path / "annotations", talk("Q", "A"))
    assert check(tmp_path).ok


def test_what_became_of_a_case_is_what_its_reader_said_whatever_the_words() -> None:
    report, other = IssueCounter(), IssueCounter()
    report.note("no image of its name, taken as left out", "a", "repaired")
    other.note("improved words", "b", "kept")
    report.merge(other)
    assert {one.what: one.effect for one in counted(report)} == {
        "no image of its name, taken as left out": "repaired",
        "improved words": "kept",
    }
