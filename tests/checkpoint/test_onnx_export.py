"""ONNX files: onnxruntime computes what the model does, at other sizes too; nothing is there that was not proved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from public_folders import ship_task
from toy_pixels import CellsConfig, DotsConfig

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.checkpoint import onnx_compare
from vistruct.checkpoint.load import ModelCard
from vistruct.checkpoint.onnx_export import export_onnx, prove
from vistruct.checkpoint.onnx_graph import plan_of
from vistruct.checkpoint.onnx_images import mirrored_and_cut
from vistruct.checkpoint.onnx_run import INSTALL, Freedom
from vistruct.contracts import DataInfo, Sample
from vistruct.data.input import Input
from vistruct.errors import UserError
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.heads.detr import DetrConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.linear import LinearConfig
from vistruct.heads.mask2former_maps import Mask2FormerMapsConfig
from vistruct.heads.mask_queries import MaskQueriesConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_fcos import OrientedFcosConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.tasks.classify import ClassifyConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig

VIT = InternVitConfig(image_size=64, patch=16, width=16, depth=1, heads=2)
CONV = TimmConfig(name="test_resnet")  # timm's smallest
ANY = Freedom(batch=True, size=True)
ADAPTER = VitAdapterConfig(
    vit=InternVitConfig(image_size=64, patch=16, width=16, depth=2, heads=2),
    groups=((0, 0), (1, 1)),
    heads=2,
    conv_width=4,
    extra_extractors=1,
)
QUERIES = {"encoder_layers": 1, "decoder_layers": 2, "heads": 2}
STAGES = {
    "rpn": RpnConfig(candidates_test=50, proposals_test=30),
    "roi": RoiConfig(width=32),
    "score_threshold": 0.2,
}
TASKS = {
    "segment": SegmentConfig(backbone=CONV, head=DotsConfig()),
    "segment by a upernet": SegmentConfig(backbone=CONV, head=UperNetConfig(channels=16)),
    "segment by a linear layer": SegmentConfig(backbone=CONV, head=LinearConfig()),
    "segment by a vit": SegmentConfig(backbone=VIT, head=DotsConfig()),
    "segment by mask2former": SegmentConfig(
        backbone=CONV,
        head=Mask2FormerMapsConfig(
            layers=MaskQueriesConfig(queries=5, width=16, encoder_ffn=16, decoder_ffn=16, **QUERIES)
        ),
    ),
    "segment by a vit-adapter": SegmentConfig(backbone=ADAPTER, head=DotsConfig()),
    "change": SegmentConfig(kind="change", fusion="difference", backbone=CellsConfig(cell=8), head=DotsConfig()),
    "classify": ClassifyConfig(backbone=VIT, head=DotsConfig(pooled=True), multi_label=True),
    "fcos": DetectConfig(
        backbone=VIT, neck=SimplePyramidConfig(channels=16, strides=(8, 32)), head=FcosConfig(num_convs=1, prior=0.2)
    ),
    "retina": DetectConfig(backbone=CONV, neck=FpnConfig(channels=16), head=RetinaConfig(prior=0.2)),
    "detr": DetectConfig(
        backbone=CONV,
        head=DetrConfig(queries=12, encoder_width=32, decoder_width=32, hidden=32, **QUERIES),
    ),
    "faster r-cnn": DetectConfig(backbone=CONV, neck=FpnConfig(channels=16), head=FasterRcnnConfig(**STAGES)),
    "cascade r-cnn": DetectConfig(backbone=CONV, neck=FpnConfig(channels=16), head=CascadeRcnnConfig(**STAGES)),
    "oriented": DetectConfig(
        backbone=CONV, neck=FpnConfig(channels=16), head=OrientedFcosConfig(num_convs=1, prior=0.2)
    ),
}


def built(config, std=0.05):
    torch.manual_seed(0)
    task = config.build(DataInfo(class_names=("a", "b", "c")), Path()).eval()
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return task


def sample(images=1, size_hw=(75, 90)):
    generator = torch.Generator().manual_seed(1)
    pixels = [torch.randint(0, 256, (3, *size_hw), dtype=torch.uint8, generator=generator) for _ in range(images)]
    return Sample(id="a", image_id="a", seed=0, images=pixels)


def card_of(config, images=1):
    return ModelCard(path=Path("model"), task=config, info=DataInfo(), input=Input(images=images))


@pytest.mark.parametrize("name", TASKS)
def test_onnxruntime_computes_what_the_model_does_whatever_the_size(tmp_path, name):
    config = TASKS[name]
    task = built(config, std=0.2 if "upernet" in name else 0.05)  # clear classes, and scores that are not all 1
    images = 2 if config.kind == "change" else 1
    long = sample(images, size_hw=(130, 41))
    asked = [*mirrored_and_cut(sample(images), task.size_divisor), [long]]  # of three sizes
    plan = plan_of(task)
    found = prove(task, card_of(config, images), plan, asked, tmp_path / "model.onnx")
    one_by_one = (Freedom(batch=False, size=True), "", 3)
    assert (found.freedom, found.why, found.images) == (one_by_one if plan.is_sized else (ANY, "", 5))
    assert found.apart.decided >= found.images
    assert found.apart.undecided <= 0.005 * found.apart.decided  # of random weights many scores are nearly the same
    assert 0 <= found.apart.largest < 1e-4
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A detector as a finished run leaves it, and a folder of images."""
    top = tmp_path_factory.mktemp("shipped")
    (top / "images").mkdir()
    for number, width in enumerate((70, 96)):
        pixels = np.random.default_rng(number).integers(0, 256, (64, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(top / "images" / f"{number}.png")
    ship_task(top / "model", built(TASKS["fcos"]), DataInfo(class_names=("a", "b", "c")))
    return top


def test_the_file_says_what_it_is_and_finds_what_predict_finds(tmp_path, shipped):
    said: list[str] = []
    out = export_onnx(shipped / "model", tmp_path / "out", images=shipped / "images", say=said.append)
    assert sorted(one.name for one in out.path.iterdir()) == ["README.md", "model.json", "model.onnx"]
    session = onnxruntime.InferenceSession(str(out.path / "model.onnx"), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["a", "b", "c"]
    assert (about["task"], about["licence"]) == ("detect", "CC BY-NC 4.0")
    assert np.allclose(json.loads(about["mean"]), (0.485, 0.456, 0.406))
    assert any("any number of images of any size" in line for line in said)
    assert "CC BY-NC 4.0" in (out.path / "README.md").read_text()

    task = built(TASKS["fcos"])
    one = sample(size_hw=(50, 61))
    boxes, scores, labels, num = session.run(None, {"images": one.images[0][None].numpy()})
    with torch.inference_mode():
        (own,) = task.predict(task.collator([one]))
    assert num.tolist() == [len(own.objects)]
    order = np.lexsort((own.objects.boxes_xyxy[:, 0].numpy(), -own.objects.scores.numpy().round(4)))
    theirs = np.lexsort((boxes[0, :, 0], -scores[0].round(4)))[: num[0]]
    assert np.allclose(scores[0][theirs], own.objects.scores.numpy()[order], atol=2e-4)
    assert (labels[0, num[0] :] == -1).all()
    assert (scores[0, num[0] :] == 0).all()


def test_a_file_that_computes_something_else_is_not_there(tmp_path, shipped, monkeypatch):
    monkeypatch.setattr(onnx_compare, "SAME", 0.0)
    with pytest.raises(UserError, match="not the same model"):
        export_onnx(shipped / "model", tmp_path / "out", images=shipped / "images")
    assert list(tmp_path.iterdir()) == []


def test_what_stays_of_one_size_says_so(tmp_path, monkeypatch):
    """A network of which torch keeps the size that it was shown."""
    task = built(TASKS["segment"])
    plan = plan_of(task)
    forward = plan.core.forward
    monkeypatch.setattr(plan.core, "forward", lambda images: tuple(one[:, :, :, :96] for one in forward(images)))
    asked = mirrored_and_cut(sample(), task.size_divisor)
    wide = Sample(id="b", image_id="b", seed=0, images=[torch.zeros(3, 75, 200, dtype=torch.uint8)])
    found = prove(task, card_of(TASKS["segment"]), plan, [*asked, [wide]], tmp_path / "model.onnx")
    assert found.freedom == Freedom(batch=True, size=False)
    assert "90 x 75 pixels alone" in found.line()
    assert found.why


def test_what_cannot_be_exported_says_why(tmp_path, shipped):
    for head in (MaskRcnnConfig(box=FasterRcnnConfig(**STAGES), mask_width=8), OrientedRcnnConfig()):
        with pytest.raises(UserError, match="turned proposals, or masks") as caught:
            plan_of(built(DetectConfig(backbone=CONV, neck=FpnConfig(channels=16), head=head)))
        assert "fcos" in caught.value.fix
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no image"):
        export_onnx(shipped / "model", tmp_path / "out", images=tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):  # the run's data are gone
        export_onnx(shipped / "model", tmp_path / "out")
    assert INSTALL == 'pip install "vistruct[export]"'
