"""Packed rows against each conversation alone: attention by its formula, models by `transformers`, and all losses."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from toy_vlm import assorted, build, configure, gradients, logits, losses, sample
from transformers import AutoConfig, AutoModelForCausalLM
from whole_loss import task_loss

from vistruct.errors import UserError
from vistruct.vlm import packed
from vistruct.vlm.vrl import Vrl

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
WINDOW = 16
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "llama": {"num_key_value_heads": 4},
    "mistral": {"sliding_window": WINDOW},
    "qwen2 with a window": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "one key head": {"num_key_value_heads": 1},
    "qwen3": {},
}
LENGTHS = {
    "one token": [1],
    "tokens": [1, 1, 1],
    "mixed": [5, 3, 1, 300, 2, 17],
    "around the border": [257, 256, 255, 258],
    "many short ones": [1 + at * 7 % 13 for at in range(60)],
    "already in order": [2, 40, 100],
}


def models(name: str) -> tuple[Any, Any]:
    """The same weights twice: reading packed rows, and as `transformers` computes them, step by step."""
    kind = {"qwen2 with a window": "qwen2", "one key head": "llama"}.get(name, name)
    both: list[Any] = []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**TINY, **MODELS[name]})
        both.append(AutoModelForCausalLM.from_config(config, attn_implementation=attention))
    packed.enable(both[0])
    return both[0], both[1]


def random_row(lengths: list[int], gaps: bool = True) -> tuple[Tensor, Tensor]:
    """float[N, 32] and int64[N], positions with gaps as dropped tokens leave them."""
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randint(1, 3 if gaps else 2, (length,), generator=generator) for length in lengths]
    return torch.randn(sum(lengths), 32, generator=generator), torch.cat([step.cumsum(0) - step[0] for step in steps])


def reference(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float, window: int | None) -> Tensor:
    """float[H, N, D] by the formula, with one mask over the whole row: float[N, H, D]."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    owner = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    at = torch.arange(len(owner))
    behind = at[:, None] - at[None]
    seen = (owner[:, None] == owner[None]) & (behind >= 0) & (behind < (window or len(owner)))
    score = (q.double() @ k.double().transpose(1, 2)) * scale
    return (score.masked_fill(~seen, -math.inf).softmax(-1) @ v.double()).transpose(0, 1)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    groups=st.sampled_from([1, 2, 4]),
    scale=st.sampled_from([None, 0.25, 1.0]),
    window=st.sampled_from([None, 1, 5, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_attention_is_the_formula_with_a_block_diagonal_mask(lengths, groups, scale, window):
    generator = torch.Generator().manual_seed(sum(lengths))
    q = torch.randn(1, 4, sum(lengths), 8, generator=generator)
    k, v = (torch.randn(1, 4 // groups, sum(lengths), 8, generator=generator) for _ in range(2))
    where = packed.segments(lengths, CPU)
    out, _ = packed.attention(nn.Module(), q, k, v, None, scaling=scale, segments=where, sliding_window=window)
    expected = reference(q[0], k[0], v[0], lengths, 8**-0.5 if scale is None else scale, window)
    assert_close(out[0].double(), expected, atol=1e-5, rtol=1e-4)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_segments_hold_every_token_once_and_pad_little(lengths):
    where = packed.segments(lengths, CPU)
    number = sum(lengths)
    tokens: list[int] = []
    for group in where.groups:
        index = torch.arange(group.start, group.start + group.length) if group.index is None else group.index
        assert len(index) == group.size * group.length
        kept = index if group.keep is None else index[group.keep]
        assert group.size == 1 or group.length <= packed.SHORT
        assert len(index) <= 1.5 * len(kept)
        tokens += kept.tolist()
    back = torch.tensor(tokens) if where.order is None else torch.tensor(tokens)[where.order]
    assert back.tolist() == list(range(number))
    assert where.cumulative.tolist() == [sum(lengths[:at]) for at in range(len(lengths) + 1)]
    assert where.cumulative.dtype == torch.int32
    assert where.longest == max(lengths)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("name", MODELS)
def test_packed_row_is_each_conversation_alone(name, lengths):
    ours, theirs = models(name)
    embeddings, positions = random_row(lengths)
    mixed = embeddings.clone().requires_grad_()
    out = packed.decode(ours, mixed, positions, packed.segments(lengths, CPU))
    alone_in = embeddings.clone().requires_grad_()
    alone = [
        theirs.get_decoder()(
            inputs_embeds=part[None], position_ids=at[None], attention_mask=torch.ones(1, len(part))
        ).last_hidden_state[0]
        for part, at in zip(alone_in.split(lengths), positions.split(lengths), strict=True)
    ]
    assert_close(out, torch.cat(alone), atol=2e-5, rtol=1e-4)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (torch.cat(alone) * weight).sum().backward()
    assert_close(mixed.grad, alone_in.grad, atol=1e-4, rtol=1e-3)
    for (parameter, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is not None:
            assert_close(own.grad, other.grad, atol=1e-3, rtol=1e-3, msg=lambda m, p=parameter: f"{p}: {m}")


@pytest.mark.parametrize("kind", ["gpt2", "opt", "phi3", "gpt_neox", "olmo2", "gemma", "gemma3_text", "mixtral"])
def test_other_architectures_read_packed_rows_too(kind):
    lengths = LENGTHS["mixed"]
    both: list[Any] = []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **TINY)
        both.append(AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval())
    packed.enable(both[0])
    embeddings, positions = random_row(lengths, gaps=False)
    with torch.no_grad():
        out = packed.decode(both[0], embeddings, positions, packed.segments(lengths, CPU)).split(lengths)
        for own, part in zip(out, embeddings.split(lengths), strict=True):
            assert_close(
                own, both[1].get_decoder()(inputs_embeds=part[None]).last_hidden_state[0], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("kind", ["gemma2", "stablelm"])
def test_attention_that_cannot_be_exchanged_is_refused(kind):
    """Gemma 2 caps its attention, which torch's cannot do; StableLM does not pass on which segments there are."""
    with pytest.raises(UserError, match="cannot be exchanged"):
        packed.enable(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY), attn_implementation="eager"))


@pytest.mark.parametrize("name", ["qwen2", "mistral"])
def test_no_conversation_influences_another(name):
    model, _ = models(name)
    lengths = LENGTHS["mixed"]
    embeddings, positions = random_row(lengths)
    where = packed.segments(lengths, CPU)
    with torch.no_grad():
        before = packed.decode(model, embeddings, positions, where).split(lengths)
        for changed in range(len(lengths)):
            parts = [part.clone() for part in embeddings.split(lengths)]
            parts[changed] = parts[changed] * -3 + 1
            after = packed.decode(model, torch.cat(parts), positions, where).split(lengths)
            for number, (one, other) in enumerate(zip(before, after, strict=True)):
                assert torch.equal(one, other) is (number != changed)


def test_later_tokens_are_not_seen():
    model, _ = models("qwen2")
    embeddings, positions = random_row([9, 12])
    where = packed.segments([9, 12], CPU)
    changed = embeddings.clone()
    changed[5:9] += 1
    with torch.no_grad():
        same = (
            packed.decode(model, embeddings, positions, where) == packed.decode(model, changed, positions, where)
        ).all(1)
    assert same.tolist() == [True] * 5 + [False] * 4 + [True] * 12


@pytest.mark.parametrize("name", MODELS)
def test_without_segments_the_model_is_as_it_was(name):
    """For generation, and for rows with padding: with a mask, without one, and with the keys kept."""
    ours, theirs = models(name)
    ids = torch.randint(2, 64, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40)[None] >= torch.tensor([0, 5, 30])[:, None]  # padded on the left
    with torch.no_grad():
        for given_mask in (None, mask.long()):
            a, b = (model(input_ids=ids, attention_mask=given_mask).logits for model in (ours, theirs))
            assert_close(a[mask], b[mask], atol=2e-5, rtol=1e-4)
        written = [
            model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=8, do_sample=False)
            for model in (ours, theirs)
        ]
    assert torch.equal(*written)


def varlen(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, scale: float, is_causal: bool) -> Tensor:
    """What the kernel computes: float[N, H, D] -> float[N, H, D]."""
    assert q.shape == k.shape == v.shape
    assert q.is_contiguous()
    assert cu.dtype == torch.int32
    lengths = cu.diff().tolist()
    parts = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in part), is_causal=is_causal, scale=scale).transpose(
            0, 1
        )
        for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    ]
    return torch.cat(parts)


