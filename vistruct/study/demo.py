"""The demo: from annotated images to a measured answer to "which pretraining pays here?".

A preset of `vistruct study` on real data, and what it reads: pictures of one aerial scene, what several teachers say of
them, and another scene, another place, that is never pretrained on. The few labels that probes and segmenters learn
from lie in its left third or are drawn at random, and are never tested on. `vistruct study -c study.yaml` in its
directory runs it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vistruct.checkpoint.catalogue.entries import LITE0
from vistruct.checkpoint.catalogue.here import in_package
from vistruct.config import Part
from vistruct.data.loading.parallel import cores
from vistruct.study.domains import Domain, domain_of
from vistruct.study.jobs import Job, run_jobs
from vistruct.study.runner import run_study
from vistruct.study.study import Budget, Start, Study, Teacher, Tuning
from vistruct.study.workers import Report

BATCH = 16  # pictures a step, of every teacher
ALIGNED = 0.25  # of the pictures of those who ask questions, for the language model to learn to read
NETWORK = "tf_efficientnet_lite0"  # timm's name of it
TRAIN, TEST = "the training scene, other crops", "the test scene"


class Effort(Part):
    """How much of everything."""

    crops: int  # pictures of the training scene that are taught
    questions: int  # pictures of each scene that the models themselves are asked about
    samples: int  # that each teacher shows
    steps: int  # of the segmenter
    fractions: tuple[float, ...]  # of the windows of the test scene's labelled third, for the segmenter
    seeds: int  # of the segmenter
    pretrain_seeds: int  # of each teacher
    draws: int  # of labels, for the probes
    teachers: tuple[str, ...]
    from_imagenet: tuple[str, ...] = ()  # those of the teachers that go on from a network of ImageNet too
    tune: tuple[Tuning, ...] = ("head", "full")  # segmenters on the frozen backbone, and fine-tuned whole


ALL = ("masked", "contrast", "distilled", "labels", "instructions", "VRL")
EFFORTS = {
    "quick": Effort(
        crops=400,  # of one size several, so that answers can be shuffled
        questions=5,
        samples=64,
        steps=2,
        fractions=(1.0,),
        seeds=1,
        pretrain_seeds=1,
        draws=2,
        teachers=("masked", "labels", "instructions"),
        tune=("head",),
    ),
    "default": Effort(
        crops=1600,
        questions=60,
        samples=1600,
        steps=60,
        fractions=(1.0,),
        seeds=4,
        pretrain_seeds=4,
        draws=8,
        teachers=("masked", "distilled", "labels", "instructions"),
    ),
    "full": Effort(
        crops=5000,
        questions=500,
        samples=14_400,
        steps=150,
        fractions=(0.1, 0.3, 1.0),
        seeds=5,
        pretrain_seeds=5,
        draws=20,
        teachers=ALL,
        from_imagenet=("labels",),
    ),
}


def run_demo(
    out: Path,
    *,
    budget: Literal["quick", "default", "full"] = "default",
    domain: Literal["trees", "cells"] = "trees",
    data: Path | None = None,
    workers: int | None = None,
) -> Path:
    """Run what is missing of the demo and write its report.

    Args:
        out: the demo's directory; finished parts in it are not run again.
        domain: which images; `data` is the folder of those that are not shipped.
        workers: processes of one thread each; None: one a core, as far as there is work for them.

    Returns:
        the report's path.

    Raises:
        UserError: images that are not there.
    """
    from vistruct.study.demo_report import write_demo_report

    chosen, imagenet = EFFORTS[budget], imagenet_weights()
    images = domain_of(domain, None if data is None else data.resolve(), chosen.draws)
    folder = (out / budget if domain == "trees" else out / domain / budget).resolve()
    many = workers or max(1, min(cores(), 16))
    made = run_jobs(data_jobs(chosen, images, folder / "data"), folder / "data", workers=many)
    found = run_study(study_of(chosen, images, made, imagenet), folder / "study", workers=many)
    report = out / ("report.html" if domain == "trees" else f"{domain}.html")
    return write_demo_report(report, made, found, images, folder / "study", budget)


def data_jobs(effort: Effort, domain: Domain, folder: Path) -> list[Job]:
    """What the study reads."""
    here, out = __name__, {"out": str(folder)}
    taught = {**out, "taught": str(domain.taught), "crop": list(domain.crop)}
    asked = {**taught, "asked": str(domain.asked), "pictures": effort.questions}
    split = {**out, "asked": str(domain.asked)}
    return [
        Job(name="instructions", call=f"{here}:write_data", arguments={**taught, "crops": effort.crops}, cost=10),
        Job(name="questions", call=f"{here}:write_questions", arguments=asked),
        *([Job(name="target", call=f"{here}:split_target", arguments=split)] if domain.target is None else []),
    ]


def study_of(
    effort: Effort, domain: Domain, made: Mapping[str, Mapping[str, Any]], imagenet: Path | None = None
) -> Study:
    """One ViT of random weights, and what it becomes under several teachers that show it as many pictures; segmenters
    from each, learned from a few labels of another place and measured on others of it; probes and questions beside.

    Args:
        made: results of `data_jobs`.
        imagenet: weights of an EfficientNet-Lite0 of ImageNet, the teacher of `distilled`, and a start of its own;
            None: both are left out.
    """
    target = domain.target or {"data": made["target"]["labelled"], "val": made["target"]["tested"], "fill": "boxes"}
    known = teachers_of(made, imagenet)
    scratch = {"starts": ("random",)}
    chosen = {
        name: known[name].model_copy(update={} if name in effort.from_imagenet else scratch)
        for name in effort.teachers
        if name in known
    }
    if any(one.after == "aligned" for one in chosen.values()):
        chosen = {"aligned": known["aligned"].model_copy(update=scratch), **chosen}
    true = made["instructions"]["true"]
    starts = {"random": Start(recipe="vitp.pretrain", options={"data": true, "size": "small"})}
    if imagenet is not None:  # what costs no pretraining at all
        starts["ImageNet"] = Start(options={"timm": NETWORK, "backbone": str(imagenet)})
    return Study(
        recipe="segment",
        options={
            **target,
            "head": "linear",
            "steps": effort.steps,
            "size": 96,
            "overlap": 32,
            "batch": 8,
            "rot90": True,
        },
        settings=(
            "optim.layer_decay=1.0",
            f"schedule.warmup_steps={max(1, effort.steps // 12)}",
            "workers=0",
            "log_every=5",
        ),
        starts=starts,
        teachers=chosen,
        budget=Budget(samples=effort.samples),
        pretrain_seeds=effort.pretrain_seeds,
        fractions=effort.fractions,
        seeds=effort.seeds,
        tune=effort.tune,
        lr={tuning: rate for tuning, rate in (("head", 1e-2), ("full", 1e-3)) if tuning in effort.tune},
        metric=domain.metric,
        probes=domain.probes,
        questions={TRAIN: made["questions"]["train"], TEST: made["questions"]["test"]},
    )


def teachers_of(made: Mapping[str, Mapping[str, Any]], imagenet: Path | None) -> dict[str, Teacher]:
    """Everybody who can teach the training scene's pictures, by name; where answers are learned there is a control of
    shuffled ones."""
    true, shuffled = made["instructions"]["true"], made["instructions"]["shuffled"]
    images = {"data": [str(Path(true).parent / "images")], "model": "small", "batch": BATCH, "rot90": True}
    asked = {"data": true, "size": "small", "batch": BATCH}
    quiet = ("log_every=5",)
    found = {
        "masked": Teacher(recipe="masked", options=images, settings=quiet),
        "contrast": Teacher(recipe="contrast", options=images, settings=quiet),
        "labels": labelled(made["instructions"]["labels"]),
        # A projector and a language model learn to read a backbone that stays as it is, before everything trains: a
        # language model that has not learned to look has nothing to teach.
        "aligned": Teacher(
            recipe="vitp.pretrain",
            options=asked | {"vrl": "off", "freeze_backbone": True},
            settings=quiet,
            part=ALIGNED,
            is_step=True,
        ),
        **{
            name: Teacher(
                recipe="vitp.pretrain",
                options=asked | {"vrl": vrl},
                settings=quiet,
                after="aligned",
                part=1 - ALIGNED,
                control={"data": shuffled} if name == "instructions" else "none",
            )
            for name, vrl in (("instructions", "off"), ("VRL", "paper"))
        },
    }
    if imagenet is not None:
        kept = str(Path(true).parents[1] / "maps")  # the teacher looks at each picture once, for all repetitions
        whole = {name: value for name, value in images.items() if name != "rot90"} | {"augment": False, "cache": kept}
        options = whole | {"teacher": [f"{NETWORK}={imagenet}"]}
        found["distilled"] = Teacher(recipe="distill", options=options, settings=quiet)
    return found


def imagenet_weights() -> Path | None:
    """An EfficientNet-Lite0 of ImageNet, where its package (Apache-2.0) is installed; nothing of it is run."""
    return in_package(LITE0)


def labelled(data: str) -> Teacher:
    """The same pictures with their boxes: found and filled by one backbone in one pass, each picture seen as large, and
    with the optimiser, as where questions about them are answered."""
    see = "{height: 96, width: 96, keep_aspect: false}"
    return Teacher(
        recipe="labels",
        options={"data": data, "size": 144, "overlap": 0, "batch": BATCH, "channels": 64, "lr": 2e-3,
                 "map_head": "linear"},
        settings=(
            "streams.boxes.data.tiles=null",
            "streams.boxes.data.augment=null",
            f"streams.boxes.data.resize={see}",
            "streams.boxes.task.neck={kind: simple_pyramid, channels: 64, strides: [16, 32]}",
            # A location's first guess is a box of twice its stride: at 16, about a crown.
            "streams.boxes.task.head={kind: fcos, num_convs: 1, nms_iou: 0.35, prior: 0.1}",
            "optim.weight_decay=0.01",
            "optim.layer_decay=1.0",
            "trainable=[{pattern: backbone, lr_factor: 0.5}]",
            "workers=0",
            "log_every=5",
        ),
        control="shuffled",
    )  # fmt: skip


def write_data(
    *, out: str, taught: str, crop: list[int], crops: int, results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Instructions about the training scene, the boxes of the same pictures, and shuffled answers as their control."""
    from vistruct.data.instructions.control import write_control
    from vistruct.data.instructions.write import LABELS, write_instructions

    summary = write_instructions(
        Path(taught),
        Path(out) / "instructions",
        crops=crops,
        crop_size=(crop[0], crop[1]),
        questions=3,
        always=("grid_map",),
        rot90=True,
        boxes=Path(out) / "labels",
        seed=0,
        progress=lambda done, total: report(done, total, "pictures"),
    )
    return {
        "true": str(summary.path),
        "labels": str(Path(out) / "labels" / LABELS),
        "shuffled": str(write_control(summary.path, Path(out) / "shuffled")),
        "families": [list(row) for row in summary.rows()],
        "line": summary.line(),
    }


def write_questions(
    *, out: str, taught: str, asked: str, crop: list[int], pictures: int, results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Questions of every family about the test scene, and about other crops of the training scene than those taught."""
    from vistruct.data.instructions.write import write_instructions

    said: dict[str, Any] = {}
    for scene, source in (("test", Path(asked)), ("train", Path(taught))):
        summary = write_instructions(
            source, Path(out) / "questions" / scene, crops=pictures, crop_size=(crop[0], crop[1]), questions=8,
            rot90=True, seed=1, progress=lambda done, total: report(done, total, "pictures"),
        )  # fmt: skip
        said[scene] = str(summary.path)
    return said


def split_target(*, out: str, asked: str, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The test scene in two: its left third may be learned from, the rest is measured on; COCO json and PNG each."""
    import numpy as np
    from PIL import Image

    from vistruct.data.formats.boxes import coco
    from vistruct.data.formats.read import read
    from vistruct.files.images import read_image

    (scene,) = read(Path(asked), "boxes")[0].records
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
