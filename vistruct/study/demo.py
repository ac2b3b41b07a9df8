"""The demo: from annotated images to a measured answer to "what did pretraining buy?".

A preset of `vistruct study` on real data, and what it reads: instructions about one aerial scene, and another scene,
another place, that is never pretrained on. The few labels that probes and detectors learn from lie in its left third
or are drawn at random, and are never tested on. `vistruct study -c study.yaml` in its directory runs it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vistruct.config import Part
from vistruct.data.loading.parallel import cores
from vistruct.study.jobs import Job, run_jobs
from vistruct.study.runner import run_study
from vistruct.study.study import Pretraining, Probes, Study, Tuning
from vistruct.study.workers import Report

CROP = (72, 144)  # pixels at 10 cm: one to several crowns
TRAIN, TEST = "the training scene, other crops", "the test scene"


class Budget(Part):
    """How much of everything."""

    crops: int  # pictures of the training scene that are asked about
    questions: int  # pictures of each scene that the models themselves are asked about
    align_steps: int
    pretrain_steps: int
    label_steps: int  # of training on the labels themselves: about as many seconds of CPU as `pretrain_steps` take
    detect_steps: int
    fractions: tuple[float, ...]  # of the windows of the test scene's labelled third, for the detector
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
        label_steps=3,
        detect_steps=2,
        fractions=(0.25,),
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
        label_steps=400,
        detect_steps=60,
        fractions=(0.25,),
        seeds=3,
        draws=8,
    ),
    "full": Budget(
        crops=5000,
        questions=500,
        align_steps=200,
        pretrain_steps=900,
        label_steps=1200,
        detect_steps=150,
        fractions=(0.1, 0.25, 1.0),
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
    made = run_jobs(data_jobs(chosen, folder / "data"), folder / "data", workers=many)
    found = run_study(study_of(chosen, made), folder / "study", workers=many)
    return write_demo_report(out / "report.html", made, found, chosen, folder / "study", budget)


def data_jobs(budget: Budget, folder: Path) -> list[Job]:
    """What the study reads."""
    here, out = __name__, {"out": str(folder)}
    return [
        Job(name="instructions", call=f"{here}:write_data", arguments={**out, "crops": budget.crops}, cost=10),
        Job(name="questions", call=f"{here}:write_questions", arguments={**out, "pictures": budget.questions}),
        Job(name="target", call=f"{here}:split_target", arguments=out),
    ]


def study_of(budget: Budget, made: Mapping[str, Mapping[str, Any]]) -> Study:
    """One ViT from random weights, after instructions without VRL, with it, and with shuffled answers, and after the
    boxes of the same pictures as labels; detectors from each on a fraction of the test scene's labelled third, measured
    on the rest; probes and questions beside them.

    Args:
        made: results of `data_jobs`.
    """
    from vistruct.samples import trees

    true, shuffled, target = made["instructions"]["true"], made["instructions"]["shuffled"], made["target"]

    def taught(data: str, vrl: str) -> Pretraining:
        options = {"data": data, "size": "small", "vrl": vrl, "steps": budget.pretrain_steps}
        return Pretraining(recipe="vitp.pretrain", options=options, settings=("log_every=5",), start="aligned")

    aligned = {"data": true, "size": "small", "vrl": "off", "steps": budget.align_steps, "freeze_backbone": True}
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
        pretrain={
            # Projector and language model learn to read a backbone that stays as it is: the random weights that all
            # others start from.
            "aligned": Pretraining(recipe="vitp.pretrain", options=aligned),
            "instructions": taught(true, "off"),
            "VRL": taught(true, "paper"),
            "shuffled": taught(shuffled, "off"),
            "labels": labelled(made["instructions"]["labels"], budget.label_steps),
        },
        inits={"random": "aligned"} | {name: name for name in ("instructions", "VRL", "labels", "shuffled")},
        against=("random", "shuffled"),
        fractions=budget.fractions,
        seeds=budget.seeds,
        tune=budget.tune,
        lr=dict.fromkeys(budget.tune, 3e-3),
        backbone_lr=0.2,
        metric="val/AP50",
        probes=Probes(scene=trees().test, elsewhere=trees().train, turned_shots=(20, 50, 100), draws=budget.draws),
        questions={TRAIN: made["questions"]["train"], TEST: made["questions"]["test"]},
    )


def labelled(data: str, steps: int) -> Pretraining:
    """The same pictures with their boxes: found and filled by one backbone in one pass, each picture seen as large, and
    with the optimiser and schedule, as where questions about them are answered."""
    see = "{height: 96, width: 96, keep_aspect: false}"
    return Pretraining(
        recipe="labels",
        options={"data": data, "steps": steps, "size": 144, "overlap": 0, "batch": 16, "channels": 64, "lr": 2e-3,
                 "map_head": "linear"},
        settings=(
            "streams.boxes.data.tiles=null",
            "streams.boxes.data.augment=null",
            f"streams.boxes.data.resize={see}",
            "streams.boxes.task.neck={kind: simple_pyramid, channels: 64, strides: [16, 32]}",
            "streams.boxes.task.head={kind: fcos, num_convs: 1, nms_iou: 0.35, prior: 0.1}",
            "optim.weight_decay=0.01",
            "optim.layer_decay=1.0",
            "move=[{pattern: backbone, lr_factor: 0.5}]",
            f"schedule.warmup_steps={round(0.2 * steps)}",
            "workers=0",
            "log_every=5",
        ),
        start="aligned",
    )  # fmt: skip


def write_data(*, out: str, crops: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Instructions about the training scene, the boxes of the same pictures, and shuffled answers as their control."""
    from vistruct.data.instructions.control import write_control
    from vistruct.data.instructions.write import LABELS, write_instructions
    from vistruct.samples import trees

    summary = write_instructions(
        trees().train, Path(out) / "instructions", crops=crops, crop_size=CROP, questions=3, always=("grid_map",),
        turned=True, boxes=Path(out) / "labels", seed=0, progress=lambda done, total: report(done, total, "pictures"),
    )  # fmt: skip
    return {
        "true": str(summary.path),
        "labels": str(Path(out) / "labels" / LABELS),
        "shuffled": str(write_control(summary.path, Path(out) / "shuffled")),
        "families": [list(row) for row in summary.rows()],
        "line": summary.line(),
    }


