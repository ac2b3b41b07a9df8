"""Made-up SAMRS sets in the folders of the released ones: label maps, pickled instances, jsons, texts and xml."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from box_sets import HEIGHT, WIDTH, Drawn, draw, save_image
from hotcoco import mask as coco_mask

from vistruct.data.formats.boxes.published import FAST, SIOR, SOTA
from vistruct.files.masks import rasterise


@dataclass(frozen=True)
class Samrs:
    """Where a set was made, and what is in its images, by their names; the third has no objects and no files."""

    root: Path
    segs: Path  # the folder of gray, color and ins
    names: tuple[str, ...]
    truth: dict[str, list[Drawn]]

    def label(self, one: Drawn) -> int:
        return self.names.index(one.name)


def make_sota(folder: Path, *, boxes: Literal["rbox", "bbox"] = "rbox", texts: bool = True) -> Samrs:
    """`trainval/{images,rhbox_segs_init,rbbtxts}` with png tiles."""
    made = _made(folder, folder / "trainval" / "rhbox_segs_init", folder / "trainval" / "images", ".png", SOTA, boxes)
    for name, objects in made.truth.items():
        if texts and objects:
            lines = [" ".join(f"{v}" for v in one.quad.ravel()) + f" {one.name} {made.label(one)}" for one in objects]
            _write(folder / "trainval" / "rbbtxts" / f"{name}.txt", "\n".join(lines) + "\n")
    return made


def make_fast(folder: Path) -> Samrs:
    """As SOTA, with other classes."""
    return _made(folder, folder / "trainval" / "rhbox_segs_init", folder / "trainval" / "images", ".png", FAST, "rbox")


def make_sior(folder: Path) -> Samrs:
    """DIOR's folders with horizontal boxes in the pickles and oriented ones in its xml."""
    segs = folder / "hbox_segs_trainvaltest_init"
    made = _made(folder, segs, folder / "JPEGImages-trainval", ".jpg", SIOR, "bbox")
    for name, objects in made.truth.items():
        tags = [
            "".join(
                f"<{axis}_{corner}>{value}</{axis}_{corner}>"
                for corner, point in zip(
                    ("left_top", "right_top", "right_bottom", "left_bottom"), one.quad, strict=True
                )
                for axis, value in zip("xy", point, strict=True)
            )
            for one in reversed(objects)  # another order than the pickles'
        ]
        rows = [
            f"<object><name>{one.name.capitalize()}</name><robndbox>{tag}</robndbox></object>"
            for one, tag in zip(reversed(objects), tags, strict=True)
        ]
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        xml = folder / "Annotations" / "Oriented Bounding Boxes" / f"{name}.xml"
        _write(xml, f"<annotation>{size}{''.join(rows)}</annotation>")
    return made


def mask_of(one: Drawn) -> dict[str, Any]:
    """Compressed run lengths, as ASCII."""
    pixels = rasterise([one.quad.ravel().tolist()], (0, 0, WIDTH, HEIGHT))
    found = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode("ascii")}


def pickled(made: Samrs, objects: Sequence[Drawn], boxes: str) -> list[dict[str, Any]]:
    """As the published script writes an image."""
    rows = []
    for one in objects:
        hull = np.array([*one.quad.min(0), *one.quad.max(0)], np.float32)
        mask = mask_of(one)
        own = {"rbox": one.quad, "rhbox": hull} if boxes == "rbox" else {"bbox": hull}
        area = int(coco_mask.area({**mask, "counts": mask["counts"].encode()}))
        rows.append({"mask": mask, **own, "category": one.name, "label": made.label(one), "size": area})
    return rows


def write_json(made: Samrs, split: str, stems: Sequence[str], *, categories: Sequence[str] | None = None) -> Path:
    """As the published converter writes a split: boxes are hulls of masks, ids are label ids."""
    images, annotations = [], []
    suffix = next((made.segs.parent / "images").glob("*"), Path("x.jpg")).suffix
    for number, stem in enumerate(stems):
        file = f"{stem}{suffix}"
        images.append({"file_name": file, "height": HEIGHT, "width": WIDTH, "segm_file": f"{stem}.png", "id": number})
        for one in made.truth[stem]:
            mask = mask_of(one)
            as_bytes = {**mask, "counts": mask["counts"].encode()}
            annotations.append({
                "iscrowd": 0, "category_id": made.label(one), "bbox": coco_mask.toBbox(as_bytes).tolist(),
                "area": int(coco_mask.area(as_bytes)), "segmentation": mask, "image_id": number,
                "id": len(annotations),
            })  # fmt: skip
    kinds = [{"id": number, "name": name} for number, name in enumerate(categories or made.names)]
    content: dict[str, Any] = {"images": images, "categories": kinds}
    content |= {"annotations": annotations} if annotations else {}
    return _write(made.segs.parent / f"sota_rbb_{split}_ins_segmentation.json", json.dumps(content))


def _made(root: Path, segs: Path, images: Path, suffix: str, names: tuple[str, ...], boxes: str) -> Samrs:
    truth = dict(zip(("P0001__1__0___0", "P0002__1__0___0", "P0003__1__0___0"), draw(names), strict=True))
    made = Samrs(root, segs, names, truth)
    for name, objects in truth.items():
        save_image(images / f"{name}{suffix}", objects)
        if not objects:
            continue
        gray = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for one in objects:
            gray[rasterise([one.quad.ravel().tolist()], (0, 0, WIDTH, HEIGHT))] = made.label(one)
        for kind, pixels in (("gray", gray), ("color", np.repeat(gray[..., None], 3, axis=2))):
            (segs / kind).mkdir(parents=True, exist_ok=True)
            _image(segs / kind / f"{name}.png", pixels)
        (segs / "ins").mkdir(exist_ok=True)
        (segs / "ins" / f"{name}.pkl").write_bytes(pickle.dumps(pickled(made, objects, boxes), protocol=4))
    return made


def _image(file: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(file)


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
