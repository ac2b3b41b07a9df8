"""Activations that are found again instead of kept: the same gradients, and far less is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from toy_vlm import QWEN, VIT, assorted, gradients, tokenizer

from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.tiling import Tiling


def model(recompute: bool) -> Any:
    torch.manual_seed(0)
    vit = VIT.model_copy(update={"recompute": recompute, "drop_path": 0.3})
    language = LanguageConfig(options={**QWEN, "attention_dropout": 0.1}, vocab_size=340, recompute=recompute)
    config = InstructConfig(backbone=vit, language=language, vrl="paper", tiling=Tiling(size=56, max_tiles=4))
    return Instruct(config, tokenizer(340)).train()


def kept(task: Any, batch: Any) -> int:
    """Numbers that the forward pass keeps for the backward pass, parameters apart."""
    own, sizes = {p.data_ptr() for p in task.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = task(batch)
    del out
    return sum(sizes.values())


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_kept_activations(frozen):
    found = []
    for recompute in (False, True):
        task = model(recompute)
        for parameter in task.language.parameters() if frozen else ():
            parameter.requires_grad_(False)
        torch.manual_seed(3)
        found.append(gradients(task, [task.collator(assorted())]))
    assert found[0].keys() == found[1].keys()
    assert any(value.abs().max() > 0 for value in found[0].values())
    for name, value in found[0].items():
        assert_close(found[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_less_is_kept():
    batch = model(False).collator(assorted())
    assert kept(model(True), batch) < 0.5 * kept(model(False), batch)


def test_answers_are_the_same():
    said = []
    for recompute in (False, True):
        task = model(recompute).eval()
        said.append([one.answer for one in task.predict(task.traits.predict_collator(assorted()))])
    assert said[0] == said[1]
