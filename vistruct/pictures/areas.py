"""Label maps on a picture: translucent areas with clear edges, verdicts, errors, and what their legends say.

`draw_maps.py` and `draw_volume.py` make figures of these. Areas are painted pixel by pixel on a grid that is
enlarged without smoothing, so that a label one pixel off shows.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor

from vistruct.contracts import IGNORED
from vistruct.pictures.objects import FALSE_ALARM, FOUND, MISSED
from vistruct.pictures.primitives import CLASS_COLOURS, INK, PAPER, Colour, fit, hatch, to_pil, typeface

BACKGROUNDS = {"background", "unchanged", "no change", "no_change", "unlabelled", "unlabeled", "nothing"}
BARE: Colour = (226, 229, 233)  # the background class where it has to be seen: said in place of another class
HATCHED: Colour = (172, 178, 186)  # pixels that are not counted
WIDEST, NARROWEST = 1024, 448  # pixels: the long side of a drawn map
EDGE, LOUD = 0.95, 0.88  # how much of the image an area's edge covers, and a wrong pixel
MOST_CLASSES = 16  # in a legend

Picture = Image.Image | Tensor  # or number[C, H, W]
Entry = tuple[Colour, str, bool]  # of a legend: colour, text, whether it is hatched


@dataclass(frozen=True)
class Key:
    """What the numbers of a label map are called and look like."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    bare: int | None  # the background class, which is drawn as the image itself; None: there is none

    @classmethod
    def of(cls, class_names: Sequence[str], palette: Sequence[Colour] | None = None) -> Self:
        """With the data set's colours, or ours: past twenty classes these are hues that get ever closer.

        Raises:
            ValueError: another number of colours than of classes.
        """
        if palette is not None and len(palette) != len(class_names):
            raise ValueError(f"{len(palette)} colours for {len(class_names)} classes")
        bare = next((n for n, name in enumerate(class_names) if name.strip().lower() in BACKGROUNDS), None)
        places = [n for n in range(len(class_names)) if n != bare]
        ours = {n: CLASS_COLOURS[i] if i < len(CLASS_COLOURS) else _hue(i) for i, n in enumerate(places)}
        colours = [BARE if n == bare else (palette[n] if palette else ours[n]) for n in range(len(class_names))]
        return cls(tuple(class_names), tuple((int(r), int(g), int(b)) for r, g, b in colours), bare)

    @property
    def positive(self) -> int | None:
        """The only class beside the background; None where there are more."""
        return 1 - self.bare if len(self.names) == 2 and self.bare is not None else None


def ground_of(image: Picture, narrowest: int = NARROWEST, widest: int = WIDEST) -> tuple[Image.Image, str]:
    """An RGB copy whose long side lies within those bounds (pixels), and a note where it became smaller."""
    image = image if isinstance(image, Image.Image) else to_pil(image)
    longest = max(image.size)
    factor = min(max(longest, narrowest), widest) / longest
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    how = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, how), f"drawn at {factor:.0%} of its size" if factor < 1 else ""


def checked(image: Picture, label_map: Tensor, key: Key) -> np.ndarray:
    """int16[H, W] of the image's size.

    Raises:
        ValueError: another size, or a number that is no class.
    """
    labels = label_map.detach().cpu().numpy().astype(np.int16)
    size = (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[1:])
    if labels.shape != size:
        raise ValueError(f"labels of {labels.shape} for an image of {size}")
    if labels.size and not IGNORED <= int(labels.min()) <= int(labels.max()) < len(key.names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} of {len(key.names)} classes")
    return labels


def painted(ground: Image.Image, labels: np.ndarray, key: Key, alpha: float) -> Image.Image:
    """The picture under its classes; the background as it is, what is not counted hatched."""
    labels = _fitted(labels, ground)
    strength = np.where(_edges(labels, _pen(ground)), EDGE, alpha)
    strength[labels == IGNORED] = 0.0
    if key.bare is not None:
        strength[labels == key.bare] = 0.0
    colours = np.array([*key.colours, HATCHED], np.float32)[labels]  # IGNORED, -1, is the last
    return _hatched(_blended(ground, colours, strength), labels)


