"""Rows and labels against hand-written cases; the tokenizer against its own inverse."""

from __future__ import annotations

import pytest

from vistruct.contracts import Turn
from vistruct.errors import UserError
from vistruct.vlm.chat import ADDED_TOKENS, END, IGNORE, IMAGE_TOKEN, START, encode
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
