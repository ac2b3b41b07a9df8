"""Public sources with masks against what the converters of the published system make of the same annotations.

What differs on purpose is named where it does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_sets import GOLDEN, conversation, golden_turns, image, masks, read, sentence, turn, write
from PIL import Image

from vistruct.data.formats.boxes.objects import MISSING_IMAGE
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.compose import conversations
from vistruct.data.instructions.converse import Tally
from vistruct.data.instructions.known import Drawn
from vistruct.data.known import find_source, gcg, grand, interactive, llava_grounding, narratives, osprey, shapes
from vistruct.data.known.source import LOST_OBJECT, NO_ENTRY
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60 x 48 pixels."""
    image(tmp_path / "images" / "a.jpg")
    return tmp_path


def test_grand_has_objects_expressions_descriptions_and_captions(photo: Path) -> None:
    given = GOLDEN["grand_c"]["annotation"]
    write(photo / "part_1" / "a.json", {"a.jpg": given})
    report = IssueCounter()
    (known,) = read("grand", photo / "part_1", report)
    assert not report.counts
    assert known.is_complete
    target = GOLDEN["grand_d"]["target"]
    np.testing.assert_array_equal(known.objects.boxes_xyxy, target["boxes"])
    ((text, groups),) = golden_turns("grand_d", "gpt")
    names = known.objects.extra["names"]
    words = list(dict.fromkeys(names))
    assert text == ", ".join(f"<Phrase>{name}</Phrase><>" for name in words)
    assert groups == [[row for row, name in enumerate(names) if name == word] for word in words]
    # Published masks of captions and lists are at half their size here (.3 in training), the first one for good.
    assert (
        masks(known, [0, 1, 2, 3])
        == [{"shape": [48, 60], "pixels": pixels} for pixels in (141, 219, 147, 45)]
        == GOLDEN["grand_r_seg"]["target"]["masks"]
    )
    assert [(f"Box this: {one.text}, in", list(one.rows)) for one in known.expressions] == [
        (text.replace(" <image>.", "").replace(" .", ""), groups[0])
        for (text, _), (_, groups) in zip(
            golden_turns("grand_r_det", "human"), golden_turns("grand_r_det", "gpt"), strict=True
        )
    ]
    told = [(text, [list(one.rows)]) for one in known.regions for text in [one.text]]
    asked, said = golden_turns("grand_re_seg", "human"), golden_turns("grand_re_seg", "gpt")
    assert told == [(text, rows) for (_, rows), (text, _) in zip(asked, said, strict=True)]
    assert [sentence(one) for one in known.sentences] == golden_turns("grand_c_s", "gpt")
    assert [one.text for one in known.sentences] == [text for text, _ in golden_turns("grand_c", "gpt")]


def test_grand_counts_what_cannot_be_used(photo: Path) -> None:
    given = json.loads(json.dumps(GOLDEN["grand_c"]["annotation"]))
    given["objects"][0]["segmentation"]["size"] = [10, 10]
    given["objects"][1]["bbox"] = [5, 5, 5, 9]
    details = given["short_captions"][0]["details"]
    details[0]["tokens_positive"] = [30, 99]
    details += [{"phrase": "cats", "id": 2, "tokens_positive": [20, 24]}, {"phrase": "dog", "id": 77}]
    write(photo / "a.json", {"a.jpg": given, "b.jpg": {"objects": None}})
    report = IssueCounter()
    (known,) = read("grand", photo / "a.json", report)
    assert report.counts == {
        shapes.BAD_MASK: 1, "box left out: no area": 1, LOST_OBJECT: 1,
        shapes.NO_PLACE: 1, grand.NO_OBJECT: 1, NO_ENTRY: 1,
    }  # fmt: skip
    assert known.objects.masks is not None
    assert known.objects.masks[0] == []  # its box is there, its mask is not
    assert sentence(known.sentences[0]) == ("A brown dog and two <Phrase>cats</Phrase><> rest on a sofa.", [[1]])


