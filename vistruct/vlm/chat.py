"""Conversations as token rows: ChatML, image places, and labels on the answers only.

Source: the `internvl2_5` template of InternVL (ChatML); special tokens in the order the public code adds them.
Differs: no system text is put in unless the sample brings one (the published one introduces another product); the
questions about one image can stand beside each other instead of after each other (`independent`), so that one pass of
the backbone pays for all of them and none can be answered from the answer to another.
A tokenizer that begins every text with a token (Llama's and InternLM2's `<s>`) begins a row with it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.errors import UserError

IGNORE = -100  # torch's cross-entropy leaves these labels out
START, END = "<|im_start|>", "<|im_end|>"
OPEN = f"{START}assistant\n"  # an answer follows
IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
ADDED_TOKENS = (
    IMAGE_START, IMAGE_END, IMAGE_TOKEN, "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
HIDDEN = "<quad>"  # stands for a hidden token where a tokenizer has no padding token


class Tokenizer(Protocol):
    """What is needed of a tokenizer; `transformers`' fast tokenizers have it."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """One conversation in tokens."""

    input_ids: list[int]
    labels: list[int]  # the token itself where it is part of an answer (its end mark included), else IGNORE

    def cut(self, most: int, image_token: int) -> Row | None:
        """The first `most` tokens, if every image and some of an answer is among them; else None."""
        if image_token in self.input_ids[most:] or all(label == IGNORE for label in self.labels[:most]):
            return None
        return Row(input_ids=self.input_ids[:most], labels=self.labels[:most])


def beginning(tokenizer: Tokenizer) -> list[int]:
    """What a tokenizer puts before every text of its own accord."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a", add_special_tokens=True)
    return whole[: next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)]


def encode(
    turns: Sequence[Turn],
    image_tokens: Sequence[int],
    tokenizer: Tokenizer,
    *,
    begin: Sequence[int] = (),
    answer: bool = False,
) -> Row:
    """Write a conversation as one row.

    Args:
        turns: `<image>` in users' texts marks the images; where no turn has one, a single image goes in front.
        image_tokens: for each image, how many visual tokens it has.
        begin: tokens that the row begins with (`beginning`).
        answer: end with an open assistant turn, for generation.

    Raises:
        UserError: the number of `<image>` marks is not the number of images, or a text holds the token that stands
            for a piece of an image.
    """
    images = iter(image_tokens)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    ids: list[int] = list(begin)
    labels: list[int] = [IGNORE] * len(begin)

    def extend(tokens: list[int], supervised: bool) -> None:
        if image_token in tokens:
            raise UserError(f"a text holds {IMAGE_TOKEN} itself", fix="only <image> stands for an image: remove it")
        ids.extend(tokens)
        labels.extend(tokens if supervised else [IGNORE] * len(tokens))

    def add(text: str) -> None:
        extend(tokenizer.encode(text, add_special_tokens=False), supervised=False)

    for turn in with_marks(turns, len(image_tokens)):
        if turn.role == "assistant":
            for tokens, supervised in _answer(turn.text, tokenizer):
                extend(tokens, supervised and turn.is_taught)
            continue
        # The pieces around an image end and begin with added tokens, so that they can be encoded apart; hundreds of
        # image tokens in a text are slow to find again.
        pieces = turn.text.split(IMAGE_MARK) if turn.role == "user" else [turn.text]
        for number, piece in enumerate(pieces):
            before = f"{START}{turn.role}\n" if number == 0 else IMAGE_END
            after = IMAGE_START if number < len(pieces) - 1 else f"{END}\n"
            add(before + piece + after)
            if number < len(pieces) - 1:
                visual = next(images)
                ids.extend([image_token] * visual)
                labels.extend([IGNORE] * visual)
    if answer:
        add(OPEN)
    return Row(input_ids=ids, labels=labels)


def _answer(text: str, tokenizer: Tokenizer) -> list[tuple[list[int], bool]]:
    """Tokens of an answer's turn in parts, and which of them are supervised: the answer and its end mark.

    Encoded as one text, because many tokenizers write a word at the beginning of a text differently from one behind a
    line break; except where the answer's first characters would melt into the break that training and generation
    both begin behind.
    """
    head = tokenizer.encode(OPEN, add_special_tokens=False)
    whole = tokenizer.encode(f"{OPEN}{text}{END}\n", add_special_tokens=False)
    if whole[: len(head)] == head:
        said = whole[len(head) :]
    else:
        said = tokenizer.encode(f"{text}{END}\n", add_special_tokens=False)
    end = len(said) - said[::-1].index(tokenizer.convert_tokens_to_ids(END))  # behind the last end mark
    return [(head, False), (said[:end], True), (said[end:], False)]


def with_marks(turns: Sequence[Turn], num_images: int) -> list[Turn]:
    """The turns, with a single image's mark put in front where no turn has one.

    Raises:
        UserError: the number of `<image>` marks is not the number of images.
    """
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns if turn.role == "user")
    first = next((turn for turn in turns if turn.role == "user"), None)
    if marks == 0 and num_images == 1 and first is not None:
        marked = replace(first, text=f"{IMAGE_MARK}\n{first.text}")
        return [marked if turn is first else turn for turn in turns]
    if marks != num_images:
        raise UserError(f"{marks} <image> marks for {num_images} images", fix="write one <image> for every image")
    return list(turns)


def apart(turns: Sequence[Turn], *, image_last: bool = False) -> list[tuple[Turn, ...]]:
    """A conversation's questions as conversations of their own, each with the system turn and the images.

    A conversation whose later questions bring images of their own stays whole: they build on each other.

    Args:
        image_last: the images stand behind each question and not in front of it. The way from a visual token to the
            answer is then the same for every question, which a small language model learns much sooner.
    """
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not users or any(IMAGE_MARK in turns[i].text for i in users[1:]):
        return [tuple(turns)]
    system = tuple(turns[: users[0]])
    marks = [IMAGE_MARK] * turns[users[0]].text.count(IMAGE_MARK)
    out = []
    for start, end in zip(users, [*users[1:], len(turns)], strict=True):
        question = turns[start].text.replace(IMAGE_MARK, "").strip("\n") if start == users[0] else turns[start].text
        lines = [question, *marks] if image_last else [*marks, question]
        out.append((*system, replace(turns[start], text="\n".join(lines)), *turns[start + 1 : end]))
    return out
