"""The page on a port of this machine: who may ask, what is sent, and what is left when it ends.

Nothing is fetched from anywhere and nothing is reported: the rules that go with every answer (`RULES`, a content
security policy) forbid it to the browser too. Requests under another name than the page's own are refused, so that no
other site in the same browser can reach it (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.web.desk import Desk

PORT, PORTS_TRIED = 7860, 20
MOST_BYTES = 2 * 2**30  # of one uploaded file
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
    gr.mount_gradio_app(
        app,
        Page(desk).blocks,
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
        theme=theme(),
        head=head(),
    )

    async def ruled(scope: Any, receive: Any, send: Any) -> None:
        async def with_rules(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", RULES.encode()), (b"x-content-type-options", b"nosniff")]
                own += [(b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await app(scope, receive, with_rules)

    return ruled


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
    runs: Sequence[Path], folders: Sequence[Path] = (), *, host: str = LOCAL[0], port: int | None = None
) -> Generator[tuple[str, threading.Thread]]:
    """Serve the page while the block lasts.

    Args:
        runs: runs to choose from.
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
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
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
