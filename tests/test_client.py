"""The Python client against real servers: ours, and ones that answer anything."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latentsync import Client
from latentsync.errors import FetchTimeout, InvalidField, LatentSyncError, ServerError, Unreachable
from latentsync.schema.fields import SpeakerPoint
from latentsync.schema.responses import WarningCode
from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import KEY, serving_engine


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "a folder's 中文"
    write_clip(folder / 'my "clip".mp4')
    write_speech(folder / "speech (1).wav")
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving_engine(folder, SquareEngine(), allow_private_addresses=True) as url:
        yield url


def files(media: Path) -> tuple[Path, Path]:
    return media / 'my "clip".mp4', media / "speech (1).wav"


@pytest.mark.parametrize(
    "tail", ["", "/", "/predict", "/v4/p-1/latentsync", "/v4/p-1/app/predict/"]
)
def test_every_form_of_address_works(url: str, media: Path, tail: str) -> None:
    with Client(url + tail, KEY) as client:
        prediction = client.predict(*files(media), seed=3)
    assert prediction.details.seed == 3
    assert prediction.details.engine == "square"
    assert prediction.run_id
    assert prediction.run_time_ms > 0
    assert prediction.video[4:8] == b"ftyp"


def test_media_may_be_paths_names_bytes_or_addresses(url: str, media: Path) -> None:
    video, audio = files(media)
    with Client(url, KEY) as client:
        assert client.predict(str(video), audio.read_bytes()).details.frames == 10
        with pytest.raises(ServerError) as refused:
            client.predict("http://127.0.0.1:1/clip.mp4", audio)
    assert refused.value.server_code == "URL_UNREACHABLE"
    assert refused.value.field == "video_url"


def test_options_reach_the_server(url: str, media: Path) -> None:
    with Client(url, KEY) as client:
        details = client.predict(
            *files(media),
            guidance_scale=2.0,
            inference_steps=5,
            seed=-1,
            sync_mode="loop",
            speaker=SpeakerPoint(frame=0, point=(3, 4)),
            deadline_s=60,
        ).details
    assert (details.guidance_scale, details.inference_steps) == (2.0, 5)
    assert details.sync_mode == "loop"
    assert details.seed >= 0


def test_a_result_is_saved_whole_into_folders_that_it_makes(
    url: str, media: Path, tmp_path: Path
) -> None:
    with Client(url, KEY) as client:
        prediction = client.predict(*files(media))
    target = tmp_path / "new" / "folders" / "result.mp4"
    assert prediction.save(str(target)) == target
    assert target.read_bytes() == prediction.video
    target.write_bytes(b"old")
    prediction.save(target)
    assert target.read_bytes() == prediction.video
    assert list(target.parent.iterdir()) == [target]


def test_a_result_that_cannot_be_saved_leaves_nothing(
    url: str, media: Path, tmp_path: Path
) -> None:
    with Client(url, KEY) as client:
        prediction = client.predict(*files(media))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        prediction.save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_neither_token_nor_video_is_shown(url: str, media: Path) -> None:
    with Client(url, KEY) as client:
        assert KEY not in repr(client)
        assert "ftyp" not in repr(client.predict(*files(media)))


def test_a_wrong_token_is_the_servers_error(url: str, media: Path) -> None:
    with Client(url, "wrong-ключ") as client, pytest.raises(ServerError) as refused:
        client.predict(*files(media))
    assert (refused.value.server_status, refused.value.server_code) == (401, "NOT_AUTHORIZED")


def test_an_error_of_the_server_keeps_its_code_and_field(url: str, media: Path) -> None:
    with Client(url, KEY) as client, pytest.raises(ServerError) as refused:
        client.predict(b"not a video", files(media)[1])
    assert refused.value.server_status == 422
    assert refused.value.server_code == "MEDIA_UNREADABLE"
    assert refused.value.field == "video_base64"


@pytest.mark.parametrize(
    "address",
    ["", "localhost:8000", "ftp://a.example", "http://", "http://a:99999999", "http://a\nb"],
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidField, match="url is"):
        Client(address, "token")


def test_a_missing_file_is_named(url: str) -> None:
    with Client(url, KEY) as client, pytest.raises(InvalidField, match=r"video 'no\.mp4'"):
        client.predict("no.mp4", b"")


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Client(address, KEY) as client, pytest.raises(Unreachable, match="127.0.0.1"):
            client.predict(b"x", b"x")


Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def strange_server() -> Iterator[Callable[[Reply], str]]:
    """Start a server that answers every request in the given way."""
    hosts: list[http.server.ThreadingHTTPServer] = []

    def start(reply: Reply) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                reply(self)

            def do_GET(self) -> None:
                reply(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        hosts.append(host)
        threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{host.server_address[1]}"

    yield start
    for host in hosts:
        host.shutdown()
        host.server_close()


def saying(status: int, content: bytes, **headers: str) -> Reply:
    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


DETAILS = {
    "guidance_scale": 1.5,
    "inference_steps": 20,
    "seed": 1,
    "engine": "x",
    "model_version": "1",
    "sync_mode": "bounce",
    "frames": 1,
    "frames_without_face": 0,
    "faces_found": 1,
    "fps": 25.0,
    "width": 8,
    "height": 8,
    "duration_s": 0.04,
    "seconds": {},
}


def envelope(result: Any) -> bytes:
    return json.dumps({"run_id": "r", "result": result, "run_time_ms": 1.0}).encode()


@pytest.mark.parametrize(
    ("reply", "status", "code", "said"),
    [
        (saying(502, b"<html>Bad gateway</html>"), 502, "UNKNOWN", "status 502"),
        (saying(500, b""), 500, "UNKNOWN", "status 500"),
        (saying(404, b'{"detail": "app not found"}'), 404, "UNKNOWN", "app not found"),
        (saying(422, b'{"detail": [{"loc": []}]}'), 422, "UNKNOWN", "status 422"),
        (saying(500, b'["list"]'), 500, "UNKNOWN", "status 500"),
        (saying(500, b"\xff\xfe"), 500, "UNKNOWN", "status 500"),
        (
            saying(200, envelope({"status_code": 422, "code": "NO_FACE", "message": "No face."})),
            *(422, "NO_FACE", "No face."),
        ),
        (
            saying(422, envelope({"status_code": 422, "code": "NO_FACE", "message": "No face."})),
            *(422, "NO_FACE", "No face."),
        ),
        (saying(200, b'{"status_code": 503, "error": "busy"}'), 503, "UNKNOWN", "busy"),
        (saying(200, b"<html></html>"), 200, "UNEXPECTED_ANSWER", "but not with a video"),
        (saying(200, b"{}"), 200, "UNEXPECTED_ANSWER", "but not with a video"),
        (saying(202, b'{"run_id": "r"}'), 202, "UNEXPECTED_ANSWER", "but not with a video"),
        (
            saying(200, envelope({"video_base64": "?", "details": DETAILS})),
            *(200, "UNEXPECTED_ANSWER", "but not with a video"),
        ),
        (saying(307, b"", Location="http://127.0.0.1:1/"), 307, "UNKNOWN", "status 307"),
        (saying(303, b""), 303, "UNKNOWN", "status 303"),
    ],
)
def test_any_shape_of_error_is_understood(
    strange_server: Callable[[Reply], str], reply: Reply, status: int, code: str, said: str
) -> None:
    with Client(strange_server(reply), KEY) as client, pytest.raises(ServerError) as refused:
        client.predict(b"x", b"x")
    assert (refused.value.server_status, refused.value.server_code) == (status, code)
    assert said in refused.value.message


def made(details: dict[str, Any]) -> Reply:
    video = base64.b64encode(b"mp4").decode()
    return saying(200, envelope({"video_base64": video, "details": details}))


def test_fields_that_a_newer_server_adds_are_ignored(
    strange_server: Callable[[Reply], str],
) -> None:
    with Client(strange_server(made({**DETAILS, "new": 1})), KEY) as client:
        assert client.predict(b"x", b"x").video == b"mp4"


def test_warnings_arrive_unchanged_also_those_of_a_newer_server(
    strange_server: Callable[[Reply], str],
) -> None:
    sent = [
        {"code": "SIZE_ROUNDED", "message": "video_url is 3x3 pixels."},
        {"code": "OF_A_LATER_VERSION", "message": "Something was handled."},
    ]
    with Client(strange_server(made({**DETAILS, "warnings": sent})), KEY) as client:
        warnings = client.predict(b"x", b"x").details.warnings
    assert [one.model_dump() for one in warnings] == sent
    assert warnings[0].code == WarningCode.SIZE_ROUNDED


def test_details_of_an_older_server_have_no_warnings(
    strange_server: Callable[[Reply], str],
) -> None:
    with Client(strange_server(made(DETAILS)), KEY) as client:
        assert client.predict(b"x", b"x").details.warnings == []


def handing_over(times: int, seen: list[tuple[str, str, bool]]) -> Reply:
    """Answer like Modal: a 303 whenever its time is up, the result at last."""
    result = {"video_base64": base64.b64encode(b"mp4").decode(), "details": DETAILS}

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append((handler.command, handler.path, "Authorization" in handler.headers))
        if len(seen) <= times:
            saying(303, b"", Location="/predict?call=fc-1")(handler)
        else:
            saying(200, envelope(result))(handler)

    return reply


def test_a_long_run_is_fetched_from_where_the_platform_says(
    strange_server: Callable[[Reply], str],
) -> None:
    seen: list[tuple[str, str, bool]] = []
    with Client(strange_server(handing_over(3, seen)), KEY) as client:
        assert client.predict(b"x", b"x").video == b"mp4"
    assert seen == [("POST", "/predict", True)] + 3 * [("GET", "/predict?call=fc-1", True)]


def test_a_platform_that_never_has_the_result_is_given_up(
    strange_server: Callable[[Reply], str],
) -> None:
    url = strange_server(handing_over(1000, seen := []))
    with Client(url, KEY) as client, pytest.raises(ServerError) as refused:
        client.predict(b"x", b"x")
    assert refused.value.server_status == 303
    assert len(seen) == 21


def test_the_token_stays_with_the_server_it_is_for(strange_server: Callable[[Reply], str]) -> None:
    seen: list[tuple[str, str, bool]] = []
    elsewhere = strange_server(handing_over(0, seen))
    with Client(strange_server(saying(303, b"", Location=f"{elsewhere}/x")), KEY) as client:
        client.predict(b"x", b"x")
    assert seen == [("GET", "/x", False)]


@pytest.mark.parametrize(("header", "retry_after_s"), [("7", 7.0), ("soon", None), ("", None)])
def test_retry_after_is_read(
    strange_server: Callable[[Reply], str], header: str, retry_after_s: float | None
) -> None:
    url = strange_server(saying(429, b"{}", Retry_After=header))
    with Client(url, KEY) as client, pytest.raises(ServerError) as refused:
        client.predict(b"x", b"x")
    assert refused.value.retry_after_s == retry_after_s


def test_a_silent_server_is_a_timeout(strange_server: Callable[[Reply], str]) -> None:
    url = strange_server(lambda handler: time.sleep(5))
    silent = pytest.raises(FetchTimeout, match="silent for too long")
    with Client(url, KEY, timeout_s=0.1) as client, silent:
        client.predict(b"x", b"x")


def test_a_broken_connection_is_unreachable(strange_server: Callable[[Reply], str]) -> None:
    def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    with Client(strange_server(hang_up), KEY) as client, pytest.raises(Unreachable) as broken:
        client.predict(b"x", b"x")
    assert isinstance(broken.value, LatentSyncError)
    assert KEY not in str(broken.value)


@pytest.mark.parametrize("token", ["secret-token\r", "secret-token\n", " secret-token "])
def test_a_token_with_a_line_break_at_its_end_works(token):
    client = Client("http://127.0.0.1:9", token)
    assert client._http.headers["authorization"] == "Bearer secret-token"


def test_a_token_that_cannot_be_sent_is_refused_without_being_shown():
    with pytest.raises(InvalidField) as caught:
        Client("http://127.0.0.1:9", "secret\ntoken")
    assert "secret" not in caught.value.message


def test_credentials_in_the_address_are_refused_without_being_shown():
    with pytest.raises(InvalidField) as caught:
        Client("http://user:hidden@127.0.0.1:9")
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("sync_mode", {"sync_mode": "mirror"}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("inference_steps", {"inference_steps": 51}),
        ("video", {"video": "a\0b"}),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_anything_is_sent(field, options):
    request = {"video": b"v", "audio": b"a", **options}
    with Client("http://127.0.0.1:9") as client, pytest.raises(InvalidField) as caught:
        client.predict(**request)
    assert caught.value.field == field


def test_the_speaker_may_be_an_object_of_plain_values():
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable):
        client.predict(video=b"v", audio=b"a", speaker={"frame": 0, "point": [1, 2]})


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert not Client("http://localhost:9")._http.trust_env
    assert Client("http://example.com")._http.trust_env
