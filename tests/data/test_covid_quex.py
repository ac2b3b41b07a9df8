"""COVID-QU-Ex as its archive unpacks it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from vistruct.data.formats.detect import matching, splits_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.maps.covid_quex import NO_MASKS
from vistruct.data.formats.read import read
from vistruct.errors import UserError
from vistruct.files.rasters import read_raster
from vistruct.samples.made_volumes import covid_folder


@pytest.mark.parametrize(
    "below", [".", "Infection Segmentation Data", "Infection Segmentation Data/Infection Segmentation Data"]
)
def test_it_is_found_wherever_the_archive_was_unpacked(below: str) -> None:
    assert matching(covid_folder() / below, "maps") == ["covid_quex"]
    assert set(splits_of(covid_folder() / below, "covid_quex")) == {"train", "val", "test"}


def test_each_split_has_all_three_kinds_of_patients() -> None:
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        found, _ = read(covid_folder(), "maps", ask=Ask(split=split))
        kinds = Counter(record.notes["kind"] for record in found.records)
        assert kinds == {"COVID-19": number, "Non-COVID": number, "Normal": number}


def test_infection_is_in_covid_19_alone_and_lungs_are_in_all() -> None:
    for labels, expected in ((None, {"COVID-19"}), ("lung masks", {"COVID-19", "Non-COVID", "Normal"})):
        found, _ = read(covid_folder(), "maps", format="covid_quex", ask=Ask(split="test", labels=labels))
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
    found, report = read(tmp_path / "c", "maps", ask=Ask(split="train"))
    assert (len(found.records), report.counts[NO_MASKS]) == (8, 4)


def test_other_folders_and_masks_are_errors(tmp_path: Path) -> None:
    assert matching(tmp_path, "maps") == []
    with pytest.raises(UserError, match="no Train/COVID-19"):
        read(tmp_path, "maps", format="covid_quex")
    with pytest.raises(UserError, match="no masks called"):
        read(covid_folder(), "maps", format="covid_quex", ask=Ask(split="train", labels="heart masks"))
    with pytest.raises(UserError, match="several splits"):
        read(covid_folder(), "maps", format="covid_quex")
