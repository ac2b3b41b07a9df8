"""Writing checkpoints, while training goes on.

A save copies what this rank has to write, which takes a moment, and hands it to a thread: that writes, tells the other
ranks' threads its checksum through a process group of their own, and rank 0's makes the checkpoint of it. They agree on
how it ended, so that a disk that is full on one machine stops the run on all in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from vistruct.checkpoint.manifest import Held, Shard, Standing, assemble
from vistruct.checkpoint.pieces import Snapshot, named_tensors, rows_of
from vistruct.checkpoint.save import PARTIAL, begin, commit, step_name, sweep
from vistruct.checkpoint.tensors import no_room, write_tensors
from vistruct.distributed.ranks import from_main, gather_objects, own_rank, patient_group, world_size
from vistruct.errors import UserError

SPOKEN_S = 1.0  # a wait for the save before that is worth a word


class Saver:
    """Saves one checkpoint at a time; all ranks make one together and call it at the same steps.

    As a context it waits, at the end, for the save that is under way.

    Args:
        root: the run's `checkpoints/`; made if missing.
        keep: newest checkpoints that stay, at least 1.
        parallel: how the model lies among the ranks, for the record.
        background: return from `save` before it is written.
        say: is told if training had to wait for the save before.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int,
        parallel: str = "ddp",
        background: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.root, self.keep, self.parallel = root, keep, parallel
        self.background, self.say = background, say
        self.rank, self.world = own_rank(), world_size()
        self._group = patient_group() if self.world > 1 else None
        self._snapshot = Snapshot()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        standing: Standing | None = None,
        average: Mapping[str, Tensor] | None = None,
        scaler: Mapping[str, float] | None = None,
    ) -> None:
        """Save what model and optimiser are now; what becomes of them afterwards does not matter.

        Args:
            standing: how the run stands; the checkpoint of its best step is kept as long as this one is.
            optimizer: its groups list their parameters' names under `names`.
            average: EMA of some of the model's tensors, by their names.
            scaler: state of torch's GradScaler.

        Raises:
            UserError: this save or the one before it did not succeed; older checkpoints are as they were.
        """
        begun = time.monotonic()
        self.finish()
        if (waited := time.monotonic() - begun) > SPOKEN_S:
            self.say(f"step {step}: waited {waited:.1f} s for the save before; save less often, or to a faster disk")
        tensors, aliases = named_tensors(model, optimizer)
        tensors |= {f"ema/{name}": tensor for name, tensor in (average or {}).items()}
        buffers = {f"{kind}/{name}" for name, _ in model.named_buffers() for kind in ("model", "ema")}
        rows = list(rows_of(tensors, buffers, rank=self.rank, world=self.world))
        self._snapshot.take(rows)
        held = tuple(part.held for part in rows)
        self._running = self._thread.submit(self._write, step, held, aliases, (standing, scaler))
        if not self.background:
            self.finish()

    @property
    def failed(self) -> bool:
        """Whether the save under way is known to have failed; `finish` says why."""
        running = self._running
        return running is not None and running.done() and running.exception() is not None

    def finish(self) -> None:
        """Wait for the save under way, if there is one.

        Raises:
            UserError: it did not succeed, on every rank alike; older checkpoints are as they were.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.finish()
        except (UserError, RuntimeError) as second:
            if error is None:
                raise
            self.say(f"the last save did not succeed either: {second}")  # what came first is what is shown
        finally:
            self._thread.shutdown()

    def _write(self, step: int, held: tuple[Held, ...], aliases: dict[str, str], beside: tuple[Any, Any]) -> None:
        """What the thread does, of every rank alike."""
        self._agree(lambda: begin(self.root, step))
        partial = self.root / f"{PARTIAL}{step_name(step)}"
        name = f"shard_{self.rank:05d}-of-{self.world:05d}.safetensors"
        told: Shard | UserError
        try:
            told = _write_shard(partial / name, self._snapshot.tensors(), held)
        except UserError as error:
            told = error
        shards = gather_objects(told, self._group)

        def end() -> None:
            try:
                for shard in shards:
                    if isinstance(shard, UserError):
                        raise shard
                written = [shard for shard in shards if isinstance(shard, Shard)]
                commit(partial, assemble(step, self.parallel, written, aliases, *beside), keep=self.keep)
            except UserError:
                sweep(self.root)
                raise

        self._agree(end)

    def _agree(self, work: Callable[[], object]) -> None:
        """Let rank 0 do it; if it fails, it has failed on every rank."""
        wrong: UserError | None = None
        if self.rank == 0:
            try:
                work()
            except UserError as error:
                wrong = error
        wrong = from_main(wrong, self._group)
        if wrong is not None:
            raise wrong


def save(root: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Save one checkpoint, now.

    Returns:
        its directory.

    Raises:
        UserError: no room; the previous checkpoints are as they were.
    """
    with Saver(root, keep=keep, background=False) as saver:
        saver.save(step, model, optimizer)
    return root / step_name(step)


def _write_shard(path: Path, tensors: dict[str, Tensor], held: tuple[Held, ...]) -> Shard:
    try:
        path.parent.mkdir(exist_ok=True)  # on a shared disk, made by another machine just now
        digest = write_tensors(path, tensors)
        return Shard(file=path.name, bytes=path.stat().st_size, sha256=digest, held=held)
    except OSError as error:
        raise no_room(error, path) from error
