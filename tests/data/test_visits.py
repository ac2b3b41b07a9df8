"""The order of windows of images that are decoded as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.contracts import DataInfo, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.loading.loader import Order
from vistruct.data.loading.visits import Visits, visits_of
from vistruct.files import images
from vistruct.files.decode import decode
from vistruct.files.decoded_cache import CACHE_BYTES
from vistruct.issues import IssueCounter


def dataset(folder: Path, number: int, side: int, window: int, ending: str = "png") -> RecordDataset:
    records = []
    for image in range(number):
        path = folder / f"{image}.{ending}"
        for y in range(0, side, window):
            for x in range(0, side, window):
                edges = (x, y, x + window, y + window)
                records.append(Record(id=f"{image}@{x}_{y}", images=(path,), image_id=str(image), window_xyxy=edges))
    return RecordDataset(records, DataInfo(), IssueCounter())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_sample_comes_once_and_images_together_fit() -> None:
    found = visits_of(dataset(Path("a"), 12, 100, 25), most=3 * 30_000)
    assert found is not None
    order = found.shuffled(generator(), most=3 * 30_000)
    assert sorted(order.tolist()) == list(range(12 * 16))
    shown = found.image[order.numpy()].reshape(4, 3 * 16)
    for group in shown:
        assert len(set(group)) == 3
    assert not np.array_equal(np.sort(shown[0]), shown[0])  # windows of the three are mixed
    other = found.shuffled(generator(1), most=3 * 30_000)
    assert set(found.image[other.numpy()][:48]) != set(shown[0])  # other images together in another epoch
    assert torch.equal(order, found.shuffled(generator(), most=3 * 30_000))


@pytest.mark.parametrize("what", ["all fit", "rasters", "whole"])
def test_a_plain_shuffle_where_nothing_is_decoded_twice(what: str) -> None:
    data = dataset(Path("a"), 12, 100, 100 if what == "whole" else 25, "tif" if what == "rasters" else "png")
    assert visits_of(data, most=10**9 if what == "all fit" else 40_000) is None


def test_an_image_is_decoded_once_in_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side, most = 64, 2 * 64 * 64 * 3
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    data, calls = dataset(tmp_path, 6, side, 16), []
    monkeypatch.setattr(images._cache, "decode", lambda data, name: calls.append(name) or decode(data, name))
    monkeypatch.setattr(images._cache, "max_bytes", most)
    found = visits_of(data, most)
    assert found is not None
    order = Order(len(data), 8, 0, Visits(image=found.image, size=np.full(6, CACHE_BYTES // 2)))
    for step in range(len(data) // 8):
        for _, index in order.keys(step):
            data.images(index)
    assert len(calls) <= 12  # of 6 images, two at a time; 96 windows
    images.clear_cache()


def test_where_a_step_begins_does_not_depend_on_what_was_asked_before() -> None:
    found = visits_of(dataset(Path("a"), 12, 100, 25), most=60_000)
    walked = Order(192, 24, 3, found)
    assert [walked.keys(step) for step in range(20)][17] == Order(192, 24, 3, found).keys(17)
