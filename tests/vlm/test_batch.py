"""Samples as rows: what each row says and shows, and that a measure is what a batch really holds."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_vlm import assorted, build, picture, sample, talk, tokenizer
from whole_loss import task_loss

from vistruct.contracts import Record, Sample, Turn
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.vlm.batch import CUT, TOO_LONG, ChatCollator, ChatMeasurer, questions_of
from vistruct.vlm.chat import IGNORE, IMAGE_TOKEN
from vistruct.vlm.language import train_tokenizer
from vistruct.vlm.tiling import Tiling

SIZE = 8  # pixels, a tile's side


def collator(**settings: Any) -> ChatCollator:
    own: dict[str, Any] = {"tokenizer": tokenizer(), "tiling": Tiling(size=SIZE), "tokens_per_tile": 3}
    return ChatCollator(**own | settings)


def said(batch, row: int) -> str:
    """A row's text, each run of visual tokens as their number."""
    text: Any = tokenizer().decode(batch.input_ids.split(batch.lengths)[row])
    return re.sub(f"(?:{re.escape(IMAGE_TOKEN)})+", lambda run: f"[{len(run.group()) // len(IMAGE_TOKEN)}]", text)


def talking(*texts: str, images: list[torch.Tensor] | None = None, **rest: Any) -> Sample:
    own: dict[str, Any] = {"id": "s", "image_id": "s", "seed": 3}
    return Sample(**own | rest, images=[picture(SIZE, SIZE)] if images is None else images, turns=talk(*texts))


def as_record(one: Sample) -> tuple[Record, list[tuple[int, int]]]:
    paths = tuple(Path(f"{number}.png") for number in range(len(one.images)))
    record = Record(id=one.id, images=paths, turns=one.turns, families=one.families, max_tiles=one.max_tiles)
    return record, [(image.shape[1], image.shape[2]) for image in one.images]


def test_rows_lie_end_to_end_without_padding():
    samples = assorted()
    make = build().collator
    batch = make(samples)
    alone = [make([one]) for one in samples]
    assert torch.equal(batch.input_ids, torch.cat([one.input_ids for one in alone]))
    assert torch.equal(batch.labels, torch.cat([one.labels for one in alone]))
    assert batch.lengths == [length for one in alone for length in one.lengths]
    assert torch.equal(batch.tiles, torch.cat([one.tiles for one in alone]))
    assert batch.tiles.is_contiguous(memory_format=torch.channels_last)
    assert batch.mentions.tolist() == list(range(len(batch.tiles)))  # each row shows its own, in order
    assert batch.owners == list(range(len(samples)))
    assert batch.ids == [one.id for one in samples]
    for name in ("seeds", "tile_seeds", "questions", "truths", "families", "image_ids"):
        assert getattr(batch, name) == [value for one in alone for value in getattr(one, name)]


def test_seeds_are_those_of_the_sample_its_questions_and_its_tiles():
    one = talking("<image>\nx ?", "a", "y ?", "b", images=[picture(SIZE, 3 * SIZE)])
    batch = collator(independent=True)([sample("other", images=0), one])
    assert batch.seeds[1:] == [derive(3, "row", 0), derive(3, "row", 1)]
    assert batch.tile_seeds == [derive(3, "tile", at) for at in range(4)]


def test_questions_of_a_conversation_are_its_beginnings_up_to_each_answer():
    turns = (Turn(role="system", text="be brief"), *talk("one ?", "1", "two ?", "2"))
    assert questions_of(turns) == [turns[:3], turns[:5]]
    assert questions_of(turns[:2]) == [turns[:2]]
    assert questions_of(()) == [()]


DIALOGUE = talking(
    "first <image> ?", "one", "no image ?", "two", "<image>\n<image>\nlast ?", "three",
    images=[picture(SIZE, SIZE, 1), picture(SIZE, 2 * SIZE, 2), picture(SIZE, SIZE, 3)], families=("a", "b", "c"),
)  # fmt: skip


