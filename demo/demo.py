"""The demo: a server with a key, a client, and a video.

Starts the server on a free port, posts the demo files to ``/predict``, saves ``out/demo.mp4`` and
the contact sheet ``out/demo.png``, and stops the server. Run by ``make demo``.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from contact_sheet import draw_sheet

from latentsync.client import Client

ROOT = Path(__file__).resolve().parent.parent
VIDEO, AUDIO = ROOT / "assets/demo_video.mp4", ROOT / "assets/demo_audio.wav"
OUTPUT = ROOT / "out"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


def main() -> None:
    """Write out/demo.mp4 and out/demo.png."""
    token = secrets.token_urlsafe(16)
    print(f"Posting {VIDEO.name} and {AUDIO.name} to a server of our own ...", flush=True)
    with running_server(token) as url, Client(url, token) as client:
        prediction = client.predict(video=VIDEO, audio=AUDIO)
    video = prediction.save(OUTPUT / "demo.mp4")
    details = prediction.details
    print(
        f"The {details.engine} engine ({details.model_version}) made {details.frames} frames, "
        f"{details.width}x{details.height}, {details.duration_s:.2f} s of video "
        f"in {prediction.run_time_ms / 1000:.1f} s."
    )
    sheet = draw_sheet(VIDEO, video, AUDIO, OUTPUT / "demo.png")
    print(f"Result:        {video.relative_to(ROOT)} ({video.stat().st_size // 1024} KB)")
    print(f"Contact sheet: {sheet.relative_to(ROOT)} (source, result, sound and measured lip gap)")


@contextmanager
def running_server(token: str) -> Iterator[str]:
    """Run ``latentsync serve`` on a free port and yield its address; stop it afterwards."""
    port = free_port()
    own = {
        "LATENTSYNC_API_KEY": token,
        "LATENTSYNC_ENGINE": "draft",  # also on machines with a GPU
    }
    command = [sys.executable, "-m", "latentsync", "serve", "--port", str(port)]
    OUTPUT.mkdir(exist_ok=True)
    # Separate from the jobs of other servers of this user.
    with tempfile.TemporaryDirectory() as jobs, (OUTPUT / "server.log").open("w") as log:
        environment = {**os.environ, **own, "LATENTSYNC_DATA_DIR": jobs}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(server, url)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Return once the engine is loaded; raise when the server ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"The server stopped with code {server.returncode}; see out/server.log.")
        try:
            if httpx.get(f"{url}/ready", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    sys.exit(f"The server was not ready after {START_TIMEOUT_S:.0f} s; see out/server.log.")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
