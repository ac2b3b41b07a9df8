"""The templates that conversations are written in, as values: how rows are encoded, and the tokens that they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vistruct.vlm import chat, vicuna

TemplateName = Literal["chatml", "vicuna"]


@dataclass(frozen=True, kw_only=True)
class Template:
    """What differs between one template and another."""

    encode: Callable[..., chat.Row]  # as `chat.encode`
    beginning: Callable[[chat.Tokenizer], list[int]]  # what a row, or a question, begins with
    end: str  # the token behind an answer
    tokens: tuple[str, ...]  # that a tokenizer must have, in the public order


TEMPLATES: dict[TemplateName, Template] = {
    "chatml": Template(
        encode=chat.encode,
        beginning=chat.beginning,
        end=chat.END,
        tokens=(chat.START, chat.END, *chat.ADDED_TOKENS),
    ),
    "vicuna": Template(
        encode=vicuna.encode,
        beginning=vicuna.beginning,
        end=vicuna.END,
        tokens=(vicuna.START, vicuna.END, *vicuna.ADDED_TOKENS),
    ),
}