def test_prompts_that_come_with_objects_are_rows_of_their_own(photo: Path) -> None:
    path = write(photo / "coco_interactive_train_psalm.json", [GOLDEN["interactive_s_3"]["annotation"]])
    report = IssueCounter()
    (known,) = read("coco-interactive", path, report)
    assert not report.counts
    objects = [row for row, name in enumerate(known.objects.extra["names"]) if name]
    assert [known.objects.extra["names"][row] for row in objects] == ["dog", "cat", "couch"]
    boxes = known.objects.boxes_xyxy[objects[:2]]
    np.testing.assert_array_equal(boxes[::-1], GOLDEN["interactive_d_3"]["target"]["boxes"])  # drawn in another order
    shown = {one.kind: masks(known, [one.row])[0]["pixels"] for one in known.drawn}
    # Published code thickens points and scribbles by 10 pixels here (140 and 252).
    assert shown == {"box": 275, "point": 5, "scribble": 27, "mask": 87}
    assert [(one.kind, one.of) for one in known.drawn] == [
        (kind, row) for row in objects for kind in ("box", "point", "scribble", "mask")
    ]
    expected = {one["pixels"] for case in ("s_3", "d_3") for one in GOLDEN[f"interactive_{case}"]["target"]["masks"]}
    assert {one["pixels"] for one in masks(known, objects[:2])} <= expected


@pytest.mark.parametrize("kind", ["box", "point", "scribble", "mask"])
def test_single_objects_have_their_prompts_in_order(photo: Path, kind: str) -> None:
    case = GOLDEN[f"interactive_single_{kind}"]
    (known,) = read("coco-interactive", write(photo / "single.json", [case["annotation"]]))
    (one,) = [one for one in known.drawn if one.kind == kind]
    assert one == Drawn(kind=one.kind, row=one.row, of=0)
    assert masks(known, [one.row, 0]) == case["target"]["masks"]
    assert known.objects.extra["names"] == ("dog", "", "", "", "")
    if kind == "point":  # a click where it was drawn
        x, y, seen = known.objects.keypoints[one.row, 0].tolist()
        x0, y0, x1, y1 = known.objects.boxes_xyxy[one.row].tolist()
        assert (x, y, seen) == ((x0 + x1) / 2, (y0 + y1) / 2, 2)


@pytest.mark.parametrize("kind", ["box", "point", "scribble", "mask"])
def test_questions_show_the_prompts_that_came_with_the_data(photo: Path, kind: str) -> None:
    given = GOLDEN[f"interactive_single_{kind}"]["annotation"]
    (known,) = read("coco-interactive", write(photo / "single.json", [given]))
    (drawn,) = [one for one in known.drawn if one.kind == kind]
    name = f"{kind}-mask" if kind != "mask" else "mask-box"
    (record,) = conversations(known, np.random.default_rng(0), Tally(), names=[name])
    assert len(record.objects) == 2  # the object and its prompt
    question, answer = record.turns
    assert question.prompts == (kind,)
    (shown,), (meant,) = question.points[0], answer.points[0]
    np.testing.assert_array_equal(record.objects.boxes_xyxy[shown], known.objects.boxes_xyxy[drawn.row])
    np.testing.assert_array_equal(record.objects.boxes_xyxy[meant], known.objects.boxes_xyxy[0])
    assert record.objects.masks is not None
    assert record.objects.masks[meant] == given["target"]


def test_an_object_of_no_category_of_coco_has_no_word(photo: Path) -> None:
    given = json.loads(json.dumps(GOLDEN["interactive_s_1"]["annotation"]))
    given["anns"][0] |= {"category_id": 12, "scribble_visual_prompt_mask": None}
    given["anns"][0]["box_visual_prompt_mask"]["counts"] = [48 * 60]
    report = IssueCounter()
    (known,) = read("coco-interactive", write(photo / "i.json", [given, {"image": "a.jpg", "anns": 3}]), report)
    assert report.counts == {interactive.NO_NAME: 1, interactive.EMPTY_PROMPT: 1, NO_ENTRY: 1}
    assert [one.kind for one in known.drawn] == ["point", "mask"]


@pytest.mark.parametrize("case", ["res_target_two_polygons", "region_caption_mask_two_polygons"])
def test_referring_masks_have_all_their_polygons(photo: Path, case: str) -> None:
    path = write(photo / "lines.jsonl", GOLDEN[case]["annotation"])
    (known,) = find_source("refcoco").read(path, Ask(), IssueCounter())
    (one,) = known.expressions
    assert (one.text, one.rows) == ("the cat on the left", (0,))
    (first,) = GOLDEN[case]["target"]["masks"]  # published: the first polygon alone
    assert masks(known) == [{"shape": first["shape"], "pixels": first["pixels"] + 64}]


