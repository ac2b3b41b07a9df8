"""A promptable segmenter (SAM, SAM 2) from a local folder, through `transformers`: prompts on one image become masks.

Source: Kirillov et al., arXiv:2304.02643; Ravi et al., arXiv:2408.00714; SAMRS (Wang et al., arXiv:2305.02034) for
turned boxes as masks: a plane of 256 x 256 logits, +1000 inside and -1000 outside.
Differs: the plane is drawn at the size that the model sees and averaged down, so that its edges are as fine as it can
say; what is padded counts as outside.
Shapes: N objects of one image of h x w pixels, S pixels along each side of what the model sees, G cells of the plane.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistruct.errors import UserError, closest
from vistruct.files.json_files import read_json
from vistruct.files.masks import rasterise

# What `config.json` calls itself. Public SAM 2 folders are of its video model, whose image part is all that is needed.
KNOWN = ("sam", "sam2", "sam2_video")
INSIDE = 1000.0  # logit of the plane; outside its negative
_PIXELS_AT_ONCE = 32_000_000  # of masks at the size of the image, as float32 128 MB


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is said of N objects, together; pixels of the image that was encoded."""

    boxes_xyxy: Tensor | None = None  # float[N, 4]
    points_xy: Tensor | None = None  # float[N, 2], one on each object
    quads: Tensor | None = None  # float[N, 4, 2], as mask prompts

    def part(self, rows: slice) -> Prompts:
        """Some of the objects."""
        return Prompts(**{name: None if one is None else one[rows] for name, one in vars(self).items()})

    def __len__(self) -> int:
        return next(len(one) for one in vars(self).values() if one is not None)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An image that the model has looked at."""

    maps: list[Tensor]  # SAM one, SAM 2 three: float[1, C, h, w]
    size_hw: tuple[int, int]  # of the image
    shown_hw: tuple[int, int]  # of the image before the model, padding not counted
    sizes: tuple[Any, ...]  # what the processor needs to undo it


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A model with its processor."""

    model: Any
    processor: Any
    device: torch.device
    digest: str  # of its files, as far as their sizes, times and configuration tell

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Encoded:
        """Look at an image, once for all of its objects.

        Args:
            image: uint8[3, h, w], RGB.
        """
        inputs = self.processor(images=image, input_data_format="channels_first", return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)
        maps = self.model.get_image_embeddings(pixels)
        sizes = [inputs["original_sizes"]]
        if "reshaped_input_sizes" in inputs:  # SAM pads; SAM 2 stretches
            sizes.append(inputs["reshaped_input_sizes"])
        shown = sizes[1][0].tolist() if len(sizes) > 1 else pixels.shape[-2:]
        return Encoded(
            maps=[maps] if isinstance(maps, Tensor) else list(maps),
            size_hw=(image.shape[1], image.shape[2]),
            shown_hw=(int(shown[0]), int(shown[1])),
            sizes=tuple(sizes),
        )

    @torch.inference_mode()
    def masks(self, encoded: Encoded, prompts: Prompts, batch: int = 20) -> Iterator[tuple[np.ndarray, float]]:
        """One mask for each object, with the model's own estimate of its IoU.

        Args:
            batch: objects at a time.

        Yields:
            bool[h, w], and the estimate.
        """
        step = max(1, _PIXELS_AT_ONCE // (encoded.size_hw[0] * encoded.size_hw[1]))
        for start in range(0, len(prompts), batch):
            part = prompts.part(slice(start, start + batch))
            out = self.model(**self._told(encoded, part), multimask_output=False)
            low, iou = out.pred_masks[:, :, 0], out.iou_scores.flatten().float().tolist()  # [n, 1, G, G]
            for first in range(0, len(low), step):
                some = low[first : first + step]
                (masks,) = self.processor.image_processor.post_process_masks([some], *encoded.sizes)
                yield from zip(masks[:, 0].cpu().numpy(), iou[first : first + step], strict=True)

    def _told(self, encoded: Encoded, prompts: Prompts) -> dict[str, Any]:
        """The arguments of the model: an image for each object, since planes are by image and not by object."""
        count, (height, width), shown = len(prompts), encoded.size_hw, encoded.shown_hw
        scale = torch.tensor([shown[1] / width, shown[0] / height], dtype=torch.float64)
        maps = [one.expand(count, -1, -1, -1) for one in encoded.maps]
        told: dict[str, Any] = {"image_embeddings": maps if len(maps) > 1 else maps[0]}
        if prompts.boxes_xyxy is not None:
            told["input_boxes"] = (prompts.boxes_xyxy.double() * scale.repeat(2)).float()[:, None]  # [n, 1, 4]
        if prompts.points_xy is not None:
            told["input_points"] = (prompts.points_xy.double() * scale).float()[:, None, None]  # [n, 1, 1, 2]
            told["input_labels"] = torch.ones(count, 1, 1, dtype=torch.int64)
        if prompts.quads is not None:
            told["input_masks"] = planes(prompts.quads.double() * scale, self.side, self.cells)
        return {name: one.to(self.device) if isinstance(one, Tensor) else one for name, one in told.items()}

    @property
    def side(self) -> int:
        """Pixels, of what the model sees."""
        return _side(self.model.config.prompt_encoder_config.image_size)

    @property
    def cells(self) -> int:
        """Of a mask prompt along each side."""
        return 4 * (self.side // _side(self.model.config.prompt_encoder_config.patch_size))


def planes(quads: Tensor, side: int, cells: int) -> Tensor:
    """Turned boxes as mask prompts: float32[N, 1, G, G], INSIDE where they are, minus that elsewhere.

    Args:
        quads: float[N, 4, 2], pixels of what the model sees.
        side: of that, pixels; a multiple of `cells`.
    """
    finer = side // cells
    drawn = [
        rasterise([quad.ravel().tolist()], (0, 0, side, side)).reshape(cells, finer, cells, finer).mean(axis=(1, 3))
        for quad in quads.numpy()
    ]
    share = torch.from_numpy(np.stack(drawn)).float() if drawn else torch.zeros(0, cells, cells)
    return (INSIDE * (2 * share - 1))[:, None]


def load_segmenter(folder: Path, device: torch.device | None = None) -> Segmenter:
    """Load SAM or SAM 2 from a folder as `save_pretrained` writes it, or as it is published.

    Args:
        device: None: a GPU if there is one.

    Raises:
        UserError: no such folder, no configuration, another model, weights or processor missing, or damaged.
    """
    from safetensors import SafetensorError
    from transformers import Sam2Model, Sam2Processor, SamModel, SamProcessor

    kind = check_segmenter(folder)
    classes: tuple[Any, Any] = (SamModel, SamProcessor) if kind == "sam" else (Sam2Model, Sam2Processor)
    model_class, processor_class = classes
    fix = "download the folder again, whole: config.json, model.safetensors and preprocessor_config.json"
    try:
        model, said = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise UserError(f"the segmenter cannot be loaded: {_first(error)}", where=folder, fix=fix) from error
    wrong = sorted(said["missing_keys"]) + sorted(str(key) for key in said["mismatched_keys"])
    if wrong:
        what = f"weights of the segmenter are missing, or of another size: {wrong[0]} ({len(wrong)} such tensors)"
        raise UserError(what, where=folder, fix=fix)
    try:
        processor = processor_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the processor cannot be loaded: {_first(error)}", where=folder, fix=fix) from error
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = Segmenter(model=model.eval().to(where), processor=processor, device=where, digest=_digest(folder))
    shown = processor.image_processor.size
    shown = shown["longest_edge"] if kind == "sam" else shown["height"]
    if shown != found.side:
        what = f"the processor makes images of {shown} pixels, the model sees {found.side}"
        raise UserError(what, where=folder / "preprocessor_config.json", fix="take both files of one release")
    return found


def check_segmenter(folder: Path) -> str:
    """What a folder says it is, before anything heavy is imported; a key of KNOWN.

    Raises:
        UserError: no such folder, no configuration, or another model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "--sam FOLDER: a local copy of facebook/sam-vit-huge, facebook/sam2.1-hiera-large or the like"
        raise UserError("no such folder", where=folder, fix=fix)
    if not (folder / "config.json").is_file():
        what = "no config.json here: not a model of transformers"
        fix = "--sam FOLDER with config.json, model.safetensors and preprocessor_config.json (a .pth file is none)"
        raise UserError(what, where=folder, fix=fix)
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in KNOWN:
        what = f"a model of type {kind!r} is no promptable segmenter that is known here"
        raise UserError(
            what, where=folder / "config.json", fix=f"--sam FOLDER of one of these; {closest(str(kind), KNOWN)}"
        )
    return kind


def _digest(folder: Path) -> str:
    """Of what decides the masks; weights by size and time, since gigabytes take long to read."""
    files = sorted(one for one in Path(folder).iterdir() if one.suffix in (".json", ".safetensors"))
    told: list[Any] = []
    for file in files:
        found = file.stat()
        is_text = file.suffix == ".json"
        told.append([file.name, file.read_text(errors="replace") if is_text else [found.st_size, found.st_mtime_ns]])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
