"""A study's report: what the better init is worth, how sure that is, and what it costs; one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vistruct.files.json_files import read_record
from vistruct.reports.measured import Kept
from vistruct.reports.page import Report
from vistruct.study import figures
from vistruct.study.answers_report import write_answers
from vistruct.study.few_labels_report import UNITS, comparison, measured, repeated, shown_gains, write_few_labels
from vistruct.study.ring_report import write_ring
from vistruct.study.study import SHORT, TUNINGS, percent

Found = Mapping[str, Any]  # what study.json says; see outcome.py
MOST_CLASSES = 40  # in a plot of classes
OF_CLASSES = {"mIoU": "IoU", "mF1": "F1", "mDice": "F1", "mAcc": "recall", "mAP": "AP", "OA": "recall"}
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
VERDICTS = {
    "clear gain": "**a clear gain**",
    "clear loss": "**a clear loss**",
    "not clear": "**no clear difference**",
    "one pair": "one pair, of which nothing can be said",
    "no pair": "not measured",
}


def write_study_report(path: Path, found: Found, root: Path) -> Path:
    """Write the report.

    Args:
        found: as study.json.
        root: the study's directory, which `run` of its trials is below.
    """
    plan = found["plan"]
    title = "What did pretraining buy?" if _from_scratch(found) else f"Which init is better for {plan['recipe']}?"
    page = Report(title, f"{metric_name(found)} of the recipe `{plan['recipe']}` from {_listed(list(plan['inits']))}")
    add_study(page, found, root)
    return page.write(path)


def add_study(page: Report, found: Found, root: Path) -> None:
    """All sections of a study; for reports that have more of their own."""
    _headline(page, found)
    write_ring(page, found)
    if found["few_labels"] is not None:
        seeds = found["plan"]["seeds"]
        page.figure(
            comparison(found),
            "Frozen backbone with a few labels (left, middle; mean and standard deviation over "
            f"{repeated(found['plan'])}), and trials on the smallest fraction of the labels (right; each dot is one of "
            f"{seeds} seeds).",
        )
    page.figure(figures.by_fraction(found), _curve_caption(found))
    _gains(page, found)
    write_few_labels(page, found)
    write_answers(page, found)
    _slices(page, found)
    _robustness(page, found)
    _pretraining(page, found, root)
    _training(page, found, root)
    _pictures(page, found, root)
    _cost(page, found)
    _method(page, found)


def metric_name(found: Found) -> str:
    """The metric without its evaluation's name."""
    return found["metric"].partition("/")[2]


def sentence(gain: Found, level: float) -> str:
    """What is found of one gain, in words."""
    what = f"{gain['init']}, {percent(gain['fraction'])} of the labels, {TUNINGS[gain['tuning']]}"
    if gain["mean"] is None:
        return f"{what}: {VERDICTS['no pair']}"
    text = f"{what}: {VERDICTS[gain['verdict']]}, {gain['mean']:+.3f}"
    if gain["bootstrap"]:
        text += f" ({level:.0%} interval {_ends(gain['bootstrap'])}; better in {gain['wins']} of {gain['pairs']} pairs)"
    return text


def few_labels_sentence(gain: Found, found: Found) -> str:
    """What is found of one gain of a probe, in words."""
    interval = "" if gain["student"] is None else f" ({_ends(gain['student'])})"
    what = f"{measured(found, gain['kind'])} with {gain['labels']} {UNITS[gain['kind']]}"
    wins = f"better in {gain['wins']} of {gain['pairs']} draws"
    return f"{gain['init']}, {what}: {VERDICTS[gain['verdict']]}, {gain['mean']:+.3f}{interval}, {wins}"


def _headline(page: Report, found: Found) -> None:
    plan, gains = found["plan"], found["gains"]
    ends = [g for g in gains if g["fraction"] in (min(plan["fractions"]), max(plan["fractions"]))]
    first = [(gain, gain["init"]) for gain in shown_gains(found, plan["baseline"])]
    numbers = [
        (
            f"{_number(gain['before'])} → {_number(gain['after'])}",
            measured(found, gain["kind"]),
            f"{plan['baseline']} → {init}, frozen, {gain['labels']} {UNITS[gain['kind']]}",
        )
        for gain, init in first
        if init == first[0][1]
    ]
    numbers += [
        (
            f"{_number(gain['before'])} → {_number(gain['after'])}",
            f"{metric_name(found)}, {TUNINGS[gain['tuning']]}",
            f"{gain['against']} → {gain['init']}, {percent(gain['fraction'])} of the labels",
        )
        for gain in ends
        if gain["against"] == plan["baseline"] and gain["init"] not in plan["against"]
    ]
    if numbers:
        page.key_numbers(numbers[:8])
    else:
        page.callout("One init alone: there is nothing to compare it with. `--init random` adds random weights.")
    for against in dict.fromkeys(gain["against"] for gain in gains) if found["ring"] is None else ():
        lines = [few_labels_sentence(gain, found) for gain in shown_gains(found, against)]
        lines += [sentence(gain, plan["level"]) for gain in ends if gain["against"] == against]
        lines += label_savings(found) if against == plan["baseline"] else []
        page.text(f"Against **{against}**, paired by seed:\n\n" + "\n".join(f"- {line}" for line in lines))


