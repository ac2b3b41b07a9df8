"""Marks of other tools in texts: where they stand for an image they become `<image>`; else the line is left out.

    <ImageHere>  <image/>  <|image_pad|>  <|vision_start|><|image_pad|><|vision_end|>  <image_00>  <|image_1|>
    <img>PATH</img>  <img><ImageHere></img>  <im_start><image><im_end>  [IMG]  <start_of_image>  <video>  <audio>

Text that stays in a question is learned as text, so that nothing of these may stay.
"""

from __future__ import annotations

import itertools
import re

from vistruct.contracts import IMAGE_MARK
from vistruct.data.formats.chat.shapes import Line, Said, local
from vistruct.data.formats.chat.turns import (
    FOREIGN,
    MARK_READ,
    MISMATCH,
    PATH_IN_TEXT,
    PICTURE_IN_TEXT,
    RESERVED,
    VIDEO,
    Defect,
)

# What the model itself writes around images and turns: one of these in a text would be taken for such.
RESERVED_TOKENS = ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>", "<|im_end|>")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2")

_ONE = (
    r"<image\s*/>|<ImageHere>|<image[_ ]?(?P<n1>\d+)>|<\|image_?(?P<n2>\d*)\|>|(?:<\|(?:image_pad|imgpad)\|>)+|"
    r"<\|vision_start\|>(?:<\|image_pad\|>)*<\|vision_end\|>|<\|image_start\|>(?:<\|image\|>|<\|patch\|>)*<\|image_end\|>|"
    r"<image_?(?:placeholder|token|pad|feature|soft_token)>|<start_of_image>|<im_start>(?:<image>|<im_patch>)+<im_end>|"
    r"(?:<im_patch>)+|\[IMG(?:_?(?P<n3>\d+))?\]|\[image\]|<media>|<picture>|(?-i:<Image>|<IMAGE>)"
)
_ANY = re.compile(rf"<img>\s*(?:{IMAGE_MARK}|{_ONE})\s*</img>".replace("?P<n", "?P<w") + f"|{_ONE}", re.IGNORECASE)
_PATH = re.compile(r"<img>([^<>\n]+)</img>", re.IGNORECASE)
_MOVING = re.compile(
    r"<video\s*/?>|<video[_ ]?\d+>|<VideoHere>|(?:<\|vision_start\|>)?<\|video(?:_pad)?\|>|<audio\s*/?>|"
    r"<\|audio(?:_\w+)?\|>|<SpeechHere>|<speech>|<audio_?\d+>",
    re.IGNORECASE,
)
_PICTURE = re.compile(r"!\[[^\]\n]*\]\(([^)\s]+)\)|<img\s[^>]*src=[\"']([^\"']+)[\"']", re.IGNORECASE)


def settle(line: Line) -> None:
    """Give every image mark of another tool its place, in the line itself.

    Raises:
        Defect: a mark that stands for no image, or for something else than an image.
    """
    for number, turn in enumerate(line.turns, start=1):
        if "<" not in turn.text and "[" not in turn.text:
            continue
        if moving := _MOVING.search(turn.text):
            raise Defect(VIDEO, f"turn {number} holds {moving[0]}, and only images are read", "take frames as images")
        if turn.role == "user":
            _paths_in_text(turn, line)
    _foreign(line)
    num_images = len(line.images) + sum(path is not None for turn in line.turns for path in turn.paths)
    for number, turn in enumerate(line.turns, start=1):
        for token in RESERVED_TOKENS:
            if token in turn.text:
                what = f"turn {number} holds {token}, which stands for a part of an image or a turn"
                raise Defect(RESERVED, what, "only <image> stands for an image: remove it from the text")
        if not num_images and any(
            (name[1] or name[2]).split("?")[0].lower().endswith(IMAGE_SUFFIXES) for name in _PICTURE.finditer(turn.text)
        ):
            line.notes.append(PICTURE_IN_TEXT)


def _paths_in_text(turn: Said, line: Line) -> None:
    """`<img>a.png</img>` becomes an image with its path."""
    pieces: list[str] = []
    paths: list[str | None] = []
    rest, end = iter(turn.paths), 0
    for found in _PATH.finditer(turn.text):
        before = turn.text[end : found.start()]
        pieces += [before, IMAGE_MARK]
        paths += [next(rest) for _ in range(before.count(IMAGE_MARK))] + [local(found[1].strip(), "a text shows")]
        end = found.end()
    if pieces:
        turn.text, turn.paths = "".join([*pieces, turn.text[end:]]), [*paths, *rest]
        line.notes.append(PATH_IN_TEXT)


def _foreign(line: Line) -> None:
    own = sum(turn.text.count(IMAGE_MARK) for turn in line.turns)  # those inside of <img> are counted below
    found = [(turn, mark) for turn in line.turns for mark in _ANY.finditer(turn.text)]
    inner = sum(mark[0].count(IMAGE_MARK) for _, mark in found)
    if line.marked:
        _by_mark(line)
        found = [(turn, mark) for turn in line.turns for mark in _ANY.finditer(turn.text)]
    if not found:
        return
    turn, first = found[0]
    num_free = sum(path is None for one in line.turns for path in one.paths)
    if own - inner == len(line.images) + sum(path is not None for one in line.turns for path in one.paths) or any(
        one.role != "user" for one, _ in found
    ):
        what = f"a text of {turn.role} holds {first[0]:.40}, which is no mark here and stands for no image"
        raise Defect(FOREIGN, what, f"{IMAGE_MARK} is the mark of an image; write the others otherwise, or remove them")
    numbers = [int(value) for _, mark in found for value in mark.groupdict().values() if value]
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        what = f"marks with numbers that do not rise, as {first[0]:.40}: which image is which cannot be told"
        raise Defect(MISMATCH, what, f"write {IMAGE_MARK} once for each image, in the order of the list")
    if num_free - inner + len(found) != len(line.images):
        what = f"{num_free - inner + len(found)} marks ({first[0]:.40}, ...) in the text, but {len(line.images)} images"
        raise Defect(MISMATCH, what, f"write {IMAGE_MARK} once for each image, in the order of the list")
    for one in line.turns:
        if one.role == "user":
            one.text = _ANY.sub(IMAGE_MARK, one.text)
            if not any(one.paths):
                one.paths = [None] * one.text.count(IMAGE_MARK)
    line.notes.append(MARK_READ)


def _by_mark(line: Line) -> None:
    """Images that the line gives to marks by name."""
    pattern = re.compile("|".join(re.escape(mark) for mark in sorted(line.marked, key=len, reverse=True)))
    order: list[str] = []
    for turn in line.turns:
        if turn.role == "user":
            order += pattern.findall(turn.text)
            turn.text = pattern.sub(IMAGE_MARK, turn.text)
            turn.paths = [None] * turn.text.count(IMAGE_MARK)
    if not order and len(line.marked) == 1:
        line.images = [*line.images, *line.marked.values()]  # a single one goes in front
        return
    if sorted(order) != sorted(line.marked):
        what = f"the images are called {', '.join(line.marked)[:60]}, and the text names {', '.join(order)[:60]}"
        raise Defect(MISMATCH, what, "each once")
    line.images = [line.marked[mark] for mark in order]
    line.notes.append(MARK_READ)
