"""The units that a caption is written in, and their numbers: words, characters, or pieces of words.

Words are those of the published word maps (`words.py`), and a WORDMAP json of theirs is read; characters keep capitals
and punctuation, as the reading of text needs; pieces are byte-level BPE of `tokenizers`, which knows every text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.files.text import write_text
from vistruct.vlm.words import END, PAD, SPECIAL, START, UNKNOWN, tokens_of, word_map_of

Units = Literal["words", "characters", "subwords"]
Corpus = Callable[[], Iterator[str]]
FILE = "words.json"  # of a model: a word map; of subwords the json of `tokenizers`


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Texts <-> numbers. Travels to worker processes."""

    units: Units
    numbers: Mapping[str, int]  # of each unit, those that nobody says among them
    pieces: str = ""  # of subwords: the json of `tokenizers`

    def __len__(self) -> int:
        return 1 + max(self.numbers.values())

    def encode(self, text: str) -> list[int]:
        """Start, the units of a text, end. One that is not known is the unknown one; characters of one text stand apart
        by single blanks where there are any."""
        return [self.numbers[START], *self._inner(text), self.numbers[END]]

    def _inner(self, text: str) -> list[int]:
        if self.units == "subwords":
            return _tokenizer(self.pieces).encode(text).ids
        unknown = self.numbers[UNKNOWN]
        return [self.numbers.get(unit, unknown) for unit in units_of(text, self.units)]

    def decode(self, numbers: list[int]) -> str:
        """The text of units; start, end and padding are no part of it."""
        silent = {self.numbers[word] for word in (START, END, PAD)}
        said = [number for number in numbers if number not in silent]
        if self.units == "subwords":
            return _tokenizer(self.pieces).decode(said).strip()
        names = {number: unit for unit, number in self.numbers.items()}
        return (" " if self.units == "words" else "").join(names[number] for number in said)

    def save(self, file: Path) -> None:
        """As a WORDMAP json, or that of `tokenizers`."""
        write_text(file, [self.pieces or json.dumps(dict(self.numbers), ensure_ascii=False)])


def units_of(text: str, units: Units) -> list[str]:
    """The words or characters of a text."""
    return tokens_of(text) if units == "words" else list(" ".join(text.split()))


def open_vocabulary(
    assets: Path, units: Units, corpus: Corpus | None, *, given: Path | None, least: int, size: int
) -> Vocabulary:
    """The vocabulary that a model keeps in `assets`, else a given one, else one made of texts; it is kept there.

    Args:
        given: a word map, or the json of `tokenizers` for subwords.
        least: how often a word or character must occur in the texts.
        size: of a vocabulary of subwords that is made.

    Raises:
        UserError: none kept, none given and no texts; one that is no word map.
    """
    kept = assets / FILE
    if kept.is_file() or given is not None:
        found = read_vocabulary(kept if kept.is_file() else given or kept, units)
    elif corpus is None:
        what = "no words, and no captions to find them in"
        raise UserError(what, where=kept, fix="train on data with captions (kind: captions)")
    elif units == "subwords":
        found = _with_pieces(_trained(corpus(), size).to_str())
    else:
        counts = Counter(unit for text in corpus() for unit in units_of(text, units))
        found = Vocabulary(units=units, numbers=word_map_of(counts, least))
        if len(found) == len(SPECIAL):
            what = f"none of the {units} in the captions occurs {least} times"
            raise UserError(what, where="task.least_count", fix="--set task.least_count=1")
    if not kept.is_file():
        found.save(kept)
    return found


def read_vocabulary(file: Path, units: Units) -> Vocabulary:
    """
    Raises:
        UserError: no word map: words without numbers of their own, or without start, end, unknown and padding.
    """
    if units == "subwords":
        try:
            pieces = Tokenizer.from_file(str(file)).to_str()
        except Exception as error:  # what `tokenizers` raises has no type of its own
            raise UserError(f"no tokenizer: {error}", where=file, fix="a tokenizer.json of `tokenizers`") from error
        return _with_pieces(pieces)
    numbers = read_record(file, dict[str, int])
    missing = [word for word in SPECIAL if word not in numbers]
    if missing or sorted(numbers.values()) != list(range(len(numbers))):
        what = f"no {missing[0]} in this word map" if missing else "numbers of words that are not 0, 1, 2, ..."
        raise UserError(what, where=file, fix="give the WORDMAP json that belongs to the model, whole")
    return Vocabulary(units=units, numbers=numbers)


def _trained(texts: Iterator[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, START, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _with_pieces(pieces: str) -> Vocabulary:
    numbers = Tokenizer.from_str(pieces).get_vocab()
    missing = [word for word in SPECIAL if word not in numbers]
    if missing:
        raise UserError(f"no {missing[0]} in this tokenizer", where=FILE, fix="leave task.words out: one is trained")
    return Vocabulary(units="subwords", numbers=numbers, pieces=pieces)


_OPEN: dict[str, Tokenizer] = {}


def _tokenizer(pieces: str) -> Tokenizer:
    """Made once in each process."""
    if pieces not in _OPEN:
        _OPEN.clear()
        _OPEN[pieces] = Tokenizer.from_str(pieces)
    return _OPEN[pieces]
