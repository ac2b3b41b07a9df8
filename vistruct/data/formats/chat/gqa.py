"""GQA: an object with each question under its number, answered once; images by their names in Visual Genome.

{"201307251": {"imageId": "n161313", "question": "Is it overcast?", "answer": "no",
               "types": {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"}}, ...}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.data.formats.chat.asked import Question, records_of, text_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import ends_of, json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.issues import IssueCounter


def looks_like(path: Path) -> bool:
    """Whether it is such a json."""
    return path.is_file() and json_kind(path) == "questions" and '"imageId"' in ends_of(path)[0]


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """A record for each question; its family is the structure of the question."""
    found = []
    for id, entry in read_record(path, dict[str, Any], "give questions as GQA has them, under their numbers").items():
        where = f"{path}: {id}"
        if not isinstance(entry, dict):
            stop(UserError("this is no object with question and answer", where=where, fix="correct this entry"))
            continue
        types = entry.get("types")
        found.append(
            Question(
                id=id,
                image=text_of(entry, "imageId", where),
                text=text_of(entry, "question", where),
                answers=(str(entry.get("answer", "")),),
                family=str(types.get("structural", "")) if isinstance(types, dict) else "",
                where=where,
            )
        )
    ways = [lambda name: f"{name}.jpg", lambda name: f"images/{name}.jpg"]
    return Walked(records=records_of(found, path, ask, report, stop, ways), annotations=(path,))


FORMAT = Format(kind="questions", looks_like=looks_like, walk=walk)
