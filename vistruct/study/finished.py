"""The pretrainings of a finished study, measured on another downstream task by a study of its own (`pretrained_by`).

They stay where they are. What is asked of them (teachers, starts, budget, repetitions, inits and who is compared with
whom) is the first study's; recipe, data, seeds, fractions and modes are the second's own, and so are its verdicts,
which are corrected for the tests of the first one too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.weights import backbone_dir
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.study.plan import init_digest
from vistruct.study.pretraining import starts_with_statistics
from vistruct.study.ring import Member, expanded, members
from vistruct.study.study import Study, read_study

# What a study takes from the one that its pretrainings are of.
TAKEN = {
    "pretrain", "teachers", "starts", "budget", "pretrain_seeds", "inits", "adapters", "against", "compare"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A study that has ended, and where its pretrainings are."""

    folder: Path
    found: dict[str, Any]  # its study.json
    places: dict[str, Path] = field(default_factory=dict)  # by the names of its pretrainings

    def as_json(self, out: Path) -> dict[str, Any]:
        """`pretrained_by` of study.json, for a study in `out`."""
        ring = self.found["ring"] or {"verdicts": []}
        own = [row["p"] for verdict in ring["verdicts"] for row in verdict["teachers"]]
        before = self.found["pretrained_by"] or {"tests": []}
        return {
            "study": os.path.relpath(self.folder, out),
            "recipe": self.found["plan"]["recipe"],
            "metric": self.found["metric"],
            "tests": [*own, *before["tests"]],
        }


@dataclass(frozen=True, kw_only=True)
class Written:
    """A study with its teachers written out."""

    study: Study
    ring: list[Member]  # the inits of a study of teachers
    before: Finished | None = None  # the study whose pretrainings it measures; None: its own


def written_out(study: Study) -> Written:
    """A study with its teachers written out, and with the pretrainings of another where it says so.

    Raises:
        UserError: as `ring.expanded` and `finished`; something asked of pretrainings that are there already.
    """
    if study.pretrained_by is None:
        kept = starts_with_statistics(study)
        return Written(study=expanded(study, kept), ring=members(study, kept) if study.teachers else [])
    own = study.model_dump(include=TAKEN, exclude_defaults=True)
    if own:
        what = f"pretrained_by takes {', '.join(own)} from the study of {study.pretrained_by}"
        raise UserError(what, where="study", fix="leave it out here, or pretrain in this study")
    first, before = _finished(study.pretrained_by)
    asked = study.model_dump(exclude=TAKEN) | first.study.model_dump(include=TAKEN) | {"pretrained_by": None}
    return Written(study=Study.model_validate(asked), ring=first.ring, before=before)


def _finished(folder: Path) -> tuple[Written, Finished]:
    """A study that has ended, written out.

    Raises:
        UserError: there is none, it has not ended or pretrained nothing, or what it pretrained is not what it was.
    """
    plan, results = folder / "study.yaml", folder / "study.json"
    if not plan.exists():
        fix = "the directory of a finished `vistruct study`"
        raise UserError("no study is here", where=folder, fix=fix)
    again = f"vistruct study -c {plan} --out {folder}"
    if not results.exists():
        raise UserError("this study has not ended: its pretrainings may be missing", where=folder, fix=again)
    found = read_record(results, dict[str, Any], fix=again)
    first = written_out(read_study(plan))
    if not first.study.pretrain:
        raise UserError("this study has pretrained nothing", where=folder, fix="name weights: --init NAME=PATH")
    asked = first.study.model_dump(mode="json", include=TAKEN)
    changed = sorted(name for name in asked if found["plan"].get(name) != asked[name])
    if changed:
        what = f"its study.yaml has changed since ({', '.join(changed)}): what is there was pretrained otherwise"
        raise UserError(what, where=folder, fix=again)
    known = found.get("pretrained_weights", {})
    places = {name: (folder / found["pretrained"][name]).resolve() for name in first.study.pretrain}
    for name, place in places.items():
        if _digest(place) != known.get(name):
            what = f"the pretraining {name!r} is not there any more, or not as it was when this study ended"
            raise UserError(what, where=place, fix=again)
    return first, Finished(folder=folder.resolve(), found=found, places=places)


def _digest(place: Path) -> str | None:
    """Of the weights that lie there, as their card says, if the file is that of the card; None: it is not."""
    ours = backbone_dir(place) if place.is_dir() else None
    if ours is None or sha256(ours / "backbone.safetensors") != init_digest(place):
        return None
    return init_digest(place)
