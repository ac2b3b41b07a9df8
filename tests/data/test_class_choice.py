"""Classes that are chosen, joined, renamed or dropped: alike for every family, counted, and a typo is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.data.at_path import boxes_at, classes_at, maps_at, part_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.format import Ask
from vistruct.data.formats.order import chosen_coding
from vistruct.data.maps import LabelReader
from vistruct.data.reading import AS_THEY_ARE, Named, Reading
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

NAMES = ("bus", "car", "ship", "tree")


def boxes(root: Path) -> Path:
    """Two images; five objects of four classes."""
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(root / f"{name}.png")
    labels = {"a": (0, 1, 2), "b": (1, 3)}
    images = [{"id": n, "file_name": f"{name}.png", "width": 32, "height": 32} for n, name in enumerate(labels)]
    annotations = [
        {"id": 10 * n + at, "image_id": n, "category_id": label, "bbox": [2 + at, 3, 8, 9], "iscrowd": 0}
        for n, own in enumerate(labels.values())
        for at, label in enumerate(own)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    file = root / "train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def counts(file: Path, **told: Any) -> tuple[dict[str, int], dict[str, int]]:
    dataset = boxes_at(file, Reading(**told), AS_THEY_ARE).build()
    return dict(dataset.info.counts), dict(dataset.info.dropped)


def test_boxes_of_classes_that_are_chosen_joined_or_dropped(tmp_path: Path) -> None:
    file = boxes(tmp_path)
    assert counts(file)[0] == {"bus": 1, "car": 2, "ship": 1, "tree": 1}
    found, dropped = counts(file, classes=("tree", "car"))
    assert found == {"tree": 1, "car": 2}
    assert dropped == {"object left out: its class is not wanted": 2}
    assert counts(file, drop=("ship", "bus"))[0] == {"car": 2, "tree": 1}
    none = "class asked for that these data do not have"
    assert counts(file, drop=("helicopter",)) == ({"bus": 1, "car": 2, "ship": 1, "tree": 1}, {none: 1})
    joined = (Named("vehicle=bus,car"), Named("boat=ship"))
    assert counts(file, join=joined)[0] == {"vehicle": 3, "boat": 1, "tree": 1}
    assert counts(file, join=joined, drop=("tree",))[0] == {"vehicle": 3, "boat": 1}
    assert counts(file, join=joined, classes=("boat", "vehicle"))[0] == {"boat": 1, "vehicle": 3}


@pytest.mark.parametrize(
    ("told", "what", "fix"),
    [
        ({"drop": ("tre",)}, "no class 'tre' to join or drop", "did you mean 'tree'?"),
        ({"join": (Named("vehicle=bus,cra"),)}, "no class 'cra'", "did you mean 'car'?"),
        ({"join": (Named("vehicle"),)}, "--join vehicle", "--join vehicle=car,truck"),
        ({"join": (Named("a=car"), Named("b=car"))}, "class 'car' goes to two", "name it once"),
        ({"classes": ("plane",)}, "none of the classes asked for", "--classes bus,car,ship,tree"),
        ({"modalities": ("T1",)}, "--modalities means nothing for annotated boxes", "leave --modalities out"),
    ],
)
def test_what_is_not_there_is_an_error_that_can_be_answered(
    tmp_path: Path, told: dict[str, object], what: str, fix: str
) -> None:
    file = boxes(tmp_path)
    with pytest.raises(UserError) as caught:
        counts(file, **told)
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_a_class_that_the_model_does_not_know_stops_an_evaluation_with_an_option(tmp_path: Path) -> None:
    config = BoxDataConfig(annotation=boxes(tmp_path), classes=("bus", "car", "ship"))
    with pytest.raises(UserError, match="no class 'tree' is asked for") as caught:
        config.build()
    assert caught.value.fix.startswith("--drop tree leaves it out; --join ")
    assert dict(config.model_copy(update={"drop": ("tree",)}).build().info.counts) == {"bus": 1, "car": 2, "ship": 1}
    # Of a list of classes, a part of a data set need not have every one.
    wide = config.model_copy(update={"classes": (*NAMES, "plane")}).build()
    assert wide.info.counts["plane"] == 0


@pytest.mark.parametrize("coloured", [False, True])
def test_pixels_of_joined_and_dropped_classes(coloured: bool) -> None:
    values = np.array([[10, 20, 30, 40, 255]], np.uint8)
    colours = ((9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0))
    written = {"colours": colours, "ignored_colours": ((1, 1, 1),)} if coloured else {"values": (10, 20, 30, 40)}
    raster = np.array([[*colours, (1, 1, 1)]], np.uint8) if coloured else values
    coding = Coding(classes=NAMES, **written)
    report = IssueCounter()
    ask = Ask(join={"vehicle": ("bus", "car")}, drop=("ship",))
    chosen = chosen_coding(coding, ask, where="here", report=report)
    assert chosen.classes == ("vehicle", "tree")
    assert chosen.decode(raster, "here").tolist() == [[0, 0, IGNORED, 1, IGNORED]]
    assert report.counts == {"class that does not count: it is not wanted": 1}
    named = chosen_coding(coding, Ask(classes=("tree", "bus"), others="drop"), where="", report=report)
    assert named.decode(raster, "here").tolist() == [[1, IGNORED, IGNORED, 0, IGNORED]]
    assert Coding.model_validate(chosen.model_dump(mode="json")) == chosen  # a run file keeps it


def test_label_maps_and_image_classes_take_the_same_options(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "maps" / folder).mkdir(parents=True)
    Image.new("RGB", (4, 1)).save(tmp_path / "maps/images/a.png")
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)).save(tmp_path / "maps/masks/a.png")
    (tmp_path / "maps/classes.txt").write_text("\n".join(NAMES))
    dataset = maps_at(tmp_path / "maps", Reading(join=(Named("vehicle=bus,car"),), drop=("tree",)), AS_THEY_ARE).build()
    assert dataset.info.class_names == ("vehicle", "ship")
    read = dataset.read_label_map
    assert isinstance(read, LabelReader)
    assert read(dataset.records[0]).tolist() == [[0, 0, 1, IGNORED]]
    for number, name in enumerate(NAMES):
        (tmp_path / "kinds" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "kinds" / name / "a.png")
    told = Reading(join=(Named("vehicle=bus,car"),), classes=("vehicle", "tree"))
    kinds = classes_at(tmp_path / "kinds", told, AS_THEY_ARE).build()
    assert dict(kinds.info.counts) == {"vehicle": 2, "tree": 1}
    assert dict(kinds.info.dropped) == {"image left out: its class is not wanted": 1}


def test_values_and_names_make_a_coding_and_a_painted_class_is_chosen(tmp_path: Path) -> None:
    file = boxes(tmp_path)
    painted = part_at(file, Reading(fill="boxes", classes=("ship",)))
    assert painted.build().info.class_names == ("background", "ship")
    coding = maps_at(tmp_path, Reading(classes=("soil", "crop"), values=(1, 255)), AS_THEY_ARE).coding
    assert coding == Coding(classes=("soil", "crop"), values=(1, 255), ignored=())
    with pytest.raises(UserError, match="values without classes"):
        maps_at(tmp_path, Reading(values=(1, 2)), AS_THEY_ARE)
