"""Beam search over sentences of several images at once; one beam is greedy.

Source: the rule of the public captioning tutorial that ViSFT's caption head comes from: probabilities are not divided
    by the length, every sentence that ends narrows the beam, and the best one that has ended wins.
Differs: images side by side; an image is done as soon as nothing that goes on could still win, which changes no
    sentence; where none has ended at the limit the best unfinished one is given and said to be that (the tutorial stops
    with an error).
Shapes: B images, K beams, N = B * K rows, V units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]  # whatever a decoder remembers; the first dimension of each is rows
Step = Callable[[Tensor, State], tuple[Tensor, State]]  # int64[N, t] so far -> log-probabilities float[N, V], state


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence."""

    numbers: tuple[int, ...]  # start, units, and end where it is there
    log_probability: float  # of all its units together
    is_finished: bool  # False: the limit cut it


def search(
    step: Step, state: Mapping[str, Tensor], *, start: int, end: int, beams: int, longest: int
) -> list[Sentence]:
    """The best sentence of each image.

    Args:
        state: of B images.
        longest: units at most, end not counted.
    """
    first = next(iter(state.values()))
    num_images, device = first.shape[0], first.device
    rows = {name: value.repeat_interleave(beams, dim=0) for name, value in state.items()}
    tokens = torch.full((num_images * beams, 1), start, device=device)
    scores = torch.full((num_images, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all beams are the same yet
    left = torch.full((num_images,), beams, device=device)  # beams that go on
    best: list[Sentence | None] = [None] * num_images
    for length in range(1, longest + 2):
        log_probabilities, rows = step(tokens, rows)
        num_units = log_probabilities.shape[1]
        every = scores[:, :, None] + log_probabilities.float().unflatten(0, (num_images, beams))
        scores, at = every.flatten(1).topk(beams, dim=1)  # [B, K], the best first
        is_beyond = torch.arange(beams, device=device)[None] >= left[:, None]
        scores = scores.masked_fill(is_beyond, -torch.inf)
        chosen = (torch.arange(num_images, device=device)[:, None] * beams + at // num_units).flatten()
        tokens = torch.cat([tokens[chosen], (at % num_units).flatten()[:, None]], dim=1)
        rows = {name: value[chosen] for name, value in rows.items()}
        has_ended = (tokens[:, -1].view(num_images, beams) == end) & scores.isfinite()
        for image, beam in has_ended.nonzero().tolist():
            value, known = float(scores[image, beam]), best[image]
            if known is None or value > known.log_probability:
                numbers = tuple(tokens[image * beams + beam].tolist())
                best[image] = Sentence(numbers=numbers, log_probability=value, is_finished=True)
        if length == longest + 1:
            break
        scores = scores.masked_fill(has_ended, -torch.inf)
        left = left - has_ended.sum(dim=1)
        highest = scores.max(dim=1).values.tolist()
        if all(one is not None and one.log_probability >= high for one, high in zip(best, highest, strict=True)):
            break
    return [one or _unfinished(tokens, scores, image) for image, one in enumerate(best)]


def _unfinished(tokens: Tensor, scores: Tensor, image: int) -> Sentence:
    """The best of an image that did not end; its last unit is beyond the limit."""
    beam = int(scores[image].argmax())
    numbers = tuple(tokens[image * scores.shape[1] + beam].tolist()[:-1])
    return Sentence(numbers=numbers, log_probability=float(scores[image, beam]), is_finished=False)
