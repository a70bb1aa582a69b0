"""The texts of the page: stages, states, errors with advice, and labels of the options."""

import html
from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Literal

from latentsync.client import Job
from latentsync.errors import LatentSyncError, ServerError
from latentsync.jobs.engine_availability import Availability
from latentsync.schema.engines import ENGINES
from latentsync.schema.responses import PredictDetails

STAGES = {
    "": "Starting",
    "fetch": "Step 1 of 6: loading the video and the speech",
    "probe": "Step 2 of 6: checking both files",
    "read": "Step 3 of 6: reading the speech",
    "listen": "Step 3 of 6: analysing the speech",
    "find_face": "Step 4 of 6: finding the face",
    "generate": "Step 5 of 6: generating the frames",
    "write": "Step 6 of 6: encoding the video",
}

STATES = {
    "queued": "queued",
    "processing": "processing",
    "succeeded": "ready",
    "failed": "failed",
    "canceled": "canceled",
}

SERVERS_ENGINE = "server"  # value of the choice that leaves the engine to the server
AUTOMATIC = "Automatic: the server's default engine"

# Parts of a stage in a run's `seconds` that are not stages themselves.
PARTS = {
    "align": "aligning the face",
    "encode": "encoding the faces",
    "denoise": "denoising",
    "decode": "decoding the faces",
    "restore": "pasting the face back",
}

SYNC_MODES = [
    ("Play it back and forth until the speech ends", "bounce"),
    ("Repeat it until the speech ends", "loop"),
    ("End with the shorter one", "cut_off"),
    ("End with the longer one, with silence or the last frame held", "silence"),
    ("Change its speed to fit the speech", "remap"),
]

WARNINGS = "Please note:"  # above the list of warnings

ADVICE = {
    "AUDIO_TOO_SHORT": "Choose a longer recording.",
    "ENGINE_UNAVAILABLE": "Choose another engine under Options, or contact the administrator.",
    "LINE_FULL": "Wait until some of your videos are ready, then try again.",
    "MEDIA_TOO_LONG": "Cut the file into shorter parts.",
    "MEDIA_TRUNCATED": "The file seems to be cut off. Copy or download it again.",
    "MEDIA_UNREADABLE": "Choose another file, or save it as MP4 or WAV.",
    "NOT_AUTHORIZED": "Reload the page and enter your key again.",
    "NO_AUDIO": "Choose a file that contains speech.",
    "NO_FACE": "Choose a video in which a face looks at the camera.",
    "NO_VIDEO": "Choose a video, not an image or an audio file.",
    "URL_UNREACHABLE": "Check the connection, then try again.",
    "WEIGHTS_MISSING": "Choose another engine under Options, or contact the administrator.",
}
ADVICE["DISK_FULL"] = ADVICE["STORAGE_UNAVAILABLE"] = "Your files are fine. Try again later."
ADVICE["CODEC_FAILED"] = ADVICE["MEDIA_UNREADABLE"]
ADVICE["WEIGHTS_UNREACHABLE"] = ADVICE["WEIGHTS_MISSING"]
ADVICE["OUT_OF_DEVICE_MEMORY"] = ADVICE["ENGINE_UNAVAILABLE"]


def engine_choices(engines: Availability) -> list[tuple[str, str]]:
    """Return label and value of each engine that can run now."""
    choices = [
        (f"{spec.title}: {spec.summary}", spec.name)
        for spec in ENGINES.values()
        if engines.obstacle(spec.name) is None
    ]
    if engines.obstacle(None) is not None:
        return choices
    here = " or ".join(_title(name) for name in engines.defaults)
    automatic = f"Automatic: on this server {here}" if here else AUTOMATIC
    return [(automatic, SERVERS_ENGINE), *choices]


def describe(job: Job) -> str:
    """Return the state of a job as HTML that screen readers announce."""
    if job.status == "failed":
        error = job.error
        return alert(error.message, error.code) if error else alert("The server gave no reason.")
    if job.status == "queued":
        return _status(f"Queued: {_position(job.queue_position)}.", _bar(0.0))
    if job.status == "processing":
        return _status(f"{_stage(job)} …", _bar(job.progress.fraction))
    if job.status == "canceled":
        return _status("Canceled. This video will not be made.")
    if job.details is None:
        return _status("Ready.")
    return _status(f"Ready. {_summary(job.details)}", _warnings(job.details))


def alert(message: str, code: str = "") -> str:
    """Return an error as HTML: message, advice, and the code for support."""
    said = " ".join(part for part in (message, ADVICE.get(code, "")) if part)
    small = f'<p class="ls-code">Error code {html.escape(code)}</p>' if code else ""
    return (
        '<div class="ls-alert" role="alert"><strong>That did not work.</strong>'
        f"<p>{html.escape(said)}</p>{small}</div>"
    )


