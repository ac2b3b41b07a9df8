"""What a task can be trained on is measured once, cached, counted, and repeated with the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_engine import toy_run

from vistruct.contracts import Costs, Measure, Record
from vistruct.data.account import Account, check_left_out
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.chat import costs as admit_
from vistruct.data.chat.costs import admit
from vistruct.data.chat.mix import MixDataConfig
from vistruct.data.dataset import RecordDataset
from vistruct.engine.run import build
from vistruct.errors import UserError
from vistruct.samples import trees

LONG, CUT = "conversation left out: too long", "the last turns are cut"


@dataclass(frozen=True)
class Letters:
    """A token a letter, a tile a pixel row; more than 30 letters are too much, more than 20 are cut."""

    key: str = "letters"

    def __call__(self, record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
        letters = sum(len(turn.text) for turn in record.turns)
        return Measure(
            tokens=letters,
            visual=sum(height for height, _ in sizes_hw),
            supervised=len(record.turns[-1].text),
            tiles=sum(height for height, _ in sizes_hw) * (record.max_tiles or 1),
            reason=LONG if letters > 30 else CUT if letters > 20 else "",
            is_left_out=letters > 30,
        )


def nothing(record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
    raise AssertionError("measured again")


@dataclass(frozen=True)
class Never(Letters):
    __call__ = staticmethod(nothing)


def talk(question: str, answer: str = "A", **more: object) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({**more, "conversations": turns})


@pytest.fixture
def config(tmp_path: Path) -> MixDataConfig:
    Image.new("RGB", (5, 7)).save(tmp_path / "a.png")
    Image.new("RGB", (5, 11)).save(tmp_path / "b.png")
    one = [talk("Q" * n) for n in (1, 40, 5, 25)] + [talk("<image>", "AA", image="a.png"), talk("", "bad")]
    (tmp_path / "one.jsonl").write_text("\n".join(one))
    (tmp_path / "two.jsonl").write_text(talk("<image><image>", image=["b.png", "a.png"]) + "\n" + talk("Q" * 50))
    (tmp_path / "long.jsonl").write_text(talk("Q" * 50))
    mix = {
        "one": {"annotation": "one.jsonl", "repeat_time": 2},
        "long": {"annotation": "long.jsonl"},
        "two": {"annotation": "two.jsonl", "max_dynamic_patch": 3},
    }
    (tmp_path / "mix.json").write_text(json.dumps(mix))
    return MixDataConfig(mix=tmp_path / "mix.json")


def admitted(config: MixDataConfig, measurer: Any = Letters(), **more: Any) -> tuple[RecordDataset, Costs]:
    settings: dict[str, Any] = {"max_left_out": 1.0, **more}
    dataset, costs = admit(config.build(), measurer, **settings)
    assert isinstance(dataset, RecordDataset)
    assert costs is not None
    return dataset, costs


def test_costs_stand_beside_the_samples_that_stay(config: MixDataConfig) -> None:
    dataset, costs = admitted(config)
    assert len(dataset) == len(costs) == dataset.info.num_records == 4 * 2 + 1
    for index, record in enumerate(dataset.records):
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in dataset.sample(index, 0).images]
        one = Letters()(record, sizes)
        assert not one.is_left_out
        found = tuple(int(getattr(costs, name)[index]) for name in ("tokens", "visual", "supervised", "tiles"))
        assert found == (one.tokens, one.visual, one.supervised, one.tiles)
    assert costs.tokens.dtype == np.int32
    assert (costs.visual[-1], costs.tiles[-1]) == (18, 54)


def test_what_is_too_long_or_cut_is_counted_with_its_place(config: MixDataConfig) -> None:
    before = config.build()
    dataset, _ = admitted(config)
    accounts = {account.name: account for account in dataset.accounts}
    assert accounts["one"].left_out.counts[LONG] == 1
    assert accounts["one"].left_out.examples[LONG] == ["one.jsonl:2"]
    assert accounts["one"].repaired.counts[CUT] == 1
    for account in dataset.accounts:
        assert account.used + account.left_out.counts.total() + account.beyond == account.lines
    assert {name: account.used for name, account in accounts.items()} == {"one": 4, "long": 0, "two": 1}
    assert dataset.info.counts["conversations"] == len(dataset)
    assert dataset.info.counts["two: images"] == 2
    assert any(LONG in key and "one.jsonl:2" in key for key in dataset.info.dropped)
    assert before.info.fingerprint == dataset.info.fingerprint
    assert LONG not in before.accounts[0].left_out.counts  # the data set that was given is as it was


def test_too_much_left_out_stops_with_faults_and_length_together(config: MixDataConfig) -> None:
    with pytest.raises(UserError, match=r"one: 2 of 6 lines cannot be used"):
        admit(config.build(), Letters(), max_left_out=0.3)
    with pytest.raises(UserError, match=r"long: 1 of 1 lines cannot be used") as caught:
        admit(config.build(), Letters(), max_left_out=0.5)
    assert caught.value.where.endswith("long.jsonl:1")


def test_measures_are_kept_for_this_measurer_and_these_rows_alone(config: MixDataConfig) -> None:
    cache = config.mix.parent / "index"
    dataset, costs = admitted(config, cache=cache)
    again, kept = admitted(config, Never(), cache=cache)
    assert [record.id for record in again.records] == [record.id for record in dataset.records]
    for name in ("tokens", "visual", "supervised", "tiles"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(costs, name))
    assert again.info.dropped == dataset.info.dropped
    with pytest.raises(AssertionError, match="measured again"):
        admitted(config, Never(key="another"), cache=cache)
    mix = json.loads(config.mix.read_text())
    mix["two"]["max_dynamic_patch"] = 4
    config.mix.write_text(json.dumps(mix))
    with pytest.raises(AssertionError, match="measured again"):
        admitted(config, Never(), cache=cache)
    assert admitted(config, cache=cache)[1].tiles[-1] == 72


def test_many_processes_measure_what_one_measures(config: MixDataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, alone = admitted(config)
    monkeypatch.setattr(admit_, "_JOB_ROWS", 2)
    _, together = admitted(config, processes=2)
    np.testing.assert_array_equal(together.tokens, alone.tokens)


def test_a_run_refuses_before_its_first_step_and_keeps_its_index(config: MixDataConfig, tmp_path: Path) -> None:
    run, out = toy_run(data=config, batch=2), tmp_path / "run"
    with pytest.raises(
        UserError, match=r"one: 1 of 6 lines cannot be used \(limit 1 %\): .* a question is empty"
    ) as caught:
        build(run, out)
    assert caught.value.where == f"{tmp_path / 'one.jsonl'}:6"
    state = build(run.model_copy(update={"max_left_out": 0.167}), out)  # as the message says
    assert len(state.only.dataset) == 5 * 2 + 1 + 2
    assert len(list((out / "index").glob("*.lines.npz"))) == 3


def test_boxes_and_tasks_without_a_measurer_are_let_through(config: MixDataConfig) -> None:
    boxes = BoxDataConfig(annotation=trees().test).build()
    assert admit(boxes, Letters(), max_left_out=0.0) == (boxes, None)
    chats = config.build()
    assert admit(chats, None, max_left_out=1.0) == (chats, None)


def test_the_message_about_rows_that_are_too_long_names_the_length_that_holds_them() -> None:
    account = Account(name="", annotation=Path("a.jsonl"), lines=3, used=1, longest_row=30)
    account.left_out.note("too long", "a.jsonl:2")
    account.left_out.note("too long", "a.jsonl:3")
    with pytest.raises(UserError) as caught:
        check_left_out([account], 0.01)
    assert caught.value.fix == (
        "--set task.max_tokens=30 holds the longest row; to train without them: --set max_left_out=0.667"
    )
