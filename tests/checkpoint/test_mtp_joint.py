"""A run of the pretraining recipe as one `*_model.pth` of MTP, by its key layout, and what has no place in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mtp_layout import layout
from torch import Tensor, nn

from vistruct.checkpoint import mtp_joint
from vistruct.checkpoint.export import export
from vistruct.checkpoint.tensors import read_tensors
from vistruct.checkpoint.weights import load_backbone
from vistruct.checkpoint.whole import load_start
from vistruct.cli.main import main
from vistruct.config import Run
from vistruct.contracts import FeatureSpec
from vistruct.data.formats.boxes.published import DOTA_2_0, FAST, SIOR, SOTA
from vistruct.data.reading import Named
from vistruct.engine.run import build
from vistruct.engine.ship import ship
from vistruct.errors import UserError
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.recipes.mtp import pretrain
from vistruct.recipes.mtp.fine_tuning import small_parts
from vistruct.samples.made_scenes import coco_folder

KINDS = ("ss", "is", "rd")


def tiny(tasks: Sequence[Any] = KINDS, model: Any = "rvsa_b", **sets: Path) -> Run:
    """The recipe's tiny twin on data sets of the test's choice."""
    data = tuple(Named(f"{name}={path}") for name, path in sets.items())
    split = "train" if all(path.is_dir() for path in sets.values()) else None
    run = pretrain.recipe(data=data, split=split, tasks=tuple(tasks), model=model, size=96, batch=4, steps=1)
    return smaller(run)


def smaller(run: Run) -> Run:
    streams = {}
    for name, one in run.streams.items():
        task: Any = one.task
        streams[name] = one.model_copy(update={"task": task.model_copy(update=small_parts(task))})
    return run.model_copy(update={"streams": streams, "workers": 0})


def shipped(run: Run, out: Path) -> Path:
    """A finished run without the training: any weights are as good, as long as no two are alike."""
    out.mkdir()
    state = build(run, out)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in state.model.state_dict().items():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator).mul_(0.1))
            elif name.endswith("num_batches_tracked"):
                value.fill_(7)
    ship(state)
    return out


def coco(names: tuple[str, ...]) -> Path:
    return coco_folder(names, "", "images", masks=True) / "train.json"


@pytest.fixture(scope="module", autouse=True)
def published_sizes() -> Any:
    """As if the published code built what the tiny run has."""
    tasks = tiny(near=coco(("plane", "ship"))).streams
    parts: dict[str, Any] = {kind: tasks[f"near_{kind}"].task for kind in KINDS}
    with pytest.MonkeyPatch.context() as patch:
        for kind, task in parts.items():
            patch.setitem(mtp_joint.PARTS, kind, (task.neck, task.head))
        patch.setitem(mtp_joint.ENCODERS, "vit_b_rvsa", parts["ss"].backbone)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shipped(pretrain.tiny().model_copy(update={"evals": {}}), tmp_path_factory.mktemp("runs") / "run")


def read(folder: Path) -> dict[str, Tensor]:
    values = torch.load(folder / "model.pth", weights_only=True)
    assert values.keys() == {"state_dict"}
    return values["state_dict"]


def weights(run: Path, task: str) -> dict[str, Tensor]:
    return read_tensors(run / "model" / task / "model.safetensors")


def test_the_tiny_run_has_the_names_and_shapes_of_the_published_layout(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(finished), "--format", "mtp-original", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    state = read(tmp_path / "out")
    wanted = layout(32, c=16, fc=32, m=16, mask_convs=1, classes={1: 18, 3: 37})
    wanted = {key: shape for key, shape in wanted.items() if ".conv_seg." not in key}  # there used by nobody
    assert {k: tuple(v.shape) for k, v in state.items() if not k.startswith("encoder.")} == wanted
    sota, pixels, masks = (weights(finished, f"sota_{kind}") for kind in ("rd", "ss", "is"))
    fast = weights(finished, "fast_is")
    inner = {key.removeprefix("backbone."): value for key, value in sota.items() if key.startswith("backbone.")}
    assert {k.removeprefix("encoder.") for k in state if k.startswith("encoder.")} == inner.keys()
    assert all(torch.equal(state[f"encoder.{key}"], value) for key, value in inner.items())
    for key, value in (
        ("semseghead_1.1.weight", pixels["head.conv_seg.weight"]),
        ("semsegdecoder.decode_head.psp_modules.2.1.bn.running_var", pixels["head.psp_modules.2.1.bn.running_var"]),
        ("inssegroiboxhead_fc_reg3.bias", fast["head.box.roi.deltas.bias"]),
        ("inssegroimaskhead_conv3.weight", fast["head.logits.mask_fcn_logits.weight"]),
        ("inssegdecoder.rpn_head.rpn_reg.weight", masks["head.box.rpn.head.bbox_pred.weight"]),
        ("rotdetdecoder.neck.fpn_convs.2.conv.weight", sota["neck.pyramid.layer_blocks.2.0.weight"]),
        ("rotdetroiboxhead_fc_cls1.weight", sota["head.roi.logits.weight"]),
    ):
        assert torch.equal(state[key], value), key
    said = (tmp_path / "out/README.md").read_text()
    assert "data set 1 is 'sota', with the classes of SOTA\n" in said
    assert "data set 3 is 'fast', with the classes of FAST\n" in said
    assert "semsegdecoder.decode_head.conv_seg and encoder.norm" in said


def test_each_task_begins_with_all_of_its_own_again(tmp_path: Path, finished: Path) -> None:
    export(finished, tmp_path / "out", format="mtp-original", dtype="bf16")
    for name, number in (("sota", "sota"), ("fast", "fast")):
        for kind in KINDS:
            task, _ = mtp_joint.load_model(finished / "model" / f"{name}_{kind}")
            before = {key: value.clone() for key, value in task.state_dict().items()}
            nn.init.zeros_(task.backbone.pos_embed)
            for parameter in task.parameters():
                nn.init.constant_(parameter, 9.0)
            coverage = load_start(task, tmp_path / "out/model.pth", start_set=number)
            assert (coverage.fresh, coverage.missing, coverage.by_class) == ((), (), ())
            for key, value in task.state_dict().items():
                exact = before[key].bfloat16().float() if value.is_floating_point() else before[key]
                assert torch.equal(value, exact), key
    backbone = task.backbone.config.build()
    assert not load_backbone(backbone, tmp_path / "out").missing


def test_classes_of_a_published_set_in_another_order_are_brought_into_its_order(tmp_path: Path) -> None:
    run = shipped(tiny(mine=coco(DOTA_2_0), far=coco(("ship", "dam"))), tmp_path / "run")
    notes = export(run, tmp_path / "out", format="mtp-original").notes
    state = read(tmp_path / "out")
    assert notes[0] == "data set 1 is 'mine', with the classes of SOTA, whose rows were brought into its order"
    assert notes[1].startswith(
        "data set 2 is 'far', with 2 classes of its own (ship, dam); the published code has SIOR's"
    )
    order = [DOTA_2_0.index(name) for name in SOTA]
    boxes, masks, pixels = (weights(run, f"mine_{kind}") for kind in ("rd", "is", "ss"))
    assert torch.equal(state["rotdetroiboxhead_fc_cls1.weight"], boxes["head.roi.logits.weight"][[*order, 18]])
    assert torch.equal(state["rotdetroiboxhead_fc_reg1.weight"], boxes["head.roi.deltas.weight"])
    deltas = masks["head.box.roi.deltas.weight"].view(18, 4, -1)[order].flatten(0, 1)
    assert torch.equal(state["inssegroiboxhead_fc_reg1.weight"], deltas)
    assert torch.equal(state["inssegroimaskhead_conv1.bias"], masks["head.logits.mask_fcn_logits.bias"][order])
    assert torch.equal(state["semseghead_1.1.bias"], pixels["head.conv_seg.bias"][[0, *(i + 1 for i in order)]])
    assert torch.equal(state["semseghead_2.1.weight"], weights(run, "far_ss")["head.conv_seg.weight"])


def test_the_other_published_backbone_with_one_of_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny(("rd",), "intern_xl", near=coco(SIOR))
    part: Any = run.streams["near_rd"].task
    error = refused(shipped(run, tmp_path / "run"), tmp_path / "x")
    assert "its backbone is not of the size of internimage_xl: patch_embed.conv1.weight" in error.what
    monkeypatch.setitem(mtp_joint.ENCODERS, "internimage_xl", part.backbone)
    notes = export(tmp_path / "run", tmp_path / "out", format="mtp-original").notes
    assert notes == ("data set 2 is 'near', with the classes of SIOR",)
    state, own = read(tmp_path / "out"), read_tensors(tmp_path / "run/model/model.safetensors")
    assert torch.equal(
        state["encoder.levels.1.downsample.conv.weight"], own["backbone.levels.1.downsample.conv.weight"]
    )
    assert torch.equal(state["rotdetroiboxhead_fc_cls2.bias"], own["head.roi.logits.bias"])


def test_numbers_are_the_published_ones_and_no_rows_can_be_taken_for_others() -> None:
    own, twenty = ("tree",), tuple(f"tree {i}" for i in range(20))
    numbers = mtp_joint._numbers({"a": own, "b": twenty, "c": FAST, "d": SIOR[::-1], "e": SIOR})
    assert numbers == {"a": (1, ""), "b": (4, ""), "c": (3, "fast"), "d": (2, "sior"), "e": (5, "")}


def refused(run: Path, out: Path, **told: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        export(run, out, format="mtp-original", **told)
    assert not out.exists()
    return caught.value


def of_task(run: Run, name: str, **parts: Any) -> Run:
    one = run.streams[name]
    task: Any = one.task
    changed = one.model_copy(update={"task": task.model_copy(update=parts)})
    return run.model_copy(update={"streams": {**run.streams, name: changed}})


def test_what_the_layout_has_no_place_for_is_named(tmp_path: Path, finished: Path) -> None:
    run = tiny(("ss",), near=coco(("plane", "ship")))
    head = mtp_joint.PARTS["ss"][1]
    normed = of_task(run, "near_ss", head=head.model_copy(update={"norm": "group"}))
    error = refused(shipped(normed, tmp_path / "norm"), tmp_path / "x")
    assert "near_ss has another decoder than semsegdecoder is there" in error.what
    assert "running_mean is [16] there and not here" in error.what
    assert error.fix is not None
    assert "--format backbone-plain" in error.fix
    wide = of_task(run, "near_ss", head=head.model_copy(update={"channels": 24}))
    assert (
        "is [16, 32, 1, 1] there and [24, 32, 1, 1] here"
        in refused(shipped(wide, tmp_path / "wide"), tmp_path / "x").what
    )
    task: Any = run.streams["near_ss"].task
    thick = of_task(run, "near_ss", backbone=task.backbone.model_copy(update={"mlp_ratio": 2.0}))
    error = refused(shipped(thick, tmp_path / "thick"), tmp_path / "x")
    assert "its backbone is not of the size of vit_b_rvsa or vit_l_rvsa: blocks.0.mlp.fc1" in error.what
    assert "leave --lora out" in (refused(finished, tmp_path / "x", lora=finished).fix or "")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (UperNetConfig(channels=8, norm="group"), "have batch norms, and this one's are of kind 'group'"),
        (FpnConfig(channels=8, norm=True), r"pyramid.inner_blocks.0.1.weight has no name in published pyramids"),
        (MaskRcnnConfig(mask_width=8), r"deeper.weight has no name in published models \(1 such tensors\)"),
    ],
)
def test_a_layer_without_a_published_name_is_named(part: Any, words: str) -> None:
    specs = tuple(FeatureSpec(channels=8, stride=stride) for stride in (4, 8, 16, 32))
    module = part.build(specs) if isinstance(part, FpnConfig) else part.build(specs, 3)
    state = module.state_dict()
    if isinstance(part, MaskRcnnConfig):
        state |= {"deeper.weight": torch.ones(1)}
    with pytest.raises(UserError, match=words):
        module.traits.to_published(state)


def test_two_trunks_and_a_lost_model_are_named(tmp_path: Path) -> None:
    run = tiny(("rd",), near=coco(("plane", "ship")), far=coco(("dam", "ship", "bridge")))
    apart = {name: one.model_copy(update={"trunk": ""}) for name, one in run.streams.items()}
    out = shipped(run.model_copy(update={"streams": apart}), tmp_path / "run")
    error = refused(out, tmp_path / "x")
    assert "is one tensor for all data sets there, and another in near_rd and in far_rd" in error.what
    (out / "model/far_rd").rename(tmp_path / "gone")
    assert "the model of far_rd is not among those of this run" in refused(out, tmp_path / "x").what
    assert export(out / "model/near_rd", tmp_path / "one", format="mtp-original").notes[0].startswith("data set 1 is")


def test_a_file_that_reads_back_otherwise_is_not_there(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = mtp_joint.placed

    def wrong(state: Any, decoder: Any, number: int) -> dict[str, Tensor]:
        found = right(state, decoder, number)
        return {key: value.flip(0) if key == "inssegroiboxhead_fc_cls3.bias" else value for key, value in found.items()}

    monkeypatch.setattr(mtp_joint, "placed", wrong)
    assert "head.box.roi.logits.bias did not come back as it was written" in refused(finished, tmp_path / "x").what
