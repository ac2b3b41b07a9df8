"""What the stages of VT-PLUG share: the models, what decoders look at, and the published optimiser.

Source: REF-VLM (arXiv:2503.07413), published as VT-PLUG, and its public configurations: Vicuna-7B, CLIP-L/14 at 336 px
    (its layer -2) for the words and a ConvNeXt-L of CLIP at 512 px beside it for the decoders; both stay as they are.
    AdamW with betas 0.9 and 0.999, no decay, clipped at norm 1, 3 % of warm-up, a cosine to 0, fp16.
Differs: bf16 in place of fp16, conversations packed end to end; a region is two tokens that follow it in place of
    the published ten (`--regions published`); boxes are said at the place a query points at, from one map, in place of
    DETR's layers over 16,384 cells; the answer's own unit chooses the decoder, and no task command is needed
    (`--command` writes it). Size 1b is InternVL2.5-1B's parts, size small ours.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import MAIN, AdamW, Eval, Lora, Pack, Part, Run, Schedule, Stream, Trainable, with_values
from vistruct.data.instructions.point import write_pointing
from vistruct.heads.query_box import QueryBoxConfig
from vistruct.heads.query_keypoint import QueryKeypointConfig
from vistruct.heads.query_layers import QueryLayersConfig
from vistruct.kinds import DecoderPart, part_class
from vistruct.metrics.grounded import GroundedConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes.detect import architecture
from vistruct.recipes.named import says_its_shape
from vistruct.recipes.visft.parts import CLIP_MEAN, CLIP_STD
from vistruct.recipes.vitp.pretrain import SIZES, conversations, parts_of, qwen
from vistruct.samples import trees
from vistruct.samples.made_scenes import kept_by_content
from vistruct.tasks.instruct import InstructConfig
from vistruct.tasks.pointing import PointingConfig
from vistruct.vlm.grammar import Grammar
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.region_tokens import RegionTokensConfig
from vistruct.vlm.tiling import Tiling

Size = Literal["7b", "1b", "small"]
Unit = Literal["box", "mask", "keypoint", "point", "depth"]
COCO_POINTS = 17
WARMUP = 0.03  # of the steps
FROZEN = (Trainable(pattern="backbone", mode="frozen"),)
EVALS = 8  # times that the loss on `val` is measured in a run
MOST_ASKED = 500  # conversations of `val` that are asked at the end
_VICUNA: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
}  # fmt: skip
CLIP_L_336 = TimmConfig(name="vit_large_patch14_clip_quickgelu_336", out_indices=(22,))
CONVNEXT_L = TimmConfig(name="convnext_large")


class Family(Part):
    """A model, and how decoders of it look."""

    task: InstructConfig  # without pointing
    tower: TimmConfig | None = None
    tower_size: int | None = None
    layers: QueryLayersConfig
    mask_size: int = 112
    recall: bool = True  # see `PointingConfig`
    pack: Pack | None = None
    workers: int


def _small() -> InstructConfig:
    like = SIZES["small"].task
    language = LanguageConfig(
        options=qwen(96, 3, 3, 3, 256, theta=100.0) | {"initializer_range": 0.06}, vocab_size=600, digits="merged"
    )
    # Dropped tokens (VRL) teach a language model of few layers to write before few of them, and not before all.
    changed = {"language": language, "answer_dropout": 0.0, "vrl": "off", "max_new_tokens": 160}
    return like.model_copy(update=changed)


FAMILIES: dict[Size, Family] = {
    "7b": Family(
        task=InstructConfig(
            backbone=CLIP_L_336,
            language=LanguageConfig(model_type="llama", options=_VICUNA, vocab_size=8192),
            tiling=Tiling(size=336, max_tiles=1, fit="pad"),
            shuffle=1,
            projector_norm=False,
            template="vicuna",
            vrl="off",
            mean=CLIP_MEAN,
            std=CLIP_STD,
            max_tokens=2048,
            max_new_tokens=512,
        ),
        tower=CONVNEXT_L,
        tower_size=512,
        layers=QueryLayersConfig(),
        mask_size=336,
        recall=False,
        pack=Pack(tokens=8192, tiles=16),
        workers=4,
    ),
    "1b": Family(
        task=SIZES["1b"].task.model_copy(update={"vrl": "off", "max_new_tokens": 512}),
        layers=QueryLayersConfig(),
        mask_size=224,
        pack=SIZES["1b"].pack,
        workers=4,
    ),
    "small": Family(
        task=_small(),
        layers=QueryLayersConfig(width=64, layers=2, heads=4, hidden=128, dropout=0.0),
        mask_size=48,
        workers=0,
    ),
}


def decoder_of(unit: Unit, layers: QueryLayersConfig, *, groups: bool, points: int = COCO_POINTS) -> DecoderPart:
    """What draws a unit by default; key points so many of each object."""
    if unit == "keypoint":
        box = QueryBoxConfig(layers=layers, use_groups=groups)
        return QueryKeypointConfig(points=points, box=box, layers=layers)
    made: Any = part_class(f"query_{unit}", "decoder").model_validate({"layers": layers, "use_groups": groups})
    return made


def points_in(data: Path) -> int:
    """How many key points an object has, by the first line whose answers ask for some; else as many as COCO has."""
    if data.suffix == ".jsonl" and data.is_file():
        with data.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"keypoints"' in line and '"keypoint"' in line:
                    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
                        row = np.array(json.loads(line)["objects"]["keypoints"][0], np.float64)
                        if row.size and row.size % 3 == 0:
                            return row.size // 3
    return COCO_POINTS


def stage(
    name: str,
    *,
    data: Path,
    root: Path | None,
    val: Path | None,
    backbone: Path | None,
    language: Path | None,
    size: Size,
    start: Path | None,
    units: tuple[Unit, ...],
    grammar: Grammar,
    regions: Literal["pooled", "published", "off"],
    groups: bool,
    trainable: tuple[Trainable, ...],
    loss_weights: dict[str, float],
    lora_rank: int | None,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> Run:
    """A run of one stage; what it starts from brings its parts and tokenizer, its decoders among them.

    The tower that decoders look at stays as it is.
    """
    like = FAMILIES[size]
    changed: dict[str, Any] = {}
    if start is not None:
        changed |= parts_of(start)
    if backbone is not None and says_its_shape(backbone):
        shape, mean_std = architecture(backbone)
        changed |= {"backbone": shape, **mean_std}
    if language is not None:
        changed["language"] = LanguageConfig(weights=language)
    points = points_in(data) if "keypoint" in units else COCO_POINTS
    style = RegionTokensConfig(style="published") if regions == "published" else RegionTokensConfig()
    pointing = PointingConfig(
        tower=like.tower, tower_size=like.tower_size, recall=like.recall, mask_size=like.mask_size
    )
    if changed.get("pointing") is not None:  # in whose tokens its language model writes
        pointing = changed["pointing"]
        grammar = grammar.model_copy(update={"spelling": pointing.grammar.spelling})
    made = {unit: decoder_of(unit, like.layers, groups=groups, points=points) for unit in units}
    pointing = pointing.model_copy(
        update={
            "grammar": grammar,
            "regions": None if regions == "off" else style,
            "decoders": {**pointing.decoders, **made},
        }
    )
    if pointing.tower is not None and pointing.decoders:
        trainable = (*trainable, Trainable(pattern="pointing.tower", mode="frozen"))
    evals = {}
    if val is not None:
        talk = conversations(val, root)
        evals["val"] = Eval(data=talk, metric=MeanLossConfig())
        evals["answers"] = Eval(data=talk, metric=GroundedConfig(limit=MOST_ASKED), at_end=True)
    return Run(
        recipe=name,
        streams={
            MAIN: Stream(
                task=InstructConfig.model_validate(dict(like.task) | changed | {"pointing": pointing}),
                data=conversations(data, root),
                start=start,
                batch=batch,
                pack=like.pack,
                loss_weights=loss_weights,
            )
        },
        evals=evals,
        init=backbone,
        trainable=(*trainable, *_adapted(lora_rank)),
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=0.0, betas=(0.9, 0.999)),
        schedule=Schedule(shape="cosine", warmup_steps=round(WARMUP * steps)),
        clip_norm=1.0,
        seed=seed,
        workers=like.workers,
        eval_every=max(1, steps // EVALS),
        save_every=max(1, min(500, steps // 4)),
    )


def _adapted(rank: int | None) -> tuple[Trainable, ...]:
    """Adapters inside of the language model; its tables learn in full, for the tokens that point are new in them."""
    if rank is None:
        return ()
    lora = Trainable(pattern="language", mode="lora", lora=Lora(rank=rank, alpha=2.0 * rank))
    return (lora, Trainable(pattern="language.model.embed_tokens"), Trainable(pattern="language.lm_head"))


def halved(units: tuple[Unit, ...]) -> dict[str, float]:
    """The published weights: what decoders learn counts half of what the language model does."""
    return {f"{unit}.*": 0.5 for unit in units}


def made_tiny(recipe: Callable[..., Run], **settings: Any) -> Run:
    """A recipe over conversations about a shipped scene, measured on the other; it hardly learns."""
    train, test = (_conversations(source, crops=16) for source in (trees().train, trees().test))
    run = recipe(data=train, val=test, size="small", steps=8, batch=4, **settings)
    small = InternVitConfig(
        width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=64, stem="conv", layer_scale=1.0
    )
    language = LanguageConfig(options=qwen(32, 1, 2, 1, 64), vocab_size=400, digits="merged")
    usual: Any = run.only.task
    layers = QueryLayersConfig(width=32, layers=1, heads=2, hidden=32, dropout=0.0)
    decoders = {unit: decoder_of(unit, layers, groups=True) for unit in usual.pointing.decoders}
    task = usual.model_copy(
        update={
            "backbone": small,
            "language": language,
            "tiling": Tiling(size=64, max_tiles=1),
            "max_new_tokens": 24,
            "pointing": usual.pointing.model_copy(update={"decoders": decoders}),
        }
    )
    return with_values(run, task=task, log_every=1)


def _conversations(source: Path, crops: int) -> Path:
    """Conversations that point, about random crops of a shipped scene."""
    folder = kept_by_content(lambda out: write_pointing(source, out, crops=crops, per_image=1, turns=2))
    return folder / "instructions.jsonl"
