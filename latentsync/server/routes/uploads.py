"""``POST /v1/uploads``: a body streamed to the disk, limited in size and time."""

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from latentsync.errors import Canceled, EmptyMedia, MalformedBody, TooManyBytes
from latentsync.jobs.schemas import Upload
from latentsync.jobs.service import JobService
from latentsync.jobs.uploads import UPLOAD_SCHEME
from latentsync.server.middleware import declared_bytes
from latentsync.server.request_body import asking_for_room
from latentsync.settings import Settings
from latentsync.workspace import translate_disk_full, working_folder

UPLOADS_PATH = "/v1/uploads"
_WRITE_BYTES = 1024 * 1024  # collected before a thread is asked to write them


async def receive_upload(
    request: Request, jobs: JobService, settings: Settings, owner: str
) -> Upload:
    """Store the request's body as a file of its owner.

    Raises:
        TooManyBytes: it is larger than a medium may be.
        FetchTimeout: it takes too long.
        EmptyMedia: it is empty.
        MalformedBody: it is a form.
        LineFull: its owner has as many bytes stored as allowed.
        DiskFull: there is no room for it.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise MalformedBody("Send the file itself as the body, not a form.")
    expected_bytes = min(declared_bytes(request.scope), settings.max_media_bytes)
    await run_in_threadpool(jobs.uploads.require_room, owner, expected_bytes)
    with working_folder(jobs.reserve.receiving_dir) as folder, translate_disk_full():
        path = folder / "upload"
        bounded = asking_for_room(request, jobs.reserve.require_for_body, settings.max_media_bytes)
        size_bytes = await _receive(bounded, path, settings.max_media_bytes)
        if size_bytes == 0:
            raise EmptyMedia("The upload is empty.")
        url = await run_in_threadpool(jobs.store_upload, path, owner, move=True)
    return Upload(id=url.removeprefix(UPLOAD_SCHEME), url=url, size_bytes=size_bytes)


async def _receive(request: Request, path: Path, max_bytes: int) -> int:
    size_bytes = 0
    collected = bytearray()
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                size_bytes += len(part)
                if size_bytes > max_bytes:
                    raise TooManyBytes(f"The upload is larger than {max_bytes} bytes.")
                collected += part
                if len(collected) >= _WRITE_BYTES:
                    await run_in_threadpool(file.write, bytes(collected))
                    collected.clear()
            await run_in_threadpool(file.write, bytes(collected))
    except ClientDisconnect:
        raise Canceled("The client disconnected while sending the body.") from None
    return size_bytes
