"""Rows that are padded, all to the longest or like lengths together: the published ways, to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


def decode(
    language: nn.Module, rows: Sequence[Tensor], positions: Sequence[Tensor], *, least: int, spread: float
) -> Tensor:
    """Last hidden states of rows of a language model, end to end.

    Args:
        rows: float[L, D] each.
        positions: int64[L] of each token in its own row; gaps are allowed.
        least: tokens, what rows are padded to at least.
        spread: how many times its length a row is padded to at most.
    """
    lengths = [len(row) for row in rows]
    found: dict[int, Tensor] = {}
    for members in like_lengths(lengths, spread):
        longest = max(lengths[row] for row in members)
        out = _decode(
            language, [rows[row] for row in members], [positions[row] for row in members], max(longest, least)
        )
        found |= {row: out[number, : lengths[row]] for number, row in enumerate(members)}
    return torch.cat([found[row] for row in range(len(rows))])


def _decode(language: nn.Module, rows: Sequence[Tensor], positions: Sequence[Tensor], length: int) -> Tensor:
    """float[B, L, D] of rows padded to `length`."""
    model: Any = language
    short = [len(row) for row in rows]
    embeddings = F.pad(pad_sequence(list(rows), batch_first=True), (0, 0, 0, length - max(short)))
    places = F.pad(pad_sequence(list(positions), batch_first=True), (0, length - max(short)))
    seen = (torch.arange(length)[None] < torch.tensor(short)[:, None]).long()
    # The 2D mask is passed even without padding: from gaps in the positions alone `transformers` would conclude
    # that several samples were packed into the row, and keep them apart.
    mask = seen.to(embeddings.device, non_blocking=True)
    return model.get_decoder()(inputs_embeds=embeddings, attention_mask=mask, position_ids=places).last_hidden_state


def like_lengths(lengths: Sequence[int], spread: float = 1.5) -> list[list[int]]:
    """Rows grouped so that no row is padded to more than `spread` times its length; every row is in one group."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if not groups or lengths[row] > spread * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return groups
