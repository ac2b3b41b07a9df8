"""What a data set offers, and what a task must know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vistruct.contracts.truth import RGB, Pixels, Record, Sample


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a task must know of its data before it is built, and what `data.json` keeps."""

    class_names: tuple[str, ...] = ()
    map_class_names: tuple[str, ...] = ()  # of label maps beside objects, the background first; (): there are none
    palette: tuple[RGB, ...] | None = None  # colour of each class, where the data set has its own
    channels: int = 3  # of each image
    pixels: Pixels = "uint8"  # of each image
    # Of each channel, measured where the task asks for it: of values from 0 to 1, or in the unit of raw ones.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixel_counts: tuple[int, ...] | None = None  # of each class of pixels, counted where the task asks for it
    input: Mapping[str, Any] = field(default_factory=dict)  # how images are put before a model: `data.input`, as json
    num_records: int = 0
    fingerprint: str = ""  # sha256 over the annotation files and the list of images with their sizes in bytes
    counts: Mapping[str, int] = field(default_factory=dict)  # objects by class, turns by family, ...
    dropped: Mapping[str, int] = field(default_factory=dict)  # what was left out or repaired, by reason
    corpus: Callable[[], Iterator[str]] | None = field(default=None, compare=False)  # texts, to train a tokenizer on

    @property
    def pixel_class_names(self) -> tuple[str, ...]:
        """What label maps count in, beside objects or alone."""
        return self.map_class_names or self.class_names

    @property
    def panoptic_class_names(self) -> tuple[str, ...]:
        """Things first, the classes of the objects; then stuff, those of label maps that no object has."""
        return self.class_names + tuple(name for name in self.map_class_names if name not in self.class_names)


class Dataset(Protocol):
    """Records with a way to make a sample of each; `sample` is a pure function of its arguments."""

    @property
    def info(self) -> DataInfo: ...

    @property
    def records(self) -> Sequence[Record]: ...

    def __len__(self) -> int: ...

    def sample(self, index: int, seed: int) -> Sample: ...
