"""Who says what on a line, and which images it shows, in the shapes that training tools and chat interfaces write.

    {"conversations": [{"from": "human", "value": "<image>\\nHow many?"}, {"from": "gpt", "value": "Three."}]}
    {"messages": [{"role": "user", "content": "<image>\\nHow many?"}, {"role": "assistant", "content": "Three."}]}
    {"query": "<image>How many?", "response": "Three.", "history": [["What is it?", "A port."]]}
    {"instruction": "Count.", "input": "<image>", "output": "Three."}

A text may also be a list of parts, `{"type": "text", "text": ...}` and `{"type": "image", "image": "a.jpg"}`; an image
part without a path of its own stands for the next of `images` (or `image`), as does an `<image>` in a text. A turn may
bring images of its own under these keys. A system text may stand under `system`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vistruct.contracts import IMAGE_MARK, Role
from vistruct.data.formats.chat.turns import (
    HALF_WEIGHT,
    MALFORMED,
    MISMATCH,
    NOT_TAUGHT,
    REMOTE,
    TOOLS,
    UNTAUGHT,
    VIDEO,
    Defect,
)

TURN_KEYS = ("conversations", "messages", "conversation", "dialogue", "dialog")
QUESTION_KEYS = ("query", "question", "prompt", "instruction", "problem")
ANSWER_KEYS = ("response", "answer", "output", "completion", "solution")
SYSTEM_KEYS = ("system", "system_prompt")
IMAGE_KEYS = ("images", "image")
WEIGHT_KEYS = ("loss", "weight", "train", "loss_weight", "loss_scale")

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard"), "assistant"),
}
_TOOL_ROLES = {
    "tool",
    "function",
    "observation",
    "function_call",
    "tool_call",
    "tool_response",
    "tool_result",
    "ipython",
}
_SPEAKER_KEYS, _TEXT_KEYS = ("from", "role", "speaker"), ("value", "content", "text")
_PAIR_KEYS = (("human", "user", "input", *QUESTION_KEYS), ("gpt", "assistant", "bot", *ANSWER_KEYS))
_PATH_KEYS = ("image", "path", "image_url", "url", "bytes", "input_image")
_VIDEO_KEYS = ("video", "videos", "audio", "audios")
_FIX = "conversations (from, value), messages (role, content), query and response, or instruction and output"


@dataclass(kw_only=True)
class Said:
    """One turn as it is written."""

    role: Role
    text: str
    paths: list[str | None]  # of each image mark in the text, the path that stands with it
    points: object = None
    units: object = None
    prompts: object = None
    task: object = None
    others: object = None
    form: object = None
    is_taught: bool = True


@dataclass(kw_only=True)
class Line:
    """What a line says, before marks of other tools and objects are looked at."""

    turns: list[Said]
    images: list[str]  # those in a list of their own
    marked: dict[str, str] = field(default_factory=dict)  # path of each mark, where the line says which mark is which
    names: Mapping[Role, str]  # how the roles are called, for messages
    keys: set[str]  # of the line, those that were read
    notes: list[str] = field(default_factory=list)


def read_line(entry: Mapping[str, Any]) -> Line:
    """The turns and images of a line.

    Raises:
        Defect: no shape that is known; a content or role that is not understood; a video, tools, a web address.
    """
    if any(entry.get(key) for key in _VIDEO_KEYS):
        raise Defect(VIDEO, "video is not read, and no sound", "take single frames as images")
    raw, keys, names = _raw_turns(entry)
    notes: list[str] = []
    turns = [said for number, one in enumerate(raw, start=1) for said in _turns(one, number, notes)]
    for key in SYSTEM_KEYS:
        text = entry.get(key)
        if isinstance(text, str) and text.strip():
            keys.add(key)
            if turns[0].role != "system":
                turns.insert(0, Said(role="system", text=text, paths=[]))
            elif turns[0].text.strip() != text.strip():
                raise Defect(MALFORMED, f"two system texts: a turn, and the key {key!r}", "leave one of them out")
    told = [turn.is_taught for turn in turns if turn.role == "assistant"]
    if _is_off(entry, notes) or (told and not any(told)):
        raise Defect(UNTAUGHT, "no answer of this line is to be learned", "remove this line, or let one be learned")
    images, marked = _listed(entry, keys)
    keys |= {key for key in ("id", "objects", "families") if key in entry}
    return Line(turns=turns, images=images, marked=marked, names=names, keys=keys, notes=list(dict.fromkeys(notes)))


def _raw_turns(entry: Mapping[str, Any]) -> tuple[list[Any], set[str], dict[Role, str]]:
    """The turns as objects of a speaker and a text, the keys that they stood under, and what roles are called."""
    spoken: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
    typed: dict[Role, str] = {"system": "system", "user": "user", "assistant": "assistant"}
    for key in TURN_KEYS:
        if isinstance(entry.get(key), list) and entry[key]:
            return entry[key], {key}, spoken if key == "conversations" else typed
    asked = [key for key in QUESTION_KEYS if entry.get(key)]
    told = [key for key in ANSWER_KEYS if entry.get(key)]
    if not asked and told == ["output"] and entry.get("input"):
        asked = ["input"]
    if entry.get("chosen") and entry.get("rejected") and not told:
        what = "a preferred and a rejected answer (chosen, rejected), and not one to learn"
        raise Defect(MALFORMED, what, "write the preferred answer as `response`")
    if not asked or not told:
        raise Defect(MALFORMED, f"no conversation: this line has the keys {_shown(list(entry))}", _FIX)
    if len(asked) > 1 or len(told) > 1:
        raise Defect(MALFORMED, f"several questions or answers: {_shown([*asked, *told])}", "leave one of each")
    (question,), (answer,) = asked, told
    keys = {question, answer}
    raw: list[Any] = []
    if isinstance(entry.get("history"), list):
        keys.add("history")
        for one in entry["history"]:
            is_pair = isinstance(one, list) and len(one) == 2
            raw += _pair(*one) if is_pair else [one]
    if isinstance(entry[question], list) and all(isinstance(one, dict) and "role" in one for one in entry[question]):
        raw += entry[question]  # a prompt of several turns
    else:
        said = entry[question]
        if question in ("instruction", "prompt") and isinstance(said, str) and isinstance(entry.get("input"), str):
            keys.add("input")
            said = "\n".join(part for part in (said, entry["input"]) if part)
        raw.append({"role": "user", "content": said})
    if isinstance(entry[answer], list) and all(isinstance(one, dict) and "role" in one for one in entry[answer]):
        return raw + entry[answer], keys, typed
    return [*raw, {"role": "assistant", "content": entry[answer]}], keys, typed


def _pair(question: object, answer: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _turns(entry: object, number: int, notes: list[str]) -> list[Said]:
    """One entry of the list: a turn, or a question with its answer."""
    if not isinstance(entry, dict):
        raise Defect(MALFORMED, f"turn {number} has no text: a turn is an object of a speaker and a text")
    speaker_key = next((key for key in _SPEAKER_KEYS if key in entry), None)
    if speaker_key is None:
        asked, told = ([key for key in keys if isinstance(entry.get(key), str)] for keys in _PAIR_KEYS)
        if len(asked) == len(told) == 1:
            system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
            pair = [*system, *_pair(entry[asked[0]], entry[told[0]])]
            return [said for one in pair for said in _turns(one, number, notes)]
    speaker = entry.get(speaker_key) if speaker_key else None
    role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if (isinstance(speaker, str) and speaker.lower() in _TOOL_ROLES) or entry.get("tool_calls"):
        what = f"turn {number} is from {speaker!r}: calls of tools and what they return are not read"
        raise Defect(TOOLS, what, "leave such turns out")
    if role is None and speaker_key is not None:
        raise Defect(
            MALFORMED, f"turn {number} is from {speaker!r}", "known: human and gpt, user and assistant, system"
        )
    value = next((entry[key] for key in _TEXT_KEYS if entry.get(key) is not None), None)
    if role is None or not isinstance(value, str | list):
        raise Defect(MALFORMED, f"turn {number} has no text: a turn is {{'from': ..., 'value': ...}}")
    text, paths = _content(value, number)
    own, _ = _listed(entry, set())
    if own:
        free = paths.count(None)
        if free not in (0, len(own)):
            raise Defect(MISMATCH, f"turn {number} has {free} x {IMAGE_MARK} and {len(own)} images of its own")
        if not free:
            text, paths = f"{IMAGE_MARK}\n" * len(own) + text, [None] * len(own) + paths
        rest = iter(own)
        paths = [path or next(rest) for path in paths]
    off = _is_off(entry, notes)
    if off and role == "assistant":
        notes.append(NOT_TAUGHT)
    told = {name: entry.get(name) for name in ("points", "units", "prompts", "task", "others", "form")}
    return [Said(role=role, text=text, paths=paths, is_taught=not off, **told)]


def _is_off(entry: Mapping[str, Any], notes: list[str]) -> bool:
    """Whether a turn, or a line, is marked as one that is not learned."""
    values = [entry[key] for key in WEIGHT_KEYS if isinstance(entry.get(key), bool | int | float)]
    if any(value not in (0, 1) for value in values):
        notes.append(HALF_WEIGHT)
    return any(value == 0 for value in values)


def _content(value: str | list[Any], number: int) -> tuple[str, list[str | None]]:
    if isinstance(value, str):
        return value, [None] * value.count(IMAGE_MARK)
    text = ""
    paths: list[str | None] = []
    after_image = False
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is None and isinstance(part, dict):  # {"image": ...} and {"text": ...}, as Qwen's own code has them
            kind = next((key for key in ("text", "image", "image_url", "video", "audio") if part.get(key)), None)
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            text += "\n" * after_image + part["text"]  # an image stands on a line of its own
            paths += [None] * part["text"].count(IMAGE_MARK)
            after_image = False
        elif kind in ("image", "image_url", "input_image"):
            text += "\n" * bool(text) + IMAGE_MARK
            paths.append(_path(part, number))
            after_image = True
        elif isinstance(kind, str) and kind.startswith("video"):
            raise Defect(VIDEO, "video is not read", "take single frames as images")
        else:
            what = f"turn {number} has a part of type {kind!r}"
            raise Defect(MALFORMED, what, "parts are {'type': 'text', 'text': ...} and {'type': 'image', ...}")
    return text, paths


def _path(part: Mapping[str, Any], number: int) -> str | None:
    for key in _PATH_KEYS:
        value = part.get(key)
        if isinstance(value, dict):  # {"image_url": {"url": ...}}
            value = value.get("url") or value.get("path") or value.get("bytes")
        if isinstance(value, str) and value:
            return local(value, f"turn {number} shows")
    source = part.get("source")
    if isinstance(source, dict) and isinstance(source.get("data"), str):  # {"type": "base64", "data": ...}
        return source["data"]
    return None


def local(name: str, whose: str) -> str:
    """A path without what says that it is one.

    Raises:
        Defect: the address of a page.
    """
    if name.startswith(("http:", "https:", "s3:", "gs:", "oss:", "ftp:")):
        raise Defect(REMOTE, f"{whose} {name[:40]}..., which is no file", "download it and give its path")
    return name.removeprefix("file://")


def _listed(entry: Mapping[str, Any], keys: set[str]) -> tuple[list[str], dict[str, str]]:
    """`images` or `image`: paths, or objects with one; or a path for each mark."""
    found: list[list[str]] = []
    marked: dict[str, str] = {}
    for key in IMAGE_KEYS:
        value = entry.get(key)
        if value in (None, "", [], {}) or (key == "images" and isinstance(value, int)):  # how many there are
            continue
        keys.add(key)
        is_table = isinstance(value, dict) and not set(value) & set(_PATH_KEYS)
        if is_table and all(isinstance(path, str) for path in value.values()):
            marked = {mark: local(path, "a line shows") for mark, path in value.items()}
            continue
        found.append([_name(key, one, value) for one in (value if isinstance(value, list) else [value])])
    if len(found) > 1 and found[0] != found[1]:
        raise Defect(MISMATCH, "`image` and `images` name different images", "leave one of them out")
    return (found[0] if found else []), marked


def _name(key: str, one: object, value: object) -> str:
    path = _path(one, 0) if isinstance(one, dict) else one
    if not isinstance(path, str) or not path:
        raise Defect(MALFORMED, f"{key} is a path or a list of paths, this is {value!r:.60}")
    return local(path, "a line shows")


def in_order(line: Line) -> list[str]:
    """The images of all marks in the texts, in their order.

    Raises:
        Defect: image parts with and without a path stand side by side, and the list does not fill the gaps.
    """
    shown = [path for turn in line.turns for path in turn.paths]
    own = [path for path in shown if path is not None]
    if not own or (line.images == own and None not in shown):
        return line.images
    if shown.count(None) != len(line.images):
        what = f"{shown.count(None)} x {IMAGE_MARK} without a path, but {len(line.images)} images in the list"
        raise Defect(MISMATCH, what, "name each image once: with its part, or in the list")
    rest = iter(line.images)
    return [path or next(rest) for path in shown]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(f"{name:.40}" for name in names[:8]) + (", ..." if len(names) > 8 else "")
