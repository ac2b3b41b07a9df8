"""Records that can be asked for samples, and conversations as such records (`chat`); `boxes.py` has boxes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

import torch
from pydantic import AfterValidator

from vistruct.config import Part
from vistruct.contracts import RGB, DataInfo, Record, Sample
from vistruct.data.account import COUNTED, Account
from vistruct.data.chat.records import Records
from vistruct.data.chat.sources import Opened, Wanted, joined_fingerprint, open_source
from vistruct.data.input import Input
from vistruct.errors import UserError
from vistruct.files.depth import is_depth, read_depth
from vistruct.files.images import UnreadableImage, read_image, read_images
from vistruct.files.masks import rasterise, shares
from vistruct.issues import IssueCounter
from vistruct.transforms.augment import Augment
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.sizing import Sizing, sized

NO_MASKS = (
    "`vistruct masks DATA --fill ellipse --out MASKS` makes some; or learn boxes alone: "
    "train detect --head faster_rcnn, train mtp.pretrain --tasks ss,rd"
)
MaskKind = Literal["none", "pixels", "soft"]  # in an object or not; soft: by how much of the pixel (`shares`)
OnBroken = Literal["stop", "replace"]  # the run stops, or the next sample takes the place; see `fetch`


@dataclass(frozen=True)
class RecordDataset:
    """A list of records and what happens to each on its way to a sample."""

    records: Sequence[Record]
    info: DataInfo
    report: IssueCounter  # what the readers left out, clipped or repaired
    resize: Sizing | None = None  # factor, or what to bring every image to
    augment: Augment | None = None
    whole_records: Sequence[Record] = ()  # boxes only: the images before they were cut into windows
    reencode: JpegReencode | None = None  # conversations only: for the sources that ask for it
    accounts: tuple[Account, ...] = ()  # conversations only: of each data set
    on_broken: OnBroken = "stop"
    masks: MaskKind = "none"  # boxes only: a raster for every object of a sample
    # Of files that are no 8-bit images. Both must be able to travel to a worker process.
    read_images: Callable[[Record], list[torch.Tensor]] | None = None  # number[C, H, W] each; None: 8-bit colours
    read_label_map: Callable[[Record], torch.Tensor] | None = None  # int16[H, W]; None: no class for every pixel
    pictures: tuple[int, ...] | None = None  # a control: whose pixels each record is shown; None: its own
    class_pixels: Counter[int] | None = None  # label maps only: by class, in all of them; None: not looked at

    def __post_init__(self) -> None:
        if self.augment is not None:
            self.augment.check(self.info.pixels)

    def __len__(self) -> int:
        return len(self.records)

    def images(self, index: int) -> list[torch.Tensor]:
        """The images of a record as they are read: number[C, H, W] each.

        Raises:
            UserError: an image that cannot be read.
        """
        record, lazy = self.records[index], self.records if isinstance(self.records, Records) else None
        if self.read_images is not None:
            return self.read_images(record)
        known = [None] * len(record.images) if lazy is None else lazy.checksums(index)
        return [read_image(path, record.window_xyxy, crc32) for path, crc32 in zip(record.images, known, strict=True)]

    def sample(self, index: int, seed: int) -> Sample:
        """Decode a record and vary it; the same index and seed give the same sample on any worker.

        Raises:
            UserError: an image that cannot be read, or is no longer the size it had.
        """
        record = self.records[index]
        lazy = self.records if isinstance(self.records, Records) else None
        images = self.images(index if self.pictures is None else self.pictures[index])
        if record.size_hw is not None and tuple(images[0].shape[1:]) != record.size_hw:
            height, width = images[0].shape[1:]
            what = f"{width} x {height} pixels, but {record.size_hw[1]} x {record.size_hw[0]} when it was listed"
            raise UnreadableImage(what, where=record.images[0], fix="the image changed meanwhile: start again")
        is_drawn = self.masks != "none" or (record.turns != () and record.objects.masks is not None)
        height, width = images[0].shape[1:] if images else (0, 0)
        x0, y0 = record.window_xyxy[:2] if record.window_xyxy is not None else (0, 0)
        sample = Sample(
            id=record.id,
            image_id=record.image_id,
            seed=seed,
            images=images,
            objects=replace(
                record.objects.tensors(),
                masks=self._masks(record, (height, width)) if is_drawn else None,
            ),
            label_map=self._label_map(record, tuple(images[0].shape[1:]) if images else ()),
            image_labels=record.image_labels,
            captions=record.captions,
            turns=record.turns,
            families=record.families,
            max_tiles=record.max_tiles,
            origin_xy=(float(x0), float(y0)),
        )
        if self.reencode is not None and lazy is not None and lazy.is_reencoded(index):
            sample = self.reencode(sample)
        sample = sized(sample, self.resize)
        return self.augment(sample) if self.augment is not None else sample

    def truth(self, index: int) -> torch.Tensor:
        """int16[H, W], the class of every pixel of a record as its file has it, whatever a model is shown.

        Raises:
            UserError: data without label maps, or one that cannot be read.
        """
        if self.read_label_map is None:
            raise UserError("no classes of pixels in this data", where=self.records[index].id, fix="kind: maps")
        return self.read_label_map(self.records[index])

    def _label_map(self, record: Record, size_hw: tuple[int, ...]) -> torch.Tensor | None:
        if self.read_label_map is None:
            return None
        label_map = self.read_label_map(record)
        if tuple(label_map.shape) != size_hw:
            (h, w), (height, width) = label_map.shape, size_hw
            what = f"labels of {w} x {h} pixels for an image of {width} x {height}"
            raise UnreadableImage(what, where=record.label_map or record.id, fix="bring both to the same grid")
        return label_map

    def _masks(self, record: Record, size_hw: tuple[int, int]) -> torch.Tensor:
        """bool[N, H, W] of the record's window, float32 where any is soft."""
        if record.objects.masks is None:
            raise UserError("masks are wanted, and these annotations have none", where=record.id, fix=NO_MASKS)
        height, width = size_hw
        window = record.window_xyxy or (0, 0, width, height)
        draw, dtype = (shares, torch.float32) if self.masks == "soft" else (rasterise, torch.bool)
        if any(map(is_depth, record.objects.masks)):
            dtype = torch.float32
        drawn = torch.zeros(len(record.objects), height, width, dtype=dtype)
        for number, mask in enumerate(record.objects.masks):
            drawn[number] = torch.from_numpy(read_depth(mask, size_hw) if is_depth(mask) else draw(mask, window))
        return drawn


