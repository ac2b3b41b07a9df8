"""From a plan to runs: what is varied differs, everything else is the same, mistakes are told at once."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from toy_study import first_head, recipe

from vistruct.config import AdamW, Lora, Run, Trainable, with_values
from vistruct.engine.run import build
from vistruct.engine.ship import ship
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import detect
from vistruct.samples import trees
from vistruct.study.asked import with_adapters
from vistruct.study.display import Lines
from vistruct.study.jobs import Job, run_jobs
from vistruct.study.plan import data_fingerprints, init_digest, plan_trials, study_jobs, weight_digests
from vistruct.study.results import chosen_metric, is_higher_better
from vistruct.study.study import Study, percent, read_study, study_to_yaml


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A directory with a backbone, of another seed than any in a study."""
    out = tmp_path_factory.mktemp("pretrained")
    ship(build(recipe(seed=99), out))
    return out


def study(pretrained: Path | None = None, **changes) -> Study:
    inits = {"random": "random"} | ({"ours": str(pretrained)} if pretrained else {})
    return Study.model_validate({"recipe": "toy", "inits": inits, "seeds": 2} | changes)


def test_a_plan_has_every_start_fraction_seed_and_way_once(pretrained):
    plan = plan_trials(study(pretrained, fractions=(0.5, 1.0), tune=("head", "lora", "full")), recipe)
    keys = {(p.init, p.fraction, p.seed, p.tuning) for p in plan.trials}
    assert len(plan.trials) == len(keys) == 2 * 2 * 2 * 3
    assert len({p.name for p in plan.trials}) == len(plan.trials)
    for one in plan.trials:
        assert (one.run.seed, one.run.only.data.fraction, one.run.only.data.fraction_seed) == (
            one.seed,
            one.fraction,
            one.seed,
        )
        assert one.run.init == (pretrained if one.init == "ours" else None)


def test_runs_of_several_tasks_are_not_compared():
    @functools.wraps(recipe)
    def several(**changes) -> Run:
        run = recipe(**changes)
        (stream,) = run.streams.values()
        return run.model_copy(update={"streams": {"near": stream, "far": stream}})

    with pytest.raises(UserError, match="several: near, far") as caught:
        plan_trials(study(), several)
    assert "--init joint=RUN" in caught.value.fix


def test_ways_say_what_moves(pretrained):
    plan = plan_trials(study(pretrained, tune=("head", "lora", "full"), lora={"rank": 2}), recipe)
    moves = {p.tuning: p.run.trainable for p in plan.trials}
    assert moves["head"] == (Trainable(pattern="backbone", mode="frozen"),)
    assert moves["lora"][0].mode == "lora"
    assert moves["lora"][0].lora.rank == 2
    assert moves["full"] == ()


def test_of_an_adapter_backbone_only_the_vit_inside_is_held():
    plan = plan_trials(study(tune=("head",), seeds=1, options={"data": str(trees().train)}), adapter_recipe)
    assert plan.trials[0].run.trainable == (Trainable(pattern="backbone.vit", mode="frozen"),)


def adapter_recipe(*, data: Path, fraction: float = 1.0, seed: int = 0):
    from vistruct.backbones.vit_adapter import VitAdapterConfig

    run = detect.recipe(data=data, val=data, fraction=fraction, seed=seed)
    return with_values(run, task=run.only.task.model_copy(update={"backbone": VitAdapterConfig(vit=detect.VIT_S)}))


@pytest.mark.parametrize("tuning", ["head", "lora", "full"])
def test_every_start_begins_with_the_same_head_for_the_same_seed(pretrained, tmp_path, tuning):
    plan = plan_trials(study(pretrained, tune=(tuning,)), recipe)
    heads = {(p.init, p.seed): first_head(p.run, tmp_path / p.name) for p in plan.trials}
    for seed in (0, 1):
        for random, ours in zip(heads["random", seed], heads["ours", seed], strict=True):
            assert torch.equal(random, ours)
    assert not torch.equal(heads["random", 0][1], heads["random", 1][1])


def test_heads_of_detectors_are_alike_too_with_weights_from_a_run(tmp_path):
    """The real thing: a ViT whose position embeddings are loaded, a pyramid and FCOS."""
    small = {"data": str(trees().train), "val": str(trees().test)}
    ship(build(small_detector(data=trees().train, val=trees().test, seed=7), tmp_path / "init"))
    for tuning in ("head", "lora"):
        inits = {"random": "random", "ours": str(tmp_path / "init")}
        one = Study(recipe="detect", inits=inits, tune=(tuning,), seeds=1, options=small)
        random, ours = plan_trials(one, small_detector).trials
        states = [build(p.run, tmp_path / f"{tuning}-{p.init}").model.state_dict() for p in (random, ours)]
        differing = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
        assert differing
        # Adapters too: what is drawn for them does not depend on where the weights come from.
        assert all(name.startswith("backbone.") and ".lora_" not in name for name in differing)


