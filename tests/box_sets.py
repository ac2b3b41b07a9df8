"""Made-up data sets of three images a split, in the folders and files of the published ones.

The first two images hold one small turned box of each class, every fifth of them difficult; the third is empty. What
was drawn is returned beside the folder, so that a reader can be held against it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from vistruct.contracts import Record
from vistruct.data.formats.boxes import published
from vistruct.data.formats.format import Ask
from vistruct.data.formats.read import read, walk
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

HEIGHT, WIDTH = 96, 128
CELL = 24  # pixels; one object in each cell of a grid


@dataclass(frozen=True)
class Drawn:
    """One object as it was drawn, with what the files say rounded to a tenth."""

    name: str
    box: tuple[float, float, float, float, float]  # cxcywha
    is_difficult: bool = False

    @property
    def quad(self) -> np.ndarray:
        """float64[4, 2], from (-w/2, -h/2) on, rounded to a tenth."""
        cx, cy, w, h, angle = self.box
        cos, sin = math.cos(angle), math.sin(angle)
        offsets = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
        return np.round([(cx + cos * x - sin * y, cy + sin * x + cos * y) for x, y in offsets], 1)

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Whole pixels around it, right and bottom exclusive."""
        low, high = np.floor(self.quad.min(0)), np.ceil(self.quad.max(0))
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])


@dataclass(frozen=True)
class BoxSet:
    """Where a data set was made, and what is in each split: objects by the image's name without ending."""

    root: Path
    class_names: tuple[str, ...]
    truth: dict[str, dict[str, list[Drawn]]]


def draw(names: Sequence[str]) -> list[list[Drawn]]:
    """The objects of three images: the classes shared out between the first two."""
    return [_grid(names[0::2]), _grid(names[1::2] or names), []]


def make_dota(folder: Path, names: tuple[str, ...] = published.DOTA_2_0) -> BoxSet:
    """`train/{images,labelTxt}` and `val/...` with headers, as DOTA's archives unpack."""
    truth = {split: _named(("P0001", "P0002", "P0003"), names) for split in ("train", "val")}
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / split / "images" / f"{stem}.png", objects)
            lines = ["imagesource:GoogleEarth", "gsd:0.146343590398", *map(dota_line, objects)]
            _save(folder / split / "labelTxt" / f"{stem}.txt", "\n".join(lines) + "\n")
    return BoxSet(folder, names, truth)


def make_rsar(folder: Path) -> BoxSet:
    """`train`, `val` and `test` with `annfiles` and `images`, no headers, an empty file for an empty image."""
    names = published.RSAR
    truth = {split: _named((f"{split}_1", f"{split}_2", f"{split}_3"), names) for split in ("train", "val", "test")}
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / split / "images" / f"{stem}.jpg", objects)
            _save(folder / split / "annfiles" / f"{stem}.txt", "".join(f"{dota_line(one)}\n" for one in objects))
    return BoxSet(folder, names, truth)


def make_dior(folder: Path) -> BoxSet:
    """Horizontal boxes: one folder of xml, images in two folders, lists in `ImageSets/Main`."""
    truth = _dior_images(folder, published.DIOR)
    for images in truth.values():
        for stem, objects in images.items():
            boxes = [_voc_object(_published_dior(one.name), one, _bndbox(one.edges)) for one in objects]
            _save(folder / "Annotations" / "Horizontal Bounding Boxes" / f"{stem}.xml", voc_xml(stem, boxes))
    return BoxSet(folder, published.DIOR, truth)


def make_dior_r(folder: Path) -> BoxSet:
    """Oriented boxes in DIOR's folders."""
    truth = _dior_images(folder, published.DIOR_R)
    for images in truth.values():
        for stem, objects in images.items():
            boxes = [_voc_object(_published_dior(one.name), one, _robndbox(one.quad)) for one in objects]
            _save(folder / "Annotations" / "Oriented Bounding Boxes" / f"{stem}.xml", voc_xml(stem, boxes))
    return BoxSet(folder, published.DIOR_R, truth)


