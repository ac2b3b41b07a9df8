"""Prompts reach SAM and SAM 2 as their own processors would bring them, and masks come back likewise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sam
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vistruct.errors import UserError
from vistruct.inference.segmenter import INSIDE, Prompts, Segmenter, load_segmenter, planes

SIZES = [(50, 90), (91, 37), (64, 64), (130, 140)]
QUADS = torch.tensor(
    [
        [[5.0, 5], [30, 12], [25, 34], [2, 25]],
        [[20, 3], [34, 3], [34, 20], [20, 20]],
        [[9, 9], [20, 30], [12, 33], [3, 12]],
    ]
)


@pytest.fixture(scope="module", params=["sam", "sam2"])
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    save = {"sam": tiny_sam.save_sam, "sam2": tiny_sam.save_sam2}[request.param]
    return load_segmenter(save(tmp_path_factory.mktemp(request.param)), torch.device("cpu"))


def image_of(size_hw: tuple[int, int]) -> Tensor:
    return torch.randint(
        0, 256, (3, *size_hw), dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(size_hw))
    )


def boxes_of(quads: Tensor) -> Tensor:
    return torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)


def theirs(segmenter: Segmenter, image: Tensor, **said: Any) -> tuple[np.ndarray, list[float]]:
    """What transformers' processor and model do when they are called as their documentation says."""
    processor, model = segmenter.processor, segmenter.model
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    inputs = processor(images=picture, return_tensors="pt", **said)
    sizes = [inputs.pop("original_sizes")]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes"))
    inputs = {name: value.float() if value.dtype == torch.float64 else value for name, value in inputs.items()}
    with torch.inference_mode():
        out = model(**inputs, multimask_output=False)
    masks = processor.image_processor.post_process_masks(out.pred_masks, *sizes)[0]
    return masks[:, 0].numpy(), out.iou_scores.flatten().tolist()


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("names", ["box", "point", "box+point"])
def test_masks_are_those_of_their_own_processor_and_model(
    segmenter: Segmenter, size_hw: tuple[int, int], names: str
) -> None:
    image, boxes, points = image_of(size_hw), boxes_of(QUADS), QUADS.mean(dim=1)
    said: dict[str, Any] = {}
    if "box" in names:
        said["input_boxes"] = [boxes.tolist()]
    if "point" in names:
        said |= {"input_points": [points[:, None].tolist()], "input_labels": [[[1]] * len(points)]}
    masks, ious = theirs(segmenter, image, **said)
    prompts = Prompts(boxes_xyxy=boxes if "box" in names else None, points_xy=points if "point" in names else None)
    found = list(segmenter.masks(segmenter.encode(image), prompts, batch=2))
    assert [mask.shape for mask, _ in found] == [size_hw] * 3
    assert [iou for _, iou in found] == pytest.approx(ious, abs=1e-5)
    assert 0 < masks.mean() < 1
    for (mask, _), other in zip(found, masks, strict=True):
        assert (mask != other).mean() < 1e-3  # a logit of zero may fall to either side


@pytest.mark.parametrize("size_hw", SIZES)
def test_a_turned_box_reaches_the_model_as_a_plane_on_the_image_that_it_sees(
    segmenter: Segmenter, size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    forward = segmenter.model.prompt_encoder.forward

    def watched(**told: Tensor) -> Any:
        seen.append(told)
        return forward(**told)

    monkeypatch.setattr(segmenter.model.prompt_encoder, "forward", watched)
    list(segmenter.masks(segmenter.encode(image_of(size_hw)), Prompts(quads=QUADS, boxes_xyxy=boxes_of(QUADS))))
    (told,) = seen
    side, cells = tiny_sam.SIDE, segmenter.cells
    plane = told["input_masks"]
    assert plane.shape == (3, 1, cells, cells)
    assert plane.amin() == -INSIDE
    assert plane.amax() == INSIDE
    width, height = size_hw[1], size_hw[0]
    is_sam = "Sam2" not in type(segmenter.model).__name__
    longest = max(size_hw)
    scale = (side / longest, side / longest) if is_sam else (side / width, side / height)
    for quad, drawn, box in zip(QUADS, plane[:, 0], told["input_boxes"][:, 0], strict=True):
        fine = Image.new("L", (8 * side, 8 * side))  # another program draws it, finer
        ImageDraw.Draw(fine).polygon([(8 * float(x) * scale[0], 8 * float(y) * scale[1]) for x, y in quad], fill=255)
        share = np.asarray(fine.reduce(8 * side // cells), np.float32) / 255
        off = np.abs(share - (drawn.numpy() / INSIDE + 1) / 2)
        assert off.max() < 0.5
        assert off.mean() < 0.02
        grown = (boxes_of(quad[None])[0] * torch.tensor([*scale, *scale])).tolist()
        assert box.tolist() == pytest.approx(grown, rel=0.02)  # SAM's shorter side is of whole pixels


def test_a_plane_alone_is_a_prompt_and_another_box_gives_another_mask(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(image_of((50, 90)))
    (one, _), (other, _) = list(segmenter.masks(encoded, Prompts(quads=QUADS[:2])))
    assert (one != other).any()


def test_the_image_is_looked_at_once_for_all_of_its_boxes(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = segmenter.model.vision_encoder.forward
    monkeypatch.setattr(segmenter.model.vision_encoder, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    encoded = segmenter.encode(image_of((50, 90)))
    assert len(list(segmenter.masks(encoded, Prompts(boxes_xyxy=boxes_of(QUADS).repeat(9, 1)), batch=5))) == 27
    assert len(calls) == 1


def test_no_box_has_no_plane() -> None:
    assert planes(torch.zeros(0, 4, 2), 64, 32).shape == (0, 1, 32, 32)


def test_a_folder_of_the_video_model_is_known_as_public_ones_are(tmp_path: Path) -> None:
    folder = tiny_sam.save_sam2(tmp_path / "public")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "sam2_video", "architectures": ["Sam2VideoModel"], "num_maskmem": 7}
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_segmenter(folder).model).__name__ == "Sam2Model"


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _config(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))

    return change


def _weights(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _other_size(folder: Path) -> None:
    file = folder / "processor_config.json"
    file.write_text(file.read_text().replace(str(tiny_sam.SIDE), "128"))


WRONG = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no configuration": (_without("config.json"), "no config.json"),
    "another model": (_config(model_type="bert"), "of type 'bert'"),
    "no type": (_config(model_type=None), "of type None"),
    "no weights": (_without("model.safetensors"), "cannot be loaded"),
    "no processor": (_without("processor_config.json"), "processor cannot be loaded"),
    "cut short": (_cut, "cannot be loaded"),
    "weights missing": (_weights(lambda state: state.pop("mask_decoder.iou_token.weight")), "missing"),
    "other size": (_other_size, "the model sees 64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_is_no_segmenter_is_an_error_with_words(name: str, tmp_path: Path) -> None:
    folder = tiny_sam.save_sam(tmp_path / "sam")
    spoil, words = WRONG[name]
    spoil(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_segmenter(folder)
    assert caught.value.fix
    assert caught.value.where
