"""The page in a browser: what a person does on it, and what it must never do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from headless import PHONE, Browser, Tab
from web_models import EVIL, runs, squares

pytest.importorskip("gradio")

from vistruct.web.server import serving

IMAGES = "window.vistruct && window.vistruct.current && window.vistruct.current.s.images.length"
GRADIOS_OWN = {"net::ERR_ABORTED", "Method not implemented."}  # streams that ended; its base class of components
BOX = "document.querySelector('.vt-tool[title^=\"Ask about a box\"]') !== null"
STATE = "window.vistruct.current.s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    squares(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(runs(), [folder], port=0) as (address, _):
        yield address


def go_to(tab: Tab, run: str) -> None:
    tab.wait(IMAGES)
    tab.press("#vt-run input")
    option = "[...document.querySelectorAll('[role=option]')].find(one => one.textContent.includes(%s))"
    tab.wait(f"!!{option % json.dumps(run)}")
    tab.run(f"{option % json.dumps(run)}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
    tab.wait(f"{STATE}.data.key && {STATE}.data.key.includes({json.dumps('/' + run + '/')})")


def test_an_uploaded_image_is_searched_and_its_files_can_be_taken(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    evil = squares(tmp_path / "x<img src=q onerror=alert(1)>.png")
    with browser.tab(address) as tab:
        tab.wait(IMAGES)
        assert tab.run("document.title") == "vistruct"
        tab.upload("#vt-upload input[type=file]", [evil])
        tab.wait(f"{STATE}.data.key.includes('onerror') && {STATE}.images.length")
        tab.press("#vt-go")
        tab.wait(f"({STATE}.data.marks || []).length === 2")
        assert tab.run(f"{STATE}.data.marks.map(mark => mark.rings[0][0])") == [[40, 5], [10, 20]]
        assert tab.run("document.querySelector('.vt-legend').textContent").count("<i>one</i>") == 1
        table = tab.run("[...document.querySelectorAll('.vt-table td')].map(cell => cell.textContent)")
        assert table[:6] == ["blue", "0.9", "40", "5", "10", "10"]
        link = tab.wait(
            "[...document.querySelectorAll('#vt-files a')].map(one => one.href).find(one => one.includes('json'))"
        )
        found = json.loads(urllib.request.urlopen(link).read())
        assert len(found["annotations"]) == 2
        assert tab.run("document.querySelectorAll('img[src=q], img[onerror], .vt-table i').length") == 0
        assert {url for url in tab.asked() if not url.startswith((address, "data:", "blob:"))} == set()
        assert set(tab.complaints()) <= GRADIOS_OWN


def test_an_answer_that_is_html_is_shown_as_text(browser: Browser, address: str) -> None:
    with browser.tab(address) as tab:
        go_to(tab, "tales")
        tab.wait("!!document.querySelector('#vt-question textarea')")
        tab.type("#vt-question textarea", f"Is {EVIL} here?")
        tab.press("#vt-ask")
        tab.wait("document.querySelectorAll('.vt-turn').length === 2 && !document.querySelector('.vt-caret')")
        assert tab.run("document.querySelector('.vt-assistant').textContent") == f"{EVIL} 𝔸"
        assert EVIL in tab.run("document.querySelector('.vt-user').textContent")
        tab.press("#vt-ask")  # of nothing
        tab.wait(
            "[...document.querySelectorAll('.vt-error')].some(one => one.textContent.includes('question is empty'))"
        )
        assert tab.run("document.querySelectorAll('.vt-turn').length") == 2
        assert tab.run("window.hacked === undefined && !document.querySelector('.vt-chat img, .vt-chat b')")
        tab.press("#vt-clear")
        tab.wait("document.querySelectorAll('.vt-turn').length === 0")


def place(tab: Tab, x: float, y: float) -> tuple[float, float]:
    """Of a pixel of the image in the window."""
    left, top = tab.run(
        "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.x, b.y]; })()"
    )
    x, y = tab.run(f"window.vistruct.current.place({x}, {y})")
    return left + x, top + y


def test_a_box_that_is_drawn_asks_and_the_mask_comes_with_its_words(browser: Browser, address: str) -> None:
    with browser.tab(address) as tab:
        go_to(tab, "points")
        tab.wait(f"{BOX} && document.querySelector('#vt-question textarea') !== null")
        tab.run("scrollTo(0, 0)")
        tab.press(".vt-tool[title^='Ask about a box']")
        tab.drag([place(tab, 36, 2), place(tab, 45, 10), place(tab, 54, 18)])
        [box] = tab.run(f"{STATE}.regions")
        assert box["kind"] == "box"
        assert np.allclose(box["xy"], [[36, 2], [54, 18]], atol=0.5)
        tab.type("#vt-question textarea", "What is in <region>?")
        tab.press("#vt-ask")
        tab.wait(f"({STATE}.data.marks || []).length === 1")
        assert tab.run(f"{STATE}.data.marks[0].area")
        assert sorted(tab.run(f"{STATE}.data.marks[0].rings[0]")) == [[40, 5], [40, 15], [50, 5], [50, 15]]
        assert tab.run("document.querySelector('.vt-said').textContent") == "blue square"
        assert tab.run("document.querySelector('.vt-assistant').textContent") == "Turn 1: the blue square."
        assert tab.run("document.querySelector('.vt-region').textContent") == "1"
        assert tab.run(f"{STATE}.regions.length === 0 && {STATE}.data.asked.length") == 1
        tab.run("document.querySelector('.vt-said').dispatchEvent(new MouseEvent('mouseenter'))")
        assert tab.run(f"[...{STATE}.lit]") == [0]
        x, y = tab.run("window.vistruct.current.place(45, 10)")
        seen = f"document.querySelector('canvas').getContext('2d').getImageData({x}, {y}, 1, 1).data.slice(0, 3)"
        assert tab.run(f"[...{seen}]") != [0, 0, 255]  # the blue of the image lies under its mask
        tab.press(".vt-tool[title^='Ask about a mask']")
        tab.drag([place(tab, 15, 25), place(tab, 20, 30)])
        tab.drag([place(tab, 15, 35), place(tab, 20, 35)])
        assert tab.run(f"{STATE}.regions.map(one => one.strokes.length)") == [2]  # of one mask
        tab.type("#vt-question textarea", "And this?")
        tab.press("#vt-ask")
        tab.wait("document.querySelectorAll('.vt-turn').length === 4 && !document.querySelector('.vt-caret')")
        turns = tab.run("[...document.querySelectorAll('.vt-turn')].map(one => one.textContent)")
        assert turns[2:] == ["And this? 1", "Turn 2: the red square."]  # with what was said before


def test_a_pair_is_wiped_and_the_picture_zooms_on_a_phone(
    browser: Browser, address: str, folder: Path, tmp_path: Path
) -> None:
    with browser.tab(address, PHONE) as tab:
        tab.wait(IMAGES)
        go_to_empty = "[...document.querySelectorAll('[role=option]')].find(one => one.textContent.includes('changes'))"
        tab.press("#vt-run input")
        tab.wait(f"!!{go_to_empty}")
        tab.run(f"{go_to_empty}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
        tab.wait(f"{STATE}.data.key === '' && {STATE}.images.length === 0")
        tab.wait("document.querySelector('#vt-upload').textContent.includes('two images')")
        tab.upload("#vt-upload input[type=file]", [squares(tmp_path / "b.png"), squares(tmp_path / "c.png")])
        tab.wait(f"{STATE}.images.length === 2")
        tab.press("#vt-go")
        tab.wait(f"!!{STATE}.areas")
        before = tab.run(f"{STATE}.at.k")
        tab.press(".vt-tool[title=Larger]")
        assert tab.run(f"{STATE}.at.k") > before
        assert tab.run("document.scrollingElement.scrollWidth") <= PHONE[0]


def test_no_other_file_and_no_other_site_is_served(address: str, folder: Path) -> None:
    def status(path: str, **headers: str) -> int:
        try:
            return urllib.request.urlopen(urllib.request.Request(address + path, headers=headers)).status
        except urllib.error.HTTPError as error:
            return error.code

    for path in ("/etc/passwd", str(folder / "a.png"), str(Path(__file__)), "../../etc/passwd", "..%2f..%2fetc/passwd"):
        assert status(f"gradio_api/file={path}") in (403, 404), path
    for path in ("openapi.json", "docs", "monitoring", "gradio_api/proxy=http://example.com/"):
        assert status(path) >= 400, path
    assert status("", Host="evil.example") == 400
    answer = urllib.request.urlopen(address)
    rules = answer.headers["content-security-policy"]
    assert "default-src 'self'" in rules
    assert "http" not in rules
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    assert config["analytics_enabled"] is False


def test_a_path_in_place_of_an_upload_is_refused(address: str) -> None:
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    uploads = [one["id"] for one in config["dependencies"] if any(event == "upload" for _, event in one["targets"])]
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "orig_name": "passwd"}
    body = {"data": [None, [file]], "fn_index": uploads[0], "session_hash": "probe"}
    for path in ("/etc/passwd", "http://192.0.2.1/a.png", "../../../etc/passwd"):
        sent = json.dumps({**body, "data": [None, [{**file, "path": path}]]}).encode()
        request = urllib.request.Request(f"{address}gradio_api/queue/join", sent, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)


def test_the_end_removes_everything(folder: Path) -> None:
    import os

    with serving(runs(), [folder], port=0) as (address, _):
        scratch = Path(os.environ["GRADIO_TEMP_DIR"]).parent
        assert urllib.request.urlopen(address).status == 200
        assert scratch.is_dir()
    assert not scratch.exists()
