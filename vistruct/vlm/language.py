"""The language side: any causal language model of `transformers`, and its tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from vistruct.config import Part
from vistruct.errors import UserError, closest
from vistruct.vlm import internlm2
from vistruct.vlm.chat import END
from vistruct.vlm.grammar import refuse_twins
from vistruct.vlm.quantised import refuse_quantised_folder
from vistruct.vlm.templates import TEMPLATES, Template, TemplateName

PAD = "<|endoftext|>"
_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.txt")
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # of which both are needed
# What wrappers put before all names of a model's tensors, or before a part of them.
_WRAPPED = r"^(module\.|_orig_mod\.|base_model\.model\.)+"
_PROBE = "What is in this image? Three ships, [1, 20]."


class LanguageConfig(Part):
    """A causal language model made from a `transformers` configuration, with random or given weights."""

    model_type: str = "qwen2"  # of `transformers`' causal language models
    options: dict[str, Any] = Field(default_factory=dict)  # of that model's configuration
    weights: Path | None = None  # a local folder in `transformers`' layout; it brings its own configuration
    tokenizer: Path | None = None  # a local folder or tokenizer.json; None: the weights' own, or train one
    vocab_size: int = Field(1024, ge=300)  # of a tokenizer that is trained here, added tokens included
    digits: Literal["single", "merged"] = "single"  # merged: a trained tokenizer may learn whole numbers
    recompute: bool = False  # keep no activations inside of layers and find them again: less memory, a third more time

    def load_tokenizer(
        self, assets: Path, corpus: Any, more: Sequence[str] = (), template: TemplateName = "chatml"
    ) -> PreTrainedTokenizerFast:
        """The tokenizer in `assets` if there is one (a resumed or shipped model), else the given or a trained one.

        Args:
            more: tokens that it must have, beside those of the template.
            template: that conversations are written in.

        Raises:
            UserError: nothing to load and no corpus to train on; a tokenizer that needs code of its own; tokens that
                differ by case alone.
        """
        kept = assets / "tokenizer"
        source = self.tokenizer or self.weights
        if kept.is_dir():
            tokenizer = read_tokenizer(kept)
            _add_tokens(tokenizer, more)  # of a model that did not point before
            return tokenizer
        if source is not None:
            tokenizer = read_tokenizer(source)
            # Those it has already keep their numbers; the others come behind, in the public order.
            _add_tokens(tokenizer, [*TEMPLATES[template].tokens, *more])
        elif corpus is not None:
            tokenizer = train_tokenizer(corpus(), self.vocab_size, self.digits, TEMPLATES[template])
            _add_tokens(tokenizer, more)
        else:
            raise UserError(
                "no tokenizer and no texts to train one on", where=kept, fix="--set task.language.tokenizer=FOLDER"
            )
        partial = kept.with_name(".tokenizer.partial")  # a kill in the middle leaves nothing that would be read
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save_pretrained(partial)
        partial.rename(kept)
        return tokenizer

    def build(self, tokenizer: PreTrainedTokenizerFast, template: TemplateName = "chatml") -> nn.Module:
        """The model in float32, its embedding table as large as the tokenizer asks, or larger.

        Raises:
            UserError: weights that cannot be read or are not all there; an unknown model or option.
        """
        model = self._model(tokenizer, TEMPLATES[template].end)
        # `transformers` keeps the padding token's row at zero and from ever learning; here it may stand for what an
        # answer hides (`Instruct.hidden_token`).
        model.get_input_embeddings().padding_idx = None
        if self.recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def _model(self, tokenizer: PreTrainedTokenizerFast, end: str) -> Any:
        rows = 1 + max(tokenizer.get_vocab().values())
        if self.weights is not None:
            model = read_language(self.weights)
            if rows > model.config.vocab_size:
                model.resize_token_embeddings(rows)
            return model
        known = known_options(self.model_type)
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise UserError(f"{self.model_type} has no option {unknown[0]!r}", fix=closest(unknown[0], known))
        config = AutoConfig.for_model(
            self.model_type,
            **{
                "tie_word_embeddings": False,
                **self.options,
                "vocab_size": max(rows, self.options.get("vocab_size", 0)),
                # The public configurations carry these of vocabularies before the added tokens.
                "pad_token_id": tokenizer.convert_tokens_to_ids(PAD) if PAD in tokenizer.get_vocab() else None,
                "bos_token_id": None,
                "eos_token_id": tokenizer.convert_tokens_to_ids(end),
            },
        )
        try:
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        except ValueError as error:  # such as attention that torch's own cannot do
            what = f"{self.model_type} is not carried here: {str(error).splitlines()[0][:200]}"
            raise UserError(what, fix="--set task.language.model_type=qwen2, or another") from error


def _add_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> None:
    refuse_twins(tokens, tokenizer.get_added_vocab())
    tokenizer.add_tokens(list(tokens), special_tokens=True)


def known_options(model_type: str) -> dict[str, Any]:
    """The options of a causal language model of `transformers`, with its defaults.

    Raises:
        UserError: no causal language model of this name.
    """
    if model_type == internlm2.MODEL_TYPE:
        fix = "say llama: an InternLM2 is one, and its weights are read as such from a whole InternVL (`start`)"
        raise UserError("`transformers` does not carry internlm2", fix=fix)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        fix = closest(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise UserError(
            f"no causal language model of type {model_type!r} in `transformers`",
            fix=fix if len(fix) < 200 else "such as qwen2, llama, mistral",
        )
    return AutoConfig.for_model(model_type).to_dict()


def read_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder or a tokenizer.json; never by running code that lies beside it.

    Raises:
        UserError: nothing there, not a tokenizer, or one that needs such code.
    """
    if not source.exists():
        raise UserError(
            "no tokenizer here", where=source, fix="--set task.language.tokenizer=FOLDER, one that is there"
        )
    if source.is_dir() and not _has_tokenizer(source):
        raise UserError(
            "not a tokenizer: one is tokenizer.json, or vocab.json with merges.txt, or tokenizer.model, and this "
            "folder has none of these",
            where=source,
            fix="copy these from where the model came from, or give a folder that has them: "
            "--set task.language.tokenizer=FOLDER",
        )
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of a model beside it whose type it does not know
    loaded: Any
    try:
        if source.is_file():
            loaded = PreTrainedTokenizerFast(tokenizer_file=str(source), pad_token=PAD, eos_token=END)
        else:
            loaded = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            what = "this tokenizer only works by running code that lies beside it, which is never done here"
        else:
            what = f"not a tokenizer: {str(error).strip().splitlines()[0]}"
        fix = "convert it once to a tokenizer.json and give that folder with --set task.language.tokenizer=FOLDER"
        raise UserError(what, where=source, fix=fix) from error
    finally:
        logging.set_verbosity(said)
    tokenizer: Any = loaded
    written = set(tokenizer.encode(_PROBE, add_special_tokens=False)) - {tokenizer.unk_token_id}
    if not written:
        what = f"this tokenizer writes every text as nothing, with its {len(tokenizer)} tokens"
        raise UserError(what, where=source, fix="copy all of its files again, or --set task.language.tokenizer=FOLDER")
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    there = {path.name for path in folder.iterdir()}
    # Some families have code of their own for it, which is never run here: that is said of them later.
    config = folder / "tokenizer_config.json"
    own = config.is_file() and b'"auto_map"' in config.read_bytes()
    return own or bool(there & set(_FILES)) or any(there >= set(pair) for pair in _PAIRS)


def read_language(folder: Path) -> Any:
    """A causal language model in `transformers`' layout, in float32 whatever the file holds.

    Raises:
        UserError: nothing there, an unknown architecture, damaged files, tensors that are missing or of other shapes.
    """
    fix = "give a folder with config.json and safetensors files of one of `transformers`' causal language models"
    if not (folder / "config.json").is_file():
        raise UserError("no config.json here", where=folder, fix=fix)
    refuse_quantised_folder(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            key_mapping={_WRAPPED: ""},
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"not read: {str(error).strip().splitlines()[0]}", where=folder, fix=fix) from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        what = f"{len(missing)} of the language model's tensors are not there: {', '.join(missing[:3])}"
        raise UserError(what, where=folder, fix="copy or download the folder again")
    return model


def train_tokenizer(
    texts: Iterator[str],
    vocab_size: int,
    digits: Literal["single", "merged"] = "single",
    template: Template = TEMPLATES["chatml"],
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the tokens of a template, trained on `texts`.

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
        special_tokens=[PAD, *template.tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=template.end)
