"""Text towers of CLIP models, and what reads words for them: a text becomes one vector beside an image's.

Source: `open_clip` (EVA-CLIP's towers among its configurations) and `transformers`; both are used as they are.
Shapes: N texts -> tokens int64[N, L] -> float[N, E].
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.errors import UserError

TOKENIZER = "text_tokenizer"  # folder beside a model's weights


class TextConfig(Part):
    """A text tower as its library describes it."""

    library: Literal["open_clip", "transformers"] = "open_clip"
    options: dict[str, Any] = Field({})  # `text_cfg` of open_clip; or `text_config` of transformers, with its kind
    width: int = 512  # of the vector (embed_dim)
    quick_gelu: bool = False  # open_clip's alone
    tokenizer: Path | None = None  # folder of one, copied into the model; None: CLIP's own, which open_clip brings

    def build(self, assets: Path) -> TextTower:
        """With random weights, and the tokenizer that lies in `assets` or is put there.

        Raises:
            UserError: the library is not installed; options that it does not take; no tokenizer.
        """
        return TextTower(self, self._tokenizer(assets))

    def _tokenizer(self, assets: Path) -> Tokenizer:
        if self.library == "open_clip" and not self.options.get("hf_tokenizer_name"):
            return Tokenizer(read=open_clip().SimpleTokenizer(context_length=self.length), length=self.length)
        folder = assets / TOKENIZER
        if not folder.is_dir():
            if self.tokenizer is None or not self.tokenizer.is_dir():
                what = "this text tower has a tokenizer of its own, and none is there"
                fix = "give its folder: --set task.clip.text.tokenizer=FOLDER"
                raise UserError(what, where=self.tokenizer or "task.clip.text.tokenizer", fix=fix)
            _copy_tokenizer(self.tokenizer, folder)
        return Tokenizer(read=_read_tokenizer(folder, self), length=self.length)

    @property
    def length(self) -> int:
        """Tokens of a text at most, those of its beginning and end among them."""
        return int(self.options.get("context_length", self.options.get("max_position_embeddings", 77)))


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Texts -> int64[N, L]; longer ones are cut. Holds no weights, so that it travels to worker processes."""

    read: Any  # of open_clip, or of transformers
    length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, self.length, dtype=torch.int64)
        found = self.read(list(texts), **self._settings())
        return found if isinstance(found, Tensor) else torch.tensor(found["input_ids"])

    def is_cut(self, text: str) -> bool:
        """Whether the end of a text is not read."""
        encode: Any = self.read.encode if _is_simple(self.read) else None
        if encode is not None:
            return len(encode(text)) + 2 > self.length  # a beginning and an end
        whole: Any = self.read.tokenizer if _is_wrapped(self.read) else self.read
        return len(whole(text)["input_ids"]) > self.length

    def _settings(self) -> dict[str, Any]:
        if _is_simple(self.read) or _is_wrapped(self.read):
            return {}
        return {"padding": "max_length", "truncation": True, "max_length": self.length}


class TextTower(nn.Module):
    """int64[N, L] -> float[N, E], not normalised."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.model: Any = _open_clip(config) if config.library == "open_clip" else _transformers(config)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.model(tokens)
        if isinstance(found, Tensor):
            return found
        return found.text_embeds if self.config.options["model_type"] == "clip_text_model" else found.pooler_output


def open_clip() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import open_clip as library  # seconds to import
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise
        what = "text towers of CLIP are built by open_clip, which is not installed"
        raise UserError(what, where="task.clip.text", fix="uv pip install 'vistruct[clip]'") from None
    return library


def _open_clip(config: TextConfig) -> nn.Module:
    """Of a whole model with the smallest image tower that there is: the library's own way from options to a tower."""
    options = config.options
    if options.get("hf_model_name"):
        what = f"a text tower that is itself a model of another library ({options['hf_model_name']})"
        fix = "use a CLIP whose text tower is open_clip's own, as those of EVA-CLIP are"
        raise UserError(what, where="task.clip.text.options", fix=fix)
    smallest = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
    library = open_clip()
    try:
        model = library.CustomTextCLIP(config.width, smallest, options, quick_gelu=config.quick_gelu)
    except TypeError as error:
        fix = "options are those of `text_cfg` in open_clip's configuration of the model"
        raise UserError(str(error), where="task.clip.text.options", fix=fix) from error
    return model.text


def _transformers(config: TextConfig) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, SiglipTextConfig, SiglipTextModel

    options = {name: value for name, value in config.options.items() if name != "model_type"}
    kind = config.options.get("model_type")
    if kind == "clip_text_model":
        return CLIPTextModelWithProjection(CLIPTextConfig(**options))
    if kind == "siglip_text_model":
        return SiglipTextModel(SiglipTextConfig(**options))
    fix = "use one of clip_text_model, siglip_text_model"
    raise UserError(f"a text tower of model_type {kind!r}", where="task.clip.text.options", fix=fix)


def _read_tokenizer(folder: Path, config: TextConfig) -> Any:
    """
    Raises:
        UserError: no tokenizer that `transformers` can read without the network.
    """
    from transformers import AutoTokenizer

    try:
        if config.library == "open_clip":
            told = {"clean": "whitespace"} | (config.options.get("tokenizer_kwargs") or {})
            return open_clip().HFTokenizer(str(folder), context_length=config.length, local_files_only=True, **told)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        what = f"no tokenizer can be read: {str(error).splitlines()[0]}"
        fix = "copy the folder again, with tokenizer.json and tokenizer_config.json"
        raise UserError(what, where=folder, fix=fix) from error


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """What is text there: weights and pictures stay where they are."""
    folder.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".txt", ".model", ".jinja") and not file.name.endswith(".index.json"):
            shutil.copy2(file, folder / file.name)


def _is_simple(read: Any) -> bool:
    return type(read).__name__ == "SimpleTokenizer"


def _is_wrapped(read: Any) -> bool:
    return type(read).__name__ == "HFTokenizer"