def test_later_questions_show_the_images_shown_so_far():
    make = collator(generate=True)
    batch = make([sample("before"), DIALOGUE])
    first = len(collator()([sample("before")]).tiles)
    assert batch.questions[1:] == ["first <image> ?", "no image ?", "last ?"]
    assert batch.truths[1:] == ["one", "two", "three"]
    assert batch.families == ["", "a", "b", "c"]
    assert batch.owners == [0, 1, 1, 1]
    assert batch.ids == ["before", "s", "s", "s"]
    shown = [first, first, *range(first, first + 5)]  # one tile; 2 x 1 tiles and a thumbnail; one tile
    assert batch.mentions.tolist() == [*range(first), *shown]
    assert said(batch, 2) == (
        "<|im_start|>user\nfirst <img>[3]</img> ?<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\nno image ?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said(batch, 3).count("[3]") == 2
    assert said(batch, 3).count("[9]") == 1
    (whole,) = collator()([DIALOGUE]).families
    assert whole == "c"


def test_every_way_of_asking_knows_the_family_of_its_question():
    one = talking("<image>\nx ?", "a", "y ?", "b", "z ?", "c", families=("count", "find", "say"))
    short = dataclasses.replace(one, families=("count",))
    for way in ({"independent": True}, {"generate": True}, {"independent": True, "generate": True}):
        batch = collator(**way)([one, short])
        assert batch.families == ["count", "find", "say", "count", "", ""]
        assert batch.questions == ["x ?", "y ?", "z ?"] * 2
    unanswered = dataclasses.replace(one, turns=one.turns[:1] + one.turns[2:], families=("find", "say"))
    assert collator(independent=True)([unanswered]).families == ["", "find", "say"]


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("image_last", [False, True])
def test_question_is_told_without_the_marks_around_it(images, image_last):
    pictures = [picture(SIZE, SIZE)] * images
    one = talking("<image>\n" * images + "what <ref> is it ?", "a tree", images=pictures)
    batch = collator(independent=True, image_last=image_last, generate=True)([one])
    assert batch.questions == ["what <ref> is it ?"]
    marks = "\n".join([f"<img>[{3}]</img>"] * images)
    text = f"what <ref> is it ?\n{marks}" if image_last else f"{marks}\nwhat <ref> is it ?"
    assert said(batch, 0) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_system_text_is_said_where_a_conversation_has_none_of_its_own():
    own = dataclasses.replace(
        talking("x ?", "a", images=[]), turns=(Turn(role="system", text="own"), *talk("x ?", "a"))
    )
    batch = collator(system="be brief", independent=True)([talking("x ?", "a", "y ?", "b", images=[]), own])
    texts = [said(batch, row) for row in range(3)]
    assert [text.count("<|im_start|>system\nbe brief<|im_end|>\n") for text in texts] == [1, 1, 0]
    assert [text.count("<|im_start|>system") for text in texts] == [1, 1, 1]


def test_nothing_at_all_is_one_row_that_teaches_nothing():
    task = build("paper").train()
    batch = task.collator([])
    assert (batch.lengths, batch.labels.tolist(), batch.owners, batch.ids) == ([1], [IGNORE], [-1], [])
    assert batch.tiles.shape == (0, 3, 56, 56)
    out = task_loss(task, batch)
    assert (out.count, out.total.item(), out.loss.item()) == (0, 0.0, 0.0)
    out.total.backward()
    assert any(p.grad is not None for p in task.language.parameters())
    assert all(p.grad.abs().sum() == 0 for p in task.parameters() if p.grad is not None)


def test_a_conversation_that_only_asks_counts_for_nothing():
    task = build().train()
    out = task_loss(task, task.collator([dataclasses.replace(sample(), turns=talk("<image>\nhow many trees ?"))]))
    assert (out.count, out.total.item()) == (0, 0.0)
    assert out.total.requires_grad


@pytest.mark.parametrize("most", range(1, 30))
def test_no_image_and_no_whole_answer_is_ever_cut_away(most):
    one = talking("<image>\nhow many trees ?", "twelve trees", "and now ?", "yes")
    make = collator(max_tokens=most)
    whole = collator()([one])
    image = max(at for at, token in enumerate(whole.input_ids.tolist()) if token == make.image_token)
    answer = next(at for at, label in enumerate(whole.labels.tolist()) if label != IGNORE)
    measure = ChatMeasurer(collator=make)(*as_record(one))
    if most <= max(image, answer):
        assert measure.is_left_out
        assert measure.reason == TOO_LONG
        assert measure.tokens > most  # what it would take, for the message
        assert measure.supervised == 0
        with pytest.raises(UserError, match="longest row") as caught:
            make([one])
        assert caught.value.where == "s"
    else:
        batch = make([one])
        assert torch.equal(batch.input_ids, whole.input_ids[:most])
        assert torch.equal(batch.labels, whole.labels[:most])
        assert not measure.is_left_out
        assert measure.reason == (CUT if most < len(whole.input_ids) else "")
        assert measure.tokens == min(most, len(whole.input_ids))


def test_a_question_is_never_cut_when_it_is_asked():
    one = talking("<image>\nhow many trees ?", "twelve trees")
    assert len(collator(max_tokens=5, generate=True)([one]).input_ids) > 5


@pytest.mark.parametrize(
    ("texts", "images", "reason"),
    [
        (("<image> <image> ?", "a"), 1, "2 <image> marks for 1 images"),
        (("?", "a"), 2, "0 <image> marks for 2 images"),
        (("<image> ?", "a"), 0, "1 <image> marks for 0 images"),
        (("?", f"it is {IMAGE_TOKEN}"), 1, f"a text holds {IMAGE_TOKEN} itself"),
    ],
)
def test_what_a_batch_would_refuse_is_left_out_for_the_same_reason(texts, images, reason):
    one = talking(*texts, images=[picture(SIZE, SIZE)] * images)
    measure = ChatMeasurer(collator=collator())(*as_record(one))
    assert measure.is_left_out
    assert measure.reason == f"left out: {reason}"
    with pytest.raises(UserError) as caught:
        collator()([one])
    assert caught.value.what == reason


@st.composite
def conversations(draw) -> Sample:
    """Any conversation that can be asked: images anywhere in the questions, or a single one without a place."""
    answers = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=3))
    words = st.lists(st.sampled_from(["how", " many", "\n", "é", " trees ?", "<box>", "12"]), max_size=6).map("".join)
    questions = [draw(words) for _ in range(answers)]
    if len(sizes) != 1 or draw(st.booleans()):
        for _ in sizes:
            at = draw(st.integers(0, draw(st.sampled_from([0, answers - 1]))))
            questions[at] = draw(st.sampled_from(["<image>\n{}", "{}\n<image>", "{}<image>"])).format(questions[at])
    turns = talk(*(text for question in questions for text in (question, draw(words) + "yes")))
    if draw(st.booleans()):
        turns = (Turn(role="system", text=draw(words)), *turns)
    return Sample(
        id="s", image_id="s", seed=draw(st.integers(0, 99)), turns=turns, families=("a",) * draw(st.integers(0, 3)),
        images=[torch.zeros(3, *size, dtype=torch.uint8) for size in sizes],
        max_tiles=draw(st.sampled_from([None, 1, 4, 9])),
    )  # fmt: skip