def small_detector(*, data: Path, val: Path, size: int = 128, backbone: Path | None = None, seed: int = 0):
    from vistruct.heads.fcos import FcosConfig

    run = detect.recipe(data=data, val=val, size=size, overlap=32, channels=16, seed=seed)
    run = detect.made_tiny(run, FcosConfig(num_convs=1))
    return run.model_copy(update={"init": backbone})


def test_a_random_start_has_the_architecture_of_the_others_and_full_rates(pretrained):
    plan = plan_trials(study(pretrained, options={"width": 8}), recipe)
    by_start = {p.init: p.run for p in plan.trials}
    assert by_start["random"].only.task == by_start["ours"].only.task
    assert by_start["random"].optim.layer_decay == 1.0
    assert by_start["ours"].optim.layer_decay == 0.8
    assert any("lower layers are slowed" in note for note in plan.notes)
    same = plan_trials(study(pretrained, scratch_layer_decay=None), recipe)
    assert {p.run.optim.layer_decay for p in same.trials} == {0.8}
    assert same.notes == []


def test_a_random_start_can_take_the_architecture_of_one_of_several(pretrained, tmp_path):
    ship(build(recipe(seed=3, width=4), tmp_path))
    inits = {"wide": str(pretrained), "narrow": str(tmp_path), "scratch": "random:narrow"}
    plan = plan_trials(study(inits=inits, seeds=1), sized)
    widths = {p.init: p.run.only.task.backbone.width for p in plan.trials}
    assert widths == {"wide": 8, "narrow": 4, "scratch": 4}
    assert any("different architectures" in note for note in plan.notes)


def sized(*, backbone: Path | None = None, fraction: float = 1.0, seed: int = 0):
    import json

    width = 8 if backbone is None else json.loads((backbone / "backbone/backbone.json").read_text())["config"]["width"]
    return recipe(backbone=backbone, fraction=fraction, seed=seed, width=width)


def test_a_rate_belongs_to_its_way_and_settings_to_every_run():
    plan = plan_trials(study(tune=("head", "full"), lr={"head": 0.3}, settings=("log_every=7",)), recipe)
    assert {p.tuning: p.run.optim.lr for p in plan.trials} == {"head": 0.3, "full": 1e-2}
    assert {p.run.log_every for p in plan.trials} == {7}


def test_recipes_without_options_of_their_own_for_it_are_set_from_outside(pretrained):
    def bare(*, steps: int = 4):
        return recipe(steps=steps).model_copy(update={"optim": AdamW(lr=0.5)})

    plan = plan_trials(study(pretrained, fractions=(0.5,), lr={"full": 0.25}), bare)
    ours = next(p.run for p in plan.trials if p.init == "ours" and p.seed == 1)
    drawn = ours.only.data
    assert (drawn.fraction, drawn.fraction_seed, ours.optim.lr, ours.init) == (0.5, 1, 0.25, pretrained)


def test_mistakes_are_told_before_anything_runs(pretrained):
    def refused(make=recipe, **changes) -> str:
        with pytest.raises(UserError) as caught:
            plan_trials(study(pretrained, **changes), make)
        return str(caught.value)

    assert "--seeds" in refused(options={"seed": 3})
    assert "--init NAME=PATH" in refused(options={"backbone": "x"})
    assert "did you mean 'steps'" in refused(options={"stps": 3})
    assert "steps" in refused(options={"steps": "many"})
    assert "no such run" in refused(inits={"ours": "/nowhere"})
    assert "no evaluation" in refused(options={"metric": "none"})
    assert "needs data" in refused(adapter_recipe)
    assert "twice" in refused(fractions=(0.5, 0.5))
    assert "0 and up to 1" in refused(fractions=(1.5,))
    assert "no init 'our'" in refused(against=("our",))
    assert "has weights" in refused(inits={"a": "random", "b": "random:a"})
    assert "cannot name" in refused(inits={"a-b": "random"})
    with pytest.raises(UserError, match="did you mean 'detect'"):
        plan_trials(study().model_copy(update={"recipe": "detct"}))


def test_a_study_is_its_own_input_and_unknown_keys_are_named(pretrained, tmp_path):
    full = study(pretrained, fractions=(0.1, 1.0), tune=("head", "full"), lr={"full": 1e-4}, options={"steps": 3})
    file = tmp_path / "study.yaml"
    file.write_text(study_to_yaml(full))
    assert read_study(file) == full
    assert list(read_study(file).inits) == ["random", "ours"]
    file.write_text("recipe: toy\ninits: {random: random}\nseds: 3\n")
    with pytest.raises(UserError, match=r"did you mean 'seeds'"):
        read_study(file)
    file.write_text("- 1")
    with pytest.raises(UserError, match="keys and values"):
        read_study(file)
    with pytest.raises(UserError, match="no such file"):
        read_study(tmp_path / "absent.yaml")


def test_the_baseline_is_the_random_start_unless_told():
    assert Study(recipe="x", inits={"a": "a.pt", "scratch": "random:a"}).baseline == "scratch"
    assert Study(recipe="x", inits={"a": "a.pt", "b": "b.pt"}).baseline == "a"
    assert Study(recipe="x", inits={"a": "a.pt", "random": "random"}, against=("a",)).baseline == "a"


