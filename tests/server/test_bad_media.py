"""Media of every kind over real HTTP: each gives its own clear error, or a correct video."""

from __future__ import annotations

import base64
import http.server
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from latentsync.schema.responses import ErrorResponse, PredictDetails
from tests.media.makers import make_video
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, files_in, serving_engine

Server = tuple[str, Path]  # address and work folder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def body(media: Path) -> dict[str, str]:
    return {
        "video_base64": as_base64(write_clip(media / "good.mp4")),
        "audio_base64": as_base64(write_speech(media / "good.wav")),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it is deployed: public addresses only."""
    folder = tmp_path_factory.mktemp("server")
    with serving_engine(folder, SquareEngine(), fetch_timeout_s=10.0) as url:
        yield url, folder / "work"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may fetch from this machine."""
    folder = tmp_path_factory.mktemp("open_server")
    with serving_engine(folder, SquareEngine(), allow_private_addresses=True) as url:
        yield url, folder / "work"


def refused(server: Server, body: dict[str, Any]) -> ErrorResponse:
    """Post what must be refused; returns the error after checking what all errors share."""
    url, work = server
    response = httpx.post(f"{url}/predict", json=body, headers=AUTH, timeout=60)
    assert response.status_code >= 400, response.text[:300]
    error = ErrorResponse.model_validate(response.json())
    assert error.status_code == response.status_code
    assert str(work) not in response.text
    assert "Traceback" not in response.text
    assert files_in(work) == []
    return error


def made(server: Server, body: dict[str, Any], folder: Path) -> tuple[PredictDetails, Path]:
    """Post what must succeed; returns the details and the saved video."""
    url, work = server
    response = httpx.post(f"{url}/predict", json=body, headers=AUTH, timeout=60)
    assert response.status_code == 200, response.text[:300]
    result = response.json()["result"]
    path = folder / "result.mp4"
    path.write_bytes(base64.b64decode(result["video_base64"]))
    assert files_in(work) == []
    return PredictDetails.model_validate(result["details"]), path


def text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def cut(path: Path, share: float) -> str:
    content = path.read_bytes()
    return text(content[: int(len(content) * share)])


def huge_png() -> bytes:
    """Return a white PNG of 10000 x 10000 with one bit per pixel: 12 KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * 1250) * 10_000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def huge_video(path: Path) -> Path:
    """Write a video of two such pictures."""
    with av.open(path, "w", format="mov") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = 10_000
        stream.pix_fmt = "monob"
        for number in range(2):
            packet = av.Packet(huge_png())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    return path


def long_video(path: Path) -> Path:
    """Write a video that lasts eleven minutes by its time stamps, in three frames."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for second in (0, 330, 660):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = second, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_an_empty_file_is_empty(server: Server, body: dict[str, str]) -> None:
    error = refused(server, {**body, "video_base64": ""})
    assert (error.status_code, error.code, error.field) == (422, "MEDIA_EMPTY", "video_base64")


@pytest.mark.parametrize("field", ["video_base64", "audio_base64"])
def test_text_is_no_medium(server: Server, body: dict[str, str], field: str) -> None:
    error = refused(server, {**body, field: text(b"This is a text file named clip.mp4.\n" * 20)})
    assert (error.status_code, error.code, error.field) == (422, "MEDIA_UNREADABLE", field)


@pytest.mark.parametrize("faststart", [False, True])
def test_a_cut_off_video_is_truncated(
    server: Server, body: dict[str, str], media: Path, faststart: bool
) -> None:
    clip = write_clip(media / f"cut{faststart}.mp4", seconds=2, faststart=faststart)
    error = refused(server, {**body, "video_base64": cut(clip, 0.7)})
    assert (error.status_code, error.code) == (422, "MEDIA_TRUNCATED")
    assert error.field == "video_base64"


def test_sound_is_no_video(server: Server, body: dict[str, str]) -> None:
    error = refused(server, {**body, "video_base64": body["audio_base64"]})
    assert (error.status_code, error.code, error.field) == (422, "NO_VIDEO", "video_base64")


def test_a_video_without_frames_is_no_video(
    server: Server, body: dict[str, str], media: Path
) -> None:
    with av.open(media / "no_frames.mkv", "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    error = refused(server, {**body, "video_base64": as_base64(media / "no_frames.mkv")})
    assert error.status_code == 422
    assert error.code in ("NO_VIDEO", "MEDIA_TRUNCATED", "MEDIA_UNREADABLE")
    assert error.field == "video_base64"


def test_a_silent_film_is_no_speech(server: Server, body: dict[str, str]) -> None:
    error = refused(server, {**body, "audio_base64": body["video_base64"]})
    assert (error.status_code, error.code, error.field) == (422, "NO_AUDIO", "audio_base64")


def test_fifty_milliseconds_are_too_short(
    server: Server, body: dict[str, str], media: Path
) -> None:
    short = write_speech(media / "short.wav", seconds=0.05)
    error = refused(server, {**body, "audio_base64": as_base64(short)})
    assert (error.status_code, error.code, error.field) == (422, "AUDIO_TOO_SHORT", "audio_base64")
    assert "50 ms" in error.message


def test_eleven_minutes_are_too_long(server: Server, body: dict[str, str], media: Path) -> None:
    error = refused(server, {**body, "video_base64": as_base64(long_video(media / "long.mp4"))})
    assert (error.status_code, error.code, error.field) == (422, "MEDIA_TOO_LONG", "video_base64")
    assert "600" in error.message


def test_a_still_picture_is_no_video_however_large(server: Server, body: dict[str, str]) -> None:
    error = refused(server, {**body, "video_base64": text(huge_png())})
    assert (error.status_code, error.field) == (422, "video_base64")
    assert error.code in ("NO_VIDEO", "PICTURE_TOO_LARGE")


def test_a_picture_of_ten_thousand_squared_is_too_large(
    server: Server, body: dict[str, str], media: Path
) -> None:
    huge = huge_video(media / "huge.mov")
    error = refused(server, {**body, "video_base64": as_base64(huge)})
    assert (error.status_code, error.code) == (422, "PICTURE_TOO_LARGE")
    assert "pixels" in error.message


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://127.0.0.1:9/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://localhost:9/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://10.1.2.3/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://192.168.0.1/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://[::1]:9/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://[::ffff:127.0.0.1]:9/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://2130706433:9/clip.mp4", "ADDRESS_FORBIDDEN"),
        ("http://169.254.169.254/latest/meta-data/", "ADDRESS_FORBIDDEN"),
    ],
)
def test_private_addresses_are_never_asked(
    server: Server, body: dict[str, str], address: str, code: str
) -> None:
    audio = {"audio_base64": body["audio_base64"]}
    error = refused(server, {**audio, "video_url": address})
    assert (error.status_code, error.code, error.field) == (403, code, "video_url")


