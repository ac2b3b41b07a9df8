"""The page on a port of this machine: who may ask, what is sent, and what is left when it ends.

Nothing is fetched from anywhere and nothing is reported: the rules that go with every answer (`RULES`, a content
security policy) forbid it to the browser too. Requests under another name than the page's own are refused, so that no
other site in the same browser can reach it (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.web.desk import Desk, Runs

PORT, PORTS_TRIED = 7860, 20
MOST_BYTES = 2 * 2**30  # of one uploaded file
MOST_WORDS = 2**24  # bytes of any other request
LOCAL = ("127.0.0.1", "localhost")
RULES = "; ".join(
    (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


def bound(host: str, port: int | None) -> socket.socket:
    """A socket that listens: on the port that was asked for, or else on the first free one from PORT on.

    Raises:
        UserError: the port is taken, or this machine has no such address.
    """
    for one in (PORT + number for number in range(PORTS_TRIED)) if port is None else (port,):
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, one))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if isinstance(error, socket.gaierror) or error.errno not in (13, 98, 48, 10048, 10013):
                raise UserError(
                    f"{host} is no address of this machine", where="--host", fix="--host 127.0.0.1"
                ) from None
            continue
        return listening
    if port is None:
        what = f"the ports {PORT} to {PORT + PORTS_TRIED - 1} are all taken"
        raise UserError(what, where="--port", fix="--port 0 takes any that is free")
    raise UserError(f"port {port} is taken or not allowed", where="--port", fix="leave --port out, or --port 0 for any")


def application(desk: Desk, hosts: Sequence[str] | None) -> Any:
    """The page as an ASGI application.

    Args:
        hosts: names under which it may be asked for; None: any.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from vistruct.web.page import Page, head, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    blocks = Page(desk).blocks
    blocks.has_launched = (
        True  # which gradio takes for leave to check the paths of files; mounting alone does not say it
    )
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=theme(),
        head=head(),
    )
    return _guarded(app)


def _guarded(app: Any) -> Any:
    """The application, its answers with RULES, without requests that name a file nobody has uploaded.

    Why: gradio would fetch what a request names by an address, from here.
    """

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def ruled(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", RULES.encode()), (b"x-content-type-options", b"nosniff")]
                own += [(b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/").endswith("/upload"):
            await app(scope, receive, ruled)
            return
        body, is_more = b"", True
        while is_more and len(body) <= MOST_WORDS:
            message = await receive()
            body, is_more = body + message.get("body", b""), message.get("more_body", False)
        if is_more or names_other_files(body):
            await ruled({"type": "http.response.start", "status": 400, "headers": []})
            await ruled({"type": "http.response.body", "body": b"refused"})
            return
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Any:
            return next(parts, None) or await receive()

        await app(scope, again, ruled)

    return guarded


def names_other_files(body: bytes) -> bool:
    """Whether json names a file that is not below the folder of uploads, or is no json."""
    home = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()

    def is_other(value: Any) -> bool:
        if isinstance(value, dict):
            path = value.get("path")
            is_named = isinstance(path, str) and not Path(path).resolve().is_relative_to(home)
            return is_named or any(map(is_other, value.values()))
        return isinstance(value, list) and any(map(is_other, value))

    try:
        return bool(body) and is_other(json.loads(body))
    except (ValueError, RecursionError):
        return True


@contextlib.contextmanager
def _scratch() -> Generator[Path]:
    """A folder for all that visitors bring and take, gone at the end; gradio is told of it and to be quiet."""
    with tempfile.TemporaryDirectory(prefix="vistruct-web-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "gradio")  # read when gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        yield Path(folder)


@contextlib.contextmanager
def serving(
    runs: Runs, folders: Sequence[Path] = (), *, host: str = LOCAL[0], port: int | None = None
) -> Generator[tuple[str, threading.Thread]]:
    """Serve the page while the block lasts.

    Args:
        runs: to choose from, by name.
        folders: of images to choose from, beside the runs' own.
        host: address to listen on.
        port: None: the first free one.

    Returns:
        The page's address, and the thread that serves it.

    Raises:
        UserError: gradio is not installed; or as `bound`.
    """
    try:
        import uvicorn
    except ImportError:
        raise UserError("the page needs gradio", where="vistruct web", fix='pip install "vistruct[web]"') from None
    with _scratch() as scratch, contextlib.closing(bound(host, port)) as listening:
        number = listening.getsockname()[1]
        is_local = host in LOCAL
        app = application(Desk(runs, folders, scratch), LOCAL if is_local else None)
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            name = f"[{host}]" if ":" in host else host
            yield f"http://{name}:{number}/", thread
        finally:
            server.should_exit = True
            thread.join(10)


def open_browser(address: str) -> None:
    """In whatever browser there is; none is no error."""
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(address)