def make_voc(folder: Path, names: tuple[str, ...] = ("car", "dog")) -> BoxSet:
    """`Annotations`, `JPEGImages` and `ImageSets/Main`; pixels from 1, the last one inclusive."""
    truth = {
        "train": _named(("000001", "000002", "000003"), names),
        "val": _named(("000004", "000005", "000006"), names),
    }
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / "JPEGImages" / f"{stem}.jpg", objects)
            boxes = [_voc_object(one.name, one, _bndbox(from_one(one.edges))) for one in objects]
            _save(folder / "Annotations" / f"{stem}.xml", voc_xml(stem, boxes))
        _save(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in images))
        _save(folder / "ImageSets" / "Main" / f"car_{split}.txt", "".join(f"{stem} -1\n" for stem in images))
    return BoxSet(folder, names, truth)


def make_fair1m(folder: Path) -> BoxSet:
    """`train/part1`, `train/part2` and `validation`, each with `images` and `labelXml`; no difficult flags."""
    names = published.FAIR1M
    truth = {"train": _named(("0", "1", "2"), names), "validation": _named(("0", "1", "2"), names)}
    for split, images in truth.items():
        for stem, objects in images.items():
            images[stem] = [Drawn(one.name, one.box) for one in objects]
            part = folder / split / ("part2" if stem == "2" else "part1") if split == "train" else folder / split
            save_image(part / "images" / f"{stem}.tif", objects)
            _save(part / "labelXml" / f"{stem}.xml", _fair1m_xml(stem, objects))
    return BoxSet(folder, names, truth)


def make_hrsc(folder: Path) -> BoxSet:
    """`FullDataSet/{AllImages,Annotations}` and `ImageSets`; the names are the kinds of ship."""
    names = tuple(published.HRSC.values())
    stems = {"trainval": ("100000001", "100000002", "100000003"), "test": ("100000004", "100000005", "100000006")}
    truth = {split: _named(of_split, names) for split, of_split in stems.items()}
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / "FullDataSet" / "AllImages" / f"{stem}.bmp", objects)
            _save(folder / "FullDataSet" / "Annotations" / f"{stem}.xml", _hrsc_xml(objects))
        _save(folder / "ImageSets" / f"{split}.txt", "".join(f"{stem}\r\n" for stem in images))
    return BoxSet(folder, names, truth)


def make_ssdd(folder: Path) -> BoxSet:
    """RBox_SSDD's `voc_style`: `Annotations_<split>` beside `JPEGImages_<split>`, oriented and horizontal in one."""
    truth = {
        "train": _named(("000001", "000002", "000003"), ("ship",)),
        "test": _named(("000004", "000005", "000006"), ("ship",)),
    }
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / f"JPEGImages_{split}" / f"{stem}.jpg", objects)
            boxes = [_voc_object("ship", one, _rotated_bndbox(one)) for one in objects]
            _save(folder / f"Annotations_{split}" / f"{stem}.xml", voc_xml(stem, boxes))
    return BoxSet(folder, ("ship",), truth)


