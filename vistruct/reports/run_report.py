"""The report of a training run: what was learned, from what, and what it looks like."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from vistruct.files.json_files import read_cached
from vistruct.read_yaml import read_yaml
from vistruct.reports.evaluations import write_evaluations
from vistruct.reports.measured import Evaluation, parted, read_evaluations
from vistruct.reports.page import COLOURS, Report, literal, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = TypeAdapter(dict[str, float | None])
Series = dict[str, list[tuple[int, float]]]
PICTURES = {".png", ".jpg", ".jpeg"}
DASHES = ("-", "--", ":")  # of curves, after every round of colours


def write_run_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from what else lies in the run directory; a part that is missing is named.

    Returns:
        The report's path.
    """
    series = read_metrics(run_dir / "metrics.jsonl")
    data, environment = _read_json(run_dir / "data.json"), _read_json(run_dir / "env.json")
    run_yaml = run_dir / "run.yaml"
    run_text = run_yaml.read_text(encoding="utf-8") if run_yaml.exists() else ""
    steps = max((points[-1][0] for points in series.values()), default=0)
    asked = read_yaml(run_yaml) if run_text else {}
    recipe = asked.get("recipe", "")
    data = _once(data, asked.get("streams") or {}) if data else {}
    page = Report(run_dir.resolve().name, f"Training run{f' of the recipe `{recipe}`' if recipe else ''}")
    result = _read_json(run_dir / "result.json")
    page.key_numbers(_key_numbers(series, steps, data, result))
    if result.get("best") is not None:
        page.text(_chosen(result))
    if series:
        best = result.get("best_step")
        page.text("## Training").figure(curves(run_dir / "metrics.jsonl", best), _curve_caption(series, best))
    else:
        page.callout("No steps were logged: `metrics.jsonl` is missing or empty.")
    kept = read_evaluations(run_dir)
    write_evaluations(page, _finals(series, kept, result.get("step")), kept)
    _data(page, data)
    pictures = sorted(p for p in (run_dir / "samples").glob("*") if p.suffix.lower() in PICTURES)
    if pictures:
        page.text("## Pictures")
    for picture in pictures:
        with Image.open(picture) as image:  # as JPEG: a sheet of photographs as PNG is many times as large
            page.figure(image.convert("RGB"), picture.stem.replace("_", " ").replace("-", " "))
    page.text("## How it was made")
    _trainable(page, _read_json(run_dir / "plan.json"))
    if run_text:
        page.details("The run (`run.yaml`); `vistruct train -c run.yaml` repeats it", run_text)
    if environment:
        page.details("Machine and versions", json.dumps(environment, indent=2))
    return page.write(run_dir / "report.html")


def read_metrics(path: Path) -> Series:
    """`metrics.jsonl` as (step, value) points by name, in order of steps; an absent file has none.

    A last line that was cut short by a crash, or one that is damaged, is left out; null, which stands for not finite,
    becomes NaN.
    """
    series: Series = defaultdict(list)
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            row = _ROW.validate_json(line)
        except ValidationError:
            continue
        step = row.pop("step", None)
        if step is not None and math.isfinite(step):
            for name, value in row.items():
                series[name].append((int(step), math.nan if value is None else value))
    return dict(series)


def evaluations(series: Series) -> Series:
    """The metrics of evaluations, named `evaluation/metric`."""
    return {name: points for name, points in series.items() if "/" in name}


def _finals(
    series: Series, kept: Sequence[Evaluation], shipped: int | None
) -> dict[str, tuple[int | None, dict[str, float]]]:
    """Each evaluation's last step and numbers: from the log, and where that has none, as they were kept.

    Args:
        shipped: the step of the run's model, after which nothing counts; None: the last.
    """
    finals: dict[str, tuple[int | None, dict[str, float]]] = {}
    for name, every in evaluations(series).items():
        evaluation, metric = name.split("/", 1)
        points = [point for point in every if shipped is None or point[0] <= shipped]
        if not points:
            continue
        step, numbers = finals.get(evaluation, (None, {}))
        finals[evaluation] = max(step or 0, points[-1][0]), numbers | {metric: points[-1][1]}
    return finals | {one.name: (one.step, dict(one.numbers)) for one in kept if one.name not in finals}


