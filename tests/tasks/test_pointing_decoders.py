"""Every decoder behind a language model: several units in one answer, split in any way, asked for what was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from toy_pointing import BOX, LAYERS, pointing, squares

from vistruct.backbones.sam_vit import SamVitConfig
from vistruct.contracts import Sample, Turn
from vistruct.heads.query_depth import QueryDepthConfig
from vistruct.heads.query_keypoint import QueryKeypointConfig
from vistruct.heads.query_mask import QueryMaskConfig
from vistruct.heads.query_point import QueryPointConfig
from vistruct.heads.sam_mask import SamMaskConfig
from vistruct.tasks import instruct
from vistruct.tasks.pointing import PointingConfig
from vistruct.vlm.grammar import write_answer

UNITS = ("box", "mask", "keypoint", "point", "depth", "sam")
CONFIG = PointingConfig(
    decoders={
        "box": BOX,
        "mask": QueryMaskConfig(layers=LAYERS),
        "keypoint": QueryKeypointConfig(points=4, box=BOX, layers=LAYERS),
        "point": QueryPointConfig(layers=LAYERS),
        "depth": QueryDepthConfig(layers=LAYERS),
        "sam": SamMaskConfig(level=0, width=32, heads=2, hidden=32, quality_hidden=8),
    },
    tower=SamVitConfig(
        width=16, depth=1, heads=2, hidden=16, channels=32, patch=8, window=3, global_blocks=(0,), image_size=56
    ),
)


def everything(name: str, seed: int, trees: int) -> Sample:
    """One answer with all units, and one with a box alone."""
    sample = squares(name, seed, trees)
    corners = sample.objects.outlines
    points = torch.cat([corners, torch.full((trees, 4, 1), 2.0)], dim=2)
    rows = tuple(range(trees))
    text = "".join(f"<Phrase>trees</Phrase><object> {unit} " for unit in UNITS)
    turns = (
        Turn(role="user", text="<image>\nfind all trees ?"),
        Turn(role="assistant", text=text, points=(rows,) * len(UNITS), units=UNITS),
    )
    objects = replace(sample.objects, keypoints=points, masks=sample.objects.masks.float() * 0.5 + 0.25)
    return replace(sample, objects=objects, turns=turns)


def test_a_step_of_all_units_may_be_split() -> None:
    task: Any = pointing(CONFIG)
    samples = [everything("a", 1, 2), squares("b", 2, 3), everything("c", 3, 1)]
    whole = task.collator(samples)
    units = task.units(whole)
    assert set(units) == set(task.traits.terms)
    assert {name.partition(".")[0] for name in units} == {"answers", *UNITS}

    def gradient(batches: list[Any]) -> dict[str, torch.Tensor]:
        task.zero_grad()
        for batch in batches:
            sum(term / units[name] for name, term in task(batch).terms.items()).backward()
        return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}

    parts = gradient([task.collator([one]) for one in samples])
    for name, grad in gradient([whole]).items():
        torch.testing.assert_close(parts[name], grad, atol=2e-4, rtol=5e-3, msg=name)
    for unit in UNITS:
        assert any(name.startswith(f"pointing.decoders.{unit}.") and grad.any() for name, grad in parts.items()), unit


def test_all_that_was_written_is_drawn(monkeypatch: Any) -> None:
    task: Any = pointing(CONFIG).eval()
    samples = [everything("a", 1, 2), everything("c", 3, 1)]
    asked = task.traits.predict_collator(samples)

    def says(_: Any, rows: Any, most: int, listen: Any = None) -> list[list[int]]:
        return [task.tokenizer.encode(write_answer(turn, task.config.pointing.grammar).text) for turn in asked.answers]

    monkeypatch.setattr(instruct, "answer_tokens", says)
    for one, trees in zip(task.predict(asked), (2, 1), strict=True):
        found = one.found
        assert [phrase.unit for phrase in found.phrases] == list(UNITS)
        assert len(found.objects) == trees * len(UNITS)
        assert ((found.objects.scores >= 0) & (found.objects.scores <= 1)).all()
        low, high = found.objects.boxes_xyxy.split(2, dim=1)
        assert (low >= 0).all()
        assert (high <= 56).all()
        assert (high >= low).all()
