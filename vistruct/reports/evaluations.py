"""The part of a run's report that says what was measured, class by class and image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vistruct.metrics.means import partial_means
from vistruct.reports.confusion import WITH_COUNTS, WITH_SHARES, class_bars, confusion_figure
from vistruct.reports.measured import Evaluation, by_group, image_scores, parted, weakest_class
from vistruct.reports.page import Bar, Report, literal

WORST, BEST = 6, 3  # images in a table
NO_SHARES = {
    "HD95",
    "error",
    "questions",
    "mae",
    "count_mae",
    "distance",
    "abs_rel",
}  # figures of classes that are no share, even where they lie in [0, 1]
MAIN = ("Dice", "IoU", "AP", "F1", "accuracy")  # what classes are sorted by: the first that there is
UNITS = {"HD95": "HD95, mm"}


def write_evaluations(page: Report, finals: Mapping[str, tuple[int | None, Mapping[str, float]]],
                      kept: Sequence[Evaluation]) -> None:  # fmt: skip
    """Add what each evaluation found last.

    Args:
        finals: of each evaluation by name: the step, and its numbers.
        kept: those that have kept more than numbers.
    """
    if not finals:
        return
    details = {one.name: one for one in kept}
    rows = [
        [f"{name}/{metric}", value, "–" if step is None else step]
        for name, (step, numbers) in finals.items()
        for metric, value in numbers.items()
        if parted(metric)[1] is None
    ]
    page.text("## Evaluation")
    page.table(["metric", "value", "at step"], rows, caption="Each metric, of the weights in `model/`")
    for name, (_, numbers) in finals.items():
        for line in partial_means(numbers):
            page.callout(f"`{name}`: {line}")
        groups, more = by_group(numbers), details.get(name)
        several = f": `{name}`" if len(finals) > 1 else ""
        if groups:
            is_grounded = more is not None and more.metric == "grounded"
            page.text(f"### {'Family by family' if is_grounded else 'Class by class'}{several}")
            _groups(page, groups, more)
        if more is not None:
            for alarm in more.details.get("alarms", ()):
                page.callout(f"`{name}`: {alarm}")
            _confusion(page, more, several)
            _images(page, more, several)
            _distances(page, more, several)
            _answers(page, more, several)


def _groups(page: Report, groups: Mapping[str, Mapping[str, float]], more: Evaluation | None) -> None:
    """A row for each class, the best first."""
    figures = list(dict.fromkeys(figure for row in groups.values() for figure in row))
    is_grounded = more is not None and more.metric == "grounded"
    main = next((figure for figure in (("f1_50",) if is_grounded else MAIN) if figure in figures), figures[0])
    order = sorted(groups, key=lambda group: _rank(groups[group].get(main, math.nan)))
    columns = {figure: [groups[group].get(figure, math.nan) for group in order] for figure in figures}
    shown = {
        figure: [Bar(value) if _is_share(figure, values) else None if math.isnan(value) else value for value in values]
        for figure, values in columns.items()
    }
    truth = None if more is None or more.confusion is None else more.confusion.sum(axis=1)
    names = () if more is None else more.class_names
    headers, rows = ["family" if is_grounded else "class", *(UNITS.get(figure, figure) for figure in figures)], []
    for place, group in enumerate(order):
        row: list[Any] = [literal(group), *(shown[figure][place] for figure in figures)]
        if truth is not None:
            row.append(int(truth[names.index(group)]) if group in names else None)
        rows.append(row)
    if truth is not None and more is not None:
        headers.append(more.unit)
    absent = (
        "this is not measured of such questions" if is_grounded else "the class does not occur, so nothing can be said"
    )
    page.table(headers, rows, caption=f"Sorted by {main}; a dash: {absent}")
    if more is not None and more.metric == "classes" and more.confusion is None:
        values = [groups.get(name, {}).get("AP") for name in names]
        page.figure(class_bars(names, values, "average precision"), "Average precision of each class")


def _confusion(page: Report, more: Evaluation, several: str) -> None:
    if more.confusion is None or not more.confusion.sum():
        return
    page.text(f"### What is taken for what{several}")
    occurs = np.flatnonzero(more.confusion.sum(axis=0) + more.confusion.sum(axis=1))
    absent = len(more.class_names) - len(occurs)
    share = "in the colour of a cell its share of the row"
    if len(occurs) <= WITH_SHARES:
        share = (
            f"in a cell its share of the row{f' and the {more.unit}' if len(occurs) <= WITH_COUNTS else ' in per cent'}"
        )
    nowhere = f". {absent} of the classes are nowhere, in truth or answers, and left out" if absent else ""
    caption = f"Rows are the truth, columns what was said; {share}{nowhere}"
    names = [more.class_names[i] for i in occurs]
    page.figure(confusion_figure(more.confusion[np.ix_(occurs, occurs)], names), caption)
    worst = _mistakes(more.confusion, more.class_names)
    if worst:
        page.table(["is", "said to be", more.unit, "of that class"], worst, caption="The commonest mistakes")


def _mistakes(confusion: np.ndarray, names: Sequence[str], most: int = 5) -> list[list[Any]]:
    """Of two different classes, those with the most."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        [literal(names[i]), literal(names[j]), int(wrong[i, j]), Bar(float(wrong[i, j] / confusion[i].sum()))]
        for i, j in pairs
        if wrong[i, j]
    ]


