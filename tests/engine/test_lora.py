"""Adapters in layers that are called and in layers whose weight is read, merged under every name, and seen to learn."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from toy_engine import ToyDataset, ToyTask, ToyTaskConfig, collate
from toy_vlm import VIT, assorted, build
from whole_loss import task_loss

from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import AdamW, Lora, Trainable
from vistruct.engine.lora import (
    UNMOVED_STEPS,
    UNUSED_STEPS,
    AdapterWatch,
    adapted_layers,
    merged_state,
    unused_adapters,
)
from vistruct.engine.optim import build_optimizer
from vistruct.engine.trainable import Plan, apply_rules
from vistruct.errors import UserError

timm = pytest.importorskip("timm")


def lora(pattern: str = "*", **settings: Any) -> Trainable:
    return Trainable(pattern=pattern, mode="lora", lora=Lora(**{"rank": 2} | settings))


def train_a_little(model: nn.Module) -> None:
    """As if: numbers in every B."""
    for layer in adapted_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)


# Small enough for two blocks of each family in a second or two.
VITS: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWINS: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "img_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**VITS, "img_size": 32},
    "eva_giant_patch14_clip_224": {**VITS, "img_size": 28},
    "eva02_enormous_patch14_clip_224": {**VITS, "img_size": 28},
    "eva02_tiny_patch14_224": {**VITS, "img_size": 28},
    "eva02_base_patch16_clip_224": {**VITS, "img_size": 32},  # queries, keys and values apart; norms inside
    "eva02_large_patch14_clip_224": {**VITS, "img_size": 28},
    "vit_small_patch16_dinov3": {**VITS, "img_size": 32},
    "vit_small_patch16_rope_224": {**VITS, "img_size": 32},
    "vit_base_patch16_siglip_224": {**VITS, "img_size": 32},
    "beit_base_patch16_224": {**VITS, "img_size": 32},
    "deit3_small_patch16_224": {**VITS, "img_size": 32},
    "swin_tiny_patch4_window7_224": {**SWINS, "window_size": 2},
    "swinv2_tiny_window8_256": {**SWINS, "window_size": 2},
    "swinv2_cr_tiny_224": SWINS,
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "cait_xxs24_224": {**VITS, "img_size": 32},
    "xcit_nano_12_p16_224": {**VITS, "img_size": 32},
}


def of_family(name: str, settings: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, num_classes=0, **settings)
    for parameter in model.parameters():  # gates that are shut in a model that was never trained
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.1)
    size = settings.get("img_size", 64)
    return nn.ModuleDict({"backbone": model}), torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_adapter_in_a_timm_family_learns_and_counts_and_can_be_merged(name):
    model, image = of_family(name, FAMILIES[name])
    answer = lambda m: m["backbone"].eval().forward_features(image)  # noqa: E731
    before = answer(model).detach()
    apply_rules(model, [lora()])
    assert_close(answer(model), before, rtol=0, atol=1e-6)
    num_linear = sum(isinstance(m, nn.Linear) for m in model.modules())
    assert len(adapted_layers(model)) == num_linear > 0

    pooled = model["backbone"].train()(image)
    (pooled * torch.randn_like(pooled)).sum().backward()
    assert unused_adapters(model) == []
    train_a_little(model)
    after = answer(model).detach()
    assert (after - before).abs().max() > 1e-4
    plain, _ = of_family(name, FAMILIES[name])
    plain.load_state_dict(merged_state(model))
    assert_close(answer(plain), after, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["attn.qkv", "attn.proj"])
@pytest.mark.parametrize("name", ["eva_giant_patch14_clip_224", "beit_base_patch16_224", "vit_tiny_patch16_224"])
def test_one_adapter_alone_changes_the_answer_of_attention_that_reads_the_bare_weight(name, layer):
    model, image = of_family(name, FAMILIES[name])
    apply_rules(model, [Trainable(pattern="*", mode="frozen"), lora(f"backbone.blocks.*.{layer}")])
    model["backbone"](image).sum().backward()  # RuntimeError where no adapter has a part in it
    assert len(adapted_layers(model)) == 2
    before = model["backbone"].eval()(image)
    train_a_little(model)
    assert not torch.equal(model["backbone"](image), before)


def test_a_family_without_linear_layers_is_refused_by_name():
    model, _ = of_family("resnet18", {})
    with pytest.raises(UserError, match="no linear layer under 'backbone'"):
        apply_rules(model, [lora("backbone")])


def test_torch_s_own_attention_reads_the_adapted_weight():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    model, x = nn.ModuleDict({"attention": attention}), torch.randn(1, 3, 8)
    before = attention(x, x, x)[0].detach()
    apply_rules(model, [lora()])
    train_a_little(model)
    after = attention(x, x, x)[0]
    assert not torch.equal(after, before)
    after.sum().backward()
    assert unused_adapters(model) == []


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("parts", [(), ("q", "v"), ("k",), ("q", "k", "v")])
def test_called_and_read_a_layer_and_its_gradients_are_those_of_peft(parts, read):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.ModuleDict({"qkv": nn.Linear(6, 12)})
    wrapped = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=3, target_modules=["qkv"]), copy.deepcopy(model)
    )
    theirs: Any = wrapped["qkv"]
    apply_rules(model, [lora(rank=4, alpha=3, parts=parts)] if parts else [lora(rank=4, alpha=3)])
    ours: Any = model["qkv"]
    nn.init.normal_(ours.lora_B)
    x = torch.randn(2, 5, 6)
    y = F.linear(x, ours.weight, ours.bias) if read else ours(x)
    y.square().sum().backward()

    expected = theirs.base_layer(x)
    a, b = ours.lora_A.detach().split(4), ours.lora_B.detach().chunk(max(len(parts), 1))
    if not parts:
        with torch.no_grad():
            theirs.lora_A["default"].weight.copy_(ours.lora_A)
            theirs.lora_B["default"].weight.copy_(ours.lora_B)
        expected = theirs(x)
        expected.square().sum().backward()
        assert_close(ours.lora_A.grad, theirs.lora_A["default"].weight.grad)
        assert_close(ours.lora_B.grad, theirs.lora_B["default"].weight.grad)
    for part, a_part, b_part in zip(parts, a, b, strict=False):
        at = 4 * "qkv".index(part)
        expected[..., at : at + 4] += 0.75 * x @ a_part.T @ b_part.T
    assert_close(y, expected)
    assert ours.lora_A.grad.count_nonzero() == ours.lora_A.numel()  # nothing that has to stay zero


def test_queries_and_values_of_eva_are_what_visft_computes(golden):
    """loralib's MergedLinear of rank 64 and alpha 1 in ViSFT's own backbone, against this one in timm's."""
    expected, base, adapters = (golden(f"visft_lora/{name}.safetensors") for name in ("expected", "visual", "lora"))
    settings: dict[str, Any] = {"class_token": False, "global_pool": "avg", "use_fc_norm": False}
    model, _ = of_family("eva02_enormous_patch14_clip_224", {**VITS, "img_size": 28, **settings})
    state = {name: value.float() for name, value in base.tensors.items()}
    model["backbone"].load_state_dict(state | {"pos_embed": state["pos_embed"][:, 1:]})

    def features() -> Tensor:
        settings: dict[str, Any] = {"norm": True, "intermediates_only": True, "output_fmt": "NCHW"}
        return model["backbone"].eval().forward_intermediates(expected["image"], **settings)[-1]

    assert_close(features(), expected["out_without_adapter"], rtol=0, atol=1e-4)
    plan = apply_rules(model, [lora(rank=64, scale=1 / 64, parts=("q", "v"))])
    assert plan.trainable == 2 * (128 * 32 + 64 * 64)
    with torch.no_grad():
        for name, layer in adapted_layers(model).items():
            theirs = name.replace("backbone", "visual")
            layer.lora_A.copy_(adapters[f"{theirs}.lora_A"])
            layer.lora_B.copy_(adapters[f"{theirs}.lora_B"])
    assert_close(features(), expected["out_with_adapter"], rtol=0, atol=1e-4)
    merged = merged_state(model)
    for block in range(2):
        name = f"blocks.{block}.attn.qkv.weight"
        assert_close(merged[f"backbone.{name}"], expected[f"merged.{name}"], rtol=0, atol=1e-6)