def label_savings(found: Found) -> list[str]:
    """Where an init with fewer labels is at least as good as the baseline with all of them (means over seeds).

    Nothing is saved where the baseline itself needs no more than these: there labels do not help.
    """
    plan = found["plan"]
    lines = []
    for tuning in plan["tune"]:
        most = max(plan["fractions"])
        goal = figures.values_of(found["trials"], init=plan["baseline"], tuning=tuning, fraction=most)
        for init in (name for name in plan["inits"] if name != plan["baseline"]):
            for fraction in sorted(plan["fractions"]):
                own = figures.values_of(found["trials"], init=init, tuning=tuning, fraction=fraction)
                same = figures.values_of(found["trials"], init=plan["baseline"], tuning=tuning, fraction=fraction)
                if fraction == most or not own or not goal or not same:
                    continue
                sign = 1 if found["higher_is_better"] else -1
                if sign * np.mean(same) >= sign * np.mean(goal):
                    continue
                if sign * np.mean(own) >= sign * np.mean(goal):
                    lines.append(
                        f"{init}, {TUNINGS[tuning]}: with **{percent(fraction)} of the labels** its mean "
                        f"({np.mean(own):.3f}) is at least that of {plan['baseline']} with {percent(most)} of them "
                        f"({np.mean(goal):.3f})"
                    )
                    break
    return lines


def _curve_caption(found: Found) -> str:
    seeds = found["plan"]["seeds"]
    return (
        f"{metric_name(found)} over the fraction of the labels that were learned from. Lines: means of {seeds} "
        f"seed{'s' if seeds > 1 else ''}; each dot is one seed, the band reaches over all of them and is no interval."
    )


def _gains(page: Report, found: Found) -> None:
    plan, rows, marked = found["plan"], [], []
    if not found["gains"]:
        return
    by_images = any(gain["images"] for gain in found["gains"])
    against = list(dict.fromkeys(gain["against"] for gain in found["gains"]))
    several = len(against) > 1
    for number, gain in enumerate(found["gains"]):
        images = gain["images"]
        change = "–" if gain["mean"] is None else f"{gain['mean']:+.3f}"
        if gain["bootstrap"]:
            change += f" ({_ends(gain['bootstrap'])})"
        over_images = [f"{_ends(images['interval'])} (n = {images['images']})" if images else "–"] if by_images else []
        wins = f"{gain['wins']} of {gain['pairs']}"
        other = [gain["against"]] if several else []
        about = [gain["init"], *other, SHORT[gain["tuning"]], percent(gain["fraction"]), gain["before"], gain["after"]]
        rows.append([*about, change, _whole(gain["verdict"]), _ends(gain["student"]), *over_images, wins])
        if gain["verdict"] == "clear gain":
            marked.append(number)
    sides = ["that init", "this init"] if several else [plan["baseline"], "this init"]
    headers = ["init", *(["against"] if several else []), "backbone", "labels", *sides]
    headers += ["gain (bootstrap)", "verdict", "Student"]
    headers += ["seeds and images"] if by_images else []
    page.text("## Gains").table(
        [*headers, "better"], rows, marked,
        caption=f"{metric_name(found)} against {_listed(against)}, paired over {plan['seeds']} seeds; intervals "
        f"of {plan['level']:.0%}. *Clear* where both the bootstrap's and Student's interval leave zero out.",
    )  # fmt: skip


def class_metrics(found: Found) -> list[str]:
    """The metrics of single classes that belong to the study's metric."""
    evaluation, _, name = found["metric"].partition("/")
    front, _, last = name.rpartition("/")
    base = "/".join(part for part in (evaluation, front, OF_CLASSES.get(last, last)) if part)
    return list(dict.fromkeys(row["metric"] for row in found["slices"] if row["metric"].startswith(f"{base}/")))