def mask_kind(wanted: bool | Literal["soft"]) -> MaskKind:
    """Of what a data config says."""
    return "soft" if wanted == "soft" else "pixels" if wanted else "none"


class Showing(Protocol):
    """What a data config says of how its records are shown."""

    @property
    def resize(self) -> Sizing | None: ...

    @property
    def augment(self) -> Augment | None: ...

    @property
    def on_broken(self) -> OnBroken: ...


def as_dataset(
    records: Sequence[Record],
    report: IssueCounter,
    showing: Showing,
    shown: Input,
    *,
    class_names: tuple[str, ...],
    map_class_names: tuple[str, ...] = (),
    fingerprint: str,
    counts: Mapping[str, int],
    palette: tuple[RGB, ...] | None = None,
    read: Callable[[Record], list[torch.Tensor]] | None = None,
    read_label_map: Callable[[Record], torch.Tensor] | None = None,
    whole_records: Sequence[Record] = (),
    masks: MaskKind = "none",
    corpus: Callable[[], Iterator[str]] | None = None,
) -> RecordDataset:
    """The data set of records that a data config has found and chosen.

    Args:
        read: images of a record; None: files, as `shown` takes them in.
    """
    info = DataInfo(
        class_names=class_names,
        map_class_names=map_class_names,
        palette=palette,
        channels=shown.channels,
        pixels="uint8" if shown.intake is None else shown.intake.pixels,
        input=shown.model_dump(mode="json"),
        num_records=len(records),
        fingerprint=fingerprint,
        counts=counts,
        dropped=dict(report.counts),
        corpus=corpus,
    )
    if read is None and shown.intake is not None:
        read = functools.partial(read_images, intake=shown.intake)  # a partial travels to worker processes
    return RecordDataset(
        records,
        info,
        report,
        showing.resize,
        showing.augment,
        whole_records,
        on_broken=showing.on_broken,
        masks=masks,
        read_images=read,
        read_label_map=read_label_map,
    )


