"""From files to samples: the real scenes, shares, windows that map back, and what cannot be asked for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from vistruct.config import Part
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.boxes.objects import MISSING_IMAGE
from vistruct.data.selection import BEYOND_FRACTION
from vistruct.errors import UserError
from vistruct.files.images import clear_cache
from vistruct.kinds import part_class
from vistruct.samples import trees
from vistruct.transforms.augment import Augment
from vistruct.windows.tiles import Tiles

TILES = Tiles(size=400, overlap=120)


def test_windows_of_the_sample_hold_its_trees() -> None:
    dataset = BoxDataConfig(annotation=trees().test, tiles=TILES).build()
    assert dataset.info.class_names == ("tree",)
    assert dataset.info.num_records == len(dataset) == len(dataset.records) == 20
    assert dataset.info.counts["tree"] == sum(len(record.objects) for record in dataset.records) > 279
    assert len(dataset.info.fingerprint) == 64
    assert dataset.info.corpus is None
    assert [len(record.objects) for record in dataset.whole_records] == [279]


def test_boxes_of_every_window_map_back_onto_the_scene() -> None:
    config = BoxDataConfig(annotation=trees().test, tiles=TILES, resize=0.77, augment=Augment(scale=(1.0, 1.4)))
    dataset = config.build()
    truth = {tuple(box) for box in dataset.whole_records[0].objects.boxes_xyxy.round().tolist()}
    found = set()
    for index in range(len(dataset)):
        sample = dataset.sample(index, seed=index)
        assert sample.image_id == "test.jpg"
        scale, origin = torch.tensor(sample.scale_xy * 2), torch.tensor(sample.origin_xy * 2)
        back = sample.objects.boxes_xyxy / scale + origin
        corners = torch.tensor([0.0, 0, sample.images[0].shape[2], sample.images[0].shape[1]]) / scale + origin
        is_inside = ((back[:, :2] > corners[:2] + 0.01) & (back[:, 2:] < corners[2:] - 0.01)).all(dim=1)
        torch.testing.assert_close(back[is_inside], back[is_inside].round(), atol=0.01, rtol=0)
        found |= {tuple(box) for box in back[is_inside].round().tolist()}
    assert found <= truth
    assert len(found) > 0.8 * len(truth)


def test_a_window_shows_those_pixels_of_the_scene() -> None:
    dataset = BoxDataConfig(annotation=trees().test, tiles=TILES).build()
    scene = np.asarray(Image.open(trees().test.with_name("test.jpg")))
    for index in (0, 5, 19):
        x0, y0, x1, y1 = dataset.records[index].window_xyxy or (0, 0, 0, 0)
        np.testing.assert_array_equal(dataset.sample(index, 0).images[0].permute(1, 2, 0), scene[y0:y1, x0:x1])


def test_a_sample_is_a_function_of_index_and_seed_and_its_record_stays_untouched() -> None:
    config = BoxDataConfig(annotation=trees().test, tiles=TILES, augment=Augment(hflip=True, photometric=0.3))
    dataset = config.build()
    before = dataset.records[3].objects.boxes_xyxy.copy()
    first = dataset.sample(3, seed=5)
    first.objects.boxes_xyxy.add_(100)
    first.images[0].zero_()
    dataset.sample(4, seed=5)
    clear_cache()
    second, third = dataset.sample(3, seed=5), pickle.loads(pickle.dumps(dataset)).sample(3, seed=5)
    np.testing.assert_array_equal(dataset.records[3].objects.boxes_xyxy, before)
    assert torch.equal(second.images[0], third.images[0])
    assert torch.equal(second.objects.boxes_xyxy, third.objects.boxes_xyxy)
    assert not torch.equal(first.images[0], second.images[0])
    assert second.seed == 5


def test_a_larger_share_contains_a_smaller_and_says_what_it_leaves_out() -> None:
    def ids(share: float, seed: int = 0) -> list[str]:
        dataset = BoxDataConfig(annotation=trees().train, tiles=TILES, fraction=share, fraction_seed=seed).build()
        assert dataset.info.dropped.get(BEYOND_FRACTION, 0) == len(everything) - len(dataset)
        return [record.id for record in dataset.records]

    everything = [record.id for record in BoxDataConfig(annotation=trees().train, tiles=TILES).build().records]
    smaller: list[str] = []
    for share in (0.02, 0.1, 0.5, 1.0):
        larger = ids(share)
        assert len(larger) == max(1, round(share * len(everything)))
        assert set(smaller) <= set(larger)
        assert larger == [record for record in everything if record in set(larger)]  # in the old order
        smaller = larger
    assert ids(0.1, seed=0) != ids(0.1, seed=1)


@pytest.mark.parametrize("fraction", [0.0, 1.5, -1])
def test_a_fraction_beyond_its_bounds_is_refused(fraction: float) -> None:
    with pytest.raises(ValidationError):
        BoxDataConfig(annotation=Path("a.json"), fraction=fraction)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two images of which one has a box."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 3]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json"


def test_an_image_without_objects_is_a_sample_with_empty_targets(small: Path) -> None:
    dataset = BoxDataConfig(annotation=small).build()
    sample = dataset.sample(1, 0)
    assert (sample.objects.boxes_xyxy.shape, sample.objects.labels.dtype, sample.objects.is_crowd.dtype) == (
        (0, 4),
        torch.int64,
        torch.bool,
    )
    assert dict(dataset.info.counts) == {"x": 0, "y": 1}
    assert (sample.origin_xy, sample.scale_xy) == ((0, 0), (1, 1))


def test_data_without_any_box_is_an_error(small: Path) -> None:
    content = json.loads(small.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 0, 0]
    small.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no boxes are left: 1 x box left out: no area"):
        BoxDataConfig(annotation=small).build()


def test_a_missing_image_stops_or_drops_out_as_asked(small: Path) -> None:
    small.with_name("b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png"):
        BoxDataConfig(annotation=small).build()
    dataset = BoxDataConfig(annotation=small, missing="drop").build()
    assert len(dataset) == 1
    assert dataset.info.dropped == {MISSING_IMAGE: 1}


def test_an_image_that_changes_after_reading_is_an_error(small: Path) -> None:
    dataset = BoxDataConfig(annotation=small).build()
    Image.new("RGB", (16, 12)).save(small.with_name("a.png"))
    with pytest.raises(UserError, match=r"16 x 12 pixels, but 8 x 6") as caught:
        dataset.sample(0, 0)
    assert caught.value.where.endswith("a.png")


def test_a_truncated_image_is_an_error_with_its_name(small: Path) -> None:
    image = small.with_name("a.png")
    dataset = BoxDataConfig(annotation=small).build()
    image.write_bytes(image.read_bytes()[:-25])
    with pytest.raises(UserError, match="cannot decode") as caught:
        dataset.sample(0, 0)
    assert caught.value.where == str(image)


def chat_file(folder: Path, name: str = "chat.jsonl", answers: tuple[str, ...] = ("one", "two")) -> Path:
    Image.new("RGB", (8, 6), (100, 120, 140)).save(folder / "a.png")
    turns = [{"from": "human", "value": "<image>\nfirst"}, {"from": "gpt", "value": answers[0]}]
    turns += [{"from": "human", "value": "second"}, {"from": "gpt", "value": answers[1]}]
    lines = [{"image": "a.png", "conversations": turns}, {"conversations": [{**turns[2]}, {**turns[3]}]}]
    (folder / name).write_text("\n".join(json.dumps(line) for line in lines))
    return folder / name


def test_conversations_become_samples_with_a_corpus_and_counts(tmp_path: Path) -> None:
    dataset = ChatDataConfig(jsonl=chat_file(tmp_path)).build()
    assert dict(dataset.info.counts) == {"conversations": 2, "turns": 6, "answers": 3, "images": 1}
    expected = ["<image>\nfirst", "one", "second", "two", "second", "two"]
    for info in (dataset.info, pickle.loads(pickle.dumps(dataset)).info):
        assert info.corpus is not None
        assert list(info.corpus()) == expected == list(info.corpus())
    sample = dataset.sample(0, seed=3)
    assert sample.images[0].shape == (3, 6, 8)
    assert [turn.role for turn in sample.turns] == ["user", "assistant"] * 2
    assert dataset.sample(1, seed=3).images == []


def test_several_files_join_with_ids_that_stay_unique(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    dataset = ChatDataConfig(jsonl=(chat_file(tmp_path), chat_file(other))).build()
    ids = [record.id for record in dataset.records]
    assert len(set(ids)) == 4
    assert ids[2:] == ["other/chat.jsonl/chat.jsonl:1", "other/chat.jsonl/chat.jsonl:2"]
    assert dataset.info.counts["other/chat.jsonl: conversations"] == 2
    with pytest.raises(UserError, match="named twice"):
        ChatDataConfig(jsonl=(tmp_path / "chat.jsonl", tmp_path / "chat.jsonl")).build()
    assert dataset.info.counts["images"] == 2


def test_only_colour_may_vary_under_words(tmp_path: Path) -> None:
    path = chat_file(tmp_path)
    for augment in (Augment(hflip=True), Augment(rot90=True), Augment(vflip=True), Augment(scale=(1, 2))):
        with pytest.raises(UserError, match="'left'"):
            ChatDataConfig(jsonl=path, augment=augment)
    dataset = ChatDataConfig(jsonl=path, augment=Augment(photometric=0.4)).build()
    assert not torch.equal(dataset.sample(0, 1).images[0], dataset.sample(0, 2).images[0])


def test_data_without_any_conversation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": ""}]}))
    with pytest.raises(UserError, match="no conversations are left: 1 x conversation left out"):
        ChatDataConfig(jsonl=path).build()


@pytest.mark.parametrize(
    "config",
    [
        BoxDataConfig(
            annotation=Path("a.json"), tiles=Tiles(size=64, overlap=8), augment=Augment(hflip=True), fraction=0.5
        ),
        ChatDataConfig(jsonl=(Path("a.jsonl"), Path("b.jsonl")), augment=Augment(photometric=0.1)),
        ChatDataConfig(jsonl=Path("a.jsonl")),
    ],
)
def test_a_configuration_survives_json_and_is_known_by_its_kind(config: Part) -> None:
    values = config.model_dump(mode="json")
    assert type(config).model_validate(json.loads(json.dumps(values))) == config
    assert part_class(values["kind"], "data set") is type(config)
