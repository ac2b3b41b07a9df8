"""What every shape of conversations shares: who may speak when, why one cannot be trained on, what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vistruct.contracts import IMAGE_MARK, Role, Turn
from vistruct.issues import Effect

LEFT_OUT = "conversation left out: "

NOT_JSON = f"{LEFT_OUT}not json"
MALFORMED = f"{LEFT_OUT}no question and answer can be read"
MISMATCH = f"{LEFT_OUT}<image> marks and images differ in number"
EMPTY_ANSWER = f"{LEFT_OUT}an answer is empty"
EMPTY_QUESTION = f"{LEFT_OUT}a question is empty"
VIDEO = f"{LEFT_OUT}it shows a video, or plays a sound"
OBJECTS = f"{LEFT_OUT}its objects cannot be read"
POINTS = f"{LEFT_OUT}marks and the objects they stand for do not match"
TOOLS = f"{LEFT_OUT}it calls tools"
FOREIGN = f"{LEFT_OUT}a text holds an image mark of another tool that stands for no image"
RESERVED = f"{LEFT_OUT}a text holds a token that the model itself writes"
UNREAD_IMAGE = f"{LEFT_OUT}a value looks like an image's path, under a key that is not read"
REMOTE = f"{LEFT_OUT}an image is a web address"
UNTAUGHT = f"{LEFT_OUT}every answer is marked as not to be learned"
REASONS = (
    *(NOT_JSON, MALFORMED, MISMATCH, EMPTY_ANSWER, EMPTY_QUESTION, VIDEO, OBJECTS, POINTS, TOOLS, FOREIGN, RESERVED),
    *(UNREAD_IMAGE, REMOTE, UNTAUGHT),
)

PREPENDED = "image put before the first question, which did not say where"
MARK_READ = "image mark of another tool read as the image's place"
PATH_IN_TEXT = "image whose path stood in the text put in its place"
BOXES_FILLED = "<bbox> and <ref-object> filled in from the line's objects"
NOT_TAUGHT = "answer that is read and not learned, as its turn says"
UNIT_BOXES = "answer whose boxes are no integers from 0 to 1000, but shares of the image (0 to 1)"
PIXEL_BOXES = "answer whose boxes are no integers from 0 to 1000, but pixels or another scale"
OTHER_BOXES = "answer with boxes in the writing of another tool, which are measured as words"
PICTURE_IN_TEXT = "text that names an image file in markdown or html, which is not read"
HALF_WEIGHT = "turn with a weight other than 0 and 1, which is learned like the others"
_REPAIRED = (PREPENDED, MARK_READ, PATH_IN_TEXT, BOXES_FILLED)


def effect_of(note: str) -> Effect:
    """What became of a conversation of which this is said."""
    return "repaired" if note in _REPAIRED else "kept"


@dataclass(eq=False)
class Defect(Exception):
    """Why one conversation cannot be trained on; counted under `reason`, which is one of REASONS."""

    reason: str
    what: str
    fix: str = "correct or remove this line"


def check_order(roles: Sequence[Role], names: Mapping[Role, str]) -> None:
    """A system turn may come first; then user and assistant take turns, and the assistant has the last word.

    Args:
        names: how the schema calls the roles, for the message.

    Raises:
        Defect: not so.
    """
    user, assistant = names["user"], names["assistant"]
    for number, role in enumerate(roles, start=1):
        expected: Role = "assistant" if number > 1 and roles[number - 2] == "user" else "user"
        if role != expected and not (role == "system" and number == 1):
            what = f"turn {number} is from {names[role]}, where {names[expected]} must follow"
            raise Defect(MALFORMED, what, f"{names['system']} may come first, then {user} and {assistant} take turns")
    if roles[-1] != "assistant":
        what = f"the last turn is from {names[roles[-1]]}, so nothing is answered"
        raise Defect(MALFORMED, what, f"end with {assistant}")


def check_marks(turns: Sequence[Turn], num_images: int) -> bool:
    """Whether the one image has no place in the text yet, so that it goes before the first question.

    Raises:
        Defect: an empty turn, or placeholders that are not as many as the images.
    """
    num_marks = 0
    for turn in turns:
        marks = turn.text.count(IMAGE_MARK)
        if marks and turn.role != "user":
            raise Defect(MISMATCH, f"{IMAGE_MARK} stands outside a human turn", "only a human turn can show an image")
        num_marks += marks
    is_unplaced = num_images == 1 and num_marks == 0
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip() and turn.is_taught:
            raise Defect(EMPTY_ANSWER, "an answer is empty")
        if turn.role == "user" and not turn.text.strip() and not is_unplaced:
            raise Defect(EMPTY_QUESTION, "a question is empty")
    if not is_unplaced and num_marks != num_images:
        fix = f"write {IMAGE_MARK} once for each image, in the order of the list"
        raise Defect(MISMATCH, f"{num_marks} x {IMAGE_MARK} in the text, but {num_images} images", fix)
    return is_unplaced
