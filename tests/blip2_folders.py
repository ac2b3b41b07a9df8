"""Small random BLIP-2 models in `transformers`' layout, and images to ask them about."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from vistruct.contracts import Form, Sample, Turn

WORDS = "question : short answer what is this ? a the red green boat dog cat tree on lake yes no two"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
SIZE = 28  # pixels, of 4 patches


def tokenizer_of(kind: Literal["opt", "t5"]) -> PreTrainedTokenizerFast:
    """Words, with a beginning as OPT's puts it, or an end as T5's."""
    core = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate((*SPECIAL, *WORDS.split()))}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    single = "<s> $A" if kind == "opt" else "$A </s>"
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 2)] if kind == "t5" else [("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def write_blip2(folder: Path, kind: Literal["opt", "t5"], *, depth: int = 2) -> Path:
    """A folder with weights, configuration and tokenizer; with weights large enough that images matter."""
    vocab = len(SPECIAL) + len(WORDS.split())
    if kind == "opt":
        text: Any = OPTConfig(
            vocab_size=vocab, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=160, word_embed_proj_dim=32, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
    else:
        text = T5Config(
            vocab_size=vocab, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=2,
            pad_token_id=1, eos_token_id=2, decoder_start_token_id=1, feed_forward_proj="gated-gelu",
        )  # fmt: skip
    vision = Blip2VisionConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=depth, num_attention_heads=2, image_size=SIZE,
        initializer_range=0.2,
    )  # fmt: skip
    queries = Blip2QFormerConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.2
    )
    config = Blip2Config(
        vision_config=vision, qformer_config=queries, text_config=text, num_query_tokens=3, image_token_index=4,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        model.query_tokens.normal_(0, 1)
    model.save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return folder


def asked(
    number: int, question: str, answer: str = "", *, others: tuple[str, ...] = (), form: Form | None = None
) -> Sample:
    """A question about the image of this number."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, 40, 52), dtype=torch.uint8, generator=generator)
    turns = [Turn(role="user", text=f"<image>\n{question}")]
    if answer:
        turns.append(Turn(role="assistant", text=answer, others=others, form=form))
    return Sample(id=f"q{number} {question}", image_id=str(number), seed=0, images=[image], turns=tuple(turns))
