"""The recipes at a glance: grouped, what each does and on which data, and where this project has measured it itself.

What a recipe's docstring expects are published numbers. Which recipes were run here is said in this list alone, and
`vistruct recipes` and docs/recipes.md show it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One recipe in a table."""

    does: str
    data: str
    measured: str = ""  # page of docs/ with figures of ours; "": built and tested small, no figure of ours


_BACKBONE = "a frozen backbone"
_BOXES, _ORIENTED, _MASKS, _PAIRS, _CLASSES = "boxes", "oriented boxes", "masks", "pairs of dates", "image classes"
_TALK, _IMAGES, _CAPTIONS, _VOLUMES = "conversations", "images without labels", "captions", "volumes (CT, MR)"
_VITP = "as ViTP published it"

GROUPS: dict[str, dict[str, Line]] = {
    "Your own labelled data": {
        "detect": Line("detection: FCOS, RetinaNet, R-CNNs, DETR, Mask2Former", _BOXES, "study.md"),
        "oriented": Line("oriented detection: Oriented R-CNN, or single-stage", _ORIENTED, "oriented.md"),
        "segment": Line(
            "semantic segmentation: UPerNet, UNet, Mask2Former", f"{_MASKS}, {_VOLUMES}", "segmentation.md"
        ),
        "panoptic": Line("panoptic segmentation: Mask2Former", "COCO panoptic"),
        "change": Line("change detection between two dates", _PAIRS),
        "classify": Line("image classification, one label or several", _CLASSES),
        "caption": Line("captioning: a transformer on the feature map", _CAPTIONS, "captions.md"),
        "ocr": Line(f"text recognition on {_BACKBONE}", "images of words", "visft.md"),
        "identify": Line(f"class of each given box, on {_BACKBONE}", _BOXES, "visft.md"),
        "joint": Line("multi-task training: several tasks over one backbone", "of every task its own"),
    },
    "Pretraining a backbone": {
        "vitp.pretrain": Line("visual instruction pretraining (ViTP)", _TALK, "study.md"),
        "vitp.remote_sensing": Line(f"pretraining on remote sensing, {_VITP}", _TALK),
        "vitp.medical": Line(f"pretraining on medical images, {_VITP}", _TALK),
        "vitp.general": Line(f"pretraining on general images (the control), {_VITP}", _TALK),
        "labels": Line("supervised pretraining: boxes and their pixels together", "boxes, masks", "mtp.md"),
        "mtp.pretrain": Line("multi-task pretraining (MTP)", "SAMRS, boxes, masks", "mtp.md"),
        "masked": Line("masked image modelling: MAE, MaskFeat, MFM, DropPos, CroCo", _IMAGES, "teachers.md"),
        "contrast": Line("contrastive learning: MoCo, DenseCL", _IMAGES, "teachers.md"),
        "distill": Line("distillation of frozen teachers", _IMAGES, "teachers.md"),
        "self_distill": Line("self-distillation: DINO, iBOT, DINOv2", _IMAGES, "self_distill.md"),
    },
    "CLIP": {
        "clip.zero_shot": Line("zero-shot classification, fine-tuned", _CLASSES),
        "clip.match": Line("image-text retrieval, fine-tuned", _CAPTIONS),
        "clip.regions": Line("classes of boxes by their names, fine-tuned", _BOXES),
    },
    "A language model that points (VT-PLUG)": {
        "vtplug.align": Line("first stage: the projector", _TALK, "vtplug.md"),
        "vtplug.tune": Line("second stage: answers with boxes and masks", _TALK, "vtplug.md"),
        "vtplug.decoders": Line("decoders alone, language model frozen", _TALK, "vtplug.md"),
        "vtplug.keypoints": Line("third stage: key points", _TALK, "vtplug.md"),
    },
    "Fine-tuning a backbone by tasks (ViSFT)": {
        "visft.detect": Line(f"first stage: DETR on {_BACKBONE}", _BOXES, "visft.md"),
        "visft.segment": Line(f"first stage: Mask2Former on {_BACKBONE}", "masks of objects", "visft.md"),
        "visft.caption": Line(f"first stage: LSTM with attention on {_BACKBONE}", _CAPTIONS, "captions.md"),
        "visft.joint": Line("second stage: the heads adapt the backbone by LoRA", "finished runs", "visft.md"),
    },
    "Published benchmarks, ViTP": {
        "vitp.dior": Line("detection, DIOR", "DIOR"),
        "vitp.dior_r": Line("oriented detection, DIOR-R", "DIOR-R"),
        "vitp.dota_v2": Line("oriented detection, DOTA-v2.0", "DOTA-v2.0"),
        "vitp.rsar": Line("oriented detection in radar images, RSAR", "RSAR"),
        "vitp.sardet100k": Line("detection in radar images, SARDet-100K", "SARDet-100K"),
        "vitp.ssdd": Line("ships with masks in radar images, SSDD", "SSDD"),
        "vitp.isaid": Line("segmentation, iSAID", "iSAID"),
        "vitp.loveda": Line("segmentation, LoveDA", "LoveDA"),
        "vitp.uavid": Line("segmentation of drone images, UAVid", "UAVid"),
        "vitp.svcd": Line("change detection, SVCD (CDD)", "SVCD"),
        "vitp.whu_cd": Line("change detection, WHU-CD", "WHU-CD"),
        "vitp.levir_cd": Line("change detection, LEVIR-CD", "LEVIR-CD"),
        "vitp.s2looking": Line("change detection, S2Looking", "S2Looking"),
        "vitp.amos2022": Line("abdominal organs in CT, AMOS2022", "AMOS2022"),
        "vitp.brats2021": Line("brain tumours in MR, BraTS2021", "BraTS2021"),
        "vitp.covid_quex": Line("infected lung in X-rays, COVID-QU-Ex", "COVID-QU-Ex"),
    },
    "Published benchmarks, MTP": {
        "mtp.eurosat": Line("scene classification, EuroSAT", "EuroSAT"),
        "mtp.resisc45": Line("scene classification, NWPU-RESISC45", "NWPU-RESISC45"),
        "mtp.xview": Line("detection, xView", "xView"),
        "mtp.dior": Line("detection, DIOR", "DIOR"),
        "mtp.dior_r": Line("oriented detection, DIOR-R", "DIOR-R"),
        "mtp.fair1m_v2": Line("oriented detection, FAIR1M-2.0", "FAIR1M-2.0"),
        "mtp.dota_v1": Line("oriented detection, DOTA-v1.0", "DOTA-v1.0"),
        "mtp.dota_v1_5": Line("oriented detection, DOTA-v1.5", "DOTA-v1.5"),
        "mtp.dota_v2": Line("oriented detection, DOTA-v2.0", "DOTA-v2.0"),
        "mtp.spacenet_v1": Line("building segmentation, SpaceNet-v1", "SpaceNet-v1"),
        "mtp.loveda": Line("segmentation, LoveDA", "LoveDA"),
        "mtp.oscd": Line("change detection, OSCD", "OSCD"),
        "mtp.whu_cd": Line("change detection, WHU-CD", "WHU-CD"),
        "mtp.levir_cd": Line("change detection, LEVIR-CD", "LEVIR-CD"),
        "mtp.svcd": Line("change detection, SVCD (CDD)", "SVCD"),
    },
}
