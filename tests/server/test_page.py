"""Access to the page and to the routes of Gradio behind it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.live import AUTH, KEY, OTHER_KEY, REPOSITORY
from tests.server.routes.conftest import body, media  # noqa: F401
from tests.ui.service import page_server

pytestmark = pytest.mark.processes

MAX_MEDIA_BYTES = 200_000
EVIL = {"Origin": "http://evil.example"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the page and two keys, without a worker."""
    limit = {"LATENTSYNC_MAX_MEDIA_BYTES": str(MAX_MEDIA_BYTES)}
    with page_server(tmp_path_factory.mktemp("page"), "--no-worker", **limit) as url:
        yield url


@pytest.fixture
def stranger(url: str) -> Iterator[httpx.Client]:
    """A browser without a key."""
    with httpx.Client(base_url=url) as browser:
        yield browser


@pytest.fixture
def visitor(url: str) -> Iterator[httpx.Client]:
    """A browser that has given its key."""
    with httpx.Client(base_url=url) as browser:
        assert browser.post("/page/key", data={"key": KEY}).status_code == 303
        yield browser


def test_a_stranger_is_asked_for_a_key(stranger: httpx.Client) -> None:
    answer = stranger.get("/")
    assert answer.status_code == 401
    assert 'type="password"' in answer.text
    assert "gradio" not in answer.text.lower()


def test_a_wrong_key_is_reported_and_not_kept(stranger: httpx.Client) -> None:
    answer = stranger.post("/page/key", data={"key": "guess"})
    assert answer.status_code == 401
    assert "does not accept that key" in answer.text
    assert not stranger.cookies


def test_the_key_is_hidden_from_scripts_and_other_sites_and_ends_with_the_session(
    stranger: httpx.Client,
) -> None:
    said = stranger.post("/page/key", data={"key": KEY}).headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert "max-age" not in said
    assert "expires" not in said


@pytest.mark.parametrize("value", ["", "%%%", "AAAA", "ü", "a" * 9000])
def test_a_forged_cookie_gives_no_access(url: str, value: str) -> None:
    headers = {"Cookie": f"latentsync_key={value}".encode()}
    assert httpx.get(f"{url}/", headers=headers).status_code in (400, 401)
    answer = httpx.get(f"{url}/config", headers=headers)
    assert answer.status_code in (400, 401)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/queue/data?session_hash=a"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/config"),
        ("GET", "/page/videos/00000000-0000-0000-0000-000000000000"),
    ],
)
def test_nothing_works_without_a_key(stranger: httpx.Client, method: str, path: str) -> None:
    answer = stranger.request(method, path)
    assert answer.status_code == 401
    assert answer.json()["code"] == "NOT_AUTHORIZED"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/vibe-edit/",
        "/gradio_api/run-history/buckets",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/deep_link",
        "/monitoring",
        "/login",
        "/nothing",
    ],
)
def test_routes_that_the_page_does_not_need_are_404(visitor: httpx.Client, path: str) -> None:
    for answer in (visitor.get(path), visitor.post(path)):
        assert answer.status_code == 404
        assert answer.json()["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "../../../../etc/passwd",
        str(REPOSITORY / "pyproject.toml"),
    ],
)
def test_files_of_the_server_are_not_served(visitor: httpx.Client, path: str) -> None:
    assert visitor.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_an_uploaded_page_is_no_page(visitor: httpx.Client) -> None:
    evil = {"files": ("evil.html", b"<script>alert(1)</script>", "text/html")}
    answer = visitor.post("/gradio_api/upload", files=evil)
    assert answer.status_code == 200
    served = visitor.get(f"/gradio_api/file={answer.json()[0]}")
    assert served.status_code == 200
    assert "sandbox" in served.headers["content-security-policy"]
    assert served.headers["content-security-policy"].startswith("default-src 'none'")
    assert served.headers["x-content-type-options"] == "nosniff"


def test_a_medium_that_is_too_large_is_refused(visitor: httpx.Client) -> None:
    large = {"files": ("a.mp4", bytes(MAX_MEDIA_BYTES + 1), "video/mp4")}
    answer = visitor.post("/gradio_api/upload", files=large)
    assert answer.status_code == 413


def test_a_key_is_no_megabyte(stranger: httpx.Client) -> None:
    answer = stranger.post("/page/key", data={"key": "a" * 1_000_000})
    assert answer.status_code == 413
    assert answer.json()["code"] == "TOO_MANY_BYTES"


def test_the_page_names_no_other_host_that_it_loads_from(visitor: httpx.Client) -> None:
    answer = visitor.get("/")
    assert answer.status_code == 200
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    for tag in ("<script", "<link"):
        for part in answer.text.split(tag)[1:]:
            assert "http" not in part.split(">")[0], part[:200]


