"""Made-up sets in the public layouts of sources of boxes and words: three images of 60 x 48 pixels at most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 48)).save(path)
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def whole(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def visual_genome(root: Path) -> Path:
    image(root / "VG_100K_2/1.jpg")
    image(root / "VG_100K/2.jpg")
    region = {"x": 3, "y": 4, "width": 17, "height": 14, "image_id": 1, "region_id": 7, "phrase": "a brown  dog"}
    whole(root / "region_descriptions.json", [{"id": 1, "regions": [region, {**region, "phrase": " "}]}, {"id": 9}])
    dog = {"x": 3, "y": 4, "w": 17, "h": 14, "object_id": 5, "names": ["dog"], "synsets": ["dog.n.01"]}
    far = {**dog, "x": 70, "names": ["cat"]}
    whole(root / "objects.json", [{"image_id": 2, "objects": [dog, far], "image_url": "https://a/VG_100K/2.jpg"}])
    whole(root / "image_data.json", [{"image_id": number, "width": 60, "height": 48} for number in (1, 2)])
    return root


def flickr(root: Path) -> Path:
    for number in (1, 2):
        image(root / f"flickr30k-images/{number}.jpg")
    (root / "Sentences").mkdir()
    (root / "Annotations").mkdir()
    told = "[/EN#5/animals A brown dog] and [/EN#6/animals two cats] lie on [/EN#7/scene a sofa] ; [/EN#0/x it] sags ."
    (root / "Sentences/1.txt").write_text(f"{told}\nNobody moves .\n")
    (root / "Sentences/2.txt").write_text("Rain .\n")

    def drawn(number: int, x0: int, y0: int, x1: int, y1: int) -> str:
        edges = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        return f"<object><name>{number}</name><bndbox>{edges}</bndbox></object>"

    size = "<size><width>60</width><height>48</height><depth>3</depth></size>"
    objects = drawn(5, 1, 1, 60, 48) + drawn(6, 23, 10, 40, 30) + drawn(6, 9, 26, 30, 40)
    nowhere = "<object><name>7</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    (root / "Annotations/1.xml").write_text(f"<annotation>{size}{objects}{nowhere}</annotation>")
    (root / "Annotations/2.xml").write_text(f"<annotation>{size}</annotation>")
    (root / "train.txt").write_text("1\n3\n")
    (root / "test.txt").write_text("2\n")
    return root


CHUNK = [2, 11, 0.05, 0.125, 0.5, 0.5, 0.9]


def grit(root: Path) -> Path:
    entry = {"key": "000000012", "caption": "A brown dog rests", "url": "https://a", "width": 60, "height": 48}
    found = {"noun_chunks": [CHUNK, [0, 99, *CHUNK[2:]]], "ref_exps": [[0.0, 11.0, *CHUNK[2:]]]}
    for folder, number in (("00000", 12), ("00001", 20)):
        image(root / folder / f"{number:09}.jpg")
        whole(root / folder / f"{number:09}.json", {**entry, **found, "key": f"{number:09}"})
    whole(root / "00000_stats.json", {"count": 1})
    (root / "00001" / "broken.json").write_text("{")
    return root


def pointqa_local(root: Path) -> Path:
    image(root / "VG_100K/2393705.jpg")
    objects = [{"x": 3, "y": 4, "w": 17, "h": 14, "names": ["shirt"]}, {"x": 22, "y": 9, "w": 18, "h": 21}]
    points = [{"x": 11, "y": 11, "ans": "red"}, {"x": 31, "y": 19, "ans": "blue"}]
    entry = {"id": 2393705, "question": "What color is the shirt?", "all_ans": ["red", "blue"]}
    return whole(root / "localqa.json", {"2393705": [{**entry, "all_objs": objects, "points": points}]})


def pointqa_twice(root: Path) -> Path:
    image(root / "VG_100K/7.jpg")
    entry = {
        "id": 7,
        "obj_question": "How many of these cats are there?",
        "super_question": "How many of these animals are there?",
        "general_question": "How many of these are there?",
        "ans": "2",
        "point": {"x": 11, "y": 11, "ans": "2"},
        "bbox": {"x": 3, "y": 4, "w": 17, "h": 14, "names": ["cat"]},
    }
    away = {**entry, "point": {"x": 99, "y": 11}}
    return whole(root / "looktwice.json", {"7": [entry, away]})


def visual7w(root: Path) -> Path:
    image(root / "images/v7w_1.jpg")
    image(root / "images/v7w_2.jpg")
    boxes = [{"box_id": at, "name": f"thing {at}", "x": 10 * at, "y": 5, "width": 9, "height": 9} for at in range(4)]
    pair = {"qa_id": 1, "question": "Which one barks?", "answer": 2, "multiple_choices": [3, 0, 1], "type": "which"}
    lost = {**pair, "qa_id": 2, "multiple_choices": [3, 0, 77]}
    entry = {"image_id": 1, "filename": "v7w_1.jpg", "split": "train", "qa_pairs": [pair, lost]}
    other = {"image_id": 2, "filename": "v7w_2.jpg", "split": "val", "qa_pairs": [pair]}
    return whole(root / "dataset_v7w_pointing.json", {"images": [entry, other], "boxes": boxes, "dataset": "v7w"})


def visual7w_telling(root: Path) -> Path:
    image(root / "images/v7w_1.jpg")
    pair = {"question": "What barks?", "answer": "A dog.", "multiple_choices": ["A cat.", "A cow.", "Rain."]}
    entry = {"image_id": 1, "filename": "v7w_1.jpg", "split": "train", "qa_pairs": [pair]}
    return whole(root / "dataset_v7w_telling.json", {"images": [entry], "dataset": "v7w"})


def vcr(root: Path) -> Path:
    image(root / "vcr1images/lsmdc_1/a.jpg")
    outline = [[[3, 4], [20, 4], [20, 18]]]
    whole(
        root / "vcr1images/lsmdc_1/a.json",
        {
            "boxes": [[3, 4, 20, 18, 0.9], [22, 9, 40, 30, 0.8]],
            "segms": [outline, [[[22, 9], [40, 9], [40, 30]]]],
            "names": ["person", "cup"],
            "width": 60,
            "height": 48,
        },
    )
    row = {
        "img_fn": "lsmdc_1/a.jpg",
        "metadata_fn": "lsmdc_1/a.json",
        "objects": ["person", "cup"],
        "question": ["Why", "does", "n't", [0], "drink", "?"],
        "answer_choices": [["It", "is", "late", "."], [[0], "dropped", [1], "."], ["No", "."], ["Yes", "."]],
        "answer_label": 1,
        "rationale_choices": [[[1], "is", "broken", "."], ["Night", "."], ["Noise", "."], ["None", "."]],
        "rationale_label": 0,
    }
    unanswered = {key: value for key, value in row.items() if not key.endswith("label")}
    nobody = {**row, "question": ["Who", "is", [5], "?"]}
    return lines(root / "vcr1annots/train.jsonl", row, unanswered, nobody)


def vqa_e(root: Path) -> Path:
    image(root / "train2014/COCO_train2014_000000000009.jpg")
    row = {
        "img_id": 9,
        "question": "What lies there?",
        "answers": ["cat"] * 9 + ["a cat"],
        "multiple_answers": "cat",
        "explanation": ["A cat lies on a sofa", 0.7],
    }
    return whole(root / "VQA-E_train_set.json", [row, {**row, "answers": [], "multiple_answers": ""}])


def vqa_x(root: Path) -> Path:
    image(root / "val2014/COCO_val2014_000000000009.jpg")
    row = {
        "question": "What lies there?",
        "image_id": 9,
        "image_name": "COCO_val2014_000000000009.jpg",
        "answers": [{"answer": "cat", "answer_id": at} for at in range(3)] + [{"answer": "dog", "answer_id": 3}],
        "explanation": ["it purrs", "it has whiskers."],
    }
    return whole(root / "vqaX_val.json", {"9000": row})


def pope(root: Path) -> Path:
    image(root / "val2014/COCO_val2014_000000000009.jpg")
    row = {"question_id": 1, "image": "COCO_val2014_000000000009.jpg", "text": "Is there a cat?", "label": "yes"}
    return lines(root / "coco_pope_random.json", row, {**row, "question_id": 2, "label": "no"})


def clevr(root: Path) -> Path:
    image(root / "images/train/CLEVR_train_000000.png")
    row = {"image_filename": "CLEVR_train_000000.png", "question": "How many?", "answer": "3", "question_index": 0}
    return whole(root / "questions/CLEVR_train_questions.json", {"info": {"split": "train"}, "questions": [row]})