COLLATORS = st.builds(
    collator, independent=st.booleans(), image_last=st.booleans(), system=st.sampled_from(["", "be brief"]),
    max_tokens=st.sampled_from([None, 20, 60, 120]), tokens_per_tile=st.sampled_from([1, 4]),
    tiling=st.builds(Tiling, size=st.just(SIZE), max_tiles=st.sampled_from([1, 6, 12]), thumbnail=st.booleans()),
)  # fmt: skip


@given(samples=st.lists(conversations(), min_size=1, max_size=3), make=COLLATORS)
@settings(max_examples=80, deadline=None)
def test_measure_is_what_the_batch_really_holds(samples, make):
    measure = ChatMeasurer(collator=make)
    measures = [measure(*as_record(one)) for one in samples]
    for one, told in zip(samples, measures, strict=True):
        if told.is_left_out:
            with pytest.raises(UserError):
                make([one])
    kept = [(one, told) for one, told in zip(samples, measures, strict=True) if not told.is_left_out]
    assume(kept)
    batch = make([one for one, _ in kept])
    tokens, visual, supervised = [0] * len(kept), [0] * len(kept), [0] * len(kept)
    parts = zip(batch.owners, batch.input_ids.split(batch.lengths), batch.labels.split(batch.lengths), strict=True)
    for owner, ids, labels in parts:
        tokens[owner] += len(ids)
        visual[owner] += int((ids == make.image_token).sum())
        supervised[owner] += int((labels != IGNORE).sum())
        assert labels[0] == IGNORE  # no row begins with an answer, which the row before it would predict
    assert tokens == [told.tokens for _, told in kept]
    assert visual == [told.visual for _, told in kept]
    assert supervised == [told.supervised for _, told in kept]
    assert len(batch.tiles) == sum(told.tiles for _, told in kept)
    assert int((batch.input_ids == make.image_token).sum()) == len(batch.mentions) * make.tokens_per_tile
    assert max(batch.lengths) <= (make.max_tokens or 10**9)
    whole = dataclasses.replace(make, max_tokens=None)([one for one, _ in kept])
    cut = {
        owner for owner, length, full in zip(batch.owners, batch.lengths, whole.lengths, strict=True) if length < full
    }
    assert {number for number, (_, told) in enumerate(kept) if told.reason == CUT} == cut


