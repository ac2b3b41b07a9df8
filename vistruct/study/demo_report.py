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
    from vistruct.study.domains import Domain


def write_demo_report(
    path: Path, made: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], domain: Domain, folder: Path, name: str
) -> Path:
    """Write the report of a finished demo to `path`.

    Args:
        made: results of `demo.data_jobs`.
        found: of the study, as in its study.json.
        folder: of the study.
        domain: the images.
        name: of the effort.
    """
    page = Report(
        "Which pretraining pays here?",
        "The same small ViT from random weights under several teachers, each showing it as many pictures of one "
        f"{domain.of}; measured on another",
    )
    if name == "quick":
        page.callout(
            "**These numbers mean nothing.** `--quick` takes a few steps of everything to show that all parts work. "
            "Run `vistruct demo` for the measurement."
        )
    add_study(page, found, folder)
    page.text("## The images, and what was taught")
    for picture in draw_conversations(Path(made["instructions"]["true"])):
        page.figure(
            picture,
            "A conversation about a crop of what is taught. Shaded: the visual tokens that VRL (paper) drops for "
            "its first question; each question draws its own.",
        )
    page.table(
        ["family", "questions", "commonest answers"],
        made["instructions"]["families"],
        caption="The questions and how balanced they are",
    )
    taught = {one["teacher"] for one in found["ring"]["members"]}
    page.text(
        f"{domain.about} Nothing is ever pretrained on what is measured on.\n\n"
        + "\n\n".join(f"**{name}.** {told}" for name, told in _told(made).items() if name in taught)
        + "\n\nFor each repetition all begin from the same random weights.\n\n"
        "**Segmenter.** A linear layer on the last map, trained on 96-pixel windows, on the frozen backbone and "
        f"fine-tuned whole; windows are merged back to images: {domain.measured} (IoU).\n\n"
        "**Questions.** The crops of the taught pictures that the models are asked about are others than those taught, "
        "but show the same places. Of several pretrainings the first is asked.\n\n"
        "**Read with care.** One test scene, one class. Teachers that need boxes, or questions made of them, use those "
        "of the taught pictures: that is what they are for, but they are not free."
    )
    return page.write(path)


def _told(made: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each teacher shows."""
    asked = (
        f"{made['instructions']['line']}, written from the boxes; a small language model learns to "
        "answer them: first, on a quarter of the pictures, while the backbone stays as it is, then all together. Then "
        "the language model is thrown away."
    )
    return {
        "masked": "Hidden pixels (MAE): three quarters of each picture are hidden, and told from the rest. No labels.",
        "contrast": "Two views of one picture are to be alike, as wholes and at the places that both show. No labels.",
        "distilled": "The maps of an EfficientNet-Lite0 that was trained on ImageNet are told. No labels.",
        "labels": "The boxes of the pictures, found (FCOS) and filled as pixels (a linear layer) in one pass.",
        "instructions": asked,
        "VRL": "The same questions, each of which loses 75 % of its visual tokens.",
    }


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
