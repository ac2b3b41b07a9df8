"""Grounded captions (GCG) of GLaMM's GranD-f: sentences whose phrases have masks, in the four layouts of its files.

    OpenPsgGCG_train.json, GranDf_HA_GCG_train.json
        [{"file_name", "caption", "groundings": {phrase: {"token_positives": [first, behind], "rle_masks": [...]}}}]
    RefCOCOg_GCG_train.json
        [{"img_file_name", "caption", "refs": [{"sentence", "segmentation": polygons}]}]
    flickr_mergedGT_GCG_train.json
        COCO json; images have a `caption`, annotations `tokens_positive` [[first, behind]] in it and `sam_mask`
    val_gcg_coco_caption_gt.json beside val_gcg_coco_mask_gt.json
        annotations {"image_id", "caption", "labels"} and {"image_id", "segmentation"}, in the same order

Captions of lists may stand in quotes, which are taken off before places in them are counted, as GLaMM counts them.
Where there are no places, a phrase is looked for in its caption, as whole words first, then as the beginning of one
that goes on (`cat` in `cats`), each time behind the last of its kind. A phrase that means several objects names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known
from vistruct.data.known.shapes import add_mask, told
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, told_size
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

NO_MASK = "phrase left out: it has no mask"
MORE_MASKS = "mask left out: its caption has fewer phrases than there are masks"
_CAPTIONS, _MASKS = "_caption_gt", "_mask_gt"

Phrase = tuple[str, Any, list[Any], Any]  # its words, its place in the caption or None, its masks, its box or None


def looks_like_groundings(path: Path) -> bool:
    """Whether its first entry has groundings (OpenPSG, GranD-f)."""
    return {"caption", "groundings"} <= keys_at(path)


def looks_like_references(path: Path) -> bool:
    """Whether its first entry has references and a caption (RefCOCOg)."""
    return {"caption", "refs", "img_file_name"} <= keys_at(path)


def looks_like_merged(path: Path) -> bool:
    """Whether it is COCO json with masks of SAM for phrases (Flickr30k)."""
    return (
        path.is_file()
        and path.suffix == ".json"
        and all(word in "".join(ends_of(path)) for word in ('"sam_mask"', '"tokens_positive"'))
    )


def looks_like_pair(path: Path) -> bool:
    """Whether it is the captions of a set, with a file of masks beside them."""
    return path.is_file() and path.stem.endswith(_CAPTIONS) and _mask_file(path).is_file()


def read_groundings(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An entry after the other."""

    def phrases(entry: dict[str, Any]) -> Iterator[Phrase]:
        for text, one in entry["groundings"].items():
            if isinstance(one, dict):
                yield text, one.get("token_positives"), one.get("rle_masks") or [], None

    yield from _lists(path, "file_name", "groundings", dict, phrases, ask, report)