def make_sardet(folder: Path) -> BoxSet:
    """SARDet-100K: COCO, `Annotations/<split>.json` and `JPEGImages/<split>`; horizontal boxes."""
    names = published.RSAR
    truth = {split: _named(("0000001", "0000002", "0000003"), names) for split in ("train", "val", "test")}
    for split, images in truth.items():
        listed, annotations = [], []
        for number, (stem, objects) in enumerate(images.items()):
            save_image(folder / "JPEGImages" / split / f"{stem}.png", objects)
            listed.append({"id": number, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT})
            for one in objects:
                x0, y0, x1, y1 = one.edges
                annotations.append(
                    {
                        "id": len(annotations), "image_id": number, "category_id": names.index(one.name), "iscrowd": 0,
                        "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                    }
                )  # fmt: skip
        categories = [{"id": number, "name": name} for number, name in enumerate(names)]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        _save(folder / "Annotations" / f"{split}.json", json.dumps(content))
    return BoxSet(folder, names, truth)


def save_image(path: Path, objects: Sequence[Drawn]) -> None:
    """A grey picture with the objects as bright shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 100, 80))
    for number, one in enumerate(objects):
        colour = (255 - 7 * number % 120, 120 + 11 * number % 130, 40 + 17 * number % 200)
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in one.quad.tolist()], fill=colour)
    image.save(path)


def dota_line(one: Drawn) -> str:
    """Its line in a DOTA file."""
    return " ".join(f"{value:.1f}" for value in one.quad.reshape(8)) + f" {one.name} {int(one.is_difficult)}"


def voc_xml(stem: str, objects: Sequence[str], size: str | None = None) -> str:
    """A VOC file with these `<object>`s."""
    told = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size is None else size
    body = "\n".join(objects)
    return f"<annotation>\n<folder>x</folder><filename>{stem}.jpg</filename>\n{told}\n{body}\n</annotation>\n"


def from_one(edges: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Edges as VOC counts them: pixels from 1, the last one inclusive."""
    return edges[0] + 1, edges[1] + 1, edges[2], edges[3]


def _grid(names: Sequence[str]) -> list[Drawn]:
    across = WIDTH // CELL
    return [
        Drawn(
            name,
            (CELL * (n % across) + 12.5, CELL * (n // across) + 12.0, 16.0, 7.0, round((0.37 * n) % math.pi - 1.5, 3)),
            n % 5 == 4,
        )
        for n, name in enumerate(names)
    ]


def _named(stems: Sequence[str], names: Sequence[str]) -> dict[str, list[Drawn]]:
    return dict(zip(stems, draw(names), strict=True))


def _dior_images(folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, list[Drawn]]]:
    stems = {
        "train": ("00001", "00002", "00003"),
        "val": ("00004", "00005", "00006"),
        "test": ("11726", "11727", "11728"),
    }
    truth = {split: _named(of_split, names) for split, of_split in stems.items()}
    for split, images in truth.items():
        for stem, objects in images.items():
            save_image(folder / f"JPEGImages-{'test' if split == 'test' else 'trainval'}" / f"{stem}.jpg", objects)
        _save(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in images))
    return truth


def _published_dior(name: str) -> str:
    """DIOR's files begin two names with a capital."""
    return {
        "expressway-service-area": "Expressway-Service-area",
        "expressway-toll-station": "Expressway-toll-station",
    }.get(name, name)


def _voc_object(name: str, one: Drawn, box: str) -> str:
    flags = f"<pose>Unspecified</pose><truncated>0</truncated><difficult>{int(one.is_difficult)}</difficult>"
    return f"<object><name>{name}</name>{flags}\n{box}</object>"


def _bndbox(edges: tuple[int, int, int, int]) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    return f"<bndbox>{''.join(f'<{tag}>{value}</{tag}>' for tag, value in tags)}</bndbox>"


def _robndbox(quad: np.ndarray) -> str:
    corners = ("left_top", "right_top", "right_bottom", "left_bottom")
    tags = (f"<x_{at}>{x}</x_{at}><y_{at}>{y}</y_{at}>" for at, (x, y) in zip(corners, quad.tolist(), strict=True))
    return f"<robndbox>{''.join(tags)}</robndbox><angle>0</angle>"


def _rotated_bndbox(one: Drawn) -> str:
    x0, y0, x1, y1 = one.edges
    sides = f"<bbox_w>{x1 - x0}</bbox_w><bbox_h>{y1 - y0}</bbox_h>"
    corners = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(one.quad.tolist(), start=1))
    cx, cy, w, h, angle = one.box
    box = {"cx": cx, "cy": cy, "w": w, "h": h, "theta": math.degrees(angle)}
    told = "".join(f"<rotated_bbox_{key}>{value}</rotated_bbox_{key}>" for key, value in box.items())
    horizontal = _bndbox((x0, y0, x1, y1)).replace("</bndbox>", f"{sides}</bndbox>")
    return f"{horizontal}<rotated_bndbox>{told}{corners}</rotated_bndbox>"