def hint(text: str) -> str:
    """Return a hint at missing input as HTML that screen readers announce."""
    return f'<p class="ls-hint" role="alert">{html.escape(text)}</p>'


def alert_of(error: LatentSyncError) -> str:
    """Return the client's error as HTML."""
    return alert(error.message, error.server_code if isinstance(error, ServerError) else error.code)


def label(job: Job, zone: tzinfo = UTC) -> str:
    """Return a job's entry in the list, with its time in the browser's time zone."""
    when = f"{job.created_at.astimezone(zone):%d %b %H:%M:%S}" if job.created_at else job.id
    length = f", {job.details.duration_s:.1f} s" if job.details else ""
    return f"{when}: {STATES[job.status]}{length}"


def found_faces(number: int) -> str:
    """Return how many faces were found and what to do next."""
    if number == 0:
        return "No face found here. Try another position, or click a face in the picture."
    plural = "s" if number > 1 else ""
    return f"{number} face{plural} found here. Click the one that should speak, or choose it below."


def run_log(lines: Sequence[str], made: PredictDetails | None = None) -> str:
    """Return a run's log as HTML; once it has succeeded, with its details above."""
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    log = f'<ol class="ls-log">{said}</ol>' if said else note("No messages yet.")
    return log if made is None else _facts(made) + "<h2>Server log</h2>" + log


def note(text: str, kind: Literal["status", "note"] = "note") -> str:
    """Return a paragraph as HTML."""
    return f'<p class="ls-note" role="{kind}">{html.escape(text)}</p>'


def _status(text: str, more: str = "") -> str:
    """Return a sentence, and the HTML below it, as HTML that screen readers announce."""
    return f'<div class="ls-status" role="status"><p>{html.escape(text)}</p>{more}</div>'


def _bar(fraction: float) -> str:
    percent = round(100 * fraction)
    return f'<progress value="{percent}" max="100" aria-label="progress">{percent} %</progress>'


def _position(position: int | None) -> str:
    if position is None:
        return "your position is not known yet"
    return "you are next" if position == 0 else f"{position} ahead of you"


def _stage(job: Job) -> str:
    progress = job.progress
    frames = ""
    if progress.frames_total:
        frames = f", frame {progress.frames_done} of {progress.frames_total}"
    attempt = f" (attempt {job.attempts})" if job.attempts > 1 else ""
    return STAGES.get(progress.stage, progress.stage.replace("_", " ")) + frames + attempt


def _summary(made: PredictDetails) -> str:
    return (
        f"{made.duration_s:.1f} s, {made.width} x {made.height}, made with {_title(made.engine)}."
    )


def _warnings(made: PredictDetails) -> str:
    """Return the warnings of a result as an HTML list; empty without any."""
    if not made.warnings:
        return ""
    said = "".join(f"<li>{html.escape(one.message)}</li>" for one in made.warnings)
    return f'<div class="ls-warnings"><p>{WARNINGS}</p><ul>{said}</ul></div>'


def _title(engine: str) -> str:
    return ENGINES[engine].title if engine in ENGINES else engine


def _facts(made: PredictDetails) -> str:
    """Return a table of the result's details and the time of each step."""
    whole = {name: spent for name, spent in made.seconds.items() if "." not in name}
    rows = [
        ("Engine", f"{_title(made.engine)}, version {made.model_version}", ""),
        ("Duration", f"{made.duration_s:.2f} s: {made.frames} frames at {made.fps:g} fps", ""),
        ("Frames without a face", str(made.frames_without_face), ""),
        *([] if made.seed is None else [("Seed", str(made.seed), "")]),
        ("Processing time", f"{sum(whole.values()):.1f} s", ""),
    ]
    for stage, spent in whole.items():
        rows.append((_plain(stage), f"{spent:.1f} s", "ls-step"))
        parts = [name for name in made.seconds if name.startswith(f"{stage}.")]
        rows += [(_plain(name), f"{made.seconds[name]:.1f} s", "ls-part") for name in parts]
    return f'<table class="ls-facts">{"".join(_row(*row) for row in rows)}</table>'


def _row(name: str, value: str, kind: str) -> str:
    return (
        f'<tr class="{kind}"><th scope="row">{html.escape(name)}</th>'
        f"<td>{html.escape(value)}</td></tr>"
    )


def _plain(stage: str) -> str:
    """Return the label of a stage or of a part of one, without its number."""
    name = stage.rpartition(".")[2]
    return STAGES.get(name, "").partition(": ")[2] or PARTS.get(name) or name.replace("_", " ")
