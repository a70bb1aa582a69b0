"""The page at ``/``: access control in front of Gradio.

Gradio does not know our keys, has many routes that the page does not need, and lets pages load
resources from other hosts. So every request to it passes :class:`PageGate`.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from html import escape
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentsync.errors import NotAuthorized, TooManyBytes
from latentsync.jobs.disk_space import DiskReserve
from latentsync.server.middleware import ANONYMOUS, declared_bytes, require_same_origin
from latentsync.server.request_body import require_json_type
from latentsync.server.routes.predictions_api import PredictionsApi
from latentsync.settings import Settings
from latentsync.ui.page import STYLE, build_page, theme
from latentsync.ui.session import KEY_COOKIE, TELL_ZONE, read_key, write_key
from latentsync.workspace import working_folder

OwnerOf = Callable[[bytes], str]  # owner of a key; raises NotAuthorized

_PAGE_PATHS = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/.*|gradio_api/("
    r"queue/(join|data)|upload|upload_progress|heartbeat/.*|cancel|reset|theme\.css|app_id"
    r"|startup-events|file=.*))/?"
)
_HEADERS = {
    # Gradio's components evaluate code from strings, so 'unsafe-…' is required.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Uploaded files are shown as media and never executed as a page.
_FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
# Gradio would allow pages of other origins to read responses with the visitor's cookie.
_CORS_HEADERS = {
    f"access-control-allow-{what}" for what in ("origin", "credentials", "methods", "headers")
} | {"access-control-max-age"}
_FILES, _UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
_KEY_FORM_BYTES = 4096
_LOGIN_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>latentsync</title><style>
* {{ font: inherit; box-sizing: border-box; }}
:root {{ color-scheme: light dark; }}
body {{ font: 18px/1.5 system-ui, sans-serif; max-width: 26em; margin: 15vh auto; padding: 0 1em; }}
h1 {{ font-size: 1.6em; font-weight: bold; }}
input, button {{ width: 100%; padding: .6em; margin: .4em 0; }}
.wrong {{ color: light-dark(#b42318, #fda29b); }}</style></head><body><h1>latentsync</h1>
<form method="post" action="{action}"><label for="key">Your key for this server</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus
aria-describedby="about">
{wrong}<button>Open the page</button></form>
<p id="about">You get one from the operator of the server.
This browser keeps it until you close it.</p></body></html>"""


def add_page(app: FastAPI, api: PredictionsApi, owner_of: OwnerOf | None) -> None:
    """Mount the page at ``/``; call it last, since it matches all remaining paths.

    Args:
        app: the application.
        api: sends finished videos.
        owner_of: returns the owner of a key; None if the server requires none.
    """
    settings = api.settings
    app.include_router(_build_routes(api, owner_of))
    _configure_gradio(app, settings)
    gr.mount_gradio_app(
        app,
        build_page(settings, api.jobs.engines, asks_for_key=owner_of is not None),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=settings.max_media_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        css=STYLE,
        head=TELL_ZONE,
    )
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    gradio: Any = mounted.app
    mounted.app = PageGate(gradio, owner_of, api.jobs.reserve, settings)
    close_others = app.state.close_streams

    def close_streams() -> None:
        """Close the streams of open pages, which would keep the server from stopping."""
        close_others()
        gradio.stop_event.set()

    app.state.close_streams = close_streams


def _configure_gradio(app: FastAPI, settings: Settings) -> None:
    """Set Gradio's upload folder and disable its analytics, by environment variables.

    The folder is removed at the end of this process, or by the next one if this one is killed.
    """
    app.state.page_folder = stack = ExitStack()
    os.environ["GRADIO_TEMP_DIR"] = str(stack.enter_context(working_folder(settings.work_dir)))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


