"""An EVA ViT below a pyramid and a detector, below a segmenter, in a vision-language model, with adapters, spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_vlm
from several_processes import in_ranks
from tables import with_objects
from torch import nn
from torch.testing import assert_close
from whole_loss import task_loss

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.tensors import read_tensors, write_tensors
from vistruct.config import Lora, Trainable
from vistruct.contracts import DataInfo, Sample
from vistruct.distributed.ranks import setup
from vistruct.distributed.shard import blocks_of, on_main, reach_all, shard
from vistruct.engine.lora import adapted_layers, merged_state, unused_adapters
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.linear import LinearConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig
from vistruct.vlm.vrl import Vrl

EVA = EvaVitConfig(width=32, depth=2, heads=2, mlp_width=64, image_size=56, recompute=True)
POST = EVA.model_copy(update={"post_norm": True, "class_token": True})
INFO = DataInfo(class_names=("red", "blue"))
ADAPTED = Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2, parts=("q", "v")))


def sample(height: int, width: int) -> Sample:
    image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    truth = {"boxes_xyxy": torch.tensor([[4.0, 4, 40, 36]]), "labels": torch.zeros(1, dtype=torch.int64)}
    label_map = torch.zeros(height, width, dtype=torch.int16)
    label_map[4:36, 4:40] = 1
    fields = {"id": "s", "image_id": "s", "seed": 0, "images": [image], "label_map": label_map, **truth}
    return Sample(**with_objects(fields))


def idle(task: Any) -> list[str]:
    return [name for name, p in task.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize("backbone", [EVA, POST], ids=["pre", "post"])
def test_a_detector_on_a_pyramid_of_its_map_learns_and_its_adapters_alone_do(backbone):
    torch.manual_seed(0)
    neck = SimplePyramidConfig(channels=16, strides=(7, 14, 28, 56))
    task: Any = DetectConfig(backbone=backbone, neck=neck, head=FcosConfig(num_convs=1)).build(INFO, Path())
    assert task.size_divisor == 56
    batch = task.collator([sample(75, 93), sample(56, 60)])
    assert batch.images.shape[2:] == (112, 112)
    sum(task(batch).terms.values()).backward()
    assert [name for name in idle(task) if name.startswith("backbone.")] == []
    task.zero_grad(set_to_none=True)
    apply_rules(task, [Trainable(pattern="*", mode="frozen"), ADAPTED])
    sum(task(batch).terms.values()).backward()
    assert unused_adapters(task) == []
    assert all(".lora_" in name for name, p in task.named_parameters() if p.grad is not None)
    assert len(task.eval().predict(batch)) == 2


@pytest.mark.parametrize("margin", ["pad", "crop"])
def test_a_segmenter_says_a_class_of_every_pixel_where_patches_do_not_divide_the_image(margin):
    torch.manual_seed(0)
    config = SegmentConfig(backbone=EVA.model_copy(update={"margin": margin}), head=LinearConfig())
    task: Any = config.build(DataInfo(class_names=("ground", "red")), Path())
    assert task.size_divisor == (14 if margin == "pad" else 1)
    batch = task.collator([sample(75, 93)])
    sum(task(batch).terms.values()).backward()
    assert idle(task) == []
    (found,) = task.eval().predict(batch)
    assert tuple(found.label_map.shape) == (75, 93)


@pytest.mark.parametrize("backbone", [EVA, POST], ids=["pre", "post"])
@pytest.mark.parametrize("vrl", ["paper", Vrl(drop_at="patches")], ids=["tokens", "patches"])
def test_it_sits_in_a_vision_language_model_that_drops_tokens_behind_it_or_before(backbone, vrl):
    task = toy_vlm.build(vrl, backbone=backbone)
    batch = task.collator(toy_vlm.assorted()[:2])
    task_loss(task, batch).loss.backward()
    assert [name for name in idle(task) if name.startswith("backbone.")] == []
    task.eval().predict(task.traits.predict_collator(toy_vlm.assorted()[:1]))


def adapted() -> Any:
    task = toy_vlm.build("paper", rows="packed", backbone=POST)
    apply_rules(task, [ADAPTED])
    for layer in adapted_layers(task).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return task


def chat_gradients(task: Any, rank: int) -> None:
    total = task(task.collator([toy_vlm.assorted()[rank]])).terms["answers"]
    reach_all(task, total).backward()


def spread(out: str) -> None:
    ranks, task = setup(), adapted()
    shard(task, ranks.device, None)
    chat_gradients(task, ranks.rank)
    kept = on_main({name: p.grad for name, p in task.named_parameters() if p.grad is not None})
    kept |= {f"merged.{k}": v for k, v in merged_state(task, on_main(task.state_dict())).items()}
    if ranks.is_main:
        write_tensors(Path(out), {name: value.contiguous() for name, value in kept.items()})


def test_spread_over_devices_its_adapters_have_the_gradients_of_one_process(tmp_path):
    task = adapted()
    assert set(task.backbone.blocks) < set(blocks_of(task))
    assert in_ranks(2, spread, str(tmp_path / "x")) == [0, 0]
    found = read_tensors(tmp_path / "x")
    for rank in range(2):
        chat_gradients(task, rank)
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    assert sum(".lora_" in name for name in gradients) == 4
    for name, gradient in gradients.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    for name, value in merged_state(task).items():
        assert_close(found[f"merged.{name}"], value)


def test_eva_02_with_rotary_positions_and_swiglu_is_timm_s_and_its_adapters_count():
    torch.manual_seed(0)
    config = TimmConfig(name="eva02_tiny_patch14_224", image_size=56, out_indices=(1,))
    backbone: Any = config.build().eval()
    task = nn.ModuleDict({"backbone": backbone})
    image = torch.randn(1, 3, 56, 56)
    before = backbone(image)[0].detach()
    apply_rules(task, [Trainable(pattern="backbone", mode="lora", lora=Lora(rank=2))])
    assert {layer.rpartition(".")[2] for layer in adapted_layers(task)} == {"qkv", "proj", "fc1", "fc2"}
    assert_close(backbone(image)[0], before, atol=1e-5, rtol=1e-5)
    backbone(image)[0].square().sum().backward()
    assert unused_adapters(task) == []
    for layer in adapted_layers(task).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    after = backbone(image)[0].detach()
    assert (after - before).abs().max() > 0.1
    plain: Any = config.build().eval()
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in merged_state(task).items()})
    assert_close(plain(image)[0], after, atol=1e-3, rtol=1e-3)


def test_a_pyramid_level_that_fourteen_does_not_reach_is_refused_with_those_it_does():
    neck = SimplePyramidConfig(strides=(4, 8, 16, 32))
    with pytest.raises(UserError, match="stride 4 cannot be made") as error:
        DetectConfig(backbone=EVA, neck=neck, head=FcosConfig()).build(INFO, Path())
    assert error.value.fix == "choose from 7, 14, 28, 56, 112"
