"""ViTP: instruction pretraining of a vision backbone inside a vision-language model, under VRL.

Run:      vistruct instruct data/boxes.json --out out
          vistruct train vitp.pretrain --data out/instructions.jsonl --start InternVL2_5-1B --devices 8
          vistruct train vitp.pretrain --data out/instructions.jsonl --timm vit_small_patch14_reg4_dinov2 \
              --backbone dinov2_vits14_reg4_pretrain.pth      (any plain ViT of timm, its public weights continued)
          vistruct train vitp.pretrain --data out/instructions.jsonl --size small     (minutes on a CPU)
Needs:    published: 23 hours on 8 x A40 48 GB for the size 1b.
          size small: 2 CPU cores, a few minutes
Expect:   the published backbone gives 75.08 mAP50 on DIOR-R (`vitp.dior_r`)
Source:   Li et al., ViTP, arXiv:2509.17562, and its public training scripts: AdamW 2e-5, weight decay 0.01,
          8000 steps of 128 conversations, a fifth of them warm-up, cosine to 0, drop path 0.1, tiles of 448
          px, 12 at most, rows of 4096 tokens; InternVL2.5-1B, of which everything trains
Differs:  VRL as in the paper (every conversation loses 75 % of its visual tokens) and not as in the scripts (a
          quarter of them does): `--vrl published-code` gives those. Conversations are packed end to end and
          shared among devices by the work they are, not padded to 4096 tokens; one that is longer is cut, or
          counted and left out where that would lose an image, and not replaced by a random other one. Norms,
          biases and other vectors are not decayed. No activation checkpointing
          without `--recompute`. No system text is put in
          (`--set task.system=...`). Without `--start`, `--backbone` or `--language` that part has random
          weights (and the tokenizer is trained on the conversations): it then needs far more than 8000 steps.
          Size small is ours: a convolutional stem, 96 px tiles, every question asked for itself with the
          image behind it, answers hidden from each other, each counted once however long it is. Train it with
          `--freeze-backbone` for a while, then from there with `--start`: a language model that has not learned
          to look has nothing to teach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.layouts import MODELS, Architecture, instruct_config
from vistruct.checkpoint.load import is_ours, read_card, stopped_run
from vistruct.config import MAIN, AdamW, Eval, Lora, Pack, Part, Run, Schedule, Stream, Trainable, read_run, with_values
from vistruct.data.chat.mix import MixDataConfig
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.detect import detect_annotation
from vistruct.data.instructions.write import write_instructions
from vistruct.errors import UserError
from vistruct.metrics.answers import AnswersConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes.detect import architecture
from vistruct.recipes.named import says_its_shape
from vistruct.samples import trees
from vistruct.samples.made_scenes import kept_by_content
from vistruct.tasks.alignment import Alignment
from vistruct.tasks.instruct import InstructConfig
from vistruct.tasks.token_weights import TokenWeights
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.tiling import Tiling

WARMUP = 0.2  # of the steps
DROP_PATH = 0.1  # at the last block
EVALS = 8  # times that the loss on `val` is measured in a run
MOST_ASKED = 500  # conversations of `val` that are asked at the end: answers are generated token by token


class Size(Part):
    """What goes together: the model, how it is fed, and how it is trained by default."""

    task: InstructConfig
    steps: int
    batch: int
    pack: Pack | None = None
    lr: float
    backbone_lr_factor: float = 1.0
    workers: int


def qwen(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, theta: float = 1e6) -> dict[str, Any]:
    """Options of a `transformers` Qwen2 configuration; the rest is as in Qwen2.5."""
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": mlp, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta}, "tie_word_embeddings": False,
    }  # fmt: skip


def _published(name: str) -> Size:
    """A model of the public family with the published settings; its language model starts from random weights."""
    of = MODELS[name]
    options = {key: value for key, value in of.language.options.items() if key != "vocab_size"}  # the tokenizer's own
    language = of.language.model_copy(update={"options": options, "vocab_size": 8192})
    return Size(
        task=InstructConfig(
            backbone=of.backbone.model_copy(update={"drop_path": DROP_PATH}),
            language=language,
            tiling=Tiling(size=448, max_tiles=12),
            max_tokens=4096,
            max_new_tokens=256,
        ),
        steps=8000,
        batch=128,
        pack=Pack(tokens=8192, tiles=26),  # two conversations of 12 tiles and a thumbnail
        lr=2e-5,
        workers=4,
    )


SIZES = {
    "1b": _published("internvl2_5-1b"),
    "2b": _published("internvl2_5-2b"),
    "small": Size(
        task=InstructConfig(
            backbone=InternVitConfig(
                width=96,
                depth=3,
                heads=3,
                mlp_width=384,
                patch=8,
                image_size=96,
                stem="conv",
                positions="sincos",
                layer_scale=1.0,
            ),
            # Wide initial weights and short rotary waves: from random weights on, attention is sharp enough
            # to learn within a hundred steps where an answer is to be looked for.
            language=LanguageConfig(
                options=qwen(64, 2, 2, 2, 192, theta=100.0) | {"initializer_range": 0.1},
                vocab_size=600,
                digits="merged",
            ),
            tiling=Tiling(size=96, max_tiles=1),
            independent=True,
            image_last=True,
            answer_dropout=1.0,
            loss_reduction="sample",  # else most of the loss is maps, and what is told in a word is hardly learned
            max_new_tokens=128,  # a dozen boxes
        ),
        steps=600,
        batch=16,
        lr=2e-3,
        backbone_lr_factor=0.5,
        workers=0,
    ),
}


def recipe(
    *,
    data: Path,  # conversations: InternVL jsonl, LLaVA json, messages jsonl, or a mix file of many of those
    root: Path | None = None,  # folder that the image paths start from; None: that of the file
    val: Path | None = None,  # conversations to measure on, never trained on; None: nothing is measured
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: random, or that of `start`
    timm: str | None = None,  # name of a timm ViT in place of InternViT; `backbone` is then a file of its weights
    language: Path | None = None,  # folder of a causal language model as `transformers` saves it; None: likewise
    size: Literal["1b", "2b", "small"] = "1b",
    vrl: Literal["off", "paper", "published-code"] = "paper",
    token_weights: Literal["uniform", "prior"] = "uniform",  # prior: tokens that the text alone tells count less
    alignment: float = 0.0,  # weight of images aligned with their answers' words (CoMP: 0.05); 0: they are not
    start: Path | None = None,  # folder of a whole InternVL, or a run of this recipe, to go on from in its size
    freeze_backbone: bool = False,  # only projector and language model learn, as before a run with `start`
    lora_rank: int
    | None = None,  # of adapters on the language model, which is frozen beside them; None: all of it learns
    recompute: bool = False,  # keep no activations inside of blocks and find them again: less memory, more time
    steps: int | None = None,  # None: 8000, or 600 of small
    batch: int | None = None,  # conversations in a step, over all devices; None: 128, or 16 of small
    lr: float | None = None,  # None: 2e-5, or 2e-3 of small (half of that in the backbone)
    seed: int = 0,
) -> Run:
    """A backbone pretrained by answering about images."""
    like = SIZES[size]
    num_steps = like.steps if steps is None else steps
    changed: dict[str, Any] = {"vrl": vrl}
    if token_weights == "prior":
        changed["token_weights"] = TokenWeights()
    if alignment < 0:
        raise UserError("a weight below 0", where=f"--alignment {alignment:g}", fix="--alignment 0.05, or 0 for none")
    if alignment > 0:
        changed["alignment"] = Alignment()
    if start is not None and timm is not None:
        raise UserError("--start and --timm both name a backbone", where=f"--timm {timm}", fix="leave one of them out")
    if start is not None and (parts := parts_of(start)):
        changed |= {**parts, "backbone": parts["backbone"].model_copy(update={"drop_path": DROP_PATH})}
        changed.pop("pointing", None)  # words alone are learned here
    if timm is not None or (backbone is not None and says_its_shape(backbone)):
        shape, mean_std = architecture(backbone, timm)
        usual: Any = like.task.backbone
        changed |= {"backbone": shape.model_copy(update={"drop_path": usual.drop_path}), **mean_std}
    if language is not None:
        changed["language"] = LanguageConfig(weights=language)
    if recompute:
        parts = {name: changed.get(name) or vars(like.task)[name] for name in ("backbone", "language")}
        changed |= {name: part.model_copy(update={"recompute": True}) for name, part in parts.items()}
    evals = {}
    if val is not None:
        talk = conversations(val, root)
        evals["val"] = Eval(data=talk, metric=MeanLossConfig())
        evals["answers"] = Eval(data=talk, metric=AnswersConfig(limit=MOST_ASKED), at_end=True)
    return Run(
        recipe="vitp.pretrain",
        streams={
            MAIN: Stream(
                task=InstructConfig.model_validate(dict(like.task) | changed),
                data=conversations(data, root),
                start=start,
                batch=like.batch if batch is None else batch,
                pack=like.pack,
                loss_weights={"alignment": alignment} if alignment > 0 else {},
            )
        },
        evals=evals,
        init=backbone,
        trainable=(_trainable(like, freeze_backbone), *_adapted(lora_rank)),
        steps=num_steps,
        optim=AdamW(lr=like.lr if lr is None else lr, weight_decay=0.01, betas=(0.9, 0.999)),
        schedule=Schedule(shape="cosine", warmup_steps=round(WARMUP * num_steps)),
        clip_norm=1.0,
        seed=seed,
        workers=like.workers,
        eval_every=max(1, num_steps // EVALS),
        save_every=max(1, min(500, num_steps // 4)),
    )


def parts_of(start: Path) -> dict[str, Any]:
    """The parts of a whole model that is gone on from, in their sizes; empty: loading it says why there is none."""
    if start.is_file():
        return {}
    if not is_ours(start):
        return dict(instruct_config(start))
    if stopped_run(start):
        streams = read_run(start / "run.yaml").streams
        task, kept = (streams[MAIN].task if MAIN in streams else None), start / "model" / "tokenizer"
    elif (start / "model.json").is_file() or (start / "model" / "model.json").is_file():
        card = read_card(start)
        task, kept = card.task, card.path / "tokenizer"
    else:
        return {}
    if not isinstance(task, InstructConfig):
        return {}
    own = {name: vars(task)[name] for name in (*Architecture.model_fields, "projector_norm", "template", "pointing")}
    if kept.is_dir():
        own["language"] = task.language.model_copy(update={"tokenizer": kept})
    return own


def conversations(file: Path, root: Path | None) -> ChatDataConfig | MixDataConfig:
    """The data set that a file is: conversations, or a mix of several files of those."""
    if file.suffix != ".jsonl" and detect_annotation(file) == "mix":
        return MixDataConfig(mix=file, root=root)
    return ChatDataConfig(jsonl=file, root=root)


def _trainable(like: Size, freeze_backbone: bool) -> Trainable:
    if freeze_backbone:
        return Trainable(pattern="backbone", mode="frozen")
    return Trainable(pattern="backbone", lr_factor=like.backbone_lr_factor)


def _adapted(rank: int | None) -> tuple[Trainable, ...]:
    if rank is None:
        return ()
    return (Trainable(pattern="language", mode="lora", lora=Lora(rank=rank, alpha=2.0 * rank)),)


def tiny() -> Run:
    """A few steps on conversations about one of the shipped scenes, measured on the other; it hardly learns."""
    train, test = (_conversations(source, crops=24) for source in (trees().train, trees().test))
    run = recipe(data=train, val=test, size="small", steps=12, batch=8)
    small = InternVitConfig(
        width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=64, stem="conv", layer_scale=1.0
    )
    language = LanguageConfig(options=qwen(32, 1, 2, 1, 64), vocab_size=400, digits="merged")
    usual: Any = run.only.task
    task = usual.model_copy(
        update={
            "backbone": small,
            "language": language,
            "tiling": Tiling(size=64, max_tiles=1),
            "max_new_tokens": 16,
        }
    )
    return with_values(run, task=task, log_every=1)


def _conversations(source: Path, crops: int) -> Path:
    """Conversations about random crops of a shipped scene."""
    folder = kept_by_content(lambda out: write_instructions(source, out, crops=crops, questions=4))
    return folder / "instructions.jsonl"
