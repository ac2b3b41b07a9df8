"""Conversations as token rows in the Vicuna template: what `chat` is for ChatML, with the same names.

    <s>{system}\\nUSER: {question} ASSISTANT:{answer}</s>\\n

Source: the `vicuna` template of xtuner as REF-VLM uses it (begin and end token at every question, a task command in
front of it), which its golden rows hold. An answer and its end token are supervised, nothing else is.
Differs: images are as many tokens as they have, and each piece of text between them is encoded by itself, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.errors import UserError
from vistruct.vlm.chat import IGNORE, IMAGE_TOKEN, Row, Tokenizer, with_marks

START, END = "<s>", "</s>"
OPEN = " ASSISTANT:"  # an answer follows
ADDED_TOKENS = (IMAGE_TOKEN,)


def beginning(tokenizer: Tokenizer) -> list[int]:
    """What every question begins with, whatever the tokenizer does of its own accord."""
    return [tokenizer.convert_tokens_to_ids(START)]


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
        turns: `<image>` in users' texts marks the images; where no turn has one, a single image goes in front. System
            turns may stand in front of any question (task commands).
        image_tokens: for each image, how many visual tokens it has.
        begin: tokens that every question begins with (`beginning`).
        answer: end with an open assistant turn, for generation.

    Raises:
        UserError: the number of `<image>` marks is not the number of images, or a text holds the token that stands
            for a piece of an image.
    """
    images = iter(image_tokens)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    ids: list[int] = []
    labels: list[int] = []
    read = ""  # what is to be read before the next answer

    def extend(tokens: list[int], supervised: bool = False) -> None:
        ids.extend(tokens)
        labels.extend(tokens if supervised else [IGNORE] * len(tokens))

    def text(said: str) -> list[int]:
        tokens = tokenizer.encode(said, add_special_tokens=False)
        if image_token in tokens:
            raise UserError(f"a text holds {IMAGE_TOKEN} itself", fix="only <image> stands for an image: remove it")
        return tokens

    def flush() -> None:
        extend(list(begin))
        for number, piece in enumerate(read.split(IMAGE_MARK)):
            if number:
                extend([image_token] * next(images))
            extend(text(piece) if piece else [])

    for turn in with_marks(turns, len(image_tokens)):
        if turn.role == "system":
            read += f"{turn.text}\n"
        elif turn.role == "user":
            read += f"USER: {turn.text}"
        else:
            read += OPEN
            flush()
            read = ""
            extend([*text(turn.text), tokenizer.convert_tokens_to_ids(END)], turn.is_taught)
            extend(text("\n"))
    if answer:
        read += OPEN
    if read:
        flush()
    return Row(input_ids=ids, labels=labels)
