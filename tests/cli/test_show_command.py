"""`vistruct show` draws every kind of data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from vistruct.cli import show
from vistruct.cli.main import main
from vistruct.contracts import DataInfo, Record, Sample
from vistruct.pictures import samples as pictures


class Data:
    """Four samples of three classes with `num_images` images each; of volumes two cases of two slices."""

    def __init__(self, num_images: int = 1, channels: int = 3, is_volume: bool = False, **fields: object) -> None:
        self.num_images, self.channels, self.fields = num_images, channels, fields
        self.info = DataInfo(class_names=("background", "a", "b"), channels=channels)
        self.records = [
            Record(
                id=f"s{i}", images=(), image_id=f"case {i // 2}" if is_volume else "", slice=i if is_volume else None
            )
            for i in range(4)
        ]

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, seed: int) -> Sample:
        record = self.records[index]
        images = [torch.zeros(self.channels, 8, 10, dtype=torch.uint8)] * self.num_images
        return Sample(id=record.id, image_id=record.image_id, seed=seed, images=images, **self.fields)  # ty: ignore


MAP = {"label_map": torch.ones(8, 10, dtype=torch.int16)}


def shown(monkeypatch: pytest.MonkeyPatch, data: Data, tmp_path: Path, *args: str) -> Image.Image:
    monkeypatch.setattr(show, "data_of", lambda *_, **__: SimpleNamespace(build=lambda: data))
    with pytest.raises(SystemExit) as caught:
        main(["show", "data", "--out", str(tmp_path / "new" / "x.png"), *args])
    assert not caught.value.code
    return Image.open(tmp_path / "new" / "x.png")


@pytest.mark.parametrize(
    ("data", "across"),
    [
        (Data(), 3),
        (Data(channels=5, **MAP), 3),
        (Data(image_labels=(1,)), 3),
        (Data(num_images=2, **MAP), 1),
        (Data(num_images=2), 1),
    ],
    ids=["boxes", "maps of five bands", "classes", "pairs", "pairs without labels"],
)
def test_samples_stand_side_by_side_and_pairs_in_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Data, across: int
) -> None:
    picture = shown(monkeypatch, data, tmp_path)
    if across == 3:
        assert picture.width == 3 * (480 + 12) + 12
    else:
        assert picture.height > 4 * 350  # four rows


def test_of_volumes_the_case_of_the_first_sample_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = []
    real = pictures.draw_case
    monkeypatch.setattr(
        pictures, "draw_case", lambda *values, **named: cases.append(values[1]) or real(*values, **named)
    )
    data = Data(is_volume=True, **MAP)
    shown(monkeypatch, data, tmp_path)
    assert "slices of case 0, one of 2 volumes" in capsys.readouterr().err
    shown(monkeypatch, data, tmp_path, "--start", "3")
    assert cases == ["case 0", "case 1"]
