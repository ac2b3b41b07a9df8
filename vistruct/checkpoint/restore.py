"""Reading a checkpoint into a run that goes on, on as many ranks as there are now, however many wrote it.

Each rank reads the rows that it holds and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vistruct.checkpoint.load import refuse_others
from vistruct.checkpoint.manifest import Manifest, num_rows, read_manifest
from vistruct.distributed.shard import first_row, local
from vistruct.errors import UserError


def restore(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> int:
    """Put a checkpoint's weights and optimiser state in place.

    Args:
        model: whole on this rank, or spread over all of them.
        optimizer: its groups list their parameters' names under `names`.
        average: EMA of some of the model's tensors, by their names, to be filled.

    Returns:
        the number of steps that were done when it was written.

    Raises:
        UserError: its tensors are not those of this model (the code has changed since), or a file is damaged.
    """
    manifest = read_manifest(path)
    own = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    found = {name: entry.shape for name, entry in manifest.tensors.items() if name.startswith("model/")}
    found |= {name: found[kept] for name, kept in manifest.aliases.items()}
    refuse_others({name: tuple(tensor.shape) for name, tensor in own.items()}, found, path)
    own |= {f"ema/{name}": tensor for name, tensor in (average or {}).items()}
    absent = [name for name in own if manifest.aliases.get(name, name) not in manifest.tensors]
    if absent:
        fix = "start over in another directory, or set ema as it was"
        raise UserError(f"no averages (EMA) are kept there: {absent[0]}", where=path, fix=fix)
    named = {
        f"optimizer/{name}": parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    states = [name.rpartition("/") for name in manifest.tensors if name.startswith("optimizer/")]
    strange = sorted({name for name, _, _ in states} - set(named))
    if strange:
        first = ", ".join(name.removeprefix("optimizer/") for name in strange[:3])
        raise UserError(
            f"the optimiser state is of other parameters: {first}",
            where=path,
            fix="use the version of vistruct that wrote it, or start over in another directory",
        )
    with Files(path, manifest) as files, torch.no_grad():
        for name, tensor in own.items():
            files.read(manifest.aliases.get(name, name), tensor)
        for name, _, what in states:
            parameter, entry = named[name], manifest.tensors[f"{name}/{what}"]
            dtype = vars(torch)[entry.dtype]
            if entry.shape == tuple(parameter.shape):
                state = torch.zeros_like(parameter, dtype=dtype)  # spread as the parameter is
            else:
                state = local(parameter).new_zeros(entry.shape, dtype=dtype)
            files.read(f"{name}/{what}", state)
            optimizer.state[parameter][what] = state
    return manifest.step


def read_weights(path: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint by name, whole, on the CPU; averaged (EMA) where its run averages.

    Raises:
        UserError: no checkpoint, or a damaged one.
    """
    manifest = read_manifest(path)
    weights: dict[str, Tensor] = {}
    with Files(path, manifest) as files:
        for name, entry in manifest.tensors.items():
            if name.startswith("model/"):
                averaged = f"ema/{name.removeprefix('model/')}"
                weights[name] = torch.empty(entry.shape, dtype=vars(torch)[entry.dtype])
                files.read(averaged if averaged in manifest.tensors else name, weights[name])
    weights |= {name: weights[kept] for name, kept in manifest.aliases.items()}
    return {name.removeprefix("model/"): tensor for name, tensor in weights.items()}


class Files:
    """A checkpoint's files, opened when they are first needed."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def read(self, name: str, into: Tensor) -> None:
        """Fill a tensor, or this rank's rows of it, from the pieces where those rows lie.

        Raises:
            UserError: a file cannot be read, or is not what the manifest says.
        """
        entry, target, first = self.manifest.tensors[name], local(into), first_row(into)
        if entry.dtype != str(target.dtype).removeprefix("torch."):
            raise UserError(
                f"{name} is {entry.dtype} there and {target.dtype} here",
                where=self.path,
                fix="use the version of vistruct that wrote it",
            )
        if not target.numel():
            return
        last = first + num_rows(target.shape)
        ends = [*(piece.offset for piece in entry.pieces[1:]), num_rows(entry.shape)]
        for piece, end in zip(entry.pieces, ends, strict=True):
            begin, stop = max(first, piece.offset), min(last, end)
            if begin >= stop:
                continue
            try:
                rows = self._file(piece.file).get_slice(name)
                if target.ndim == 0:
                    target.copy_(rows[...])
                else:
                    part = rows[begin - piece.offset : stop - piece.offset]
                    target.narrow(0, begin - first, stop - begin).copy_(part)
            except (OSError, SafetensorError, RuntimeError) as error:
                raise UserError(
                    f"{name} cannot be read: {error}",
                    where=self.path / piece.file,
                    fix="remove this checkpoint; the run resumes from the one before",
                ) from error

    def _file(self, name: str) -> Any:
        if name not in self._open:
            file = safe_open(self.path / name, framework="pt", device="cpu")
            self._open[name] = self._stack.enter_context(file)
        return self._open[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
