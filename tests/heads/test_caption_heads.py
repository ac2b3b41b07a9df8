"""Caption heads: ViSFT's against golden tensors, the transformer by what holds of any, beam search by trying all."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vistruct.contracts import FeatureSpec
from vistruct.heads.caption_transformer import CaptionTransformerConfig
from vistruct.heads.show_attend_tell import ShowAttendTell, ShowAttendTellConfig, from_published, to_published
from vistruct.vlm.beam import search

GOLDEN = Path(__file__).parent.parent / "golden" / "visft_caption"
IO = load_file(GOLDEN / "io.safetensors")
WEIGHTS = load_file(GOLDEN / "weights.safetensors")
WORDS = json.loads((GOLDEN / "word_map.json").read_text())
START, END = WORDS["<start>"], WORDS["<end>"]
NEAR = {"atol": 5e-5, "rtol": 1e-4}


def published() -> ShowAttendTell:
    config = ShowAttendTellConfig(attention=12, embed=10, hidden=14)
    head = config.build((FeatureSpec(channels=16, stride=14),), len(WORDS))
    head.load_state_dict(from_published(WEIGHTS))
    return head.eval()


@pytest.mark.parametrize("case", ["a", "b"])
def test_the_published_decoder_gives_its_scores_losses_and_gradients(case: str) -> None:
    head = published()
    features = IO[f"{case}.features"].clone().requires_grad_()
    captions, lengths = IO[f"{case}.captions"], IO[f"{case}.lengths"].flatten()
    torch.testing.assert_close(head.begin([features])["places"].flatten(), _places(IO[f"{case}.pooled"]), **NEAR)
    scores, looked = head([features], captions)
    wanted, seen = IO[f"{case}.scores"], IO[f"{case}.alphas"]
    is_word = torch.arange(scores.shape[1])[None] < (lengths - 1)[:, None]
    steps = wanted.shape[1]
    torch.testing.assert_close((scores * is_word[..., None])[:, :steps], wanted, **NEAR)
    torch.testing.assert_close((looked * is_word[..., None])[:, :steps], seen, **NEAR)
    found, units = head.learn([features], captions, lengths), head.units(lengths)
    parts = {name: found.terms[name] / units[name] for name in head.terms}
    torch.testing.assert_close(parts["words"], IO[f"{case}.loss_cross_entropy"].reshape(()), **NEAR)
    torch.testing.assert_close(parts["attention"], IO[f"{case}.loss_attention"].reshape(()), **NEAR)
    loss = parts["words"] + parts["attention"]
    torch.testing.assert_close(loss, IO[f"{case}.loss"].reshape(()), **NEAR)
    top5 = found.metrics["top5"]
    assert 100 * float(top5.total) / float(top5.count) == pytest.approx(float(IO[f"{case}.top5acc"]), abs=1e-3)
    loss.backward()
    torch.testing.assert_close(features.grad, IO[f"{case}.grad.features"], **NEAR)
    gradients = to_published({name: p.grad for name, p in head.named_parameters() if p.grad is not None})
    known = [name for name in gradients if f"{case}.grad.{name}" in IO]
    for name in known:
        torch.testing.assert_close(gradients[name], IO[f"{case}.grad.{name}"], **NEAR)
    assert len(known) == len(WEIGHTS) or case != "a"


def _places(pooled: Tensor) -> Tensor:
    """In the order of our places, whatever the file's shape."""
    if pooled.dim() == 4 and pooled.shape[1] == 16:
        pooled = pooled.permute(0, 2, 3, 1)
    return pooled.flatten()


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("beams", [1, 3, 5])
@torch.inference_mode()
def test_beam_search_says_the_published_sentences_side_by_side(case: str, beams: int) -> None:
    head = published()
    features = IO[f"{case}.features"]
    found = search(head.step, head.begin([features]), start=START, end=END, beams=beams, longest=50)
    assert len(found) == len(features)
    for image, one in enumerate(found):
        name = f"{case}.beam{beams}.{image}"
        assert list(one.numbers) == IO[f"{name}.sequence"].tolist()
        assert one.log_probability == pytest.approx(float(IO[f"{name}.log_probability"]), abs=5e-4)
        assert one.is_finished
        if f"{name}.alphas" in IO:
            _, looked = head([features[image : image + 1]], torch.tensor([one.numbers]))
            torch.testing.assert_close(looked[0], IO[f"{name}.alphas"][1:], **NEAR)


def test_names_go_to_the_published_ones_and_back() -> None:
    state = published().state_dict()
    assert set(to_published(state)) == set(WEIGHTS)
    assert set(from_published(to_published(state))) == set(state)


