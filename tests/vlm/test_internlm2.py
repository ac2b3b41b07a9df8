"""An InternLM2 read as a Llama, against the layout written out token by token and against a Llama itself."""

from __future__ import annotations

import json

import pytest
import torch
from public_folders import golden_weights, original_folder, task_of
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from toy_vlm import logits, sample
from transformers import LlamaConfig, LlamaForCausalLM

from vistruct.checkpoint.whole import load_whole
from vistruct.errors import UserError
from vistruct.vlm.internlm2 import to_llama

HEADS, KV, WIDTH = 6, 2, 48
HEAD = WIDTH // HEADS
LLM = {
    "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "attn_implementation": "eager", "bias": False,
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"}, "hidden_act": "silu", "hidden_size": WIDTH,
    "intermediate_size": 80, "max_position_embeddings": 64, "num_attention_heads": HEADS, "num_hidden_layers": 2,
    "num_key_value_heads": KV, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000, "tie_word_embeddings": False, "vocab_size": 300, "pretraining_tp": 1,
}  # fmt: skip


def project(x: Tensor, wqkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one token as the public description has them: key head by key head, its query heads in front."""
    fused, at = wqkv @ x, 0
    q, k, v = [], [], []
    for _ in range(KV):
        for _ in range(HEADS // KV):
            q.append(fused[at : at + HEAD])
            at += HEAD
        k.append(fused[at : at + HEAD])
        v.append(fused[at + HEAD : at + 2 * HEAD])
        at += 2 * HEAD
    assert at == len(fused)
    return torch.cat(q), torch.cat(k), torch.cat(v)


def test_split_matrix_gives_the_projections_of_the_fused_one():
    torch.manual_seed(0)
    wqkv, bias = torch.randn((HEADS + 2 * KV) * HEAD, WIDTH), torch.randn((HEADS + 2 * KV) * HEAD)
    front = "model.layers.0.attention.wqkv"
    state = to_llama({f"{front}.weight": wqkv, f"{front}.bias": bias}, HEADS, KV)
    x = torch.randn(WIDTH)
    with_bias = torch.cat([wqkv, bias[:, None]], dim=1)
    for part, plain, biased in zip(
        "qkv", project(x, wqkv), project(torch.cat([x, torch.ones(1)]), with_bias), strict=True
    ):
        own = f"model.layers.0.self_attn.{part}_proj"
        assert_close(state[f"{own}.weight"] @ x, plain)
        assert_close(state[f"{own}.weight"] @ x + state[f"{own}.bias"], biased)


def fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Llama's weights under InternLM2's names, row by row."""
    names = {
        "embed_tokens": "tok_embeddings", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm", "lm_head": "output",
    }  # fmt: skip
    out = {}
    for name, value in state.items():
        if "q_proj" in name:
            k, v = (state[name.replace("q_proj", f"{part}_proj")] for part in "kv")
            rows = []
            for head in range(KV):
                rows += [value[(head * HEADS // KV) * HEAD : ((head + 1) * HEADS // KV) * HEAD]]
                rows += [k[head * HEAD : (head + 1) * HEAD], v[head * HEAD : (head + 1) * HEAD]]
            out[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(rows)
        elif "k_proj" not in name and "v_proj" not in name:
            for theirs, internlm2 in names.items():
                name = name.replace(theirs, internlm2)
            out[name] = value
    return out


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=80, num_attention_heads=HEADS, num_key_value_heads=KV, vocab_size=300,
        num_hidden_layers=2, rms_norm_eps=1e-5, max_position_embeddings=64, tie_word_embeddings=False,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


def folder_of(llama: LlamaForCausalLM, folder):
    original_folder(folder, llm_config=LLM)
    vision = {k: v for k, v in golden_weights().items() if k.startswith("vision_model.")}
    torch.manual_seed(3)
    projector = {f"mlp1.{k}.{kind}": torch.randn(*shape) for k, kind, shape in (
        (0, "weight", (256,)), (0, "bias", (256,)), (1, "weight", (WIDTH, 256)), (1, "bias", (WIDTH,)),
        (3, "weight", (WIDTH, WIDTH)), (3, "bias", (WIDTH,)),
    )}  # fmt: skip
    language = {f"language_model.{k}": v.contiguous() for k, v in fused(llama.state_dict()).items()}
    save_file(vision | projector | language, folder / "model.safetensors")
    return folder


def test_a_folder_with_an_internlm2_computes_what_the_llama_does(tmp_path, llama):
    """With its dynamic positions: the row is longer than the positions that it was made for."""
    folder = folder_of(llama, tmp_path / "2b")
    task = task_of(folder, tmp_path / "assets")
    coverage = load_whole(task, folder)
    assert (coverage.missing, coverage.unexpected, coverage.resized) == ((), (), ())
    assert type(task.language) is LlamaForCausalLM
    batch = task.collator([sample(images=1, answer="yes no " * 40)])
    assert len(batch.input_ids) > 64
    with torch.no_grad():
        reading = task.read(batch)
        expected = llama(inputs_embeds=task.embed(batch, reading)[None]).logits[0]
        assert_close(logits(task, batch), expected, atol=1e-5, rtol=1e-5)


def test_heads_that_do_not_divide_the_matrix_are_refused():
    with pytest.raises(UserError, match="30 rows is not 4 query and 2 key heads"):
        to_llama({"model.layers.0.attention.wqkv.weight": torch.zeros(30, 8)}, 4, 2)


def test_a_tokenizer_that_needs_its_own_code_is_refused_by_that_word(tmp_path, llama):
    folder = folder_of(llama, tmp_path / "2b")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said |= {"tokenizer_class": "InternLM2Tokenizer", "auto_map": {"AutoTokenizer": ["own.InternLM2Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="running code that lies beside it") as caught:
        task_of(folder, tmp_path / "assets")
    assert "task.language.tokenizer" in caught.value.fix
    assert not (tmp_path / "ran").exists()
