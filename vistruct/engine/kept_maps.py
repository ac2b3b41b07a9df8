"""The maps of a frozen backbone, kept on disk: an image goes through it once, however often it is learned from.

So are those of teachers (`engine.teachers`), each in a folder of its own.

    FOLDER/<backbone>/backbone.json       what decides the maps beside the image, in words
    FOLDER/<backbone>/ab/ab12...safetensors  the maps of one image, with a sum of their bytes

What is kept cannot be another's: <backbone> is a digest of its weights, its settings and how it is computed, and the
name of a file is a digest of the pixels that the backbone was shown, normalised and padded. Images go through it one by
one: the maps are then a function of the image alone, whatever lay beside it, on however many devices, kept or not, and
a run that goes on does so bit for bit. Each file is moved to its place when it is whole, so that ranks and runs may
share a folder; one that was damaged is computed again, and said.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import vistruct
from vistruct.checkpoint.save import write_json
from vistruct.checkpoint.tensors import no_room
from vistruct.config import CacheMaps, Run
from vistruct.contracts import Dataset, MapTask, Sample
from vistruct.distributed.precision import autocast
from vistruct.distributed.ranks import Ranks, all_reduce_sum, main_first
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage
from vistruct.files.whole import whole_file

Say = Callable[[str], None]
GB = 1e9
LOOKED_AT = 8  # samples of a data set, by which the room that all take is estimated
_LEFT_S = 3600.0  # a file that was being written so long ago is nobody's any more
_TYPES = {str(one).removeprefix("torch."): one for one in (torch.float32, torch.bfloat16, torch.float16)}
_KEPT = {"as_computed": None, "bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A data set, and what of its samples goes through a backbone."""

    dataset: Dataset
    images: Callable[[list[Sample]], Tensor]  # -> float[B, C, H, W], normalised and padded, on the device


def kept_maps(run: Run, model: Any, tasks: Mapping[str, Any], ranks: Ranks, amp: torch.dtype | None) -> KeptMaps:
    """
    Args:
        run: with `cache_maps`.
        model: with its weights in place and on its device, in its modes for training.
        tasks: by the names of their streams.
        amp: autocast dtype; None: float32.

    Raises:
        UserError: the backbone trains, or is asked for more than maps; images are varied at random.
    """
    asked = run.cache_maps
    assert asked is not None
    backbone: Any = model.backbone
    for name, stream in run.streams.items():
        refuse_varied(run, name)
        if not isinstance(tasks[name], MapTask):
            what = f"a task of kind {stream.task.kind} learns from more than the backbone's maps"
            place = "task" if len(run.streams) == 1 else f"streams.{name}.task"
            raise UserError(what, where=place, fix="--set cache_maps=null")
    moving = [name for name, one in backbone.named_parameters() if one.requires_grad]
    if moving:
        what = f"the backbone trains (backbone.{moving[0]} does), so that its maps change with every step"
        raise UserError(what, where="trainable", fix="--set cache_maps=null, or freeze backbone with all its adapters")
    if backbone.training:
        what = "the frozen backbone is in training mode, where it gives other maps each time"
        raise UserError(what, where="trainable", fix="--set cache_maps=null, or train_mode: false")
    if run.parallel == "fsdp" and ranks.world > 1:
        what = "a backbone that is spread over devices is computed by all of them, and maps are kept by each alone"
        raise UserError(what, where="parallel", fix="--set parallel=ddp, or --set cache_maps=null")
    settings: Any = next(iter(run.streams.values())).task
    decides = {"backbone": settings.backbone.model_dump(mode="json"), "weights": digest_of(backbone.state_dict())}
    with main_first(ranks):
        return KeptMaps(backbone, asked, decides, ranks, amp)


def refuse_varied(run: Run, stream: str) -> None:
    """
    Raises:
        UserError: images of this stream are varied at random.
    """
    if vars(run.streams[stream].data).get("augment") is not None:
        place = "data.augment" if len(run.streams) == 1 else f"streams.{stream}.data.augment"
        what = "images that are varied at random never come twice, so that their maps cannot be kept"
        raise UserError(what, where=place, fix=f"--set {place}=null, or no cache_maps")


