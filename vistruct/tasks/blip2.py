"""A frozen language model asked about images in the layout of BLIP-2: what does a backbone, or its adapter, let it see?

Source: BLIP-2, Li et al., arXiv:2301.12597, as `transformers` has it (Blip2ForConditionalGeneration), with the prompts
    and the search of LAVIS' public evaluations.
Differs: lengths are of new tokens alone (LAVIS counts the start of T5's decoder, and OPT's prompt, among the least);
    an image is seen once for all the questions of a batch that are about it.
Shapes: B questions about U images, Q query tokens, L tokens of the longest prompt, D width of the language model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF
from transformers import GenerationConfig

from vistruct.config import Part
from vistruct.contracts import (
    IMAGE_MARK,
    AnswerPrediction,
    Backbone,
    DataInfo,
    Form,
    Ratio,
    Sample,
    StepOutput,
    TaskTraits,
    TokenBackbone,
    Turn,
)
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart
from vistruct.tasks.features import backbone_for
from vistruct.vlm.blip2_folder import read_blip2
from vistruct.vlm.tiling import normalise

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IGNORE = -100  # torch's cross-entropy leaves these labels out


class Search(Part):
    """How a text is sought: the likeliest by beam search."""

    prompt: str = ""  # what is read before it, with {} for the question
    beams: int = Field(5, gt=0)
    least: int = Field(1, ge=0)  # new tokens
    most: int = Field(10, gt=0)  # new tokens
    length_penalty: float | None = None  # power of the length that a sum of log probabilities is divided by

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least={self.least} is above most={self.most}")
        return self


class VisionLanguageConfig(Part):
    """A BLIP-2 and how it is asked; nothing of it is trained."""

    kind: Literal["vision_language"] = "vision_language"
    weights: Path  # folder in `transformers`' layout, of the OPT or of the T5 kind
    backbone: BackbonePart | None = (
        None  # in the place of its vision tower, with that tower's weights; None: that tower
    )
    size: int = Field(224, gt=0)  # pixels, both sides of what an image is resized to
    mean: tuple[float, float, float] = CLIP_MEAN  # of pixels in [0, 1]
    std: tuple[float, float, float] = CLIP_STD
    # None: with -1 where the language model is a T5, with 0 where it is not, as LAVIS answers questions
    question: Search = Search(prompt="Question: {} Short answer:")
    caption: Search = Search(least=10, most=80, length_penalty=1.0)  # of questions whose answers are descriptions
    max_new_tokens: int | None = Field(None, gt=0)  # of any answer; None: as the searches say
    # Of the language model; auto: on a GPU bf16 of a T5 and fp16 of an OPT. The tower stays in float32.
    dtype: Literal["auto", "float32", "fp16", "bf16"] = "auto"

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> VisionLanguage:
        """Build with the weights and the tokenizer of the folder; `info` and `assets` are not looked at."""
        return VisionLanguage(self, backbone)


@dataclass(kw_only=True)
class AskedBatch:
    """Questions and the images that they are about, each once."""

    ids: list[str]  # of the samples
    image_ids: list[str]  # of the samples
    owners: list[int]  # of each question, its sample
    images: Tensor  # uint8[U, 3, S, S]
    mentions: Tensor  # int64[B], which image each question is about
    questions: list[str]
    families: list[str]
    answers: list[Turn]  # the truth of each; without text where there is none

    def to(self, device: torch.device) -> Self:
        return dataclasses.replace(self, images=self.images.to(device), mentions=self.mentions.to(device))


@dataclass(frozen=True, kw_only=True)
class AskedCollator:
    """Samples -> AskedBatch, a row for each question; those whose answer nobody vouches for are left out."""

    size: int

    def __call__(self, samples: Sequence[Sample]) -> AskedBatch:
        """
        Raises:
            UserError: several images, or none; an image of another type than 8-bit colours; a question that needs the
                answers before it.
        """
        places: dict[str, int] = {}
        images: list[Tensor] = []
        rows: list[tuple[int, str, str, Turn]] = []
        for number, sample in enumerate(samples):
            if len(sample.images) != 1 or sample.images[0].dtype != torch.uint8 or sample.images[0].shape[0] != 3:
                what = f"{len(sample.images)} images: BLIP-2 is asked about one, of 8-bit colours"
                raise UserError(what, where=sample.id, fix="ask a model of vitp.pretrain about several")
            if sample.image_id not in places:
                places[sample.image_id] = len(images)
                images.append(TF.resize(sample.images[0], [self.size] * 2, TF.InterpolationMode.BICUBIC))
            rows += [(number, *asked) for asked in _asked(sample)]
        return AskedBatch(
            ids=[samples[number].id for number, *_ in rows],
            image_ids=[samples[number].image_id for number, *_ in rows],
            owners=[number for number, *_ in rows],
            images=torch.stack(images),
            mentions=torch.tensor([places[samples[number].image_id] for number, *_ in rows]),
            questions=[question for _, question, _, _ in rows],
            families=[family for _, _, family, _ in rows],
            answers=[answer for *_, answer in rows],
        )


def _asked(sample: Sample) -> list[tuple[str, str, Turn]]:
    """Question, family and answer; each question is asked alone, as if no other had been."""
    found: list[tuple[str, str, Turn]] = []
    answered = 0
    turns = [turn for turn in sample.turns if turn.role != "system"]
    for place, turn in enumerate(turns):
        if turn.role == "user":
            after = turns[place + 1] if place + 1 < len(turns) else Turn(role="assistant", text="")
            family = sample.families[answered] if answered < len(sample.families) else ""
            answered += place + 1 < len(turns)
            question = turn.text.replace(IMAGE_MARK, "").strip()
            found += [(question, family, after)] if after.is_taught else []
    return found


class VisionLanguage(nn.Module):
    """Vision tower, Q-Former, projection and language model, all frozen; answers by beam search."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: VisionLanguageConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.model, self.tokenizer = read_blip2(config.weights, DTYPES[config.dtype])
        self.backbone = _in_place_of_tower(config, self.model, backbone)
        language = self.model.language_model
        self.is_encoder_decoder = bool(language.config.is_encoder_decoder)
        self.model.requires_grad_(False)
        self.register_buffer("pixel_mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="answers", terms=("answers",))

    @property
    def collator(self) -> AskedCollator:
        """For being asked, and for the loss of the true answers."""
        return AskedCollator(size=self.config.size)

    def see(self, images: Tensor) -> Tensor:
        """uint8[U, 3, S, S] -> float[U, Q, D], what the language model reads of each image."""
        pixels, model = normalise(images, self.pixel_mean, self.pixel_std), self.model
        if self.backbone is None:
            seen = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        else:
            seen = model.vision_model.post_layernorm(self.backbone.tokens(pixels).before_norm)
        queries = model.query_tokens.expand(len(images), -1, -1)
        told = model.qformer(query_embeds=queries, encoder_hidden_states=seen, return_dict=True).last_hidden_state
        return model.language_projection(told.to(model.language_projection.weight.dtype))

    def read(self, seen: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """float[B, Q, D] and texts -> float[B, Q + L, D] and int64[B, Q + L], 1 where something is read.

        Padding stands outside: before the images where the language model writes on, behind the texts where it reads
        all before it writes.
        """
        rows = [self.tokenizer(text).input_ids for text in prompts]
        embed, longest = self.model.language_model.get_input_embeddings(), max(map(len, rows))
        embeddings, masks = [], []
        for image, ids in zip(seen, rows, strict=True):
            gap = longest - len(ids)
            sides = (0, gap) if self.is_encoder_decoder else (gap, 0)
            text = embed(torch.tensor(ids, dtype=torch.int64, device=seen.device)).to(seen.dtype)
            row = torch.cat([image, text])
            embeddings.append(F.pad(row, (0, 0, *sides)))
            masks.append(F.pad(torch.ones(len(row), dtype=torch.int64, device=seen.device), sides))
        return torch.stack(embeddings), torch.stack(masks)

    @torch.inference_mode()
    def predict(self, batch: AskedBatch) -> list[AnswerPrediction]:
        """The likeliest text for each question, by the search for its form."""
        seen = self.see(batch.images)[batch.mentions]
        said: dict[int, str] = {}
        for form in dict.fromkeys(turn.form == "caption" for turn in batch.answers):
            rows = [row for row, turn in enumerate(batch.answers) if (turn.form == "caption") == form]
            search = self.config.caption if form else self.config.question
            prompts = [search.prompt.format(batch.questions[row]) for row in rows]
            said |= dict(zip(rows, self._write(seen[rows], prompts, search), strict=True))
        return [
            AnswerPrediction(
                id=batch.ids[row],
                image_id=batch.image_ids[row],
                question=batch.questions[row],
                answer=said[row],
                truth=truth.text,
                family=batch.families[row],
                others=truth.others,
                form=truth.form,
            )
            for row, truth in enumerate(batch.answers)
        ]

    def _write(self, seen: Tensor, prompts: Sequence[str], search: Search) -> list[str]:
        embeddings, mask = self.read(seen, prompts)
        language = self.model.language_model
        own: Any = language.generation_config  # which also says how its maker samples; of that only its tokens count
        penalty = search.length_penalty
        if penalty is None:
            penalty = -1.0 if self.is_encoder_decoder else 0.0
        most = self.config.max_new_tokens or search.most
        told = GenerationConfig(
            num_beams=search.beams,
            do_sample=False,
            min_new_tokens=min(search.least, most),
            max_new_tokens=most,
            length_penalty=penalty,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        language.generation_config = told
        try:
            out = language.generate(inputs_embeds=embeddings, attention_mask=mask, synced_gpus=False)
        finally:
            language.generation_config = own
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def forward(self, batch: AskedBatch) -> StepOutput:
        """Next-token cross-entropy of the true answers: how likely the language model finds them, having seen this."""
        rows, labels = self._answers(batch)
        if not rows:
            return StepOutput(terms={"answers": self.pixel_mean.new_zeros(())})
        seen = self.see(batch.images)[batch.mentions][rows]
        prompts = [self._search(batch.answers[row].form).prompt.format(batch.questions[row]) for row in rows]
        embeddings, mask = self.read(seen, prompts)
        target = torch.full((len(rows), max(map(len, labels))), IGNORE, device=seen.device)
        for row, ids in enumerate(labels):
            target[row, : len(ids)] = torch.tensor(ids, device=seen.device)
        language = self.model.language_model
        if self.is_encoder_decoder:
            out = language(inputs_embeds=embeddings, attention_mask=mask, labels=target).logits
        else:
            known = target.clamp(min=0)
            tail = language.get_input_embeddings()(known).to(embeddings.dtype)
            whole = torch.cat([mask, (target != IGNORE).long()], 1)
            out = language(inputs_embeds=torch.cat([embeddings, tail], 1), attention_mask=whole).logits
            out = out[:, -target.shape[1] - 1 : -1]
        total = F.cross_entropy(out.float().flatten(0, 1), target.flatten(), reduction="sum", ignore_index=IGNORE)
        right = ((out.argmax(-1) == target) & (target != IGNORE)).sum()
        count = int((target != IGNORE).sum())
        return StepOutput(terms={"answers": total}, metrics={"token_accuracy": Ratio(total=right, count=count)})

    def units(self, batch: AskedBatch) -> dict[str, float]:
        """Tokens of answers, their ends included."""
        return {"answers": float(sum(map(len, self._answers(batch)[1])))}

    def _answers(self, batch: AskedBatch) -> tuple[list[int], list[list[int]]]:
        """The questions that have an answer, and its tokens with the end."""
        rows = [row for row, turn in enumerate(batch.answers) if turn.text]
        end: Any = self.model.language_model.generation_config.eos_token_id
        ends = [end] if isinstance(end, int) else list(end)[:1]
        space = "" if self.is_encoder_decoder else " "
        texts = [f"{space}{batch.answers[row].text}" for row in rows]
        return rows, [[*self.tokenizer(text, add_special_tokens=False).input_ids, *ends] for text in texts]

    def _search(self, form: Form | None) -> Search:
        return self.config.caption if form == "caption" else self.config.question


DTYPES = {"auto": None, "float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def _in_place_of_tower(config: VisionLanguageConfig, model: Any, shared: Backbone | None) -> TokenBackbone | None:
    """A backbone of ours with the weights of the folder's vision tower, which is given up; None: that tower stays.

    Raises:
        UserError: a backbone without tokens, or one that is not of the tower's shape to the last tensor.
    """
    if config.backbone is None:
        return None
    backbone = backbone_for(config.backbone, 3, shared)
    if not isinstance(backbone, TokenBackbone):
        what = f"a backbone of kind {config.backbone.kind} gives no tokens for a language model"
        raise UserError(what, where="task.backbone", fix="use kind eva_vit, or leave task.backbone out")
    tower = model.vision_model
    state = {name: value for name, value in tower.state_dict().items() if not name.startswith("post_layernorm.")}
    state = backbone.traits.convert_keys(state)
    own = backbone.state_dict()
    others = [
        name
        for name in {**own, **state}
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if others:
        what = f"this backbone is not the tower of the folder: {len(others)} tensors differ, such as {others[0]}"
        fix = "give it the sizes of vision_config in config.json, class_token=true and final_norm=false"
        raise UserError(what, where=config.weights, fix=fix)
    backbone.load_state_dict(state)
    model.vision_model = nn.ModuleDict({"post_layernorm": tower.post_layernorm})
    return backbone
