"""The demo: from annotated images to a measured answer to "what did pretraining buy?".

One comparison on real data. Every backbone starts from the same random weights; what differs is what it learned
before the test. The test scene is another place than the training scene and is never pretrained on; the few labels
that probes and detectors learn from lie in its left third or are drawn at random, and are never tested on.

It makes the starts, probes them, and hands them to `vistruct study`: the detectors are a study like any other, in
`study/` of the demo's directory, and `vistruct study -c study/study.yaml` would run it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vistruct.config import Part
from vistruct.study.jobs import Job, run_jobs
from vistruct.study.runner import cores, run_study
from vistruct.study.study import Study, Tuning

# Starting points of the comparison: what each is called, and the job that makes it.
STARTS = {
    "random": "align",  # the aligned run's backbone was frozen: it is the random weights that all others start from
    "plain": "pretrain-plain",
    "vrl": "pretrain-vrl",
    "shuffled": "pretrain-shuffled",
}


class Budget(Part):
    """How much of everything."""

    crops: int  # pictures of the training scene that are asked about
    questions: int  # pictures of each scene that the models themselves are asked about
    align_steps: int
    pretrain_steps: int
    detect_steps: int
    shares: tuple[float, ...]  # of the windows of the test scene's labelled third, for the detector
    seeds: int  # of the detector
    draws: int  # of labels, for the probes
    window: int = 128  # pixels, the detector's
    tune: tuple[Tuning, ...] = ("probe", "full")  # detectors on the frozen backbone, and fine-tuned whole


BUDGETS = {
    "quick": Budget(
        crops=40,
        questions=5,
        align_steps=3,
        pretrain_steps=3,
        detect_steps=2,
        shares=(0.25,),
        seeds=1,
        draws=2,
        window=256,
        tune=("probe",),
    ),
    "default": Budget(
        crops=2500,
        questions=120,
        align_steps=150,
        pretrain_steps=300,
        detect_steps=60,
        shares=(0.25,),
        seeds=3,
        draws=8,
    ),
    "full": Budget(
        crops=5000,
        questions=500,
        align_steps=200,
        pretrain_steps=900,
        detect_steps=150,
        shares=(0.1, 0.25, 1.0),
        seeds=5,
        draws=20,
    ),
}


def run_demo(out: Path, *, budget: Literal["quick", "default", "full"] = "default", workers: int | None = None) -> Path:
    """Run what is missing of the demo and write its report.

    Args:
        out: the demo's directory; finished parts in it are not run again.
        workers: processes of one thread each; None: one a core, as far as there is work for them.

    Returns:
        the report's path.
    """
    from vistruct.study.demo_report import write_demo_report

    chosen = BUDGETS[budget]
    folder = (out / budget).resolve()
    many = workers or max(1, min(cores(), 16))
    results = run_jobs(plan(chosen, folder), folder, workers=many)
    found = run_study(study_of(chosen, results), folder / "study", workers=many)
    return write_demo_report(out / "report.html", results, found, chosen, folder, budget)


def plan(budget: Budget, folder: Path) -> list[Job]:
    """What is made and probed before the study: data, starts, answers."""
    here = "vistruct.study.demo_cells"
    out = {"out": str(folder)}
    train = {**out, "steps": budget.pretrain_steps, "seed": 0}
    jobs = [
        Job(name="data", call=f"{here}:write_data", arguments={**out, "crops": budget.crops}, cost=10),
        Job(
            name="align",
            call=f"{here}:align",
            arguments={**out, "steps": budget.align_steps},
            needs=("data",),
            cost=40,
        ),
        Job(name="target", call=f"{here}:split_target", arguments=out, cost=2),
        Job(
            name="questions",
            call=f"{here}:write_questions",
            arguments={**out, "pictures": budget.questions},
            cost=1,
        ),
        Job(
            name="answers-untrained",
            call=f"{here}:answer",
            arguments={"start": "align", "trained": False},
            needs=("align", "questions"),
            cost=2,
        ),
    ]
    for name, answers, vrl in (
        ("pretrain-plain", "true", "off"),
        ("pretrain-vrl", "true", "paper"),
        ("pretrain-shuffled", "shuffled", "off"),
    ):
        jobs.append(
            Job(
                name=name,
                call=f"{here}:pretrain",
                arguments={**train, "answers": answers, "vrl": vrl},
                needs=("data", "align"),
                cost=110,
            )
        )
    for start, job in STARTS.items():
        jobs.append(
            Job(
                name=f"answers-{start}",
                call=f"{here}:answer",
                arguments={"start": job, "trained": True},
                needs=(job, "questions"),
                cost=2,
            )
        )
        jobs.append(
            Job(
                name=f"probe-{start}",
                call=f"{here}:probe",
                arguments={"start": job, "draws": budget.draws},
                needs=(job,),
                cost=5,
            )
        )
    return jobs


def study_of(budget: Budget, results: Mapping[str, Mapping[str, Any]]) -> Study:
    """The detectors: from each start, on shares of the test scene's labelled third, measured on the rest.

    Args:
        results: of the jobs of `plan`.
    """
    target = results["target"]
    return Study(
        recipe="detect",
        options={
            "data": target["labelled"],
            "val": target["tested"],
            "steps": budget.detect_steps,
            "size": budget.window,
            "overlap": 64,
            "channels": 64,
            "turns": True,
        },
        settings=(
            # A location's first guess is a box of twice its stride: at 16, about a crown.
            "task.neck={kind: simple_pyramid, channels: 64, strides: [16, 32]}",
            "task.head={kind: fcos, num_convs: 1, nms_iou: 0.35, prior: 0.1}",
            "data.augment={hflip: true, vflip: true, turns90: true}",
            "evals.val.data.tiles.overlap=48",
            "optim.layer_decay=1.0",
            f"schedule.warmup_steps={max(1, budget.detect_steps // 10)}",
            "workers=0",
            "log_every=5",
        ),
        inits={start: str(results[job]["run"]) for start, job in STARTS.items()},
        against="random",
        fractions=budget.shares,
        seeds=budget.seeds,
        tune=budget.tune,
        lr=dict.fromkeys(budget.tune, 3e-3),
        backbone_lr=0.2,
        metric="val/AP50",
    )
