"""A vision-language model of a few thousand weights that points, and conversations about made squares."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from toy_vlm import QWEN, VIT, tokenizer

from vistruct.config import MAIN, AdamW, Pack, Run, Stream
from vistruct.contracts import Objects, Sample, Turn
from vistruct.data.dataset import ChatDataConfig
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


def conversations(folder: Path) -> Path:
    """Six of these squares as a jsonl; of two more one draws nothing, and one has no image."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for seed in range(6):
        one = squares(f"s{seed}", seed, trees=1 + seed % 3)
        Image.fromarray(one.images[0].permute(1, 2, 0).numpy()).save(folder / f"{seed}.png")
        lines.append({"image": f"{seed}.png", "objects": {"boxes": one.objects.boxes_xyxy.tolist()}})
        lines[-1]["conversations"] = [_said(turn) for turn in one.turns[:4]]
    none = [_said(turn) for turn in squares().turns[2:4]]
    plain = [{"from": "human", "value": "is there a tree ?"}, {"from": "gpt", "value": "yes"}]
    lines += [lines[0] | {"conversations": none}, {"conversations": plain}]
    file = folder / "talk.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def _said(turn: Turn) -> dict[str, Any]:
    said = {"points": turn.points, "units": turn.units, "prompts": turn.prompts}
    who = "human" if turn.role == "user" else "gpt"
    return {"from": who, "value": turn.text} | {name: list(value) for name, value in said.items() if value}


def pointing_task(vrl: Any = "off", **settings: Any) -> InstructConfig:
    """As `pointing`, with a tokenizer that is trained on its conversations."""
    language = LanguageConfig(options=QWEN | {"vocab_size": 400}, vocab_size=330)
    settings = {"backbone": VIT, "tiling": Tiling(size=56, max_tiles=1), "pointing": POINTING} | settings
    return InstructConfig(language=language, vrl=vrl, **settings)


def pointing_run(folder: Path, task: InstructConfig | None = None, pack: Pack | None = None, **settings: Any) -> Run:
    """A run over `conversations`, of which a step takes two."""
    data = ChatDataConfig(jsonl=conversations(folder))
    stream = Stream(task=task or pointing_task(), data=data, batch=2, pack=pack)
    usual: dict[str, Any] = {
        "steps": 6,
        "workers": 0,
        "save_every": 2,
        "log_every": 1,
        "amp": "off",
        "optim": AdamW(lr=1e-3),
    }
    return Run(streams={MAIN: stream}, **({"optim": AdamW(lr=1e-3)} | usual | settings))
