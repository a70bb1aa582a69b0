"""A server without a key answers this machine's programs and its own pages only."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from latentsync.server.middleware import ANONYMOUS
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, app_with, settings_for
from tests.server.queues import Server, queue_server

BODY = {"video_url": "https://example.com/v.mp4", "audio_url": "https://example.com/a.wav"}
EVIL = "http://evil.example"
LIPSYNC = ("/lipsync/submit", "/lipsync/status", "/lipsync/cancel")
PAGES = (
    *("/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/nowhere"),
    "/static-offline-docs/swagger-ui.css",
)
CALLS = {
    "/predict": "code",
    "/v4/project/app/predict": "code",
    "/v1/predictions": "detail",
    "/v1/uploads": "detail",
    "/sync": "detail",
    "/queue": "detail",
    "/outputs/task/name.mp4": "detail",
    "/lipsync/submit": "reason",
    "/lipsync/status": "reason",
    "/static/results/id/name.mp4": "reason",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a key and without a worker."""
    with queue_server(tmp_path_factory.mktemp("server"), require_key=False) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as browser:
        yield browser


def jobs_of(server: Server) -> int:
    return len(server.farm.service.store.list_of(ANONYMOUS, limit=100))


def own_host(server: Server) -> str:
    return server.url.removeprefix("http://")


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.:1",
        "localhost:",
        "app.localhost:65535",
        "127.0.0.1",
        "127.255.255.254:3000",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]:8000",
    ],
)
def test_names_of_this_machine_are_answered(browser: httpx.Client, host: str) -> None:
    answer = browser.get("/health", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "EVIL.EXAMPLE:8000",
        "localhost.evil.example",
        "evil-localhost",
        "localhost..",
        "127.0.0.1.evil.example",
        "128.0.0.1",
        "0.0.0.0",
        "192.168.1.7:8000",
        "127.1",
        "127.0.0.01",
        "2130706433",
        "0x7f000001",
        "[::]",
        "[::2]:8000",
        "[fe80::1%25lo]",
        "[::1%lo]",
        "[::1",
        "::1",
        "[127.0.0.1]",
        "[localhost]",
        "[::ffff:8.8.8.8]",
        "user@localhost",
        "localhost@evil.example",
        "localhost:80a",
        "localhost:-1",
        "localhost:99999",
        "localhost:8000:8000",
        "localhost/evil",
        "localhost, evil.example",
        "127.0.0.1\xb2",
        "a" * 5000,
    ],
)
def test_other_names_are_refused(server: Server, host: str) -> None:
    answer = ask(server, [("Host", host)]).decode()
    assert answer.startswith("HTTP/1.1 403")
    assert '"HOST_FORBIDDEN"' in answer
    assert f"'{host[:12]}" in answer
    assert "127.0.0.0/8" in answer
    assert len(answer) < 1000


def ask(server: Server, headers: list[tuple[str, str]], version: str = "1.1") -> bytes:
    """Return the whole answer to a GET with just these headers."""
    address = urlsplit(server.url)
    lines = [f"GET /health HTTP/{version}", *(": ".join(header) for header in headers)]
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 60) as caller:
        caller.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        return b"".join(iter(lambda: caller.recv(65536), b""))


def test_a_call_without_a_name_is_refused(server: Server) -> None:
    answer = ask(server, [], "1.0")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"Host header is there 0 times" in answer


def test_two_names_are_not_answered_whatever_they_are(server: Server) -> None:
    for second in ("localhost", "evil.example"):
        answer = ask(server, [("Host", "localhost"), ("Host", second)])
        assert answer.split()[1] in (b"400", b"403")
    headers = [(b"host", b"localhost"), (b"host", b"localhost")]
    [refused, _] = asyncio.run(messages_of(server.app, "http", headers))
    assert refused["status"] == 403


