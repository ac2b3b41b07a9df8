"""What lies at a path is told by its content, and two answers are a question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.cli.evaluate import on_other_data
from vistruct.cli.show import data_of
from vistruct.config import Eval
from vistruct.data.formats.detect import family_of, splits_of
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.vitp import loveda
from vistruct.samples import made_classes, made_maps, made_scenes, made_volumes, trees
from vistruct.windows.tiles import Tiles


def test_each_family_is_told() -> None:
    assert (family_of(trees().test).kind, family_of(made_scenes.dota_folder()).kind) == ("boxes", "boxes")
    found = family_of(made_maps.whu_folder())
    assert (found.kind, found.format) == ("maps", "change_folders")
    assert splits_of(found.path, found.format) == ("test", "train", "val")
    found = family_of(made_volumes.amos_folder())
    assert (found.kind, found.format, splits_of(found.path, found.format)) == ("volumes", "amos2022", ("train", "val"))
    found = family_of(made_classes.resisc45_folder())
    assert (found.kind, found.format) == ("image_classes", "list")
    assert splits_of(found.path, found.format) == ("train", "valid")


def test_boxes_and_masks_in_one_folder_are_a_question(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / "a.png")
    assert family_of(tmp_path).kind == "maps"
    coco = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": [], "categories": []}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"several kinds of data are here: boxes \(coco\), maps \(mask_folders\)"):
        family_of(tmp_path)
    assert family_of(tmp_path, "mask_folders").kind == "maps"


def test_settings_in_a_json_beside_masks_are_no_annotations(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "meta.json").write_text('{"author": "somebody"}')
    assert family_of(tmp_path).kind == "maps"


def test_show_draws_label_maps_in_windows_where_asked() -> None:
    config = data_of(made_maps.loveda_folder(), tile=32, split="val")
    assert isinstance(config, MapDataConfig)
    assert (config.format, config.split, config.tiles) == ("loveda", "val", Tiles(size=32, overlap=0))
    assert len(config.build()) == 8


def test_a_run_of_label_maps_is_measured_on_others_whole_and_with_its_own_settings() -> None:
    run = loveda.tiny()
    own = MapDataConfig(root=made_maps.loveda_folder(), format="loveda", split="val", tiles=Tiles(size=32, overlap=0))
    own = own.model_copy(update={"fraction": 0.5, "images": "nowhere"})
    run = run.model_copy(update={"evals": {"val": Eval(data=own, metric=PixelsConfig())}})
    other = made_maps.loveda_folder() / "Val"
    ((name, one),) = on_other_data(run, other, ("pixels",))
    assert name == "Val"
    assert one.data == MapDataConfig(root=other, format="loveda")
    assert one.metric == PixelsConfig()
    with pytest.raises(UserError, match="the run was trained on label maps"):
        on_other_data(run, _classes(), ())


def _classes() -> Path:
    def write(folder: Path) -> None:
        for number, kind in enumerate(("cat", "dog")):
            (folder / kind).mkdir()
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(folder / kind / "0.png")

    return made_scenes.kept_by_content(write)
