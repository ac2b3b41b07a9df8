"""The control: a truth that is of another image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vistruct.config import with_values
from vistruct.data.shuffled import REASON, with_shuffled_truth
from vistruct.engine.run import build
from vistruct.errors import UserError
from vistruct.recipes import detect
from vistruct.recipes.vitp import pretrain


def test_every_record_keeps_its_truth_and_is_shown_another(tmp_path) -> None:
    whole = detect.tiny().only.data.model_copy(update={"fraction": 1.0, "augment": None}).build(None)
    mixed = with_shuffled_truth(whole, 3)
    assert sorted(mixed.pictures) == list(range(len(whole)))
    assert all(own != other for own, other in enumerate(mixed.pictures))
    for index in (0, 5):
        sample, own, other = mixed.sample(index, 1), whole.sample(index, 1), whole.sample(mixed.pictures[index], 1)
        assert sample.objects == own.objects
        assert torch.equal(sample.images[0], other.images[0])
        assert not torch.equal(sample.images[0], own.images[0])
    assert mixed.info.dropped[REASON] == len(whole)
    assert mixed.info.fingerprint != whole.info.fingerprint
    assert with_shuffled_truth(whole, 3).pictures == mixed.pictures != with_shuffled_truth(whole, 4).pictures


def test_only_images_of_one_size_change_places() -> None:
    whole = detect.tiny().only.data.model_copy(update={"fraction": 1.0}).build(None)
    sized = [replace(one, size_hw=(8, 8 + number % 2)) for number, one in enumerate(whole.records)]
    mixed = with_shuffled_truth(replace(whole, records=sized), 0)
    assert all(sized[own].size_hw == sized[other].size_hw for own, other in enumerate(mixed.pictures))
    alone = [replace(one, size_hw=(8, 8 + number)) for number, one in enumerate(whole.records)]
    with pytest.raises(UserError, match="no other of their size"):
        with_shuffled_truth(replace(whole, records=alone), 0)


def test_a_run_may_ask_for_it(tmp_path) -> None:
    run = with_values(detect.tiny(), shuffled=True)
    state = build(run, tmp_path)
    assert sorted(state.only.dataset.pictures) == list(range(len(state.only.dataset)))
    assert state.eval_datasets["val"].pictures is None


def test_conversations_have_a_control_of_their_own(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be shuffled"):
        build(with_values(pretrain.tiny(), shuffled=True), tmp_path)
