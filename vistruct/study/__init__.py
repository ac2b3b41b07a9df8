"""Many runs of recipes, compared; and the verb itself: `vistruct.study("segment", ...)`.

Python puts a package into its parent under its own name whenever it is first imported, so that no function can have it.
Therefore the package can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistruct.study.verb import StudyResult


class _Verb(ModuleType):
    """The package, as something to call."""

    def __call__(self, *args: Any, **words: Any) -> StudyResult:
        from vistruct.study.verb import study

        return study(*args, **words)


sys.modules[__name__].__class__ = _Verb
