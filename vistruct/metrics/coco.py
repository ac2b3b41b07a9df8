"""COCO box and mask metrics on whole images, however the images were cut into windows.

Source: the COCO detection evaluation (cocodataset.org), computed by hotcoco; the tests hold it against
    pycocotools.
Differs: as many detections of an image count as the fullest image has objects (at least 100), unless told
    otherwise. With COCO's fixed 100 a scene of 500 objects cannot be recalled by more than a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import BoxPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.metrics.coco_rows import By, CocoRows, join, precision_recall
from vistruct.metrics.means import known_mean
from vistruct.metrics.whole_images import Condensed, WholeImages, check_measurable, condense, whole_truths
from vistruct.ops.mask_runs import encode_patch, encode_segmentation

SIZES = {
    "s": 1,
    "m": 2,
    "l": 3,
}  # index into COCO's area ranges: below 32^2, to 96^2, above, in pixels; 0 is all


class CocoBoxesConfig(Part):
    """How many detections of an image count."""

    kind: Literal["coco_boxes"] = "coco_boxes"
    max_detections: int | None = Field(None, gt=0)  # best of each class in an image; None: max(100, most objects)

    def build(self, dataset: RecordDataset) -> CocoBoxes:
        """Measure against the whole images that the data set's records are about.

        Raises:
            UserError: windows were left out: objects there cannot be found, false alarms do not count; or there is
                no object to be found.
        """
        truths = whole_truths(dataset)
        check_measurable(truths, lambda objects: objects.is_single)
        return CocoBoxes(truths, dataset.info.class_names, self.max_detections)

    def usual(self, data: Any) -> str:
        """AP50."""
        return "AP50"

    def higher_is_better(self, number: str) -> bool | None:
        """All but the limit of detections."""
        return None if number == "max_detections" else True


class CocoMasksConfig(Part):
    """As `coco_boxes`, and the same figures of the masks beside those of the boxes."""

    kind: Literal["coco_masks"] = "coco_masks"
    max_detections: int | None = Field(None, gt=0)  # best of each class in an image; None: max(100, most objects)

    def build(self, dataset: RecordDataset) -> CocoMasks:
        """Measure against the whole images that the data set's records are about.

        Raises:
            UserError: windows were left out; or an object has no mask.
        """
        truths = whole_truths(dataset)
        check_measurable(truths, lambda objects: objects.is_single)
        return CocoMasks(truths, dataset.info.class_names, self.max_detections)

    def usual(self, data: Any) -> str:
        """AP50 of the masks."""
        return "mask/AP50"

    def higher_is_better(self, number: str) -> bool | None:
        """All but the limit of detections."""
        return None if number == "max_detections" else True


class CocoBoxes:
    """Collects predictions about windows or images; `compute` joins the windows and compares."""

    def __init__(self, truths: Sequence[Record], class_names: Sequence[str], max_detections: int | None = None) -> None:
        """Measure against records of whole images, whose crowd boxes neither reward nor punish."""
        self.images = WholeImages(truths, class_names)
        self.max_detections = max_detections or limit(truths)

    def condense(self, prediction: BoxPrediction) -> Condensed:
        """What is sent of a prediction to the rank that measures."""
        return condense(prediction)

    def update(self, predictions: Sequence[BoxPrediction | Condensed]) -> None:
        """Add predictions; the windows of an image may come in any order and batch.

        Raises:
            UserError: a prediction about an image that is not in the data set, or with other classes.
        """
        for prediction in predictions:
            self.images.add(prediction)

    def compute(self) -> dict[str, float]:
        """The figures, each in [0, 1]; NaN where there is no object to measure on.

        Returns:
            AP (mean over IoU .50:.05:.95), AP50, AP75, APs, APm, APl, AR, `AP/<class>` and `AP50/<class>` of
            each class, and `max_detections`, the limit that all of them hold for.
        """
        truth = join([box_rows(record, number) for number, record in enumerate(self.images.truths)])
        found = join([found_rows(prediction, number) for number, prediction in self.images.joined()])
        sizes_hw = [(0, 0)] * len(self.images.truths)  # sizes are for masks
        figures = compare("bbox", truth, found, sizes_hw, self.images.class_names, self.max_detections)
        return {**figures, "max_detections": float(self.max_detections)}


class CocoMasks:
    """Collects predictions with masks about windows or images; `compute` joins the windows and compares."""

    def __init__(self, truths: Sequence[Record], class_names: Sequence[str], max_detections: int | None = None) -> None:
        """Measure against records of whole images, whose crowd regions neither reward nor punish.

        Raises:
            UserError: an object without a mask, or with one that cannot be read.
        """
        self.images = WholeImages(truths, class_names)
        self.max_detections = max_detections or limit(truths)
        self.sizes_hw = [record.size_hw or image_size(record.images[0]) for record in truths]
        self.truth = join(
            [mask_rows(record, i, size) for i, (record, size) in enumerate(zip(truths, self.sizes_hw, strict=True))]
        )

    def condense(self, prediction: BoxPrediction) -> Condensed:
        """What is sent of a prediction to the rank that measures: its masks as run lengths of the whole image.

        Raises:
            UserError: a prediction without masks, or about an image that is not in the data set.
        """
        number = self.images.numbers.get(prediction.image_id)
        if prediction.objects.masks is None or number is None:
            what = "boxes without masks" if number is not None else "about an image that the data set does not have"
            fix = "use a head with masks, or the metric coco_boxes" if number is not None else "predict on its images"
            raise UserError(f"a prediction {what}", where=prediction.id, fix=fix)
        size_hw = self.sizes_hw[number]
        return condense(prediction, tuple(encode_patch(m.pixels, m.x, m.y, size_hw) for m in prediction.objects.masks))

    def update(self, predictions: Sequence[BoxPrediction | Condensed]) -> None:
        """Add predictions; the windows of an image may come in any order and batch.

        Raises:
            UserError: as `condense`; or with other classes.
        """
        for prediction in predictions:
            self.images.add(self.condense(prediction) if isinstance(prediction, BoxPrediction) else prediction)

    def compute(self) -> dict[str, float]:
        """The figures of `CocoBoxes`, those of masks with `mask/` in front; small, medium and large by the mask."""
        joined = list(self.images.joined())
        by_box = join([found_rows(prediction, number) for number, prediction in joined])
        by_mask = join([found_rows(prediction, number, with_masks=True) for number, prediction in joined])
        boxes = join([box_rows(record, number) for number, record in enumerate(self.images.truths)])
        shared = (self.sizes_hw, self.images.class_names, self.max_detections)
        figures = compare("bbox", boxes, by_box, *shared)
        figures |= {f"mask/{name}": value for name, value in compare("segm", self.truth, by_mask, *shared).items()}
        return {**figures, "max_detections": float(self.max_detections)}


def limit(truths: Sequence[Record]) -> int:
    """How many detections of an image count: as many as the fullest has objects, and at least COCO's 100."""
    return max([100, *(len(record.objects) for record in truths)])


