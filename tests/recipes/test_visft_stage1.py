"""The first stages of ViSFT: published settings, any backbone, and what is asked where none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vistruct.backbones.eva_vit import EVA02_E, EVA_G
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import AdamW, Run, Trainable, read_run, run_to_yaml, with_values
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.small import small_vit
from vistruct.recipes.visft import detect, segment
from vistruct.recipes.visft.parts import CLIP_MEAN
from vistruct.samples.made_scenes import coco_folder, dota_folder
from vistruct.tasks.pixels import IMAGENET_MEAN
from vistruct.transforms.sizing import ShortSide


@pytest.fixture(scope="module")
def scenes() -> dict[str, Path]:
    folder = coco_folder(("plane", "ship"), "annotations", "{split}", masks=True) / "annotations"
    weights = folder / "weights.pth"  # which nobody reads
    weights.touch()
    return {"data": folder / "train.json", "val": folder / "test.json", "backbone": weights}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone directory of ours, of a backbone that is none of EVA's."""
    place = tmp_path_factory.mktemp("start")
    run = with_values(detect.tiny(), task=_on(detect.tiny(), small_vit(stem="conv")), batch=2)
    return train(run.model_copy(update={"steps": 2, "evals": {}}), place / "run") / "backbone"


def _on(run: Run, backbone: Any) -> Any:
    task: Any = run.only.task
    return task.model_copy(update={"backbone": backbone})


def test_published_settings(scenes: dict[str, Path]) -> None:
    for recipe, model in ((detect.recipe, "eva_g"), (segment.recipe, "eva02_e")):
        run = recipe(**scenes, model=model)
        assert run.optim == AdamW(lr=5e-5, weight_decay=1e-4, betas=(0.9, 0.999), eps=1e-8)
        assert (run.steps, run.only.batch, run.clip_norm) == (150_000, 8, 0.1)
        assert (run.schedule.shape, run.schedule.warmup_steps, run.schedule.final) == ("cosine", 2000, 0.0)
        assert run.trainable == (Trainable(pattern="backbone", mode="frozen"),)
        task: Any = run.only.task
        assert task.backbone == {"eva_g": EVA_G, "eva02_e": EVA02_E}[model]
        assert task.mean == IMAGENET_MEAN
        assert recipe(**scenes, model=model, normalise="clip").only.task.model_dump()["mean"] == CLIP_MEAN
        assert read_run_again(run) == run


def read_run_again(run: Run) -> Run:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(run_to_yaml(run))
        return read_run(file)


def test_published_sizes(scenes: dict[str, Path]) -> None:
    data: Any = detect.recipe(**scenes, model="eva_g").only.data
    assert data.augment.sizes == (480, 512, 544, 576, 608, 640, 672)
    assert (data.augment.longest, data.augment.min_kept, data.augment.hflip) == (672, 0, True)
    assert (data.augment.sized_crop.sizes, data.augment.sized_crop.sides) == ((400, 500, 600), (384, 600))
    assert data.augment.sized_crop.chance == 0.5
    measured: Any = detect.recipe(**scenes, model="eva_g").evals["val"].data
    assert measured.resize == ShortSide(short=800, longest=672)
    assert measured.augment is None
    run = segment.recipe(**scenes, model="eva_g")
    jitter: Any = run.only.data
    assert (jitter.augment.fit, jitter.augment.crop, jitter.augment.scale) == ((1024, 1024), (1024, 1024), (0.1, 2.0))
    assert (jitter.masks, jitter.augment.fill, jitter.augment.scale_draw) == ("soft", 128 / 255, "even")
    measured = run.evals["val"].data
    assert measured.resize == ShortSide(short=800, longest=1333, limited="down")


def test_published_parameters_of_the_detection_head(scenes: dict[str, Path]) -> None:
    task: Any = detect.recipe(**scenes, model="eva_g").only.task
    head = task.head.build(_specs(1408), 91)
    assert sum(one.numel() for one in head.parameters()) == 8_761_404 - 92 - 255 * 128  # class weights, other tasks


def _specs(width: int) -> Any:
    from vistruct.contracts import FeatureSpec

    return (FeatureSpec(channels=width, stride=14),)


def test_the_same_batch_fits_any_image_where_maps_are_kept(scenes: dict[str, Path]) -> None:
    for recipe, size, expected in ((detect.recipe, 672, 672), (segment.recipe, 1024, 1036)):
        run = recipe(**scenes, model="eva_g", augment=False, cache="maps")
        task: Any = run.only.task
        assert task.size_divisor == expected
        assert recipe(**scenes, model="eva_g").only.task.model_dump()["size_divisor"] is None
        data, measured = (vars(one) for one in (run.only.data, run.evals["val"].data))
        assert data["augment"] is None
        assert data["resize"] == measured["resize"]
        assert size <= expected


def test_any_backbone_of_ours_and_any_format(backbone: Path, tmp_path: Path) -> None:
    run = detect.recipe(data=dota_folder(), split="train", val_split="val", backbone=backbone, size=64, steps=2)
    task: Any = run.only.task
    assert isinstance(task.backbone, InternVitConfig)
    tiny: Any = detect.tiny().only.task
    run = with_values(run, task=task.model_copy(update={"head": tiny.head}), batch=2, workers=0)
    place = train(run, tmp_path / "out")
    before, after = (read_tensors(one / "backbone.safetensors") for one in (backbone, place / "backbone"))
    assert all((value == after[name]).all() for name, value in before.items())


@pytest.mark.parametrize("name", ["visft.detect", "visft.segment"])
def test_tiny_runs_to_its_end_and_is_shown_what_it_learned(name: str, tmp_path: Path) -> None:
    run = find(name).tiny()
    place = train(run.model_copy(update={"steps": 2}), tmp_path / "out")
    loaded = load_model(place)
    assert loaded is not None
    assert read_run(place / "run.yaml").recipe == name


def test_what_is_not_said_is_asked(scenes: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is named") as caught:
        detect.recipe(data=scenes["data"])
    assert "--model eva_g --backbone" in caught.value.fix
    file = tmp_path / "weights.pth"
    file.touch()
    with pytest.raises(UserError, match="of which backbone is not said"):
        segment.recipe(**scenes)
    with pytest.raises(UserError, match="no weights of it are named"):
        segment.recipe(data=scenes["data"], model="eva_g")
    with pytest.raises(UserError, match="both name a backbone"):
        segment.recipe(**scenes, model="eva_g", timm="resnet18")
    assert detect.recipe(**scenes, model="eva_g", start=file).only.task.model_dump()["backbone"]["margin"] == "crop"


def test_a_model_without_evaluation_is_shown_images_as_large_as_in_training(scenes: dict[str, Path]) -> None:
    shown = {}
    for recipe in (detect.recipe, segment.recipe):
        data: Any = recipe(data=scenes["data"], backbone=scenes["backbone"], model="eva_g").only.data
        shown[recipe.__module__.split(".")[-1]] = data.build().info.input["resize"]
    assert shown["detect"] == {"short": 672, "longest": 672, "limited": "nearest"}
    assert (shown["segment"]["height"], shown["segment"]["width"]) == (1024, 1024)
