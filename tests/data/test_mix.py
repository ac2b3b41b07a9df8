"""Mixes as published: every line is accounted for, shares are drawn, repeats differ, caches change nothing."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.config import Part
from vistruct.data.account import check_left_out
from vistruct.data.chat.mix import MixDataConfig
from vistruct.data.chat.sources import IMAGE_MISSING, IMAGE_UNREADABLE, shared_rows
from vistruct.data.checks.check import check
from vistruct.data.dataset import ChatDataConfig, RecordDataset
from vistruct.data.formats.chat.turns import (
    EMPTY_ANSWER,
    EMPTY_QUESTION,
    MALFORMED,
    MISMATCH,
    NOT_JSON,
    PREPENDED,
    VIDEO,
)
from vistruct.data.loading.loader import Loader
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage
from vistruct.files.images import clear_cache, image_size
from vistruct.kinds import part_class


def talk(question: str = "Q", answer: str = "A", **more: object) -> dict[str, Any]:
    return {**more, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def typed(question: object = "Q", answer: str = "A", **more: object) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {**more, "messages": turns}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, and a data set in each of three formats."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for name in ("a.png", "b.png", "c.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def mixed(folder: Path, **sets: dict[str, Any]) -> MixDataConfig:
    (folder / "mix.json").write_text(json.dumps(sets))
    return MixDataConfig(mix=folder / "mix.json")


GOOD = talk("<image>Q", image="a.png")
FAULTY = (
    "{not json",
    {"image": "a.png"},
    talk("<image><image>Q", image="a.png"),
    talk(answer=" "),
    [talk()],
    talk("<image>", image="gone.png"),
    talk("<image>", image="broken.png"),
    talk("<image>", video="a.mp4"),
    {"conversations": [*talk()["conversations"], {"from": "human", "value": " "}, {"from": "gpt", "value": "B"}]},
    talk("<image><image>", image=["a.png", "gone.png"]),
)
REASONS = {
    NOT_JSON: 1, MALFORMED: 2, MISMATCH: 1, EMPTY_ANSWER: 1, IMAGE_MISSING: 2, IMAGE_UNREADABLE: 1,
    VIDEO: 1, EMPTY_QUESTION: 1,
}  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "json", "messages"])
def test_every_line_of_every_format_is_used_or_counted(folder: Path, form: str) -> None:
    faulty: list[object] = [*FAULTY]
    if form == "json":  # a list is json or it is not
        faulty[0] = 3
    rows: list[object] = [GOOD, *faulty, talk(image="a.png")]
    if form == "messages":
        rows = [
            typed(
                *(turn["value"] for turn in row["conversations"]), **{k: row[k] for k in ("image", "video") if k in row}
            )
            if isinstance(row, dict) and len(row.get("conversations", ())) == 2
            else row
            for row in rows
        ]
    path = folder / f"set.{form[:5]}"
    path.write_text(json.dumps(rows)) if form == "json" else jsonl(path, *rows)
    dataset = ChatDataConfig(jsonl=path).build()
    (account,) = dataset.accounts
    expected = (
        Counter(REASONS) if form != "json" else Counter(REASONS) - Counter({NOT_JSON: 1}) + Counter({MALFORMED: 1})
    )
    assert account.left_out.counts == expected
    assert account.repaired.counts == {PREPENDED: 1}
    assert (account.lines, account.used, len(dataset)) == (12, 2, 2)
    assert account.used + account.left_out.counts.total() + account.beyond == account.lines
    mark = "#" if form == "json" else ":"
    assert account.left_out.examples[EMPTY_ANSWER] == [f"{path.name}{mark}5"]
    assert account.left_out.examples[IMAGE_MISSING] == [f"{path.name}{mark}{n}: gone.png" for n in (7, 11)]
    assert sum(dataset.info.dropped.values()) == 10 + 1
    assert dataset.sample(0, 0).images[0].shape == (3, 20, 30)


def test_too_much_left_out_names_data_set_reason_place_and_the_way_out(folder: Path) -> None:
    jsonl(folder / "good.jsonl", *[talk()] * 300)
    bad = jsonl(folder / "bad.jsonl", *[talk()] * 95, talk(answer=""), *[talk("<image>", image="gone.png")] * 4)
    accounts = mixed(folder, good={"annotation": "good.jsonl"}, bad={"annotation": "bad.jsonl"}).build().accounts
    with pytest.raises(UserError) as caught:  # of all lines together, 1.25 % would be left out
        check_left_out(accounts, 0.04)
    what, where, fix = str(caught.value).split("\n")
    assert what.startswith("bad: 5 of 100 lines cannot be used")
    assert f"4 x {IMAGE_MISSING}, 1 for other reasons" in what
    assert where == f"{bad}:97: gone.png"
    assert "--set max_left_out=0.05" in fix
    check_left_out(accounts, 0.05)


# --- the mix file


def test_data_sets_lie_behind_each_other_as_often_as_they_repeat(folder: Path) -> None:
    jsonl(folder / "one.jsonl", talk("<image>1", image="a.png", id="x", families=["count"]), talk("2", id="x"))
    (folder / "two.json").write_text(json.dumps([talk("3", id="x"), talk("4")]))
    config = mixed(
        folder,
        one={"root": "", "annotation": "one.jsonl", "repeat_time": 3, "max_dynamic_patch": 12, "data_augment": False},
        two={"annotation": "two.json", "repeat_time": 1.0, "max_dynamic_patch": 6},
    )
    dataset = config.build()
    assert [record.turns[0].text[-1] for record in dataset.records] == list("12121234")
    assert [record.max_tiles for record in dataset.records] == [12] * 6 + [6] * 2
    ids = [record.id for record in dataset.records]
    assert ids[:4] == ["one/x", "one/one.jsonl:2", "one/x~2", "one/one.jsonl:2~2"]
    assert ids[6:] == ["two/x", "two/two.json#2"]
    assert len(set(ids)) == 8
    assert dataset.records[2].families == ("count",) == dataset.sample(2, 0).families
    assert dataset.sample(2, 0).max_tiles == 12
    assert repr(dataset.records[-1]) == repr(dataset.records[7]) == repr(dataset.records[6:][1])
    with pytest.raises(IndexError):
        dataset.records[8]
    assert dataset.info.counts["conversations"] == dataset.info.num_records == 8
    assert dataset.info.counts["turns"] == 16
    assert (dataset.info.counts["one: conversations"], dataset.info.counts["one: images"]) == (2, 1)
    assert dataset.info.corpus is not None
    assert len(list(dataset.info.corpus())) == 16


def test_paths_start_from_the_file_or_the_root_or_stand_for_themselves(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    jsonl(folder / "one.jsonl", GOOD)
    (elsewhere / "mix.json").write_text(json.dumps({"one": {"annotation": "one.jsonl", "root": "./"}}))
    dataset = MixDataConfig(mix=elsewhere / "mix.json", root=folder).build()
    assert dataset.records[0].images[0].samefile(folder / "a.png")
    (elsewhere / "mix.json").write_text(
        json.dumps({"one": {"annotation": str(folder / "one.jsonl"), "root": str(folder)}})
    )
    assert MixDataConfig(mix=elsewhere / "mix.json").build().records[0].images == (folder / "a.png",)
    (elsewhere / "mix.json").write_text(json.dumps({"one": {"annotation": "../one.jsonl"}}))
    assert len(MixDataConfig(mix=elsewhere / "mix.json").build()) == 1


def test_keys_that_decide_nothing_are_said_once(folder: Path) -> None:
    jsonl(folder / "one.jsonl", talk())
    entry = {"annotation": "one.jsonl", "length": 99, "force_image_size": 224, "repeat_times": 3}
    dropped = mixed(folder, **{name: entry for name in "abcd"}).build().info.dropped
    found = {key: number for key, number in dropped.items() if "key" in key}
    assert sorted(found.values()) == [4, 4, 4]
    assert any("'length'" in key and "counted here" in key and "(a; b; c; ...)" in key for key in found)
    assert any("'repeat_times'" in key and "did you mean 'repeat_time'" in key for key in found)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "no annotation"),
        ({"annotation": ["a", "b"]}, "no annotation"),
        ({"annotation": "one.jsonl", "root": 3}, "root is"),
        ({"annotation": "one.jsonl", "repeat_time": 0}, "repeat_time 0"),
        ({"annotation": "one.jsonl", "repeat_time": 1.5}, "repeat_time 1.5"),
        ({"annotation": "one.jsonl", "repeat_time": -1}, "repeat_time -1"),
        ({"annotation": "one.jsonl", "repeat_time": True}, "repeat_time True"),
        ({"annotation": "one.jsonl", "repeat_time": "2"}, "repeat_time '2'"),
        ({"annotation": "one.jsonl", "repeat_time": float("inf")}, "repeat_time inf"),
        ({"annotation": "one.jsonl", "max_dynamic_patch": 0}, "max_dynamic_patch"),
        ({"annotation": "one.jsonl", "data_augment": "yes"}, "data_augment"),
    ],
)
def test_a_value_that_means_nothing_is_an_error_with_its_data_set(
    folder: Path, entry: dict[str, Any], words: str
) -> None:
    jsonl(folder / "one.jsonl", talk())
    with pytest.raises(UserError, match=words) as caught:
        mixed(folder, fine={"annotation": "one.jsonl"}, odd=entry).build()
    assert caught.value.where.endswith("mix.json: odd")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": 3}', '{"a": {}, "a": {}}', '"x"'])
def test_a_file_that_is_no_mix_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "mix.json").write_text(text)
    with pytest.raises(UserError) as caught:
        MixDataConfig(mix=tmp_path / "mix.json").build()
    assert str(tmp_path / "mix.json") in caught.value.where
    assert caught.value.fix


# --- shares


def numbers(config: MixDataConfig) -> list[int]:
    return [int(record.turns[0].text) for record in config.build().records]


def test_a_share_is_drawn_by_seed_and_a_larger_one_contains_a_smaller(folder: Path) -> None:
    jsonl(folder / "one.jsonl", *[talk(str(n)) for n in range(500)])
    smaller: list[int] = []
    for share in (0.01, 0.1, 0.29, 0.999):
        config = mixed(folder, one={"annotation": "one.jsonl", "repeat_time": share})
        found = numbers(config)
        assert len(found) == int(500 * share)
        assert found == sorted(found) == numbers(config)
        assert set(smaller) < set(found)
        assert found != list(range(len(found)))
        assert numbers(config.model_copy(update={"seed": 1})) != found
        (account,) = config.build().accounts
        assert (account.used, account.beyond) == (len(found), 500 - len(found))
        smaller = found
    published = config.model_copy(update={"fraction_of": "first-lines"})
    assert numbers(published) == list(range(499))
    assert abs(np.mean(shared_rows(100_000, 0.1, "random", 5)) / 50_000 - 1) < 0.02  # spread over all of the file


def test_two_data_sets_of_one_file_draw_apart(folder: Path) -> None:
    jsonl(folder / "one.jsonl", *[talk(str(n)) for n in range(100)])
    entry = {"annotation": "one.jsonl", "repeat_time": 0.2}
    found = numbers(mixed(folder, a=entry, b=entry))
    assert set(found[:20]) != set(found[20:])


def test_faults_and_images_beyond_the_share_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [talk("<image>", image=f"{n}.png") for n in range(50)]
    jsonl(folder / "one.jsonl", GOOD, GOOD, "{", *rows)
    config = mixed(folder, one={"annotation": "one.jsonl", "repeat_time": 2 / 53 + 1e-9})
    (account,) = config.model_copy(update={"fraction_of": "first-lines"}).build().accounts
    assert (account.used, account.beyond, account.share_left_out) == (2, 51, 0)


# --- caches and workers


def outcome(dataset: RecordDataset) -> tuple[Any, ...]:
    info = dataset.info
    return repr(list(dataset.records)), info.fingerprint, dict(info.counts), dict(info.dropped), dataset.accounts


@pytest.fixture
def config(folder: Path) -> MixDataConfig:
    jsonl(folder / "one.jsonl", GOOD, *FAULTY, talk("<image>Q", image="c.jpg"), *[talk(str(n)) for n in range(20)])
    (folder / "two.json").write_text(json.dumps([GOOD, talk()]))
    return mixed(
        folder, one={"annotation": "one.jsonl", "repeat_time": 0.7}, two={"annotation": "two.json", "repeat_time": 2}
    )


def test_cached_and_uncached_are_the_same(config: MixDataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = config.mix.parent / "index"
    expected = outcome(config.build())
    assert outcome(config.build(cache)) == expected
    looked: list[str] = []

    def look(path: Path) -> tuple[int, int]:
        looked.append(path.name)
        return image_size(path)

    monkeypatch.setattr("vistruct.data.chat.image_facts.colour_size", look)
    assert outcome(config.build(cache)) == expected
    assert set(looked) == {"broken.png"}  # what was not readable is tried again, and nothing else


def test_another_share_looks_only_at_the_images_that_are_new(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(folder / "one.jsonl", GOOD, talk("<image>", image="b.png"), talk("<image>", image="c.jpg"))
    cache, looked = folder / "index", []
    monkeypatch.setattr("vistruct.data.chat.image_facts.colour_size", lambda path: looked.append(path.name) or (20, 30))
    for share, expected in ((0.67, ["a.png", "b.png"]), (1, ["c.jpg"])):
        mix = mixed(folder, one={"annotation": "one.jsonl", "repeat_time": share})
        mix.model_copy(update={"fraction_of": "first-lines"}).build(cache)
        assert looked == expected
        looked.clear()


def test_an_image_that_was_put_in_place_is_found_at_the_next_start(folder: Path) -> None:
    config = ChatDataConfig(jsonl=jsonl(folder / "one.jsonl", GOOD, talk("<image>", image="late.png")))
    before = config.build(folder / "index")
    Image.new("RGB", (4, 4)).save(folder / "late.png")
    after = config.build(folder / "index")
    assert (len(before), len(after)) == (1, 2)
    assert before.info.fingerprint != after.info.fingerprint


def test_the_fingerprint_follows_the_data_and_not_its_place(folder: Path, tmp_path_factory: Any) -> None:
    def of(at: Path) -> str:
        return ChatDataConfig(jsonl=at / "one.jsonl").build().info.fingerprint

    jsonl(folder / "one.jsonl", GOOD, talk("<image>", image="b.png"))
    first = of(folder)
    moved = tmp_path_factory.mktemp("moved") / "deeper"
    folder.rename(moved)
    assert of(moved) == first
    content = (moved / "b.png").read_bytes()
    (moved / "b.png").write_bytes(content + b"x")  # of another size
    assert of(moved) != first
    (moved / "b.png").write_bytes(content)
    assert of(moved) == first
    jsonl(moved / "one.jsonl", talk("<image>", image="b.png"), GOOD)  # in another order
    assert of(moved) != first


@pytest.mark.parametrize("damage", ["zeroed", "flipped"])
def test_a_damaged_image_that_still_decodes_is_found_by_its_checksum(folder: Path, damage: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(noise).save(folder / "big.jpg")
    config = ChatDataConfig(jsonl=jsonl(folder / "one.jsonl", talk("<image>", image="big.jpg")))
    dataset, trusting = config.build(), config.model_copy(update={"checksums": False}).build()
    data = bytearray((folder / "big.jpg").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = (
        bytes(8) if damage == "zeroed" else bytes(byte ^ 4 for byte in data[middle : middle + 8])
    )
    (folder / "big.jpg").write_bytes(data)
    clear_cache()
    with pytest.raises(UnreadableImage, match="checksum") as caught:
        dataset.sample(0, 0)
    assert caught.value.where == str(folder / "big.jpg")
    assert dataset.records[0].size_hw == (256, 256)
    clear_cache()
    try:
        trusting.sample(0, 0)
    except UnreadableImage as error:
        assert "checksum" not in str(error)  # noqa: PT017  # a decoder may see it too


def test_missing_images_may_stop_at_once(folder: Path) -> None:
    jsonl(folder / "one.jsonl", GOOD, *[talk("<image>", image=f"no{n % 5}.png") for n in range(10)])
    config = mixed(folder, one={"annotation": "one.jsonl"}).model_copy(update={"missing": "stop"})
    with pytest.raises(UserError, match=r"5 images are not on disk: no0\.png, no1\.png, no2\.png, \.\.\.") as caught:
        config.build()
    assert caught.value.where == f"{folder / 'one.jsonl'}:2"
    assert str(folder) in caught.value.fix


def test_data_augment_compresses_anew_by_seed_and_only_where_it_is_asked(folder: Path) -> None:
    jsonl(folder / "one.jsonl", GOOD)
    config = mixed(
        folder,
        yes={"annotation": "one.jsonl", "data_augment": True, "repeat_time": 2},
        no={"annotation": "one.jsonl", "data_augment": False},
    )
    dataset, plain = config.build(), config.model_copy(update={"obey_data_augment": False}).build()
    pixels = [dataset.sample(index, 7).images[0] for index in range(3)]
    assert torch.equal(pixels[0], dataset.sample(0, 7).images[0])
    assert torch.equal(pixels[2], plain.sample(0, 7).images[0])
    assert not torch.equal(pixels[0], pixels[2])
    assert len({dataset.sample(0, seed).images[0].sum().item() for seed in range(9)}) > 3


def _texts(samples: list[Any]) -> list[str]:
    return [sample.turns[0].text for sample in samples]


def test_spawned_workers_give_what_this_process_gives(config: MixDataConfig) -> None:
    dataset = config.build(config.mix.parent / "index")
    size = len(pickle.dumps(dataset))
    assert size < 20_000  # no text and no image
    dataset.records[0]  # opens the file here, which must not travel

    def first(workers: int) -> list[list[str]]:
        batches = iter(Loader(dataset, _texts, batch=4, workers=workers, seed=3))
        found = [batch for _ in range(6) for batch in next(batches)]
        batches.close()
        return found

    here = first(0)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert first(2) == here
    finally:
        multiprocessing.set_start_method(before, force=True)


# --- the other commands


def test_check_says_of_a_mix_what_training_does(config: MixDataConfig, folder: Path) -> None:
    result = check(config.mix)
    assert (result.format, result.ok) == ("mix", False)
    dataset = config.build()
    accounts = {account.name: account for account in dataset.accounts}
    assert {name: numbers["used"] for name, numbers in result.data_sets.items()} == {
        name: account.used for name, account in accounts.items()
    }
    found = {p.what: p.count for p in result.problems if p.what.startswith("one: ") and p.effect == "stops training"}
    assert found == {f"one: {reason}": n for reason, n in accounts["one"].left_out.counts.items()}
    for problem in result.problems:
        assert len(problem.places) == problem.count or problem.effect == "kept"
    assert "two" in str(result)
    (folder / "mix.json").write_text(json.dumps({"a": {"annotation": "none.jsonl"}, "two": {"annotation": "two.json"}}))
    broken = check(folder / "mix.json")
    assert any("none.jsonl" in place for problem in broken.problems for place in problem.places)
    assert broken.counts["conversations"] == 2


@pytest.mark.parametrize("part", [MixDataConfig(mix=Path("a.json"), fraction_of="first-lines", root=Path("x"))])
def test_a_configuration_survives_json_and_is_known_by_its_kind(part: Part) -> None:
    values = part.model_dump(mode="json")
    assert type(part).model_validate(json.loads(json.dumps(values))) == part
    assert part_class(values["kind"], "data set") is type(part)
