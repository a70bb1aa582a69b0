"""test_curl.sh against a live server, and against servers that answer badly."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import KEY, REPOSITORY, serving_engine

SCRIPT = REPOSITORY / "test_curl.sh"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not (shutil.which("curl") and shutil.which("python3") and shutil.which("bash")),
        reason="needs bash, curl and python3",
    ),
]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "blanks, 'quotes' and 中文"
    write_clip(folder / 'the "clip".mp4')
    write_speech(folder / "speech.wav")
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_engine(tmp_path_factory.mktemp("server"), SquareEngine()) as url:
        yield url


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = (
        "LATENTSYNC_TOKEN",
        "CEREBRIUM_API_KEY",
        "VIDEO",
        "AUDIO",
        "ENDPOINT",
        "STEPS",
        "GUIDANCE",
        "SEED",
        "OUTPUT",
        "TIMEOUT",
    )
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        env={**inherited, "LATENTSYNC_API_KEY": KEY, "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
    )


def files(media: Path) -> dict[str, str]:
    return {"VIDEO": str(media / 'the "clip".mp4'), "AUDIO": str(media / "speech.wav")}


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failure prints."""
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_it_makes_a_playable_video(url: str, media: Path, tmp_path: Path) -> None:
    done = run(tmp_path, ENDPOINT=url, **files(media))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("OK: output.mp4 (10 frames with sound")
    with av.open(tmp_path / "output.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


def test_flags_win_over_the_environment(url: str, media: Path, tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "the result.mp4"
    arguments = ["--endpoint", f"{url}/v4/p-1/latentsync/", "--steps", "7", "--guidance", "2"]
    arguments += ["--seed", "-1", "--output", str(output)]
    done = run(tmp_path, *arguments, ENDPOINT="http://127.0.0.1:1", STEPS="99", **files(media))
    assert done.returncode == 0, done.stderr
    details = json.loads(done.stdout.split("details: ", 1)[1])
    assert (details["inference_steps"], details["guidance_scale"]) == (7, 2.0)
    assert details["seed"] >= 0
    assert output.read_bytes()[4:8] == b"ftyp"


def test_help_needs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--help", LATENTSYNC_API_KEY="")
    assert done.returncode == 0
    for flag in ("video", "audio", "endpoint", "steps", "guidance", "seed", "output", "timeout"):
        assert f"--{flag}" in done.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"LATENTSYNC_API_KEY": "", "CEREBRIUM_API_KEY": KEY},
        {"LATENTSYNC_API_KEY": " ", "LATENTSYNC_TOKEN": KEY, "CEREBRIUM_API_KEY": "wrong"},
        {"LATENTSYNC_API_KEY": f" , {KEY} ,other", "LATENTSYNC_TOKEN": "wrong"},
    ],
)
def test_the_key_may_have_its_earlier_names_and_be_one_of_several(
    url: str, media: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run(tmp_path, "--steps", "51", ENDPOINT=url, **files(media), **environment)
    assert "HTTP 422" in one_line(done)  # and not 401


def test_the_script_is_executable() -> None:
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"LATENTSYNC_API_KEY": ""}, "Set LATENTSYNC_API_KEY to the server's key"),
        (
            [],
            {"LATENTSYNC_API_KEY": "wrong", "CEREBRIUM_API_KEY": KEY},
            "the key of LATENTSYNC_API_KEY was refused: HTTP 401 NOT_AUTHORIZED",
        ),
        (["--steps", "51"], {}, "HTTP 422 FIELD_INVALID: inference_steps is 51"),
        (["--steps", "many"], {}, "--steps is 'many'"),
        (["--guidance", "nan"], {}, "HTTP 422 FIELD_INVALID"),
        (["--seed"], {}, "--seed needs a value"),
        (["--sede", "1"], {}, "Unknown option --sede"),
        (["--video", "no such.mp4"], {}, "'no such.mp4' cannot be read"),
        (["--endpoint", "http://127.0.0.1:1"], {}, "did not answer"),
        (["--endpoint", "nonsense://"], {}, "did not answer"),
        (["--output", "/dev/null/x.mp4"], {}, "cannot be written"),
    ],
)
def test_a_failure_is_one_clear_line(
    url: str,
    media: Path,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    done = run(tmp_path, *arguments, **{"ENDPOINT": url, **files(media), **environment})
    assert said in one_line(done)
    assert not (tmp_path / "output.mp4").exists()


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Start a server that answers every POST with the given status and body."""
    hosts: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, content: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

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


def envelope(video: bytes) -> bytes:
    result = {"video_base64": base64.b64encode(video).decode(), "details": {}}
    return json.dumps({"run_id": "r", "result": result, "run_time_ms": 1.0}).encode()


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (502, b"<html>\nBad gateway\n</html>", "HTTP 502"),
        (500, b"", "HTTP 500"),
        (404, b'{"detail": "app not found"}', "HTTP 404 : app not found"),
        (403, b'{"message": "no"}', "Error: the key of LATENTSYNC_API_KEY was refused: HTTP 403"),
        (403, b'{"code": "ADDRESS_FORBIDDEN"}', "Error: HTTP 403 ADDRESS_FORBIDDEN"),
        (
            200,
            b'{"result": {"status_code": 422, "code": "NO_FACE", "message": "No\\nface."}}',
            "HTTP 422 NO_FACE: No face.",
        ),
        (200, b"{}", "no video in .result.video_base64"),
        (200, b'{"result": {"video_base64": "???"}}', "no video in .result.video_base64"),
        (202, b'{"run_id": "r"}', "HTTP 202"),
        (200, envelope(b""), "not an MP4"),
        (200, envelope(b"plain text, no video at all"), "not an MP4"),
        (200, envelope(struct.pack(">I4sQ", 16, b"ftyp", 0)), "no index"),
        (200, envelope(struct.pack(">I4sQ", 16, b"ftyp", 0) + b"\0\0\0\1mdat"), "cut off"),
    ],
)
def test_a_bad_answer_is_one_clear_line(
    answering: Callable[[int, bytes], str],
    media: Path,
    tmp_path: Path,
    status: int,
    content: bytes,
    said: str,
) -> None:
    done = run(tmp_path, ENDPOINT=answering(status, content), **files(media))
    assert said in one_line(done)
    assert not (tmp_path / "output.mp4").exists()


def _mute(media: Path, folder: Path) -> bytes:
    return (media / 'the "clip".mp4').read_bytes()


def _cut(media: Path, folder: Path) -> bytes:
    return _mute(media, folder)[:-40]


def _emptied(media: Path, folder: Path) -> bytes:
    """Take the media data out of a complete file, keeping every box whole."""
    data = _both(media, folder)
    start = data.index(b"mdat") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    return data[:start] + struct.pack(">I4s", 8, b"mdat") + data[start + size :]


def _both(media: Path, folder: Path) -> bytes:
    path = folder / "both.mp4"
    with av.open(path, "w") as out, av.open(media / 'the "clip".mp4') as clip:
        copy = out.add_stream_from_template(clip.streams.video[0])
        sound = out.add_stream("aac", rate=16_000)
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate = 16_000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("video_of", "said"),
    [
        (_mute, "no sound"),
        (_cut, "cut off"),
        (_emptied, "less media data than its index promises"),
    ],
)
def test_a_video_that_would_not_play_is_refused(
    answering: Callable[[int, bytes], str],
    media: Path,
    tmp_path: Path,
    video_of: Callable[[Path, Path], bytes],
    said: str,
) -> None:
    url = answering(200, envelope(video_of(media, tmp_path)))
    assert said in one_line(run(tmp_path, ENDPOINT=url, **files(media)))


def test_a_long_run_is_fetched_from_where_the_platform_says(media: Path, tmp_path: Path) -> None:
    """Modal ends a request after 150 s with a 303 to the address of its result."""
    video = envelope(_both(media, tmp_path))
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(303, b"")

        def do_GET(self) -> None:
            self.answer(*((200, video) if len(requested) == 2 else (303, b"")))

        def answer(self, status: int, content: bytes) -> None:
            requested.append(f"{self.command} {self.headers['Authorization']}")
            self.send_response(status)
            self.send_header("Location", "/predict?call=fc-1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        url = f"http://127.0.0.1:{host.server_address[1]}"
        done = run(tmp_path, ENDPOINT=url, **files(media))
    finally:
        host.shutdown()
        host.server_close()
    assert done.returncode == 0, done.stderr
    assert requested == [f"{verb} Bearer {KEY}" for verb in ("POST", "GET", "GET")]


def test_the_same_video_with_sound_and_data_passes(
    answering: Callable[[int, bytes], str], media: Path, tmp_path: Path
) -> None:
    url = answering(200, envelope(_both(media, tmp_path)))
    assert run(tmp_path, ENDPOINT=url, **files(media)).returncode == 0
