"""A headless Chromium that opens a page as a laptop or a phone does and says what it saw; standard library only.

It speaks the DevTools protocol over two pipes (`--remote-debugging-pipe`: its descriptors 3 and 4, messages end with
a zero byte), so that the page itself is opened as it is, without a script put into it.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, PHONE = (1280, 800), (390, 844)  # CSS pixels
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S = 60.0
# Becomes the program that its arguments name, with the pipes at the numbers that are asked for.
START = """import fcntl, os, sys
for number, pipe in enumerate([fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]], 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])"""
LOOK = """(async () => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  await Promise.all([...document.images].map(one => one.decode().catch(() => 0)));
  const box = one => { const b = one.getBoundingClientRect(); return [b.width, b.height]; };
  const sideways = [...document.querySelectorAll('main > *')].filter(
    one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
  return {
    width: document.scrollingElement.scrollWidth,
    images: [...document.images].map(one => ({
      natural: [one.naturalWidth, one.naturalHeight], shown: box(one), alt: one.alt, src: one.src.slice(0, 24) })),
    drawings: [...document.querySelectorAll('svg')].map(box),
    tables: [...document.querySelectorAll('table')].map(one => {
      const frame = one.parentElement, last = one.rows[one.rows.length - 1];
      frame.scrollLeft = 1e6;
      const moved = last ? last.cells[0].getBoundingClientRect().left - frame.getBoundingClientRect().left : 0;
      return { rows: one.rows.length, shown: box(one), scrolled: frame.scrollLeft, moved };
    }),
    sideways: sideways.map(one => one.outerHTML.slice(0, 80)),
  };
})()"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a page is, laid out in a window."""

    errors: list[str]  # on the console, and scripts that failed
    loaded: list[str]  # addresses that were asked for, beside the page and what is inside it
    width: float  # CSS pixels, of all that can be scrolled to
    sideways: list[str]  # elements that reach beyond the right edge
    images: list[dict[str, Any]]  # natural and shown size, alt
    drawings: list[list[float]]  # shown sizes of the svg elements
    tables: list[dict[str, Any]]  # rows, shown size; scrolled to the end, how far, and where its first column is then


def find_browser() -> str | None:
    """Path of the first that is installed; None: there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One process; `close` ends it."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        start = [sys.executable, "-IS", "-c", START, str(to_read), str(to_write)]
        command = [*start, program, *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write),
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._unread, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def look(self, page: Path | str, size: tuple[int, int]) -> Seen:
        """Open a page in a window of that width and height; as a phone where it is narrow.

        Args:
            page: a file, or an address.
            size: CSS pixels.
        """
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **metrics)
        self._events.clear()
        address = page.as_uri() if isinstance(page, Path) else page
        self._call("Page.navigate", session, url=address)
        self._wait_for("Page.loadEventFired", session)
        answer = self._call("Runtime.evaluate", session, expression=LOOK, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        events = [event for event in self._events if event.get("sessionId") == session]
        self._call("Target.closeTarget", targetId=target)
        asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        return Seen(
            errors=[text for event in events if (text := _complaint(event))],
            loaded=[url for url in asked if url != address and not url.startswith(("data:", "blob:"))],
            **answer["result"]["value"],
        )

    @contextmanager
    def tab(self, address: str, size: tuple[int, int] = LAPTOP, dark: bool = False) -> Iterator[Tab]:
        """A page that stays open and is used: typed and drawn into.

        Args:
            size: CSS pixels.
            dark: as a system with dark colours asks for it.
        """
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self._call(f"{domain}.enable", session)
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", session, features=features)
        self._events.clear()
        self._call("Page.navigate", session, url=address)
        self._wait_for("Page.loadEventFired", session)
        yield Tab(self, session)
        self._call("Target.closeTarget", targetId=target)

    def close(self) -> None:
        """End the process."""
        self._call("Browser.close")
        self.process.wait(PATIENCE_S)
        os.close(self._out)
        os.close(self._in)

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number, until = self._number, time.monotonic() + PATIENCE_S
        while True:
            answer = self._read(until)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._events.append(answer)

    def _wait_for(self, event: str, session: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not any(one.get("method") == event and one.get("sessionId") == session for one in self._events):
            self._events.append(self._read(until))

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {PATIENCE_S:g} s")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise RuntimeError(f"the browser has ended (exit {self.process.wait(5)})")
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Tab:
    """One page in a browser, as a person uses it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def run(self, script: str) -> Any:
        """The value of a script on the page; of a promise what it becomes."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, script: str, patience_s: float = 20.0) -> Any:
        """Until a script gives something that is true; what it gives."""
        until = time.monotonic() + patience_s
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} is not true after {patience_s:g} s; {self.complaints()}")
            time.sleep(0.05)
        return value

    def press(self, selector: str) -> None:
        """Click in the middle of an element."""
        self.drag([self.middle(selector)])

    def middle(self, selector: str) -> tuple[float, float]:
        look = f"document.querySelector({json.dumps(selector)})"
        x, y = self.run(
            f"(() => {{ const one = {look}; one.scrollIntoView({{block: 'center'}});"
            " const b = one.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return x, y

    def drag(self, places: Sequence[tuple[float, float]]) -> None:
        """Press at the first place (CSS pixels of the window), move over the others, let go at the last."""
        for kind, (x, y) in [
            ("mouseMoved", places[0]), ("mousePressed", places[0]), *(("mouseMoved", one) for one in places[1:]),
            ("mouseReleased", places[-1]),
        ]:  # fmt: skip
            held = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "mouseMoved" else {"buttons": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field in place of what is there."""
        self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.focus(); one.select(); }})()"
        )
        self._call("Input.insertText", text=text)

    def upload(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in a file field."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def picture(self, file: Path, quality: int = 80) -> None:
        """A JPEG (or, by its name, a PNG) of what is in the window."""
        kind = {"format": "png"} if file.suffix == ".png" else {"format": "jpeg", "quality": quality}
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", **kind)["data"]))

    def asked(self) -> list[str]:
        """All addresses that the page has asked for so far."""
        return [
            one["params"]["request"]["url"] for one in self._events() if one["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """On the console so far, and scripts that failed."""
        return [text for event in self._events() if (text := _complaint(event))]

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in self.browser._events if event.get("sessionId") == self.session]

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser._call(method, self.session, **params)


def _complaint(event: dict[str, Any]) -> str:
    """What an event complains of; "": nothing."""
    params = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            return (
                params["exceptionDetails"].get("exception", {}).get("description", params["exceptionDetails"]["text"])
            )
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return " ".join(str(one.get("value", "")) for one in params["args"])
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return f"{params['entry']['text']} {params['entry'].get('url', '')}"
        case "Network.loadingFailed":
            return params["errorText"]
    return ""


def assert_sound(seen: Seen, size: tuple[int, int]) -> None:
    """A page complains of nothing, loads nothing, lies within the window, and all that is on it has a size."""
    assert seen.errors == []
    assert seen.loaded == []
    assert seen.sideways == []
    assert seen.width <= size[0]
    for image in seen.images:
        assert min(image["natural"]) > 0, image
        assert min(image["shown"]) > 0, image
        assert image["alt"], image
    assert all(min(drawing) > 0 for drawing in seen.drawings)
    assert all(table["rows"] > 0 and min(table["shown"]) > 0 for table in seen.tables)
