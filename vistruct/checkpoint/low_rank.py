"""Adapters (LoRA) as numbers, of no model: what is added to which layer, what tells it from others, and where it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistruct.checkpoint.save import write_json
from vistruct.files.json_files import read_record

_SPELLINGS = (  # of parts of a transformer in InternViT, open_clip and transformers; EVA's and timm's stand for all
    (re.compile(r"\b(?:encoder\.layers|transformer\.resblocks)\.(?=\d)"), "blocks."),
    (re.compile(r"(?<=\.)self_attn\."), "attn."),
    (re.compile(r"(?<=\.attn\.)projection$"), "proj"),
)


BESIDE = "adapters.json"  # beside weights of others into which adapters were added
Record = Mapping[str, str | int]  # of adapters that are in weights: their source, digest, and number of layers


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to the weight of one linear layer: scale * b @ a."""

    a: Tensor  # float[rank, in]
    b: Tensor  # float[out, rank]
    scale: float

    def delta(self) -> Tensor:
        """float[out, in]."""
        return self.scale * (self.b.float() @ self.a.float())

    def equals(self, other: LowRank) -> bool:
        """Whether all numbers are the same."""
        return self.scale == other.scale and torch.equal(self.a, other.a) and torch.equal(self.b, other.b)


class Prints(NamedTuple):
    """What tells the weight of an adapted layer from others, as `print_of` gives it."""

    before: str  # of the weight that the adapter was trained beside
    after: str  # of that weight with the adapter added


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The adapters of one file, folder or run."""

    source: Path
    layers: dict[str, LowRank]  # by the name of the layer they belong to, on the CPU
    digest: str  # of all that were there, also where some were left aside since
    base: dict[str, Prints] = field(default_factory=dict)  # by layer; those of others do not say what they belong to
    notes: tuple[str, ...] = ()  # what was left aside

    @property
    def record(self) -> Record:
        """As the json of a model says which adapters are in its weights."""
        return {"source": str(self.source), "digest": self.digest, "layers": len(self.layers)}


def digest_of(layers: Mapping[str, LowRank]) -> str:
    """What tells adapters from others, whatever their layers are called."""
    each = [
        hashlib.sha256(_bytes(one.a.float()) + _bytes(one.b.float()) + repr(float(one.scale)).encode()).digest()
        for one in layers.values()
    ]
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


def print_of(weight: Tensor) -> str:
    """What tells a weight from others: the same in float32 and rounded to bfloat16."""
    return hashlib.sha256(_bytes(weight.to(torch.bfloat16).view(torch.int16))).hexdigest()[:16]


def one_spelling(name: str) -> str:
    """The name of a layer in the words of EVA and timm: `encoder.layers.3.self_attn.qkv` -> `blocks.3.attn.qkv`."""
    for pattern, word in _SPELLINGS:
        name = pattern.sub(word, name)
    return name


def records_in(values: Mapping[str, object]) -> tuple[Record, ...]:
    """The adapters that the json of a model or backbone says to be in its weights."""
    found = values.get("adapters")
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def records_beside(source: Path) -> tuple[Record, ...]:
    """The adapters that are in weights of others, as the file that `write_beside` has left there says."""
    file = (source if source.is_dir() else source.parent) / BESIDE
    if not file.is_file():
        return ()
    told = read_record(file, dict[str, Any])
    return records_in(told) if source.is_dir() or told.get("weights") in ("", source.name) else ()


def write_beside(folder: Path, weights: str, records: Sequence[Record]) -> None:
    """Say which adapters are in the file `weights` of a folder; "": in all that are there."""
    write_json(folder / BESIDE, {"weights": weights, "adapters": [dict(one) for one in records]})


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
