"""Sets in the layouts of public ones, made of golden annotations, and what is known of them in golden form."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Told
from vistruct.data.known import detect, find_source
from vistruct.files.masks import rasterise
from vistruct.issues import IssueCounter

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "vtplug_masked_sources" / "converters.json").read_text()
)
WIDTH, HEIGHT = 60, 48
Said = tuple[str, list[list[int]]]  # a text with one mark a group, and the groups


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read(name: str, path: Path, report: IssueCounter | None = None, ask: Ask | None = None) -> list[Known]:
    """What a source says, which must be the one that is found by looking."""
    assert detect(path) == (name,)
    return list(find_source(name).read(path, ask or Ask(), report if report is not None else IssueCounter()))


def golden_turns(case: str, speaker: str) -> list[Said]:
    """What a speaker says in a golden conversation."""
    turns = [one for one in GOLDEN[case]["conversations"] if one["from"] == speaker]
    return [
        (
            re.sub(r"((<masks>|<boxes>)+)", "<>", one["value"]),
            next((one[key] for key in ("masks_seq", "boxes_seq") if one.get(key)), []),
        )
        for one in turns
    ]


def conversation(case: str) -> list[Said]:
    """Everything that is said in a golden conversation."""
    both = zip(golden_turns(case, "human"), golden_turns(case, "gpt"), strict=True)
    return [one for pair in both for one in pair]


def turn(one: Turn) -> Said:
    """A turn as `golden_turns` has them."""
    text = one.text.replace(f"{IMAGE_MARK}\n", "").replace("<object>", "<>").replace("<region>", "<>")
    return text, [list(rows) for rows in one.points]


def sentence(told: Told) -> Said:
    """A caption as `golden_turns` has them."""
    text, at = "", 0
    for one in told.phrases:
        assert told.text[one.start : one.end] == one.text
        text += f"{told.text[at : one.start]}<Phrase>{one.text}</Phrase><>"
        at = one.end
    return text + told.text[at:], [list(one.rows) for one in told.phrases]


def masks(known: Known, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Shape and pixels of the masks of objects, as golden targets have them."""
    assert known.objects.masks is not None
    assert known.size_hw is not None
    height, width = known.size_hw
    drawn = [
        rasterise(known.objects.masks[row], (0, 0, width, height))
        for row in (range(len(known.objects)) if rows is None else rows)
    ]
    return [{"shape": list(one.shape), "pixels": int(one.sum())} for one in drawn]