def varlen_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert max_q == max_k == int(cu_seq_q.diff().max())
    return varlen(query, key, value, cu_seq_q, query.shape[-1] ** -0.5, is_causal)


def varlen_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None, scale=None
):  # fmt: skip
    return varlen(query, key, value, cu_seq_q, query.shape[-1] ** -0.5 if scale is None else scale, is_causal)


def varlen_newer(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False,
):  # fmt: skip
    assert window_size in ((-1, 0), (-1, -1))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return varlen(query, key, value, cu_seq_q, scale, window_size == (-1, 0))


@pytest.mark.parametrize("kernel", [varlen_2_10, varlen_2_11, varlen_newer])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_every_version_of_the_kernel_is_given_what_it_asks_for(monkeypatch, kernel, scale):
    monkeypatch.setattr(packed, "_VARLEN", kernel)
    monkeypatch.setattr(packed, "_VARLEN_ARGUMENTS", frozenset(inspect.signature(kernel).parameters))
    lengths = LENGTHS["mixed"]
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(4, sum(lengths), 8, generator=generator)
    k, v = (torch.randn(2, sum(lengths), 8, generator=generator) for _ in range(2))
    out = packed._varlen(q, k, v, packed.segments(lengths, CPU), scale)
    expected = reference(q, k, v, lengths, 8**-0.5 if scale is None else scale, None)
    assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)


