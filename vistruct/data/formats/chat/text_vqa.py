"""VizWiz and TextVQA: each question with the answers of ten people beside it.

[{"image": "VizWiz_val_00000000.jpg", "question": "What is it?", "answer_type": "other",
  "answers": [{"answer": "basil", "answer_confidence": "yes"}, ...]}, ...]
{"data": [{"image_id": "a1", "question_id": 1, "question": "What does it say?", "answers": ["stop", ...]}, ...]}
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.chat.asked import Question, answers_of, entries, records_of, text_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import ends_of, json_kind
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

_LISTED = re.compile(r'\A\s*\[|"data"\s*:\s*\[')


def looks_like(path: Path) -> bool:
    """Whether it is such a json."""
    return path.is_file() and json_kind(path) == "questions" and _LISTED.search(ends_of(path)[0]) is not None


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """A record for each question; its family is the type of its answers, where it is said."""
    found = []
    for number, (where, entry) in enumerate(entries(read_json(path), "data", path, stop)):
        is_named = "image" in entry
        found.append(
            Question(
                id=str(entry.get("question_id", number)),
                image=text_of(entry, "image" if is_named else "image_id", where),
                text=text_of(entry, "question", where),
                answers=answers_of(entry.get("answers")),
                family=str(entry.get("answer_type", "")),
                where=where,
            )
        )
    ways = [str, lambda name: f"{name}.jpg"]
    return Walked(records=records_of(found, path, ask, report, stop, ways), annotations=(path,))


FORMAT = Format(kind="questions", looks_like=looks_like, walk=walk)