@pytest.mark.parametrize(
    "address",
    ["", "clip.mp4", "/etc/passwd", "file:///etc/passwd", "ftp://a.example/clip.mp4", "http://"],
)
def test_other_schemes_are_refused(server: Server, body: dict[str, str], address: str) -> None:
    audio = {"audio_base64": body["audio_base64"]}
    error = refused(server, {**audio, "video_url": address})
    assert error.status_code in (403, 422)
    assert error.field == "video_url"
    assert "root:" not in error.message


class _Files(http.server.BaseHTTPRequestHandler):
    """Serves one clip, a redirect to the address in the query, and an answer without an end."""

    clip = b""

    def do_GET(self) -> None:
        if self.path.startswith("/redirect?"):
            self.send_response(302)
            self.send_header("Location", self.path.split("?", 1)[1])
            self.end_headers()
        elif self.path == "/never-ends":
            self.send_response(200)
            self.end_headers()
            self._drip()
        elif self.path == "/clip.mp4":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip)
        else:
            self.send_error(404)

    def _drip(self) -> None:
        for _ in range(1200):
            try:
                self.wfile.write(b"x")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def file_host(body: dict[str, str]) -> Iterator[str]:
    _Files.clip = base64.b64decode(body["video_base64"])
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{host.server_address[1]}"
    host.shutdown()
    thread.join()
    host.server_close()


def test_media_come_by_url(
    open_server: Server, body: dict[str, str], file_host: str, tmp_path: Path
) -> None:
    audio = {"audio_base64": body["audio_base64"]}
    address = f"{file_host}/redirect?{file_host}/clip.mp4"
    details, _ = made(open_server, {**audio, "video_url": address}, tmp_path)
    assert details.frames == 10


def test_a_missing_file_at_a_url_is_reported_with_its_status(
    open_server: Server, body: dict[str, str], file_host: str
) -> None:
    audio = {"audio_base64": body["audio_base64"]}
    error = refused(open_server, {**audio, "video_url": f"{file_host}/nothing.mp4"})
    assert (error.status_code, error.code, error.field) == (422, "URL_UNREACHABLE", "video_url")
    assert "404" in error.message


