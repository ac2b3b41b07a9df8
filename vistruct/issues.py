"""What a reader left out, clipped or repaired: counted by reason, with the first examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

Effect = Literal["left out", "repaired", "kept"]  # what became of a case: gone, changed, or used as it stands


@dataclass
class IssueCounter:
    """Nothing vanishes: every reader returns one of these beside its records."""

    keep: int = 3  # places of each reason that are kept
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    effects: dict[str, Effect] = field(default_factory=dict)

    def note(self, reason: str, where: str, effect: Effect = "left out") -> None:
        """Count one case of `reason`; the first places are kept as examples."""
        self.effects[reason] = effect
        self.counts[reason] += 1
        if len(self.examples[reason]) < self.keep:
            self.examples[reason].append(where)

    def merge(self, other: IssueCounter) -> None:
        """Add another report's counts and examples to this one."""
        self.counts.update(other.counts)
        self.effects |= other.effects
        for reason, places in other.examples.items():
            self.examples[reason] = (self.examples[reason] + places)[: self.keep]

    def places(self, reason: str) -> str:
        """The first places of a reason, and whether there are more."""
        return "; ".join(self.examples[reason]) + ("; ..." if self.counts[reason] > len(self.examples[reason]) else "")

    def lines(self) -> list[str]:
        """One line a reason: `12 x box outside its image (a.jpg: annotation 3, ...)`."""
        return [f"{n} x {reason} ({self.places(reason)})" for reason, n in sorted(self.counts.items())]
