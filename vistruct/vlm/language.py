"""The language side: any causal language model of `transformers`, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from vistruct.config import Part
from vistruct.errors import UserError
from vistruct.vlm.chat import ADDED_TOKENS, END, START

PAD = "<|endoftext|>"


class LanguageConfig(Part):
    """A causal language model made from a `transformers` configuration, with random or given weights."""

    model_type: str = "qwen2"  # of `transformers`' causal language models
    options: dict[str, Any] = Field(default_factory=dict)  # of that model's configuration
    weights: Path | None = None  # a local folder in `transformers`' layout; it brings its own configuration
    tokenizer: Path | None = None  # a local folder or tokenizer.json; None: the weights' own, or train one
    vocab_size: int = Field(1024, ge=300)  # of a tokenizer that is trained here, added tokens included
    digits: Literal["single", "merged"] = "single"  # merged: a trained tokenizer may learn whole numbers

    def load_tokenizer(self, assets: Path, corpus: Any) -> PreTrainedTokenizerFast:
        """The tokenizer in `assets` if there is one (a resumed or shipped model), else the given or a trained one.

        Raises:
            UserError: nothing to load and no corpus to train on.
        """
        kept = assets / "tokenizer"
        source = self.tokenizer or self.weights
        if kept.is_dir():
            loaded: Any = AutoTokenizer.from_pretrained(kept, local_files_only=True)
            return loaded
        if source is not None:
            tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
            tokenizer.add_tokens(list(ADDED_TOKENS), special_tokens=True)
        elif corpus is not None:
            tokenizer = train_tokenizer(corpus(), self.vocab_size, self.digits)
        else:
            raise UserError("no tokenizer and no texts to train one on", where=kept, fix="set task.language.tokenizer")
        tokenizer.save_pretrained(kept)
        return tokenizer

    def build(self, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """The model, its embedding table as large as the tokenizer asks."""
        if self.weights is not None:
            model = AutoModelForCausalLM.from_pretrained(self.weights, local_files_only=True)
            model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
            return model
        known = AutoConfig.for_model(self.model_type).to_dict()
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise UserError(f"{self.model_type} has no option {unknown[0]!r}", fix=f"known: {', '.join(sorted(known))}")
        config = AutoConfig.for_model(
            self.model_type, **{"vocab_size": len(tokenizer), "tie_word_embeddings": False, **self.options}
        )
        # the published Qwen configurations carry these ids of another vocabulary
        config.pad_token_id = tokenizer.convert_tokens_to_ids(PAD) if PAD in tokenizer.get_vocab() else None
        config.bos_token_id = None
        config.eos_token_id = tokenizer.convert_tokens_to_ids(END)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def train_tokenizer(
    texts: Iterator[str], vocab_size: int, digits: Literal["single", "merged"] = "single"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with ChatML's marks and InternVL's added tokens, trained on `texts`.

    Byte-level means that any text can be written, whatever the corpus was.
    """
    number = r"\p{N}" if digits == "single" else r"\p{N}{1,3}"
    words = Regex(rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+|\s+")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END, *ADDED_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END)
