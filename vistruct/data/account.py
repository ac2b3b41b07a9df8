"""Where every line of a data set went: used, left out and why, or beyond the fraction that was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vistruct.errors import UserError
from vistruct.issues import IssueCounter

COUNTED = ("conversations", "turns", "answers", "images")  # keys of `Account.counts`


@dataclass(frozen=True, kw_only=True)
class Account:
    """Of one data set; `used + left out + beyond == lines`."""

    name: str  # in its mix; "" where it stands alone
    annotation: Path
    lines: int
    beyond: int = 0  # not part of the share that was asked for
    used: int = 0
    repeats: int = 1  # times that each used line comes in an epoch
    left_out: IssueCounter = field(default_factory=IssueCounter)  # by reason
    repaired: IssueCounter = field(default_factory=IssueCounter)  # used, but not quite as written; by reason
    counts: dict[str, int] = field(default_factory=dict)  # of COUNTED, in the used lines, once
    longest_row: int = 0  # tokens that the longest row would take that is left out for its length; 0: none is

    @property
    def asked(self) -> int:
        """Lines that are used if nothing is wrong with them."""
        return self.lines - self.beyond

    @property
    def share_left_out(self) -> float:
        """Of the lines asked for, in [0, 1]; 0 where none was."""
        return self.left_out.counts.total() / self.asked if self.asked else 0.0

    def dropped(self) -> dict[str, int]:
        """Numbers by reason, with the first places in the reason, as `DataInfo.dropped` has them."""
        beyond = {f"{self._prefix()}beyond the fraction asked for": self.beyond} if self.beyond else {}
        return beyond | {
            f"{self._prefix()}{reason} ({report.places(reason)})": number
            for report in (self.left_out, self.repaired)
            for reason, number in sorted(report.counts.items())
        }

    def _prefix(self) -> str:
        return f"{self.name}: " if self.name else ""


def check_left_out(accounts: Iterable[Account], max_left_out: float) -> None:
    """Refuse data of which too much cannot be used.

    Args:
        max_left_out: part of the lines of any one data set, in [0, 1].

    Raises:
        UserError: more is left out of one of them; names it, its commonest reason and the first place.
    """
    for account in accounts:
        if account.share_left_out > max_left_out:
            left_out = account.left_out
            total = left_out.counts.total()
            reason, number = left_out.counts.most_common(1)[0]
            more = f", {total - number} for other reasons" if total > number else ""
            to_hold = f"--set task.max_tokens={account.longest_row} holds the longest row"
            to_list = f"`vistruct check {account.annotation}` lists them"
            without = f"; to train without them: --set max_left_out={math.ceil(account.share_left_out * 1000) / 1000}"
            raise UserError(
                f"{account.name or account.annotation.name}: {total:,} of {account.asked:,} lines cannot be used "
                f"(limit {100 * max_left_out:.4g} %): {number:,} x {reason}{more}",
                where=account.annotation.parent / left_out.examples[reason][0],
                fix=(to_hold if account.longest_row else to_list) + (without if account.used else ""),
            )
