"""The three published pretraining mixes: which data sets, how large, and how often each is seen.

Source: the mix files of ViTP's public scripts (`ft_data_rs.json`, `ft_data_medical.json`, `ft_data_general.json`). The
conversations themselves were not published with them; `template` writes a mix file to fill in with one's own copies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vistruct.errors import UserError


class Entry(NamedTuple):
    """One data set of a mix."""

    name: str
    conversations: int
    repeat: float  # times an epoch; below 1, the share that is used
    max_tiles: int = 12
    jpeg: bool = False  # whether images are re-encoded at random


_GENERAL = (
    ("sharegpt4v_instruct_gpt4-vision_cap100k", 102025),
    ("sharegpt4v_mix665k_novg", 578326),
    ("dvqa_train_200k", 200000),
    ("chartqa_train_18k", 18317),
    ("ai2d_train_12k", 12413),
    ("docvqa_train_10k", 10211),
    ("geoqa+", 72318),
    ("synthdog_en", 29765),
)


def _general(repeats: Sequence[float]) -> tuple[Entry, ...]:
    return tuple(Entry(name, n, repeat, 6) for (name, n), repeat in zip(_GENERAL, repeats, strict=True))


GENERAL = _general([1.0] * 8)

REMOTE_SENSING = (
    Entry("caption_cd_rgb_LevirCCcaptions", 50385, 0.5),
    Entry("caption_GAIA_trainval_instruct", 32832, 1),
    Entry("cls_rgb_Million-AID", 920057, 0.01),
    Entry("cls_rgb_Million-AID_CoT", 920057, 0.05),
    Entry("cls_sar_ISPRS_SAR_classification", 1500, 1),
    Entry("cls_sar_Sentinel-1&2_Image_Pairs", 16000, 1),
    Entry("cls_rgb_fmow", 4969, 1),
    Entry("cls_rgb_METER-ML", 1497, 8, jpeg=True),
    Entry("cls_rgb_RSITMD", 484, 10),
    Entry("cls_rgb_UCM", 2100, 5, jpeg=True),
    Entry("vqa_rgb_BANDON", 200, 1),
    Entry("vqa_rgb_crowdAI", 2000, 1),
    Entry("vqa_rgb_deepglobe_lc", 2000, 1),
    Entry("vqa_rgb_FBP", 366, 1),
    Entry("vqa_rgb_fmow", 1871, 1),
    Entry("vqa_rgb_MSAR", 200, 1),
    Entry("vqa_rgb_Mts-WH", 200, 1),
    Entry("vqa_rgb_RSVQA_LR", 10000, 1),
    Entry("cls_rgb_NWPU-RESISC45", 31500, 1, 6),
    Entry("vqa_panc_dota", 3920, 1, 6),
    Entry("vqa_rgb_LRBEN", 57223, 1, 6),
    Entry("vqa_rgb_SAMRS", 105547, 1, 6),
    Entry("geochat_train", 63883, 2),
    Entry("vrsbench_train", 38689, 5),
    Entry("rsvg_train", 5505, 10),
    Entry("dior_rsvg_train", 27133, 8),
    Entry("FIT_RS_Instruct_VQA_100k", 99999, 0.1),
    Entry("vqa_rgb_rsvqahr_train_instruct_100k", 100000, 1),
    *_general([0.01, 0.005, *[0.01] * 6]),
)

MEDICAL = (
    Entry("gmai_mmbench_val", 4550, 20),
    Entry("openi", 7466, 5),
    Entry("huatuo_vqa", 646759, 0.5),
    Entry("huatuo_oa", 646759, 0.1),
    Entry("pmc_oa", 1646527, 0.05),
    Entry("pmc_vqa", 226924, 0.5),
    Entry("omnimedvqa", 88996, 1),
    Entry("quilt_1m", 723328, 0.1),
    Entry("quilt_vqa", 1283, 10),
    Entry("quit_instruct_107k", 107131, 1),
    Entry("quilt_instruct_conv_desc", 20000, 1),
    Entry("quilt_instruct_complex_abductive", 20000, 1),
    *_general([0.02, 0.01, *[0.02] * 6]),
)


def size_of(mix: Sequence[Entry]) -> int:
    """Conversations in an epoch."""
    return sum(int(entry.conversations * entry.repeat) for entry in mix)


def template(mix: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """The mix as a mix file, with a folder and a jsonl of its name for each data set."""
    return {
        entry.name: {
            "root": f"{entry.name}/",
            "annotation": f"{entry.name}.jsonl",
            "repeat_time": entry.repeat,
            "max_dynamic_patch": entry.max_tiles,
            "data_augment": entry.jpeg,
            "length": entry.conversations,
        }
        for entry in mix
    }


def write_template(mix: Sequence[Entry], path: Path) -> None:
    """Write `template` to a file that is not there yet.

    Raises:
        UserError: the file is there.
    """
    if path.exists():
        raise UserError("this file is there already", where=path, fix="choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(template(mix), indent=2) + "\n")
