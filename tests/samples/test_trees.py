"""The data that ships: as large as said, whole, and two places that do not mix."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vistruct.samples import trees
from vistruct.samples.make_trees import SCENES

SAMPLES = {"train": (trees().train, 2299, 2472, 574), "test": (trees().test, 1249, 1035, 279)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_scene_has_its_size_its_crowns_and_every_box_inside(split: str) -> None:
    path, width, height, num_boxes = SAMPLES[split]
    content = json.loads(path.read_text())
    (image,) = content["images"]
    assert (image["file_name"], image["width"], image["height"]) == (f"{split}.jpg", width, height)
    with Image.open(path.with_name(image["file_name"])) as picture:
        picture.load()
        assert (picture.size, picture.mode) == ((width, height), "RGB")
    assert content["categories"] == [{"id": 1, "name": "tree"}]
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    assert len(boxes) == len({tuple(box) for box in boxes}) == num_boxes
    for x, y, w, h in boxes:
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height


def test_the_two_scenes_are_of_places_kilometres_apart() -> None:
    easting = {split: int(name.split("_")[3]) for split, name in SCENES.items()}  # metres, from the source's names
    scene_metres = 0.1 * 2472
    assert easting["test"] - easting["train"] == 13_000 > scene_metres
    assert trees().train != trees().test


def test_the_samples_are_small_and_say_their_licence() -> None:
    folder = trees().train.parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    readme = (folder / "README.md").read_text()
    for word in ("MIT License", "Ben Weinstein", "National Ecological Observatory Network", "deepforest"):
        assert word in readme
