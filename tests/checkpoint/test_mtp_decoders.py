"""A `*_model.pth` of MTP's pretraining, written by its key layout, as the start of each of our three tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mtp_layout import layout
from torch import Tensor

from vistruct.backbones.vit_rvsa import MTP_L, VitRvsaConfig
from vistruct.checkpoint.mtp_decoders import MASKS, ORIENTED, PIXELS, Decoder, take_decoder
from vistruct.checkpoint.whole import load_start
from vistruct.config import Part
from vistruct.contracts import DataInfo
from vistruct.data.formats.boxes.published import DIOR_R, DOTA_2_0, FAIR1M, SIOR, SOTA
from vistruct.errors import UserError
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.oriented_roi import OrientedRoiConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

TINY = VitRvsaConfig(width=16, depth=4, heads=2, interval=2, out_indices=(0, 1, 2, 3), image_size=64, drop_path=0.0)
FASTER = FasterRcnnConfig(roi=RoiConfig(width=12))
HEADS: dict[str, Part] = {
    "ss": UperNetConfig(channels=8),
    "is": MaskRcnnConfig(box=FASTER, mask_width=6),
    "rd": OrientedRcnnConfig(roi=OrientedRoiConfig(width=12)),
}


def model_file(folder: Path, **changes: Any) -> tuple[Path, dict[str, Tensor]]:
    """As the published script saves it: with what its optimiser and its losses are."""
    torch.manual_seed(0)
    state = {f"encoder.{name}": torch.rand_like(value.float()) for name, value in TINY.build().state_dict().items()}
    state |= {name: torch.rand(shape) for name, shape in layout(16, **changes).items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 6e-5}]}
    values = {"epoch": 1, "iteration": 9, "state_dict": state, "optimizer": optimizer, "loss_pretrain": np.ones(3)}
    torch.save(values, folder / "last_vit_b_rvsa_ss_is_rd_pretrn_model.pth")
    return folder / "last_vit_b_rvsa_ss_is_rd_pretrn_model.pth", state


def task_of(kind: str, names: Sequence[str], head: Part | None = None, backbone: Part = TINY) -> Any:
    torch.manual_seed(1)
    channels = 8 if backbone is TINY else 256
    neck = FpnConfig(channels=channels)
    part = head or HEADS[kind]
    config = SegmentConfig(backbone=backbone, head=part) if kind == "ss" else DetectConfig(
        backbone=backbone, neck=neck, head=part
    )  # fmt: skip
    return config.build(DataInfo(class_names=tuple(names)), Path())


def test_pixels_begin_with_the_classes_of_their_data_set_and_its_background(tmp_path):
    file, state = model_file(tmp_path)
    task = task_of("ss", ("background", *DIOR_R))
    coverage = load_start(task, file)
    assert (coverage.fresh, coverage.missing, coverage.by_class) == ((), (), ())
    assert {*coverage.matched, *coverage.resized} == set(task.state_dict())
    assert torch.equal(task.head.conv_seg.weight, state["semseghead_2.1.weight"])
    bottleneck = "fpn_bottleneck.conv.weight"
    assert torch.equal(task.head.get_parameter(bottleneck), state[f"semsegdecoder.decode_head.{bottleneck}"])
    said = "\n".join(coverage.lines())
    assert "its semsegdecoder, with the last layers of SIOR" in said
    assert "not read: epoch, iteration, optimizer, loss_pretrain" in said
    other = task_of("ss", ("ground", "Small Car", "background"))  # of FAST, in an order of its own
    load_start(other, file)
    assert torch.equal(other.head.conv_seg.weight[1:], state["semseghead_3.1.weight"][[30, 0]])


def test_masks_begin_with_the_last_layers_of_their_data_set_row_by_row(tmp_path):
    file, state = model_file(tmp_path)
    task = task_of("is", DOTA_2_0)  # SOTA's classes in another order
    coverage = load_start(task, file)
    assert coverage.fresh == ()
    order = [SOTA.index(name) for name in DOTA_2_0]
    assert torch.equal(task.head.box.roi.logits.weight, state["inssegroiboxhead_fc_cls1.weight"][[*order, 18]])
    deltas = state["inssegroiboxhead_fc_reg1.bias"].view(18, 4)[order].flatten()
    assert torch.equal(task.head.box.roi.deltas.bias, deltas)
    assert torch.equal(task.head.logits.mask_fcn_logits.weight, state["inssegroimaskhead_conv1.weight"][order])
    pyramid = task.neck.pyramid.inner_blocks[2][0]
    assert torch.equal(pyramid.weight, state["inssegdecoder.neck.lateral_convs.2.conv.weight"])
    faster = task_of("is", DIOR_R, head=FASTER)
    assert load_start(faster, file).fresh == ()
    assert torch.equal(faster.head.roi.logits.weight, state["inssegroiboxhead_fc_cls2.weight"])


def test_oriented_boxes_begin_with_their_own_pyramid_and_one_box_for_all_classes(tmp_path):
    file, state = model_file(tmp_path)
    task = task_of("rd", FAIR1M)
    coverage = load_start(task, file)
    assert coverage.fresh == ()
    assert torch.equal(task.head.roi.logits.weight, state["rotdetroiboxhead_fc_cls3.weight"])
    assert torch.equal(task.head.roi.deltas.weight, state["rotdetroiboxhead_fc_reg3.weight"])
    assert torch.equal(task.head.rpn.head.bbox_pred.weight, state["rotdetdecoder.rpn_head.rpn_reg.weight"])
    pyramid = task.neck.pyramid.layer_blocks[1][0]
    assert torch.equal(pyramid.weight, state["rotdetdecoder.neck.fpn_convs.1.conv.weight"])
    assert torch.equal(task.backbone.pos_embed, state["encoder.pos_embed"])


def test_classes_that_several_data_sets_have_are_a_question_that_can_be_answered(tmp_path):
    file, state = model_file(tmp_path)
    names = ("ship", "bridge", "harbor")  # of SOTA and of SIOR
    with pytest.raises(UserError, match="sota and sior each have 3 of these classes") as caught:
        load_start(task_of("rd", names), file)
    assert caught.value.fix == "--set start_set=sota or --set start_set=sior"
    task = task_of("rd", names)
    load_start(task, file, start_set="sior")
    rows = [*map(SIOR.index, names), 20]
    assert torch.equal(task.head.roi.logits.weight, state["rotdetroiboxhead_fc_cls2.weight"][rows])
    with pytest.raises(UserError, match="no last layers of a data set 'dior'"):
        load_start(task_of("rd", names), file, start_set="dior")


def test_without_a_class_in_common_the_trunk_comes_alone_and_so_it_does_of_other_data_sets(tmp_path):
    file, _ = model_file(tmp_path)
    coverage = load_start(task_of("rd", ("tree",)), file)
    layers = {f"head.roi.{layer}.{name}" for layer in ("logits", "deltas") for name in ("weight", "bias")}
    assert set(coverage.fresh) == layers
    assert "none of its data sets has one of these classes" in "\n".join(coverage.lines())
    own, _ = model_file(tmp_path, classes=(5, 20, 37))  # somebody's own data set under the number of SOTA
    coverage = load_start(task_of("rd", ("plane", "ship")), own)
    assert "1 of 2 classes by their names: ship" in "\n".join(coverage.lines())
    assert "with the last layers of SIOR" in "\n".join(coverage.lines())
    with pytest.raises(UserError, match="no last layers of a data set 'sota'"):
        load_start(task_of("rd", ("plane",)), own, start_set="sota")


def test_what_has_no_such_decoder_is_sent_to_the_backbone(tmp_path):
    file, _ = model_file(tmp_path)
    with pytest.raises(UserError, match="Fcos reads no published weights") as caught:
        load_start(task_of("is", ("ship",), head=FcosConfig()), file)
    assert caught.value.fix == f"--backbone {file} in place of --start"
    with pytest.raises(UserError, match=r"head\.\S+ is \[\S+ .*\] there and .* here"):
        load_start(task_of("ss", ("background", "dam"), head=UperNetConfig(channels=16)), file)
    torch.save({"state_dict": {"backbone.x.weight": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="this file is none of it"):
        load_start(task_of("rd", ("ship",)), tmp_path / "x.pth", start_set="sota")


class Runs:
    def __reduce__(self) -> Any:
        return eval, ("print('ran')",)


def test_a_file_that_would_run_code_runs_nothing(tmp_path, capfd):
    file, state = model_file(tmp_path)
    torch.save({"state_dict": state, "loss_pretrain": Runs()}, file)
    for kind in HEADS:
        with pytest.raises(UserError, match="could run code"):
            load_start(task_of(kind, ("background", "ship")), file)
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize(("kind", "decoder"), [("ss", PIXELS), ("is", MASKS), ("rd", ORIENTED)])
def test_at_the_published_sizes_every_tensor_of_neck_and_head_is_there(kind: str, decoder: Decoder) -> None:
    heads = {"ss": UperNetConfig(channels=256), "is": MaskRcnnConfig(), "rd": OrientedRcnnConfig()}
    names = ("background", *SOTA) if kind == "ss" else SOTA
    with torch.device("meta"):
        task = task_of(kind, names, heads[kind], MTP_L)
        state = {name: torch.empty(shape) for name, shape in layout(1024, c=256, fc=1024, m=256).items()}
    taken = take_decoder(state, decoder, names, Path("x.pth"))
    assert taken.class_names == names
    bottom = {key.removeprefix("neck."): value for key, value in taken.state.items() if key.startswith("neck.")}
    top = {key: value for key, value in taken.state.items() if not key.startswith("neck.")}
    for module, found in ((task.neck, bottom), (task.head, top)):
        own = {} if module is None else {key: value.shape for key, value in module.state_dict().items()}
        converted = {} if module is None else module.traits.convert_keys(found)
        assert {key: value.shape for key, value in converted.items()} == own
        if module is not None:
            again = module.traits.to_published(converted)
            assert {key: id(value) for key, value in again.items()} == {key: id(value) for key, value in found.items()}


def test_the_classes_that_mmengine_leaves_beside_the_weights_are_found_by_name(tmp_path):
    source = task_of("rd", ("ship", "Storage Tank", "plane"))
    torch.nn.init.normal_(source.head.roi.logits.weight)
    places = {"pyramid.inner_blocks": "lateral_convs", "pyramid.layer_blocks": "fpn_convs"}
    names = {
        "rpn.head.conv.0.0": "rpn_head.rpn_conv",
        "rpn.head.cls_logits": "rpn_head.rpn_cls",
        "rpn.head.bbox_pred": "rpn_head.rpn_reg",
        "roi.layers.fc6": "roi_head.bbox_head.shared_fcs.0",
        "roi.layers.fc7": "roi_head.bbox_head.shared_fcs.1",
        "roi.logits": "roi_head.bbox_head.fc_cls",
        "roi.deltas": "roi_head.bbox_head.fc_reg",
    }
    state: dict[str, Tensor] = {}
    for key, value in source.state_dict().items():
        part, _, name = key.partition(".")
        path, _, leaf = name.rpartition(".")
        if part == "head":
            key = f"{names[path]}.{leaf}"
        elif part == "neck":
            front, number, _ = path.rsplit(".", 2)
            key = f"neck.{places[front]}.{number}.conv.{leaf}"
        state[key] = value
    for place in (
        {"dataset_meta": {"classes": ("ship", "Storage Tank", "plane")}},
        {"CLASSES": ["ship", "x", "plane"]},
    ):
        torch.save({"meta": place, "state_dict": state}, tmp_path / "x.pth")
        task = task_of("rd", ("plane", "storage-tank"))
        coverage = load_start(task, tmp_path / "x.pth")
        assert torch.equal(task.head.roi.logits.weight[[0, 2]], source.head.roi.logits.weight[[2, 3]])
        knows = "dataset_meta" in place
        assert torch.equal(task.head.roi.logits.weight[1], source.head.roi.logits.weight[1]) == knows
        assert f"{1 + knows} of 2 classes by their names" in "\n".join(coverage.lines())
    torch.save({"state_dict": state}, tmp_path / "x.pth")  # not told: as many, in the same order
    coverage = load_start(task_of("rd", ("a", "b", "c")), tmp_path / "x.pth")
    assert "it does not name its 3 classes: taken in the order a, b, c" in "\n".join(coverage.lines())
