"""Where an adapter's weights come from: a ViT alone, a whole model, a run of either kind, a published adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.intern_vit_names import to_transformers
from vistruct.backbones.vit_adapter import VitAdapter, VitAdapterConfig
from vistruct.checkpoint.load import load_exactly
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import Run
from vistruct.engine.run import build
from vistruct.engine.ship import ship
from vistruct.errors import UserError
from vistruct.recipes.detect import tiny


def adapter(vit: InternVitConfig, *, heads: int = 4, **values: object) -> VitAdapter:
    groups = tuple((i, i) for i in range(vit.depth))
    part = {"vit": vit.model_dump(), "groups": groups, "heads": heads, "conv_width": 8, **values}
    return VitAdapterConfig.model_validate(part).build()


VIT = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=16, image_size=96)


def public(prefix: str) -> dict[str, torch.Tensor]:
    """A ViT of patch 14 and 56 pixels, as it is released."""
    weights = load_file(GOLDEN / "intern_vit/weights.safetensors")
    if prefix == "transformers":
        return {f"model.vision_tower.{key}": value for key, value in to_transformers(weights).items()}
    return {prefix + key: value for key, value in weights.items()}


def test_an_imported_vit_is_what_the_original_loader_made_of_it(golden):
    model = adapter(InternVitConfig(width=16, depth=1, heads=2, mlp_width=32, patch=16, image_size=96), heads=2)
    source = GOLDEN / "vit_adapter/ckpt_import_source.safetensors"
    coverage = load_backbone(model, source, allow_missing=True)  # it has a part of one block
    expected = model.convert_keys(golden("vit_adapter/ckpt_import_expected.safetensors").tensors)
    state = model.state_dict()
    for name, value in expected.items():
        assert_close(state[name], value, atol=1e-5, rtol=0)
    assert set(coverage.matched) | set(coverage.resized) == expected.keys()
    assert set(coverage.resized) == {"vit.embeddings.position_embedding", "vit.embeddings.patch_embedding.weight"}
    assert coverage.unexpected == ("vit.embeddings.class_embedding",)
    assert all(name.startswith("vit.") for name in coverage.missing)


@pytest.mark.parametrize("prefix", ["", "vision_model.", "backbone.", "transformers"])
def test_a_vit_comes_from_every_released_layout_and_the_adapter_starts_fresh(tmp_path, prefix):
    others = {"mlp1.0.weight": torch.zeros(2), "language_model.lm_head.weight": torch.zeros(2)}
    save_file({k: v.contiguous() for k, v in (public(prefix) | others).items()}, tmp_path / "x.safetensors")
    model = adapter(VIT)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    coverage = load_backbone(model, tmp_path / "x.safetensors")
    vit = {name for name in before if name.startswith("vit.")}
    assert set(coverage.matched) | set(coverage.resized) == vit
    assert set(coverage.fresh) == before.keys() - vit
    assert coverage.missing == ()
    assert torch.equal(model.vit.encoder.layers[2].mlp.fc2.weight, public("")["encoder.layers.2.mlp.fc2.weight"])
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in coverage.fresh)
    said = "\n".join(coverage.lines())
    assert f"{len(vit)} of {len(vit)} tensors" in said
    assert f"{len(coverage.fresh)} start from random weights" in said
    assert "2 resized" in said


def test_a_vit_with_a_tensor_missing_is_refused_all_the_same(tmp_path):
    state = public("vision_model.")
    del state["vision_model.encoder.layers.1.ls1"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"vit\.encoder\.layers\.1\.ls1"):
        load_backbone(adapter(VIT), tmp_path / "x.safetensors")


def published_adapter(variant: str) -> dict[str, torch.Tensor]:
    """As in a published detection checkpoint: below `backbone.`, heads beside it."""
    folder = GOLDEN / "vit_adapter"
    state = load_file(folder / "weights_shared.safetensors") | load_file(folder / f"weights_{variant}.safetensors")
    return {f"backbone.{key}": value for key, value in state.items()} | {"neck.convs.0.weight": torch.zeros(1)}


FOUR = InternVitConfig(width=64, depth=4, heads=4, mlp_width=128, patch=16, image_size=64)


@pytest.mark.parametrize("mine", ["mmcv", "ddetr"])
@pytest.mark.parametrize("theirs", ["mmcv", "ddetr"])
def test_a_published_adapter_decides_the_variant_by_its_shapes(tmp_path, golden, mine, theirs):
    save_file(published_adapter(theirs), tmp_path / "x.safetensors")
    model = adapter(FOUR, attention=mine).eval()
    coverage = load_backbone(model, tmp_path / "x.safetensors")
    assert (coverage.fresh, coverage.missing, coverage.unexpected) == ((), (), ())
    # Full width is of either variant: the one that is taken is said, with the way to the other.
    assert len(coverage.notes) == ((mine, theirs) != ("ddetr", "ddetr"))
    assert ("attention=ddetr --set task.backbone.value_ratio=1" in " ".join(coverage.notes)) == (theirs == "mmcv")
    assert model.config.attention == theirs
    image = golden("vit_adapter/io_mmcv.safetensors")["input"]
    with torch.no_grad():
        last = model(image)[-1]
    assert_close(last, golden(f"vit_adapter/io_{theirs}.safetensors")["out.3"], atol=5e-5, rtol=1e-4)
    if mine != theirs:
        assert theirs in coverage.lines()[-1]
        # A model that was trained so is rebuilt from a configuration that still says otherwise.
        task, again = torch.nn.Module(), adapter(FOUR, attention=mine).eval()
        task.backbone = again
        load_exactly(task, {f"backbone.{k}": v for k, v in model.state_dict().items()}, tmp_path)
        with torch.no_grad():
            assert torch.equal(again(image)[-1], last)


def test_values_of_several_widths_are_no_variant(tmp_path):
    state = published_adapter("mmcv")
    narrow = {k: v for k, v in published_adapter("ddetr").items() if "interactions.0" in k}
    save_file(state | narrow, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="values are 16, 64 channels wide"):
        load_backbone(adapter(FOUR), tmp_path / "x.safetensors")


def test_half_an_adapter_is_refused(tmp_path):
    state = {key: value for key, value in published_adapter("mmcv").items() if ".extractor." not in key}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="extractor"):
        load_backbone(adapter(FOUR), tmp_path / "x.safetensors")


def test_an_adapter_of_another_width_is_refused(tmp_path):
    save_file(published_adapter("mmcv"), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="another shape"):
        load_backbone(adapter(FOUR.model_copy(update={"width": 32})), tmp_path / "x.safetensors")


# Runs.


def with_adapter(run: Run, init: Path | None) -> Run:
    values = run.model_dump(mode="json")
    vit = values["task"]["backbone"]
    groups = [[i, i] for i in range(vit["depth"])]
    values["task"]["backbone"] = {
        "kind": "vit_adapter", "vit": vit, "groups": groups, "heads": 2, "conv_width": 4, "attention": "ddetr",
    }  # fmt: skip
    values["task"]["neck"] = {"kind": "laterals", "channels": 16}
    values["init"] = None if init is None else str(init)
    values["optim"]["layer_decay"] = 0.5
    return Run.model_validate(values)


def test_a_run_s_vit_starts_an_adapter_and_that_one_the_next(tmp_path):
    first = build(tiny(), tmp_path / "vit")
    ship(first)
    second = build(with_adapter(tiny(), tmp_path / "vit"), tmp_path / "adapter")
    coverage = second.coverage
    assert coverage is not None
    assert coverage.missing == ()
    assert coverage.unexpected == ("vit.embeddings.class_embedding",)
    assert set(coverage.fresh) == {n for n in second.model.backbone.state_dict() if not n.startswith("vit.")}
    for name, value in first.model.backbone.state_dict().items():
        if name != "embeddings.class_embedding":
            assert torch.equal(second.model.backbone.state_dict()[f"vit.{name}"], value)
    scales = {name: group["lr_scale"] for group in second.optimizer.param_groups for name in group["names"]}
    assert scales["backbone.spm.stem.0.weight"] == scales["neck.levels.0.0.weight"] == 1
    assert scales["backbone.vit.encoder.layers.0.norm1.weight"] < 1

    ship(second)
    for place in (tmp_path / "adapter", tmp_path / "adapter/backbone"):
        third = build(with_adapter(tiny(), place), tmp_path / "again" / place.name)
        assert third.coverage is not None
        assert (third.coverage.fresh, third.coverage.missing, third.coverage.unexpected) == ((), (), ())
        for name, value in second.model.backbone.state_dict().items():
            assert torch.equal(third.model.backbone.state_dict()[name], value)
