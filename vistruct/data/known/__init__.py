"""Every public source of instructions in one table; nothing of it is imported before it is asked for.

A source is a frozen value in a module of its own: `SOURCE = Source(read=..., looks_like=..., splits=...)`, see
`source.py`. To add one is that module and one line in SOURCES. Sources in the formats that train a detector or a
segmenter (COCO, LVIS, VOC, label maps, ...) are read as such, see `data/formats`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from vistruct.data.known.source import Source


@dataclass(frozen=True)
class Listed:
    """Where a source is, and what it is."""

    at: str  # module:NAME below this package
    says: str  # one line, for a list
    is_guessed: bool = True  # whether it may be found by looking; others must be named


SOURCES: dict[str, Listed] = {
    "refcoco": Listed("refcoco:SOURCE", "RefCOCO, RefCOCO+, RefCOCOg: expressions, boxes, masks"),
    "visual-genome": Listed("visual_genome:SOURCE", "Visual Genome: regions with descriptions, objects with names"),
    "flickr30k-entities": Listed("flickr30k_entities:SOURCE", "Flickr30k Entities: sentences whose phrases mean boxes"),
    "grit": Listed("grit:SOURCE", "GRIT: captions and expressions with boxes that a model found"),
    "pointqa": Listed("pointqa:SOURCE", "PointQA, local and look twice: questions at a point or a box"),
    "visual7w": Listed("visual7w:SOURCE", "Visual7W: questions answered by one of four boxes, or by words"),
    "vcr": Listed("vcr:SOURCE", "VCR: questions, answers and reasons about people, in all nine ways"),
    "vcr-q-a": Listed("vcr:Q_A", "VCR: question, answer", is_guessed=False),
    "vcr-q-ra": Listed("vcr:Q_RA", "VCR: question, reason and answer", is_guessed=False),
    "vcr-qc-a": Listed("vcr:QC_A", "VCR: question and choices, letter", is_guessed=False),
    "vcr-qc-ra": Listed("vcr:QC_RA", "VCR: question and choices, reason and letter", is_guessed=False),
    "vcr-qc-rac": Listed("vcr:QC_RAC", "VCR: question and choices, reason, answer and letter", is_guessed=False),
    "vcr-qa-r": Listed("vcr:QA_R", "VCR: question and answer, reason", is_guessed=False),
    "vcr-qac-r": Listed("vcr:QAC_R", "VCR: question, answer and choices of reasons, letter", is_guessed=False),
    "vcr-q-a-q-r": Listed("vcr:Q_A_Q_R", "VCR: answer, then reason, in two turns", is_guessed=False),
    "vcr-qc-a-qc-r": Listed("vcr:QC_A_QC_R", "VCR: letters of answer, then reason, in two turns", is_guessed=False),
    "shikra-rd": Listed("shikra_rd:SOURCE", "Shikra-RD (GPT4Gen): answers, and reasons whose phrases mean boxes"),
    "shikra-rd-answer": Listed("shikra_rd:ANSWER", "Shikra-RD: answers alone", is_guessed=False),
    "shikra-rd-words": Listed("shikra_rd:WORDS", "Shikra-RD: reasons in plain words", is_guessed=False),
    "shikra-rd-boxes": Listed("shikra_rd:BOXES", "Shikra-RD: reasons whose phrases mean boxes", is_guessed=False),
    "vqa-explained": Listed("vqa_rows:EXPLAINED", "VQA-E, VQA-X: answers with reasons"),
    "vqa-lines": Listed("vqa_rows:PLAIN", "POPE, CLEVR, merged lines of VQA v2 and OK-VQA: short answers"),
    "grand": Listed("grand:SOURCE", "GranD (GLaMM): objects with masks and attributes, grounded captions"),
    "coco-interactive": Listed("interactive:SOURCE", "COCO-Interactive (PSALM): objects with four drawn prompts each"),
    "llava-grounding": Listed("llava_grounding:SOURCE", "LLaVA-Grounding: conversations that point at masks"),
    "open-psg": Listed("gcg:OPEN_PSG", "OpenPSG and GranD-f of GLaMM: captions whose phrases have masks"),
    "refcocog-gcg": Listed("gcg:REFCOCOG", "RefCOCOg of GLaMM: captions whose phrases have masks"),
    "flickr-gcg": Listed("gcg:FLICKR", "Flickr30k of GLaMM: captions whose phrases have masks"),
    "gcg": Listed("gcg:PAIR", "GLaMM's GCG, validation and test: captions beside a file of masks"),
    "png": Listed("narratives:SOURCE", "Panoptic Narrative Grounding: long captions and panoptic segments"),
    "lvis": Listed("lvis:SOURCE", "LVIS v1: objects with masks of 1,203 categories, absent ones said for each image"),
    "cityscapes": Listed("cityscapes:INSTANCES", "Cityscapes: road users with masks"),
    "cityscapes-semantic": Listed("cityscapes:AREAS", "Cityscapes: the area of each of 19 classes", is_guessed=False),
    "kitti-depth": Listed("depth_sets:KITTI", "KITTI depth prediction: metres, sparse"),
    "nyu-depth": Listed("depth_sets:NYU", "NYU Depth v2: metres, dense"),
    "hr-wsi": Listed("depth_sets:HRWSI", "HR-WSI: order of near and far"),
    "osprey": Listed("osprey:SOURCE", "Osprey-724K: conversations about regions, descriptions of regions"),
}


def find_source(name: str) -> Source:
    """The source of a name of SOURCES.

    Raises:
        UserError: there is none.
    """
    if name not in SOURCES:
        raise UserError(f"no source {name!r}", fix=closest(name, SOURCES))
    module, _, value = SOURCES[name].at.partition(":")
    return vars(importlib.import_module(f"{__name__}.{module}"))[value]


def detect(path: Path) -> tuple[str, ...]:
    """The sources that a path looks like, told by its content: none of a data set in another format; several where
    files of two sources are written in the same way, and one must be named."""
    path = Path(path)
    if not path.exists():
        return ()
    return tuple(name for name, listed in SOURCES.items() if listed.is_guessed and find_source(name).looks_like(path))
