"""The page: its parts, and what happens when one of them is used. All drawing is in page.js, all work in desk.py.

Words of models, data and visitors never become html: page.js puts them in as text, and no part of gradio that would
render them (Markdown, Chatbot, its messages of errors) is used for them.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from vistruct.contracts import IMAGE_MARK, REGION_MARK
from vistruct.errors import UserError
from vistruct.inference.answers import commands_of
from vistruct.inference.kind import PICTURED, Asked
from vistruct.inference.model import Model
from vistruct.inference.view import View
from vistruct.web.desk import Desk, Visit, streamed
from vistruct.web.prompts import regions_of
from vistruct.web.shown import said, shown_frame, shown_table, shown_view

HERE = Path(__file__).parent
IDLE_S = 6 * 3600.0  # after which a tab's files are removed
MOST_TURNS = 8  # earlier questions that go with the next one
MOST_WAITING = 32  # visitors in the queue
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}


def head() -> str:
    """What goes into the page's head: its own script, and no address."""
    return f"<script>{(HERE / 'page.js').read_text()}</script><style>{(HERE / 'page.css').read_text()}</style>"


def theme() -> gr.themes.Base:
    """Fonts that every system has: none is fetched."""
    font = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    return gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="lg", font=font, font_mono=mono).set(
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        layout_gap="14px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
    )


def _own(name: str, **more: Any) -> gr.HTML:
    """A part that page.js draws from its value, which is json."""
    return gr.HTML(
        value={},
        apply_default_css=False,
        html_template=f'<div class="vt-{name}"></div>',
        js_on_load=f"window.vistruct.{name}(element, props, watch)",
        elem_id=f"vt-{name}",
        **more,
    )