def test_the_metric_is_the_usual_one_or_the_one_asked_for(pretrained):
    run = plan_trials(study(), recipe).trials[0].run
    assert chosen_metric(study(), run) == "val/loss"
    assert chosen_metric(study(metric="AP"), run) == "val/AP"
    assert chosen_metric(study(metric="val/AP/tree"), run) == "val/AP/tree"
    assert is_higher_better(study(), run, "val/loss") is False
    assert is_higher_better(study(), run, "val/unmatched") is None
    assert is_higher_better(study(higher_is_better=True), run, "val/loss") is True
    assert is_higher_better(study(higher_is_better=True, metric="other"), run, "val/loss") is False
    own = plan_trials(study(options={"metric": "classes"}), recipe).trials[0].run
    assert chosen_metric(study(), own) == "val/AP"
    assert is_higher_better(study(), own, "val/AP") is True


def test_a_cell_is_another_one_where_its_run_its_data_or_its_weights_are(pretrained, tmp_path):
    def names(plan, data):
        return {
            c.name: c.arguments["directory"] for c in study_jobs(study(pretrained), plan, tmp_path, data, "val/loss")
        }

    plan = plan_trials(study(pretrained), recipe)
    data = data_fingerprints(plan.trials, tmp_path)
    assert set(data) == {"train", "val"}
    base = names(plan, data)
    assert names(plan, data) == base
    assert not set(names(plan, data | {"val": "1"}).values()) & set(base.values())
    longer = plan_trials(study(pretrained, options={"steps": 5}), recipe)
    assert not set(names(longer, data).values()) & set(base.values())
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"a")
    before = init_digest(file)
    file.write_bytes(b"b")
    assert init_digest(file) != before
    assert init_digest(None) == ""
    assert len(init_digest(pretrained)) == 64


def test_each_worker_sees_an_accelerator_of_its_own(tmp_path):
    trials = [Job(name=name, call="toy_jobs:meet_on_device", arguments={"folder": str(tmp_path), "name": name})
             for name in ("a", "b")]  # fmt: skip
    found = run_jobs(trials, tmp_path / "out", workers=2, devices=("3", "GPU-x"), show=Lines())
    assert {one["device"] for one in found.values()} == {"3", "GPU-x"}


def test_percent_keeps_small_shares():
    assert [percent(fraction) for fraction in (1.0, 0.1, 0.025, 0.001)] == ["100%", "10%", "2.5%", "0.1%"]


def test_adapters_are_a_variant_of_an_init(tmp_path, pretrained):
    rule = Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2))
    tuned = train(recipe(backbone=pretrained).model_copy(update={"trainable": (rule,)}), tmp_path / "tuned")
    inits = {"random": "random", "ours": str(pretrained), "tuned": str(pretrained)}
    one = study(inits=inits, adapters={"tuned": str(tuned)})
    assert read_study_of(tmp_path, one) == one
    plan = plan_trials(one, recipe)
    assert {p.init: p.run.adapters for p in plan.trials} == {"random": None, "ours": None, "tuned": tuned}
    assert {p.run.init for p in plan.trials if p.init != "random"} == {pretrained}
    digests = weight_digests(one)
    assert digests["tuned"][0].startswith(digests["ours"][0])
    assert digests["tuned"] != digests["ours"]
    with pytest.raises(UserError, match="whose weights are random"):
        study(inits=inits, adapters={"random": str(tuned)})
    with pytest.raises(UserError, match="no init 'tund'"):
        study(inits=inits, adapters={"tund": str(tuned)})


def read_study_of(folder: Path, one: Study) -> Study:
    (folder / "study.yaml").write_text(study_to_yaml(one))
    return read_study(folder / "study.yaml")


def test_adapters_of_a_pretraining_are_there_once_it_has_run():
    one = study(
        pretrain={"joint": {"recipe": "detect"}},
        inits={"eva": "eva.pt", "joint": "eva.pt"},
        adapters={"joint": "joint"},
    )
    assert one.unpretrained.adapters == {}
    assert one.with_weights({"joint": "runs/joint"}).adapters == {"joint": "runs/joint"}


def test_the_command_takes_adapters_by_name_or_for_the_only_weights():
    known = {"random": "random", "eva": "eva.pt"}
    found = with_adapters(["eva=a.pt"], known)
    assert found == {"inits": known, "adapters": {"eva": "a.pt"}}
    found = with_adapters(["runs/x/adapters/step_000500", "b-c.pt"], known)
    assert found["inits"] == known | {"eva_step_000500": "eva.pt", "eva_b_c": "eva.pt"}
    assert found["adapters"] == {"eva_step_000500": "runs/x/adapters/step_000500", "eva_b_c": "b-c.pt"}
    with pytest.raises(UserError, match="to which init"):
        with_adapters(["a.pt"], known | {"other": "o.pt"})
    with pytest.raises(UserError, match="two adapters"):
        with_adapters(["eva=a.pt", "eva=b.pt"], known)
