from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_clip import OPEN_CLIP, TEXT, match_of, open_clip_file, transformers_folder

from vistruct.checkpoint.clip import check_size, load_clip
from vistruct.checkpoint.clip_layouts import is_public_clip, public_clip
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.tasks.match import Match, MatchConfig

TEXTS = ["a cat", "two dogs in the rain, seen from above"]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vectors(task: Match, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        of_images, of_texts = task.clip.of_images(task.backbone.tokens(images)), task.clip.of_texts(TEXTS)
        return of_images, of_texts, task.clip.logits(of_images, of_texts)


def test_a_file_of_open_clip_gives_what_open_clip_gives(tmp_path: Path, images: Tensor) -> None:
    import open_clip

    theirs, weights, described = open_clip_file(tmp_path)
    task = match_of(weights, tmp_path, str(described))
    of_images, of_texts, logits = vectors(task, images)
    tokens = open_clip.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(of_images, theirs.encode_image(images, normalize=True), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(of_texts, theirs.encode_text(tokens, normalize=True), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(logits, theirs.get_logits(images, tokens)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_of_transformers_gives_what_transformers_gives(tmp_path: Path, images: Tensor, kind: str) -> None:
    theirs = transformers_folder(tmp_path, kind)
    assert is_public_clip(tmp_path)
    task = match_of(tmp_path, tmp_path / "assets")
    of_images, of_texts, logits = vectors(task, images)
    with torch.no_grad():
        out = theirs(input_ids=task.clip.text.tokenizer(TEXTS), pixel_values=images)
    torch.testing.assert_close(of_images, out.image_embeds, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(of_texts, out.text_embeds, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits, out.logits_per_image, atol=1e-5, rtol=1e-5)


def test_a_folder_of_open_clip_says_itself_what_it_is(tmp_path: Path, images: Tensor) -> None:
    theirs, weights, _ = open_clip_file(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    weights.rename(folder / "open_clip_pytorch_model.bin")
    shown = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": shown}))
    found = public_clip(folder)
    assert is_public_clip(folder)
    assert (found.mean, found.std, found.size.keep_aspect) == ((0.5,) * 3, (0.25,) * 3, False)
    with torch.no_grad():
        expected = theirs.encode_image(images, normalize=True)
    torch.testing.assert_close(vectors(match_of(folder, tmp_path), images)[0], expected, atol=1e-6, rtol=1e-5)


def test_whatever_is_missing_is_an_error(tmp_path: Path) -> None:
    theirs, weights, described = open_clip_file(tmp_path)
    found = public_clip(weights, str(described))
    task = MatchConfig(backbone=found.backbone, clip=found.clip).build(DataInfo(), tmp_path)
    for name in ("transformer.resblocks.1.mlp.c_fc.bias", "visual.proj", "logit_scale", "visual.class_embedding"):
        torch.save({key: value for key, value in theirs.state_dict().items() if key != name}, weights)
        with pytest.raises(UserError, match="1 of the model's 62 tensors are not there"):
            load_clip(task, weights)


def test_a_name_that_stands_for_several_arithmetics_is_a_question() -> None:
    file = Path("weights.pt")
    with pytest.raises(UserError, match="trained in 2 ways") as error:
        public_clip(file, "ViT-B-32")
    assert error.value.fix.startswith("--model ViT-B-32/TAG")
    assert "ViT-B-32/openai" in error.value.fix
    openai, laion = (public_clip(file, f"ViT-B-32/{tag}") for tag in ("openai", "laion2b_s34b_b79k"))
    acts = [one.backbone.model_dump()["options"]["act_layer"] for one in (openai, laion)]
    assert (acts, openai.clip.text.quick_gelu, laion.clip.text.quick_gelu) == (["quick_gelu", "gelu"], True, False)
    with pytest.raises(UserError, match="no model"):
        public_clip(file, "ViT-B-33")
    with pytest.raises(UserError, match="does not say which CLIP"):
        public_clip(file)


def test_siglip_by_name_is_shown_images_as_it_was_trained() -> None:
    found = public_clip(Path("weights.pt"), "ViT-B-16-SigLIP")
    assert (found.clip.pool.by, found.clip.pool.project, found.clip.has_bias) == ("query", "none", True)
    assert (found.mean, found.size.keep_aspect, found.clip.text.width) == ((0.5, 0.5, 0.5), False, 768)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}}, "ResNet"),
        ({"vision_cfg": {"layers": 2, "ls_init_value": 0.1}}, "ls_init_value"),
        ({"text_cfg": None}, "no text_cfg"),
        ({"embed_dim": 0}, "embed_dim"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(tmp_path: Path, change: dict[str, object], said: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(OPEN_CLIP | change))
    with pytest.raises(UserError, match=said):
        public_clip(tmp_path / "weights.pt", str(file))


def test_a_text_tower_of_another_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(OPEN_CLIP | {"text_cfg": TEXT | {"hf_model_name": "roberta-base"}}))
    found = public_clip(tmp_path / "weights.pt", str(file))
    with pytest.raises(UserError, match="roberta-base"):
        found.clip.text.build(tmp_path)


def test_billions_of_weights_are_not_made_for_a_small_file(tmp_path: Path) -> None:
    file = tmp_path / "EVA02_CLIP_E_psz14_plus_s9B.pt"
    file.write_bytes(b"0" * 1000)
    check_size(1000, file)
    with pytest.raises(UserError, match="cannot hold"):
        check_size(5_000_000_000, file)


def test_what_of_a_text_is_not_read_is_known(tmp_path: Path) -> None:
    _, weights, described = open_clip_file(tmp_path)
    tokenizer = public_clip(weights, str(described)).clip.text.build(tmp_path).tokenizer
    assert [tokenizer.is_cut(text) for text in ("a cat", "cat " * 75, "cat " * 76)] == [False, False, True]