async def messages_of(
    app: FastAPI, kind: str, headers: list[tuple[bytes, bytes]], **more: Any
) -> list[Message]:
    """Return what an application sends, called as a server calls it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{kind}.connect" if kind == "websocket" else "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind, "path": "/v1/models", "raw_path": b"/v1/models", "query_string": b""}
    await app({**scope, "method": "GET", "headers": headers, **more}, receive, send)
    return sent


@pytest.mark.parametrize(
    "header", [{"X-Forwarded-Host": "localhost"}, {"Forwarded": "host=localhost"}]
)
def test_a_forwarded_name_is_not_believed(browser: httpx.Client, header: dict[str, str]) -> None:
    answer = browser.get("/health", headers={"Host": "evil.example", **header})
    assert code_of(answer) == (403, "HOST_FORBIDDEN")
    answer = browser.get("/health", headers={name: "evil.example" for name in header})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:3000",
        "http://localhost:3000",
        "file://",
        "chrome-extension://abcdefgh",
        "http://user@{host}",
        "http://{host}.evil.example",
        "http://[",
        "http://{host}0000000",
        "{host}",
    ],
)
def test_a_page_of_another_origin_is_refused(
    server: Server, browser: httpx.Client, origin: str
) -> None:
    given = origin.format(host=own_host(server))
    for method in ("GET", "POST", "PUT", "OPTIONS"):
        answer = browser.request(method, "/v1/predictions", headers={"Origin": given})
        assert code_of(answer) == (403, "ORIGIN_FORBIDDEN")
        assert repr(given)[:70] in answer.json()["detail"]
        assert server.url in answer.json()["detail"]


def test_each_of_several_origins_counts(server: Server) -> None:
    host = ("Host", own_host(server))
    for origins in ([server.url, EVIL], [EVIL, server.url]):
        answer = ask(server, [host, *(("Origin", origin) for origin in origins)])
        assert b'"ORIGIN_FORBIDDEN"' in answer


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "", "anything"])
def test_cross_site_requests_are_refused(server: Server, browser: httpx.Client, site: str) -> None:
    for more in ({}, {"Sec-Fetch-Mode": "navigate"}, {"Origin": server.url}):
        headers = {"Sec-Fetch-Site": site, **more}
        assert browser.head("/health", headers=headers).status_code == 403
        for method in ("GET", "POST"):
            answer = browser.request(method, "/health", headers=headers)
            assert answer.status_code == 403
            assert answer.json()["code"] == "ORIGIN_FORBIDDEN"
            assert repr(site) in answer.json()["message"]
            assert answer.json()["field"] == "Sec-Fetch-Site"


FOREIGN = [
    ({"Host": "evil.example"}, "HOST_FORBIDDEN"),
    ({"Origin": EVIL}, "ORIGIN_FORBIDDEN"),
    ({"Sec-Fetch-Site": "cross-site"}, "ORIGIN_FORBIDDEN"),
]


@pytest.mark.parametrize(("headers", "code"), FOREIGN)
def test_every_contract_refuses_in_its_own_shape(
    browser: httpx.Client, headers: dict[str, str], code: str
) -> None:
    for path, sentence in CALLS.items():
        for method in ("GET", "POST"):
            answer = browser.request(method, path, headers=headers)
            reported = answer.json()
            assert (answer.status_code, reported["code"]) == (403, code), path
            assert reported[sentence] if sentence != "code" else reported["message"]
            is_problem = answer.headers["content-type"] == "application/problem+json"
            assert is_problem == path.startswith("/v1")
            assert (reported.get("status") == "Failed") == (sentence == "reason")


@pytest.mark.parametrize(("headers", "code"), FOREIGN)
def test_every_path_refuses(
    server: Server, browser: httpx.Client, headers: dict[str, str], code: str
) -> None:
    paths = {re.sub(r"\{[^}]*\}", "x", path) for path in server.app.openapi()["paths"]}
    assert {"/v1/models", "/metrics", "/v1/predictions/x/events", "/outputs/x/x"} <= paths
    for path in sorted({*paths, *PAGES}):
        assert code_of(browser.get(path, headers=headers)) == (403, code), path


def test_engines_in_the_process_are_behind_it_too(tmp_path: Path) -> None:
    app = app_with(SquareEngine(), settings_for(tmp_path), require_key=False)
    for foreign in ((b"origin", EVIL.encode()), (b"sec-fetch-site", b"cross-site")):
        headers = [(b"host", b"localhost"), foreign]
        assert asyncio.run(messages_of(app, "http", headers))[0]["status"] == 403
    assert asyncio.run(messages_of(app, "http", headers[:1]))[0]["status"] == 404


def test_a_foreign_websocket_is_closed_before_it_is_open(server: Server) -> None:
    app = server.app
    headers = [(b"host", b"localhost"), (b"origin", EVIL.encode())]
    [closed] = asyncio.run(messages_of(app, "websocket", headers))
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    answering = {"extensions": {"websocket.http.response": {}}}
    reported, body = asyncio.run(messages_of(app, "websocket", headers, **answering))
    assert (reported["type"], reported["status"]) == ("websocket.http.response.start", 403)
    assert b'"ORIGIN_FORBIDDEN"' in body["body"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "{url}"},
        {"Origin": "{url}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "HTTP://{host}", "Sec-Fetch-Site": "none"},
        {"Origin": "https://{host}"},
        {"Host": "localhost:7000", "Origin": "http://localhost:7000"},
        {"Host": "LOCALHOST", "Origin": "http://localhost"},
        {"Host": "localhost:80", "Origin": "http://localhost"},
        {"Host": "[::1]:7000", "Origin": "http://[::1]:7000"},
    ],
)
def test_own_pages_and_programs_submit_jobs(
    server: Server, browser: httpx.Client, headers: dict[str, str]
) -> None:
    own = {"url": server.url, "host": own_host(server)}
    given = {name: value.format(**own) for name, value in headers.items()}
    answer = browser.post("/v1/predictions", json=BODY, headers=given)
    assert answer.status_code == 202, answer.text
    server.empty()


def test_a_form_of_another_site_makes_no_job(server: Server, browser: httpx.Client) -> None:
    files = {"video": b"video", "audio": b"audio"}
    before = jobs_of(server)
    for headers, code in FOREIGN:
        answer = browser.post("/v1/predictions", files=files, headers=headers)
        assert code_of(answer) == (403, code)
        answer = browser.post("/v1/uploads", content=b"video", headers=headers)
        assert code_of(answer) == (403, code)
        answer = browser.post("/sync", json=BODY, headers=headers)
        assert code_of(answer) == (403, code)
    assert jobs_of(server) == before
    assert not [path for path in server.farm.folder.rglob("uploads/*/*") if path.is_file()]


def test_a_refused_body_loses_no_answer_and_is_not_read_to_its_end(browser: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 1_000_000

    for content in (b"x" * 20_000_000, parts()):
        answer = browser.post("/predict", content=content, headers={"Origin": EVIL})
        assert code_of(answer) == (403, "ORIGIN_FORBIDDEN")
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "",
        "text/plain",
        "text/plain; application/json",
        "text/x+json",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ],
)
def test_json_must_be_declared_where_no_key_is_asked_for(
    browser: httpx.Client, declared: str | None
) -> None:
    headers = {} if declared is None else {"Content-Type": declared}
    for path in ("/predict", "/v1/predictions", "/v1/predictions/batch", "/sync", *LIPSYNC):
        answer = browser.post(path, content=b"{}", headers=headers)
        assert code_of(answer) == (415, "CONTENT_TYPE_UNSUPPORTED"), path
        assert ("missing" if declared is None else repr(declared)) in answer.text
        assert "application/*+json" in answer.text


@pytest.mark.parametrize(
    "declared", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_declared_json_is_read(browser: httpx.Client, declared: str) -> None:
    answer = browser.post("/predict", content=b"{}", headers={"Content-Type": declared})
    assert code_of(answer) == (422, "FIELD_MISSING")


def test_no_page_of_another_origin_is_invited(server: Server, browser: httpx.Client) -> None:
    requested = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a"}
    for origin in (EVIL, server.url):
        for path in ("/v1/predictions", "/predict", "/docs", "/"):
            for method in ("OPTIONS", "GET"):
                answer = browser.request(method, path, headers={"Origin": origin, **requested})
                assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A caller of a server with keys, of which contract B asks for none."""
    settings = {"tasks_without_key": True, "public_url": "https://lips.example/latentsync"}
    with (
        queue_server(tmp_path_factory.mktemp("keyed"), **settings) as server,
        httpx.Client(base_url=server.url) as caller,
    ):
        yield caller


