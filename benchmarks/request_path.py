"""Which files one ``POST /predict`` goes through: ``python -m benchmarks.request_path [--list]``.

Starts a server with its worker, makes the packaged example twice, and records every function of the
package that the second request enters, in all processes. Of the API process it also counts how
often the next function to be entered for the first time lies in another file: that is how often a
reader who follows the request has to turn to another file.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx

ROOT = Path(__file__).resolve().parent.parent
KEY = "benchmark"
START_LIMIT_S = 120
SETTLE_S = 1.5
# Frames of their own before Python 3.12 only; they are part of the function around them.
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")

# Python imports this module in every process that is started with its folder on the path.
TRACER = """
import os, sys, threading, time

package = os.environ["TRACED_PACKAGE"] + "/"
out = open(f"{os.environ['TRACES']}/{os.getpid()}", "a", buffering=1)
names = {}

def enter(frame, event, _):
    code = frame.f_code
    if event != "call" or code.co_name == "<module>":
        return
    if code not in names:
        path = code.co_filename
        inside = path.startswith(package)
        names[code] = f"{path.removeprefix(package)} {code.co_qualname}" if inside else None
    if names[code] is not None:
        out.write(f"{time.time():.6f} {names[code]}\\n")

sys.setprofile(enter)
threading.setprofile(enter)
"""


class Entry(NamedTuple):
    """A function that was entered."""

    at: float
    file: str
    function: str


def main() -> None:
    """Print how many files the request enters, and how often the API process changes file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the API process's way as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        processes = trace_request(Path(name))
    files = {entry.file for entries in processes for entry in entries}
    [way] = [
        first_entries(entries)
        for entries in processes
        if any(entry.file == "server/app.py" or "routes/" in entry.file for entry in entries)
    ]
    changes = sum(one.file != next_.file for one, next_ in zip(way, way[1:], strict=False))
    print(f"files entered in all processes   {len(files)}")
    print(f"changes of file, API process     {changes}")
    if arguments.list:
        for index, entry in enumerate(way):
            if index == 0 or way[index - 1].file != entry.file:
                print(f"\n{entry.file}:", end="")
            print(f" {entry.function}", end="")
        print()


def trace_request(folder: Path) -> list[list[Entry]]:
    """Return the functions that each process enters for one request, in order."""
    tracer, traces = folder / "tracer", folder / "traces"
    for path in (tracer, traces):
        path.mkdir()
    (tracer / "sitecustomize.py").write_text(TRACER, "utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tracer}{os.pathsep}{ROOT}",
        "TRACED_PACKAGE": str(ROOT / "latentsync"),
        "TRACES": str(traces),
        "LATENTSYNC_API_KEY": KEY,
        "LATENTSYNC_DATA_DIR": str(folder / "data"),
        "LATENTSYNC_WORK_DIR": str(folder / "work"),
        "LATENTSYNC_MIN_FREE_BYTES": "0",
    }
    command = [sys.executable, "-m", "latentsync", "serve", "--port", "0"]
    log_path = folder / "log"
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            began_at, ended_at = request_twice(wait_for_address(log_path))
        finally:
            server.send_signal(signal.SIGTERM)
    return [
        [entry for entry in read_trace(path) if began_at <= entry.at <= ended_at]
        for path in traces.iterdir()
    ]


def wait_for_address(log_path: Path) -> str:
    """Return where the server listens, as it logs it."""
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        for word in log_path.read_text("utf-8").split():
            if word.startswith("http://127.0.0.1:"):
                return word
        time.sleep(0.1)
    raise SystemExit(f"The server did not start:\n{log_path.read_text('utf-8')}")


def request_twice(address: str) -> tuple[float, float]:
    """Have the packaged example made twice; return when the second request began and ended."""
    body = {
        f"{kind}_base64": base64.b64encode((ROOT / "assets" / name).read_bytes()).decode()
        for kind, name in [("video", "example_video.mp4"), ("audio", "example_audio.ogg")]
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=address, headers=headers, timeout=START_LIMIT_S) as client:
        until = time.monotonic() + START_LIMIT_S
        while client.get("/ready").is_error and time.monotonic() < until:
            time.sleep(0.2)
        client.post("/predict", json=body).raise_for_status()
        time.sleep(SETTLE_S)  # the server still closes the first request
        began_at = time.time()
        client.post("/predict", json=body).raise_for_status()
        return began_at, time.time()


def read_trace(path: Path) -> list[Entry]:
    """Return what one process wrote; a line that its end cut off is left out."""
    rows = [line.split(" ", 2) for line in path.read_text("utf-8").splitlines()]
    entries = [Entry(float(row[0]), row[1], row[2]) for row in rows if len(row) == 3]
    return [entry for entry in entries if not entry.function.endswith(COMPREHENSIONS)]


def first_entries(entries: list[Entry]) -> list[Entry]:
    """Return the first entry of each function."""
    first: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first.setdefault((entry.file, entry.function), entry)
    return list(first.values())


if __name__ == "__main__":
    main()
