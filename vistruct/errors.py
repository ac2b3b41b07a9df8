"""The one exception for what a user can cause, and can mend.

Shown as three lines and never as a traceback: what is wrong, where (file and line, or image name), what to try.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input, configuration or environment, with its place and a way out."""

    def __init__(self, what: str, *, where: object = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__("\n".join(part for part in (what, self.where, fix) if part))

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments do not survive the default pickling (workers)
        return _rebuild, (type(self), self.what, self.where, self.fix)


class LeftOut(UserError):
    """All is done but for some items, which it names: another exit status than that of nothing done."""


def _rebuild(cls: type[UserError], what: str, where: str, fix: str) -> UserError:
    return cls(what, where=where, fix=fix)


def typed(flag: str, values: Iterable[object]) -> str:
    """`--classes 'small vehicle,ship'`: an option as it can be typed, for a `fix`."""
    return f"{flag} {shlex.quote(','.join(map(str, values)))}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may be a typo of; None: none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)), None)


def closest(name: str, known: Iterable[str]) -> str:
    """A `fix` sentence that names the known name nearest to `name`, or lists the known ones."""
    known = sorted(known)
    near = nearest(name, known)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"known: {', '.join(known)}" if known else "nothing is known here"
