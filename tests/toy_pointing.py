"""A vision-language model of a few thousand weights that points, and conversations about made squares."""

from __future__ import annotations

import copy
from typing import Any

import torch
from toy_vlm import QWEN, VIT, tokenizer

from vistruct.contracts import Objects, Sample, Turn
from vistruct.heads.query_box import QueryBoxConfig
from vistruct.heads.query_layers import QueryLayersConfig
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.tasks.pointing import PointingConfig
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.tiling import Tiling

LAYERS = QueryLayersConfig(width=32, layers=1, heads=2, hidden=32, dropout=0.0)
BOX = QueryBoxConfig(layers=LAYERS)
POINTING = PointingConfig(decoders={"box": BOX})


def pointing(config: PointingConfig = POINTING, vrl: Any = "off", **settings: Any) -> Any:
    """An Instruct that points, with random weights, the same every time."""
    torch.manual_seed(0)
    words = copy.deepcopy(tokenizer())
    words.add_tokens(list(config.added_tokens), special_tokens=True)
    language = LanguageConfig(options=QWEN | {"vocab_size": len(words)})
    settings = {"backbone": VIT, "tiling": Tiling(size=56, max_tiles=1), "pointing": config} | settings
    return Instruct(InstructConfig(language=language, vrl=vrl, **settings), words)


def squares(name: str = "s", seed: int = 0, trees: int = 2, size: int = 56) -> Sample:
    """Dark squares on noise: where all are, what one of them is, and where one is."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(128, 256, (3, size, size), dtype=torch.uint8, generator=generator)
    corners = torch.randint(0, size - 16, (trees, 2), generator=generator)
    boxes = torch.cat([corners, corners + 12], dim=1).float()
    masks = torch.zeros(trees, size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        image[:, y0:y1, x0:x1] = 0
        mask[y0:y1, x0:x1] = True
    rows = tuple(range(trees))
    turns = (
        Turn(role="user", text="<image>\nfind all trees ?"),
        Turn(role="assistant", text="<Phrase>trees</Phrase><object>.", points=(rows,), units=("box",)),
        Turn(role="user", text="what is <region> ?", points=((0,),), prompts=("point",)),
        Turn(role="assistant", text="a tree"),
        Turn(role="user", text="and <region> ?", points=((trees - 1,),), prompts=("mask",)),
        Turn(role="assistant", text="<Phrase>a tree</Phrase><object>", points=((trees - 1,),), units=("box",)),
    )
    objects = Objects(labels=torch.full((trees,), -1), boxes_xyxy=boxes, masks=masks)
    return Sample(id=name, image_id=name, seed=seed, images=[image], objects=objects, turns=turns)
