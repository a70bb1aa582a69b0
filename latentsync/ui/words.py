"""What the page says: stages, states and errors in plain words, and the choices' explanations."""

from __future__ import annotations

import html
from typing import Literal

from latentsync.client import Job
from latentsync.errors import LatentSyncError, ServerError

STAGES = {
    "": "Starting",
    "fetch": "Step 1 of 6: bringing the video and the speech",
    "probe": "Step 2 of 6: checking both files",
    "read": "Step 3 of 6: reading the speech",
    "listen": "Step 3 of 6: listening to the speech",
    "find_face": "Step 4 of 6: finding the face",
    "generate": "Step 5 of 6: making the lips",
    "write": "Step 6 of 6: writing the video",
}

STATES = {
    "queued": "waiting in line",
    "processing": "being made",
    "succeeded": "ready",
    "failed": "did not work",
    "canceled": "canceled",
}

SERVERS_ENGINE = "server"  # no engine is asked for
ENGINES = [
    ("Automatic: the one that this server is set up for", SERVERS_ENGINE),
    ("LatentSync 1.6: generated lips, sharpest; needs a GPU", "latentsync-1.6"),
    ("LatentSync 1.5: generated lips, smaller and quicker; needs a GPU", "latentsync-1.5"),
    ("Draft: moves the mouth in the picture; quick, runs anywhere", "draft"),
]

SYNC_MODES = [
    ("Play it to and fro until the speech ends", "bounce"),
    ("Start it again until the speech ends", "loop"),
    ("End with the shorter of the two", "cut_off"),
    ("End with the longer: silence, or the last picture held", "silence"),
    ("Slow it down or speed it up to fit the speech", "remap"),
]

ADVICE = {
    "AUDIO_TOO_SHORT": "Choose a longer recording.",
    "ENGINE_UNAVAILABLE": "Choose another engine under Options, or ask whoever runs the server.",
    "LINE_FULL": "Wait until some of your videos are ready, then try again.",
    "MEDIA_TOO_LONG": "Cut the file into shorter parts.",
    "MEDIA_TRUNCATED": "The file seems to be cut off. Copy or download it again.",
    "MEDIA_UNREADABLE": "Choose another file, or save it as MP4 or WAV.",
    "NOT_AUTHORIZED": "Reload the page and give your key again.",
    "NO_AUDIO": "Choose a file that holds speech.",
    "NO_FACE": "Choose a video in which a face looks towards the camera.",
    "NO_VIDEO": "Choose a video, not a picture or a sound.",
    "URL_UNREACHABLE": "Look at the connection, then try again.",
    "WEIGHTS_MISSING": "Choose another engine under Options, or ask whoever runs the server.",
}
ADVICE["WEIGHTS_UNREACHABLE"] = ADVICE["WEIGHTS_MISSING"]
ADVICE["OUT_OF_DEVICE_MEMORY"] = ADVICE["ENGINE_UNAVAILABLE"]


def describe(job: Job) -> str:
    """Return how a job stands, as HTML that screen readers announce."""
    if job.status == "failed":
        error = job.error
        return alert(error.message, error.code) if error else alert("The server did not say why.")
    if job.status == "queued":
        return _status(f"Waiting in line: {_place(job.queue_position)}.", 0.0)
    if job.status == "processing":
        return _status(f"{_stage(job)} …", job.progress.fraction)
    if job.status == "canceled":
        return _status("Canceled. Nothing more happens to this video.")
    return _status(f"Ready.{_facts(job)}")


def alert(message: str, code: str = "") -> str:
    """Return an error as HTML: the sentence, what to do about it, and the code for support."""
    said = " ".join(part for part in (message, ADVICE.get(code, "")) if part)
    small = f'<p class="ls-code">Error code {html.escape(code)}</p>' if code else ""
    return (
        '<div class="ls-alert" role="alert"><strong>That did not work.</strong>'
        f"<p>{html.escape(said)}</p>{small}</div>"
    )


def alert_of(error: LatentSyncError) -> str:
    """Return an error that the client raised as HTML."""
    return alert(error.message, error.server_code if isinstance(error, ServerError) else error.code)


def label(job: Job) -> str:
    """Return one line about a job for the list."""
    when = f"{job.created_at:%d %b %H:%M:%S} UTC" if job.created_at else job.id
    length = f", {job.details.duration_s:.1f} s" if job.details else ""
    return f"{when}: {STATES[job.status]}{length}"


def note(text: str, kind: Literal["status", "note"] = "note") -> str:
    """Return a plain line as HTML."""
    return f'<p class="ls-note" role="{kind}">{html.escape(text)}</p>'


def _status(text: str, fraction: float | None = None) -> str:
    bar = ""
    if fraction is not None:
        percent = round(100 * fraction)
        bar = f'<progress value="{percent}" max="100" aria-label="progress">{percent} %</progress>'
    return f'<div class="ls-status" role="status"><p>{html.escape(text)}</p>{bar}</div>'


def _place(position: int | None) -> str:
    if position is None:
        return "your place is being counted"
    return "you are next" if position == 0 else f"{position} ahead of you"


def _stage(job: Job) -> str:
    progress = job.progress
    frames = ""
    if progress.frames_total:
        frames = f", picture {progress.frames_done} of {progress.frames_total}"
    again = f" (attempt {job.attempts})" if job.attempts > 1 else ""
    return STAGES.get(progress.stage, progress.stage.replace("_", " ")) + frames + again


def _facts(job: Job) -> str:
    made = job.details
    if made is None:
        return ""
    missing = f" {made.frames_without_face} pictures show no face." * bool(made.frames_without_face)
    return (
        f" {made.duration_s:.1f} s, {made.width} x {made.height}, made by {made.engine}.{missing}"
    )
