"""What classes are called, as vectors: a text tower reads their names in templates.

Shapes: K classes -> float[K, E], of length 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.errors import UserError
from vistruct.vlm.text_tower import TextConfig

PLACE = "{}"  # in a template: where the name goes


class NamesConfig(Part):
    """A text tower, and how classes are put into words for it."""

    text: TextConfig
    templates: tuple[str, ...] = Field((PLACE,), min_length=1)  # each with the place of the name
    texts: dict[str, tuple[str, ...]] = Field({})  # what classes are called in them; else by name, _ as a space
    trains: bool = False  # the tower learns too, so that unknown names mean little; false: it stays as it came

    def build(self, assets: Path) -> ClassNames:
        """A tokenizer that is not CLIP's own lies in `assets`.

        Raises:
            UserError: as `TextConfig.build`; a template without a place.
        """
        check_templates(self.templates, "task.names.templates", f"--set 'task.names.templates=[\"a {PLACE}\"]'")
        return ClassNames(self, assets)


class ClassNames(nn.Module):
    """Names of classes -> float[K, E]: of each the mean of its texts' unit vectors, of length 1 again."""

    def __init__(self, config: NamesConfig, assets: Path) -> None:
        super().__init__()
        self.config = config
        self.text = config.text.build(assets)
        self._known: tuple[tuple[str, ...], Tensor] | None = None

    def forward(self, class_names: tuple[str, ...]) -> Tensor:
        if self.config.trains:
            return self._read(class_names)
        if self._known is None or self._known[0] != class_names:
            with torch.no_grad():
                self._known = class_names, self._read(class_names)
        return self._known[1].to(next(self.text.parameters()).device)

    def _read(self, class_names: tuple[str, ...]) -> Tensor:
        texts = in_words(class_names, self.config.templates, self.config.texts)
        device = next(self.text.parameters()).device
        tokens = self.text.tokenizer([text for own in texts for text in own]).to(device)
        with torch.autocast(device.type, enabled=False):  # the same, whoever asks first
            every = F.normalize(self.text(tokens).float(), dim=-1)
        means = [part.mean(dim=0) for part in every.split([len(own) for own in texts])]
        return F.normalize(torch.stack(means), dim=-1)


def check_templates(templates: Sequence[str], where: str, fix: str) -> None:
    """
    Raises:
        UserError: one without a place for the name, or with several; at `where`, mended by `fix`.
    """
    odd = next((one for one in templates if one.count(PLACE) != 1), None)
    if odd is not None:
        raise UserError(f"a template has {PLACE} once, where the name goes: {odd!r}", where=where, fix=fix)


def in_words(
    class_names: Sequence[str], templates: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Of each class, all that is said of it: every way to call it in every template."""
    called = [texts.get(name, (name.replace("_", " "),)) for name in class_names]
    return [[one.replace(PLACE, own) for own in names for one in templates] for names in called]