def test_forgetting_the_key_shuts_the_page(visitor: httpx.Client) -> None:
    assert visitor.post("/page/forget").status_code == 303
    assert visitor.get("/").status_code == 401


def test_the_api_takes_no_cookie(visitor: httpx.Client) -> None:
    assert visitor.get("/v1/predictions").status_code == 401


def test_a_video_is_for_its_owner_alone(url: str, body: dict[str, str]) -> None:  # noqa: F811
    job = httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH).json()
    answers = []
    for key in (KEY, OTHER_KEY):
        with httpx.Client(base_url=url) as browser:
            browser.post("/page/key", data={"key": key})
            answers.append(browser.get(f"/page/videos/{job['id']}").json()["message"])
    assert answers == [
        "The prediction is queued: it has no output.",
        f"There is no job {job['id']!r}.",
    ]


@pytest.mark.parametrize(
    "headers",
    [EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
def test_a_page_of_another_origin_cannot_use_a_visitors_key(
    visitor: httpx.Client, headers: dict[str, str]
) -> None:
    for path in (JOIN, UPLOAD, "/gradio_api/cancel", "/gradio_api/reset", "/page/forget"):
        answer = visitor.post(path, json={}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN_FORBIDDEN")
    assert visitor.get("/", headers=headers).status_code == 200  # a link from elsewhere


def test_a_key_from_another_page_is_refused(stranger: httpx.Client) -> None:
    answer = stranger.post("/page/key", data={"key": KEY}, headers=EVIL)
    assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN_FORBIDDEN")
    assert not stranger.cookies


def test_the_page_itself_may_post(stranger: httpx.Client, url: str) -> None:
    own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    assert stranger.post("/page/key", data={"key": KEY}, headers=own).status_code == 303
    files = {"files": ("a.wav", b"sound")}
    assert stranger.post(UPLOAD, files=files, headers={"Origin": url}).status_code == 200
    assert stranger.post(JOIN, json={}, headers=own).status_code == 422  # it reached Gradio


def test_no_page_of_another_origin_reads_along(visitor: httpx.Client, url: str) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a"}
    for host in (url.removeprefix("http://"), "lips.example"):
        for origin in ("http://localhost:3000", "http://evil.lips.example"):
            headers = {"Host": host, "Origin": origin, **preflight}
            for method in ("GET", "OPTIONS"):
                answer = visitor.request(method, "/config", headers=headers)
                assert answer.status_code == 200
                assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.fixture(scope="module")
def open_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the page and without keys, whose disk is full."""
    full = {"LATENTSYNC_MIN_FREE_BYTES": str(2**60)}
    folder = tmp_path_factory.mktemp("open")
    with page_server(folder, "--no-worker", "--no-auth", **full) as url:
        yield url


def test_without_keys_none_is_needed_and_a_full_disk_takes_no_upload(open_url: str) -> None:
    answer = httpx.get(f"{open_url}/")
    upload = httpx.post(f"{open_url}{UPLOAD}", files={"files": b"a"})
    assert answer.status_code == 200
    assert "Forget my key" not in answer.text
    assert upload.status_code == 507


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "HOST_FORBIDDEN"),
        (EVIL, "ORIGIN_FORBIDDEN"),
        ({"Sec-Fetch-Site": "cross-site"}, "ORIGIN_FORBIDDEN"),
    ],
)
def test_without_keys_no_foreign_page_gets_anything_of_it(
    open_url: str, headers: dict[str, str], code: str
) -> None:
    with httpx.Client(base_url=open_url, headers=headers) as browser:
        for path in (
            *("/", "/config", "/theme.css", "/assets/index.js", "/page/videos/x", "/v1/models"),
            *(JOIN, "/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a"),
            *(UPLOAD, "/gradio_api/file=/etc/hosts", "/gradio_api/startup-events", "/page/key"),
        ):
            for method in ("GET", "POST", "OPTIONS"):
                answer = browser.request(method, path)
                assert answer.status_code == 403, path
                assert answer.json()["code"] == code
                assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_without_keys_the_page_must_declare_what_it_says(open_url: str) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = httpx.post(open_url + JOIN, content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "CONTENT_TYPE_UNSUPPORTED")
    own = {"Origin": open_url, "Sec-Fetch-Site": "same-origin"}
    assert httpx.post(open_url + JOIN, json={}, headers=own).status_code == 422


def test_the_api_and_its_documents_stay_where_they_are(url: str) -> None:
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/docs").status_code == 200
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert not [path for path in paths if "page" in path or "gradio" in path]
