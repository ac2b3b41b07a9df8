"""Average precision of one class from what each detection overlaps most, by the rules of PASCAL VOC.

Source: Everingham et al., The PASCAL Visual Object Classes challenge (the 11-point rule of 2007, the area rule since
    2010), in the arithmetic of the DOTA devkit: recall is compared with floating multiples of 0.1, of which 0.3, 0.6
    and 0.7 lie a rounding error above the decimal.
Shapes: N detections of one class over all images, best score first; M objects.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Rule = Literal["area", "11-point"]


def average_precision(is_hit: np.ndarray, is_alarm: np.ndarray, num_objects: int, rule: Rule) -> float:
    """The area under precision over recall, or the mean of its envelope at recall 0, 0.1, ..., 1.

    Args:
        is_hit: bool[N], detections that found an object.
        is_alarm: bool[N], false alarms; what is neither does not count.
        num_objects: objects to be found.

    Returns:
        in [0, 1]; NaN where there is no object to be found.
    """
    if num_objects == 0:
        return float("nan")
    hits, alarms = np.cumsum(is_hit), np.cumsum(is_alarm)
    recall = hits / float(num_objects)
    precision = hits / np.maximum(hits + alarms, np.finfo(np.float64).eps)
    if rule == "11-point":
        # [11]; recall never falls, so that what reaches a level is the end of the list
        reached = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        return float(sum(envelope[at] / 11.0 for at in reached))
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    grows = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[grows + 1] - recall[grows]) * envelope[grows + 1]))


def hits_and_alarms(
    best_iou: np.ndarray,
    best_object: np.ndarray,
    need_not_be_found: np.ndarray,
    crowd_share: np.ndarray,
    least_iou: float,
    *,
    inclusive: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections found an object and which are false alarms; what is neither does not count.

    Each detection stands for the object that it overlaps most, taken or not, difficult or not: it does not move on
    to the next best one. Of several detections of an object the best score is the hit, the others are alarms.

    Args:
        best_iou: float[N], with the object it overlaps most; 0 where there is none.
        best_object: int64[N], its number; -1 where there is none.
        need_not_be_found: bool[M], difficult objects: their detections do not count.
        crowd_share: float[N] in [0, 1], the part of a detection that lies in a region of many objects: instead of a
            false alarm it then does not count.
        least_iou: in (0, 1).
        inclusive: whether an overlap of exactly `least_iou` is enough.

    Returns:
        bool[N] hits and bool[N] false alarms.
    """
    is_on_object = (best_iou >= least_iou if inclusive else best_iou > least_iou) & (best_object >= 0)
    is_spared = np.zeros(len(best_iou), bool)
    is_spared[is_on_object] = need_not_be_found[best_object[is_on_object]]
    claims = np.flatnonzero(is_on_object & ~is_spared)
    _, first = np.unique(best_object[claims], return_index=True)
    is_hit = np.zeros(len(best_iou), bool)
    is_hit[claims[first]] = True
    is_in_crowd = crowd_share >= least_iou if inclusive else crowd_share > least_iou
    return is_hit, ~is_hit & ~is_spared & ~is_in_crowd
