"""The demo's report: that of its study, and what is particular to its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vistruct.reports.page import Report
from vistruct.study.report import add_study

if TYPE_CHECKING:
    from vistruct.study.demo import Budget


def write_demo_report(
    path: Path, made: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], budget: Budget, folder: Path, name: str
) -> Path:
    """Write the report of a finished demo to `path`.

    Args:
        made: results of `demo.data_jobs`.
        found: of the study, as in its study.json.
        folder: of the study.
        name: of the budget.
    """
    page = Report(
        "What did pretraining buy?",
        "The same small ViT from random weights, after answering questions about annotated tree crowns, and after "
        "learning the annotations themselves; measured on another place",
    )
    if name == "quick":
        page.callout(
            "**These numbers mean nothing.** `--quick` takes a few steps of everything to show that all parts work. "
            "Run `vistruct demo` for the measurement."
        )
    add_study(page, found, folder)
    page.text("## The scene, and what was taught")
    for init in ("random", "instructions"):
        (trial,) = (
            t
            for t in found["trials"]
            if (t["init"], t["fraction"], t["tuning"], t["seed"]) == (init, budget.fractions[0], "probe", 0)
        )
        page.figure(
            draw_scene(folder / trial["run"], Path(made["target"]["tested"])),
            f"The right two thirds of the test scene, detector on the frozen backbone of **{init}**, seed 0: as many "
            "of its best detections as there are crowns.",
        )
    for picture in draw_conversations(Path(made["instructions"]["true"])):
        page.figure(
            picture,
            "A conversation about a crop of the training scene. Shaded: the visual tokens that VRL (paper) drops for "
            "its first question; each question draws its own.",
        )
    page.table(
        ["family", "questions", "commonest answers"],
        made["instructions"]["families"],
        caption="The questions and how balanced they are",
    )
    page.text(
        "Two aerial scenes of the National Ecological Observatory Network (10 cm), 13 km apart, with hand-drawn tree "
        "crowns: 574 in the training scene, 279 in the test scene. Nothing is ever pretrained on the test scene; "
        "probes and detectors take their few labels from it. Its left third has "
        f"{made['target']['num_labelled']} crowns, the rest {made['target']['num_tested']}.\n\n"
        f"**Instructions.** {made['instructions']['line']}, written from the training scene's boxes.\n\n"
        f"**Inits.** One ViT of random weights. {budget.align_steps} steps teach a projector and a small language "
        f"model to read it while it stays frozen. From there everything trains for {budget.pretrain_steps} steps of 16 "
        "pictures: without VRL, with it (every question loses 75 % of its visual tokens), and, as the control, on "
        "**shuffled** answers: the same questions and answers, each conversation moved to another picture. What the "
        "control gains comes from training as such, not from what was taught. Then the language model is thrown away. "
        "Of *random* only the backbone is random: projector and language model have learned to read it.\n\n"
        f"**Labels.** What the questions are made of, as labels: {budget.label_steps} steps of the recipe `labels` on "
        "the same pictures, 16 a step, with the same optimiser and schedule. Every crown is found as a box (FCOS) "
        f"and filled as pixels (a linear layer), by one backbone in one pass.{_spent(found)} The steps that taught the "
        "language model to read random weights come on top of *instructions* and are not counted.\n\n"
        f"**Detector.** Simple feature pyramid and FCOS, trained on {budget.window}-pixel windows of the test scene's "
        "left third: on the frozen backbone, and fine-tuned whole with a fifth of the head's learning rate in the "
        "backbone; windows merged back to one image of the right two thirds, COCO metrics.\n\n"
        "**Questions.** The crops of the training scene that the models are asked about are others than those taught, "
        "but show the same places.\n\n"
        "**Read with care.** One sensor, one region, one class. One pretraining of each kind: the spread is over draws "
        "of labels and seeds of the detector, not over pretrainings. Pretraining needs the training scene's boxes, as "
        "questions: that is what it is for, but it is not free."
    )
    return page.write(path)


def _spent(found: Mapping[str, Any]) -> str:
    """What a pretraining took on the processor, where it was noted."""
    spent = found["pretraining_seconds"]
    told = [f"{name} {spent[name]:.0f} s" for name in ("instructions", "VRL", "labels", "shuffled") if spent.get(name)]
    return f" Processor time of each, measured in this run: {', '.join(told)}." if told else ""


def draw_scene(run_dir: Path, annotation: Path) -> Image.Image:
    """A scene with as many of the best detections as it has objects."""
    from vistruct.contracts import BoxPrediction
    from vistruct.data.formats.read import read
    from vistruct.files.images import read_image
    from vistruct.inference.model import load
    from vistruct.pictures.objects import draw_prediction

    (scene,) = read(annotation, "boxes")[0].records
    image = read_image(scene.images[0])
    prediction = load(run_dir).predict(image)
    assert isinstance(prediction, BoxPrediction)
    ranked = prediction.objects.scores.sort(descending=True).values
    at = min(len(scene.objects), len(ranked)) - 1
    return draw_prediction(image, prediction, scene.objects, min_score=float(ranked[at]) if at >= 0 else 1.0)


def draw_conversations(jsonl: Path, most: int = 2) -> list[Image.Image]:
    """A few conversations with the visual tokens that VRL keeps for their first question."""
    from vistruct.data.dataset import ChatDataConfig
    from vistruct.ops.seeds import derive
    from vistruct.pictures.chat import draw_conversation
    from vistruct.vlm.vrl import PRESETS, keep_tokens

    dataset = ChatDataConfig(jsonl=jsonl).build()
    longest = sorted(range(min(40, len(dataset))), key=lambda index: -len(dataset.records[index].turns))
    pictures = []
    for index in longest[:most]:
        sample = dataset.sample(index, seed=index)
        kept = keep_tokens(torch.ones(36, dtype=torch.bool), [36], PRESETS["paper"], [derive(sample.seed, "row", 0)])
        pictures.append(draw_conversation(sample, kept, (6, 6)))
    return pictures
