"""Reports as one HTML file that opens offline: text, tables, figures, numbers; on screen, phone or paper.

Everything is inside the file: the style, the plots as SVG, the photographs as JPEG. `report.py` writes the
report of a training run with it.
"""

from __future__ import annotations

import base64
import datetime
import html
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from markdown_it import MarkdownIt
from PIL import Image

import vistruct
from vistruct.files.owned import single_file
from vistruct.files.text import write_text
from vistruct.progress import notice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("page.css")
AXES = "#7c8591"  # what plots use for text and axes; becomes the page's text colour in the SVG
_MARKS = MarkdownIt("zero", {"html": False}).enable(["heading", "list", "emphasis", "backticks"])
COLOURS = ("#1b9e77", "#d95f02", "#5b8def", "#c2549d", "#b08900", "#4bb3c8")  # readable on white and on black
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # of names: no XML and no UTF-8 has them
_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Bar:
    """A cell with a share in [0, 1] as number and bar; NaN has neither."""

    share: float


class Report:
    """A page that is written top to bottom; every method adds one element and returns the report."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._body: list[str] = []

    def text(self, paragraphs: str) -> Self:
        """Paragraphs parted by empty lines; `## ` headings, `- ` lists, **bold**, *italic* and `code`."""
        self._body.append(_prose(paragraphs))
        return self

    def callout(self, paragraphs: str) -> Self:
        """Something that a reader must not miss."""
        self._body.append(f'<div class="callout" role="note">{_prose(paragraphs)}</div>')
        return self

    def key_numbers(self, numbers: Iterable[Sequence[object]]) -> Self:
        """Large numbers side by side: each is (value, label) or (value, label, note)."""
        cards = []
        for value, label, *note in numbers:
            small = f"<small>{_escape(note[0])}</small>" if note and note[0] else ""
            cards.append(f'<div class="number"><b>{_cell(value)}</b><span>{_escape(label)}</span>{small}</div>')
        columns = len(cards) if len(cards) <= 5 else math.ceil(len(cards) / math.ceil(len(cards) / 5))  # even rows
        self._body.append(f'<div class="numbers" style="--columns: {columns}">{"".join(cards)}</div>')
        return self

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[object]],
        highlight: Collection[int | tuple[int, int]] = (),
        caption: str = "",
    ) -> Self:
        """A table; it scrolls in its own box where the screen is narrow.

        Args:
            headers: one for each column.
            rows: cells as text, numbers (floats get four digits, None a dash) or `Bar`s; the first names the row.
            highlight: rows by index, or cells as (row, column), to be marked.
            caption: what the table shows, above it.

        Raises:
            ValueError: a row with another number of cells than there are headers.
        """
        for index, row in enumerate(rows):
            if len(row) != len(headers):
                raise ValueError(f"row {index} has {len(row)} cells, the table has {len(headers)} columns")
        numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
        head = "".join(f'<th scope="col"{_class(n=numeric[i])}>{_escape(h)}</th>' for i, h in enumerate(headers))
        body = []
        for r, row in enumerate(rows):
            cells = []
            for c, value in enumerate(row):
                is_bar = isinstance(value, Bar) and not math.isnan(value.share)
                marks = _class(n=numeric[c], hl=r in highlight or (r, c) in highlight, bar=is_bar)
                if isinstance(value, Bar) and is_bar:
                    marks += f' style="--share: {min(max(value.share, 0.0), 1.0):.4f}"'
                tag, scope = ("th", ' scope="row"') if c == 0 else ("td", "")
                cells.append(f"<{tag}{scope}{marks}>{_cell(value)}</{tag}>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        title = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        self._body.append(
            f'<figure class="table">{title}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr>'
            f"</thead><tbody>{''.join(body)}</tbody></table></div></figure>"
        )
        return self

    def figure(self, figure: Figure | Image.Image | Path | str, caption: str = "") -> Self:
        """A picture with its caption.

        Args:
            figure: a matplotlib figure or a string of SVG (stays sharp, follows light and dark), a PIL image
                (JPEG; PNG where it has transparency), or the path of a PNG, JPEG or SVG file, taken as it is.
            caption: below the picture; also what a screen reader says.
        """
        alt = html.escape(re.sub(r"[*`]", "", caption), quote=True)
        below = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        uri = _data_uri(figure)
        image = f'<img src="{uri}" alt="{alt}">'
        if uri.startswith("data:image/svg"):
            self._body.append(f'<figure><div class="plot">{image}</div>{below}</figure>')
        else:  # a hidden checkbox: a photograph opens to its full size on a click, without a script
            box = '<input type="checkbox" aria-label="show in full size">'
            self._body.append(f'<figure><label class="zoom">{box}{image}</label>{below}</figure>')
        return self

    def details(self, summary: str, body: str) -> Self:
        """Text that is folded away until it is asked for, shown as it was written."""
        self._body.append(
            f"<details><summary>{_inline(summary)}</summary><pre>{html.escape(body.rstrip())}</pre></details>"
        )
        return self

    def to_html(self) -> str:
        """The whole page."""
        subtitle = f'<p class="subtitle">{_inline(self.subtitle)}</p>' if self.subtitle else ""
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="generator" content="vistruct">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_escape(self.title)}</title><style>\n{STYLE.read_text()}</style></head>\n"
            f"<body><main><header><h1>{_escape(self.title)}</h1>{subtitle}</header>\n"
            + "\n".join(self._body)
            + f"\n<footer>vistruct {vistruct.__version__}, written {when}</footer></main></body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all; gives back the path: where somebody has a file, another one."""
        place = single_file(None, path)
        if place != path:
            notice(f"{path} is not ours and stays; the report is {place}")
        write_text(place, [printable(self.to_html())])
        return place