class PageGate:
    """ASGI middleware: passes requests with a key to the routes that the page needs.

    Args:
        page: Gradio's application.
        owner_of: returns the owner of a key; None if no key is required.
        reserve: checks the disk space for uploads and their copies.
        settings: maximum size of an upload, and the external URL.
    """

    def __init__(
        self, page: ASGIApp, owner_of: OwnerOf | None, reserve: DiskReserve, settings: Settings
    ) -> None:
        self._page = page
        self._owner_of = owner_of
        self._reserve = reserve
        self._max_media_bytes = settings.max_media_bytes
        self._public_url = settings.public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and forward one request.

        Raises:
            HTTPException: the path is not part of the page (404).
            ForbiddenOrigin: a page of another origin made the request.
            NotAuthorized, UnsupportedContentType, DiskFull.
        """
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not _PAGE_PATHS.fullmatch(path):
            raise HTTPException(404)
        require_same_origin(HTTPConnection(scope), self._public_url)
        if self._owner_of is not None:
            try:
                self._owner_of(read_key(Request(scope)))
            except NotAuthorized:
                if path != "/":
                    raise
                await ask_for_key("page/key")(scope, receive, send)
                return
        if path.rstrip("/") == _UPLOAD:
            size_bytes = min(declared_bytes(scope), self._max_media_bytes)
            # Twice: what the page has received is copied into the storage.
            await run_in_threadpool(self._reserve.require_for_body, 2 * size_bytes, 0)
        elif scope["method"] == "POST":
            require_json_type(scope)
        headers = _FILE_HEADERS if path.startswith(_FILES) else _HEADERS
        await self._page(scope, receive, _with_headers(headers, send))


def ask_for_key(action: str, wrong: str = "") -> Response:
    """Return the login page, which asks for the key.

    Args:
        action: URL of the form, relative to the page.
        wrong: error message of the last attempt.
    """
    message = f'<p class="wrong" role="alert">{escape(wrong)}</p>' if wrong else ""
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    return HTMLResponse(_LOGIN_PAGE.format(action=action, wrong=message), 401, headers)


def _build_routes(api: PredictionsApi, owner_of: OwnerOf | None) -> APIRouter:
    def same_origin(request: Request) -> None:
        require_same_origin(request, api.settings.public_url)

    router = APIRouter(prefix="/page", include_in_schema=False, dependencies=[Depends(same_origin)])

    def visitor(request: Request) -> str:
        return ANONYMOUS if owner_of is None else owner_of(read_key(request))

    @router.post("/key")
    async def take_key(request: Request) -> Response:
        return _log_in(await _read_key_field(request), request, owner_of)

    @router.post("/forget")
    async def forget_key() -> Response:
        answer = RedirectResponse("../", 303)
        answer.delete_cookie(KEY_COOKIE)
        return answer

    @router.get("/videos/{job_id}")
    def video(request: Request, job_id: str, owner: str = Depends(visitor)) -> Response:
        return api.output(request, job_id, owner)

    return router


async def _read_key_field(request: Request) -> str:
    """Read the login form. It needs no authorization, so its size is limited."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _KEY_FORM_BYTES:
            raise TooManyBytes(f"The form is larger than {_KEY_FORM_BYTES} bytes.", field="key")
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _log_in(key: str, request: Request, owner_of: OwnerOf | None) -> Response:
    """Set a session cookie if the key is valid."""
    answer = RedirectResponse("../", 303)
    if owner_of is None:
        return answer
    try:
        owner_of(key.encode("utf-8", "replace"))
    except NotAuthorized:
        return ask_for_key("key", "This server does not accept that key. Check it for typos.")
    secure = request.url.scheme == "https"
    answer.set_cookie(KEY_COOKIE, write_key(key), httponly=True, samesite="strict", secure=secure)
    return answer


def _with_headers(headers: Mapping[str, str], send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            response_headers = MutableHeaders(scope=message)
            response_headers.update(headers)
            for name in _CORS_HEADERS & set(response_headers):
                del response_headers[name]
        await send(message)

    return send_with_headers
