"""Implementation of the native API's routes, on top of the job service."""

import asyncio
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from latentsync import errors
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.notifier import JobNotifier, newest_event, wait_for
from latentsync.jobs.schemas import Prediction, PredictionList, PredictionPage, to_response
from latentsync.jobs.service import JobService, Submission, check_job_id
from latentsync.jobs.webhooks import find_delivery
from latentsync.schema.predict import unknown_field
from latentsync.server.request_body import UploadSlots
from latentsync.server.responses import base_url_of, path_of, stored_video
from latentsync.server.routes.events import EventStream, parse_last_event_id
from latentsync.server.routes.submissions import read_submissions
from latentsync.settings import Settings

WAIT_MAX_S = 60
_HEARTBEAT_S = 15.0
_POLL_AT_LEAST_EVERY_S = 1.0
_ERASURE_WAIT_S = 5.0  # a run stops within two seconds
_ERASURE_POLL_EVERY_S = 0.1
_CURSOR = re.compile(r"[0-9]{1,18}")
_LIST_QUERY = ("status", "limit", "cursor")
# With or without an integer value; RFC 7240 allows blanks, quotes and capitals.
_WAIT = re.compile(
    r'(?:^|[,;\s])wait(?:\s*=\s*(\d{1,6}|"\d{1,6}")|(?!\s*=))(?=$|[,;\s])', re.IGNORECASE
)


@dataclass(frozen=True)
class PredictionsApi:
    """Shared implementation of the routes.

    Attributes:
        jobs: the job service.
        notifier: notifies of changes of jobs.
        settings: limits.
        upload_slots: limits concurrent bodies.
        heartbeat_s: maximum silence of event streams.
    """

    jobs: JobService
    notifier: JobNotifier
    settings: Settings
    upload_slots: UploadSlots
    heartbeat_s: float = _HEARTBEAT_S

    def find(self, job_id: str, owner: str) -> Job:
        """Return an owner's job; raises JobNotFound, also for malformed ids."""
        try:
            return self.jobs.job(check_job_id(job_id), owner)
        except errors.InvalidField:
            raise errors.JobNotFound(f"There is no job {job_id[:80]!r}.") from None

    def base_url(self, request: Request) -> str:
        """Return the external URL of this server."""
        return base_url_of(request, self.settings.public_url)

    def show(self, job: Job, base_url: str) -> Prediction:
        """Return the response model of a job."""
        return self._to_response(job, self.jobs.store.position(job), base_url)

    async def status(self, request: Request, job_id: str, owner: str) -> Response:
        """Return the response with the state of a prediction."""
        # The most frequent request: one thread hop, and the id is not validated separately.
        base_url = self.base_url(request)
        return _json(await run_in_threadpool(self._get, job_id, owner, base_url), 200)

    def _get(self, job_id: str, owner: str, base_url: str) -> Prediction:
        return self._to_response(*self.jobs.look(job_id, owner), base_url)

    def _to_response(self, job: Job, position: int | None, base_url: str) -> Prediction:
        return to_response(job, position, base_url, find_delivery(self.jobs.store.engine, job))

    async def submit(
        self,
        request: Request,
        owner: str,
        *,
        job_id: str | None = None,
        only_lists: bool = False,
    ) -> Response:
        """Create the predictions of a request, and wait for a single one if requested.

        Args:
            request: the request, with an unread body.
            owner: the caller.
            job_id: client-chosen id of a single prediction.
            only_lists: refuse a body that is not a list.
        """
        wait_s, base_url = _wait_s(request), self.base_url(request)
        jobs, is_list = await self._admit(request, owner, job_id, only_lists)
        if is_list:
            shown = await run_in_threadpool(lambda: [self.show(job, base_url) for job in jobs])
            return _json(PredictionList(predictions=shown), 202)
        job = jobs[0] if wait_s is None else await self._wait(jobs[0], wait_s)
        headers = {"Location": f"{path_of(base_url)}/v1/predictions/{job.id}"}
        if wait_s is not None:
            headers["Preference-Applied"] = f"wait={wait_s}"
        status_code = 200 if job.status.is_final else 202
        return _json(await run_in_threadpool(self.show, job, base_url), status_code, headers)

    async def _admit(
        self, request: Request, owner: str, job_id: str | None, only_lists: bool
    ) -> tuple[list[Job], bool]:
        """Create the jobs of a body; return them and whether the body was a list."""
        with self.upload_slots.place(request, owner):
            reading = read_submissions(
                request,
                self.settings,
                self.jobs.reserve,
                job_id=job_id,
                engines=self.jobs.engines,
            )
            async with reading as (submissions, is_list):
                if only_lists and not is_list:
                    raise errors.MalformedBody(
                        'The body must be a list, or {"predictions": [...]}.'
                    )
                submissions = [_with_base_url(self.base_url(request), one) for one in submissions]
                submitting = self.jobs.begin_submit(submissions, owner)
                return await asyncio.wrap_future(submitting), is_list

    async def _wait(self, job: Job, timeout_s: int) -> Job:
        """Wait until the job has ended or the time is up, and return it."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        with self.notifier.subscribe(job.id) as changed:
            while True:
                job = await run_in_threadpool(self.jobs.job, job.id, job.owner)
                left_s = ends_at - loop.time()
                if job.status.is_final or left_s <= 0 or self.notifier.is_closed:
                    return job
                await wait_for(changed, min(left_s, _POLL_AT_LEAST_EVERY_S))

    def page(
        self,
        request: Request,
        owner: str,
        status: JobStatus | None,
        limit: int,
        cursor: str | None,
    ) -> PredictionPage:
        """Return a page of an owner's predictions.

        The cursor is the number of the last job on the page; it stays valid if the job is deleted.
        """
        _check_query(request, _LIST_QUERY)
        before = None if cursor is None else _parse_cursor(cursor)
        jobs = self.jobs.store.list_of(owner, status=status, before=before, limit=limit + 1)
        base_url = self.base_url(request)
        shown = [self.show(job, base_url) for job in jobs[:limit]]
        more = len(jobs) > limit
        next_cursor = str(jobs[limit - 1].number) if more else None
        return PredictionPage(predictions=shown, next_cursor=next_cursor)

    def output(self, request: Request, job_id: str, owner: str) -> Response:
        """Return the response with a prediction's video.

        Raises:
            JobNotFound: there is no such prediction.
            OutputNotReady: it has not ended.
            NoOutput: it failed or was canceled.
            OutputGone: its video is no longer stored.
        """
        job = self.find(job_id, owner)
        if not job.status.is_final or job.result_key is None:
            kind = errors.NoOutput if job.status.is_final else errors.OutputNotReady
            raise kind(f"The prediction is {job.status}: it has no output.", field="id")
        try:
            return stored_video(request, self.jobs.files, job.result_key, name=f"{job.id}.mp4")
        except FileNotFoundError:
            raise errors.OutputGone("The output is no longer stored.", field="id") from None

    async def erase(self, job_id: str, owner: str) -> Response:
        """Erase a prediction; return 204 once it is gone, or 202 if that takes longer."""
        number = await run_in_threadpool(self.jobs.begin_erasure, job_id, owner)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _ERASURE_WAIT_S
        while not await run_in_threadpool(self.jobs.finish_erasure, number):
            if loop.time() > ends_at or self.notifier.is_closed:
                return Response(status_code=202)
            await asyncio.sleep(_ERASURE_POLL_EVERY_S)
        return Response(status_code=204)

    def events(self, request: Request, job_id: str, owner: str) -> Response:
        """Return the event stream of a prediction, from the caller's last event."""
        job = self.find(job_id, owner)
        after = parse_last_event_id(
            request.headers.get("last-event-id"), partial(newest_event, self.jobs.store.engine)
        )
        if job.status.is_final and not self.jobs.store.events(job.id, after, limit=1):
            return Response(status_code=204)  # stops an EventSource from reconnecting
        return EventStream(self.jobs, self.notifier, job, after=after, heartbeat_s=self.heartbeat_s)


