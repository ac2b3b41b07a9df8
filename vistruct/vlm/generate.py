"""Greedy answers, several rows at a time, with the keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from vistruct.vlm import packed


@torch.inference_mode()
def answer_tokens(
    task: Any, rows: Sequence[Tensor], most: int, listen: Callable[[str], None] | None = None
) -> list[list[int]]:
    """Tokens of the likeliest answer to each row, end marks left out.

    Args:
        task: Instruct.
        rows: float[L, D] each, embeddings that end with an open answer.
        most: tokens of an answer.
        listen: told the text of a single row so far, with every token that is written.
    """
    if not rows:
        return []
    written = _at_once(task, rows, most) if task.is_blind_to_answers else _one_by_one(task, rows, most, listen)
    end = task.end_token
    return [ids[: ids.index(end)] if end in ids else ids for ids in written]


class _Listener(BaseStreamer):
    """`transformers` puts each token here as it is written; the first of what it puts is no answer."""

    def __init__(self, tokenizer: Any, listen: Callable[[str], None]) -> None:
        self.tokenizer, self.listen, self.written = tokenizer, listen, list[int]()

    def put(self, value: Tensor) -> None:
        if value.dim() == 1:
            self.written += value.tolist()
            self.listen(str(self.tokenizer.decode(self.written, skip_special_tokens=False)))

    def end(self) -> None:
        pass


def _one_by_one(task: Any, rows: Sequence[Tensor], most: int, listen: Callable[[str], None] | None) -> list[list[int]]:
    longest = max(map(len, rows))
    # Padded on the left, so that every row goes on at the same place.
    embeddings = torch.stack([pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    seen = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).to(embeddings.device)
    # A language model brings along how its maker samples from it (a repetition penalty, say), and what is not said here
    # would be taken from there; in its place an empty configuration gives the likeliest answer.
    own, task.language.generation_config = task.language.generation_config, GenerationConfig()
    try:
        out = task.language.generate(
            inputs_embeds=embeddings,
            attention_mask=seen.long(),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=task.end_token,
            pad_token_id=task.hidden_token,
            streamer=None if listen is None else _Listener(task.tokenizer, listen),
            synced_gpus=False,  # every rank holds the whole model here, and need not wait for longer answers elsewhere
        )
    finally:
        task.language.generation_config = own
    return out.tolist()


def _at_once(task: Any, rows: Sequence[Tensor], most: int) -> list[list[int]]:
    """Of a model that never reads its own answer no token waits for another: one pass writes them all."""
    blanks = torch.full((most - 1,), task.hidden_token, device=rows[0].device)
    tail = task.language.get_input_embeddings()(blanks).to(rows[0].dtype)
    whole = [torch.cat([row, tail]) for row in rows]
    lengths = [len(row) for row in whole]
    device = tail.device
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    hidden = packed.decode(task.language, torch.cat(whole), positions, packed.segments(lengths, device))
    last = torch.stack([row[-most:] for row in hidden.split(lengths)])  # [B, most, D]
    return task.language.get_output_embeddings()(last).argmax(-1).tolist()