def _fair1m_xml(stem: str, objects: Sequence[Drawn]) -> str:
    rows = []
    for one in objects:
        ring = [*one.quad.tolist(), one.quad.tolist()[0]]
        points = "".join(f"<point>{x:.6f},{y:.6f}</point>" for x, y in ring)
        rows.append(
            "<object><coordinate>pixel</coordinate><type>rectangle</type><description>None</description>"
            f"<possibleresult><name>{one.name}</name></possibleresult>\n<points>{points}</points></object>"
        )
    body = "\n".join(rows)
    return (
        f"<?xml version='1.0' encoding='utf-8'?>\n<annotation><source><filename>{stem}.tif</filename>"
        "<origin>GF2/GF3</origin></source><research><version>1.0</version></research>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>\n"
        f"<objects>{body}</objects></annotation>\n"
    )


def _hrsc_xml(objects: Sequence[Drawn]) -> str:
    number_of = {name: number for number, name in published.HRSC.items()}
    rows = []
    for one in objects:
        box = "".join(
            f"<mbox_{key}>{value}</mbox_{key}>"
            for key, value in zip(("cx", "cy", "w", "h", "ang"), one.box, strict=True)
        )
        rows.append(
            f"<HRSC_Object><Class_ID>{100000000 + number_of[one.name]}</Class_ID><truncated>0</truncated>"
            f"<difficult>{int(one.is_difficult)}</difficult>\n{box}<header_x>1</header_x><header_y>1</header_y></HRSC_Object>"
        )
    body = "\n".join(rows)
    size = f"<Img_SizeWidth>{WIDTH}</Img_SizeWidth><Img_SizeHeight>{HEIGHT}</Img_SizeHeight>"
    return f"<HRSC_Image><Img_CusType>sealand</Img_CusType>{size}\n<HRSC_Objects>{body}</HRSC_Objects></HRSC_Image>\n"


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def assert_drawn(
    records: Sequence[Record],
    class_names: Sequence[str],
    images: dict[str, list[Drawn]],
    *,
    kind: Literal["oriented", "horizontal"],
    names: Callable[[str], str] = str,
    atol: float = 1e-4,
) -> None:
    """The records say exactly what was drawn, in the order in which it was written."""
    assert [Path(record.id).stem for record in records] == list(images)
    for record, objects in zip(records, images.values(), strict=True):
        assert record.size_hw == (HEIGHT, WIDTH)
        assert [class_names[label] for label in record.objects.labels] == [names(one.name) for one in objects]
        assert record.objects.is_difficult.tolist() == [one.is_difficult for one in objects]
        assert (record.objects.boxes_xyxy.dtype, record.objects.labels.dtype) == (np.float32, np.int64)
        if kind == "oriented":
            quads = np.array([one.quad for one in objects]).reshape(-1, 4, 2)
            assert record.objects.quads is not None
            np.testing.assert_allclose(record.objects.quads, quads, atol=atol)
            hulls = np.concatenate([quads.min(1), quads.max(1)], axis=1)
        else:
            assert record.objects.quads is None
            hulls = np.array([one.edges for one in objects], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(record.objects.boxes_xyxy, hulls, atol=atol)


def read_boxes(
    path: Path,
    images: Path | None = None,
    *,
    format: str = "auto",
    split: str | None = None,
    missing: Literal["stop", "drop"] = "stop",
    class_names: Sequence[str] | None = None,
) -> tuple[list[Record], tuple[str, ...], IssueCounter]:
    """Records, class names and what was left out, with a word for each thing asked."""
    classes = None if class_names is None else tuple(class_names)
    ask = Ask(split=split, images=images, missing=missing, classes=classes)
    found, report = read(path, "boxes", format=format, ask=ask)
    return found.records, found.class_names, report


def read_coco(
    path: Path, images: Path | None = None, **asked: Any
) -> tuple[list[Record], tuple[str, ...], IssueCounter]:
    """Likewise, of a COCO json whatever it looks like."""
    return read_boxes(path, images, format="coco", **asked)


def walk_boxes(
    path: Path, format: str, stop: Callable[[UserError], None], report: IssueCounter | None = None
) -> tuple[list[Record], tuple[str, ...]]:
    """Records and class names of what can be read where `stop` returns."""
    found = walk(path, "boxes", format, Ask(), report or IssueCounter(), stop)
    return found.records, found.class_names