def _images(page: Report, more: Evaluation, several: str) -> None:
    scores = image_scores(more)
    if len(scores) < 2:
        return
    kind, what = ("volume", "Dice") if more.is_volumes else ("image", "IoU")
    headers, how = [kind, f"mean {what}", "weakest class", f"its {what}"], f"mean {what}"
    if more.metric == "classes":
        is_single = more.confusion is not None
        headers, how = [kind, "score", "truth", "said"], "what the true class got" if is_single else "score"
    if more.metric == "captions":
        headers, how = [kind, "ROUGE-L", "CIDEr-D", "said"], "ROUGE-L"
    chosen = scores if len(scores) <= WORST + BEST else scores[:WORST] + scores[-BEST:]
    rest = f"The {WORST} worst and the {BEST} best of {len(scores)}" if len(chosen) < len(scores) else "All of them"
    page.text(f"### The worst {kind}s{several}")
    rows = [[literal(image_id), Bar(score), *_why(more, image_id)] for image_id, score in chosen]
    page.table(headers, rows, caption=f"{rest}, by {how}; the median is {np.median([s for _, s in scores]):.3f}")


def _why(more: Evaluation, image_id: str) -> list[Any]:
    """Two cells: truth and what was said of an image; or the class that overlaps least, and how much; of a caption its
    CIDEr-D and the caption."""
    if more.metric == "captions":
        return [float(more.details["per_image"]["CIDEr-D"][image_id][0]), literal(more.details["captions"][image_id])]
    kept, names = more.details["images"][image_id], more.class_names
    if not isinstance(kept, Mapping):
        weakest, overlap = weakest_class(more, image_id)
        return [literal(weakest), Bar(overlap)]
    scores = np.asarray(kept["scores"])
    said = [int(scores.argmax())] if more.confusion is not None else np.flatnonzero(scores >= 0.5).tolist()
    return [literal(", ".join(names[i] for i in which) or "no class") for which in (kept["truth"], said)]


def _distances(page: Report, more: Evaluation, several: str) -> None:
    if not more.hd95:
        return
    known = {case: [value for value in row if value is not None] for case, row in more.hd95.items()}
    order = sorted(more.hd95, key=lambda case: -max(known[case], default=math.inf))
    page.text(f"### Surface distances{several}")
    page.table(
        ["volume", *more.region_names],
        [[literal(case), *more.hd95[case]] for case in order],
        caption="HD95 in millimetres, the worst volume first; a dash: no surface, in the truth or in what was said",
    )


def _answers(page: Report, more: Evaluation, several: str) -> None:
    """Of a model that answers and points: its worst and best answers, and what of their form is broken."""
    if more.metric != "grounded":
        return
    scored = sorted((one for one in more.details.get("answers", ()) if one["score"] is not None), key=_score)
    if scored:
        chosen = scored if len(scored) <= WORST + BEST else scored[:WORST] + scored[-BEST:]
        rest = f"The {WORST} worst and the {BEST} best of {len(scored)}" if len(chosen) < len(scored) else "All of them"
        rows = [
            [
                literal(one["id"]),
                *(literal(one[part] or "–") for part in ("question", "said", "truth")),
                Bar(one["score"]),
            ]
            for one in chosen
        ]
        page.text(f"### The worst answers{several}")
        caption = f"{rest}, by what they draw; the median is {np.median([_score(one) for one in scored]):.3f}"
        page.table(["id", "question", "said", "truth", "score"], rows, caption=caption)
    defects: Mapping[str, int] = more.details.get("defects", {})
    if defects:
        order = sorted(defects.items(), key=lambda pair: (-pair[1], pair[0]))
        caption = "What is broken in the form of the answers; what can be read of them is measured"
        page.table(["what is broken", "answers"], [[literal(name), count] for name, count in order], caption=caption)


def _score(answer: Mapping[str, Any]) -> float:
    return float(answer["score"])


def _rank(value: float) -> tuple[bool, float]:
    return math.isnan(value), -value


def _is_share(figure: str, values: Sequence[float]) -> bool:
    return figure not in NO_SHARES and all(math.isnan(value) or 0 <= value <= 1 for value in values)