class Table(nn.Module):
    """Log-probabilities of the next unit by the last one alone, drawn once."""

    def __init__(self, num_units: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(num_units, num_units, generator=generator).mul(2).log_softmax(dim=1)

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.table[tokens[:, -1]], state


@pytest.mark.parametrize("seed", range(6))
def test_as_many_beams_as_sentences_find_the_best_of_all(seed: int) -> None:
    num_units, longest = 4, 3
    model = Table(num_units, seed)
    best, score = (), -math.inf
    for length in range(longest + 1):
        for inner in itertools.product(range(num_units - 1), repeat=length):
            sentence = (0, *inner, num_units - 1)
            value = sum(float(model.table[a, b]) for a, b in itertools.pairwise(sentence))
            if value > score:
                best, score = sentence, value
    state = {"image": torch.zeros(2, 1)}
    found = search(model.step, state, start=0, end=num_units - 1, beams=num_units**longest, longest=longest)
    assert [one.numbers for one in found] == [best, best]
    assert found[0].log_probability == pytest.approx(score, abs=1e-5)


def test_a_sentence_without_an_end_is_cut_and_said_to_be() -> None:
    model = Table(3, 0)
    model.table = torch.tensor([[0.0, -torch.inf, -torch.inf]] * 3)
    (one,) = search(model.step, {"image": torch.zeros(1, 1)}, start=0, end=2, beams=2, longest=4)
    assert (one.numbers, one.is_finished) == ((0, 0, 0, 0, 0), False)


def transformer(**changes: int) -> nn.Module:
    torch.manual_seed(0)
    config = CaptionTransformerConfig(width=16, depth=2, heads=2, mlp_width=32, **changes)
    return config.build((FeatureSpec(channels=8, stride=16),), 12).eval()


@torch.inference_mode()
def test_what_comes_later_does_not_change_what_is_said_now() -> None:
    head = transformer()
    features, captions = [torch.randn(2, 8, 3, 4)], torch.randint(0, 12, (2, 6))
    scores = head(features, captions)
    assert scores.shape == (2, 5, 12)
    changed = captions.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % 12
    torch.testing.assert_close(head(features, changed)[:, :3], scores[:, :3])
    state = head.begin(features)
    for length in range(1, 6):
        said, state = head.step(captions[:, :length], state)
        torch.testing.assert_close(said, scores[:, length - 1].log_softmax(dim=1))


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_padding_changes_nothing_and_a_batch_is_the_sum_of_its_images(kind: str) -> None:
    head = transformer() if kind == "transformer" else published()
    width = 8 if kind == "transformer" else 16
    features, captions = torch.randn(2, width, 5, 4), torch.randint(1, 12, (2, 6))
    lengths = torch.tensor([6, 4])
    whole = head.learn([features], captions, lengths).terms
    apart = [
        head.learn([features[i : i + 1]], captions[i : i + 1, :n], lengths[i : i + 1]) for i, n in ((0, 6), (1, 4))
    ]
    for name, total in whole.items():
        torch.testing.assert_close(total, sum(one.terms[name] for one in apart), atol=1e-4, rtol=1e-5)
    units = [head.units(lengths[i : i + 1]) for i in (0, 1)]
    assert {k: float(v) for k, v in head.units(lengths).items()} == {k: sum(float(u[k]) for u in units) for k in whole}


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_head_learns_sentences_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    specs = (FeatureSpec(channels=8, stride=16),)
    if kind == "transformer":
        head = CaptionTransformerConfig(width=32, depth=1, heads=2, mlp_width=64, dropout=0, label_smoothing=0)
        built = head.build(specs, 12)
    else:
        built = ShowAttendTellConfig(attention=16, embed=16, hidden=32, pool=3, dropout=0).build(specs, 12)
    features = [torch.randn(3, 8, 3, 3)]
    captions = torch.tensor([[10, 1, 2, 3, 11, 0], [10, 4, 1, 1, 5, 11], [10, 6, 11, 0, 0, 0]])
    lengths = torch.tensor([5, 6, 3])
    optimiser = torch.optim.AdamW(built.parameters(), lr=2e-2)
    for _ in range(80):
        loss = sum(
            term / built.units(lengths)[name] for name, term in built.learn(features, captions, lengths).terms.items()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(parameter.grad is not None for parameter in built.parameters())
    with torch.inference_mode():
        found = search(built.eval().step, built.begin(features), start=10, end=11, beams=2, longest=6)
    assert [one.numbers for one in found] == [(10, 1, 2, 3, 11), (10, 4, 1, 1, 5, 11), (10, 6, 11)]
