"""The part of a study's report that says which teacher pays: in words, in one picture, and with what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vistruct.reports.page import AXES, Report, styled
from vistruct.study.figures import ink, plots
from vistruct.study.study import SHORT, TUNINGS, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Any]  # what study.json says; see results.py


def write_ring(page: Report, found: Found) -> None:
    """Add the section; nothing of a study that has no teachers."""
    if found["ring"] is None:
        return
    ring, plan = found["ring"], found["plan"]
    many = plan["pretrain_seeds"]
    page.text("## Which teacher pays\n\n" + "\n".join(f"- {line}" for line in sentences(found)))
    page.figure(
        gains_of_teachers(found),
        f"Gain over the start, with Student's interval over {_count(many, 'pretraining')}; in a ring: those that pay, "
        "clearly better than their start and than every control, corrected for how many were compared.",
    )
    page.table(
        [
            "start", "init", *(f"{SHORT[t]}, {percent(f)}" for f, t in _cells(found)),
            "asked (s)" if _is_timed(found) else "samples", "in steps (s)", "around (s)",
        ],
        [_row(found, one) for one in ring["members"]],
        caption=f"{found['metric'].partition('/')[2]}, mean over {_count(plan['seeds'], 'seed')} of the trials and "
        f"{_count(many, 'pretraining')}, beside what one pretraining took: seconds of the processor, or of the "
        "accelerator, in its training steps (data, forward, backward, optimiser), and around them (reading the data's "
        "index, evaluations, checkpoints, pictures, its report).",
    )  # fmt: skip
    said = "the same steps of each recipe" if ring["budget"] is None else f"{ring['budget']} for each teacher"
    timed = "" if ring["timing"] is None else f"; to time some steps of each first took {ring['timing']:.3g} s"
    page.text(
        f"**Compute.** {said[0].upper()}{said[1:]}, steps that only lead to it included; a control takes as many steps "
        f"as its teacher{timed}. **Controls.** *shuffled* learns as long from the answers of other images; "
        "*normalised* takes the same steps at a rate of nothing, so that only the statistics of its normalisation "
        "layers follow the "
        f"images.{_without(found)} A teacher pays where it is clearly better than its start *and* than each of its "
        "controls; its chance of that by luck is the largest of these tests, corrected for all teachers, modes and "
        f"fractions{_tested(found)} (Holm)."
    )


def sentences(found: Found) -> list[str]:
    """The verdicts in words: use this one, or none, on these images."""
    lines = []
    for one in found["ring"]["verdicts"]:
        where = f"{TUNINGS[one['tuning']]}, {percent(one['fraction'])} of the labels, from {one['start']}"
        if one["best"] is None:
            lines.append(f"{where}: use **none**. {_why_none(one, found)}")
            continue
        best = next(row for row in one["teachers"] if row["init"] == one["best"])
        also = [row["teacher"] for row in one["teachers"] if row["pays"] and row is not best]
        text = (
            f"{where}: use **{best['teacher']}**, {best['gain']:+.3f} ({_ends(best['interval'])}) over {one['start']}"
        )
        lines.append(text + (f"; {' and '.join(also)} would pay too" if also else "; no other one pays"))
    return lines


def _why_none(one: Mapping[str, Any], found: Found) -> str:
    known = [row for row in one["teachers"] if row["gain"] is not None]
    if all(row["p"] is None for row in known):
        return "One pretraining and one seed of each: nothing can be said."
    best = max(known, key=lambda row: row["value"])
    told = f"The highest, {best['teacher']}, is {best['gain']:+.3f} ({_ends(best['interval'])}) over its start"
    if best["unbeaten"]:
        return f"{told}, and not clearly better than {' and '.join(best['unbeaten'])}."
    return f"{told}, which does not hold when all are corrected for each other (p = {best['p_holm']:.2g})."


def gains_of_teachers(found: Found) -> Figure:
    """A plot for each start and mode at the smallest fraction: a bar of Student's interval for each teacher."""
    verdicts = found["ring"]["verdicts"]
    fraction = min(one["fraction"] for one in verdicts)
    shown = [one for one in verdicts if one["fraction"] == fraction]
    gains = {(g["init"], g["against"], g["fraction"], g["tuning"]): g for g in found["gains"]}
    colours = ink(list(found["plan"]["inits"]), found["plan"]["baseline"])
    longest = max(len(_of_start(found, one["start"])) for one in shown)
    with styled():
        figure, axes = plots(len(shown), height=1.1 + 0.34 * longest, wide=5.6, columns=2)
        for axis, one in zip(axes, shown, strict=True):
            paying = {row["init"] for row in one["teachers"] if row["pays"]}
            own = _of_start(found, one["start"])
            for place, member in enumerate(own):
                gain = gains[member["init"], one["start"], fraction, one["tuning"]]
                colour = AXES if member["control"] else colours[member["init"]]
                if gain["student"]:
                    axis.plot(gain["student"], [place, place], color=colour, linewidth=2)
                if gain["mean"] is not None:
                    axis.plot(gain["differences"], [place] * len(gain["differences"]), "|", color=colour, alpha=0.6)
                    axis.plot(gain["mean"], place, "o", color=colour, markersize=6)
                    if member["init"] in paying:
                        axis.plot(gain["mean"], place, "o", color=colour, markersize=12, fillstyle="none")
            axis.axvline(0, color=AXES, linewidth=1)
            axis.set_yticks(range(len(own)), [_short(member) for member in own])
            axis.set_ylim(len(own) - 0.5, -0.5)
            axis.locator_params(axis="x", nbins=5)
            axis.grid(axis="y", visible=False)
            several = len({other["start"] for other in shown}) > 1
            origin = f", from {one['start']}" if several else ""
            axis.set_title(f"{TUNINGS[one['tuning']]}, {percent(fraction)} of labels{origin}")
            axis.set_xlabel(f"gain in {found['metric'].partition('/')[2]}")
    return figure