def test_parts_are_of_the_fused_layers_alone():
    model = nn.ModuleDict({"backbone": VIT.build()})
    plan = apply_rules(model, [lora(parts=("q", "v"))])
    assert list(adapted_layers(model)) == [f"backbone.encoder.layers.{i}.attn.qkv" for i in range(3)]
    assert "adapters on 3 linear layers" in plan.lines()[0]
    assert plan.trainable == 3 * 2 * (2 * 64 + 64 * 2)


def test_parts_where_nothing_is_fused_or_it_is_fused_by_heads_are_refused():
    with pytest.raises(UserError, match="no fused layer"):
        apply_rules(nn.ModuleDict({"q_proj": nn.Linear(4, 4)}), [lora(parts=("q",))])
    kind = type("AttentionCl", (nn.ModuleDict,), {"__module__": "timm.models.maxxvit"})
    with pytest.raises(UserError, match="thirds"):
        apply_rules(nn.ModuleDict({"attn": kind({"qkv": nn.Linear(4, 12)})}), [lora(parts=("q",))])


@pytest.mark.parametrize("settings", [{"alpha": 1, "scale": 1}, {"parts": ("v", "q")}, {"parts": ("q", "q")}])
def test_settings_that_say_a_thing_twice_are_refused(settings):
    with pytest.raises(ValueError, match=r"alpha and scale|each once"):
        Lora(**settings)
    with pytest.raises(ValueError, match="mode"):
        Trainable(pattern="*", mode="frozen", lora=Lora())


