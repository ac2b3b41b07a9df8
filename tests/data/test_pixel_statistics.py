"""Mean and standard deviation of a data set against numpy's over all of its pixels at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.contracts import DataInfo, Record
from vistruct.data import statistics
from vistruct.data.dataset import RecordDataset
from vistruct.data.statistics import in_words, with_statistics_of_pixels
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage
from vistruct.issues import IssueCounter
from vistruct.transforms.augment import Augment

RNG = np.random.default_rng(0)


def of(images: list[np.ndarray], pixels: str = "uint16", **settings) -> RecordDataset:
    records = [Record(id=str(n), images=(Path(f"{n}.tif"),)) for n in range(len(images))]

    def read(record: Record) -> list[torch.Tensor]:
        return [torch.from_numpy(images[int(record.id)])]

    info = DataInfo(channels=len(images[0]), pixels=pixels, fingerprint="f")
    return RecordDataset(records, info, IssueCounter(), read_images=read, **settings)


@pytest.mark.parametrize(("pixels", "scale"), [("uint8", 255), ("uint16", 65535), ("raw", 1)])
def test_they_are_numpys_over_all_pixels_whatever_the_sizes(pixels, scale):
    dtype = "float32" if pixels == "raw" else pixels
    sizes = [(7, 9), (1, 1), (30, 5)]
    images = [(RNG.random((2, *size)) * [[[100]], [[250]]] + 3).astype(dtype) for size in sizes]
    found = with_statistics_of_pixels(of(images, pixels)).info
    whole = np.concatenate([image.reshape(2, -1) for image in images], axis=1).astype(np.float64) / scale
    np.testing.assert_allclose(found.mean, whole.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.std, whole.std(axis=1), rtol=1e-12)


def test_a_large_offset_costs_no_digits():
    """Sums of squares would leave nothing of a deviation of 1 about ten million."""
    images = [(1e7 + RNG.integers(0, 3, (1, 40, 40))).astype(np.float32) for _ in range(5)]
    found = with_statistics_of_pixels(of(images, "raw")).info
    np.testing.assert_allclose(found.std, [np.stack(images).astype(np.float64).std()], rtol=1e-9)


def test_nothing_is_varied_while_it_is_measured():
    images = [RNG.integers(0, 65536, (3, 8, 8)).astype(np.uint16) for _ in range(3)]
    plain, varied = of(images), of(images, augment=Augment(photometric=0.9, crop=(4, 4)), resize=0.5)
    assert with_statistics_of_pixels(plain).info == with_statistics_of_pixels(varied).info


def test_of_many_images_so_many_are_drawn_and_always_the_same(monkeypatch):
    images = [np.full((1, 2, 2), n, np.uint16) + RNG.integers(0, 9, (1, 2, 2)).astype(np.uint16) for n in range(60)]
    monkeypatch.setattr(statistics, "MOST", 20)
    found = with_statistics_of_pixels(of(images)).info
    assert found == with_statistics_of_pixels(of(images)).info
    assert found.mean is not None
    assert found.mean[0] * 65535 == pytest.approx(33.5, abs=12)  # of all over the set, not of its beginning


def test_what_was_measured_is_kept_for_the_same_data_alone(tmp_path: Path):
    images = [RNG.integers(0, 65536, (1, 8, 8)).astype(np.uint16) for _ in range(3)]
    first = with_statistics_of_pixels(of(images), tmp_path).info
    silent = of([np.zeros((1, 8, 8), np.uint16)] * 3)  # a data set that would measure something else
    assert with_statistics_of_pixels(silent, tmp_path).info == first
    other = RecordDataset(silent.records[:2], silent.info, IssueCounter(), read_images=of(images[:2]).read_images)
    assert with_statistics_of_pixels(other, tmp_path).info.mean != first.mean
    assert len(list(tmp_path.iterdir())) == 2


def test_a_channel_without_spread_is_an_error_that_names_it():
    images = [np.stack([RNG.random((4, 4)), np.full((4, 4), 0.25)]).astype(np.float32)]
    with pytest.raises(UserError, match=r"channel 2 is 0\.25 everywhere"):
        with_statistics_of_pixels(of(images, "float32"))


def test_an_unreadable_image_stops_it_or_is_passed_over_as_the_data_say(tmp_path: Path):
    Image.fromarray(RNG.integers(0, 256, (5, 6, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    records = [Record(id=name, images=(tmp_path / name,)) for name in ("a.png", "b.png")]
    with pytest.raises(UnreadableImage, match="cannot decode"):
        with_statistics_of_pixels(RecordDataset(records, DataInfo(), IssueCounter()))
    found = with_statistics_of_pixels(RecordDataset(records, DataInfo(), IssueCounter(), on_broken="replace")).info
    wanted = np.asarray(Image.open(tmp_path / "a.png"), np.float64).reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, wanted.mean(axis=0))
    assert "3 channels of 8 bits (uint8), normalised with mean" in in_words(found)