def test_open_psg_has_captions_with_masks(photo: Path) -> None:
    image(photo / "x" / "a.jpg")
    given = GOLDEN["open_psg"]["annotation"]
    quoted = {**given, "caption": f'"{given["caption"]}"'}  # as some are, and their places count without the quotes
    for known in read("open-psg", write(photo / "OpenPsgGCG_train.json", [given, quoted])):
        assert [sentence(one) for one in known.sentences] == golden_turns("open_psg", "gpt")
        assert masks(known) == GOLDEN["open_psg"]["target"]["masks"]
        assert known.objects.extra["names"] == ("brown dog", "", "")


def test_captions_beside_a_file_of_masks(photo: Path) -> None:
    given = GOLDEN["gcg_captions"]["annotation"]
    write(photo / "val_gcg_coco_mask_gt.json", given["masks"])
    path = write(photo / "val_gcg_coco_caption_gt.json", {"images": [], **given["captions"]})
    (known,) = read("gcg", path)
    ((text, groups),) = golden_turns("gcg_captions", "gpt")
    # Published: `two <Phrase>cat</Phrase><>s`; a word is not cut here.
    assert sentence(known.sentences[0]) == (text.replace("cat</Phrase><>s", "cats</Phrase><>"), groups)
    assert masks(known) == GOLDEN["gcg_captions"]["target"]["masks"]


def test_phrases_are_found_as_whole_words_each_behind_the_last(photo: Path) -> None:
    square = [[5.0, 6.0, 15.0, 6.0, 15.0, 16.0, 5.0, 16.0]]
    refs = [{"sentence": text, "segmentation": square} for text in ("Cat", "cat", "dog", "sofa")]
    entry = {"img_file_name": "a.jpg", "caption": "A concatenated cat, a cat and a dogma.", "refs": refs}
    report = IssueCounter()
    (known,) = read("refcocog-gcg", write(photo / "RefCOCOg_GCG_train.json", [entry]), report)
    told = "A concatenated <Phrase>cat</Phrase><>, a <Phrase>cat</Phrase><> and a <Phrase>dogma</Phrase><>."
    assert sentence(known.sentences[0])[0] == told
    assert report.counts == {shapes.NO_PLACE: 1}


def test_phrases_of_flickr_have_boxes_and_masks_of_their_own(photo: Path) -> None:
    runs = GOLDEN["open_psg"]["annotation"]["groundings"]["two cats"]["rle_masks"]
    caption = "A brown dog and two cats rest on a sofa."
    rows = [
        {"id": number, "image_id": 1, "bbox": box, "tokens_positive": [[16, 24]], "sam_mask": mask, "area": 1}
        for number, (box, mask) in enumerate(zip([[22, 9, 18, 21], [8, 25, 22, 15]], runs, strict=True))
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 48, "caption": caption}],
        "annotations": [*rows, {"id": 7, "image_id": 1, "bbox": [0, 0, 9, 9], "tokens_positive": []}],
    }
    (known,) = read("flickr-gcg", write(photo / "flickr_mergedGT_GCG_train.json", content))
    assert sentence(known.sentences[0]) == ("A brown dog and <Phrase>two cats</Phrase><> rest on a sofa.", [[0, 1]])
    np.testing.assert_array_equal(known.objects.boxes_xyxy, [[22, 9, 40, 30], [8, 25, 30, 40]])
    assert [one["pixels"] for one in masks(known)] == [219, 147]


def grounding(root: Path, case: str, name: str, beside: str) -> Path:
    """A conversation of LLaVA-Grounding in its folders."""
    given = GOLDEN[case]["annotation"]
    one = {**given["annotations"]["images"][0], "id": 12}
    image(root / "coco" / "train2014" / one["file_name"])
    rows = [{**row, "image_id": 12} for row in given["annotations"]["annotations"]]
    # The golden annotations have a second polygon each, which the published code leaves out.
    rows = [{**row, "segmentation": row["segmentation"][:1]} for row in rows]
    write(root / "coco" / "annotations" / beside, {"images": [one], "annotations": rows})
    return write(root / "llava" / "annotations" / name, [given["conversation"]])


def test_answers_of_llava_grounding_point_at_masks(tmp_path: Path) -> None:
    path = grounding(tmp_path, "llava_grounding_gcg", "grounded_visual_chat_data.json", "instances_train2017_gvc.json")
    (known,) = read("llava-grounding", path)
    ((_, answer),) = known.talks
    assert [turn(answer)] == golden_turns("llava_grounding_gcg", "gpt")
    assert (answer.task, set(answer.units)) == ("gcg_segmentation", {"mask"})
    assert masks(known) == GOLDEN["llava_grounding_gcg"]["target"]["masks"]


