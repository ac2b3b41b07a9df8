"""Which tokens become queries, in which order and group: VT-PLUG's own rows (REF-VLM @ cdfeccd) as our reader has them.

Differs: an object token that nothing explains is drawn there, as a group of what stands around it; here it is named
(`stray object token`), for no unit says what would draw it. Words between a unit and its tokens end its tokens here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import GOLDEN

from vistruct.contracts import Queries, Shown
from vistruct.heads.query_layers import Asked
from vistruct.vlm.answers import Read
from vistruct.vlm.grammar import Aim, Grammar, read_answer
from vistruct.vlm.pointed import Pointed

CASES = json.loads((GOLDEN / "vtplug_queries" / "cases.json").read_text())
TOKENS = {"R": "<REF>", "u": "<Unit>", "U": "</Unit>", "p": "<Phrase>", "P": "</Phrase>"}
GRAMMAR = Grammar(cot=False, spelling="published")
# Of each row that is read otherwise, the groups that we find among its object tokens, and what is said to be broken.
STRAY = "stray object token"
OTHERWISE: dict[str, tuple[list[list[int]], str]] = {
    "refs_alone": ([], STRAY),
    "refs_in_front": ([[10]], STRAY),
    "text_between": ([], "unit without objects"),
}


SHOWN = Shown(sizes_hw=((8, 8),), padded_hw=(8, 8))
NOTHING = Pointed(
    frames=(), size=8, pictures=torch.zeros(0, 3, 8, 8), aims=[], owners=[], coverage=torch.zeros(0, 1, 1),
    shown_in=torch.zeros(0), kinds=torch.zeros(0), boxes=torch.zeros(0, 4), targets=[],
)  # fmt: skip


def said(tokens: str) -> str:
    """A row as text: what stands between two object tokens, or a unit and one, is a number."""
    text = "".join(TOKENS.get(one, one) for one in tokens)
    text = re.sub(r"(?<=<Unit>)[.x](?=</Unit>)", "box", text)
    text = re.sub(r"(</(?:Phrase|Unit)>)\.(?=<REF>)", r"\1[0]", text)
    for number in range(1, 20):
        text = text.replace("<REF>.<REF>", f"<REF>[{number}]<REF>", 1)
    return text


def read(row: dict[str, Any]) -> tuple[Read, list[list[int]]]:
    """What our reader makes of it, and its groups, as places of the object tokens in the row."""
    found = read_answer(said(row["tokens"]), GRAMMAR)
    places = [at for at, token in enumerate(row["tokens"]) if token == "R"]
    return found, [[places[number] for number in phrase.rows] for phrase in found.phrases if phrase.rows]


@pytest.mark.parametrize("name", CASES["rows"])
def test_groups_are_theirs(name: str) -> None:
    row = CASES["rows"][name]
    theirs = [group["refs"] for group in row["plain"]["groups"] if group["refs"]]
    found, groups = read(row)
    expected, defect = OTHERWISE.get(name, (theirs, ""))
    assert groups == expected
    assert not defect or defect in found.defects


@pytest.mark.parametrize("name", CASES["rows"])
def test_queries_are_theirs(name: str) -> None:
    """Every object token of a row, in order, up to the slots of a decoder; the state is that at the token itself."""
    row = CASES["rows"][name]
    tokens = torch.tensor([ord(one) for one in row["tokens"]])
    places = (tokens == ord("R")).nonzero().flatten()  # as `Reading.objects`
    states = tokens[places].float().view(1, -1, 1) + places.view(1, -1, 1)
    asked = Asked.of(Queries(states=states, groups=((len(places),),)), row["slots"], SHOWN)
    assert (asked.flat(states)[:, 0] - ord("R")).tolist() == row["query_positions"]
    assert sum(asked.counts) == row["filled"]


@pytest.mark.parametrize("case", CASES["slots_and_labels"])
def test_groups_of_a_batch_are_cut_as_theirs(case: dict[str, Any]) -> None:
    """An answer in each row; what is beyond the slots, or was cut off with its row, is neither asked nor learned."""
    answers = [
        [Aim(row=number, unit="box", group=group) for group, own in enumerate(seqs or ()) for number in own][:refs]
        for seqs, refs in zip(case["seqs"], case["refs"], strict=True)
    ]
    own = replace(NOTHING, aims=[tuple(aims) for aims in answers if aims], owners=[0] * len(answers)).asked("box")
    states = torch.zeros(len(own.groups), max([1, *case["refs"]]), 1)
    asked = Asked.of(Queries(states=states, groups=own.groups), case["num_queries"], SHOWN)
    sizes = [size for groups in asked.groups for size in groups if size]
    assert sizes == (case["group_sizes"] or [])
    assert asked.counts == [count for count in case["filled"] if count]
    rows = [row for row, aims in enumerate(answers) if aims]
    learned = [
        [row, aim.row] for row, aims, count in zip(rows, own.aims, asked.counts, strict=True) for aim in aims[:count]
    ]
    assert learned == (case["labels"] or [])
