"""Rows and labels against hand-written cases; the tokenizer against its own inverse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from toy_vlm import talk
from transformers import PreTrainedTokenizerFast

from vistruct.contracts import Turn
from vistruct.errors import UserError
from vistruct.vlm.chat import ADDED_TOKENS, END, IGNORE, IMAGE_TOKEN, START, Row, apart, encode
from vistruct.vlm.language import LanguageConfig, train_tokenizer

TEXTS = [
    "how many trees are there ?",
    "there are 12 trees in the upper left",
    "<box>[[1, 2, 3, 40]]</box>",
] * 5
ASK = Turn(role="user", text="<image>\nhow many trees ?")
TELL = Turn(role="assistant", text="12 trees")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(TEXTS), 340)


def text_of(ids, tokenizer):
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_row_is_the_chatml_text_with_image_places(tokenizer):
    row = encode([ASK, TELL], [3], tokenizer)
    assert text_of(row.input_ids, tokenizer) == (
        f"{START}user\n<img>{IMAGE_TOKEN * 3}</img>\nhow many trees ?{END}\n{START}assistant\n12 trees{END}\n"
    )


def test_only_answers_and_their_end_marks_are_supervised(tokenizer):
    system = Turn(role="system", text="be brief")
    again = [Turn(role="user", text="and now ?"), Turn(role="assistant", text="none")]
    row = encode([system, ASK, TELL, *again], [2], tokenizer)
    supervised = [t for t in row.labels if t != IGNORE]
    assert text_of(supervised, tokenizer) == f"12 trees{END}none{END}"
    assert all(label in (IGNORE, token) for label, token in zip(row.labels, row.input_ids, strict=True))


def test_hand_written_labels(tokenizer):
    one = tokenizer.encode("12 trees", add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids(END)
    row = encode([Turn(role="user", text="x"), TELL], [], tokenizer)
    head = tokenizer.encode(f"{START}user\nx{END}\n", add_special_tokens=False)
    start = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False)
    assert row.input_ids == [*head, *start, *one, end, *tokenizer.encode("\n", add_special_tokens=False)]
    assert row.labels == [IGNORE] * (len(head) + len(start)) + [*one, end, IGNORE]


def test_one_image_without_a_mark_goes_in_front(tokenizer):
    bare = Turn(role="user", text="how many trees ?")
    assert encode([bare, TELL], [4], tokenizer) == encode([ASK, TELL], [4], tokenizer)


def test_several_images_stand_where_their_marks_are(tokenizer):
    row = encode([Turn(role="user", text="first <image> then <image> ?"), TELL], [1, 2], tokenizer)
    assert f"first <img>{IMAGE_TOKEN}</img> then <img>{IMAGE_TOKEN * 2}</img> ?" in text_of(row.input_ids, tokenizer)


def test_text_only_conversation_has_no_places(tokenizer):
    row = encode([Turn(role="user", text="hello"), TELL], [], tokenizer)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) not in row.input_ids


@pytest.mark.parametrize(("text", "images"), [("<image> <image>", [1]), ("none", [1, 1]), ("<image>", [])])
def test_marks_and_images_must_agree(tokenizer, text, images):
    with pytest.raises(UserError, match="marks for"):
        encode([Turn(role="user", text=text), TELL], images, tokenizer)


def test_open_answer_ends_the_row_for_generation(tokenizer):
    row = encode([ASK], [1], tokenizer, answer=True)
    assert text_of(row.input_ids, tokenizer).endswith(f"{END}\n{START}assistant\n")
    assert set(row.labels) == {IGNORE}


def with_spaces_marked(scheme: str) -> Any:
    """In the manner of SentencePiece, as Llama's: a word is written with the space before it, or with a made up one."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<pad>", START, END, *ADDED_TOKENS, *bytes_], show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token=END, unk_token="<unk>")


TOKENIZERS: dict[str, Any] = {
    "bytes": train_tokenizer(iter([*TEXTS, "a\n\nb \n c  d\r\n"] * 3), 340),
    "spaces, first": with_spaces_marked("first"),
    "spaces, always": with_spaces_marked("always"),
    "spaces, never": with_spaces_marked("never"),
}
ODD = st.text(st.sampled_from(list("ab1 .\n\r\t<|>/é木🌲\u200b\u2581")), max_size=8)
WORDS = st.lists(st.sampled_from(["how", "many", " trees", "\n", "\n\n", "  ", "<box>", "[[1, 2"]), max_size=5).map(
    "".join
)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(pieces=st.lists(ODD | WORDS, min_size=1, max_size=4), answer=ODD | WORDS, visual=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_row_in_pieces_is_the_conversation_encoded_at_once(name, pieces, answer, visual):
    """Whatever stands around images; and an answer, unless its first characters melt into the line break before it."""
    tokenizer = TOKENIZERS[name]
    turns = [Turn(role="system", text=pieces[0]), Turn(role="user", text="<image>".join(pieces))]
    turns += [Turn(role="assistant", text=answer), Turn(role="user", text=pieces[-1])]
    row = encode(turns, [visual] * (len(pieces) - 1), tokenizer)
    shown = [*turns[:1], Turn(role="user", text=f"<img>{IMAGE_TOKEN * visual}</img>".join(pieces)), *turns[2:]]
    texts = [f"{START}{turn.role}\n{turn.text}{END}\n" for turn in shown]
    head = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False)
    whole = tokenizer.encode(texts[2], add_special_tokens=False)
    if whole[: len(head)] == head:
        assert row.input_ids == tokenizer.encode("".join(texts), add_special_tokens=False)
    else:
        assert answer[:1].isspace()
        before, _, after = (
            tokenizer.encode(text, add_special_tokens=False) for text in ("".join(texts[:2]), "", texts[3])
        )
        assert row.input_ids[: len(before)] == before
        assert row.input_ids[len(row.input_ids) - len(after) :] == after
    said = [label for label in row.labels if label != IGNORE]
    assert said[-1] == tokenizer.convert_tokens_to_ids(END)
    first = next(at for at, label in enumerate(row.labels) if label != IGNORE)
    assert row.input_ids[first - len(head) : first] == head  # training goes on from where generation begins
    if name == "bytes":
        assert text_of(said, tokenizer) == f"{answer}{END}"


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_text_that_holds_the_token_of_an_image_is_refused(tokenizer, role):
    turns = [Turn(role="user", text="x"), TELL]
    turns.insert({"system": 0, "user": 0, "assistant": 1}[role], Turn(role=role, text=f"say {IMAGE_TOKEN} !"))
    with pytest.raises(UserError, match=IMAGE_TOKEN):
        encode(turns, [], tokenizer)


def test_end_mark_inside_an_answer_does_not_end_what_is_learned(tokenizer):
    row = encode([Turn(role="user", text="x"), Turn(role="assistant", text=f"one{END} two")], [], tokenizer)
    assert text_of([label for label in row.labels if label != IGNORE], tokenizer) == f"one{END} two{END}"


def test_cut_keeps_every_image_and_some_of_an_answer_or_nothing():
    row = Row(input_ids=[7, 9, 9, 5, 1, 2, 3], labels=[IGNORE] * 4 + [1, 2, IGNORE])
    cuts = [row.cut(most, 9) for most in range(9)]
    assert cuts[:5] == [None] * 5  # an image, or all of the answer, would be lost
    assert cuts[5] == Row(input_ids=[7, 9, 9, 5, 1], labels=[IGNORE] * 4 + [1])
    assert cuts[7] == cuts[8] == row
    later = Row(input_ids=[7, 1, 2, 9, 5, 3], labels=[IGNORE, 1, 2, IGNORE, IGNORE, 3])
    assert [later.cut(most, 9) is None for most in range(7)] == [True] * 4 + [False] * 3  # answered before, and still


def test_questions_apart_each_have_the_system_turn_and_the_images():
    system = Turn(role="system", text="be brief")
    turns = [system, *talk("<image>\n<image>\nfirst ?", "yes", "second ?", "no")]
    assert apart(turns) == [
        (system, *talk("<image>\n<image>\nfirst ?", "yes")), (system, *talk("<image>\n<image>\nsecond ?", "no")),
    ]  # fmt: skip
    assert [part[1].text for part in apart(turns, image_last=True)] == [
        "first ?\n<image>\n<image>", "second ?\n<image>\n<image>",
    ]  # fmt: skip


def test_questions_that_bring_images_of_their_own_stay_together():
    turns = talk("<image> one", "yes", "<image> two", "no")
    assert apart(turns) == [turns]
    assert apart(talk("text only", "yes", "again", "no")) == [
        tuple(talk("text only", "yes")),
        tuple(talk("again", "no")),
    ]


@pytest.mark.parametrize("text", ["plain words", "Bäume, 木, 🌲", "<box>[[0, 999, 1000, 7]]</box>", " two  spaces\n\n"])
def test_byte_level_tokenizer_writes_any_text_back(tokenizer, text):
    assert text_of(tokenizer.encode(text, add_special_tokens=False), tokenizer) == text


def test_added_tokens_are_one_token_each_in_the_published_order(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(t) for t in ADDED_TOKENS]
    assert ids == list(range(ids[0], ids[0] + 9))
    assert [tokenizer.encode(t, add_special_tokens=False) for t in ADDED_TOKENS] == [[i] for i in ids]


def test_digits_stand_alone_unless_asked():
    assert len(train_tokenizer(iter(["121 121 121"] * 20), 340).encode("121", add_special_tokens=False)) == 3
    merged = train_tokenizer(iter(["121 121 121"] * 20), 340, "merged")
    assert len(merged.encode("121", add_special_tokens=False)) == 1


def test_tokenizer_is_kept_with_the_model_and_comes_back(tmp_path):
    config = LanguageConfig(vocab_size=340)
    first = config.load_tokenizer(tmp_path, lambda: iter(TEXTS))
    again = config.load_tokenizer(tmp_path, None)
    text = "there are 12 trees <image> <box>"
    assert again.encode(text, add_special_tokens=False) == first.encode(text, add_special_tokens=False)
    assert len(again) == len(first)


def test_no_tokenizer_and_no_texts_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no tokenizer"):
        LanguageConfig().load_tokenizer(tmp_path, None)


def test_unknown_option_of_the_language_model_names_the_known_ones(tokenizer):
    with pytest.raises(UserError, match="hiden_size"):
        LanguageConfig(options={"hiden_size": 8}).build(tokenizer)
