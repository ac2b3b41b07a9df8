"""Seconds that pretrainings were asked for, spent in their training steps, and spent around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vistruct.study.ring import Member, chain_of
from vistruct.study.study import Study

OFF = 0.15  # of what was asked: more is said

Spent = Mapping[str, Mapping[str, Any]]


def spent_by(study: Study, results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each pretraining, by its name, as `pretraining_seconds` of study.json.

    Args:
        study: its teachers written out.
        results: of the jobs, by name.

    Returns:
        asked (None: no budget in seconds), in_steps, around (reading data before the first step, evaluations, pictures,
        checkpoints and the report; None: not known), keeps_maps.
    """
    found = {}
    for name, one in study.pretrain.items():
        result = results.get(f"pretrain-{name}", {})
        whole, steps = result.get("seconds"), result.get("step_seconds")
        found[name] = {
            "asked": None if one.budget is None else one.budget.seconds,
            "in_steps": None if steps is None else round(steps, 3),
            "around": None if whole is None or steps is None else round(whole - steps, 3),
            "keeps_maps": result.get("keeps_maps", False),
        }
    return found


def spent_for(study: Study, member: Member, spent: Spent) -> dict[str, Any]:
    """Of one pretraining of an init with what leads to it: asked, in_steps and around (means over repetitions), range
    (least and most in_steps); None where it is not known of all."""
    chains = [chain_of(study, source) for source in study.sources(member.init)] if member.teacher else []
    sums = {key: _sums(chains, spent, key) for key in ("asked", "in_steps", "around")}
    return {
        **{key: sum(known) / len(known) if known else None for key, known in sums.items()},
        "range": [min(sums["in_steps"]), max(sums["in_steps"])] if sums["in_steps"] else None,
    }


def _sums(chains: Sequence[Sequence[str]], spent: Spent, key: str) -> list[float]:
    """Of each repetition; [] where one is not known."""
    values = [[spent[name][key] for name in chain] for chain in chains]
    return [] if any(None in own for own in values) else [sum(own) for own in values]


def off_budget(study: Study, ring: Sequence[Member], spent: Spent) -> list[str]:
    """One line about all inits whose steps took clearly more or less than was asked; [] where none did."""
    told = []
    for member in ring:
        own = spent_for(study, member, spent)
        if own["asked"] is None or own["range"] is None:
            continue
        least, most = own["range"]
        if max(own["asked"] - least, most - own["asked"]) <= OFF * own["asked"]:
            continue
        took = f"{least:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} to {most:.3g}"
        chain = chain_of(study, study.source(member.init, 0))
        maps = (
            "; maps that others had kept were read, not computed" if any(spent[n]["keeps_maps"] for n in chain) else ""
        )
        told.append(f"{member.init} {took} ({own['asked']:.3g} asked{maps})")
    if not told:
        return []
    return [
        f"Seconds in training steps that are more than {OFF:.0%} off those asked: {', '.join(told)}. Teachers are then "
        "not at equal compute: weigh what they bought by what they took, or ask for more seconds, of which a few timed "
        "steps tell more."
    ]
