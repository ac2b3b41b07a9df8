"""LLaVA-Grounding: conversations whose answers have masks for their phrases, or whose questions show regions.

    grounded_visual_chat_data.json             [{"id": "000000000012", "gd_ls": [[ids], ...] one list a phrase,
                                                 "conversations": ["<g_s>two cats<g_e><seg> sleep", ...]}]
    llava_instruct_150k_visual_prompt.json     the same with "q_gd_ls": [[ids] or null, ...] one list a question, an id
                                                 for each <obj>
    instances_train2017_gvc.json, instances_train2014_filter.json     the annotations of these ids, as COCO has them

The annotations stand beside the conversations, or in coco/annotations where those stand in llava/annotations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, REGION_MARK, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known.shapes import add_mask, pairs
from vistruct.data.known.source import (
    LOST_OBJECT,
    NO_ENTRY,
    Board,
    Images,
    Source,
    answered,
    asked,
    keys_at,
    told_size,
    words,
)
from vistruct.errors import UserError
from vistruct.files.json_stream import json_entries, json_list
from vistruct.issues import IssueCounter

NO_MATCH = "conversation left out: its marks and its lists of annotations do not match"
_PHRASE = re.compile(r"<g_s>\s*(.*?)\s*<g_e>\s*<seg>", re.DOTALL)
_OBJECT = "<obj>"
_USUAL = {"gd_ls": "instances_train2017_gvc.json", "q_gd_ls": "instances_train2014_filter.json"}


def looks_like(path: Path) -> bool:
    """Whether its first entry has lists of annotations beside a conversation."""
    keys = keys_at(path)
    return "conversations" in keys and bool(keys & _USUAL.keys())


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """A conversation after the other; of the annotations those that they mean are held."""
    wanted = {id for _, entry in _entries(path, IssueCounter()) for ids in _lists(entry) for id in ids}
    instances = _instances(path)
    files = {int(one["id"]): one for _, one in json_list(instances, "images") if str(one.get("id")).isdecimal()}
    objects = {one["id"]: one for _, one in json_list(instances, "annotations") if one.get("id") in wanted}
    names = {one["id"]: one["name"] for one in _categories(instances)}
    places = (path.parent, path.parent.parent, instances.parent.parent)
    images = Images.of((str(one["file_name"]) for one in files.values()), places, ask, report)
    for where, entry in _entries(path, report):
        one = files.get(int(entry["id"]))
        if one is None:
            report.note(NO_ENTRY, where)
            continue
        image = images.find((one["file_name"],), where, told_size(one))
        if image is None:
            continue
        board = Board(image, report)
        rows: dict[Any, int | None] = {}
        for ids in _lists(entry):
            for id in ids:
                found = objects.get(id, {})
                name, here = names.get(found.get("category_id"), ""), f"{where}, annotation {id}"
                rows[id] = add_mask(
                    board, found.get("segmentation"), here, name=name, box=found.get("bbox"), form="xywh"
                )
        talk = _talk(entry, rows, where, report)
        if talk:
            yield board.known(f"{one['file_name']}#{where.rpartition(' ')[2]}", talks=(talk,))


def _talk(entry: dict[str, Any], rows: dict[Any, int | None], where: str, report: IssueCounter) -> tuple[Turn, ...]:
    """A conversation with marks; nothing where it cannot be used, counted."""
    said = pairs(entry["conversations"], where, report)
    phrases = _shared(entry.get("gd_ls") or [], [len(_PHRASE.findall(answer)) for _, answer in said])
    regions = entry.get("q_gd_ls") or [None] * len(said)
    if phrases is None or [len(ids or ()) for ids in regions] != [question.count(_OBJECT) for question, _ in said]:
        report.note(NO_MATCH, where)
        return ()
    row_of = {id: row for id, row in rows.items() if row is not None}
    if len(row_of) < len(rows):
        report.note(LOST_OBJECT, where)
        return ()
    out: list[Turn] = []
    for (question, answer), own, ids in zip(said, phrases, regions, strict=True):
        plain, told = words(question, where, report), words(_PHRASE.sub(r"<g_s>\1<g_e>", answer), where, report)
        if plain is None or told is None:
            return ()
        points = tuple((row_of[id],) for id in ids or ())
        text = plain.replace(_OBJECT, REGION_MARK)
        text = text if out else f"{IMAGE_MARK}\n{text}"
        out.append(asked(text, points=points, prompts=("mask",) * len(points)))
        meant = tuple(tuple(dict.fromkeys(row_of[id] for id in group)) for group in own)
        text = told.replace("<g_s>", PHRASE_OPEN).replace("<g_e>", f"{PHRASE_CLOSE}{OBJECT_MARK}")
        task = "gcg_segmentation" if own else "vqa"
        out.append(answered(text, task, points=meant, units=("mask",) * len(meant)))
    return tuple(out)


def _shared(groups: list[Any], counts: list[int]) -> list[list[list[Any]]] | None:
    """The annotations of each phrase, answer by answer; None: other than there are phrases, or none of one."""
    if len(groups) != sum(counts) or not all(isinstance(group, list) and group for group in groups):
        return None
    ends = list(accumulate(counts))
    return [groups[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _lists(entry: dict[str, Any]) -> list[list[Any]]:
    """Every list of annotations of an entry."""
    given = [*(entry.get("gd_ls") or []), *(entry.get("q_gd_ls") or [])]
    return [ids for ids in given if isinstance(ids, list)]


def _entries(path: Path, report: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, entry in json_entries(path, report):
        if (
            isinstance(entry, dict)
            and str(entry.get("id")).isdecimal()
            and isinstance(entry.get("conversations"), list)
            and entry.keys() & _USUAL.keys()
            and all(isinstance(id, int | str) for ids in _lists(entry) for id in ids)
        ):
            yield where, entry
        else:
            report.note(NO_ENTRY, where)


def _instances(path: Path) -> Path:
    """The file of annotations that goes with conversations.

    Raises:
        UserError: there is none, or several that it could be.
    """
    usual = next(name for key, name in _USUAL.items() if key in keys_at(path))
    places = (path.parent, path.parent.parent / "coco" / "annotations", path.parents[1].parent / "coco" / "annotations")
    for place in places:
        if (place / usual).is_file():
            return place / usual
    beside = sorted(path.parent.glob("instances*.json"))
    if len(beside) == 1:
        return beside[0]
    what = "several files of annotations are" if beside else "no file of annotations is"
    raise UserError(f"{what} beside these conversations", where=path, fix=f"put its {usual} beside it")


def _categories(instances: Path) -> list[dict[str, Any]]:
    """Those that the annotations name; a file without such a list has none."""
    try:
        return [one for _, one in json_list(instances, "categories")]
    except UserError:
        return []


SOURCE = Source(read=read, looks_like=looks_like)
