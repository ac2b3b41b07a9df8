"""The adapters of ViSFT as released: q and v of every block's fused qkv, rank 64 each, of a scale that no file says.

    visual.blocks.I.attn.qkv.lora_A   float32[128, C]   rows 0 to 63 are A of q, the others A of v
    visual.blocks.I.attn.qkv.lora_B   float32[2 C, 64]  rows 0 to C - 1 are B of q, the others B of v

What is added to the weight float[3 C, C] is B A / 64 in its first and last third. A stage-2 checkpoint has the same
tensors under `model` and `visft_heads.backbone.0.`, beside the heads.

Source: Tian et al., arXiv:2401.10222; loralib's MergedLinear with its usual alpha of 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vistruct.checkpoint.low_rank import Adapters, LowRank, digest_of, one_spelling
from vistruct.checkpoint.pickled import is_pickled, read_pickled
from vistruct.checkpoint.tensors import read_tensors
from vistruct.errors import UserError

RANK, SCALE = 64, 1 / 64
FRONT = "visual."
FILE = "lora.pt"  # as it is exported
_NAME = re.compile(r"(.*?)\b(blocks\.\d+\.attn\.qkv)")


def read_visft(file: Path) -> Adapters:
    """Adapters of the whole fused layers, by names that begin with `blocks.`

    Raises:
        UserError: no such adapters in the file; others of another rank; a damaged file.
    """
    tensors = read_pickled(file)[0] if is_pickled(file) else read_tensors(file)
    held: dict[str, dict[str, Tensor]] = {}
    fronts: set[str] = set()
    for key, tensor in tensors.items():
        layer, _, letter = key.rpartition(".lora_")
        named = _NAME.fullmatch(layer) if letter in ("A", "B") else None
        if named is not None:
            fronts.add(named[1])
            held.setdefault(named[2], {})[letter] = tensor
        elif ".lora_" in key:
            fix = "peft's adapters are a folder: give that, with its adapter_config.json"
            raise UserError(f"{key} is no adapter of ViSFT's (blocks.N.attn.qkv.lora_A)", where=file, fix=fix)
    if not held:
        what = f"no adapters among its {len(tensors)} tensors, such as {next(iter(tensors), 'none')}"
        raise UserError(what, where=file, fix=f"see what is there: vistruct inspect {file}")
    if len(fronts) > 1:
        what = f"adapters of several models: {', '.join(sorted(fronts))}"
        raise UserError(what, where=file, fix=f"take one out: vistruct inspect {file} --take {min(fronts)} --out FILE")
    others = sum(".lora_" not in key for key in tensors)
    layers = {name: _whole(name, pair, file) for name, pair in held.items()}
    return Adapters(
        source=file,
        layers=layers,
        digest=digest_of(layers),
        notes=(f"{others} tensors that are no adapters (heads) were left aside",) if others else (),
    )


def _whole(name: str, pair: Mapping[str, Tensor], file: Path) -> LowRank:
    """One adapter of the whole layer: B is zero where the layer gives keys, and where q and v would mix."""
    shapes = {f"lora_{letter}": list(tensor.shape) for letter, tensor in pair.items()}
    if pair.keys() != {"A", "B"} or any(tensor.ndim != 2 for tensor in pair.values()):
        raise UserError(f"{name} has no A and B: {shapes}", where=file, fix="copy or download it again")
    a, b = pair["A"].float(), pair["B"].float()
    if len(a) != 2 * RANK or tuple(b.shape) != (2 * a.shape[1], RANK):
        what = f"{name} has {shapes}; of q and v with rank {RANK} they are [{2 * RANK}, C] and [2 C, {RANK}]"
        fix = "the file does not say the scale of another rank: give a folder of peft's, which does (lora_alpha)"
        raise UserError(what, where=file, fix=fix)
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise UserError(f"NaN or infinity in the adapter of {name}", where=file, fix="use an earlier checkpoint")
    width = a.shape[1]
    whole = b.new_zeros(3 * width, 2 * RANK)
    whole[:width, :RANK], whole[2 * width :, RANK:] = b[:width], b[width:]
    return LowRank(a=a, b=whole, scale=SCALE)


def write_visft(file: Path, adapters: Mapping[str, LowRank], source: Path) -> None:
    """Write adapters as released, for torch.load.

    Args:
        adapters: by names that end in blocks.N.attn.qkv, and have nothing else before it than what is of one model.
        source: where they are from, for an error.

    Raises:
        UserError: what this layout has no place for: another layer, keys, a rank above 64.
    """
    state: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        named = _NAME.fullmatch(one_spelling(name))
        if named is None or f"{FRONT}{named[2]}.lora_A" in state:
            what = f"ViSFT's layout has adapters of blocks.N.attn.qkv alone, and there is one of {name}"
            raise UserError(what, where=source, fix="--format lora: peft's folder has any layer")
        a, b = _parts(name, adapter, source)
        state |= {f"{FRONT}{named[2]}.lora_A": a, f"{FRONT}{named[2]}.lora_B": b}
    from vistruct.checkpoint.public import write_published  # seconds to import

    write_published(file, state, "")


def _parts(name: str, adapter: LowRank, source: Path) -> tuple[Tensor, Tensor]:
    """float[128, C] and float[2 C, 64] of the same sum."""
    a, b, width = adapter.a.float(), adapter.b.float(), adapter.a.shape[1]
    if len(b) != 3 * width or b[width : 2 * width].any():
        what = f"ViSFT's layout has q and v of a fused qkv, and the adapter of {name} is of keys or other outputs too"
        raise UserError(what, where=source, fix="--format lora: peft's folder has any adapter")
    found: list[tuple[Tensor, Tensor]] = []
    for rows in (b[:width], b[2 * width :]):
        used = rows.any(dim=0).nonzero().flatten()  # of an adapter of parts each has columns of its own
        if len(used) > RANK:
            what = f"ViSFT's layout has adapters of rank {RANK}, and {name} has one of {len(used)} for q or for v"
            raise UserError(what, where=source, fix="--format lora: peft's folder has any rank")
        own_a, own_b = a.new_zeros(RANK, width), b.new_zeros(width, RANK)
        own_a[: len(used)], own_b[:, : len(used)] = a[used], rows[:, used] * (adapter.scale / SCALE)
        found.append((own_a, own_b))
    (a_q, b_q), (a_v, b_v) = found
    return torch.cat([a_q, a_v]), torch.cat([b_q, b_v])
