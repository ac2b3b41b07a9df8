"""Caption scores against the public COCO caption code, worked examples of the papers, and the formulas written out."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from vistruct.metrics.captions import bleu, cider_d, longest_common, rouge_l, words

ANSWERS = [
    "the image shows 3 trees most in the upper left",
    "a large ship lies in the harbour",
    "two planes on the runway",
    "a a a a dark dark field",
    "there is a small white boat beside the long pier of the harbour",
    "",
]
REFERENCES = [
    ["the image shows 4 trees most in the lower left", "three trees stand in the upper left corner of the image"],
    ["a large white ship lies at the pier", "one ship is in the harbour"],
    ["two planes are parked on the runway", "two airplanes on a runway near the terminal", "planes"],
    ["a dark field with a road", "a field"],
    ["a small boat lies beside the pier", "there is a boat in the harbour"],
    ["nothing is here"],
]
# pycocoevalcap 1.2: Bleu(4), Rouge() and Cider() on {i: references} and {i: [answer]} of the lists above. Its tokenizer
# is not used: the texts are lower case without punctuation. It adds about 1e-9 to BLEU's counts.
COCO = {
    "several": ([0.8095238095, 0.6778343894, 0.4861038588, 0.3037129844], 0.6277252987629424, 1.8008504854817555),
    "one": ([0.6666666667, 0.5022472023, 0.3159233228, 0.1848610116], 0.5616853305003962, 2.2811679637566544),
}


@pytest.mark.parametrize("name", list(COCO))
def test_scores_are_those_of_the_coco_caption_code(name):
    references = REFERENCES if name == "several" else [texts[:1] for texts in REFERENCES]
    expected_bleu, expected_rouge, expected_cider = COCO[name]
    assert bleu(ANSWERS, references) == pytest.approx(expected_bleu, abs=1e-8)
    assert rouge_l(ANSWERS, references) == pytest.approx(expected_rouge, abs=1e-12)
    assert cider_d(ANSWERS, references) == pytest.approx(expected_cider, abs=1e-12)


def test_repeated_words_count_as_often_as_the_fullest_reference_has_them():
    """Papineni et al. 2002, example 2: a modified unigram precision of 2/7; there is no brevity penalty at 7 words."""
    references = [["the cat is on the mat", "there is a cat on the mat"]]
    assert bleu(["the the the the the the the"], references)[0] == pytest.approx(2 / 7)


def test_unigram_and_bigram_precision_of_the_papers_first_example():
    """Papineni et al. 2002, example 1: 17/18 and 10/17 for the first candidate, 18 words as the closest reference."""
    answer = "It is a guide to action which ensures that the military always obeys the commands of the party."
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands.",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party.",
        "It is the practical guide for the army always to heed the directions of the party.",
    ]
    scores = bleu([answer], [references])
    assert scores[0] == pytest.approx(17 / 18)
    assert scores[1] == pytest.approx(math.sqrt(17 / 18 * 10 / 17))


def test_short_answers_are_punished_over_the_whole_corpus():
    assert bleu(["a b c d", "e f g h"], [["a b c d"], ["e f g h i j"]])[0] == pytest.approx(math.exp(1 - 10 / 8))


@pytest.mark.parametrize(("answer", "expected"), [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4)])
def test_rouge_l_of_the_papers_example(answer, expected):
    """Lin 2004, section 3.1; precision and recall are equal there, so that beta does not matter."""
    assert rouge_l([answer], [["police killed the gunman"]]) == pytest.approx(expected)


def test_rouge_l_weighs_recall_by_beta():
    precision, recall, beta = 1.0, 0.5, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert rouge_l(["a b"], [["a b c d"]]) == pytest.approx(expected)


def test_longest_common_subsequence_is_that_of_the_definition():
    @cache
    def slow(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return slow(a[:-1], b[:-1]) + 1
        return max(slow(a[:-1], b), slow(a, b[:-1]))

    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (tuple(rng.choice(list("abc"), rng.integers(0, 9))) for _ in range(2))
        assert longest_common(a, b) == slow(a, b)


def test_cider_d_of_bigrams_by_hand():
    """Two questions, one reference each; only 1-grams and 2-grams exist, the others add nothing to the mean of four."""
    answers, references = ["red tree", "a dog"], [["green tree"], ["a dog"]]

    def vector(text: str) -> dict[tuple[str, ...], float]:
        said = text.split()
        grams = [(w,) for w in said] + list(pairwise(said))
        every = [[(w,) for w in r.split()] + list(pairwise(r.split())) for (r,) in references]
        return {g: math.log(2 / max(1, sum(g in e for e in every))) for g in grams}

    expected = 0.0
    for answer, (reference,) in zip(answers, references, strict=True):
        a, b = vector(answer), vector(reference)
        for n in (1, 2):
            x, y = ({g: v for g, v in w.items() if len(g) == n} for w in (a, b))
            dot = sum(min(x[g], y.get(g, 0)) * y.get(g, 0) for g in x)
            norm = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
            expected += dot / norm / 4 * 10 / 2
    assert cider_d(answers, references) == pytest.approx(expected)


def test_cider_d_falls_with_the_difference_in_length_as_a_gaussian():
    """Nine words more: what is said besides weighs nothing, since every reference has it."""
    common = "x " * 9
    references = [[f"ship {common}"], [f"tree {common}"], [common]]
    alone = cider_d(["ship", "", ""], [["ship"], ["tree"], ["x"]]) * 4 / 10  # 1-grams only: a quarter of 10
    assert alone == pytest.approx(1 / 3)
    longer = cider_d(["ship", "", ""], references)
    grams = [1, 2, 3, 4]  # of the reference: n-grams that only it has, each with the weight log 3
    own = [1, 0, 0, 0]
    assert own[0] == grams[0]
    assert longer == pytest.approx(10 / 3 / 4 * math.exp(-(9**2) / (2 * 6**2)), rel=1e-6)


@pytest.mark.parametrize("score", [lambda a, r: bleu(a, r)[3], rouge_l, lambda a, r: cider_d(a, r) / 10])
def test_the_reference_itself_is_the_best_answer_and_no_common_word_the_worst(score):
    references = [["one small tree stands alone"], ["two large ships lie here"]]
    assert score([texts[0] for texts in references], references) == pytest.approx(1.0)
    assert score(["nope", ""], references) == 0.0


def test_no_score_depends_on_the_order_of_the_questions():
    for score in (lambda a, r: bleu(a, r)[3], rouge_l, cider_d):
        assert score(ANSWERS[::-1], REFERENCES[::-1]) == pytest.approx(score(ANSWERS, REFERENCES))


def test_without_questions_there_is_no_score():
    assert bleu([], []) == [0.0] * 4
    assert math.isnan(rouge_l([], []))
    assert math.isnan(cider_d([], []))


def test_a_single_question_has_no_cider_because_nothing_tells_its_words_from_others():
    assert cider_d(["a tree"], [["a tree"]]) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A tree, upper-left.", ["a", "tree", "upper-left"]),
        ("It's 3.5 m_wide!", ["it's", "3", "5", "m", "wide"]),
        ("  ", []),
        ("Grüße aus Köln", ["grüße", "aus", "köln"]),
        ("一棵树 tree", ["一", "棵", "树", "tree"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected
