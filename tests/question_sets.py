"""Small made-up sets of questions in the layouts that they are published in, with their images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PEOPLE = {10: ["net"] * 4 + ["a net"] * 5 + ["racket"], 11: ["no"] * 10, 12: ["2"] * 8 + ["3"] * 2}


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 52, 3), np.uint8)).save(path)


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def vqa(folder: Path, split: str = "val2014") -> Path:
    """VQA v2, three questions about two images; the file of answers."""
    for number in (1, 2):
        image(folder / split / f"COCO_{split}_{number:012d}.jpg", number)
    asked = {10: (1, "What is it?"), 11: (1, "Is it red?"), 12: (2, "How many boats?")}
    head = {"info": {"version": "2.0"}, "license": {"name": "CC"}, "data_subtype": split}
    questions = [{"image_id": i, "question": text, "question_id": id} for id, (i, text) in asked.items()]
    kinds = {10: "other", 11: "yes/no", 12: "number"}
    told = [
        {
            "question_type": "what is",
            "multiple_choice_answer": Counter(people).most_common(1)[0][0],
            "answers": [
                {"answer": one, "answer_confidence": "yes", "answer_id": at} for at, one in enumerate(people, start=1)
            ],
            "image_id": asked[id][0],
            "answer_type": kinds[id],
            "question_id": id,
        }
        for id, people in PEOPLE.items()
    ]
    write(
        folder / f"v2_OpenEnded_mscoco_{split}_questions.json",
        {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", **head, "questions": questions},
    )
    return write(folder / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": told, "data_type": "mscoco"})


def gqa(folder: Path) -> Path:
    """GQA, testdev-balanced, as its entries are written."""
    image(folder / "images" / "n161313.jpg", 1)
    entries = {
        str(at): {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}],
            "entailed": [],
            "equivalent": [str(at)],
            "question": question,
            "imageId": "n161313",
            "isBalanced": True,
            "groups": {"global": None, "local": "10"},
            "answer": answer,
            "semanticStr": "select: scene",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "x", "semantic": "global", "structural": kind},
            "fullAnswer": f"{answer}.",
        }
        for at, (question, answer, kind) in enumerate(
            [("Is it overcast?", "no", "verify"), ("Who?", "the man", "query")]
        )
    }
    return write(folder / "testdev_balanced_questions.json", entries)


def vizwiz(folder: Path) -> Path:
    image(folder / "val" / "VizWiz_val_00000000.jpg", 1)
    people = [{"answer": "basil leaves", "answer_confidence": "yes"}] * 6
    people += [{"answer": "unanswerable", "answer_confidence": "no"}] * 4
    entry = {
        "image": "VizWiz_val_00000000.jpg", "question": "What is this? Thank you.", "answers": people,
        "answer_type": "other", "answerable": 1,
    }  # fmt: skip
    return write(folder / "val.json", [entry])


def text_vqa(folder: Path) -> Path:
    image(folder / "train_images" / "0054c91397f2fe05.jpg", 1)
    entry = {
        "question": "what brand?", "image_id": "0054c91397f2fe05", "image_classes": ["Belt"], "image_width": 52,
        "question_tokens": ["what", "brand"], "question_id": 34602, "set_name": "val",
        "answers": ["nokia"] * 9 + ["toshiba"],
    }  # fmt: skip
    return write(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_name": "textvqa", "data": [entry]})


def nocaps(folder: Path) -> Path:
    """NoCaps: COCO captions with the domain of each image."""
    domains = ("in-domain", "near-domain", "out-domain")
    for at in range(3):
        image(folder / "images" / f"{at}.jpg", at)
    images = [
        {"license": 0, "id": at, "file_name": f"{at}.jpg", "open_images_id": f"o{at}", "domain": domain, "width": 52,
         "height": 40, "coco_url": "", "date_captured": ""}
        for at, domain in enumerate(domains)
    ]  # fmt: skip
    captions = [
        {"image_id": at, "id": 10 * at + n, "caption": f"{what} on {place}."}
        for at, what in enumerate(("A boat", "A red car", "A llama"))
        for n, place in enumerate(("a lake", "the grass"))
    ]
    content = {"info": {}, "licenses": [], "images": images, "annotations": captions}
    return write(folder / "nocaps_val_4500_captions.json", content)