class KeptMaps:
    """float[B, C, H, W] -> the backbone's maps, read where they are kept, else computed and kept; without a graph.

    Args:
        look: the backbone, or what it gives of it; in its mode and on its device.
        decides: what it gives, beside how it is computed: its settings and a digest of its weights.
        of: whose maps they are, in words.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(
        self,
        look: Callable[[Tensor], Sequence[Tensor]],
        asked: CacheMaps,
        decides: dict[str, Any],
        ranks: Ranks,
        amp: torch.dtype | None,
        of: str = "the backbone",
    ) -> None:
        self.look, self.asked, self.ranks, self.of = look, asked, ranks, of
        self.dtype, self.amp = _KEPT[asked.dtype], amp
        told = {
            **decides,
            "autocast": str(amp),
            "device": ranks.device.type,
            "torch": torch.__version__,
            "vistruct": vistruct.__version__,
            "kept": asked.dtype,
        }
        self.folder = asked.folder / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "backbone.json").exists():
                write_json(self.folder / "backbone.json", told)
            self.before = _bytes_in(self.folder)  # of all ranks and runs until now
        except OSError as error:
            raise no_room(error, self.folder) from error
        self.written = self.read = self.computed = 0  # bytes; images
        self.damaged: list[Path] = []
        self.is_full = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """One map for each of the backbone's `specs`, on the device of `images`."""
        found: dict[str, list[Tensor]] = {}
        names = [name_of(image) for image in images.cpu()]
        for name, image in zip(names, images, strict=True):
            if name not in found:
                found[name] = self._maps(name, image)
        return [torch.stack(level) for level in zip(*(found[name] for name in names), strict=True)]

    def _maps(self, name: str, image: Tensor) -> list[Tensor]:
        """[D, h, w] each, of one image [C, H, W]."""
        file = self.folder / name[:2] / f"{name}.safetensors"
        kept = _read(file)
        if kept is not None:
            self.read += 1
            return [level.to(image.device, non_blocking=True) for level in kept]
        if file.exists():
            self.damaged.append(file)
        self.computed += 1
        with autocast(self.amp, image.device):
            maps = [level[0] for level in self.look(image[None])]
        rounded = [level.to(self.dtype or level.dtype) for level in maps]
        self._keep(file, rounded, [str(level.dtype).removeprefix("torch.") for level in maps])
        return [small.to(level.dtype) for small, level in zip(rounded, maps, strict=True)]

    def _keep(self, file: Path, maps: Sequence[Tensor], given: Sequence[str]) -> None:
        """Write maps, which are given as other types than they are kept in."""
        size = sum(level.numel() * level.element_size() for level in maps)
        if self.written + size > (self.asked.limit_gb * GB - self.before) / self.ranks.world:
            self.is_full = True
            return
        on_cpu = [level.contiguous().cpu() for level in maps]
        known = {"given": " ".join(given), "sum": _sum(on_cpu, given)}
        try:
            with whole_file(file) as temporary:
                save_file({str(number): level for number, level in enumerate(on_cpu)}, temporary, metadata=known)
        except (OSError, SafetensorError) as error:
            raise no_room(error, file) from error
        self.written += size

    def tell(self, say: Say) -> None:
        """Say what was read, computed and damaged since this process began, on all ranks."""
        own = torch.tensor([self.read, self.computed, len(self.damaged), self.is_full], dtype=torch.float64)
        read, computed, damaged, full = (int(number) for number in all_reduce_sum(own))
        say(f"maps of {self.of}: {read:,} read, {computed:,} computed ({self.folder})")
        if damaged:
            shown = f", such as {self.damaged[0]}" if self.damaged else ""
            say(f"  {damaged} x kept maps were damaged, and computed again{shown}")
        if full:
            say(f"  the limit of {self.asked.limit_gb:g} GB is reached: the other images are computed each time")


def announce(maps: KeptMaps, sources: Sequence[Shown], say: Say) -> None:
    """Say how much room the maps of all training images will take, before the first step.

    Raises:
        UserError: more than is free.
    """
    needed, number, sizes = 0.0, 0, set()
    for source in sources:
        total = len(source.dataset)
        areas, bytes_of_one = [], 0.0
        for index in sorted({total * i // LOOKED_AT for i in range(LOOKED_AT)}):
            try:
                samples = [source.dataset.sample(index, 0)]
            except UnreadableImage:  # training stops at it, or lets another take its place
                continue
            images = source.images(samples)
            sizes.add(tuple(images.shape[2:]))
            areas.append(images.numel())
            if not bytes_of_one:
                bytes_of_one = sum(level.numel() * level.element_size() for level in maps(images)) / images.numel()
        needed += bytes_of_one * sum(areas) / max(1, len(areas)) * total
        number += total
    needed = min(needed, maps.asked.limit_gb * GB)
    left = max(0.0, needed - maps.before)
    free = shutil.disk_usage(maps.folder).free
    say(f"maps of {maps.of} for {number:,} images: about {_room(needed)}, {_room(maps.before)} of it there already")
    if len(sizes) > 1:
        say(
            "  images come in different sizes and are padded to the largest of their batch: maps are found again only "
            "beside as large ones; task.size_divisor makes all alike"
        )
    if left > free:
        what = f"the maps take about {_room(left)} more, and {_room(free)} are free"
        fix = f"free some, or keep a part: --set cache_maps.limit_gb={max(0.1, (maps.before + free * 0.9) / GB):.1f}"
        raise UserError(what, where=maps.folder, fix=fix)


def digest_of(state: Mapping[str, Tensor]) -> str:
    """sha256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def name_of(image: Tensor) -> str:
    """sha256 of a normalised and padded image float[C, H, W] on the CPU."""
    digest = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}\n".encode())
    digest.update(_bytes(image))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return memoryview(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())


def _sum(maps: Sequence[Tensor], given: Sequence[str]) -> str:
    found = 0
    for level, dtype in zip(maps, given, strict=True):
        found = zlib.crc32(f"{level.dtype} {tuple(level.shape)} {dtype}".encode(), found)
        found = zlib.crc32(_bytes(level), found)
    return str(found)


def _read(file: Path) -> list[Tensor] | None:
    """The maps of a file; None: there is none, or not the one that was written."""
    try:
        with safe_open(file, framework="pt") as opened:
            known = opened.metadata() or {}
            given = known["given"].split(" ")
            maps = [opened.get_tensor(str(number)) for number in range(len(given))]
        if known["sum"] != _sum(maps, given):
            return None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return [level.to(_TYPES[dtype]) for level, dtype in zip(maps, given, strict=True)]


def _bytes_in(folder: Path) -> int:
    """Of all maps; what was left half written by a process that was killed is removed."""
    total = 0
    for file in folder.glob("??/*"):
        with suppress(FileNotFoundError):  # another process may be at work here
            found = file.stat()
            if file.name.endswith(".tmp"):
                if found.st_mtime < time.time() - _LEFT_S:
                    file.unlink()
            else:
                total += found.st_size
    return total


def _room(size: float) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB else f"{size / 1e6:,.1f} MB"
