"""COVID-QU-Ex as its archive unpacks it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from vistruct.data.formats.classes.covid_quex import NO_MASKS
from vistruct.data.formats.maps.registry import Wish, map_splits, matching_maps, read_maps
from vistruct.errors import UserError
from vistruct.files.rasters import read_raster
from vistruct.samples.made_volumes import covid_folder


@pytest.mark.parametrize(
    "below", [".", "Infection Segmentation Data", "Infection Segmentation Data/Infection Segmentation Data"]
)
def test_it_is_found_wherever_the_archive_was_unpacked(below: str) -> None:
    assert matching_maps(covid_folder() / below) == ["covid_quex"]
    assert set(map_splits(covid_folder() / below, "covid_quex")) == {"train", "val", "test"}


def test_each_split_has_all_three_kinds_of_patients() -> None:
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        found = read_maps(covid_folder(), wish=Wish(split=split))
        kinds = Counter(record.notes["kind"] for record in found.records)
        assert kinds == {"COVID-19": number, "Non-COVID": number, "Normal": number}


def test_infection_is_in_covid_19_alone_and_lungs_are_in_all() -> None:
    for labels, expected in ((None, {"COVID-19"}), ("lung masks", {"COVID-19", "Non-COVID", "Normal"})):
        found = read_maps(covid_folder(), format="covid_quex", wish=Wish(split="test", labels=labels))
        filled = set()
        for record in found.records:
            assert record.label_map is not None
            classes = found.coding.decode(read_raster(record.label_map), record.id)
            if classes.any():
                filled.add(record.notes["kind"])
        assert filled == expected
    assert found.coding.classes == ("background", "lung")


def test_pictures_without_infection_masks_are_counted(tmp_path: Path) -> None:
    shutil.copytree(covid_folder(), tmp_path / "c")
    for folder in (tmp_path / "c").rglob("Normal/infection masks"):
        shutil.rmtree(folder)
    found = read_maps(tmp_path / "c", wish=Wish(split="train"))
    assert (len(found.records), found.report.counts[NO_MASKS]) == (8, 4)


def test_other_folders_and_masks_are_errors(tmp_path: Path) -> None:
    assert matching_maps(tmp_path) == []
    with pytest.raises(UserError, match="no Train/COVID-19"):
        read_maps(tmp_path, format="covid_quex")
    with pytest.raises(UserError, match="no masks called"):
        read_maps(covid_folder(), format="covid_quex", wish=Wish(split="train", labels="heart masks"))
    with pytest.raises(UserError, match="several splits"):
        read_maps(covid_folder(), format="covid_quex")
