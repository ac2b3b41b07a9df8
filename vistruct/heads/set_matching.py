"""Set prediction: each object is found by exactly one query, and every other query finds nothing.

Source: Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872, section 3.1; the assignment
    is scipy's. Mask2Former (arXiv:2112.01527) does the same with other costs.
Differs: all layers and images of a batch wait for the device together, once; the losses are sums, and their units
    follow from the truth alone.
Shapes: N queries, M objects of an image, K classes; leading dimensions, of layers say, may stand before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

WORST = 1e9  # stands for a cost that is no number: the loss will be none either, and whoever trains says so


def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The pairs that cost least together, every one of the shorter side in one; all tables wait for the device at once.

    Args:
        costs: float[..., N, M] each, of other sizes each as may be: of an image, or of the objects of a phrase.

    Returns:
        of each, int64[..., min(N, M)] rows in rising order and as many columns, on the device of the costs.
    """
    if not costs:
        return []
    flat = torch.cat([cost.detach().float().flatten() for cost in costs])
    table = flat.nan_to_num(nan=WORST, posinf=WORST, neginf=-WORST).cpu().numpy()
    pairs: list[np.ndarray] = []
    shapes: list[tuple[int, ...]] = []
    start = 0
    for cost in costs:
        *lead, rows, columns = cost.shape
        num = math.prod(lead)
        each = table[start : start + cost.numel()].reshape(num, rows, columns)
        start += cost.numel()
        shapes.append((2, *lead, min(rows, columns)))
        solved = np.array([linear_sum_assignment(one) for one in each], np.int64).reshape(num, 2, min(rows, columns))
        pairs.append(solved.swapaxes(0, 1).ravel())
    found = torch.from_numpy(np.concatenate(pairs)).to(flat.device)
    parts = found.split([math.prod(shape) for shape in shapes])
    return [(pair[0], pair[1]) for pair in (one.view(shape) for one, shape in zip(parts, shapes, strict=True))]


def assign_within(sizes: Sequence[int], cost: Callable[[slice], Tensor], device: torch.device) -> Tensor:
    """The object of each query where groups of queries, a phrase's say, stand for as many objects in any order.

    Args:
        sizes: of each group, how many queries and objects it has; groups lie end to end.
        cost: where a group lies -> what its pairs cost, float[n, n]; not asked of groups of one.
        device: of the result.

    Returns:
        int64[N], for each query the place of its object.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    spans = [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True) if size > 1]
    order = torch.arange(int(ends[-1]) if len(ends) else 0, device=device)
    for span, (_, columns) in zip(spans, assign([cost(span) for span in spans]), strict=True):
        order[span] = columns + span.start
    return order


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """float[..., N, M]: minus the probability that each query gives the class of each object.

    Args:
        logits: float[..., N, K + 1], the last of no object.
        labels: int64[M].
    """
    return -logits.float().softmax(-1)[..., labels]


def class_goals(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """int64[..., N]: the class that each query is to say, K where it stands for no object.

    Args:
        logits: float[..., N, K + 1].
        rows: int64[..., P], queries that stand for objects.
        labels: int64[..., P], the classes of these objects.
    """
    goals = torch.full(logits.shape[:-1], logits.shape[-1] - 1, dtype=torch.int64, device=logits.device)
    return goals.scatter(-1, rows, labels)


def class_loss(logits: Tensor, goals: Tensor, no_object: float) -> Tensor:
    """float[..., N], the cross entropy of each query; `no_object` is the weight of those that stand for none."""
    nothing = logits.shape[-1] - 1
    loss = F.cross_entropy(logits.float().flatten(0, -2), goals.flatten(), reduction="none").view_as(goals)
    return torch.where(goals == nothing, no_object * loss, loss)


def class_units(objects: Iterable[int], queries: int, no_object: float) -> float:
    """The weights in `class_loss` of one layer, added up, of images with so many objects each."""
    matched = [min(queries, number) for number in objects]
    return float(sum(number + (queries - number) * no_object for number in matched))
