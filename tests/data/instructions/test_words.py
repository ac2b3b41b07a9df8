"""Plurals and articles, against a hand-written list."""

from __future__ import annotations

import pytest

from vistruct.data.instructions.words import article, plural, several


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("tree", "trees"), ("person", "people"), ("aircraft", "aircraft"), ("bus", "buses"), ("box", "boxes"),
        ("city", "cities"), ("bay", "bays"), ("church", "churches"), ("policeman", "policemen"),
        ("human", "humans"), ("Woman", "Women"), ("small leaf", "small leaves"), ("trees", "trees"),
        ("traffic light", "traffic lights"), ("vehicle (small)", "vehicles (small)"), ("glass", "glasses"),
        ("large_ship", "large_ships"), ("metastasis", "metastases"), ("sheep", "sheep"), ("Mouse", "Mice"),
        ("y", "ys"), ("", ""),
    ],
)  # fmt: skip
def test_plural(name, many):
    assert plural(name) == many


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tree", "a tree"), ("aircraft", "an aircraft"), ("unit", "a unit"), ("uninhabited hut", "an uninhabited hut"),
        ("hour glass", "an hour glass"), ("X-ray", "an X-ray"), ("SUV", "an SUV"), ("UAV", "a UAV"),
        ("umbrella", "an umbrella"), ("trees", "trees"), ("bus", "a bus"), ("one-way sign", "a one-way sign"),
    ],
)  # fmt: skip
def test_article(name, expected):
    assert article(name) == expected


def test_numbers_of_things():
    assert [several(n, "person") for n in (0, 1, 2)] == ["no people", "1 person", "2 people"]