def _of_start(found: Found, start: str) -> list[Mapping[str, Any]]:
    return [one for one in found["ring"]["members"] if one["start"] == start and one["teacher"]]


def _short(member: Mapping[str, Any]) -> str:
    return {"": member["teacher"], "normalised": "normalised"}.get(
        member["control"], f"{member['teacher']}, {member['control']}"
    )


def _cells(found: Found) -> list[tuple[float, str]]:
    return list(dict.fromkeys((one["fraction"], one["tuning"]) for one in found["ring"]["verdicts"]))


def _row(found: Found, member: Mapping[str, Any]) -> list[object]:
    means = []
    for fraction, tuning in _cells(found):
        own = [
            trial["value"]
            for trial in found["trials"]
            if (trial["init"], trial["fraction"], trial["tuning"]) == (member["init"], fraction, tuning)
            and trial["value"] is not None
        ]
        means.append(f"{sum(own) / len(own):.3f}" if own else "–")
    asked = member["asked"] if _is_timed(found) else member["samples"]
    took = [None if member[key] is None else f"{member[key]:.3g}" for key in ("in_steps", "around")]
    name = "no pretraining" if not member["teacher"] else _short(member)
    return [member["start"], name, *means, asked, *took]


def _tested(found: Found) -> str:
    """What else than the tests of this study the verdicts are corrected for."""
    before = found["pretrained_by"]
    return "" if before is None else f", and for {_count(len(before['tests']), 'test')} of the study before it"


def _is_timed(found: Found) -> bool:
    return any(one["asked"] is not None for one in found["ring"]["members"])


def _without(found: Found) -> str:
    """Starts that have no such control, and why."""
    ring = found["ring"]["members"]
    kept = {one["start"] for one in ring if one["control"] == "normalised"}
    none = [start for start in dict.fromkeys(one["start"] for one in ring if one["teacher"]) if start not in kept]
    unshuffled = {
        one["teacher"]
        for one in ring
        if one["teacher"]
        and not any(
            (o["teacher"], o["start"], o["control"]) == (one["teacher"], one["start"], "shuffled") for o in ring
        )
    }
    told = f" No layer of {_listed(none)} keeps such statistics: the start itself is that control." if none else ""
    if unshuffled:
        told += f" Of {_listed(sorted(unshuffled))} nothing was shuffled: there are no answers, or none were asked for."
    return told


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ends(interval: Sequence[float] | None) -> str:
    return "no interval" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