def _words_stay_true(augment: Augment) -> Augment:
    """Refuse variation that would make words about an image false."""
    if augment.moves_things:
        raise UserError(
            "flips, turns and changes of scale would make 'left', 'top' and the boxes in the text false",
            where="augment of a chat data set",
            fix="use photometric alone",
        )
    return augment


ColourAugment = Annotated[Augment, AfterValidator(_words_stay_true)]  # of data whose words say where something is


class ChatDataConfig(Part):
    """Conversations about images from one or more files, jsonl or a json list."""

    kind: Literal["chat"] = "chat"
    jsonl: Path | tuple[Path, ...]
    root: Path | None = None  # folder that image paths start from; None: that of each file
    augment: ColourAugment | None = None
    checksums: bool = True  # read every image once before training, so that a damaged one is found
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find out about every conversation and image; no image is decoded yet.

        Args:
            cache: folder that keeps what was found out for the next start; None: it is not kept.

        Raises:
            UserError: see `sources.open_source`; or no conversation is left.
        """
        paths = self.jsonl if isinstance(self.jsonl, tuple) else (self.jsonl,)
        names = [""] if len(paths) == 1 else _told_apart(paths)
        wanted = [
            Wanted(name=name, annotation=path, root=path.parent if self.root is None else self.root)
            for name, path in zip(names, paths, strict=True)
        ]
        as_they_are = self.on_broken == "stop"  # where another takes its place, it goes on doing so
        opened = [open_source(one, checksums=self.checksums, cache=cache, as_they_are=as_they_are) for one in wanted]
        return conversations(opened, ", ".join(map(str, paths)), augment=self.augment, on_broken=self.on_broken)


def conversations(
    opened: Sequence[Opened],
    where: object,
    *,
    augment: Augment | None = None,
    reencode: JpegReencode | None = None,
    report: IssueCounter | None = None,
    on_broken: OnBroken = "stop",
) -> RecordDataset:
    """Data sets of conversations behind each other.

    Args:
        reencode: for the sources that ask for it.
        report: what is to be said of them beside their accounts.

    Raises:
        UserError: no conversation is left.
    """
    records = Records([one.source for one in opened])
    accounts = tuple(one.account for one in opened)
    report = report or IssueCounter()
    info = conversation_info(records, accounts, report, joined_fingerprint(opened))
    if not records:
        reasons = [f"{number} x {reason}" for reason, number in info.dropped.items()]
        what = "no conversations are left" + (f": {'; '.join(reasons)}" if reasons else "")
        raise UserError(what, where=where, fix="`vistruct check` says more")
    return RecordDataset(
        records, info, report, augment=augment, reencode=reencode, accounts=accounts, on_broken=on_broken
    )


def conversation_info(records: Records, accounts: Sequence[Account], report: IssueCounter, digest: str) -> DataInfo:
    """What an epoch has, repeats included; of each data set by name too where there are several."""
    counts = {
        name: sum(one.counts[name] * (one.repeats if name != "images" else 1) for one in accounts) for name in COUNTED
    }
    if len(accounts) > 1:
        counts |= {f"{one.name}: {name}": number for one in accounts for name, number in one.counts.items()}
        counts |= {f"{one.name}: repeats": one.repeats for one in accounts if one.repeats > 1}
    dropped = {reason: number for one in accounts for reason, number in one.dropped().items()}
    dropped |= {f"{reason} ({report.places(reason)})": number for reason, number in sorted(report.counts.items())}
    return DataInfo(
        num_records=len(records),
        fingerprint=digest,
        counts=counts,
        dropped=dropped,
        corpus=functools.partial(_texts, records),  # a partial travels to worker processes, a lambda does not
    )


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """File names, with as many of their folders as it takes to tell them apart."""
    if len({path.absolute() for path in paths}) < len(paths):
        raise UserError("a file is named twice", where=", ".join(map(str, paths)), fix="a mix file can repeat one")
    depth = 1
    while len({path.absolute().parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.absolute().parts[-depth:]) for path in paths]


def _texts(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        for turn in record.turns:
            yield turn.text