def house_style() -> Any:
    """matplotlib settings of every plot.

    The ground is transparent and text and axes have the colour `AXES`, which the report turns into its own.
    """
    from cycler import cycler

    return {
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "figure.figsize": (9.0, 3.4), "figure.constrained_layout.use": True,
        "svg.fonttype": "none", "svg.hashsalt": "vistruct", "font.size": 11,
        "text.color": AXES, "axes.labelcolor": AXES, "xtick.color": AXES, "ytick.color": AXES,
        "axes.edgecolor": AXES, "axes.linewidth": 0.8, "axes.titlesize": 12, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=COLOURS),
        "axes.grid": True, "grid.color": AXES, "grid.alpha": 0.22, "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "lines.linewidth": 2.0, "lines.markersize": 5, "legend.frameon": False,
        "text.parse_math": False,  # names of classes are no formulas
    }  # fmt: skip


def styled() -> Any:
    """The context in which every plot is drawn, without a window."""
    import matplotlib as mpl

    mpl.use("Agg")
    return mpl.rc_context(house_style())


def figure_to_svg(figure: Figure) -> str:
    """A matplotlib figure as SVG whose text and axes are dark on a light page and light on a dark one."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(house_style()):  # text stays text: what decides it is the time of saving, not of drawing
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = printable(buffer.getvalue())
    text = text[text.index("<svg") :].replace(AXES, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans'")
    style = "<style>svg{color:#4b5561}@media (prefers-color-scheme:dark){svg{color:#b4bcc6}}</style>"
    return re.sub(r"(<svg[^>]*>)", r"\1" + style, text, count=1)


def _data_uri(figure: Figure | Image.Image | Path | str) -> str:
    if isinstance(figure, Path):
        mime, data = _MIME[figure.suffix.lower()], figure.read_bytes()
    elif isinstance(figure, Image.Image):
        buffer = io.BytesIO()
        if figure.mode in ("RGBA", "LA", "P"):
            figure.save(buffer, "PNG", optimize=True)
        else:
            figure.convert("RGB").save(buffer, "JPEG", quality=88, optimize=True)
        mime, data = ("image/png" if figure.mode in ("RGBA", "LA", "P") else "image/jpeg"), buffer.getvalue()
    else:
        mime = "image/svg+xml"
        data = (figure if isinstance(figure, str) else figure_to_svg(figure)).encode()
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _prose(text: str) -> str:
    """The few marks of `Report.text` as HTML; everything else stays as it is written."""
    return _MARKS.render(text)


def _inline(text: str) -> str:
    return _MARKS.renderInline(text)


def printable(text: str) -> str:
    """The text with a sign in place of what neither XML nor UTF-8 has."""
    return _NO_TEXT.sub("\ufffd", text)


def literal(name: str) -> str:
    """A name for a cell or a caption as it is: its stars and underscores are no marks."""
    return f"`{name}`" if "<" in _inline(name) else name


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, Bar):
        return "–" if math.isnan(value.share) else f"{value.share:.3f}"
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f")  # a thin space parts the thousands
    return _inline(str(value))


def _is_number(value: object) -> bool:
    """Whether a cell belongs to a column of numbers: a number, none, or text such as `0.62 ± 0.01`."""
    return value is None or isinstance(value, int | float | Bar) or bool(re.match(r"^[*`]*[-+±~<]?\d", str(value)))


def _class(**marks: bool) -> str:
    names = " ".join(name for name, on in marks.items() if on)
    return f' class="{names}"' if names else ""


def _escape(value: object) -> str:
    return html.escape(str(value), quote=False)