def test_dropout_acts_on_the_input_and_is_refused_where_there_is_none():
    torch.manual_seed(0)
    model = nn.ModuleDict({"fc": nn.Linear(64, 64)})
    apply_rules(model, [lora(rank=64, alpha=64, dropout=0.5)])
    layer: Any = model["fc"]
    with torch.no_grad():
        layer.lora_A.copy_(torch.eye(64)), layer.lora_B.copy_(torch.eye(64))
        given = layer(torch.ones(64)) - F.linear(torch.ones(64), layer._parameters["weight"], layer.bias)
        assert set(given.round(decimals=4).tolist()) == {0.0, 2.0}
        with pytest.raises(UserError, match="fc is not called"):
            _ = layer.weight
        assert_close(layer.eval().weight - layer._parameters["weight"], torch.eye(64), rtol=1e-5, atol=1e-5)


class Shared(nn.Module):
    """Two tasks over one backbone, as both a part of its own and a part of each task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = VIT.build()
        self.tasks = nn.ModuleDict()
        for name in ("boxes", "map"):
            self.tasks[name] = nn.ModuleDict({"backbone": self.backbone, "head": nn.Linear(64, 3)})

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.tasks["map"]["backbone"].tokens(image).patches.mean(1)
        return torch.cat([self.tasks[name]["head"](tokens) for name in ("boxes", "map")], dim=1)


@pytest.mark.parametrize("parts", [(), ("q", "v")])
def test_a_shared_backbone_is_merged_under_all_of_its_names(parts):
    model, image = Shared(), torch.randn(2, 3, 56, 56)
    apply_rules(model, [Trainable(pattern="tasks", mode="frozen"), lora("backbone", parts=parts)])
    train_a_little(model)
    merged = merged_state(model)
    plain = Shared()
    assert merged.keys() == plain.state_dict().keys()
    name = "encoder.layers.0.attn.qkv.weight"
    assert merged[f"backbone.{name}"] is merged[f"tasks.boxes.backbone.{name}"]
    plain.load_state_dict(merged)
    assert_close(plain.eval()(image), model.eval()(image), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(Shared().eval()(image), model(image), atol=1e-3)


def test_a_later_rule_that_holds_the_layers_by_another_name_is_named():
    with pytest.raises(UserError, match="12 are held by the later rule 'tasks' \\(frozen\\)") as caught:
        apply_rules(Shared(), [lora("backbone"), Trainable(pattern="tasks", mode="frozen")])
    assert "tasks.boxes.backbone.encoder" in caught.value.what
    assert "behind it" in caught.value.fix


def language_loss(task: Any) -> Tensor:
    batch = task.collator(assorted())
    torch.manual_seed(0)
    return task_loss(task, batch).total


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pattern", ["language", "language.model"])
def test_what_a_language_model_learned_with_adapters_is_what_is_merged(tied, pattern):
    options = {"language": {"tie_word_embeddings": tied}}
    task = build(**options).eval()
    before = language_loss(task)
    plan = apply_rules(task, [Trainable(pattern="*", mode="frozen"), lora(pattern)])
    assert ("language.lm_head" in adapted_layers(task)) == (pattern == "language" and not tied)
    is_left = any("language.lm_head is one table with" in line for line in plan.lines())
    assert is_left == (pattern == "language" and tied)
    assert_close(language_loss(task), before)
    train_a_little(task)
    plain = build(**options).eval()
    plain.load_state_dict(merged_state(task))
    adapted = language_loss(task)
    assert_close(language_loss(plain), adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - before).abs() > 1e-2


def test_an_adapter_on_one_of_two_names_of_a_table_alone_is_refused():
    task = build(language={"tie_word_embeddings": True})
    with pytest.raises(UserError, match="lm_head is one table with language") as caught:
        apply_rules(task, [lora("language.lm_head")])
    assert "tie_word_embeddings=false" in caught.value.fix


def test_layers_of_one_weight_have_one_adapter():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    apply_rules(model, [lora()])
    train_a_little(model)
    merged, x = merged_state(model), torch.randn(3, 4)
    assert merged.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert merged["a.weight"] is merged["b.weight"]
    for name, layer in model.items():
        assert_close(F.linear(x, merged[f"{name}.weight"], merged[f"{name}.bias"]), layer(x))


def test_names_of_weights_copies_and_rates_by_depth_are_as_without_adapters():
    config = TimmConfig(name="test_vit")
    model = nn.ModuleDict({"backbone": config.build()})
    names = [name for name, _ in model.named_parameters()]
    plan = apply_rules(model, [lora()])
    assert [name for name, _ in model.named_parameters() if ".lora_" not in name] == names
    optimizer = build_optimizer(model, AdamW(layer_decay=0.5), plan)
    assert len(optimizer.param_groups) > 1
    train_a_little(model)
    image = torch.randn(1, 3, 160, 160)
    twin = copy.deepcopy(model).eval()
    assert_close(twin["backbone"](image), model.eval()["backbone"](image))
    assert set(map(id, twin.parameters())).isdisjoint(map(id, model.parameters()))


class TestWatch:
    def model(self) -> tuple[ToyTask, Plan]:
        torch.manual_seed(0)
        task = ToyTask(ToyTaskConfig())
        return task, apply_rules(task, [lora("backbone")])

    def step(self, task: nn.Module, *, backbone: bool = True) -> None:
        task.zero_grad()
        batch = collate([ToyDataset().sample(i, i) for i in range(4)])
        if backbone:
            task_loss(task, batch).total.backward()
        else:
            task.head(torch.ones(1, 8)).sum().backward()

    def test_adapters_that_learn_are_left_alone(self):
        task, _ = self.model()
        watch = AdapterWatch(task)
        self.step(task)
        watch.after_step(is_last=True)
        for _ in range(2 * UNMOVED_STEPS):
            watch.after_step()

    def test_one_that_is_used_and_gets_no_gradient_is_an_error_that_names_it(self):
        task, _ = self.model()
        watch, first = AdapterWatch(task), task.backbone.blocks[0].forward
        task.backbone.blocks[0].forward = lambda x: first(x).detach()
        for _ in range(UNMOVED_STEPS - 1):
            self.step(task)
            assert unused_adapters(task) == ["backbone.blocks.0"]
            watch.after_step()
        self.step(task)
        with pytest.raises(UserError, match=r"1 of 3 adapters .* no share in the loss .*: backbone\.blocks\.0"):
            watch.after_step()

    def test_one_that_no_batch_used_so_far_is_waited_for(self):
        task, _ = self.model()
        watch = AdapterWatch(task)
        for _ in range(2 * UNMOVED_STEPS):
            self.step(task, backbone=False)
            watch.after_step()
        self.step(task)
        watch.after_step(is_last=True)

    @pytest.mark.parametrize("is_last", [True, False])
    def test_but_not_beyond_the_end(self, is_last):
        task, _ = self.model()
        watch = AdapterWatch(task)
        self.step(task, backbone=False)
        watch.steps = 0 if is_last else UNUSED_STEPS - 1
        with pytest.raises(UserError, match="3 of 3 adapters"):
            watch.after_step(is_last=is_last)

    def test_what_moved_before_a_run_was_cut_off_has_had_its_share(self):
        task, _ = self.model()
        train_a_little(task)
        AdapterWatch(task, resumed=True).after_step(is_last=True)
