"""The detections of overlapping windows put together, so that an object comes out once.

Two rules, class by class, for detections of *different* windows (within one window the head has chosen already):

1. A detection that reaches an edge of its window inside the image may be a cut-off part. It is dropped for one
   of another window that has at least half its score, and either is larger and covers half of it or more, or is
   surely the same object (IoU above a half) and reaches no such edge.
2. Of the rest, the best of those that overlap by more than `overlap_iou` stays: greedy non-maximum suppression.

Overlap is that of the oriented boxes where there are any. A mask goes with its box: of two masks of an object the one
that stays is the one whose box does, never the union, which would add up the mistakes of both. An object larger than
the windows' overlap may be whole in no window; its parts then stay parts.

What the rules say of a detection depends on those it overlaps, and on what they overlap, and on nothing else. So
once all windows that can reach such a group have been seen it is finished, and a scene of any size needs the memory of
about one row of windows beside its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vistruct.contracts import BoxPrediction, cat
from vistruct.windows.merge_rules import Pile, explained, furthest, greedy, overlaps, ranks

EDGE_PX = 0.5  # rounding of a window's place
BORDER_PX = 4.0  # a detection that ends this close to its window's edge may go on outside
OVERLAP_IOU = 0.5  # horizontal boxes of neighbours overlap
OVERLAP_IOU_ORIENTED = 0.1  # oriented ones hardly do, and two of one thin object may; as DOTA results are merged
REACH = 0.5  # of a window's height: how far above its window an oriented box may begin

Extent = tuple[float, float, float, float]


def merge_windows(predictions: Sequence[BoxPrediction], overlap_iou: float | None = None) -> list[BoxPrediction]:
    """Put the detections of images' windows together, all at once.

    Args:
        predictions: in pixels of the whole image, any order; a prediction without a window covers its whole image.
        overlap_iou: in [0, 1]; None: 0.5 for horizontal boxes, 0.1 for oriented ones.

    Returns:
        One prediction for each image, in order of first appearance, best score first, without a window.

    Raises:
        ValueError: predictions of one image differ in their class names, or in whether they have oriented boxes or
            masks.
    """
    by_image: dict[str, list[BoxPrediction]] = defaultdict(list)
    for prediction in predictions:
        by_image[prediction.image_id].append(prediction)
    merged = []
    for image_id, parts in by_image.items():
        every = [part.window_xyxy for part in parts if part.window_xyxy is not None] or [(0.0, 0.0, 0.0, 0.0)]
        left, top, right, bottom = zip(*every, strict=True)
        merger = WindowMerger(image_id, (min(left), min(top), max(right), max(bottom)), overlap_iou)
        for part in parts:
            merger.add(part)
        merged.append(merger.finish())
    return merged


class WindowMerger:
    """Takes the windows of an image as they come and gives back what is finished.

    With windows row by row, `take_finished` between the rows keeps `num_held` small; what comes out in the end does
    not depend on whether or when it is called.
    """

    def __init__(self, image_id: str, extent_xyxy: Extent, overlap_iou: float | None = None) -> None:
        """Begin an image; `extent_xyxy`, in pixels, is what all its windows cover together."""
        self.image_id, self.extent_xyxy, self.overlap_iou = image_id, extent_xyxy, overlap_iou
        self.num_windows = 0
        self.most_held = 0  # detections, at any time so far
        self._piles: list[Pile] = []
        self._first: BoxPrediction | None = None
        self._reach_px = 0.0

    @property
    def num_held(self) -> int:
        """Detections that are not finished yet."""
        return sum(len(pile.window) for pile in self._piles)

    def add(self, prediction: BoxPrediction) -> None:
        """Add what was found in a window, in pixels of the whole image.

        Raises:
            ValueError: other class names than before, or oriented boxes or masks now and not before.
        """
        first = self._first = self._first or prediction
        if prediction.class_names != first.class_names:
            raise ValueError(f"{self.image_id}: predictions with different class names cannot be merged")
        if _kind(prediction) != _kind(first):
            raise ValueError(f"{self.image_id}: predictions with {_kind(prediction)} and with {_kind(first)}")
        if prediction.window_xyxy is not None and prediction.objects.boxes_cxcywha is not None:
            height = prediction.window_xyxy[3] - prediction.window_xyxy[1]
            self._reach_px = max(self._reach_px, REACH * height)
        count = len(prediction.objects)
        window = torch.full((count,), self.num_windows)
        self._piles.append(Pile(found=_on_cpu(prediction), window=window, is_cut=self._is_cut(prediction)))
        self.num_windows += 1
        self.most_held = max(self.most_held, self.num_held)

    def take_finished(self, next_y: float) -> BoxPrediction:
        """What no window to come can change; every one of those begins at `next_y` or below.

        A detection to come may begin above its window: a horizontal one by less than a pixel, an oriented one by up
        to half a window. One that begins still higher is compared with what is held then, and not with what is gone.

        Returns:
            Detections as of `merge_windows`, best score first.

        Raises:
            ValueError: no window has been added.
        """
        pile = self._pile()
        a, b, iou, shared = overlaps(pile, self._iou(pile))
        parts = explained(pile, a, b, iou, shared)
        is_same = iou > self._iou(pile)

        bottom = pile.found.objects.boxes_xyxy[:, 3].double().nan_to_num(nan=-torch.inf)
        linked = is_same | parts[0] | parts[1]
        is_finished = furthest(bottom, a[linked], b[linked]) <= next_y - self._reach_px - 1
        is_part = torch.zeros(len(bottom), dtype=torch.bool)
        is_part[a[parts[0]]] = True
        is_part[b[parts[1]]] = True

        rank = ranks(pile)
        goes_on = is_same & ~is_part[a] & ~is_part[b]
        first, second = a[goes_on], b[goes_on]
        a_is_better = rank[first] < rank[second]
        better, worse = torch.where(a_is_better, first, second), torch.where(a_is_better, second, first)
        stays = is_finished & ~is_part & greedy(len(bottom), better, worse)
        held = _keep(pile, ~is_finished)
        self._piles = [held]
        numbers = stays.nonzero().squeeze(1)
        return pile.found.keep(numbers[rank[numbers].argsort()])

    def finish(self) -> BoxPrediction:
        """All that is left, finished because no window is to come."""
        return self.take_finished(torch.inf)

    def _pile(self) -> Pile:
        """All that is held as one."""
        if not self._piles:
            raise ValueError(f"{self.image_id}: no windows to merge")
        if len(self._piles) > 1:
            window = torch.cat([pile.window for pile in self._piles])
            is_cut = torch.cat([pile.is_cut for pile in self._piles])
            found = join([pile.found for pile in self._piles])
            self._piles = [Pile(found=found, window=window, is_cut=is_cut)]
        (pile,) = self._piles
        return replace(pile, found=replace(pile.found, id=self.image_id, image_id=self.image_id, window_xyxy=None))

    def _iou(self, pile: Pile) -> float:
        if self.overlap_iou is not None:
            return self.overlap_iou
        return OVERLAP_IOU if pile.found.objects.boxes_cxcywha is None else OVERLAP_IOU_ORIENTED

    def _is_cut(self, part: BoxPrediction) -> Tensor:
        """bool[N], true where a box reaches an edge of its window beyond which the image goes on."""
        boxes = part.objects.boxes_xyxy.cpu()
        is_cut = torch.zeros(len(boxes), dtype=torch.bool)
        if part.window_xyxy is None:
            return is_cut
        (left, top, right, bottom), (x0, y0, x1, y1) = self.extent_xyxy, part.window_xyxy
        if x0 > left + EDGE_PX:
            is_cut |= boxes[:, 0] <= x0 + BORDER_PX
        if y0 > top + EDGE_PX:
            is_cut |= boxes[:, 1] <= y0 + BORDER_PX
        if x1 < right - EDGE_PX:
            is_cut |= boxes[:, 2] >= x1 - BORDER_PX
        if y1 < bottom - EDGE_PX:
            is_cut |= boxes[:, 3] >= y1 - BORDER_PX
        return is_cut


def join(parts: Sequence[BoxPrediction]) -> BoxPrediction:
    """The detections of all parts behind each other, of the kind and with the names of the first."""
    return replace(parts[0], objects=cat([part.objects for part in parts]))


def _keep(pile: Pile, kept: Tensor) -> Pile:
    return Pile(found=pile.found.keep(kept), window=pile.window[kept], is_cut=pile.is_cut[kept])


def _kind(prediction: BoxPrediction) -> str:
    boxes = "horizontal boxes" if prediction.objects.boxes_cxcywha is None else "oriented boxes"
    return boxes if prediction.objects.masks is None else f"{boxes} and masks"


def _on_cpu(prediction: BoxPrediction) -> BoxPrediction:
    return replace(prediction, objects=prediction.objects.to(torch.device("cpu")))