def curves(metrics_jsonl: Path, best_step: int | None = None) -> Figure:
    """Loss and learning rate over the steps, and the evaluations where there were several, the best one marked."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator, NullFormatter

    series = read_metrics(metrics_jsonl)
    several = {n: p for n, p in evaluations(series).items() if len(p) > 1 and parted(n.split("/", 1)[1])[1] is None}
    wanted = [name for name in ("loss", "lr") if name in series] + (["evaluation"] if several else [])
    with styled():
        figure, axes = plt.subplots(1, max(1, len(wanted)), squeeze=False, figsize=(max(5.2, 4.4 * len(wanted)), 3.3))
        plt.close(figure)  # out of pyplot's keeping: it lives as long as its user
        for axis, name in zip(axes[0], wanted, strict=False):
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if name == "evaluation":
                for metric, points in list(several.items())[: len(COLOURS)]:
                    axis.plot(*zip(*points, strict=True), marker="o", label=metric)
                if best_step is not None:
                    axis.axvline(best_step, color="grey", linestyle=":", linewidth=1)
                axis.legend()
                axis.set_title("evaluation" + (f" (first {len(COLOURS)})" if len(several) > len(COLOURS) else ""))
                continue
            steps, values = zip(*series[name], strict=True)
            if name == "loss":
                axis.set_title("loss")
                streams = {one.removesuffix(".loss"): points for one, points in series.items() if one.endswith(".loss")}
                for number, (label, points) in enumerate((streams or {"": series[name]}).items()):
                    round_, colour = divmod(number, len(COLOURS))
                    own_steps, own = zip(*points, strict=True)
                    axis.plot(own_steps, own, alpha=0.35, linewidth=1, color=COLOURS[colour])
                    style = DASHES[round_ % len(DASHES)]
                    axis.plot(own_steps, smooth(own), color=COLOURS[colour], linestyle=style, label=label)
                if streams:  # below the axis, where no curve lies
                    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3, fontsize="small")
                finite = [v for v in values if math.isfinite(v) and v > 0]
                if finite and max(finite) > 30 * min(finite):
                    axis.set_yscale("log")
                    axis.yaxis.set_major_formatter("{x:g}")
                    axis.yaxis.set_minor_formatter(NullFormatter())
            else:
                power = math.floor(math.log10(max(*(v for v in values if math.isfinite(v)), 1e-12)))
                axis.plot(steps, [v / 10**power for v in values], color=COLOURS[1])
                axis.set_title(f"learning rate, in 1e{power}")
        if not wanted:
            axes[0][0].text(0.5, 0.5, "no steps logged", ha="center", va="center", transform=axes[0][0].transAxes)
    return figure


def smooth(values: tuple[float, ...] | list[float], span: int = 20) -> list[float]:
    """Exponential moving average without start-up bias; not-finite values are passed over.

    Args:
        values: one a logged step.
        span: steps over which the average mostly runs.
    """
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    out = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight if weight else math.nan)
    return out


def _chosen(result: Mapping[str, Any]) -> str:
    """Which step's weights the model is of, by what figure, and what the other ones had."""
    metric = literal(result["metric"])
    best = f"the best of its evaluations was {result['best']:.4g} at step {result['best_step']:,}"
    last = "not finite" if result["last"] is None else f"{result['last']:.4g}"
    if result["step"] != result["last_step"]:
        kept = f"`model/` has these weights; those of the last step, {result['last_step']:,} ({last}), are in `last/`"
        caution = "The best was chosen on the data it is measured on, so its figure flatters it a little."
        return f"Judged by {metric}, {best}: {kept}. {caution}"
    return f"Judged by {metric}, {best}; `model/` is of the last step, {result['last_step']:,} ({last})."


