"""A conversation about one picture, with the answers of all conversations kept in balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vistruct.data.instructions.exchange import Exchange
from vistruct.data.instructions.families import FAMILIES
from vistruct.data.instructions.scene import Scene

CANDIDATES = 4  # drawn for each question; the one with the rarest answer is asked
AT_MOST = 0.55  # share of one answer in its family, and among the questions about the same thing
MOST_KINDS, OTHERS = 10_000, "others"  # answers (and things asked about) told apart: memory ends, words do not
FIRST_FEW = 2  # more of an answer than that share are let pass: the first ones can keep no share


@dataclass(kw_only=True)
class Tally:
    """Answers given so far."""

    families: Counter[str] = field(default_factory=Counter)  # questions
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # by family
    abouts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # by family and what was asked about

    def add(self, exchange: Exchange) -> None:
        """Count one exchange."""
        self.families[exchange.family] += 1
        for counts in self._of(exchange):
            is_known = exchange.answer_class in counts or len(counts) < MOST_KINDS
            counts[exchange.answer_class if is_known else OTHERS] += 1

    def rarity(self, exchange: Exchange) -> tuple[float, ...]:
        """Smaller for an answer that has been rarer, first among the questions about the same thing."""
        return tuple(c[exchange.answer_class] / max(c.total(), 1) for c in reversed(self._of(exchange)))

    def is_worn(self, exchange: Exchange) -> bool:
        """Whether one more of this answer would make it easy to guess."""
        if exchange.varies:
            return False
        return any(c[exchange.answer_class] + 1 > AT_MOST * (c.total() + 1) + FIRST_FEW for c in self._of(exchange))

    def shares(self, family: str) -> list[tuple[str, float]]:
        """(answer, its share in the family), commonest first."""
        answers = self.answers.get(family, Counter())
        return [(answer, n / answers.total()) for answer, n in answers.most_common()]

    def _of(self, exchange: Exchange) -> tuple[Counter[str], Counter[str]]:
        key = (exchange.family, exchange.about)
        if key not in self.abouts and len(self.abouts) >= MOST_KINDS:
            key = (exchange.family, OTHERS)
        if key not in self.abouts:
            self.answers.setdefault(exchange.family, Counter())
            self.abouts[key] = Counter()
        return self.answers[exchange.family], self.abouts[key]


def converse(
    scene: Scene,
    questions: int,
    families: Sequence[str],
    rng: np.random.Generator,
    tally: Tally,
    always: Sequence[str] = (),
) -> list[Exchange]:
    """Up to `questions` different exchanges about one scene, in the order of FAMILIES; `tally` counts them.

    Those of `always` have their turn in every conversation, the other families take turns in random order. Of
    a few candidates for each question the rarest answer is taken, and none whose answer is worn out.
    """
    names = sorted({*families, *always}, key=list(FAMILIES).index)
    order = [*always, *(names[i] for i in rng.permutation(len(names)) if names[i] not in always)]
    wanted = Counter(order[i % len(order)] for i in range(questions))
    chosen: list[Exchange] = []
    for family in names:
        for _ in range(wanted[family]):
            asked = {e.question for e in chosen}
            drawn = [FAMILIES[family](scene, rng) for _ in range(CANDIDATES)]
            candidates = [e for e in drawn if e is not None and e.question not in asked and not tally.is_worn(e)]
            if candidates:
                best = min(candidates, key=tally.rarity)
                chosen.append(best)
                tally.add(best)
    return chosen
