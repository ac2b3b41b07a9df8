"""Words of captions as classes of images: which count, over which images, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.cli.evaluate import on_other_data
from vistruct.data.checks.check import check
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.classes.caption_words import NAMES_NOTHING, PLURAL, RARE
from vistruct.data.formats.classes.csv import NO_CLASS
from vistruct.data.formats.order import NONE_OF_IT
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.instructions.write import write_instructions
from vistruct.data.reading import Reading
from vistruct.engine.data_sets import for_classes
from vistruct.errors import UserError
from vistruct.recipes import classify
from vistruct.samples import trees

TOLD = {
    "a.png": ["Two ships beside a jetty.", "A ship, and a tennis court."],
    "b.png": ["A ship on the left of a jetty."],
    "c.png": ["The tennis courts of a school; glass."],
    "d.png": ["A boat."],
    "e.png": ["12 of them."],
}


def written(folder: Path, splits: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    rows = []
    for seed, (name, captions) in enumerate(TOLD.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        rows.append({"image": name, "caption": captions} | ({"split": splits[name]} if splits else {}))
    (folder / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "told.jsonl"


def opened(path: Path, **settings: Any) -> RecordDataset:
    part = ClassDataConfig(root=path, format="caption-words", multi_label=True, **{"least_count": 2, **settings})
    return part.build()


def classes_of(dataset: RecordDataset) -> dict[str, set[str]]:
    names = dataset.info.class_names
    return {one.id: {names[label] for label in one.image_labels or ()} for one in dataset.records}


def test_words_that_enough_images_have_are_classes_and_the_others_are_counted(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path))
    assert dataset.info.class_names == ("court", "jetty", "ship", "tennis")  # counted by hand, over images
    assert classes_of(dataset) == {
        "a.png": {"ship", "jetty", "court", "tennis"},
        "b.png": {"ship", "jetty"},
        "c.png": {"court", "tennis"},
        "d.png": set(),
        "e.png": set(),
    }
    assert dataset.info.counts == {"court": 2, "jetty": 2, "ship": 2, "tennis": 2}
    counts = dataset.report.counts
    assert counts[f"{RARE}"] == 3  # school, glass, boat
    assert counts[f"{PLURAL}"] == 2  # ships, courts; glass is none
    assert counts[f"{NO_CLASS}"] == 2
    assert counts[f"{NAMES_NOTHING}"] == len(["two", "beside", "a", "and", "on", "the", "left", "of", "12", "them"])


def test_classes_that_are_asked_for_may_be_of_several_words_and_joined(tmp_path: Path) -> None:
    path = written(tmp_path)
    chosen = {"classes": ("ship", "tennis courts", "lake"), "others": "drop", "join": {"ship": ("boats",)}}
    dataset = opened(path, **chosen, least_count=5)  # what is asked for is not counted
    assert dataset.info.class_names == ("ship", "tennis courts", "lake")
    found = classes_of(dataset)
    assert (found["a.png"], found["c.png"], found["d.png"]) == ({"ship", "tennis courts"}, {"tennis courts"}, {"ship"})
    assert dataset.report.counts[NONE_OF_IT] == 1  # lake
    joined = opened(path, join={"vessel": ("ship", "boat"), "pitch": ("tennis court",)}, drop=("jetty",), least_count=2)
    assert joined.info.class_names == ("court", "pitch", "tennis", "vessel")
    assert joined.info.counts["vessel"] == 3


def test_every_split_has_the_classes_of_all_and_a_models_classes_decide(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.png": "train", "b.png": "val", "c.png": "train", "d.png": "train", "e.png": "val"})
    train, val = opened(path, split="train"), opened(path, split="val")
    assert train.info.class_names == val.info.class_names == ("court", "jetty", "ship", "tennis")
    assert set(classes_of(val)) == {"b.png", "e.png"}
    part = ClassDataConfig(root=path, format="caption-words", multi_label=True, split="val")
    of_model = for_classes(part, train.info).build()
    assert of_model.info.class_names == train.info.class_names
    assert classes_of(of_model)["b.png"] == {"ship", "jetty"}


def test_what_instruct_writes_trains_a_classifier_and_is_checked(tmp_path: Path) -> None:
    write_instructions(trees().test, tmp_path, crops=6, always=("caption",), questions=1)
    lines = tmp_path / "instructions.jsonl"
    reading = Reading(format="caption-words")
    run = classify.recipe(data=lines, reading=reading, least_count=1, train_fraction=0.5, size=32, steps=1)
    assert run.only.task.multi_label  # ty: ignore[unresolved-attribute]
    data = run.only.data.build()
    assert "tree" in data.info.class_names or "trees" in data.info.class_names
    task = run.only.task.build(data.info, tmp_path)
    batch = task.collator([data.sample(at, at) for at in range(2)])
    assert batch.targets.sum() > 0  # ty: ignore[unresolved-attribute]
    loss = task(batch).terms["classes"]
    assert torch.isfinite(loss)
    assert check(lines, reading).classes == {"tree": 6}
    other = on_other_data(run, lines, ())  # a format that is never found by looking is the run's own
    assert other[0][1].data.format == "caption-words"  # ty: ignore[unresolved-attribute]


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(UserError, match="no word is left") as caught:
        opened(path, least_count=9)
    assert caught.value.fix == "--classes court,jetty,ship,tennis,glass says which count"
    with pytest.raises(UserError, match="asked of captions alone"):
        ClassDataConfig(root=path, least_count=3)
    with pytest.raises(UserError, match="several words of one image") as caught:
        ClassDataConfig(root=path, format="caption-words", least_count=2).build()
    assert caught.value.fix == "--multi-label"
