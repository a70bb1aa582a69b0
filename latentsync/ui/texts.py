"""What the page says: stages, states and errors in plain words, and the choices' explanations."""

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
AUTOMATIC = "Automatic: the one that this server is set up for"

# Parts of a stage that are not stages of their own, as they stand in a run's seconds.
PARTS = {
    "align": "turning the face upright",
    "encode": "packing the pictures for the network",
    "denoise": "drawing the lips with the network",
    "decode": "unpacking the pictures",
    "restore": "putting the face back",
}

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
ADVICE["DISK_FULL"] = ADVICE["STORAGE_UNAVAILABLE"] = "Your files are fine. Try again later."
ADVICE["CODEC_FAILED"] = ADVICE["MEDIA_UNREADABLE"]
ADVICE["WEIGHTS_UNREACHABLE"] = ADVICE["WEIGHTS_MISSING"]
ADVICE["OUT_OF_DEVICE_MEMORY"] = ADVICE["ENGINE_UNAVAILABLE"]


def engine_choices(engines: Availability) -> list[tuple[str, str]]:
    """Return what makes the lips to choose from: label and value of whatever can run now."""
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
    return _status(f"Ready. {_summary(job.details)}" if job.details else "Ready.")


def alert(message: str, code: str = "") -> str:
    """Return an error as HTML: the sentence, what to do about it, and the code for support."""
    said = " ".join(part for part in (message, ADVICE.get(code, "")) if part)
    small = f'<p class="ls-code">Error code {html.escape(code)}</p>' if code else ""
    return (
        '<div class="ls-alert" role="alert"><strong>That did not work.</strong>'
        f"<p>{html.escape(said)}</p>{small}</div>"
    )


def hint(text: str) -> str:
    """Return what is missing as HTML that screen readers announce: nothing has gone wrong."""
    return f'<p class="ls-hint" role="alert">{html.escape(text)}</p>'


def alert_of(error: LatentSyncError) -> str:
    """Return an error that the client raised as HTML."""
    return alert(error.message, error.server_code if isinstance(error, ServerError) else error.code)


def label(job: Job, zone: tzinfo = UTC) -> str:
    """Return one line about a job for the list, with the time in the reader's zone."""
    when = f"{job.created_at.astimezone(zone):%d %b %H:%M:%S}" if job.created_at else job.id
    length = f", {job.details.duration_s:.1f} s" if job.details else ""
    return f"{when}: {STATES[job.status]}{length}"


def found_faces(number: int) -> str:
    """Return what to do with a picture in which so many faces were found."""
    if number == 0:
        return "No face found here. Look somewhere else in the video, or click where one is."
    plural = "s" if number > 1 else ""
    return f"{number} face{plural} found here. Click the one that shall speak, or choose it below."


def story(lines: Sequence[str], made: PredictDetails | None = None) -> str:
    """Return what a run said of itself and, once it has succeeded, what it made and how long."""
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    log = f'<ol class="ls-log">{said}</ol>' if said else note("Nothing yet.")
    return log if made is None else _facts(made) + "<h2>What the server noted</h2>" + log


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


def _summary(made: PredictDetails) -> str:
    said = (
        f"{made.duration_s:.1f} s, {made.width} x {made.height}, made with {_title(made.engine)}."
    )
    missing = f" {made.frames_without_face} pictures show no face."
    return said + missing * bool(made.frames_without_face)


def _title(engine: str) -> str:
    return ENGINES[engine].title if engine in ENGINES else engine


def _facts(made: PredictDetails) -> str:
    """Return a table of what was made, by what, and how long each step of it took."""
    whole = {name: spent for name, spent in made.seconds.items() if "." not in name}
    rows = [
        ("Made with", f"{_title(made.engine)}, version {made.model_version}", ""),
        ("Length", f"{made.duration_s:.2f} s: {made.frames} pictures, {made.fps:g} a second", ""),
        ("Pictures without a face", str(made.frames_without_face), ""),
        *([] if made.seed is None else [("Seed", str(made.seed), "")]),
        ("Time it took", f"{sum(whole.values()):.1f} s", ""),
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
    """Return the name of a stage, or of a part of one, without its number."""
    name = stage.rpartition(".")[2]
    said = STAGES.get(name, "").partition(": ")[2] or PARTS.get(name) or name.replace("_", " ")
    return f"of it {said}" if "." in stage else said
