"""All labels are looked at before training: what counts nowhere, or is coded otherwise in a few files, is said."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistruct.contracts import Record
from vistruct.data.checks.check import check
from vistruct.data.checks.counted import check_counted, is_named
from vistruct.data.formats.maps.values import KEPT, look_at, values_of
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding

SQUARE = np.zeros((6, 8), np.uint8)
SQUARE[1:4, 2:5] = 1


def masks(root: Path, labels: Sequence[np.ndarray], *, pair: bool = False, suffix: str = ".png") -> Path:
    folders = ("A", "B", "label") if pair else ("images", "masks")
    rng = np.random.default_rng(0)
    for number, label in enumerate(labels):
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            pixels = label if folder == folders[-1] else rng.integers(0, 255, (*label.shape[:2], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}{suffix if folder == folders[-1] else '.png'}")
    return root


def smeared(mask: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.kron(mask, np.full((9, 9), 255, np.uint8))).save(file, "JPEG", quality=60)
    return np.array(Image.open(file))


def refuse(**config: Any) -> None:
    part = MapDataConfig(**config)
    check_counted({"main": part.build()}, {}, {"main": is_named(part)})


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_values_are_counted_as_numpy_counts_them(kind: type) -> None:
    raster = np.random.default_rng(1).integers(0, 200, (301, 70)).astype(kind)
    values, counts = np.unique(raster, return_counts=True)
    assert values_of(raster).counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
    colours = np.stack([raster % 3, raster % 5, raster % 7], axis=-1).astype(np.uint8)
    kinds, counts = np.unique(colours.reshape(-1, 3), axis=0, return_counts=True)
    found = values_of(colours).colours
    assert found == {tuple(kind.tolist()): int(count) for kind, count in zip(kinds, counts, strict=True)}
    assert values_of(np.stack([raster.astype(np.uint8)] * 3, axis=-1)).numbers == values_of(raster).counts


def test_what_was_found_is_kept_and_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    masks(tmp_path, [SQUARE])
    file, kept = tmp_path / "masks" / "0.png", tmp_path / "index"
    record = Record(id="0", images=(tmp_path / "images" / "0.png",), label_map=file)
    assert look_at([record], kept)[file].counts == {0: 39, 1: 9}
    ((path, *_, values),) = json.loads((kept / KEPT).read_text())
    assert path == str(file)
    assert values == [[0, 39], [1, 9]]
    Image.fromarray(SQUARE * 255).resize((16, 6), Image.Resampling.NEAREST).save(file)
    assert look_at([record], kept)[file].counts == {0: 78, 255: 18}
    (kept / KEPT).write_text("{")
    assert look_at([record], kept)[file].counts == {0: 78, 255: 18}


def test_names_for_masks_of_0_and_255_make_255_the_second_class(tmp_path: Path) -> None:
    dataset = MapDataConfig(root=masks(tmp_path, [SQUARE * 255]), classes=("background", "nucleus")).build()
    assert dataset.class_pixels == {0: 39, 1: 9}


def test_a_class_that_no_pixel_is_of_is_refused_before_the_first_step(tmp_path: Path) -> None:
    three = {"classes": ("background", "cell", "nucleus")}
    edges = np.where(SQUARE[::-1] & (1 - SQUARE), 255, SQUARE).astype(np.uint8)
    root = masks(tmp_path / "a", [SQUARE, edges])
    with pytest.raises(UserError, match=r"no pixel of 'nucleus' in all label maps; \d of 96 pixels do not count"):
        refuse(root=root, **three)
    said = Coding(classes=("background", "nucleus"), ignored=(255,))
    root = masks(tmp_path / "b", [SQUARE * 255])
    with pytest.raises(UserError, match="nothing but 'background' in all label maps; 9 of 48 pixels do not count"):
        refuse(root=root, coding=said)
    assert not check(masks(tmp_path / "c", [SQUARE * 0])).ok


def test_a_few_masks_of_another_coding_are_named(tmp_path: Path) -> None:
    root = masks(tmp_path, [SQUARE] * 5 + [SQUARE * 255] * 2)
    with pytest.raises(UserError, match="coded in two ways: 2 of 7 have 0 and 255, the others 0, 1") as caught:
        MapDataConfig(root=root, classes=("background", "nucleus")).build()
    assert caught.value.where.endswith("5.png")
    assert "--classes background,nucleus --values 0,1 --ignored 255" in caught.value.fix
    edges = SQUARE.copy()
    edges[0] = 255  # beside the class: pixels that do not count, as VOC draws them
    both = masks(tmp_path / "voc", [SQUARE, edges, np.where(SQUARE, 0, edges)])
    assert MapDataConfig(root=both, classes=("background", "nucleus")).build().class_pixels is not None


@pytest.mark.parametrize(
    ("values", "said"), [((1, 2), "1,2"), ((0, 2), "0,2"), ((0, 100), "0,100"), ((1, 255), "1,255"), ((128, 255), "")]
)
def test_masks_of_change_in_an_unknown_coding_are_a_question(
    tmp_path: Path, values: tuple[int, int], said: str
) -> None:
    root = masks(tmp_path, [np.array(values, np.uint8)[SQUARE]], pair=True)
    with pytest.raises(UserError, match="masks of change in a coding that is not known") as caught:
        MapDataConfig(root=root).build()
    assert f"--values {said}" in caught.value.fix
    result = check(root)
    assert not result.ok
    assert any("coding that is not known" in problem.what for problem in result.problems)


@pytest.mark.parametrize("high", [1, 200, 255])
def test_masks_of_change_that_everybody_reads_alike_are_read(tmp_path: Path, high: int) -> None:
    dataset = MapDataConfig(root=masks(tmp_path, [SQUARE * high, SQUARE * 0], pair=True)).build()
    assert dataset.class_pixels == {0: 87, 1: 9}


def test_masks_smeared_by_a_jpeg_are_answered_with_a_threshold(tmp_path: Path) -> None:
    lossy = smeared(SQUARE)
    assert len(np.unique(lossy)) > 8
    root = masks(tmp_path / "masks", [lossy])
    for classes, told in ((None, "--classes background,foreground"), (("ground", "roof"), "--threshold 128:")):
        with pytest.raises(UserError, match="smeared as a JPEG smears them") as caught:
            MapDataConfig(root=root, classes=classes).build()
        assert caught.value.fix.startswith("--threshold 128")
        assert told in caught.value.fix
    dataset = MapDataConfig(root=masks(tmp_path / "pairs", [lossy], pair=True)).build()
    assert dataset.class_pixels == {0: int((lossy < 128).sum()), 1: int((lossy >= 128).sum())}
