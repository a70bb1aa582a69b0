"""The layout of the page and its event handlers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.schema import fields
from latentsync.schema.predict import PredictRequest
from latentsync.settings import Settings
from latentsync.ui import texts
from latentsync.ui.actions import AUTO_FACE, Actions
from latentsync.ui.player import SCRIPT

STYLE = Path(__file__).with_name("page.css").read_text("utf-8")

_LOOK_EVERY_S = 1.0
_CLEAN_EVERY_S, _UPLOADS_KEPT_S = 600, 7200  # jobs have their own copies of the files
_FORGET_KEY = (
    '<form method="post" action="page/forget"><button type="submit">Forget my key</button></form>'
)
# On a small screen the status may be far from the button that changes it.
_LOOK_AT_STATUS = """() => {
  const status = document.querySelector("#status");
  const { top, bottom } = status.getBoundingClientRect();
  if (top < 0 || bottom > window.innerHeight * 0.7) status.scrollIntoView();
}"""
_CONFIRM = """(job) =>
  job && confirm("Delete this video from the server? This cannot be undone.") ? job : null"""
# Events run concurrently, are not part of an API, and do not grey out their outputs.
_QUIET: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_limit": None,
    "show_progress": "hidden",
}


@dataclass(frozen=True)
class _Inputs:
    video: gr.Video
    audio: gr.Audio
    faces: _Faces
    engine: gr.Radio
    sync_mode: gr.Radio
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Number
    make: gr.Button


@dataclass(frozen=True)
class _Faces:
    show: gr.Button
    percent: gr.Slider
    picture: gr.Image
    choice: gr.Radio
    message: gr.HTML


@dataclass(frozen=True)
class _Outcome:
    status: gr.HTML
    cancel: gr.Button
    download: gr.Button
    delete: gr.Button
    player: gr.HTML
    curve: gr.HTML
    frame: gr.Accordion
    log: gr.HTML
    jobs: gr.Radio
    refresh: gr.Button


def theme() -> gr.themes.Base:
    """Return the theme, with system fonts only: none is loaded from another host."""
    return gr.themes.Default(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        text_size="lg",
    ).set(  # Gradio's own colours have too little contrast
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        color_accent="*primary_600",
    )


def build_page(settings: Settings, engines: EngineAvailability, *, asks_for_key: bool) -> gr.Blocks:
    """Return the page.

    Args:
        settings: its ``work_dir`` is used to analyse media.
        engines: which engines can run.
        asks_for_key: whether there is a key that the browser could forget.
    """
    with gr.Blocks(
        title="latentsync",
        analytics_enabled=False,
        delete_cache=(_CLEAN_EVERY_S, _UPLOADS_KEPT_S),
        fill_width=True,
    ) as page:
        forget = _FORGET_KEY if asks_for_key else ""
        gr.HTML(f'<div class="ls-head"><h1>New speech for a video</h1>{forget}</div>')
        with gr.Row():
            with gr.Column(min_width=320):
                inputs = _draw_inputs()
            with gr.Column(min_width=320):
                outcome = _draw_outcome()
        _wire(page, Actions(settings, engines), inputs, outcome)
    return page


def _draw_inputs() -> _Inputs:
    video = gr.Video(
        label="Video that shows a face",
        sources=["upload", "webcam"],
        webcam_options=gr.WebcamOptions(mirror=False),
        buttons=[],
        elem_id="video",
    )
    audio = gr.Audio(
        label="Speech",
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],
        elem_id="audio",
    )
    faces = _draw_faces()
    default = PredictRequest.model_fields
    with gr.Accordion("Options", open=False, elem_id="options"):
        engine = gr.Radio(
            [(texts.AUTOMATIC, texts.SERVERS_ENGINE)],  # until the page is loaded
            value=texts.SERVERS_ENGINE,
            label="Engine",
            elem_id="engine",
        )
        sync_mode = gr.Radio(
            texts.SYNC_MODES,
            value=default["sync_mode"].default.value,
            label="If the video is shorter or longer than the speech",
        )
        steps = gr.Slider(
            *(fields.INFERENCE_STEPS_MIN, fields.INFERENCE_STEPS_MAX),
            value=default["inference_steps"].default,
            step=1,
            label="Steps",
            info="LatentSync only. More steps are slower and give finer results.",
            buttons=[],
        )
        guidance = gr.Slider(
            *(fields.GUIDANCE_SCALE_MIN, fields.GUIDANCE_SCALE_MAX),
            value=default["guidance_scale"].default,
            step=0.1,
            label="Guidance",
            info="LatentSync only. Higher values follow the speech more closely, but may flicker.",
            buttons=[],
        )
        seed = gr.Number(
            value=default["seed"].default,
            precision=0,
            label="Seed",
            info="LatentSync only. The same seed gives the same video; -1 picks a random one.",
        )
    make = gr.Button("Make the video", variant="primary", size="lg", elem_id="make")
    return _Inputs(video, audio, faces, engine, sync_mode, steps, guidance, seed, make)


def _draw_faces() -> _Faces:
    with gr.Accordion("Several people? Choose the speaker", open=False, elem_id="faces"):
        percent = gr.Slider(
            0, 100, value=0, step=1, label="Position in the video, in percent", buttons=[]
        )
        show = gr.Button("Show faces", size="md")
        message = gr.HTML()
        picture = gr.Image(
            label="Click a face",
            interactive=False,
            visible=False,
            buttons=[],
            format="jpeg",
            elem_id="preview",
        )
        choice = gr.Radio([AUTO_FACE], value="auto", label="Speaker")
    return _Faces(show, percent, picture, choice, message)


def _draw_outcome() -> _Outcome:
    status = gr.HTML(
        texts.note("Choose a video and a speech recording, then press “Make the video”."),
        elem_id="status",
    )
    with gr.Row():
        cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
        download = gr.Button("Download", visible=False, elem_id="download")
        delete = gr.Button("Delete", visible=False, elem_id="delete")
    player = gr.HTML(js_on_load=SCRIPT, elem_id="player")
    curve = gr.HTML(elem_id="curve")
    with gr.Accordion("Log and timings", open=False, visible=False, elem_id="log") as frame:
        log = gr.HTML(texts.run_log([]))
    jobs = gr.Radio(
        choices=[], label="Your videos: choose one to watch, download or delete it", elem_id="jobs"
    )
    refresh = gr.Button("Refresh the list", size="md")
    return _Outcome(status, cancel, download, delete, player, curve, frame, log, jobs, refresh)


def _wire(page: gr.Blocks, actions: Actions, inputs: _Inputs, outcome: _Outcome) -> None:
    sources, ready, seen = gr.State({}), gr.State(""), gr.State("")
    timer = gr.Timer(_LOOK_EVERY_S, active=False)
    _wire_faces(actions, inputs)
    inputs.make.click(
        actions.submit,
        [
            *(inputs.video, inputs.audio, inputs.faces.choice, inputs.engine, inputs.sync_mode),
            *(inputs.steps, inputs.guidance, inputs.seed, sources),
        ],
        [outcome.status, outcome.jobs, sources],
        **{**_QUIET, "show_progress": "minimal"},
    ).then(js=_LOOK_AT_STATUS)
    watched = [
        *(outcome.status, outcome.cancel, outcome.download, outcome.delete),
        *(timer, ready, seen, outcome.jobs),
    ]
    for watch in (outcome.jobs.change, timer.tick):
        watch(actions.watch, [outcome.jobs, seen], watched, **_QUIET)
    log_stream = outcome.jobs.change(
        actions.stream_log, [outcome.jobs], [outcome.frame, outcome.log], **_QUIET
    )
    outcome.jobs.change(cancels=[log_stream])
    outcome.cancel.click(actions.cancel, [outcome.jobs], [outcome.status], **_QUIET)
    outcome.delete.click(
        actions.delete,
        [outcome.jobs],
        [outcome.status, outcome.jobs],
        js=_CONFIRM,
        trigger_mode="multiple",  # the default drops clicks while the previous one is handled
        **_QUIET,
    )
    ready.change(actions.show_result, [ready, sources], [outcome.player, outcome.curve], **_QUIET)
    page.load(actions.offer_engines, None, [inputs.engine], **_QUIET)
    for list_jobs in (page.load, outcome.refresh.click):
        list_jobs(actions.open_page, None, [outcome.status, outcome.jobs], **_QUIET)


def _wire_faces(actions: Actions, inputs: _Inputs) -> None:
    faces, preview = inputs.faces, gr.State(None)
    for look in (faces.show.click, faces.percent.release):
        look(
            actions.show_faces,
            [inputs.video, faces.percent],
            [faces.picture, faces.choice, preview, faces.message],
            **_QUIET,
        )
    faces.picture.select(actions.choose_face, [preview], [faces.choice], **_QUIET)
    inputs.video.change(
        _forget_faces,
        None,
        [faces.picture, faces.choice, preview, faces.message],
        **_QUIET,
    )


def _forget_faces() -> tuple[Any, Any, None, str]:
    """Clear the faces of the previous video."""
    return gr.Image(None, visible=False), gr.Radio(choices=[AUTO_FACE], value="auto"), None, ""