def test_questions_of_llava_grounding_show_regions(tmp_path: Path) -> None:
    name = "llava_instruct_150k_visual_prompt.json"
    path = grounding(tmp_path, "llava_grounding_region", name, "instances_train2014_filter.json")
    (known,) = read("llava-grounding", path)
    (talk,) = known.talks
    said = [turn(one)[0] for one in talk]
    assert said == [text.replace("<image>\n", "") for text, _ in conversation("llava_grounding_region")]
    assert [turn(one)[1] for one in talk] == [[[0], [1]], [], [], []]  # published: one group of both
    assert set(talk[0].prompts) == {"mask"}
    assert masks(known) == GOLDEN["llava_grounding_region"]["target"]["masks"]


def test_conversations_whose_marks_do_not_match_are_left_out(tmp_path: Path) -> None:
    path = grounding(tmp_path, "llava_grounding_gcg", "c.json", "instances.json")
    (one,) = json.loads(path.read_text())
    wrong = [{**one, "gd_ls": [[0]]}, {**one, "gd_ls": [[0], [99]]}, {**one, "conversations": one["conversations"][1:]}]
    write(path, [*wrong, {**one, "id": "x"}, one])
    (tmp_path / "coco" / "annotations" / "instances.json").rename(path.parent / "instances.json")
    report, ask = IssueCounter(), Ask(images=tmp_path / "coco" / "train2014")
    assert len(read("llava-grounding", path, report, ask)) == 1
    assert report.counts == {
        llava_grounding.NO_MATCH: 2, LOST_OBJECT: 1, shapes.NO_TALK: 1, NO_ENTRY: 1,
    }  # fmt: skip
    (path.parent / "instances.json").unlink()
    with pytest.raises(UserError, match="no file of annotations"):
        read("llava-grounding", path)


OSPREY = {
    "OspreyConversations": ("osprey_conversation.json", ""),
    "OspreyPartLevel": ("osprey_part_level.json", osprey.SHORT),
    "OspreyShortForm": ("osprey_short_form.json", osprey.SHORT),
    "OspreyLVISPosNeg": ("osprey_lvis_positive_negative.json", ""),
}


@pytest.mark.parametrize("case", OSPREY)
def test_osprey_talks_about_regions(photo: Path, case: str) -> None:
    name, hint = OSPREY[case]
    (known,) = read("osprey", write(photo / name, [GOLDEN[case]["annotation"]]))
    (talk,) = known.talks
    asked, told = golden_turns(case, "human"), golden_turns(case, "gpt")
    if case == "OspreyLVISPosNeg":
        (text, groups), *_ = asked
        text = text.replace("<image>\nOverview.\n", "")  # a sentence of its own before each conversation
        assert [turn(one) for one in talk] == [(text, groups), *told]
    else:
        # Published questions lose the numbers of regions, answers count them anew (`region1` for the second), and a
        # question that names none shows all of them once more.
        assert asked[0][0] == "<image>What is region<> next to region<>?" + (" {{short-answer hint}}" if hint else "")
        assert [turn(one) for one in talk] == [
            ("What is region1<> next to region2<>?" + hint, asked[0][1]),
            told[0],
            ("And the picture?" + hint, []),
            (told[1][0].replace("region1", "region2"), []),
        ]
    assert masks(known) == GOLDEN[case]["target"]["masks"]
    assert all(prompt == "mask" for one in talk for prompt in one.prompts)


def test_osprey_describes_regions(photo: Path) -> None:
    case = GOLDEN["OspreyDetailedDescription"]
    (known,) = read("osprey", write(photo / "osprey_detail_description.json", [case["annotation"]]))
    told = golden_turns("OspreyDetailedDescription", "gpt")
    assert [one.text for one in known.regions] == [text for text, _ in told]
    assert [[list(one.rows)] for one in known.regions] == [
        rows for _, rows in golden_turns("OspreyDetailedDescription", "human")
    ]