def judged(ground: Image.Image, prediction: np.ndarray, truth: np.ndarray, positive: int) -> Image.Image:
    """What was found of one class, false alarms and misses, on a quiet picture."""
    said, true = _fitted(prediction, ground), _fitted(truth, ground)
    is_said, is_true, counted = said == positive, true == positive, true != IGNORED
    verdict = np.where(is_said & is_true, 0, np.where(is_said, 1, 2))  # of pixels that are one of the two
    colours = np.array([FOUND, FALSE_ALARM, MISSED], np.float32)[verdict]
    return _hatched(_blended(quiet(ground), colours, np.where((is_said | is_true) & counted, LOUD, 0.0)), true)


def wrong(ground: Image.Image, prediction: np.ndarray, truth: np.ndarray, key: Key) -> Image.Image:
    """Wrong pixels in the colour of what was said, on a quiet picture."""
    said, true = _fitted(prediction, ground), _fitted(truth, ground)
    colours = np.array([*key.colours, PAPER], np.float32)[said]
    return _hatched(_blended(quiet(ground), colours, np.where((said != true) & (true != IGNORED), LOUD, 0.0)), true)


def quiet(ground: Image.Image) -> Image.Image:
    """Grey and darker, so that colours stand out."""
    return ImageEnhance.Brightness(ground.convert("L").convert("RGB")).enhance(0.62)


