"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistruct.files.whole import whole_file


@pytest.mark.parametrize("ending", [None, "partial"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_is_replaced_at_the_end_and_untouched_by_an_error(
    tmp_path: Path, error: type[BaseException], ending: str | None
) -> None:
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path, ending) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(error):
        _stopped(path, ending, error)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def _stopped(path: Path, ending: str | None, error: type[BaseException]) -> None:
    with whole_file(path, ending) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise error