def compare(
    by: By,
    truth: CocoRows,
    found: CocoRows,
    sizes_hw: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    max_detections: int,
) -> dict[str, float]:
    """The figures of objects and detections, images numbered from 0; NaN where there is no object."""
    precision, recall = precision_recall(by, truth, found, sizes_hw, class_names, max_detections)
    figures = {
        "AP": known_mean(precision[:, :, :, 0]),
        "AP50": known_mean(precision[0, :, :, 0]),
        "AP75": known_mean(precision[5, :, :, 0]),
        **{f"AP{size}": known_mean(precision[:, :, :, area]) for size, area in SIZES.items()},
        "AR": known_mean(recall[:, :, 0]),
    }
    for k, name in enumerate(class_names):
        figures[f"AP/{name}"] = known_mean(precision[:, :, k, 0])
        figures[f"AP50/{name}"] = known_mean(precision[0, :, k, 0])
    return figures


def box_rows(record: Record, number: int) -> CocoRows:
    """The boxes of image `number`."""
    objects = record.objects
    return CocoRows.of(number, objects.labels, objects.boxes_xyxy, is_crowd=~objects.is_single)


def mask_rows(record: Record, number: int, size_hw: tuple[int, int]) -> CocoRows:
    """As `box_rows`, with masks and their areas.

    Raises:
        UserError: an object without a mask, or with one that cannot be read.
    """
    rows = box_rows(record, number)
    masks: tuple[Any, ...] = record.objects.masks or (None,) * len(rows)
    runs = []
    for position, mask in enumerate(masks):
        try:
            runs.append(encode_segmentation(mask, size_hw))
        except ValueError as error:
            what = "an object without a mask" if not mask else f"a mask that cannot be read: {error}"
            where = f"{record.id}, object {position}"
            raise UserError(what, where=where, fix="run `vistruct check`, or use the metric coco_boxes") from None
    return rows.with_masks(runs)


def found_rows(prediction: BoxPrediction, number: int, with_masks: bool = False) -> CocoRows:
    """The detections in image `number`, with their masks (run lengths) where asked for."""
    objects = prediction.objects
    scores = objects.scores.double().numpy()
    rows = CocoRows.of(number, objects.labels.numpy(), objects.boxes_xyxy.numpy(), scores=scores)
    return rows.with_masks(objects.masks or ()) if with_masks else rows  # run lengths: see `CocoMasks.condense`
