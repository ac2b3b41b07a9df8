"""Recipes by name; each is a module with `recipe(...) -> Run` and `tiny() -> Run`."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from types import ModuleType

from vistruct.errors import UserError, closest

RECIPES = {
    "detect": "vistruct.recipes.detect",
    "oriented": "vistruct.recipes.oriented",
    "segment": "vistruct.recipes.segment",
    "panoptic": "vistruct.recipes.panoptic",
    "change": "vistruct.recipes.change",
    "classify": "vistruct.recipes.classify",
    "caption": "vistruct.recipes.caption",
    "ocr": "vistruct.recipes.ocr",
    "identify": "vistruct.recipes.identify",
    "joint": "vistruct.recipes.joint",
    "labels": "vistruct.recipes.labels",
    "masked": "vistruct.recipes.masked",
    "contrast": "vistruct.recipes.contrast",
    "distill": "vistruct.recipes.distill",
    "self_distill": "vistruct.recipes.self_distill",
    "clip.zero_shot": "vistruct.recipes.clip.zero_shot",
    "clip.match": "vistruct.recipes.clip.match",
    "clip.regions": "vistruct.recipes.clip.regions",
    "vitp.pretrain": "vistruct.recipes.vitp.pretrain",
    "vitp.remote_sensing": "vistruct.recipes.vitp.remote_sensing",
    "vitp.medical": "vistruct.recipes.vitp.medical",
    "vitp.general": "vistruct.recipes.vitp.general",
    "vitp.dior": "vistruct.recipes.vitp.dior",
    "vitp.dior_r": "vistruct.recipes.vitp.dior_r",
    "vitp.dota_v2": "vistruct.recipes.vitp.dota_v2",
    "vitp.rsar": "vistruct.recipes.vitp.rsar",
    "vitp.sardet100k": "vistruct.recipes.vitp.sardet100k",
    "vitp.ssdd": "vistruct.recipes.vitp.ssdd",
    "vitp.isaid": "vistruct.recipes.vitp.isaid",
    "vitp.loveda": "vistruct.recipes.vitp.loveda",
    "vitp.uavid": "vistruct.recipes.vitp.uavid",
    "vitp.svcd": "vistruct.recipes.vitp.svcd",
    "vitp.whu_cd": "vistruct.recipes.vitp.whu_cd",
    "vitp.levir_cd": "vistruct.recipes.vitp.levir_cd",
    "vitp.s2looking": "vistruct.recipes.vitp.s2looking",
    "vitp.amos2022": "vistruct.recipes.vitp.amos2022",
    "vitp.brats2021": "vistruct.recipes.vitp.brats2021",
    "vitp.covid_quex": "vistruct.recipes.vitp.covid_quex",
    "vtplug.align": "vistruct.recipes.vtplug.align",
    "vtplug.tune": "vistruct.recipes.vtplug.tune",
    "vtplug.decoders": "vistruct.recipes.vtplug.decoders",
    "vtplug.keypoints": "vistruct.recipes.vtplug.keypoints",
    "mtp.pretrain": "vistruct.recipes.mtp.pretrain",
    "mtp.eurosat": "vistruct.recipes.mtp.eurosat",
    "mtp.resisc45": "vistruct.recipes.mtp.resisc45",
    "mtp.xview": "vistruct.recipes.mtp.xview",
    "mtp.dior": "vistruct.recipes.mtp.dior",
    "mtp.dior_r": "vistruct.recipes.mtp.dior_r",
    "mtp.fair1m_v2": "vistruct.recipes.mtp.fair1m_v2",
    "mtp.dota_v1": "vistruct.recipes.mtp.dota_v1",
    "mtp.dota_v1_5": "vistruct.recipes.mtp.dota_v1_5",
    "mtp.dota_v2": "vistruct.recipes.mtp.dota_v2",
    "mtp.spacenet_v1": "vistruct.recipes.mtp.spacenet_v1",
    "mtp.loveda": "vistruct.recipes.mtp.loveda",
    "mtp.oscd": "vistruct.recipes.mtp.oscd",
    "mtp.whu_cd": "vistruct.recipes.mtp.whu_cd",
    "mtp.levir_cd": "vistruct.recipes.mtp.levir_cd",
    "mtp.svcd": "vistruct.recipes.mtp.svcd",
    "visft.detect": "vistruct.recipes.visft.detect",
    "visft.segment": "vistruct.recipes.visft.segment",
    "visft.caption": "vistruct.recipes.visft.caption",
    "visft.joint": "vistruct.recipes.visft.joint",
}


def find(name: str) -> ModuleType:
    """The module of a recipe: one of these, or any other by the name that Python imports it by, `my_parts.recipe`.

    Raises:
        UserError: no recipe has this name.
    """
    if name in RECIPES:
        return importlib.import_module(RECIPES[name])
    package = name.partition(".")[0]
    if "." in name and package.isidentifier() and importlib.util.find_spec(package) is not None:
        with suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            if {"recipe", "tiny"} <= vars(module).keys():
                return module
            raise UserError("a recipe is a module with recipe() and tiny()", where=name, fix="name such a module")
    raise UserError(f"no recipe {name!r}", fix=closest(name, RECIPES))