def test_torch_s_own_kernel_takes_what_it_is_given():
    """It has no CPU code, so that only its arguments can be looked at here."""
    kernel, arguments = packed._find_varlen()
    if kernel is None:
        pytest.skip("before torch 2.10")
    options = {"is_causal": True} if "is_causal" in arguments else {"window_size": (-1, 0)}
    inspect.signature(kernel).bind(*[None] * 7, **options, **({"scale": None} if "scale" in arguments else {}))


WAYS = {
    "packed": {"rows": "packed"}, "grouped": {"rows": "grouped"}, "padded": {"rows": "padded", "pad_to": 330},
    "whole vocabulary": {"rows": "padded", "head": "all"},
}  # fmt: skip
VRLS: dict[str, Any] = {
    "off": "off", "paper": "paper", "published-code": "published-code",
    "patches": Vrl(drop_ratio=0.5, drop_at="patches"), "some patches": Vrl(drop_prob=0.5, drop_at="patches"),
}  # fmt: skip
LANGUAGES = {"qwen2": {}, "llama": {"num_key_value_heads": 4}, "mistral": {"sliding_window": 24}}


@pytest.mark.parametrize(
    ("model_type", "vrl"), [*(("qwen2", vrl) for vrl in VRLS), ("llama", "paper"), ("mistral", "paper")]
)
def test_losses_and_gradients_do_not_depend_on_how_rows_are_laid_out(model_type, vrl):
    """Packed, grouped, padded, with every logit: all give what each sample gives alone."""
    task = build(VRLS[vrl], model_type=model_type, language=LANGUAGES[model_type], independent=True).train()
    samples = [dataclasses.replace(s, seed=s.seed + 9) for s in assorted()]
    batch, alone = task.collator(samples), [task.collator([s]) for s in samples]
    if vrl == "published-code":
        kept = [a == b for a, b in zip(task.read(batch).lengths, batch.lengths, strict=True)]
        assert 0 < sum(kept) < len(kept)  # some rows are dropped from and some are whole
    with torch.no_grad():
        of_rows = [loss for one in alone for loss in losses(task, one)]
    expected = gradients(task, alone)
    assert len(of_rows) == len(samples) + 2
    for name, way in WAYS.items():
        configure(task, **{"pad_to": None, "head": "supervised"} | way)
        with torch.no_grad():
            assert losses(task, batch) == pytest.approx(of_rows, abs=1e-5, rel=1e-5), name
            out = task_loss(task, batch)
            assert out.total.item() == pytest.approx(sum(of_rows), rel=1e-5), name
            assert out.count == int((batch.labels >= 0).sum())
        if name == "grouped":  # computed as padded rows are
            continue
        actual = gradients(task, [batch])
        assert actual.keys() == expected.keys()
        for parameter, value in expected.items():
            near = torch.allclose(actual[parameter], value, atol=1e-4 * float(value.abs().max()), rtol=1e-3)
            assert near, f"{name}: {parameter}"


def test_rows_padded_back_give_the_same_loss_for_the_old_work():
    short = build("paper", rows="padded").train()
    back = build(Vrl(shorten=False), rows="padded").train()
    batch = short.collator([sample("a", images=2), sample("b", answer="no")])
    widths: list[int] = []
    for task in (short, back):
        task.language.get_decoder().register_forward_hook(
            lambda module, args, out: widths.append(out.last_hidden_state.shape[1])
        )
    a, b = gradients(short, [batch]), gradients(back, [batch])
    assert widths == [max(short.read(batch).lengths), max(batch.lengths)]
    assert widths[0] < widths[1]
    assert_close(task_loss(short, batch).total, task_loss(back, batch).total, atol=1e-5, rtol=1e-5)
    for name in a:
        assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


def test_least_length_is_that_of_the_padded_rows():
    task = build(rows="padded", pad_to=100).eval()
    lengths: list[int] = []
    task.language.get_decoder().register_forward_hook(
        lambda module, args, out: lengths.append(out.last_hidden_state.shape[1])
    )
    long = task.collator([sample("long", answer="yes no " * 60)])
    for batch in (task.collator([sample("a"), sample("b", answer="no")]), long):
        logits(task, batch)
    assert lengths == [100, long.lengths[0]]


@pytest.mark.parametrize("settings", [{"pad_to": 8}, {"vrl": Vrl(shorten=False)}])
def test_packed_rows_have_no_padding_to_ask_for(settings):
    with pytest.raises((UserError, ValueError), match="rows=padded"):
        build(**settings)
