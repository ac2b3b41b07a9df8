"""Answers of a BLIP-2: those of `transformers`, in any batch, with our tower in the place of theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blip2_folders import SIZE, asked, write_blip2
from transformers import Blip2ForConditionalGeneration

from vistruct.contracts import DataInfo, Turn
from vistruct.tasks.blip2 import CLIP_MEAN, CLIP_STD, VisionLanguage, VisionLanguageConfig
from vistruct.vlm.tiling import normalise

KINDS = ("opt", "t5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: write_blip2(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def task_of(folder: Path, **values: Any) -> VisionLanguage:
    task: Any = VisionLanguageConfig(weights=folder, size=SIZE, dtype="float32", **values).build(DataInfo(), folder)
    return task.eval()


QUESTIONS = [asked(1, "what is this ?", "a boat"), asked(1, "red ?", "no"), asked(2, "is the dog on the lake ?", "yes")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["vqa", "caption"])
def test_answers_are_those_of_transformers_generate(folders, kind, form):
    task = task_of(folders[kind])
    plain: Any = Blip2ForConditionalGeneration.from_pretrained(folders[kind], dtype=torch.float32).eval()
    said = []
    for sample in QUESTIONS[1:] if form == "caption" else QUESTIONS:
        turns = (sample.turns[0], Turn(role="assistant", text="x", form=form))
        batch = task.collator([replace(sample, turns=turns)])
        search = task.config.caption if form == "caption" else task.config.question
        text = search.prompt.format(sample.turns[0].text.removeprefix("<image>\n"))
        ids = torch.tensor([[4, 4, 4, *task.tokenizer(text).input_ids]])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        out = plain.generate(
            pixel_values=normalise(batch.images, mean, std),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=5,
            do_sample=False,
            min_new_tokens=search.least,
            max_new_tokens=search.most,
            length_penalty=1.0 if form == "caption" else {"opt": 0.0, "t5": -1.0}[kind],
        )
        theirs = out[0] if kind == "t5" else out[0, ids.shape[1] :]
        expected = task.tokenizer.decode(theirs, skip_special_tokens=True).strip()
        assert task.predict(batch)[0].answer == expected
        said.append(expected)
    assert any(said) or form == "caption"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_in_any_batch(folders, kind):
    task = task_of(folders[kind])
    described = asked(3, "", "a cat", form="caption")
    samples = [*QUESTIONS, asked(2, "?", "two"), described]
    together = task.predict(task.collator(samples))
    assert [one.id for one in together] == [sample.id for sample in samples]
    alone = [one for sample in samples for one in task.predict(task.collator([sample]))]
    assert together == alone
    assert len({one.answer for one in together}) > 2


def test_an_image_is_seen_once_for_all_questions_about_it(folders):
    batch = task_of(folders["opt"]).collator(QUESTIONS)
    assert len(batch.images) == 2
    assert batch.mentions.tolist() == [0, 0, 1]
    assert batch.images.shape[-2:] == (SIZE, SIZE)


def test_questions_of_a_conversation_are_asked_alone_and_those_without_a_voucher_not_at_all(folders):
    task = task_of(folders["opt"])
    turns = (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nred ?"),
        Turn(role="assistant", text="yes"),
        Turn(role="user", text="a dog ?"),
        Turn(role="assistant", text="perhaps", is_taught=False),
        Turn(role="user", text="two ?"),
        Turn(role="assistant", text="no", others=("no", "yes"), form="vqa"),
    )
    sample = replace(QUESTIONS[0], turns=turns, families=("colour", "animal", "count"))
    found = task.predict(task.collator([sample]))
    assert [(one.question, one.truth, one.family) for one in found] == [
        ("red ?", "yes", "colour"),
        ("two ?", "no", "count"),
    ]
    assert found[1].others == ("no", "yes")
    assert found[1].form == "vqa"


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_true_answer_after_the_question(folders, kind):
    """Of T5 transformers' own loss, of OPT the log probability of each token as it is written."""
    task = task_of(folders[kind])
    sample = QUESTIONS[0]
    batch = task.collator([sample])
    prompt = task.tokenizer(task.config.question.prompt.format("what is this ?")).input_ids
    answer = [*task.tokenizer("a boat", add_special_tokens=False).input_ids, 2]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    plain: Any = Blip2ForConditionalGeneration.from_pretrained(folders[kind], dtype=torch.float32).eval()
    pixels = normalise(batch.images, mean, std)
    with torch.no_grad():
        if kind == "t5":
            ids = torch.tensor([[4, 4, 4, *prompt]])
            expected = len(answer) * plain(pixel_values=pixels, input_ids=ids, labels=torch.tensor([answer])).loss
        else:
            ids = torch.tensor([[4, 4, 4, *prompt, *answer]])
            out = plain(pixel_values=pixels, input_ids=ids).logits[0].log_softmax(-1)
            start = ids.shape[1] - len(answer)
            expected = -sum(out[start + at - 1, token] for at, token in enumerate(answer))
        found = task(batch)
    assert found.terms["answers"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.units(batch) == {"answers": 3.0}
    both = task(task.collator(QUESTIONS)).terms["answers"]
    alone = sum(task(task.collator([one])).terms["answers"] for one in QUESTIONS)
    assert both.item() == pytest.approx(alone.item(), rel=1e-5)
