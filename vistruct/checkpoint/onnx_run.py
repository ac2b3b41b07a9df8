"""An exported ONNX file as a task: onnxruntime computes, and windows, measures and results are those of any model.

The task is built as its model.json says it; its own layers lie on torch's `meta` device, where nothing can be computed
with them by mistake.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.texts import differs
from vistruct.contracts import Detections, Selection
from vistruct.errors import UserError
from vistruct.heads.oriented_selection import select_oriented
from vistruct.tasks.classify import Classify
from vistruct.tasks.dense import Detect, DetectBatch
from vistruct.tasks.segment import Segment

FILE = "model.onnx"
INSTALL = 'pip install "vistruct[export]"'


@dataclass(frozen=True, kw_only=True)
class Freedom:
    """Which sides of what it is given an exported network leaves open."""

    batch: bool
    size: bool

    def axes(self) -> dict[int, str]:
        """As torch.onnx takes them."""
        return ({0: "n"} if self.batch else {}) | ({2: "p", 3: "q"} if self.size else {})


class OnnxFile:
    """An ONNX file, opened: number[B, (T,) C, H, W] -> of each image its outputs by name, on the CPU.

    Raises:
        UserError: onnxruntime is missing or cannot run it; images of another size than the only one that it takes.
    """

    def __init__(self, path: Path, freedom: Freedom, size_hw: tuple[int, int]) -> None:
        self.path, self.freedom, self.size_hw = path, freedom, size_hw
        try:
            import onnxruntime
        except ImportError:
            raise UserError("the package onnxruntime is missing", where=path, fix=INSTALL) from None
        words: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # compiled, without types
        self._stops = (
            words.Fail,
            words.InvalidArgument,
            words.InvalidGraph,
            words.RuntimeException,
            words.NotImplemented,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what stops it is told as ours
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._stops as error:
            raise differs(path, f"onnxruntime stops at it: {str(error)[:300]}") from error
        self._names = [one.name for one in self._session.get_outputs()]

    def __call__(self, images: Tensor) -> list[dict[str, Tensor]]:
        size_hw = (int(images.shape[-2]), int(images.shape[-1]))
        if not self.freedom.size and size_hw != self.size_hw:
            only, this = (f"{width} x {height}" for height, width in (self.size_hw, size_hw))
            what = f"this file takes images of {only} pixels alone, and this one has {this}"
            raise UserError(what, where=self.path, fix="the run that it was exported from takes any size")
        said: list[dict[str, Tensor]] = []
        for rows in (images,) if self.freedom.batch else images.split(1):
            try:
                values = self._session.run(None, {"images": rows.cpu().numpy()})
            except self._stops as error:
                raise differs(self.path, f"onnxruntime stops at it: {str(error)[:300]}") from error
            outputs = dict(zip(self._names, map(torch.from_numpy, values), strict=True))
            said += [{name: value[i] for name, value in outputs.items()} for i in range(len(rows))]
        return said


def computed_by(task: Any, file: OnnxFile) -> Any:
    """A task of the same settings, whose numbers are the file's.

    Args:
        task: just built; its layers are let go of.
    """
    task = task.to("meta").eval()
    task.register_forward_pre_hook(partial(_no_loss, file.path))
    if isinstance(task, Detect):
        task.outside = partial(_detections, file, task.class_names)
    elif isinstance(task, Segment):
        task.outside = partial(_stacked, file, "probabilities")
    else:
        assert isinstance(task, Classify)
        task.outside = partial(_stacked, file, "scores")
    return task


def opened(folder: Path, task: Any, values: dict[str, Any]) -> Any:
    """The task of an exported folder.

    Args:
        task: just built.
        values: `onnx` of its model.json.

    Raises:
        UserError: the file is missing, or another one than model.json was written for; as `OnnxFile`.
    """
    path = folder / FILE
    if not path.is_file() or sha256(path) != values["sha256"]:
        what = "this is not the file that model.json was written for"
        raise UserError(what, where=path, fix="copy the folder again, or export it again")
    height, width = values["size_hw"]
    return computed_by(task, OnnxFile(path, Freedom(batch=values["batch"], size=values["size"]), (height, width)))


def found_in(said: dict[str, Tensor], head: Any, size_hw: tuple[int, int]) -> Detections:
    """What a file says of one image as detections; of oriented boxes doubles are suppressed, which it leaves to do."""
    there = said["labels"] >= 0
    boxes, scores, labels = (said[name][there] for name in ("boxes", "scores", "labels"))
    if not head.traits.is_oriented:
        return Detections(boxes_xyxy=boxes, scores=scores, labels=labels)
    most: Selection = head.selection
    return select_oriented(boxes, scores, labels, size_hw, nms_iou=most.nms_iou or 1.0, num=most.max_detections)


def _detections(file: OnnxFile, known: tuple[str, ...], task: Detect, batch: DetectBatch) -> list[Detections]:
    """Images of a batch one by one, without the padding that they have there."""
    if task.config.views is not None:
        raise UserError("an ONNX file of boxes looks once", where=file.path, fix="leave --flip and --scale out")
    if task.class_names != known:
        what = f"this file looks for {', '.join(known)} alone"
        raise UserError(
            what, where=file.path, fix="ask the run that it was exported from, or export it with these classes"
        )
    found = []
    for image, (height, width) in zip(batch.images, batch.sizes_hw, strict=True):
        (said,) = file(image[None, :, :height, :width])
        found.append(found_in(said, task.head, (height, width)))
    return found


def _stacked(file: OnnxFile, name: str, images: Tensor) -> Tensor:
    """Of images [B, C, H, W] or [B, T, C, H, W], T = 1 left out."""
    given = images[:, 0] if images.ndim == 5 and images.shape[1] == 1 else images
    return torch.stack([one[name] for one in file(given)]).to(images.device)


def _no_loss(path: Path, *_: Any) -> NoReturn:
    raise UserError(
        "an ONNX file gives predictions and no loss", where=path, fix="ask the run that it was exported from"
    )
