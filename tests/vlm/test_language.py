"""Language models and tokenizers from folders: in float32, whole, and without running anybody's code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_vlm import QWEN, TEXTS, tokenizer
from transformers import PreTrainedTokenizerFast

from vistruct.errors import UserError
from vistruct.vlm.chat import ADDED_TOKENS, END, START
from vistruct.vlm.language import LanguageConfig, read_language, read_tokenizer, train_tokenizer


def folder_of(tmp_path: Path, dtype=torch.bfloat16, **options) -> Path:
    """A language model and a tokenizer as a public folder has them, without the added tokens."""
    config = LanguageConfig(options={**QWEN, "vocab_size": 0, **options})
    plain = train_tokenizer(iter(TEXTS), 300)
    core = json.loads(plain.backend_tokenizer.to_str())
    core["added_tokens"] = [t for t in core["added_tokens"] if t["content"] not in ADDED_TOKENS]
    vocabulary = {t: i for t, i in core["model"]["vocab"].items() if t not in ADDED_TOKENS}
    core["model"]["vocab"] = {t: number for number, t in enumerate(sorted(vocabulary, key=vocabulary.__getitem__))}
    for token in core["added_tokens"]:
        token["id"] = core["model"]["vocab"][token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token=END).save_pretrained(tmp_path)
    bare = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    torch.manual_seed(0)
    config.build(bare).to(dtype).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_in_bfloat16_trains_in_float32_with_rows_for_the_added_tokens(tmp_path):
    (tmp_path / "llm").mkdir()
    folder = folder_of(tmp_path / "llm")
    config = LanguageConfig(weights=folder)
    words = config.load_tokenizer(tmp_path, None)
    before = len(PreTrainedTokenizerFast.from_pretrained(folder))
    assert words.convert_tokens_to_ids(list(ADDED_TOKENS)) == list(range(before, before + 9))
    model = config.build(words)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight) == before + 9
    written = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight[:before], written.float())


def test_marks_of_the_chat_are_added_where_a_vocabulary_lacks_them(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({"yes": 0, "no": 1, "?": 2}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "plain")
    words = LanguageConfig(tokenizer=tmp_path / "plain").load_tokenizer(tmp_path, None)
    assert words.convert_tokens_to_ids([START, END, *ADDED_TOKENS]) == list(range(3, 14))
    model = LanguageConfig(options={**QWEN, "vocab_size": 3}).build(words)
    assert len(model.get_input_embeddings().weight) == 14


def test_a_single_tokenizer_file_is_read(tmp_path):
    tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = LanguageConfig(tokenizer=tmp_path / "tokenizer.json").load_tokenizer(tmp_path / "assets", None)
    assert words.get_vocab() == tokenizer().get_vocab()
    assert words.convert_tokens_to_ids(words.pad_token) == tokenizer().pad_token_id


def test_the_published_vocabulary_files_keep_the_numbers_of_added_tokens(tmp_path):
    """Vocabulary, merges and added tokens in files of their own, as the released 1B has them."""
    whole = tokenizer(300)
    whole.backend_tokenizer.model.save(str(tmp_path))
    added = ["<|endoftext|>", START, END, *ADDED_TOKENS]
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    plain = [t for t in sorted(vocabulary, key=vocabulary.__getitem__) if t not in added]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(plain)}))
    numbers = {t: len(plain) + i for i, t in enumerate(added)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(numbers))
    decoder = {str(i): {"content": t, "special": True, "normalized": False} for t, i in numbers.items()}
    said = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder, "eos_token": END}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.Y"}}))
    words = LanguageConfig(tokenizer=tmp_path).load_tokenizer(tmp_path / "assets", None)
    assert {t: words.convert_tokens_to_ids(t) for t in added} == numbers
    assert len(words) == len(plain) + len(added)


@pytest.mark.parametrize(
    ("model_type", "fix"), [("internlm2", "say llama"), ("qwen22", "qwen2"), ("clip_vision_model", "qwen2, llama")]
)
def test_unknown_language_models_are_refused_with_a_way_out(model_type, fix):
    with pytest.raises(UserError) as caught:
        LanguageConfig(model_type=model_type).build(tokenizer())
    assert fix in caught.value.fix


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UserError, match="no option 'hiden_size'") as caught:
        LanguageConfig(options={"hiden_size": 3}).build(tokenizer())
    assert "hidden_size" in caught.value.fix


def spoil_missing(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])


def spoil_type(folder: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"model_type": "mine", "auto_map": {"AutoConfig": "x.Y"}}))


def spoil_width(folder: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"hidden_size": 96}))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_missing, "up_proj"),
        (spoil_cut, "not read"),
        (spoil_type, "not read"),
        (spoil_width, "not read"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(tmp_path, spoil, what):
    folder = folder_of(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=what) as caught:
        LanguageConfig(weights=folder).build(tokenizer())
    assert caught.value.where == str(folder)


def test_no_tokenizer_is_three_lines(tmp_path):
    with pytest.raises(UserError, match="no tokenizer here"):
        LanguageConfig(tokenizer=tmp_path / "nowhere").load_tokenizer(tmp_path, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a tokenizer"):
        LanguageConfig(tokenizer=tmp_path / "empty").load_tokenizer(tmp_path, None)


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",), ("tokenizer_config.json", "special_tokens_map.json")])
def test_a_folder_without_a_tokenizer_says_which_files_one_is_made_of(tmp_path, left):
    """`transformers` makes an empty one of it, which writes every text as nothing."""
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    for file in tmp_path.iterdir():
        if file.name not in ("config.json", *left):
            file.unlink()
    with pytest.raises(UserError) as caught:
        read_tokenizer(tmp_path)
    assert "tokenizer.json" in caught.value.what
    assert "merges.txt" in caught.value.what
    assert "task.language.tokenizer=FOLDER" in caught.value.fix


def test_a_tokenizer_that_writes_nothing_is_none(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match="tokenizer"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("front", ["module.", "_orig_mod.", "base_model.model."])
def test_a_language_model_under_wrapped_names_is_the_model(tmp_path, front):
    torch.manual_seed(0)
    theirs = LanguageConfig(options=QWEN).build(tokenizer())
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({front + k: v for k, v in state.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = read_language(tmp_path).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_tokens_that_differ_by_case_alone_are_refused_before_anything_is_kept(tmp_path):
    with pytest.raises(UserError, match="<REF> and <ref> would be two tokens") as told:
        LanguageConfig(vocab_size=340).load_tokenizer(tmp_path, lambda: iter(TEXTS), ("<Task>", "<REF>"))
    assert told.value.fix == "--set task.pointing.grammar.spelling=ours"
    assert not list(tmp_path.iterdir())


def test_the_published_spelling_goes_with_the_vicuna_template(tmp_path):
    config = LanguageConfig(vocab_size=340)
    words = config.load_tokenizer(tmp_path, lambda: iter(TEXTS), ("<Task>", "<REF>"), "vicuna")
    assert {"<s>", "</s>", "<REF>"} <= set(words.get_added_vocab())
    assert words.eos_token == "</s>"