def test_a_closed_port_is_unreachable(open_server: Server, body: dict[str, str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/clip.mp4"
        audio = {"audio_base64": body["audio_base64"]}
        error = refused(open_server, {**audio, "video_url": address})
    assert (error.status_code, error.code) == (422, "URL_UNREACHABLE")


def test_a_server_that_never_ends_is_cut(
    tmp_path: Path, body: dict[str, str], file_host: str
) -> None:
    audio = {"audio_base64": body["audio_base64"]}
    changes = {"allow_private_addresses": True, "fetch_timeout_s": 0.3}
    with serving_engine(tmp_path, SquareEngine(), **changes) as url:
        hasty = url, tmp_path / "work"
        error = refused(hasty, {**audio, "video_url": f"{file_host}/never-ends"})
    assert (error.status_code, error.code, error.field) == (408, "FETCH_TIMEOUT", "video_url")


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), 30, 60, Fraction(30000, 1001)])
def test_every_frame_rate_keeps_its_speed(
    server: Server, media: Path, tmp_path: Path, fps: Fraction | int
) -> None:
    name = f"{float(fps):.2f}.mp4"
    clip = write_clip(media / name, seconds=1, fps=fps)
    speech = write_speech(media / "second.wav", seconds=1)
    body = {"video_base64": as_base64(clip), "audio_base64": as_base64(speech)}
    details, path = made(server, body, tmp_path)
    assert (details.frames, details.fps) == (25, 25.0)
    assert details.duration_s == pytest.approx(1.0, abs=0.04)
    assert _length_s(path, "video") == pytest.approx(1.0, abs=0.04)
    assert _length_s(path, "audio") == pytest.approx(1.0, abs=0.04)


def test_a_variable_frame_rate_keeps_its_speed(server: Server, media: Path, tmp_path: Path) -> None:
    stamps_ms = [*range(0, 500, 20), *range(500, 1000, 100)]  # 50 per second, then 10
    clip = make_video(media / "variable.mp4", stamps_ms=stamps_ms)
    speech = write_speech(media / "second.wav", seconds=1)
    body = {"video_base64": as_base64(clip), "audio_base64": as_base64(speech)}
    details, path = made(server, {**body, "sync_mode": "cut_off"}, tmp_path)
    # The last frame begins at 900 ms; how long it stays is the container's guess.
    assert 23 <= details.frames <= 25
    assert _length_s(path, "video") == pytest.approx(details.frames / 25, abs=0.04)


def test_a_portrait_phone_video_comes_out_upright(
    server: Server, body: dict[str, str], media: Path, tmp_path: Path
) -> None:
    clip = make_video(media / "phone.mp4", size=(128, 80), display=(90,))
    details, path = made(server, {**body, "video_base64": as_base64(clip)}, tmp_path)
    assert (details.width, details.height) == (80, 128)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height, frame.rotation) == (80, 128, 0)


def _length_s(path: Path, kind: str) -> float:
    """Return how long players play the stream, by its own index."""
    with av.open(path) as container:
        stream = container.streams.get({kind: 0})[0]
        return float(stream.duration * stream.time_base)


@pytest.mark.parametrize(("width", "height"), [(641, 359), (97, 65)])
def test_odd_sizes_are_made(
    server: Server, body: dict[str, str], media: Path, tmp_path: Path, width: int, height: int
) -> None:
    clip = write_clip(media / f"{width}.mp4", width=width, height=height)
    details, path = made(server, {**body, "video_base64": as_base64(clip)}, tmp_path)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert abs(frame.width - width) <= 1
    assert abs(frame.height - height) <= 1
    assert details.frames == 10


@pytest.mark.parametrize(
    "speech",
    [
        {"sample_rate": 8_000, "sample_format": "u8", "codec": "pcm_u8"},
        {"sample_rate": 48_000, "layout": "5.1"},
        {"sample_rate": 44_100, "layout": "stereo"},
    ],
)
def test_every_kind_of_sound_is_taken(
    server: Server, body: dict[str, str], media: Path, tmp_path: Path, speech: dict[str, Any]
) -> None:
    recording = write_speech(media / "kind.wav", **speech)
    _, path = made(server, {**body, "audio_base64": as_base64(recording)}, tmp_path)
    with av.open(path) as container:
        frame = next(container.decode(audio=0))
    assert frame.sample_rate == speech["sample_rate"]
    assert frame.layout.nb_channels == {"5.1": 6, "stereo": 2}.get(speech.get("layout", ""), 1)


@pytest.mark.parametrize(
    ("sync_mode", "frames"),
    [("bounce", 25), ("loop", 25), ("remap", 25), ("cut_off", 10), ("silence", 25)],
)
def test_every_sync_mode_ends_as_it_says(
    server: Server, body: dict[str, str], media: Path, tmp_path: Path, sync_mode: str, frames: int
) -> None:
    speech = write_speech(media / "longer.wav", seconds=1)
    request = {**body, "audio_base64": as_base64(speech), "sync_mode": sync_mode}
    details, path = made(server, request, tmp_path)
    assert details.frames == frames
    assert _length_s(path, "audio") == pytest.approx(_length_s(path, "video"), abs=0.04)
