"""Weights of EVA's ViTs in every layout that is in use, each tensor accounted for; and what a file lacks, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from public_folders import ship_task
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import Blip2VisionConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2VisionModel

from vistruct.backbones.eva_vit import EVA02_E, EVA_G, EvaVit, EvaVitConfig
from vistruct.checkpoint.export import export
from vistruct.checkpoint.weights import fitted, load_backbone
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.tasks.segment import SegmentConfig

timm = pytest.importorskip("timm")

TINY = EvaVitConfig(width=36, depth=3, heads=3, mlp_width=157, image_size=56, class_token=True)
TOY_E = EvaVitConfig(width=32, depth=2, heads=2, mlp_width=274, image_size=28, post_norm=True)
BARE = TINY.model_copy(update={"class_token": False})
LAVIS = {"depth": 2, "final_norm": False}


def drawn(config: EvaVitConfig, seed: int = 0) -> EvaVit:
    torch.manual_seed(seed)
    vit = config.build().eval()
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    return vit


def same(a: EvaVit, b: EvaVit) -> None:
    image = torch.randn(2, 3, 56, 84, generator=torch.Generator().manual_seed(1))
    assert_close(a.tokens(image).before_norm, b.tokens(image).before_norm, atol=1e-6, rtol=1e-6)
    assert_close(a(image)[0], b(image)[0], atol=1e-6, rtol=1e-6)


def below(front: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{front}{name}": value for name, value in state.items()}


TEXT = {  # of EVA-CLIP's and open_clip's text towers
    "logit_scale": torch.ones(()),
    "text.positional_embedding": torch.ones(7, 36),
    "text.token_embedding.weight": torch.ones(9, 36),
    "text.transformer.resblocks.0.ln_1.weight": torch.ones(36),
    "text.transformer.resblocks.0.mlp.c_fc.weight": torch.ones(157, 36),
}
HEAD = {"head.weight": torch.ones(24, 36), "head.bias": torch.ones(24)}
BESIDE = {"ln_vision.weight": torch.ones(36), "Qformer.bert.encoder.layer.0.output.dense.weight": torch.ones(36, 36)}
LAYOUTS: dict[str, Any] = {  # what lies in a file beside and around the ViT
    "eva_vit_g.pth": lambda state: state | HEAD,
    "EVA-CLIP": lambda state: below("visual.", state | HEAD) | TEXT,
    "EVA-CLIP's training": lambda state: {"epoch": 3, "state_dict": below("module.visual.", state | HEAD) | TEXT},
    "open_clip": lambda state: below("visual.trunk.", state | HEAD) | TEXT,
    "LAVIS": lambda state: {"model": below("visual_encoder.", state) | BESIDE, "epoch": 1},
    "plain": lambda state: {
        **{k: v for k, v in state.items() if not k.endswith("_bias")},
        **{
            k.replace("q_bias", "qkv.bias"): torch.cat([v, torch.randn(36), state[k.replace("q_bias", "v_bias")]])
            for k, v in state.items()
            if k.endswith("q_bias")
        },
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("class_token", [True, False])
def test_every_layout_gives_every_tensor_and_says_what_it_did_not_use(layout, class_token, tmp_path):
    theirs = drawn(TINY)
    torch.save(LAYOUTS[layout](theirs.state_dict()), tmp_path / "x.pth")
    ours = drawn(TINY.model_copy(update={"class_token": class_token}), seed=1)
    report = load_backbone(ours, tmp_path / "x.pth")
    assert (report.missing, report.fresh, report.resized) == ((), (), ())
    assert ("cls_token" in report.unexpected) == (not class_token)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


@pytest.mark.parametrize("config", [EVA_G, EVA02_E], ids=["g", "e"])
def test_timm_and_open_clip_call_the_tensors_of_the_real_models_as_we_do(config):
    name = "eva02_enormous_patch14_clip_224" if config.post_norm else "eva_giant_patch14_clip_224"
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1024, depth=3).state_dict()
        ours = config.model_copy(update={"class_token": True, "depth": 3}).build()
    for front in ("", "visual.trunk."):
        state, _ = fitted(ours, below(front, theirs), Path("x.pth"))
        assert state.keys() - ours.state_dict().keys() == {"head.weight", "head.bias"}
        assert {k: v.shape for k, v in ours.state_dict().items()}.items() <= {
            k: v.shape for k, v in state.items()
        }.items()


def test_a_table_without_the_class_token_s_row_fits_where_there_is_none(tmp_path):
    theirs = drawn(BARE)
    state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(state | {"pos_embed": state["pos_embed"][:, 1:].contiguous()}, tmp_path / "x.safetensors")
    ours = drawn(BARE, seed=1)
    load_backbone(ours, tmp_path / "x.safetensors")
    same(ours, theirs)
    with pytest.raises(UserError, match="cls_token"):
        load_backbone(drawn(TINY), tmp_path / "x.safetensors")


@pytest.mark.parametrize("whole", [False, True])
def test_transformers_blip_2_gives_what_it_gives_there(whole, tmp_path):
    torch.manual_seed(0)
    config = Blip2VisionConfig(
        hidden_size=36, intermediate_size=157, num_hidden_layers=3, num_attention_heads=3, image_size=56, patch_size=14,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = Blip2VisionModel(config).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.1)  # a bias of keys too, which changes nothing
    state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    other = {"qformer.encoder.layer.0.output.dense.weight": torch.ones(36, 36)}
    save_file(below("vision_model.", state) | other if whole else state, tmp_path / "model.safetensors")
    ours = drawn(TINY, seed=1)
    report = load_backbone(ours, tmp_path)
    assert (report.missing, report.unexpected) == ((), ())
    image = torch.randn(2, 3, 56, 56)
    expected = theirs(image)
    assert_close(ours.tokens(image).patches, expected.last_hidden_state[:, 1:], atol=1e-5, rtol=1e-4)


def test_visft_s_file_and_the_whole_clip_it_was_cut_from(golden):
    """Both as the original wrote them, in bfloat16; the cut one has no class token."""
    expected = golden("visft_lora/expected.safetensors")
    for name in ("EVA02_CLIP_E_psz14_plus_s9B.pt", "EVA02_CLIP_E_psz14_plus_s9B_Visual.pt"):
        vit = drawn(TOY_E)
        report = load_backbone(vit, GOLDEN / "visft_lora" / name)
        assert report.missing == ()
        assert {name.rpartition(".")[0] or name for name in report.unexpected} <= {"cls_token", "head"}
        assert_close(vit(expected["image"])[0], expected["out_without_adapter"], atol=1e-4, rtol=1e-4)
    tower = drawn(TOY_E.model_copy(update={"class_token": True}))
    load_backbone(tower, GOLDEN / "visft_lora/EVA02_CLIP_E_psz14_plus_s9B.pt")
    with pytest.raises(UserError, match=r"1 of the backbone's .* not there: cls_token") as error:
        load_backbone(tower, GOLDEN / "visft_lora/EVA02_CLIP_E_psz14_plus_s9B_Visual.pt")
    assert error.value.fix == "--set task.backbone.class_token=false"


def without(state: dict[str, Tensor], *fronts: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(fronts)}


@pytest.mark.parametrize(
    ("lacks", "named", "fix"),
    [
        (("norm.",), "norm.bias, norm.weight", "--set task.backbone.final_norm=false"),
        (
            ("blocks.2.", "norm."),
            "blocks.2.attn.proj.bias",
            "--set task.backbone.depth=2 --set task.backbone.final_norm=false",
        ),
        (("blocks.1.", "blocks.2."), "blocks.1.attn", "--set task.backbone.depth=1"),
        (("cls_token", "norm."), "cls_token, norm.bias", "final_norm=false --set task.backbone.class_token=false"),
        (("blocks.1.",), "blocks.1.attn.proj.bias", "give the backbone the size"),
        (("blocks.2.attn.q_bias",), "1 of the backbone's .* blocks.2.attn.q_bias", "give the backbone the size"),
        (("pos_embed",), "pos_embed", "give the backbone the size"),
        (("patch_embed",), "patch_embed.proj.bias", "give the backbone the size"),
    ],
)
def test_what_a_file_lacks_is_an_error_that_names_it(lacks, named, fix, tmp_path):
    torch.save(without(drawn(TINY).state_dict(), *lacks), tmp_path / "x.pth")
    vit = drawn(TINY, seed=1)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    with pytest.raises(UserError, match=named) as error:
        load_backbone(vit, tmp_path / "x.pth")
    assert fix in error.value.fix
    assert error.value.where == str(tmp_path / "x.pth")
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_lavis_s_depth_takes_of_a_longer_file_what_it_has(tmp_path):
    torch.save(drawn(TINY).state_dict(), tmp_path / "x.pth")
    short = drawn(TINY.model_copy(update=LAVIS), seed=1)
    report = load_backbone(short, tmp_path / "x.pth")
    assert {name.split(".")[0] for name in report.unexpected} == {"blocks", "norm"}
    with pytest.raises(UserError, match="last norm is learned behind block 2, and here block 1") as error:
        load_backbone(drawn(TINY.model_copy(update={"depth": 2})), tmp_path / "x.pth")
    assert error.value.fix == "--set task.backbone.final_norm=false, or --set task.backbone.depth=3"


@pytest.mark.parametrize(
    "strange",
    ["blocks.1.gamma_1", "blocks.0.attn.norm.weight", "rope.freqs_cos", "rel_pos_bias.table", "norm_pre.weight"],
)
def test_another_vit_of_the_same_shapes_is_refused(strange, tmp_path):
    torch.save(drawn(TINY).state_dict() | {strange: torch.ones(36)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"another ViT.* such as {strange}"):
        load_backbone(drawn(TINY), tmp_path / "x.pth")


def test_adapters_that_are_not_merged_are_refused(tmp_path):
    state = drawn(TINY).state_dict() | {"blocks.0.attn.qkv.lora_A": torch.ones(128, 36)}
    torch.save(below("visual.", state), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"adapters .* not merged"):
        load_backbone(drawn(TINY), tmp_path / "x.pth")


@pytest.mark.parametrize("wrong", [{"post_norm": False}, {"heads": 14}])
def test_what_no_shape_shows_of_the_published_models_is_asked_for(wrong):
    with torch.device("meta"):
        vit = EVA02_E.model_copy(update={"depth": 1} | wrong).build()
        state = EVA02_E.model_copy(update={"depth": 1}).build().state_dict()
    with pytest.raises(UserError, match="EVA02-CLIP-E has post_norm=True and 16 heads") as error:
        fitted(vit, state, Path("x.pth"))
    assert error.value.fix == "--set task.backbone.post_norm=true --set task.backbone.heads=16"


def test_positions_and_patches_of_another_size_are_fitted_and_said(tmp_path):
    torch.save(drawn(TINY).state_dict(), tmp_path / "x.pth")
    larger = drawn(TINY.model_copy(update={"image_size": 96, "patch": 16}), seed=1)
    report = load_backbone(larger, tmp_path / "x.pth")
    assert report.resized == ("pos_embed", "patch_embed.proj.weight")
    assert torch.equal(larger.pos_embed[:, :1], drawn(TINY).pos_embed[:, :1])


def shipped(tmp_path: Path, config: EvaVitConfig) -> tuple[EvaVit, Path]:
    info = DataInfo(class_names=("ground", "ship"))
    task = SegmentConfig(backbone=config, head=LinearConfig()).build(info, tmp_path)
    task.backbone.load_state_dict(drawn(config).state_dict())
    return task.backbone.eval(), ship_task(tmp_path / "model", task, info)


EXPORTED = {"plain": TINY, "bare": BARE, "post-norm": TOY_E, "lavis": TINY.model_copy(update=LAVIS)}


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("config", EXPORTED.values(), ids=EXPORTED)
def test_an_export_is_what_visft_and_eva_clip_read_and_the_same_model_again(config, dtype, tmp_path):
    ours, model = shipped(tmp_path, config)
    out = export(model, tmp_path / "out", format="backbone-original", dtype=dtype)
    read = torch.load(out.path / "model.pth", weights_only=True)  # tensors by name, and nothing around them
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    again = drawn(config, seed=1)
    load_backbone(again, out.path)
    if dtype == "float32":
        same(again, ours)
    assert (out.verified.rounding > 0) == (dtype == "bf16")


@pytest.mark.parametrize("config", [TINY, BARE, TOY_E], ids=["plain", "bare", "post-norm"])
def test_timm_reads_an_export_and_gives_the_same(config, tmp_path):
    ours, model = shipped(tmp_path, config)
    out = export(model, tmp_path / "out", format="backbone-timm")
    settings = {} if config.class_token else {"class_token": False, "global_pool": "avg", "use_fc_norm": False}
    assert all(f"{key}={value!r}" in out.notes[0] for key, value in settings.items())
    theirs = timm.create_model(
        "eva02_enormous_patch14_clip_224" if config.post_norm else "eva_giant_patch14_clip_224",
        num_classes=0, img_size=config.image_size, embed_dim=config.width, depth=config.depth, num_heads=config.heads,
        mlp_ratio=config.mlp_width / config.width, checkpoint_path=str(out.path / "model.safetensors"), **settings,
    ).eval()  # fmt: skip
    image = torch.randn(2, 3, config.image_size, config.image_size)
    expected = theirs.forward_features(image)[:, int(config.class_token) :]
    assert_close(ours.tokens(image).patches, expected, atol=1e-5, rtol=1e-4)
    again = drawn(config, seed=1)
    load_backbone(again, out.path)
    same(again, ours)


@pytest.mark.parametrize("whole", [True, False])
def test_lavis_s_blip_2_gets_its_part_of_the_blocks(whole, tmp_path):
    """EVA-ViT-g is 40 blocks and a norm, of which LAVIS has 39 blocks."""
    small = {"width": 8, "heads": 1, "mlp_width": 8}
    config = TINY.model_copy(update=small | ({"depth": 40} if whole else LAVIS))
    ours, model = shipped(tmp_path, config)
    out = export(model, tmp_path / "out", format="backbone-lavis")
    read = torch.load(out.path / "model.pth", weights_only=True)["model"]
    depth = 39 if whole else 2
    assert {name.split(".")[2] for name in read if ".blocks." in name} == {str(i) for i in range(depth)}
    assert not any(".norm." in name for name in read)
    assert [note.startswith("block 39 and the last norm are left out") for note in out.notes] == [True] * whole
    again = drawn(config.model_copy(update={"depth": depth, "final_norm": False}), seed=1)
    load_backbone(again, out.path)
    image = torch.randn(1, 3, 56, 56)
    assert torch.equal(again(image)[0], ours.layers(image, [depth - 1])[0].map)


@pytest.mark.parametrize(
    ("format", "changes", "why"),
    [
        ("backbone-timm", {"final_norm": False}, "timm's EVA has a norm"),
        ("backbone-lavis", {"class_token": False}, "always a class token"),
        ("backbone-lavis", {"post_norm": True}, "no norms behind attention"),
        ("backbone-lavis", {}, "no last norm"),
        ("backbone-transformers", {}, "holds an InternViT"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_before_anything_is_written(format, changes, why, tmp_path):
    _, model = shipped(tmp_path, TINY.model_copy(update=changes))
    with pytest.raises(UserError, match=why) as error:
        export(model, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()
    other = error.value.fix.removeprefix("--format ")
    assert export(model, tmp_path / "out", format=other).path.is_dir()
