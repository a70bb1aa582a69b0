"""The event handlers of the page: clicks, changes and the timer."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from latentsync.client import AsyncClient, Job
from latentsync.errors import LatentSyncError, ServerError
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.schema.fields import SyncMode
from latentsync.settings import Settings
from latentsync.ui import texts
from latentsync.ui.analysis import FacePreview, measure_curves, preview_faces
from latentsync.ui.player import build_player, draw_curves
from latentsync.ui.session import client_of, zone_of
from latentsync.workspace import working_folder

NO_ENGINE = "No engine can run on this server at the moment. Contact its administrator."
AUTO_FACE = ("Automatic: the largest and steadiest face", "auto")
_JOBS_SHOWN = 50
_DELETED = "Deleted from the server."
_BEING_DELETED = "Deleted. The server removes the remaining files as soon as it can."

# Source path and sync mode of each job that was submitted from this page, by job id.
Sources = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Actions:
    """The page's event handlers; each returns new values for the components that ``page.py`` lists.

    Attributes:
        settings: its ``work_dir`` is used to analyse media.
        engines: which engines can run.
    """

    settings: Settings
    engines: EngineAvailability

    async def submit(
        self,
        video: str | None,
        audio: str | None,
        face: str,
        engine: str | None,
        sync_mode: str,
        steps: float,
        guidance: float,
        seed: float,
        sources: Sources,
        request: gr.Request,
    ) -> tuple[Any, Any, Sources]:
        """Submit a job; return status, list of jobs, sources."""
        if not video or not audio:
            missing = "the speech" if video else "a video"
            return texts.hint(f"Choose or record {missing} first."), gr.skip(), sources
        if engine is None:
            return texts.hint(f"{NO_ENGINE} Reload the page later."), gr.skip(), sources
        try:
            async with client_of(request) as client:
                job = await client.submit(
                    Path(video),
                    Path(audio),
                    speaker=json.loads(face) if face != "auto" else "auto",
                    engine=None if engine == texts.SERVERS_ENGINE else engine,
                    sync_mode=sync_mode,
                    inference_steps=round(steps),
                    guidance_scale=float(guidance),
                    seed=round(seed),
                )
                jobs = await _list(client, job.id, zone_of(request.request))
        except LatentSyncError as error:
            return texts.alert_of(error), gr.skip(), sources
        return texts.describe(job), jobs, {**sources, job.id: (video, sync_mode)}

    async def watch(
        self, job_id: str | None, seen: str, request: gr.Request
    ) -> tuple[Any, Any, Any, Any, Any, str, str, Any]:
        """Poll the chosen job.

        Returns:
            Status, cancel button, download button, delete button, timer, id of the job if it is
            ready, its state, list of jobs.
        """
        if not job_id:
            hidden = gr.Button(visible=False)
            return gr.skip(), hidden, hidden, hidden, gr.Timer(active=False), "", "", gr.skip()
        try:
            async with client_of(request) as client:
                job = await client.get(job_id)
                changed = f"{job.id} {job.status}" != seen
                jobs = (
                    await _list(client, job.id, zone_of(request.request)) if changed else gr.skip()
                )
        except LatentSyncError as error:
            status = error.server_status if isinstance(error, ServerError) else 500
            # It may have been deleted while this call was on its way.
            said = texts.note(_DELETED, "status") if status == 404 else texts.alert_of(error)
            return said, *(gr.skip(),) * 3, gr.Timer(active=status >= 500), "", "", gr.skip()
        ready = job.id if job.status == "succeeded" else ""
        return (
            texts.describe(job),
            gr.Button(visible=not job.is_final),
            gr.Button(visible=bool(ready), link=video_url(ready) if ready else None),
            gr.Button(visible=True),
            gr.Timer(active=not job.is_final),
            ready,
            f"{job.id} {job.status}",
            jobs,
        )

    async def cancel(self, job_id: str | None, request: gr.Request) -> Any:
        """Cancel the chosen job; return the status."""
        if not job_id:
            return gr.skip()
        try:
            async with client_of(request) as client:
                return texts.describe(await client.cancel(job_id))
        except LatentSyncError as error:
            return texts.alert_of(error)

    async def delete(self, job_id: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Delete the chosen job; return status and list. No job: the user did not confirm."""
        if not job_id:
            return gr.skip(), gr.skip()
        try:
            async with client_of(request) as client:
                is_gone = await client.delete(job_id)
                jobs = await _list(client, None, zone_of(request.request))
        except LatentSyncError as error:
            return texts.alert_of(error), gr.skip()
        return texts.note(_DELETED if is_gone else _BEING_DELETED, "status"), jobs

    async def stream_log(
        self, job_id: str | None, request: gr.Request
    ) -> AsyncIterator[tuple[Any, str]]:
        """Yield the visibility of the log and the log of the chosen job, until the job ends."""
        lines: list[str] = []
        yield gr.Accordion(visible=bool(job_id)), texts.run_log(lines)
        if not job_id:
            return
        try:
            async with client_of(request) as client, aclosing(client.events(job_id)) as events:
                async for event in events:
                    if event.kind == "log":
                        lines.append(event.data["line"])
                        yield gr.skip(), texts.run_log(lines)
                job = await client.get(job_id)
                yield gr.skip(), texts.run_log(lines, job.details)
        except LatentSyncError as error:
            yield gr.skip(), texts.alert_of(error)

    async def open_page(self, request: gr.Request) -> tuple[Any, Any]:
        """Return status and list of jobs; a job that is not finished is chosen."""
        try:
            async with client_of(request) as client:
                return gr.skip(), await _list(client, None, zone_of(request.request))
        except LatentSyncError as error:
            return texts.alert_of(error), gr.skip()

    def offer_engines(self) -> Any:
        """Return the choice of engines: those that can run now."""
        choices = texts.engine_choices(self.engines.now())
        chosen = choices[0][1] if choices else None
        return gr.Radio(choices=choices, value=chosen, info=None if choices else NO_ENGINE)

    async def show_result(
        self, ready: str, sources: Sources, request: gr.Request
    ) -> AsyncIterator[tuple[str, str]]:
        """Yield player and curves of a finished job; the curves take a few seconds longer."""
        if not ready:
            yield "", ""
            return
        source, sync_mode = sources.get(ready, (None, SyncMode.BOUNCE))
        player = build_player(video_url(ready), source, SyncMode(sync_mode))
        yield player, texts.note("Measuring sound and mouth opening …", "status")
        try:
            with working_folder(self.settings.work_dir) as folder:
                async with client_of(request) as client:
                    video = await client.download(ready, folder / "result.mp4")
                curves = draw_curves(await measure_curves(video))
        except LatentSyncError as error:
            curves = texts.note(f"The curves could not be drawn: {error.message}")
        yield player, curves

    async def show_faces(self, video: str | None, percent: float) -> tuple[Any, Any, Any, Any]:
        """Return the picture with numbered faces, their choice, the preview and a message."""
        if not video:
            return gr.skip(), gr.skip(), None, texts.hint("Choose or record a video first.")
        try:
            with working_folder(self.settings.work_dir) as folder:
                target = folder / "preview.jpg"
                preview = await preview_faces(Path(video), percent / 100, target)
                with Image.open(target) as picture:
                    picture.load()
        except LatentSyncError as error:
            return gr.skip(), gr.skip(), None, texts.alert_of(error)
        return (
            gr.Image(picture, visible=True),
            gr.Radio(choices=[AUTO_FACE, *_face_choices(preview)], value="auto"),
            preview,
            texts.note(texts.found_faces(len(preview.faces)), "status"),
        )

    def choose_face(self, preview: FacePreview | None, click: gr.SelectData) -> Any:
        """Return the list of faces with the clicked one chosen."""
        if preview is None:
            return gr.skip()
        x, y = (value / preview.scale for value in click.index)
        number = preview.face_at(x, y)
        faces = _face_choices(preview)
        if number is not None:
            return gr.Radio(choices=[AUTO_FACE, *faces], value=faces[number][1])
        point = json.dumps({"frame": preview.frame, "point": [x, y]})
        clicked = (f"The face at the clicked point ({x:.0f}, {y:.0f})", point)
        return gr.Radio(choices=[AUTO_FACE, *faces, clicked], value=point)


def video_url(job_id: str) -> str:
    """Return the URL of a finished video, relative to the page."""
    return f"page/videos/{job_id}"


def _face_choices(preview: FacePreview) -> list[tuple[str, str]]:
    return [
        (f"Face {number}", json.dumps({"frame": preview.frame, "box": list(box)}))
        for number, box in enumerate(preview.faces, start=1)
    ]


async def _list(client: AsyncClient, chosen: str | None, zone: tzinfo) -> Any:
    """Return the list of jobs; chosen is the given one, or the latest that is not finished."""
    shown: list[Job] = list((await client.list(limit=_JOBS_SHOWN)).jobs)
    if chosen is None:
        chosen = next((job.id for job in shown if not job.is_final), None)
    elif chosen not in {job.id for job in shown}:
        shown.append(await client.get(chosen))
    info = None if shown else "No videos yet. They are listed here and kept for a limited time."
    return gr.Radio(
        choices=[(texts.label(job, zone), job.id) for job in shown], value=chosen, info=info
    )