def _key_numbers(
    series: Series, steps: int, data: Mapping[str, Any], result: Mapping[str, Any]
) -> list[tuple[object, ...]]:
    numbers: list[tuple[object, ...]] = [(steps, "steps")]
    if "loss" in series:
        first, last = series["loss"][0][1], smooth([v for _, v in series["loss"]])[-1]
        numbers.append((last, "loss at the end", f"{first:.4g} at the first step; smoothed"))
    overall = {n: p for n, p in evaluations(series).items() if parted(n.split("/", 1)[1])[1] is None}
    of_each = {name.split("/", 1)[0]: name for name in reversed(overall)}  # the first metric of each evaluation
    shown = list(reversed(of_each.values()))[:6] if len(of_each) > 1 else list(overall)[:2]
    if result.get("metric") in overall:  # first what the run is judged by
        shown = list(dict.fromkeys([result["metric"], *shown]))
    for name in shown:
        points = [point for point in overall[name] if point[0] <= result.get("step", point[0])]
        if points:
            is_best = name == result.get("metric") and points[-1][0] == result.get("best_step")
            note = ", the best" if is_best else ""
            numbers.append((points[-1][1], name, f"at step {points[-1][0]}{note}"))
    if data:
        samples = sum(int(info["num_records"]) for info in data["train"].values())
        numbers.append((samples, "training samples", "in one epoch"))
    if seconds := [v for _, v in series.get("seconds", []) if math.isfinite(v)]:
        numbers.append((f"{sorted(seconds)[len(seconds) // 2]:.3g} s", "a step", "median"))
    return numbers


def _curve_caption(series: Series, best_step: int | None) -> str:
    bad = sum(not math.isfinite(v) for _, v in series.get("loss", []))
    text = "Faint: each logged step. Solid: its moving average."
    text += "" if best_step is None else " Dotted: the best evaluation."
    return text + (f" {bad} losses were not finite and are gaps." if bad else "")


def _once(data: Mapping[str, Any], streams: Mapping[str, Any]) -> dict[str, Any]:
    """Data without those of streams that learn from another's samples, and are measured on the same."""
    owners = {name: one["samples"] for name, one in streams.items() if one.get("samples")}
    train = {name: info for name, info in data["train"].items() if name not in owners}
    evals = {name: i for name, i in data["evals"].items() if i != data["evals"].get(owners.get(name))}
    return {**data, "train": train, "evals": evals}


def _data(page: Report, data: Mapping[str, Any]) -> None:
    page.text("## Data")
    if not data:
        page.text("`data.json` is missing.")
        return
    several = len(data["train"]) > 1
    data = {f"train {name}" if several else "train": info for name, info in data["train"].items()} | {
        name if name != "train" else "train (evaluation)": info for name, info in data["evals"].items()
    }
    infos = list(data.values())
    kinds = list(dict.fromkeys(kind for info in infos for kind in info["counts"]))
    rows = [["samples", *(info["num_records"] for info in infos)]]
    rows += [[literal(kind), *(info["counts"].get(kind) for info in infos)] for kind in kinds]
    page.table(["", *data], rows, caption="What the run was trained and measured on")
    dropped = [[name, reason, n] for name, info in data.items() for reason, n in info["dropped"].items()]
    if dropped:
        page.table(["data", "reason", "count"], dropped, caption="What was left out or repaired")
    else:
        page.text("Nothing was left out or repaired.")


def _trainable(page: Report, plan: Mapping[str, Any]) -> None:
    if plan:
        rows = [
            [literal(rule["pattern"]), rule["mode"], rule["lr_factor"], rule["trainable"], rule["frozen"]]
            for rule in plan["rules"]
            if rule["tensors"]
        ]
        share = plan["trainable"] / max(plan["parameters"], 1)
        page.table(
            ["parts", "mode", "rate x", "trainable", "frozen"],
            rows,
            caption=f"Parameters: {plan['trainable']:,} of {plan['parameters']:,} trainable ({share:.1%})",
        )


def _read_json(path: Path) -> dict[str, Any]:
    return (read_cached(path, dict[str, Any]) or {}) if path.exists() else {}