def write_questions(*, out: str, pictures: int, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Questions of every family about the test scene, and about other crops of the training scene than those taught."""
    from vistruct.data.instructions.write import write_instructions
    from vistruct.samples import trees

    said: dict[str, Any] = {}
    for scene, source in (("test", trees().test), ("train", trees().train)):
        summary = write_instructions(
            source, Path(out) / "questions" / scene, crops=pictures, crop_size=CROP, questions=8, turned=True, seed=1,
            progress=lambda done, total: report(done, total, "pictures"),
        )  # fmt: skip
        said[scene] = str(summary.path)
    return said


def split_target(*, out: str, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The test scene in two: its left third may be learned from, the rest is measured on; COCO json and PNG each."""
    import numpy as np
    from PIL import Image

    from vistruct.data.formats.boxes import coco
    from vistruct.data.formats.read import read
    from vistruct.files.images import read_image
    from vistruct.samples import trees

    (scene,) = read(trees().test, "boxes")[0].records
    image = read_image(scene.images[0])
    folder = Path(out) / "target"
    folder.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[1:]
    middle = (scene.objects.boxes_xyxy[:, 0] + scene.objects.boxes_xyxy[:, 2]) / 2
    parts: dict[str, Any] = {}
    for name, left, right in (("labelled", 0, width // 3), ("tested", width // 3, width)):
        picture = folder / f"{name}.png"
        Image.fromarray(image[:, :, left:right].permute(1, 2, 0).numpy()).save(picture)
        own = (middle >= left) & (middle < right)  # a crown on the border belongs to the side of its middle
        boxes = scene.objects.boxes_xyxy[own] - np.array([left, 0, left, 0], np.float32)
        boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, right - left)
        part = replace(
            scene,
            id=picture.name,
            image_id=picture.name,
            images=(picture,),
            size_hw=(height, right - left),
            objects=replace(scene.objects.keep(own), boxes_xyxy=boxes),
        )
        coco.write(folder / f"{name}.json", [part], ("tree",))
        parts |= {name: str(folder / f"{name}.json"), f"num_{name}": int(own.sum())}
    return parts
