"""The decorator that makes a cloud platform's entry function answer like every other door.

A platform calls a plain function and sends back what it returns. The decorated function only says
how the platform's arguments become one validated request; the decorator runs it, times it, logs it
and answers errors in the platform's form::

    @cloud_door(run)
    def predict(video_url=None, ..., run_id=None):
        return parse_request({"video_url": video_url, ...})

Later platforms pass their own ``failure`` form; nothing here knows which platform it serves.
"""

import base64
import functools
import inspect
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from latentsync import runner
from latentsync.errors import LatentSyncError
from latentsync.pipelines.registry import PipelineCache
from latentsync.public_errors import to_public_error
from latentsync.schema.predict import unknown_field
from latentsync.schema.responses import PredictResult
from latentsync.schema.run import RunRequest
from latentsync.settings import Settings
from latentsync.workspace import working_folder

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Request = TypeVar("Request")
Answer = TypeVar("Answer")
Failure = Callable[[LatentSyncError, str], Any]

_SLICE_BYTES = 3 * 256 * 1024  # a multiple of 3, so that slices of base64 join without padding


def error_with_status(error: LatentSyncError, run_id: str) -> dict[str, Any]:
    """Return the error as an object whose ``status_code`` becomes the HTTP status (Cerebrium)."""
    return {**error.to_dict(), "run_id": run_id}


def serverless_handler(
    run: Callable[[Request], Answer], *, failure: Failure = error_with_status
) -> Callable[[Callable[P, Request]], Callable[P, Answer | Any]]:
    """Build the decorator for a platform's entry function.

    The platform sees the function's own name and signature. A parameter called ``run_id``, if the
    function has one, carries the platform's reference; without one a reference is drawn.

    Args:
        run: makes the platform's answer out of the validated request.
        failure: the platform's form of an error; gets the error and the run's reference.
    """

    def decorate(parse: Callable[P, Request]) -> Callable[P, Answer | Any]:
        signature = inspect.signature(parse)

        @functools.wraps(parse)
        def door(*args: P.args, **kwargs: P.kwargs) -> Answer | Any:
            started = time.perf_counter()
            run_id = _run_id(signature, *args, **kwargs)
            code = "OK"
            try:
                _refuse_unknown_names(signature, kwargs)
                return run(parse(*args, **kwargs))
            except Exception as error:
                own = to_public_error(error, run_id)
                code = own.code
                return failure(own, run_id)
            finally:
                seconds = time.perf_counter() - started
                logger.info("%s %s: %s in %.2f s", parse.__name__, run_id, code, seconds)

        return door

    return decorate


def run_inline(
    request: RunRequest, *, settings: Settings, engines: PipelineCache
) -> dict[str, Any]:
    """Run one request and return contract A's inner ``result`` object, the video as base64.

    Raises:
        LatentSyncError: as :func:`latentsync.runner.run` does.
    """
    with working_folder(settings.work_dir) as folder:
        output_path = folder / "result.mp4"
        pipeline = engines.get(request.options.engine)
        result = runner.run(request, output_path, settings=settings, pipeline=pipeline)
        video_base64 = _read_base64(result.video_path)
    answer = PredictResult(video_base64=video_base64, details=result.details)
    return answer.model_dump(mode="json")


def _read_base64(path: Path) -> str:
    with path.open("rb") as file:
        slices = iter(lambda: file.read(_SLICE_BYTES), b"")
        return "".join(base64.b64encode(part).decode("ascii") for part in slices)


def _run_id(signature: inspect.Signature, *args: object, **kwargs: object) -> str:
    known = {name: value for name, value in kwargs.items() if name in signature.parameters}
    given = signature.bind_partial(*args, **known).arguments.get("run_id")
    return str(given) if given else str(uuid.uuid4())


def _refuse_unknown_names(signature: inspect.Signature, kwargs: dict[str, Any]) -> None:
    """Answer a JSON key that is no parameter like every door does, not with a TypeError.

    Platforms map the keys of a JSON object to keyword arguments, so a misspelt field arrives here.
    """
    for name in kwargs:
        if name not in signature.parameters:
            raise unknown_field(name, (key for key in signature.parameters if key != "run_id"))
