"""Several conversations in one row: no padding, and none sees another.

The linear layers of a decoder do not care where one conversation ends; only attention does. A packed row is computed
as one sequence of N tokens, and attention goes segment by segment: on CUDA in half precision by torch's varlen kernel,
elsewhere by ordinary attention over groups of segments of about the same length.

Shapes: N tokens in the row, S segments, H query heads, K key heads (a divisor of H), D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vistruct.errors import UserError

NAME = "packed"  # of the attention, as `transformers` knows it
SHORT = 256  # tokens; segments up to this are computed together where their lengths are alike


@dataclass(frozen=True, kw_only=True)
class Group:
    """Segments that are attended to together, padded to the longest of them."""

    index: Tensor | None  # int64[G * L], the row's tokens by segment, each padded with its own last one; None: one
    keep: Tensor | None  # int64[...], those of the G * L places that are no padding; None: all
    start: int  # of the first token, where `index` is None
    size: int  # segments, G
    length: int  # L


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where conversations begin and end in a packed row."""

    groups: tuple[Group, ...]
    order: Tensor | None  # int64[N], from the order of the groups back to that of the row; None: the same
    cumulative: Tensor  # int32[S + 1], token at which each segment begins, and the end
    longest: int


def segments(lengths: Sequence[int], device: torch.device) -> Segments:
    """Group segments for attention.

    Args:
        lengths: tokens of each, at least 1, in the order in which they lie in the row.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    ranked = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[Group] = []
    order: list[int] = []
    for members in _alike([lengths[i] for i in ranked], ranked):
        longest = max(lengths[i] for i in members)
        tokens = [starts[i] + min(at, lengths[i] - 1) for i in members for at in range(longest)]
        kept = [row * longest + at for row, i in enumerate(members) for at in range(lengths[i])]
        alone = len(members) == 1
        groups.append(
            Group(
                index=None if alone else _send(tokens, device),
                keep=None if len(kept) == len(tokens) else _send(kept, device),
                start=starts[members[0]],
                size=len(members),
                length=longest,
            )
        )
        order += [starts[i] + at for i in members for at in range(lengths[i])]
    in_order = order == list(range(starts[-1]))
    back = None if in_order else _send(torch.tensor(order).argsort().tolist(), device)
    cumulative = torch.tensor(starts, dtype=torch.int32).to(device)
    return Segments(groups=tuple(groups), order=back, cumulative=cumulative, longest=max(lengths))


def _alike(lengths: Sequence[int], members: Sequence[int], spread: float = 1.5) -> list[list[int]]:
    """Runs of the sorted segments: long ones alone, so that nothing is padded; short ones together."""
    groups: list[list[int]] = []
    shortest = 0
    for length, member in zip(lengths, members, strict=True):
        if not groups or length > SHORT or length > spread * shortest:
            groups.append([])
            shortest = length
        groups[-1].append(member)
    return groups


def _send(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).to(device, non_blocking=True)


def enable(language: nn.Module) -> None:
    """Let a causal language model of `transformers` read packed rows; everything else works as before.

    Raises:
        UserError: its attention is more than can be exchanged (Gemma 2 caps its logits, GPT-OSS has sinks).
    """
    model: Any = language
    if not (model._supports_sdpa and model._supports_attention_backend):
        raise UserError(
            f"the attention of {type(model).__name__} cannot be exchanged",
            fix="--set task.language.model_type=qwen2, or another",
        )
    model.set_attn_implementation(NAME)


def decode(language: nn.Module, embeddings: Tensor, positions: Tensor, where: Segments) -> Tensor:
    """Last hidden states of a packed row.

    Args:
        embeddings: float[N, W].
        positions: int64[N], of each token in its own conversation; gaps are allowed.

    Returns:
        float[N, W].
    """
    model: Any = language
    # A mask of four dimensions is taken as it is and no other is made; the segments are the mask.
    unused = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=embeddings.device)
    out = model.get_decoder()(
        inputs_embeds=embeddings[None],
        attention_mask=unused,
        position_ids=positions[None],
        use_cache=False,
        segments=where,
    )
    return out.last_hidden_state[0]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention in each segment of a row, or `transformers`' own where there are no segments.

    Args:
        query: float[1, H, N, D].
        key, value: float[1, K, N, D].

    Returns:
        float[1, N, H, D], and no weights.
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    window = kwargs.get("sliding_window")
    if window is not None and segments.longest <= window:
        window = None
    has_kernel = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and window is None
    if has_kernel and dropout == 0.0 and _VARLEN is not None:
        return _varlen(query[0], key[0], value[0], segments, scaling)[None], None
    repeat = query.shape[1] // key.shape[1]
    q, k, v = query[0], key[0].repeat_interleave(repeat, 0), value[0].repeat_interleave(repeat, 0)  # [H, N, D]
    parts = [_group(q, k, v, group, dropout, scaling, window) for group in segments.groups]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (out if segments.order is None else out.index_select(0, segments.order))[None], None


def _group(
    q: Tensor, k: Tensor, v: Tensor, group: Group, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    """float[H, N, D] -> float[tokens of the group, H, D]."""
    heads, _, width = q.shape

    def take(x: Tensor) -> Tensor:  # [H, N, D] -> [G, H, L, D]
        if group.index is None:
            return x.narrow(1, group.start, group.length)[None]
        return x.index_select(1, group.index).view(heads, group.size, group.length, width).transpose(0, 1)

    # Padding stands behind each segment, where no token that counts looks.
    mask = None if window is None else _band(group.length, window, q.device)
    out = F.scaled_dot_product_attention(
        take(q), take(k), take(v), attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )
    flat = out.transpose(1, 2).reshape(-1, heads, width)
    return flat if group.keep is None else flat.index_select(0, group.keep)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """bool[L, L], true where a token sees another: the last `window` ones, itself included."""
    at = torch.arange(length, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < window)


def _varlen(q: Tensor, k: Tensor, v: Tensor, where: Segments, scaling: float | None) -> Tensor:
    """float[H, N, D] -> float[N, H, D] by torch's kernel, whose arguments have changed between versions."""
    repeat = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)  # not every version has grouped keys
    q, k, v = (x.transpose(0, 1).contiguous() for x in (q, k, v))
    if scaling is not None and "scale" not in _VARLEN_ARGUMENTS:
        q = q * (scaling * q.shape[-1] ** 0.5)
    options: dict[str, Any] = {"scale": scaling} if "scale" in _VARLEN_ARGUMENTS else {}
    options |= {"is_causal": True} if "is_causal" in _VARLEN_ARGUMENTS else {"window_size": (-1, 0)}
    assert _VARLEN is not None
    return _VARLEN(q, k, v, where.cumulative, where.cumulative, where.longest, where.longest, **options)


def _find_varlen() -> tuple[Any, frozenset[str]]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None, frozenset()
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


_VARLEN, _VARLEN_ARGUMENTS = _find_varlen()

AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