def test_a_server_with_keys_answers_by_any_name_and_reads_undeclared_json(
    keyed: httpx.Client,
) -> None:
    foreign = {"Host": "lips.example", "Origin": EVIL, "Sec-Fetch-Site": "cross-site", **AUTH}
    for path, status in (("/predict", 422), ("/v1/predictions", 422), ("/lipsync/submit", 422)):
        assert keyed.post(path, content=b"{}", headers=foreign).status_code == status
    assert keyed.get("/health", headers=foreign).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": EVIL, "Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://lips.example"},
    ],
)
def test_without_a_key_foreign_pages_have_no_access(
    keyed: httpx.Client, headers: dict[str, str]
) -> None:
    answer = keyed.post("/sync", json=BODY, headers=headers)
    assert code_of(answer) == (403, "ORIGIN_FORBIDDEN")
    assert answer.json()["detail"]
    assert keyed.get("/queue", headers=headers).json()["queued_tasks"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "any.example", "Origin": "http://any.example"},
        {"Host": "any.example", "Origin": "https://lips.example"},
        {"Host": "10.0.0.1:8000", "Origin": "https://x.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_without_a_key_programs_and_own_pages_have_access(
    keyed: httpx.Client, headers: dict[str, str]
) -> None:
    task = {"video_url": "no address", "audio_url": "no address"}
    answer = keyed.post("/sync", json=task, headers=headers)
    assert code_of(answer) == (422, "FIELD_INVALID")
