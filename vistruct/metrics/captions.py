"""How near a description comes to others of the same picture: BLEU, ROUGE-L and CIDEr-D.

Source: BLEU, Papineni et al., ACL 2002; ROUGE-L, Lin, ACL 2004 workshop; CIDEr-D, Vedantam et al., arXiv:1411.5726;
    each with the constants of the public COCO caption evaluation (beta 1.2, sigma 6, n-grams to 4), whose values
    the tests hold these against.
Differs: words are found by `words` and not by the Stanford tokenizer, which needs Java. A corpus without a common
    n-gram has a BLEU of 0, where the public code adds a tiny constant.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from vistruct.metrics.means import known_mean

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]

# A run of letters and digits, with apostrophes and hyphens inside; in scripts without spaces every sign is a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:['’-][^\W_]+)*")
LONGEST = 4  # words of an n-gram
BETA = 1.2  # how much recall counts in ROUGE-L
SIGMA = 6.0  # words by which a description may be longer or shorter, for CIDEr-D


def words(text: str) -> list[str]:
    """Lower case, without punctuation: "A tree, upper-left." -> a, tree, upper-left."""
    return WORD.findall(text.lower())


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Over all answers together, how many of their n-grams the references have, less where answers are short.

    Args:
        answers: one for each question.
        references: one or more for each answer.

    Returns:
        BLEU-1 to BLEU-4, each in [0, 1]; 0 where there is no n-gram, or none that is right.
    """
    right, written = [0] * LONGEST, [0] * LONGEST
    num_words = num_wanted = 0
    for answer, others in zip(map(words, answers), references, strict=True):
        wanted = [words(text) for text in others]
        num_words += len(answer)
        num_wanted += min((len(w) for w in wanted), key=lambda length: (abs(length - len(answer)), length))
        for n in range(1, LONGEST + 1):
            known: Grams = Counter()
            for other in wanted:
                known |= _grams(other, n)  # as often as the reference that has it most often
            own = _grams(answer, n)
            right[n - 1] += (own & known).total()
            written[n - 1] += own.total()
    if not all(right[:1]):
        return [0.0] * LONGEST
    brevity = min(1.0, math.exp(1 - num_wanted / num_words))
    shares = [r / w if w else 0.0 for r, w in zip(right, written, strict=True)]
    return [brevity * math.prod(shares[:n]) ** (1 / n) for n in range(1, LONGEST + 1)]


def rouge_l(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean of `rouge_l_each`; NaN without answers."""
    return known_mean(rouge_l_each(answers, references))


def rouge_l_each(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Of each answer the weighted mean of precision and recall of the longest common subsequence of words.

    With several references the best precision and the best recall count, as in the COCO evaluation.

    Args:
        answers: one for each question.
        references: one or more for each answer.

    Returns:
        in [0, 1].
    """
    scores = []
    for answer, others in zip(map(words, answers), references, strict=True):
        precision = recall = 0.0
        for other in map(words, others):
            common = longest_common(answer, other)
            precision = max(precision, common / max(len(answer), 1))
            recall = max(recall, common / max(len(other), 1))
        both = recall + BETA**2 * precision
        scores.append((1 + BETA**2) * precision * recall / both if both else 0.0)
    return scores


def longest_common(a: Words, b: Words) -> int:
    """Words of the longest sequence that both have in this order, with gaps."""
    row = [0] * (len(b) + 1)  # of the words of `a` so far, with the first j words of `b`
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def cider_d(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean of `cider_d_each`, in [0, 10]; NaN without answers."""
    return known_mean(cider_d_each(answers, references))


def cider_d_each(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Similarity of n-gram counts, in which an n-gram weighs the more the fewer questions' references have it.

    The weights come from the references given here: the same answers have another score among other questions, and
    of a single question, or of questions with equal references, it is 0.

    Args:
        answers: one for each question.
        references: one or more for each answer.

    Returns:
        of each answer, in [0, 10].
    """
    own = [_counts(words(text)) for text in answers]
    wanted = [[_counts(words(text)) for text in texts] for texts in references]
    seen: Counter[tuple[str, ...]] = Counter()  # n-gram -> questions whose references have it
    for others in wanted:
        seen.update({gram for other in others for grams in other for gram in grams})

    def weighted(counts: list[Grams]) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: number * math.log(len(wanted) / max(1, seen[gram])) for gram, number in grams.items()}
            for grams in counts
        ]

    scores = []
    for answer, others in zip(own, wanted, strict=True):
        mine = weighted(answer)
        total = 0.0
        for other in others:
            gap = answer[0].total() - other[0].total()
            alike = sum(_alike(a, b) for a, b in zip(mine, weighted(other), strict=True)) / LONGEST
            total += alike * math.exp(-(gap**2) / (2 * SIGMA**2))
        scores.append(10 * total / len(others))
    return scores


def _alike(answer: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    """Cosine, in which saying an n-gram more often than the reference does is worth nothing."""
    norm = math.hypot(*answer.values()) * math.hypot(*other.values())
    return sum(min(weight, other[g]) * other[g] for g, weight in answer.items() if g in other) / norm if norm else 0.0


def _counts(text: Words) -> list[Grams]:
    return [_grams(text, n) for n in range(1, LONGEST + 1)]


def _grams(text: Words, n: int) -> Grams:
    return Counter(zip(*(text[start:] for start in range(n)), strict=False))