def _slices(page: Report, found: Found) -> None:
    plan = found["plan"]
    if not found["slices"]:
        return
    fraction, tuning = min(plan["fractions"]), plan["tune"][-1]
    chosen = (plan["baseline"], fraction, tuning)
    rows = [
        r for r in found["slices"] if (r["against"], r["fraction"], r["tuning"]) == chosen and r["mean"] is not None
    ]
    classes = [name for name in class_metrics(found) if any(row["metric"] == name for row in rows)]
    where = f"{percent(fraction)} of the labels, {TUNINGS[tuning]}"
    if len(classes) > 1:
        page.text("## Class by class").figure(
            figures.gains_by_slice(rows, classes[:MOST_CLASSES], plan["baseline"]),
            f"Gain of each class ({classes[0].split('/')[-2]}) at {where}, with Student's interval over seeds. Single "
            "classes are not corrected for how many there are."
            + (f" The first {MOST_CLASSES} of {len(classes)} classes." if len(classes) > MOST_CLASSES else ""),
        )
    sizes = [row for row in rows if row["metric"].rpartition("/")[2] in SIZES]
    if sizes:
        shown = [
            [SIZES[row["metric"].rpartition("/")[2]], row["metric"].partition("/")[2], row["init"], row["before"],
             row["after"], f"{row['mean']:+.4f}", _ends(row["student"]), _whole(row["verdict"])]
            for row in sizes
        ]  # fmt: skip
        headers = ["objects", "metric", "init", plan["baseline"], "this init", "gain", "Student", "verdict"]
        page.text("## By size of the objects").table(headers, shown, caption=f"At {where}; COCO's sizes, in pixels")


def _robustness(page: Report, found: Found) -> None:
    robust = {name: one for name, one in found["robustness"].items() if one.get("trials")}
    if not robust:
        return
    trials = {trial["name"]: trial for trial in found["trials"]}
    labels = {name: f"{trials[name]['init']}, {TUNINGS[trials[name]['tuning']]}" for name in robust}
    rows = []
    for name, one in robust.items():
        values = [trial["value"] for trial in one["trials"] if trial["value"] is not None]
        mean = float(np.mean(values)) if values else None
        drop = None if mean is None or not one["clean"] else mean - one["clean"]
        relative = None if drop is None else f"{drop / one['clean']:+.1%}"
        rows.append([labels[name], one["clean"], mean, drop, relative])
    page.text("## Robustness").table(
        ["model", "clean", "mean under corruptions", "change", "of clean"],
        rows,
        caption="The same models on the same data, corrupted at graded severity; the largest fraction, seed 0",
    )
    page.figure(figures.damage(robust, labels), f"{metric_name(found)} by corruption and severity")
    left_out = {kind: why for one in robust.values() for kind, why in one.get("left_out", {}).items()}
    if left_out:
        page.text("Not measured: " + "; ".join(f"{kind} ({why})" for kind, why in left_out.items()) + ".")


def _pretraining(page: Report, found: Found, root: Path) -> None:
    if found["pretrained"]:
        before = found["pretrained_by"]
        told = "" if before is None else (
            f"\n\nBy the study in `{before['study']}`, which measured them by {before['metric']} of "
            f"`{before['recipe']}`: nothing was pretrained for this one."
        )  # fmt: skip
        page.text(f"## How they were pretrained{told}").figure(
            figures.pretraining_losses(found, root),
            "Loss of each pretraining, as moving averages. Where answers are hidden from each other or visual tokens "
            "are dropped it stays high; shuffled answers can only teach how often each answer occurs.",
        )


def _training(page: Report, found: Found, root: Path) -> None:
    figure = figures.learning_curves(found, root)
    if figure is not None:
        fraction = max(found["plan"]["fractions"])
        page.text("## How they learned").figure(
            figure, f"Every seed's run at {percent(fraction)} of the labels; losses as moving averages."
        )


def _pictures(page: Report, found: Found, root: Path) -> None:
    plan = found["plan"]
    fraction, tuning, evaluation = max(plan["fractions"]), plan["tune"][-1], found["metric"].partition("/")[0]
    chosen = [c for c in found["trials"] if c["fraction"] == fraction and c["tuning"] == tuning]
    shown = False
    for trial in (c for c in chosen if c["seed"] == 0):
        picture = root / trial["run"] / "samples" / f"predictions_{evaluation}.png"
        if picture.is_file():
            if not shown:
                page.text("## What it looks like\n\nThe same samples from every init, seed 0.")
                shown = True
            page.figure(picture, f"**{trial['init']}**, {TUNINGS[tuning]}, {percent(fraction)} of the labels")
    confusions = {init: _confusion(root, chosen, init, evaluation) for init in plan["inits"]}
    known = {init: one for init, one in confusions.items() if one is not None}
    if known:
        from vistruct.reports.confusion import confusion_figure

        page.text("## What is taken for what")
        for init, (matrix, names) in known.items():
            caption = f"**{init}**, {TUNINGS[tuning]}, {percent(fraction)} of the labels, all seeds"
            page.figure(confusion_figure(matrix, names), caption)


def _confusion(
    root: Path, trials: Sequence[Mapping[str, Any]], init: str, evaluation: str
) -> tuple[np.ndarray, list[str]] | None:
    total, names = None, []
    for trial in (c for c in trials if c["init"] == init):
        path = root / trial["run"] / "evaluations" / f"{evaluation}.json"
        details = read_record(path, Kept).details if path.is_file() else None
        if details and details.confusion:
            matrix, names = np.array(details.confusion), list(details.class_names or ())
            total = matrix if total is None else total + matrix
    return None if total is None else (total, names)


def _cost(page: Report, found: Found) -> None:
    plan, rows = found["plan"], []
    for tuning in plan["tune"]:
        for init in plan["inits"]:
            for fraction in plan["fractions"]:
                own = [
                    c for c in found["trials"] if (c["tuning"], c["init"], c["fraction"]) == (tuning, init, fraction)
                ]

                def mean(key: str, own: list[Mapping[str, Any]] = own) -> float | None:
                    values = [c["cost"][key] for c in own if c["cost"].get(key) is not None]
                    return float(np.mean(values)) if values else None

                trainable, total = mean("trainable"), mean("parameters")
                number = None if trainable is None else int(trainable)
                part = "–" if trainable is None or not total else f"{trainable / total:.1%}"
                seen = int(mean("samples") or 0)
                times = [mean("seconds"), mean("step_seconds")]
                rows.append(
                    [init, SHORT[tuning], percent(fraction), *times, seen, number, part, mean("peak_memory_mb")]
                )
    headers = ["init", "backbone", "labels", "seconds", "a step (s)", "samples", "trainable", "of all"]
    page.text("## What it cost").table(
        [*headers, "peak memory (MB)"], rows,
        caption="Means over seeds of single runs that ran beside each other: seconds with evaluation and pictures; "
        "what an init cost before is not in here.",
    )  # fmt: skip


def _method(page: Report, found: Found) -> None:
    plan = found["plan"]
    scratch = [name for name, source in plan["inits"].items() if str(source).partition(":")[0] == "random"]
    text = (
        "## How it was measured\n\n"
        f"One recipe, `{plan['recipe']}`, {len(found['trials'])} runs: {len(plan['inits'])} initialisations, "
        f"{len(plan['fractions'])} fraction{'s' if len(plan['fractions']) > 1 else ''} of the labels, {plan['seeds']} "
        f"seed{'s' if plan['seeds'] > 1 else ''}, and {_listed([TUNINGS[tuning] for tuning in plan['tune']])}. A seed "
        "has the same labels, the same order of samples and, where the architecture is the same, the same first "
        "weights of the head for every initialisation; a larger fraction contains the smaller. All runs have "
        "the same steps, whatever the fraction."
    )
    if scratch:
        text += f" {_listed(scratch)} has the architecture of the others and random weights."
    page.text(text)
    if found["notes"]:
        page.text("**Read with care.**\n\n" + "\n".join(f"- {note}" for note in found["notes"]))
    page.details("Every run and its number", _runs(found))
    shown = {key: value for key, value in plan.items() if key != "baseline"}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    page.details("The study (`study.yaml`); `vistruct study -c study.yaml` repeats it", text)


def _runs(found: Found) -> str:
    wide = max(len(trial["name"]) for trial in found["trials"])
    return "\n".join(
        f"{trial['name']:<{wide}}  {_number(trial['value']):>8}  {trial['run']}" for trial in found["trials"]
    )


def _from_scratch(found: Found) -> bool:
    plan = found["plan"]
    return str(plan["inits"][plan["baseline"]]).partition(":")[0] == "random" and len(plan["inits"]) > 1


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _ends(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _whole(words: str) -> str:
    """Words that stay on one line of a table."""
    return words.replace(" ", "\u00a0")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))