def test_key_of_a_measure_changes_with_what_decides_it():
    base = collator()
    others = [
        dataclasses.replace(base, **change)
        for change in (
            {"tokens_per_tile": 4}, {"independent": True}, {"image_last": True}, {"max_tokens": 90}, {"system": "x"},
            {"generate": True}, {"tiling": Tiling(size=16)}, {"tiling": Tiling(size=SIZE, max_tiles=6)},
            {"tiling": Tiling(size=SIZE, thumbnail=False)}, {"tiling": Tiling(size=SIZE, min_tiles=2)},
            {"tokenizer": train_tokenizer(iter(["other words"] * 9), 340)},
        )
    ]  # fmt: skip
    keys = {ChatMeasurer(collator=one).key for one in [base, *others]}
    assert len(keys) == 1 + len(others)


def test_key_of_a_measure_does_not_change_with_what_only_training_does():
    base = build().traits.measurer.key
    others: list[dict[str, Any]] = [
        {"vrl": "paper"}, {"answer_dropout": 0.5}, {"mean": (0.0, 0.0, 0.0)}, {"rows": "padded", "pad_to": 99},
        {"head": "all"}, {"max_new_tokens": 3}, {"language": {"num_hidden_layers": 1}},
    ]  # fmt: skip
    assert {build(**other).traits.measurer.key for other in others} == {base}
    assert build(independent=True).traits.measurer.key != base


@pytest.mark.parametrize("generate", [False, True])
def test_collator_and_measurer_travel_without_the_weights(generate):
    task = build(independent=True, system="be brief", max_tokens=5000)
    own = task.traits.predict_collator if generate else task.collator
    assert own.image_token == task.image_token  # kept once it was asked for, and that travels too
    data = pickle.dumps((own, task.traits.measurer))
    assert len(data) < 200_000
    again, measurer = pickle.loads(data)
    for field in dataclasses.fields(expected := own(assorted())):
        value, other = getattr(expected, field.name), getattr(again(assorted()), field.name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert measurer.key == task.traits.measurer.key
    assert measurer(*as_record(sample())) == task.traits.measurer(*as_record(sample()))


def test_a_row_that_is_too_long_says_what_it_would_take():
    sample = talking("<image>how many trees ?", "12", images=[torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)])
    record = Record(id="r", images=(Path("a.png"),), turns=sample.turns)
    needed = ChatMeasurer(collator=collator())(record, [(SIZE, SIZE)]).tokens
    measure = ChatMeasurer(collator=collator(max_tokens=3))(record, [(SIZE, SIZE)])
    assert (measure.reason, measure.tokens, measure.is_left_out) == (TOO_LONG, needed, True)
    enough = ChatMeasurer(collator=collator(max_tokens=needed))(record, [(SIZE, SIZE)])
    assert not enough.reason


def test_an_answer_that_is_not_taught_is_read_and_neither_learned_nor_asked_for():
    turns = (
        Turn(role="user", text="how many ?"),
        Turn(role="assistant", text="12", is_taught=False),
        Turn(role="user", text="trees ?"),
        Turn(role="assistant", text="there are 12"),
    )
    sample = Sample(id="a", image_id="a", seed=0, images=[], turns=turns, families=("first", "second"))
    batch = collator()([sample])
    learned = batch.labels[batch.labels != IGNORE].tolist()
    assert tokenizer().decode(learned).startswith("there are 12")
    asked = collator(generate=True)([sample])
    assert (asked.questions, asked.truths, asked.families) == (["trees ?"], ["there are 12"], ["second"])
