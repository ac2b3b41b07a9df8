"""Whether an exported tokenizer or processor writes questions as ours does, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoProcessor

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.errors import UserError
from vistruct.vlm import chat
from vistruct.vlm.language import read_tokenizer
from vistruct.vlm.names import Layout

QUESTION = (
    "How many ships are there, and where? Answer with boxes from 0 to 1000, as in "
    "<ref>ship</ref><box>[[12, 345, 678, 999]]</box>."
)
_ANSWER = Turn(role="assistant", text="Two: [[1, 20, 300, 400], [5, 6, 7.5, 8]].")
_CONVERSATIONS = (
    (Turn(role="user", text=f"{IMAGE_MARK}\n{QUESTION}"),),
    (Turn(role="user", text=f"{IMAGE_MARK}\n{QUESTION}"), _ANSWER, Turn(role="user", text="  And the largest? ")),
    (
        Turn(role="system", text="You look at aerial images.\nBe brief."),
        Turn(role="user", text="Größe in m²,  écrite «en chiffres»: 12.5 ha?\n\nа) да\tб) нет 是"),
    ),
)


def same_texts(folder: Path, task: Any, layout: Layout) -> None:
    """Write conversations with what lies in the folder, and as the task would ask them.

    Raises:
        UserError: they are not the same tokens; it names the first that differs.
    """
    collator = task.traits.predict_collator
    tiles = [task.config.tiling.min_tiles]
    if tiles[0] > 1 and task.config.tiling.thumbnail:
        tiles[0] += 1
    write = _processor(folder, task) if layout == "transformers" else _tokenizer(folder, task, tiles)
    for turns in _CONVERSATIONS:
        if task.config.independent:
            turns = chat.apart(turns, image_last=task.config.image_last)[-1]
        shown = tiles if any(IMAGE_MARK in turn.text for turn in turns) else []
        ours = collator.rows([*turns, _ANSWER], (), shown)[-1].row.input_ids
        theirs = write(turns)
        if layout == "transformers" and tiles[0] > 1:  # whether a thumbnail stands behind them is a note of the export
            ours, theirs = (_without_repeats(ids, task.image_token) for ids in (ours, theirs))
        if ours != theirs:
            raise differs(folder, _first_difference(ours, theirs, task.tokenizer))


def _processor(folder: Path, task: Any) -> Any:
    """As `transformers`' users do it: a template, then the processor."""
    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    size = task.config.tiling.size
    image = Image.fromarray(np.zeros((size, size, 3), np.uint8))

    def write(turns: tuple[Turn, ...]) -> list[int]:
        messages = [{"role": turn.role, "content": _parts(turn)} for turn in turns]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        images = [image] * sum(turn.text.count(IMAGE_MARK) for turn in turns)
        return list(processor(images=images or None, text=[text])["input_ids"][0])

    return write


def _tokenizer(folder: Path, task: Any, tiles: list[int]) -> Any:
    """The tokenizer alone, in our template, with the system text that the card says."""
    tokenizer: Any = read_tokenizer(folder)

    def write(turns: tuple[Turn, ...]) -> list[int]:
        if task.config.system and turns[0].role != "system":
            turns = (Turn(role="system", text=task.config.system), *turns)
        images = [number * task.tokens_per_tile for number in tiles] if "<image>" in str(turns) else []
        return chat.encode(turns, images, tokenizer, begin=chat.beginning(tokenizer), answer=True).input_ids

    return write


def _parts(turn: Turn) -> list[dict[str, str]]:
    """A turn's text and images in their order; the line breaks between them are the template's."""
    first, *rest = turn.text.split(IMAGE_MARK)
    parts = [{"type": "text", "text": first.removesuffix("\n") if rest else first}]
    for text in rest:
        parts += [{"type": "image"}, {"type": "text", "text": text.removeprefix("\n")}]
    return [part for part in parts if part.get("text") != ""]


def _without_repeats(ids: list[int], token: int) -> list[int]:
    return [one for at, one in enumerate(ids) if one != token or at == 0 or ids[at - 1] != token]


def _first_difference(ours: list[int], theirs: list[int], tokenizer: Any) -> str:
    pairs = zip(ours, theirs, strict=False)
    at = next((at for at, (mine, other) in enumerate(pairs) if mine != other), min(len(ours), len(theirs)))

    def said(ids: list[int]) -> str:
        return f"{tokenizer.decode(ids[at])!r} ({ids[at]})" if at < len(ids) else "nothing"

    return f"it writes token {at} of a question as {said(theirs)}, and the trained model read {said(ours)} there"


def differs(folder: Path, what: str) -> UserError:
    """The three lines for an export that is not what was exported."""
    return UserError(
        f"the export, read back, is not the same model: {what}", where=folder, fix="choose another --format"
    )