class Page:
    """The parts by name, and a method for each thing that a visitor does."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Blocks(title="vistruct", analytics_enabled=False, delete_cache=(600, int(IDLE_S))) as self.blocks:
            self.visit = gr.State(None, time_to_live=IDLE_S, delete_callback=_end)
            self.regions = gr.Textbox("[]", visible=False)
            self._lay_out(list(desk.runs))
            self._connect()
        self.blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=2)

    def _lay_out(self, runs: list[str]) -> None:
        with gr.Row(elem_id="vt-head"):
            gr.HTML("<div id='vt-name'>vistruct</div>", elem_id="vt-title", scale=0, min_width=100)
            self.run = gr.Dropdown(runs, value=runs[0], show_label=False, container=False, elem_id="vt-run", scale=3)
            self.shade = gr.Button("◐", elem_id="vt-shade", scale=0, min_width=42)
        self.about = _own("notice")
        with gr.Row():
            with gr.Column(scale=3, min_width=340):
                self.viewer = _own("viewer")
                self.slice = gr.Slider(0, 1, value=0, step=1, label="Slice", visible=False, elem_id="vt-slice")
                self.table = _own("table")
            with gr.Column(scale=2, min_width=320):
                self.choice = gr.Dropdown([], label="Image", elem_id="vt-choice", filterable=True)
                self.upload = gr.File(file_count="multiple", height=110, label="Upload", elem_id="vt-upload")
                self.chat = _own("chat")
                with gr.Column(visible=False, elem_id="vt-asking") as self.asking:
                    self.question = gr.Textbox(
                        lines=2,
                        max_lines=6,
                        max_length=4000,
                        show_label=False,
                        placeholder="Ask about the image",
                        elem_id="vt-question",
                    )
                    self.command = gr.Dropdown([], label="Answer with", visible=False, elem_id="vt-command")
                    with gr.Row():
                        self.ask = gr.Button("Ask", variant="primary", elem_id="vt-ask", scale=2)
                        self.clear = gr.Button("Clear", elem_id="vt-clear", scale=1, min_width=80)
                self.go = gr.Button("Run", variant="primary", elem_id="vt-go")
                self.least = gr.Slider(
                    0, 1, value=PICTURED, step=0.01, label="Scores from", visible=False, elem_id="vt-least"
                )
                self.notice = _own("notice")
                self.files = gr.File(
                    label="Files", visible=False, file_count="multiple", interactive=False, elem_id="vt-files"
                )
                with gr.Row(visible=False, elem_id="vt-more-files") as self.more:
                    self.format = gr.Dropdown([], label="Another format", elem_id="vt-format", scale=2)
                    self.write = gr.Button("Write", elem_id="vt-write", scale=1, min_width=80)

    def _connect(self) -> None:
        every: list[Any] = [self.visit, self.about, self.notice, self.viewer, self.slice, self.table, self.chat]
        every += [self.choice, self.upload, self.asking, self.question, self.go, self.least, self.files]
        every += [self.more, self.format, self.command]
        waiting: dict[str, Any] = {**_ONE_AT_A_TIME, "show_progress_on": [self.viewer]}

        def on(event: Callable[..., Any], act: Callable[..., dict[Any, Any]], *given: Any, **more: Any) -> None:
            event(partial(_told, self, act), [self.visit, *given], every, **{**waiting, **more})

        on(self.blocks.load, self.enter, self.run)
        on(self.run.input, self.enter, self.run)
        on(self.choice.input, self.choose, self.choice)
        on(self.upload.upload, self.bring, self.upload)
        on(self.slice.change, self.turn, self.slice, show_progress="hidden", trigger_mode="always_last")
        drawn = "(visit, least, regions) => [visit, least, window.vistruct.regions()]"
        on(self.go.click, self.predict, self.least, self.regions, js=drawn)
        on(self.least.release, self.predict, self.least, self.regions, js=drawn)
        on(self.write.click, self.convert, self.format)
        on(self.clear.click, self.forget)
        asked: list[Any] = [self.ask.click, self.question.submit]
        for event in asked:
            event(
                partial(_streamed, self, self.answer),
                [self.visit, self.question, self.regions, self.command],
                every,
                js="(visit, text, regions, command) => [visit, text, window.vistruct.regions(), command]",
                **{**waiting, "show_progress": "hidden"},
            )
        self.shade.click(None, js="() => window.vistruct.shade()")

    # What a visitor does. Each gives the parts that change.

    def enter(self, visit: Visit, run: str) -> dict[Any, Any]:
        opened = self.desk.enter(visit, run)
        model, kind = opened.model, opened.model.kind
        names = list(visit.choices)
        about = [_about(model), *opened.notes]
        pair = model.input.images == 2
        has_scores = "min_score" in kind.choices
        told = commands_of(model)
        changes = {
            self.command: gr.Dropdown(choices=list(told), value=told[0] if told else None, visible=bool(told)),
            self.about: {"lines": about},
            self.choice: gr.Dropdown(choices=names, value=None, visible=bool(names), label=_called(model)),
            self.upload: gr.File(
                value=None, label="Upload before and after (two images)" if pair else f"Upload {kind.what}"
            ),
            self.asking: gr.Column(visible=kind.has_questions),
            self.go: gr.Button(visible=not kind.has_questions),
            self.least: gr.Slider(visible=has_scores, value=PICTURED),
            **self._empty(),
        }
        return changes | (
            self.choose(visit, names[0]) if names else {self.viewer: {"key": ""}, self.choice: changes[self.choice]}
        )

    def choose(self, visit: Visit, name: str) -> dict[Any, Any]:
        frames = self.desk.choose(visit, name)
        middle = frames.count // 2
        question = visit.choices[name].question.replace(IMAGE_MARK, "").strip()
        question = "" if REGION_MARK in question else question  # of regions that nobody has drawn
        return {
            **self._empty(),
            self.choice: gr.Dropdown(choices=list(visit.choices), value=name, visible=True),
            self.viewer: self._seen(visit, middle),
            self.slice: gr.Slider(minimum=0, maximum=max(frames.count - 1, 1), value=middle, visible=frames.count > 1),
            **({self.question: question} if question else {}),
        }

    def bring(self, visit: Visit, files: list[str] | None) -> dict[Any, Any]:
        if not files:
            return {}
        name = self.desk.bring(visit, [Path(file) for file in files])
        return {**self.choose(visit, name), self.upload: None}

    def turn(self, visit: Visit, number: int) -> dict[Any, Any]:
        if visit.frames is None or visit.frames.count == 1:
            return {}
        return {self.viewer: self._seen(visit, min(int(number), visit.frames.count - 1))}

    def predict(self, visit: Visit, least: float, regions: str) -> dict[Any, Any]:
        kind = self.desk.open(visit.run).model.kind
        has_regions = bool(kind.prompts and visit.frames)
        if has_regions and json.loads(regions):
            visit.drawn, visit.asked = regions, visit.asked + 1
        shown = regions_of(visit.drawn, visit.frames.size_hw) if has_regions and visit.frames else ()
        asked = Asked(min_score=least if "min_score" in kind.choices else None, regions=shown)
        return self._found(visit, asked)

    def convert(self, visit: Visit, format: str) -> dict[Any, Any]:
        """What was asked last, written in another format too."""
        return self._found(visit, visit.last, (format,) if format else ())

    def answer(self, visit: Visit, question: str, regions: str, command: str | None) -> Iterator[dict[Any, Any]]:
        """The answer as it is written, then what it points at."""
        size_hw = (1, 1) if visit.frames is None else visit.frames.size_hw
        shown = regions_of(regions, size_hw)
        text = " ".join([question, *[REGION_MARK] * (len(shown) - question.count(REGION_MARK))])
        turns = [*visit.turns, {"role": "user", "text": text}]
        asked = Asked(question=text, regions=shown, history=tuple(visit.history[-MOST_TURNS:]), command=command)
        visit.asked += 1
        yield {self.question: "", self.chat: {"turns": [*turns, _saying("")]}, self.notice: {}}
        view = View()
        for what, value in streamed(lambda say: self.desk.ask(visit, replace(asked, on_text=say))):
            if what == "said":
                yield {self.chat: {"turns": [*turns, _saying(value)]}}
            else:
                view = value
        visit.turns = [*turns, {"role": "assistant", **said(view), "notes": list(view.notes)}]
        visit.drawn = regions
        yield self._shown(visit, view)

    def forget(self, visit: Visit) -> dict[Any, Any]:
        visit.forget_answers()
        return {**self._empty(), self.viewer: self._seen(visit, 0) if visit.frames else {"key": ""}}

    # What is shown.

    def _found(self, visit: Visit, asked: Asked, formats: tuple[str, ...] = ()) -> dict[Any, Any]:
        view = self.desk.ask(visit, asked, formats)
        if not self.desk.open(visit.run).model.kind.has_questions:
            visit.turns = [{"role": "assistant", **said(view)}] if view.words else []
        return self._shown(visit, view)

    def _shown(self, visit: Visit, view: View) -> dict[Any, Any]:
        kind = self.desk.open(visit.run).model.kind
        has_slices = visit.frames is not None and visit.frames.count > 1
        others = [format.name for format in kind.formats if format.use == "asked"]
        turns = [{**turn, "isLast": number == len(visit.turns)} for number, turn in enumerate(visit.turns, start=1)]
        return {
            self.viewer: self._seen(visit, visit.frame if has_slices else 0),
            self.table: shown_table(view),
            self.chat: {"turns": turns},
            self.notice: {"lines": visit.told if "min_score" in kind.choices else []},
            self.files: gr.File(value=[str(file) for file in visit.files], visible=bool(visit.files)),
            self.more: gr.Row(visible=bool(others)),
            self.format: gr.Dropdown(choices=others, value=others[0] if others else None),
        }

    def _seen(self, visit: Visit, number: int) -> dict[str, Any]:
        """What the viewer draws."""
        assert visit.frames is not None
        visit.frame = number
        kind = self.desk.open(visit.run).model.kind
        seen: dict[str, Any] = {"key": f"{visit.folder.name}/{visit.run}/{visit.name}", "sent": visit.asked}
        seen |= {"tools": kind.prompts, "asked": json.loads(visit.drawn)}
        seen |= shown_frame(visit.frames, number, visit.view)
        if visit.view is None:
            return seen
        view = replace(visit.view, notes=()) if kind.has_questions else visit.view  # notes of answers stand below them
        return seen | shown_view(view)

    def _empty(self) -> dict[Any, Any]:
        return {
            self.table: {},
            self.chat: {},
            self.notice: {},
            self.files: gr.File(value=None, visible=False),
            self.more: gr.Row(visible=False),
            self.slice: gr.Slider(visible=False),
        }


def _told(page: Page, act: Callable[..., dict[Any, Any]], visit: Visit | None, *given: Any) -> dict[Any, Any]:
    """What an act changes, or what is wrong, as text on the page."""
    visit = visit or page.desk.visit()
    try:
        return {page.visit: visit, **act(visit, *given)}
    except Exception as error:  # noqa: BLE001 - a page stays, whatever happens behind it
        return {page.visit: visit, page.notice: _wrong(error)}


def _streamed(
    page: Page, act: Callable[..., Iterator[dict[Any, Any]]], visit: Visit | None, *given: Any
) -> Iterator[dict[Any, Any]]:
    visit = visit or page.desk.visit()
    try:
        for part in act(visit, *given):
            yield {page.visit: visit, **part}
    except Exception as error:  # noqa: BLE001 - as above
        turns = [{**turn, "isLast": False} for turn in visit.turns]
        yield {page.visit: visit, page.notice: _wrong(error), page.chat: {"turns": turns}, page.question: given[0]}


def _wrong(error: Exception) -> dict[str, str]:
    if isinstance(error, UserError):
        return {"what": error.what, "where": error.where, "fix": error.fix}
    traceback.print_exception(error)
    fix = "the terminal in which vistruct web runs says where it came from"
    return {"what": f"a fault of vistruct: {type(error).__name__}", "fix": fix}


def _end(visit: Visit | None) -> None:
    if visit is not None:
        visit.end()


def _saying(text: str) -> dict[str, Any]:
    return {"role": "assistant", "text": text, "pending": True}


def _called(model: Model) -> str:
    return "Pair" if model.input.images == 2 else model.kind.what.removesuffix("s").capitalize()


def _about(model: Model) -> str:
    """One line: what the model gives, of which classes."""
    names = model.class_names
    count = f"{len(names)} classes" if len(names) > 1 else "one class"
    classes = f", {count}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""
    return f"{model.kind.name} of {model.kind.what}{classes}"
