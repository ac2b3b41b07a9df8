"""A view as plain json with pictures in it: what the page's own script draws on its canvas.

Coordinates stay pixels of the whole image; of a large one the browser gets a smaller picture, and never the file.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.inference.kind import SEEN
from vistruct.inference.scenes import thinned
from vistruct.inference.view import Areas, Frames, Mark, View
from vistruct.pictures.primitives import to_pil

MOST_MARKS = 4000  # objects that a page draws, of the best scores
MOST_ROWS = 500  # of a table
_LOSSLESS = 640  # pixels: a picture up to this side is sent as it is
_FILL, _EDGE = 110, 235  # opacity of an area and of its edge, of 255


def shown_frame(frames: Frames, number: int, view: View | None) -> dict[str, Any]:
    """The pictures of one frame, and the areas on it."""
    height, width = frames.size_hw
    areas = None if view is None or view.areas is None else view.areas
    return {
        "size": [width, height],
        "images": [picture_uri(to_pil(image)) for image in frames.read(number)],
        "frame": number,
        "frames": frames.count,
        "areas": None if areas is None else _areas_uri(areas, number),
    }


def shown_view(view: View) -> dict[str, Any]:
    """Marks and legend."""
    kept = sorted(range(len(view.marks)), key=lambda row: -(view.marks[row].score or 0))[:MOST_MARKS]
    notes = list(view.notes)
    if len(kept) < len(view.marks):
        notes.append(f"{len(kept)} of {len(view.marks)} objects are drawn, the surest; the files have all")
    return {"marks": [_mark(row, view.marks[row]) for row in sorted(kept)], "legend": _legend(view), "notes": notes}


def shown_table(view: View) -> dict[str, Any]:
    """Heads, rows of text and numbers, and how many rows there are in all."""
    rows = [[_cell(value) for value in row] for row in view.rows[:MOST_ROWS]]
    return {"columns": list(view.columns), "rows": rows, "total": len(view.rows)}


def picture_uri(picture: Image.Image) -> str:
    """A `data:` address; small pictures lose nothing."""
    file, small = io.BytesIO(), max(picture.size) <= _LOSSLESS
    picture.save(file, format="PNG" if small else "JPEG", **({} if small else {"quality": 90}))
    return _uri("png" if small else "jpeg", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _mark(row: int, mark: Mark) -> dict[str, Any]:
    return {
        "row": row,
        "name": mark.name,
        "colour": list(mark.colour),
        "rings": [np.asarray(ring, np.float64).round(1).tolist() for ring in mark.rings],
        "area": mark.is_area,
        "score": None if mark.score is None else round(float(mark.score), 4),
        "points": None if mark.keypoints is None else np.asarray(mark.keypoints, np.float64).round(1).tolist(),
    }


def _legend(view: View) -> list[dict[str, Any]]:
    """A colour, a name, and how many or how much."""
    if view.areas is not None:
        areas = view.areas
        counts = np.bincount(areas.labels[areas.labels >= 0].ravel(), minlength=len(areas.names))
        rows = [(number, counts[number] / max(counts.sum(), 1)) for number in np.argsort(-counts, kind="stable")]
        return [
            {"colour": list(areas.colours[number]), "name": areas.names[number], "amount": _percent(share)}
            for number, share in rows
            if share and number != areas.bare
        ]
    colours = {mark.name: mark.colour for mark in view.marks}
    counts = Counter(mark.name for mark in view.marks)
    return [{"colour": list(colours[name]), "name": name, "amount": str(count)} for name, count in counts.most_common()]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _areas_uri(areas: Areas, frame: int) -> str:
    labels = thinned(areas.labels[frame] if areas.labels.ndim == 3 else areas.labels, SEEN)
    opacity = np.where(_edges(labels), _EDGE, _FILL).astype(np.uint8)
    opacity[(labels < 0) | (labels == (IGNORED if areas.bare is None else areas.bare))] = 0
    colours = np.array([*areas.colours, (0, 0, 0)], np.uint8)[np.maximum(labels, IGNORED)]
    file = io.BytesIO()
    Image.fromarray(np.dstack([colours, opacity])).save(file, format="PNG")
    return _uri("png", file)


def _edges(labels: np.ndarray) -> np.ndarray:
    """bool[H, W], pixels beside one of another class."""
    edge = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def _cell(value: Any) -> str | float | int:
    return round(value, 4) if isinstance(value, float) else value


def said(view: View) -> dict[str, Any]:
    """Words, and which of them speak of what."""
    spoken = [{"start": s.start, "end": s.end, "colour": list(s.colour), "marks": list(s.marks)} for s in view.spoken]
    return {"text": view.words, "spoken": spoken}