def read_references(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An entry after the other."""

    def phrases(entry: dict[str, Any]) -> Iterator[Phrase]:
        for one in entry["refs"]:
            if isinstance(one, dict) and isinstance(one.get("sentence"), str):
                yield one["sentence"], None, [one.get("segmentation")], None

    yield from _lists(path, "img_file_name", "refs", list, phrases, ask, report)


def read_merged(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other; the file is read whole."""
    content = _coco(path)
    phrases: dict[Any, dict[Any, Phrase]] = {}
    for one in content["annotations"]:
        spans = one.get("tokens_positive")
        if isinstance(spans, list) and spans and not one.get("ignore"):
            of_image = phrases.setdefault(one.get("image_id"), {})
            # Several objects may be of one phrase: their masks go together.
            _, _, masks, boxes = of_image.setdefault(str(spans[0]), ("", spans[0], [], []))
            masks.append(one.get("sam_mask"))
            boxes.append(one.get("bbox"))
    names = [str(one.get("file_name")) for one in content["images"]]
    images = Images.of(names, (path.parent, path.parent.parent), ask, report)
    for number, one in enumerate(content["images"], start=1):
        where = f"{path}: image {number}"
        name = str(one.get("file_name"))
        yield from _one(name, one, phrases.get(one.get("id"), {}).values(), images, where, report)


def read_pair(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """A caption after the other; both files are read whole."""
    captions, masks = _coco(path), _coco(_mask_file(path))
    names = {one.get("id"): str(one.get("file_name")) for one in [*masks["images"], *captions["images"]]}
    of_image: dict[Any, list[Any]] = {}
    for one in masks["annotations"]:
        of_image.setdefault(one.get("image_id"), []).append(one.get("segmentation"))
    told_names = [_name_of(one.get("image_id"), names) for one in captions["annotations"]]
    images = Images.of(told_names, (path.parent, path.parent.parent), ask, report)
    for number, (one, name) in enumerate(zip(captions["annotations"], told_names, strict=True), start=1):
        where = f"{path}: caption {number}"
        given, labels = of_image.get(one.get("image_id"), []), one.get("labels") or []
        for _ in given[len(labels) :]:
            report.note(MORE_MASKS, where)
        phrases = [(text, None, [mask], None) for text, mask in zip(labels, given, strict=False)]
        phrases += [(text, None, [], None) for text in labels[len(given) :]]
        yield from _one(name, one, phrases, images, where, report)


def _lists(
    path: Path, image: str, key: str, kind: type, phrases: Any, ask: Ask, report: IssueCounter
) -> Iterator[Known]:
    def entries(report: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, report):
            if isinstance(entry, dict) and isinstance(entry.get(image), str) and isinstance(entry.get(key), kind):
                yield where, entry
            else:
                report.note(NO_ENTRY, where)

    names = (entry[image] for _, entry in entries(IssueCounter()))
    images = Images.of(names, (path.parent, path.parent.parent), ask, report)
    for where, entry in entries(report):
        quoted = entry.get("caption")
        caption = quoted.strip('"').strip() if isinstance(quoted, str) else quoted
        yield from _one(entry[image], {**entry, "caption": caption}, phrases(entry), images, where, report)


def _one(
    name: str, entry: dict[str, Any], phrases: Any, images: Images, where: str, report: IssueCounter
) -> Iterator[Known]:
    """What one caption says; nothing where its image is left out or it has no words."""
    image = images.find((name, Path(name).name), where, told_size(entry))
    if image is None:
        return
    board, caption = Board(image, report), entry.get("caption")
    found, ends = [], {}
    for text, span, masks, boxes in phrases:
        rows = _rows(masks, boxes, text or _part(caption, span), board, where)
        if rows is None:
            continue
        if span is None:
            span = _place(caption, text, ends)
        found.append((span, rows, where))
    sentence = told(caption, found, where, report)
    if sentence is not None:
        yield board.known(f"{name}#{where.rpartition(' ')[2]}", sentences=(sentence,))


def _rows(masks: Any, boxes: Any, name: Any, board: Board, where: str) -> tuple[int, ...] | None:
    rows = []
    for number, mask in enumerate(masks):
        box = None if boxes is None else boxes[number]
        word = " ".join(str(name).split()) if len(masks) == 1 else ""
        rows.append(add_mask(board, mask, where, name=word, box=box, form="xywh"))
    if not rows:
        board.report.note(NO_MASK, where)
        return None
    return board.rows_of(rows, where)


def _place(caption: Any, text: Any, ends: dict[str, int]) -> Any:
    """Where a phrase stands in its caption, behind the last of its kind; whole words before parts of words."""
    if not isinstance(caption, str) or not isinstance(text, str) or not text.strip():
        return None
    start, sought = ends.get(text.lower(), 0), re.escape(text.strip())
    ways = (rf"(?<!\w){sought}(?!\w)", rf"(?<!\w){sought}\w*")  # `cat` may stand there as `cats`
    found = next((hit for way in ways if (hit := re.compile(way, re.IGNORECASE).search(caption, start))), None)
    if found is None:
        return None
    ends[text.lower()] = found.end()
    return list(found.span())


def _part(caption: Any, span: Any) -> str:
    is_span = isinstance(caption, str) and isinstance(span, list) and len(span) == 2
    return caption[span[0] : span[1]] if is_span else ""


def _name_of(image: Any, names: dict[Any, str]) -> str:
    """The file of an image id, which may be its name without the ending."""
    return names.get(image) or (str(image) if Path(str(image)).suffix else f"{image}.jpg")


def _mask_file(path: Path) -> Path:
    return path.with_name(f"{path.stem.removesuffix(_CAPTIONS)}{_MASKS}{path.suffix}")


def _coco(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Images and annotations of a file that may lack the first.

    Raises:
        UserError: it has no annotations.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError("no list of 'annotations' in this json", where=path, fix="copy the file again, whole")
    parts = {"images": content.get("images") or [], "annotations": content["annotations"]}
    return {key: [one for one in part if isinstance(one, dict)] for key, part in parts.items()}


OPEN_PSG = Source(read=read_groundings, looks_like=looks_like_groundings)
REFCOCOG = Source(read=read_references, looks_like=looks_like_references)
FLICKR = Source(read=read_merged, looks_like=looks_like_merged)
PAIR = Source(read=read_pair, looks_like=looks_like_pair)
