"""An LSTM that looks at a part of the map for each word: the caption head of ViSFT.

Source: Xu et al., arXiv:1502.03044 (soft attention, doubly stochastic), as the public captioning tutorial has it, whose
    decoder ViSFT takes: additive attention, a gate on what was looked at, the first state from the mean of the map.
Differs: captions are not sorted by length; words behind an end are computed and not counted.
Shapes: maps float[B, C, h, w] pooled to P = pool * pool places; captions int64[B, L], lengths int64[B]; V words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadLoss, HeadTraits, Ratio

_PUBLISHED = {  # ours: theirs
    "look_map": "attention.encoder_att",
    "look_state": "attention.decoder_att",
    "look": "attention.full_att",
    "embed": "embedding",
    "cell": "decode_step",
    "first_hidden": "init_h",
    "first_cell": "init_c",
    "gate": "f_beta",
    "say": "fc",
}
FRONT = "visft_heads.caption_decoder."  # of the published names


class ShowAttendTellConfig(Part):
    """Widths as ViSFT has them; the tutorial's are 512."""

    kind: Literal["show_attend_tell"] = "show_attend_tell"
    attention: int = Field(384, gt=0)
    embed: int = Field(384, gt=0)  # of a word
    hidden: int = Field(384, gt=0)  # of the LSTM
    pool: int = Field(14, gt=0)  # places of the map, each side
    dropout: float = Field(0.5, ge=0, lt=1)  # before the last layer
    attention_weight: float = Field(1.0, ge=0)  # of the term that wants every place looked at once in all

    def build(self, specs: Sequence[FeatureSpec], num_words: int) -> ShowAttendTell:
        """Build on maps of which the last is read."""
        return ShowAttendTell(self, specs[-1].channels, num_words)


class ShowAttendTell(nn.Module):
    """The last map and captions -> terms; or one word after the other."""

    terms = ("words", "attention")
    traits = HeadTraits(
        convert_keys=lambda state: from_published(state), to_published=lambda state: to_published(state)
    )

    def __init__(self, config: ShowAttendTellConfig, channels: int, num_words: int) -> None:
        super().__init__()
        self.config, hidden = config, config.hidden
        self.pool = nn.AdaptiveAvgPool2d(config.pool)
        self.look_map = nn.Linear(channels, config.attention)
        self.look_state = nn.Linear(hidden, config.attention)
        self.look = nn.Linear(config.attention, 1)
        self.embed = nn.Embedding(num_words, config.embed)
        self.cell = nn.LSTMCell(config.embed + channels, hidden)
        self.first_hidden, self.first_cell = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.gate = nn.Linear(hidden, channels)
        self.say = nn.Linear(hidden, num_words)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.uniform_(self.say.weight, -0.1, 0.1)
        nn.init.zeros_(self.say.bias)

    def forward(self, features: list[Tensor], captions: Tensor) -> tuple[Tensor, Tensor]:
        """Each next word from the true ones before it.

        Returns:
            scores float[B, L - 1, V], and where was looked float[B, L - 1, P].
        """
        state = self.begin(features)
        words, looks, said = self.embed(captions), [], []
        for at in range(captions.shape[1] - 1):
            hidden, looked, state = self._next(words[:, at], state)
            said.append(hidden)
            looks.append(looked)
        return self.say(self.dropout(torch.stack(said, dim=1))), torch.stack(looks, dim=1)

    def begin(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The state before the first word: of each image its places, what attention makes of them, and the LSTM's."""
        places = self.pool(features[-1]).flatten(2).transpose(1, 2)  # [B, P, C]
        mean = places.mean(dim=1)
        hidden, cell = self.first_hidden(mean), self.first_cell(mean)
        return {"places": places, "looked_at": self.look_map(places), "hidden": hidden, "cell": cell}

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """int64[N, t] so far -> log-probabilities of the next word float[N, V]."""
        hidden, _, state = self._next(self.embed(tokens[:, -1]), state)
        return self.say(self.dropout(hidden)).float().log_softmax(dim=1), state

    def _next(self, word: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The LSTM's output float[N, hidden], where it looked float[N, P], and the state behind this word."""
        hidden = state["hidden"]
        scores = self.look(F.relu(state["looked_at"] + self.look_state(hidden)[:, None]))[:, :, 0]
        looked = scores.softmax(dim=1)
        seen = (state["places"] * looked[:, :, None]).sum(dim=1) * self.gate(hidden).sigmoid()
        hidden, cell = self.cell(torch.cat([word, seen], dim=1), (hidden, state["cell"]))
        return hidden, looked, {**state, "hidden": hidden, "cell": cell}

    def learn(self, features: list[Tensor], captions: Tensor, lengths: Tensor) -> HeadLoss:
        """Cross entropy summed over words, and (1 - how much a place was looked at in all) squared, summed over places
        of images; `lengths` count start and end."""
        scores, looked = self(features, captions)
        is_word = torch.arange(scores.shape[1], device=lengths.device)[None] < (lengths - 1)[:, None]
        loss, metrics = word_loss(scores, captions, is_word)
        spread = (1.0 - (looked * is_word[:, :, None]).float().sum(dim=1)).square().sum()
        return HeadLoss(terms={"words": loss, "attention": self.config.attention_weight * spread}, metrics=metrics)

    def units(self, lengths: Tensor) -> Mapping[str, float | Tensor]:
        """Words (the end is one), and places of all images."""
        return {"words": (lengths - 1).sum(), "attention": float(len(lengths) * self.config.pool**2)}


def word_loss(
    scores: Tensor, captions: Tensor, is_word: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Ratio]]:
    """Cross entropy summed over the words to be said, and how many of these are among the five likeliest.

    Args:
        scores: float[B, L - 1, V].
        captions: int64[B, L], start first.
        is_word: bool[B, L - 1], which scores are for a word.
    """
    own, truth = scores[is_word].float(), captions[:, 1:][is_word]
    loss = F.cross_entropy(own, truth, reduction="sum", label_smoothing=smoothing)
    among = own.detach().topk(min(5, own.shape[1]), dim=1).indices == truth[:, None]
    right = Ratio(total=among[:, 0].sum(), count=len(truth))
    return loss, {"word": right, "top5": Ratio(total=among.sum(), count=len(truth))}


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a published caption decoder to ours; others stay."""
    ours = {f"{theirs}.": f"{own}." for own, theirs in _PUBLISHED.items()}
    found = {}
    for name, tensor in state.items():
        bare = name.removeprefix(FRONT)
        front = next((one for one in ours if bare.startswith(one)), None)
        found[name if front is None else ours[front] + bare.removeprefix(front)] = tensor
    return found


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """And back."""
    return {
        f"{FRONT}{_PUBLISHED[own]}.{rest}": tensor
        for name, tensor in state.items()
        for own, _, rest in [name.partition(".")]
    }