def _with_base_url(base_url: str, submission: Submission) -> Submission:
    """Add the server's URL to the webhook of a submission."""
    if submission.webhook is None:
        return submission
    return replace(submission, webhook=replace(submission.webhook, base_url=base_url))


def _check_query(request: Request, allowed: Collection[str]) -> None:
    """Check that query parameters are known and unique.

    Raises:
        UnknownField: a parameter is unknown.
        InvalidField: a parameter is given twice.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in allowed:
            raise unknown_field(name, allowed)
        if names.count(name) > 1:
            raise errors.InvalidField(f"{name} is given {names.count(name)} times.", field=name)


def _parse_cursor(cursor: str) -> int:
    if _CURSOR.fullmatch(cursor) is None:
        raise errors.InvalidField(
            f"cursor is {errors.shorten(cursor)}. Allowed: the next_cursor of an earlier page.",
            field="cursor",
        )
    return int(cursor)


def _wait_s(request: Request) -> int | None:
    """Return the seconds of ``Prefer: wait=N`` (RFC 7240), at most ``WAIT_MAX_S``.

    ``Prefer: wait`` without a number means ``WAIT_MAX_S``.
    """
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    if found is None:
        return None
    return min(int((found[1] or str(WAIT_MAX_S)).strip('"')), WAIT_MAX_S)


def _json(body: BaseModel, status_code: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        body.model_dump_json(), status_code, headers=headers, media_type="application/json"
    )
