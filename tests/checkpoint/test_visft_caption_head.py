"""The caption head in ViSFT's files: taken whole with its word map, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from vistruct.checkpoint.whole import load_start
from vistruct.contracts import DataInfo, FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.show_attend_tell import ShowAttendTellConfig, to_published
from vistruct.recipes.small import small_vit
from vistruct.tasks.caption import CaptionConfig

FOLDER = GOLDEN / "visft_lora"
RELEASED = FOLDER / "eva_e_caption_heads.ckpt"
TOY = ShowAttendTellConfig(attention=9, embed=8, hidden=10)


def describer(folder: Path, head: Any = TOY, words: int = 16) -> Any:
    torch.manual_seed(0)
    numbers = {f"word{at}": at + 1 for at in range(words)} | {"<pad>": 0}
    numbers |= {word: words + 1 + at for at, word in enumerate(("<unk>", "<start>", "<end>"))}
    (folder / "WORDMAP.json").write_text(json.dumps(numbers))
    return CaptionConfig(backbone=small_vit(), head=head, words=folder / "WORDMAP.json").build(DataInfo(), folder)


def released(what: str = "caption") -> dict[str, Tensor]:
    return torch.load(FOLDER / f"eva_e_{what}_heads.ckpt", weights_only=True)


def test_the_published_head_comes_whole(tmp_path: Path, golden: Any) -> None:
    task = describer(tmp_path)
    before = {name: value.clone() for name, value in task.backbone.state_dict().items()}
    report = load_start(task, RELEASED)
    wanted = golden("visft_lora/expected_heads.safetensors").tensors
    back = to_published(task.head.state_dict())
    assert len(back) == len(report.matched)
    for name, value in back.items():
        assert torch.equal(value, wanted[name]), name
    assert all(torch.equal(value, before[name]) for name, value in task.backbone.state_dict().items())
    assert any("class_embeds" in name for name in report.unexpected)


def test_a_checkpoint_of_training_is_unwrapped(tmp_path: Path) -> None:
    wrapped = {"model": {f"module.{name}": value for name, value in released().items()}, "optimizer": {}}
    torch.save(wrapped, tmp_path / "model_1000.ckpt")
    task = describer(tmp_path)
    load_start(task, tmp_path / "model_1000.ckpt")
    assert torch.equal(task.head.say.bias, released()["visft_heads.caption_decoder.fc.bias"])


def test_the_decoder_of_the_detection_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    task = describer(tmp_path)
    with pytest.raises(UserError, match="never trained"):
        load_start(task, FOLDER / "eva_e_detection_heads.ckpt")
    state = {name: value for name, value in released("detection").items() if "caption_decoder" not in name}
    head = ShowAttendTellConfig(attention=512, embed=512, hidden=512).build((FeatureSpec(channels=32, stride=14),), 20)
    torch.nn.init.normal_(head.say.bias)
    torch.save(state | to_published(head.state_dict()), tmp_path / "heads.ckpt")
    with pytest.raises(UserError, match="512 wide, is of another run"):
        load_start(task, tmp_path / "heads.ckpt")


def test_another_width_and_another_number_of_words_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attention=9") as caught:
        load_start(describer(tmp_path, ShowAttendTellConfig()), RELEASED)
    assert "--set task.head.attention=9" in caught.value.fix
    (tmp_path / "words.json").unlink()
    with pytest.raises(UserError):
        load_start(describer(tmp_path, words=12), RELEASED)


@pytest.mark.parametrize(("model", "channels", "number"), [("g", 1408, 12_956_691), ("e", 1792, 14_136_723)])
def test_names_shapes_and_parameters_at_full_size(model: str, channels: int, number: int) -> None:
    table = json.loads((FOLDER / "heads_keys.json").read_text())
    with torch.device("meta"):
        head = ShowAttendTellConfig().build((FeatureSpec(channels=channels, stride=14),), 9490)
    shapes = {name: list(value.shape) for name, value in to_published(head.state_dict()).items()}
    wanted = {name: shape for name, shape in table["names"].items() if "caption_decoder" in name}
    if model == "g":
        assert shapes == wanted
    assert set(shapes) == set(wanted)
    assert sum(value.numel() for value in head.state_dict().values()) == number == table["parameters"][model]["caption"]
