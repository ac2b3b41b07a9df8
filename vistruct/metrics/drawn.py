"""What an answer draws in one unit, as a measure needs it, and how far two such sides overlap.

Source: the similarity of key points (OKS) and the areas it is relative to, cocodataset.org (keypoints-eval): the mean
    over the annotated points of exp(-d^2 / (2 area (2 sigma)^2)).
Differs: of objects with key points other than COCO's 17 every sigma is the mean of COCO's, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from torch import Tensor

from vistruct.contracts import Form, Grounded, GroundedPrediction, MaskPatch
from vistruct.errors import UserError
from vistruct.metrics.grounding import iou
from vistruct.ops import key_points
from vistruct.ops.mask_runs import encode_patch, encode_segmentation, run_area

DELTA = 1.25  # a depth is right within this factor
LEAST_DEPTH = 1e-3  # a depth below it counts as it, where it divides
Runs = dict[str, Any]  # a mask in COCO's compressed run lengths
Plan = tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Objects of one unit, one row each time that a phrase names one."""

    names: tuple[str, ...] = ()  # the words of each object's phrase
    scores: np.ndarray  # float64[N]
    boxes_xyxy: np.ndarray  # float64[N, 4], pixels
    masks: tuple[Runs, ...] | None = None  # all of one size, and of both sides the same
    keypoints: np.ndarray | None = None  # float64[N, K, 3]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def areas(self) -> np.ndarray:
        """float64[N], pixels: of masks, else as much of its box as an object usually covers."""
        boxes = key_points.AREA_OF_BOX * np.prod(np.maximum(self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2], 0), axis=1)
        if self.masks is None:
            return boxes
        masked = np.array([run_area(runs) for runs in self.masks], np.float64).reshape(len(self))
        return np.where(masked > 0, masked, boxes)

    @property
    def centres(self) -> np.ndarray:
        """float64[N, 2], x and y."""
        return (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2


NOTHING = Drawn(scores=np.zeros(0), boxes_xyxy=np.zeros((0, 4)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A prediction and its truth as they travel between ranks: nothing that no figure needs, masks as run lengths."""

    id: str
    image_id: str
    family: str
    form: Form | None
    others: tuple[str, ...]
    question: str
    words: str
    true_words: str
    found: Mapping[str, Drawn]  # by unit
    truth: Mapping[str, Drawn]
    drawn: Plan  # phrases of the answer as they are: words, unit, how many
    plan: Plan
    true_plan: Plan
    defects: tuple[str, ...]
    depths: tuple[tuple[float, float], ...]  # of each true depth: mean relative error, share that is right
    has_truth: bool
    has_unseen: int  # true objects with key points of which none is annotated: left out
    size_hw: tuple[int, int] | None


def condensed(prediction: GroundedPrediction) -> Question:
    """The arrays of a prediction that measures need, on the CPU.

    Raises:
        ValueError: masks or key points are drawn and there are none.
    """
    found, truth = prediction.found, prediction.truth
    canvas = _canvas(prediction)
    wanted = {} if truth is None else _sides(truth, canvas, {"mask", "point", "keypoint"}, prediction.id)
    unseen = 0
    if "keypoint" in wanted and wanted["keypoint"].keypoints is not None:
        seen = (wanted["keypoint"].keypoints[:, :, 2] > 0).any(axis=1)
        unseen = int((~seen).sum())
        wanted["keypoint"] = keep(wanted["keypoint"], np.flatnonzero(seen))
    return Question(
        id=prediction.id,
        image_id=prediction.image_id,
        family=prediction.family,
        form=prediction.form,
        others=prediction.others,
        question=prediction.question,
        words=found.words,
        true_words="" if truth is None else truth.words,
        found=_sides(found, canvas, {"mask"}, prediction.id),
        truth=wanted,
        drawn=tuple((phrase.text, phrase.unit, len(phrase.rows)) for phrase in found.phrases),
        plan=found.plan,
        true_plan=() if truth is None else truth.plan,
        defects=found.defects,
        depths=() if truth is None else _depths(found, truth, canvas),
        has_truth=truth is not None,
        has_unseen=unseen,
        size_hw=prediction.size_hw,
    )


def keep(drawn: Drawn, rows: np.ndarray) -> Drawn:
    """Some of the rows: int64[K]."""
    return Drawn(
        names=tuple(drawn.names[i] for i in rows),
        scores=drawn.scores[rows],
        boxes_xyxy=drawn.boxes_xyxy[rows],
        masks=None if drawn.masks is None else tuple(drawn.masks[i] for i in rows),
        keypoints=None if drawn.keypoints is None else drawn.keypoints[rows],
    )


def _sides(side: Grounded, canvas: tuple[int, int], masked: set[str], where: str) -> dict[str, Drawn]:
    """By unit, in the order of the answer."""
    rows: dict[str, list[tuple[str, int]]] = {}
    for phrase in side.phrases:
        rows.setdefault(phrase.unit, []).extend((phrase.text, row) for row in phrase.rows)
    objects = side.objects
    boxes, scores = (column.detach().double().cpu().numpy() for column in (objects.boxes_xyxy, objects.scores))
    points = None if objects.keypoints is None else objects.keypoints.detach().double().cpu().numpy()
    found = {}
    for unit, pairs in rows.items():
        numbers = np.array([row for _, row in pairs], np.int64)
        if (unit == "mask" and objects.masks is None) or (unit == "keypoint" and points is None):
            raise ValueError(f"{where}: a {unit} is pointed at, and the objects have none")
        masks = None
        if unit in masked and objects.masks is not None:
            masks = tuple(_runs(objects.masks[int(i)], canvas) for i in numbers)
        found[unit] = Drawn(
            names=tuple(text for text, _ in pairs),
            scores=scores[numbers],
            boxes_xyxy=boxes[numbers],
            masks=masks,
            keypoints=points[numbers] if unit == "keypoint" and points is not None else None,
        )
    return {unit: drawn for unit, drawn in found.items() if len(drawn)}


def _canvas(prediction: GroundedPrediction) -> tuple[int, int]:
    """Height and width of a picture that all masks fit on."""
    sizes = [prediction.size_hw or (1, 1)]
    for side in (prediction.found, prediction.truth):
        masks = () if side is None or side.objects.masks is None else side.objects.masks
        if isinstance(masks, Tensor):
            sizes.append((masks.shape[1], masks.shape[2]))
            continue
        for mask in masks:
            if isinstance(mask, MaskPatch):
                sizes.append((mask.y + mask.pixels.shape[0], mask.x + mask.pixels.shape[1]))
            elif isinstance(mask, dict):
                sizes.append(tuple(mask["size"]))
            else:
                corners = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in mask])
                sizes.append((int(np.ceil(corners[:, 1].max())), int(np.ceil(corners[:, 0].max()))))
    return max(h for h, _ in sizes), max(w for _, w in sizes)


def _runs(mask: Any, canvas: tuple[int, int]) -> Runs:
    x = y = 0
    if isinstance(mask, MaskPatch):
        mask, x, y = mask.pixels, mask.x, mask.y
    elif isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    elif isinstance(mask, dict) and tuple(mask["size"]) != canvas:
        size: Any = tuple(mask["size"])
        mask = np.asarray(coco_mask.decode(encode_segmentation(mask, size)), bool)
    if isinstance(mask, np.ndarray):
        return encode_patch(mask >= 0.5 if mask.dtype.kind == "f" else mask, x, y, canvas)
    return encode_segmentation(mask, canvas)


def _values(mask: Any, canvas: tuple[int, int]) -> np.ndarray:
    """float64[H, W], of a soft mask, whole or a patch."""
    if isinstance(mask, Tensor):
        return mask.detach().double().cpu().numpy()
    values = np.zeros(canvas)
    height, width = mask.pixels.shape
    values[mask.y : mask.y + height, mask.x : mask.x + width] = mask.pixels
    return values


def _depths(found: Grounded, truth: Grounded, canvas: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """Of each true depth: mean relative error, and share within DELTA, over the pixels that have one; depths are paired
    in the order of the answer, and one that is missing is 0 everywhere."""
    said, wanted = (
        [side.objects.masks[row] for phrase in side.phrases if phrase.unit == "depth" for row in phrase.rows]
        for side in (found, truth)
    )
    numbers = []
    for i, own in enumerate(wanted):
        true = _values(own, canvas)
        is_known = true > 0
        mine = (_values(said[i], canvas) if i < len(said) else np.zeros_like(true))[is_known]
        true = np.maximum(true[is_known], LEAST_DEPTH)
        factor = np.maximum(mine, LEAST_DEPTH) / true
        if len(true):
            numbers.append(
                (float((np.abs(mine - true) / true).mean()), float((np.maximum(factor, 1 / factor) < DELTA).mean()))
            )
    return tuple(numbers)


# --- overlaps


def overlaps(unit: str, found: Drawn, truth: Drawn, sigmas: Sequence[float] | None = None) -> np.ndarray:
    """float64[N, M] in [0, 1]: IoU of masks or of boxes, of key points OKS, of a point whether it lies in the object.

    What has another unit, a plug-in's, is compared by its hull.
    """
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    if unit == "mask":
        shared: Any = coco_mask.iou(list(found.masks or ()), list(truth.masks or ()), [0] * len(truth))
        return np.nan_to_num(np.asarray(shared, np.float64).reshape(len(found), len(truth)))
    if unit == "keypoint":
        return oks(found, truth, sigmas)
    if unit == "point":
        return inside(found.centres, truth)
    return iou(found.boxes_xyxy, truth.boxes_xyxy)


def inside(points: np.ndarray, truth: Drawn) -> np.ndarray:
    """float64[N, M], 1 where a point float64[N, 2] lies on an object's mask; of objects without one, in its box."""
    x, y = points[:, None, 0], points[:, None, 1]
    low, high = truth.boxes_xyxy[None, :, :2], truth.boxes_xyxy[None, :, 2:]
    hits = (x >= low[..., 0]) & (y >= low[..., 1]) & (x <= high[..., 0]) & (y <= high[..., 1])
    for j, runs in enumerate(truth.masks or ()):
        if run_area(runs):
            mask = np.asarray(coco_mask.decode(runs), bool)
            column, row = np.floor(points).astype(np.int64).T
            on = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
            hits[:, j] = False
            hits[on, j] = mask[row[on], column[on]]
    return hits.astype(np.float64)


def sigmas_of(number: int, told: Sequence[float] | None) -> np.ndarray:
    """float64[K], one for each key point.

    Raises:
        UserError: others were told than there are.
    """
    if told is not None and len(told) != number:
        what = f"{len(told)} sigmas for {number} key points"
        raise UserError(what, where="sigmas", fix=f"leave them out, or give {number} of them")
    if told is not None:
        return np.asarray(told, np.float64)
    return np.array(key_points.sigmas_of(number))


def oks(found: Drawn, truth: Drawn, sigmas: Sequence[float] | None = None) -> np.ndarray:
    """float64[N, M], the similarity of key points; over those of the truth that are annotated.

    Raises:
        UserError: objects with other numbers of key points.
    """
    assert found.keypoints is not None
    assert truth.keypoints is not None
    number = truth.keypoints.shape[1]
    if found.keypoints.shape[1] != number:
        what = f"the model draws {found.keypoints.shape[1]} key points, the truth has {number}"
        raise UserError(
            what, where="unit keypoint", fix="evaluate on data with the key points the model was trained on"
        )
    is_there = truth.keypoints[:, :, 2] > 0  # [M, K]
    squared = ((found.keypoints[:, None, :, :2] - truth.keypoints[None, :, :, :2]) ** 2).sum(axis=3)  # [N, M, K]
    spread = (2 * sigmas_of(number, sigmas)) ** 2 * 2 * (truth.areas[:, None] + np.spacing(1))  # [M, K]
    near = np.exp(-squared / spread) * is_there
    return near.sum(axis=2) / is_there.sum(axis=1)


def together(found: Drawn, truth: Drawn) -> tuple[float, float]:
    """Pixels that all masks of both sides share, and that either side has."""
    sides = [coco_mask.merge(list(side.masks or ())) for side in (found, truth) if len(side)]
    if not sides:
        return 0.0, 0.0
    either: Any = coco_mask.merge(sides)
    both: Any = coco_mask.merge(sides, intersect=True)
    return float(run_area(both)) if len(sides) == 2 else 0.0, float(run_area(either))