def overlap(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """int64[K, 3]: of each class the pixels that are right, false alarms and misses; IGNORED truth is not counted."""
    counted = truth != IGNORED
    said, true = prediction[counted], truth[counted]
    rows = []
    for number in range(num_classes):
        right = int(((said == number) & (true == number)).sum())
        rows.append([right, int((said == number).sum()) - right, int((true == number).sum()) - right])
    return np.array(rows, np.int64).reshape(num_classes, 3)


def share_legend(labels: np.ndarray, key: Key) -> tuple[list[Entry], str]:
    """Each class's share of the pixels that count, the largest first; the background's as a note."""
    counted = labels[labels != IGNORED]
    counts = np.bincount(counted.ravel(), minlength=len(key.names))
    order = [int(n) for n in np.argsort(-counts, kind="stable") if counts[n] and n != key.bare]
    entries: list[Entry] = [
        (key.colours[n], f"{key.names[n]} {_percent(counts[n], counted.size)}", False) for n in order
    ]
    entries = cut(entries)
    if counted.size < labels.size:
        entries.append((HATCHED, f"not counted {_percent(labels.size - counted.size, labels.size)}", True))
    bare = key.bare
    return entries, f"{key.names[bare]} {_percent(counts[bare], counted.size)}" if bare is not None and counts[
        bare
    ] else ""


def score_legend(counts: np.ndarray, key: Key, score: str = "IoU") -> list[Entry]:
    """IoU or Dice of each class that is there or was said to be.

    Args:
        counts: int[K, 3], see `overlap`.
        key: of the K classes.
        score: IoU or Dice.
    """
    entries: list[Entry] = []
    for name, colour, (right, false, missed) in zip(key.names, key.colours, counts.tolist(), strict=True):
        weight = 2 if score == "Dice" else 1
        if total := weight * right + false + missed:
            entries.append((colour, f"{name} {score} {weight * right / total:.2f}", False))
    return cut(entries)


def verdict_legend(counts: np.ndarray, key: Key, positive: int) -> tuple[list[Entry], str]:
    """Pixels found, false alarms and misses of one class, and its F1; `counts` int[K, 3]."""
    right, false, missed = counts[positive].tolist()
    names = (FOUND, "found", right), (FALSE_ALARM, "false alarm", false), (MISSED, "missed", missed)
    total = 2 * right + false + missed
    score = (
        f"F1 {2 * right / total:.2f}, IoU {right / (right + false + missed):.2f}" if total else "nothing, and none said"
    )
    return [
        (colour, f"{name} {_thousands(n)} px", False) for colour, name, n in names
    ], f"{key.names[positive]}: {score}"


def cut(entries: list[Entry]) -> list[Entry]:
    """As many as a legend holds; the last says how many more there are."""
    if len(entries) <= MOST_CLASSES:
        return entries
    return [*entries[: MOST_CLASSES - 1], (PAPER, f"and {len(entries) - MOST_CLASSES + 1} more classes", False)]


def beside(panels: Sequence[tuple[str, Image.Image]], gap: int = 8) -> Image.Image:
    """Pictures of one width side by side, each with its name above."""
    size = text_size(panels[0][1])
    font, head = typeface(size), round(size * 1.9)
    height = max(picture.height for _, picture in panels)
    sheet = Image.new("RGB", (sum(p.width for _, p in panels) + gap * (len(panels) - 1), height + head), PAPER)
    draw, x = ImageDraw.Draw(sheet), 0
    for name, picture in panels:
        draw.text((x + 6, head / 2), fit(name, font, picture.width - 6), INK, font, anchor="lm")
        sheet.paste(picture, (x, head))
        x += picture.width + gap
    return sheet


def text_size(panel: Image.Image) -> int:
    """Pixels, of the text in a figure of such panels."""
    return max(14, round(panel.width / 24))


def stacked(pictures: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Pictures one below the other."""
    size = max(one.width for one in pictures), sum(one.height for one in pictures) + gap * (len(pictures) - 1)
    sheet, y = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + gap
    return sheet


def joined(*parts: str) -> str:
    """What there is of them, with commas."""
    return ", ".join(part for part in parts if part)


def _fitted(labels: np.ndarray, ground: Image.Image) -> np.ndarray:
    """The nearest label at every pixel of the picture."""
    rows = (np.arange(ground.height) + 0.5) * labels.shape[0] / ground.height
    columns = (np.arange(ground.width) + 0.5) * labels.shape[1] / ground.width
    return labels[rows.astype(np.int64)[:, None], columns.astype(np.int64)[None]]


def _pen(ground: Image.Image) -> int:
    """Pixels, the width of an edge."""
    return max(2, round(max(ground.size) / 420))


def _edges(labels: np.ndarray, width: int) -> np.ndarray:
    """bool[H, W], pixels nearer than `width` to another label."""
    edge = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    if width > 1:
        wide = Image.fromarray(edge.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * width - 1))
        edge = np.asarray(wide) > 0
    return edge


def _blended(ground: Image.Image, colours: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """float[H, W, 3] of the picture under colours float[H, W, 3] of strength [H, W] in [0, 1]."""
    pixels, share = np.asarray(ground, np.float32), strength[..., None].astype(np.float32)
    return pixels * (1 - share) + colours * share


def _hatched(pixels: np.ndarray, labels: np.ndarray) -> Image.Image:
    """float[H, W, 3] as a picture, with stripes where labels int[H, W] are IGNORED."""
    stripes = hatch((labels.shape[0], labels.shape[1]), max(2, round(max(labels.shape) / 200)))
    share = np.where(labels == IGNORED, np.where(stripes, 0.7, 0.25), 0.0)[..., None]
    shade = np.where(stripes[..., None], np.array(HATCHED), np.array(PAPER))
    return Image.fromarray((pixels * (1 - share) + shade * share).round().astype(np.uint8))


def _hue(place: int) -> Colour:
    """Turned by the golden angle from one to the next, in three shades."""
    red, green, blue = colorsys.hsv_to_rgb(place * 0.381966 % 1, 0.55 + 0.2 * (place % 2), (1.0, 0.8, 0.65)[place % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 0.05 else "<0.1%"


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")