def test_a_region_is_shown_by_the_question_whose_answer_first_names_it(photo: Path) -> None:
    given: dict[str, Any] = {**GOLDEN["OspreyConversations"]["annotation"], "file_name": "COCO_train2014_a.jpg"}
    turns = [("human", "And?"), ("gpt", "<region2>."), ("human", "What is <region1>?"), ("gpt", "By <region2>.")]
    good = {**given, "conversations": [{"from": who, "value": text} for who, text in turns]}
    bad = {**given, "conversations": [{"from": "human", "value": "<region3>?"}, {"from": "gpt", "value": "No."}]}
    odd = {**given, "conversations": good["conversations"][:3]}
    report = IssueCounter()
    (known,) = read(
        "osprey", write(photo / "osprey_conversation.json", [good, bad, odd, {"file_name": "a.jpg"}]), report
    )
    assert [turn(one) for one in known.talks[0]] == [
        ("And? region2<>", [[1]]), ("region2.", []), ("What is region1<>?", [[0]]), ("By region2.", []),
    ]  # fmt: skip
    assert known.talks[0][0].text.startswith("<image>\n")
    assert report.counts == {osprey.NO_REGION: 1, shapes.NO_TALK: 1, NO_ENTRY: 1}


def panoptic(root: Path) -> Path:
    """One narrative of Panoptic Narrative Grounding in its folders; segments 7 and 300 are dogs, 70000 is grass."""
    image(root / "images" / "val2017" / "000000000012.jpg")
    ids = np.zeros((48, 60), np.int64)
    ids[2:10, 3:20], ids[12:20, 5:9], ids[30:] = 7, 300, 70000
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    folder = root / "annotations" / "panoptic_segmentation" / "val2017"
    folder.mkdir(parents=True)
    Image.fromarray(colours).save(folder / "000000000012.png")
    segments = [{"id": id, "category_id": 18 if id < 1000 else 193} for id in (7, 300, 70000)]
    write(
        root / "annotations" / "panoptic_val2017.json",
        {
            "images": [{"id": 12, "file_name": "000000000012.jpg", "width": 60, "height": 48}],
            "annotations": [{"image_id": 12, "file_name": "000000000012.png", "segments_info": segments}],
            "categories": [{"id": 18, "name": "dog", "isthing": 1}, {"id": 193, "name": "grass", "isthing": 0}],
        },
    )
    nouns = {"two dogs": ["7", "300"], "the grass": ["70000"], "the sky": [], "a dog": ["9"]}
    words = ["In this image", "two dogs", "are on", "the grass", "and", "the sky", "and", "a dog", "."]
    said = [(text, nouns.get(text, []), text in nouns) for text in words]
    caption = "In this image two dogs  are on the grass and the sky and a dog."
    parts = [{"utterance": text, "segment_ids": ids, "noun": noun, "plural": False} for text, ids, noun in said]
    more = [{"image_id": "13", "caption": "None.", "segments": []}]
    return write(
        root / "annotations" / "png_coco_val2017.json",
        [{"image_id": "12", "caption": caption, "segments": parts}, *more],
    )


def test_narratives_mean_panoptic_segments(tmp_path: Path) -> None:
    report = IssueCounter()
    (known,) = read("png", panoptic(tmp_path), report)
    told = "In this image <Phrase>two dogs</Phrase><> are on <Phrase>the grass</Phrase><> and the sky and a dog."
    assert sentence(known.sentences[0]) == (told, [[0, 1], [2]])
    assert known.objects.extra["names"] == ("dog", "dog", "grass")
    np.testing.assert_array_equal(known.objects.boxes_xyxy, [[3, 2, 20, 10], [5, 12, 9, 20], [0, 30, 60, 48]])
    assert [one["pixels"] for one in masks(known)] == [8 * 17, 8 * 4, 18 * 60]
    assert report.counts == {narratives.NO_SEGMENT: 1, NO_ENTRY: 1}


def test_an_image_that_is_not_there_stops_or_is_counted(photo: Path) -> None:
    given = {**GOLDEN["open_psg"]["annotation"], "file_name": "gone.jpg"}
    path = write(photo / "OpenPsgGCG_train.json", [given, {**given, "file_name": "a.jpg"}])
    with pytest.raises(UserError, match=r"gone\.jpg is not on disk"):
        read("open-psg", path)
    report = IssueCounter()
    assert len(read("open-psg", path, report, Ask(missing="drop"))) == 1
    assert report.counts == {MISSING_IMAGE: 1}


def test_entries_are_given_before_the_file_is_read_to_its_end(photo: Path) -> None:
    entry = json.dumps(GOLDEN["open_psg"]["annotation"] | {"file_name": "a.jpg"})
    path = photo / "OpenPsgGCG_train.json"
    path.write_text(f"[{', '.join([entry] * 30)}, nothing]")
    found = gcg.read_groundings(path, Ask(), IssueCounter())
    assert len({next(found).id for _ in range(30)}) == 30
    with pytest.raises(UserError, match="not valid json"):
        next(found)
