"""What the three published pretraining recipes share: everything but the mix."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.config import Pack, Run, with_values
from vistruct.data.chat.mix import MixDataConfig
from vistruct.recipes.vitp import pretrain
from vistruct.recipes.vitp.mixes import Entry
from vistruct.samples.made_scenes import kept_by_content
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.tiling import Tiling


def recipe_for(name: str) -> Callable[..., Run]:
    """`vitp.pretrain` with the published settings, on a mix file: the recipe of this name."""

    def recipe(
        *,
        data: Path,  # mix file, in the published format
        root: Path | None = None,  # folder that relative paths in it start from; None: that of the file
        start: Path | None = None,  # folder of InternVL2.5-1B, in either public layout; None: random weights
        val: Path | None = None,  # conversations to measure on, never trained on; None: nothing is measured
        size: Literal["1b", "2b"] = "1b",  # only matters without `start`
        vrl: Literal["off", "paper", "published-code"] = "paper",
        fraction_of: Literal["random", "first-lines"] = "random",
        steps: int | None = None,  # None: 8000
        seed: int = 0,
    ) -> Run:
        """A backbone pretrained by answering about the images of a mix."""
        run = pretrain.recipe(data=data, root=root, start=start, val=val, size=size, vrl=vrl, steps=steps, seed=seed)
        mix = MixDataConfig(mix=data, root=root, fraction_of=fraction_of, seed=seed)
        return with_values(run, recipe=name, data=mix, save_every=500, keep=4)

    return recipe


def tiny(name: str, mix: Sequence[Entry]) -> Run:
    """A few steps on made-up pictures, in the true format: a mix of three files, each in a schema of its own."""
    folder = kept_by_content(lambda out: write_mix(out, mix))
    run = recipe_for(name)(data=folder / "mix.json", val=folder / "grounding.jsonl", steps=4)
    usual: Any = run.only.task
    task = usual.model_copy(
        update={
            "backbone": InternVitConfig(width=32, depth=2, heads=2, mlp_width=64, image_size=56, drop_path=0.1),
            "language": LanguageConfig(options=pretrain.qwen(32, 1, 2, 1, 64), vocab_size=400),
            "tiling": Tiling(size=56, max_tiles=4),
            "max_tokens": 512,
            "max_new_tokens": 8,
        }
    )
    small = {"task": task, "batch": 8, "pack": Pack(tokens=512), "log_every": 1, "workers": 0}
    return with_values(run, **small)


def write_mix(folder: Path, mix: Sequence[Entry]) -> None:
    """Pictures of bright spots with conversations about them, under the names of three of the mix's data sets."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    spots = [_picture(folder / "images" / f"{number}.png", rng) for number in range(6)]
    grounding = [
        {
            "image": f"images/{number}.png",
            "width": size[0],
            "height": size[1],
            "conversations": [
                {"from": "human", "value": "<image>\nDetect <ref>the largest spot</ref>"},
                {"from": "gpt", "value": f"<ref>the largest spot</ref><box>[{box}]</box>"},
                {"from": "human", "value": "How many spots are there?"},
                {"from": "gpt", "value": str(count)},
            ],
            "families": ["ground_one", "count"],
        }
        for number, (size, box, count) in enumerate(spots)
    ]
    captions = [
        {
            "image": [f"images/{number}.png", f"images/{number + 1}.png"],
            "conversations": [
                {"from": "human", "value": "<image>\n<image>\nWhich picture has more spots?"},
                {"from": "gpt", "value": "The first." if spots[number][2] > spots[number + 1][2] else "The second."},
            ],
        }
        for number in range(5)
    ]
    talk = [
        {
            "messages": [
                {"role": "system", "content": "Answer in one word."},
                {"role": "user", "content": f"What is {a} plus one?"},
                {"role": "assistant", "content": str(a + 1)},
            ]
        }
        for a in range(8)
    ]
    _lines(folder / "grounding.jsonl", grounding)
    (folder / "captions.json").write_text(json.dumps(captions))
    _lines(folder / "talk.jsonl", talk)
    (folder / "mix.json").write_text(
        json.dumps(
            {
                mix[0].name: {"root": "", "annotation": "grounding.jsonl", "repeat_time": 2, "length": 6},
                mix[1].name: {"root": "", "annotation": "captions.json", "repeat_time": 1, "max_dynamic_patch": 2},
                mix[2].name: {"root": "", "annotation": "talk.jsonl", "repeat_time": 0.5, "data_augment": True},
            },
            indent=2,
        )
    )


def _picture(path: Path, rng: np.random.Generator) -> tuple[tuple[int, int], list[int], int]:
    """Draw spots; the picture's (width, height), the largest spot's box in thousandths, and how many there are."""
    width, height = int(rng.integers(60, 160)), int(rng.integers(60, 160))
    image = Image.new("RGB", (width, height), (40, 40, 48))
    count, boxes = int(rng.integers(1, 5)), []
    for _ in range(count):
        radius = int(rng.integers(4, 14))
        x, y = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
        boxes.append((radius, [x - radius, y - radius, x + radius, y + radius]))
        ImageDraw.Draw(image).ellipse(boxes[-1][1], fill=(220, 220, 200))
    image.save(path)
    largest = max(boxes)[1]
    return (width, height), [round(1000 * v / s) for v, s in zip(largest, (width, height) * 2, strict=True)], count


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
