"""Weights are fetched from a hub on this machine: whole and with the right sum, or not at all."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from vistruct.checkpoint.catalogue.entry import CC_BY_NC, Copy, Entry
from vistruct.checkpoint.catalogue.fetch import fetch
from vistruct.checkpoint.catalogue.here import find_file, root
from vistruct.errors import UserError

BYTES = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(BYTES).hexdigest()


class Hub(ThreadingHTTPServer):
    """A hub with one repository, as far as a download needs it; it may break."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = {"model.safetensors": BYTES, "config.json": b"{}", "tokenizer.json": b"[]", "code.py": b"1/0"}
        self.etag = DIGEST  # what it says of the weights
        self.breaks_at: int | None = None  # bytes after which the line is cut, once
        self.dies = True  # and nothing answers any more
        self.status = 200
        self.asked: list[str] = []


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        if hub.status != 200:
            self.send_response(hub.status)
            if hub.status == 403:
                self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()
            return
        if path.startswith("/api/models/"):
            files = [{"rfilename": name} for name in hub.files]
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in hub.files.items()]
            body = json.dumps(tree if "/tree/" in path else {"id": "made/up", "sha": "0" * 40, "siblings": files})
            self.reply(body.encode(), {"Content-Type": "application/json"}, with_body)
            return
        name = path.rpartition("/")[2]
        body = hub.files.get(name, b"")
        etag = hub.etag if name == "model.safetensors" else hashlib.sha1(body).hexdigest()
        told = {
            "X-Repo-Commit": "0" * 40,
            "ETag": f'"{etag}"',
            "X-Linked-Size": str(len(body)),
            "Accept-Ranges": "bytes",
        }
        first = 0
        if wanted := self.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            told["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        self.reply(body[first:], told, with_body, 206 if first else 200, hub.breaks_at)

    def reply(
        self, body: bytes, told: dict[str, str], with_body: bool, status: int = 200, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**told, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
            if cut is not None:
                self.server.status, self.server.breaks_at = 404 if self.server.dies else 200, None
                self.close_connection = True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("VISTRUCT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


def entry(**changes: object) -> Entry:
    copy = Copy(**({"layout": "timm", "repo": "made/up", "file": "model.safetensors"} | changes))  # ty: ignore
    return Entry(
        name="made-up", what="nothing", backbone={"kind": "timm", "name": "resnet18"}, licence=CC_BY_NC, copies=(copy,),
        verified="made up",
    )  # fmt: skip


def left() -> list[str]:
    return sorted(str(path.relative_to(root())) for path in root().rglob("*") if path.is_file())


def test_it_arrives_whole_with_its_licence_said(hub: Hub) -> None:
    said: list[str] = []
    path = fetch(entry(sha256=DIGEST, size=88_200_000), said.append)
    assert path == root() / "made-up" / "model.safetensors"
    assert path.read_bytes() == BYTES
    assert left() == ["made-up/model.safetensors"]
    assert "88 MB" in said[0]
    assert "CC-BY-NC-4.0, not for commercial use" in said[0]
    found = find_file(entry())
    assert found is not None
    asked = len(hub.asked)
    assert fetch(entry(), said.append) == path  # what is here is not asked for again
    assert len(hub.asked) == asked
    assert "here already" in said[-1]


def test_a_line_that_is_cut_once_is_tried_again(hub: Hub) -> None:
    hub.breaks_at, hub.dies = 300_000, False
    assert fetch(entry(sha256=DIGEST), print).read_bytes() == BYTES
    assert left() == ["made-up/model.safetensors"]


def test_a_hub_that_dies_on_the_way_leaves_nothing(hub: Hub) -> None:
    hub.breaks_at = 300_000
    with pytest.raises(UserError) as told:
        fetch(entry(sha256=DIGEST), print)
    assert find_file(entry()) is None
    assert "put model.safetensors from https://huggingface.co/made/up" in told.value.fix
    assert left() == []
    hub.status = 200
    assert fetch(entry(sha256=DIGEST), print).read_bytes() == BYTES


@pytest.mark.parametrize("known", [DIGEST, None])
def test_bytes_with_another_sum_are_not_kept(hub: Hub, known: str | None) -> None:
    hub.files["model.safetensors"] = BYTES[:-1] + b"\0"
    with pytest.raises(UserError, match="what arrived is not the published file"):
        fetch(entry(sha256=known), print)
    assert find_file(entry()) is None
    assert left() == []


def test_another_file_at_the_hub_is_told_before_it_is_fetched(hub: Hub) -> None:
    hub.etag = "2" * 64
    with pytest.raises(UserError, match="the hub has another file by now"):
        fetch(entry(sha256=DIGEST), print)
    assert left() == []


@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [(403, "wants to be asked first", "hf auth login"), (404, "could not be fetched|not there any more", "put model")],
)
def test_what_the_hub_refuses_is_told_in_words(hub: Hub, status: int, what: str, fix: str) -> None:
    hub.status = status
    with pytest.raises(UserError, match=what) as told:
        fetch(entry(), print)
    assert fix in told.value.fix


def test_without_a_connection_it_says_what_to_put_where(hub: Hub) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="could not be fetched") as told:
        fetch(entry(), print)
    assert f"put model.safetensors from https://huggingface.co/made/up/blob/main/model.safetensors into {root()}" in (
        told.value.fix
    )


def test_a_whole_model_comes_with_its_json_and_without_its_code(hub: Hub) -> None:
    assert fetch(entry(folder=True), print) == root() / "made-up"
    assert left() == ["made-up/config.json", "made-up/model.safetensors", "made-up/tokenizer.json"]


def test_what_is_on_no_hub_is_not_fetched(hub: Hub) -> None:
    with pytest.raises(UserError, match="not on the hub") as told:
        fetch(entry(repo="", url="https://example.org/page"), print)
    assert "from https://example.org/page" in told.value.fix
    assert hub.asked == []
