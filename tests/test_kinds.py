"""Parts are found by role and kind: those of the package by a short name, any other by `module:Class`."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter
from toy_pixels import CellsConfig, DotsConfig

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import Part, run_from_dict, run_to_yaml
from vistruct.errors import UserError
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.linear import LinearConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.kinds import (
    KINDS,
    BackbonePart,
    BoxHeadPart,
    ClassHeadPart,
    MetricPart,
    NeckPart,
    PixelHeadPart,
    Role,
    all_kinds,
    part_class,
)
from vistruct.necks.fpn import FpnConfig
from vistruct.recipes import detect
from vistruct.recipes.segment import SegmentConfig
from vistruct.settings import with_settings


class NamelessConfig(Part):
    def build(self) -> None: ...


class MisnamedConfig(Part):
    kind: Literal["elsewhere:Misnamed"] = "elsewhere:Misnamed"

    def build(self) -> None: ...


class UnbuiltConfig(Part):
    kind: Literal["test_kinds:UnbuiltConfig"] = "test_kinds:UnbuiltConfig"


class OtherFcosConfig(FcosConfig):
    """Would come back from a run file as the package's own."""


def read(role: Any, value: Any) -> Any:
    return TypeAdapter(role).validate_python(value)


def refusal(role: Any, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(role, value)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize("role", KINDS)
def test_every_part_of_the_package_is_there_and_takes_what_its_role_gives(role: Role) -> None:
    given = {tuple(inspect.signature(part_class(kind, role).build).parameters)[1:] for kind in KINDS[role]}  # ty: ignore
    assert len(given) == 1
    for kind in KINDS[role]:
        assert kind in part_class(kind, role).model_fields["kind"].annotation.__args__


def test_the_list_of_all_parts_is_importable_and_complete() -> None:
    places = [place.split(":") for place in all_kinds()]
    assert all(issubclass(getattr(importlib.import_module(module), name), Part) for module, name in places)
    assert {"FcosConfig", "InternVitConfig", "DetectConfig", "AnswersConfig"} <= {name for _, name in places}


def test_a_part_in_the_place_of_another_is_refused_with_those_that_belong_there() -> None:
    said = refusal(BackbonePart, {"kind": "fcos"})
    assert "'fcos' is a box head, where a backbone belongs" in said
    assert "intern_vit, sam_vit, timm, vit_adapter" in said
    for role, wrong in (
        (BackbonePart, FcosConfig()),
        (NeckPart, {"kind": "intern_vit"}),
        (BoxHeadPart, LinearConfig()),
        (PixelHeadPart, FcosConfig()),
        (PixelHeadPart, PooledConfig()),
        (ClassHeadPart, {"kind": "unet"}),
        (MetricPart, FpnConfig()),
    ):
        assert " where a " in refusal(role, wrong)


def test_an_unknown_kind_names_the_closest_of_its_role() -> None:
    assert "did you mean 'fcos'?" in refusal(BoxHeadPart, {"kind": "fcso"})
    assert "did you mean 'intern_vit'?" in refusal(BackbonePart, {"kind": "intern-vit"})
    assert "module:Class" in refusal(NeckPart, {})
    with pytest.raises(UserError, match="'timm' is a backbone, where a neck belongs"):
        with_settings(detect.tiny(), ["task.neck={kind: timm, name: resnet18}"])


def test_a_part_from_outside_is_found_by_module_and_class_and_comes_back_from_a_run_file() -> None:
    assert read(BackbonePart, {"kind": "toy_pixels:CellsConfig", "width": 3}) == CellsConfig(width=3)
    assert read(PixelHeadPart, DotsConfig()) == DotsConfig()
    run = detect.tiny()
    task = SegmentConfig(backbone=CellsConfig(), head=DotsConfig())
    run = run.model_copy(update={"task": task})
    import yaml

    assert run_from_dict(yaml.safe_load(run_to_yaml(run))) == run
    adapter = VitAdapterConfig().model_dump(mode="json")
    assert read(BackbonePart, adapter | {"vit": {"kind": "toy_pixels:CellsConfig"}}).vit == CellsConfig()


@pytest.mark.parametrize(
    ("role", "kind", "why"),
    [
        (BackbonePart, "no_such_module_here:Cells", "no module 'no_such_module_here'"),
        (BackbonePart, "toy_pixels:CellConfig", "did you mean 'CellsConfig'?"),
        (BackbonePart, "toy_pixels:Cells", "no vistruct.config.Part"),
        (BackbonePart, "os:system", "no vistruct.config.Part"),
        (BackbonePart, "test_kinds:NamelessConfig", 'kind: Literal["test_kinds:NamelessConfig"]'),
        (BackbonePart, "test_kinds:MisnamedConfig", "'elsewhere:Misnamed'"),
        (BackbonePart, "test_kinds:UnbuiltConfig", "has no build, a backbone with ()"),
        (BackbonePart, "toy_pixels:DotsConfig", "is built with (specs, num_classes), a backbone with ()"),
        (NeckPart, "toy_pixels:CellsConfig", "def build(self, specs)"),
    ],
)
def test_what_from_outside_does_not_fit_is_refused(role: Any, kind: str, why: str) -> None:
    assert why in refusal(role, {"kind": kind})


def test_a_part_that_would_come_back_as_another_is_refused() -> None:
    assert "goes by 'fcos'" in refusal(BoxHeadPart, OtherFcosConfig())
    assert "None" in refusal(BackbonePart, NamelessConfig())


def test_what_a_part_lacks_itself_is_no_fault_of_the_run(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_there.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        part_class("half_there:Config", "backbone")


def test_reading_about_parts_does_not_load_torch() -> None:
    code = "import sys, vistruct.config, vistruct.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_default_part_is_a_part() -> None:
    assert VitAdapterConfig().vit == InternVitConfig(patch=16, image_size=1024, drop_path=0.1)
