"""Questions about images with the answers of several people (`questions`), each a conversation of its own; and images
with captions, as the question for one.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vistruct.config import Part
from vistruct.contracts import Record
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.dataset import OnBroken, RecordDataset, as_dataset
from vistruct.data.formats.chat.asked import dialogue
from vistruct.data.formats.detect import family_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read
from vistruct.data.input import Input
from vistruct.data.reading import DESCRIBE
from vistruct.errors import UserError
from vistruct.files.fingerprint import fingerprint


class QuestionsDataConfig(Part):
    """VQA v2, OK-VQA, GQA, VizWiz, TextVQA; or captions: NoCaps, COCO, tables."""

    kind: Literal["questions"] = "questions"
    annotation: Path  # file, or the folder of the data set
    images: Path | None = None  # folder of the images; None: found beside the annotation
    format: str = "auto"  # vqa, gqa, text-vqa, or of captions; auto: what the files are
    split: str | None = None  # as it is called on disk, several with a plus
    question: str = DESCRIBE  # of images with captions
    hint: str = ""  # said behind every other question: "Answer with a single word or phrase."
    missing: Literal["stop", "drop"] = "stop"  # what an image does that is not on disk
    on_broken: OnBroken = "stop"  # at an unreadable image in training; see `fetch`
    resize: None = None  # the task says at which size it looks
    augment: None = None

    def build(self, cache: Path | None = None) -> RecordDataset:
        """Find the questions and their images; no pixel is decoded yet.

        Raises:
            UserError: see `formats.read.read`.
        """
        is_described = family_of(self.annotation, self.format).kind == "captions"
        found, report = read(
            self.annotation, "captions" if is_described else "questions", format=self.format, ask=self.ask()
        )
        if not found.records:
            raise UserError("no questions are left", where=self.annotation, fix="`vistruct check` says more")
        records = [self._described(one) if is_described else self._hinted(one) for one in found.records]
        counts = Counter(family for record in records for family in record.families)
        return as_dataset(
            records,
            report,
            self,
            Input(),
            class_names=(),
            fingerprint=fingerprint(
                found.annotations, list(dict.fromkeys(r.images[0] for r in records)), self.annotation
            ),
            counts={"questions": len(records), "images": len({one.image_id for one in records}), **counts},
            read=found.images,
            corpus=functools.partial(_texts, records),  # a partial travels to worker processes, a lambda does not
        )

    def ask(self) -> Ask:
        """What is asked of the reader of a format."""
        return Ask(split=self.split, images=self.images, missing=self.missing)

    def _described(self, record: Record) -> Record:
        turns = dialogue(self.question, record.captions, "caption")
        domain = record.notes.get("domain", "")
        return replace(record, turns=turns, families=(domain,) if domain else (), captions=())

    def _hinted(self, record: Record) -> Record:
        if not self.hint:
            return record
        asked, answer = record.turns
        return replace(record, turns=(replace(asked, text=f"{asked.text}\n{self.hint}"), answer))


def as_questions(captioned: CaptionDataConfig, question: str = DESCRIBE) -> QuestionsDataConfig:
    """Images with captions, as they are read, as questions for one."""
    told = {name: vars(captioned)[name] for name in ("annotation", "images", "format", "split", "missing")}
    return QuestionsDataConfig(**told, question=question)


def _texts(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        for turn in record.turns:
            yield turn.text
