"""Entry points for serverless platforms, which call a function and return its value.

The decorated function only turns the platform's arguments into a validated request; the decorator
runs it, logs its duration and returns errors in the platform's form::

    @serverless_handler(run)
    def predict(video_url=None, ..., run_id=None):
        return parse_request({"video_url": video_url, ...})

Platforms with another error format pass their own ``failure``.
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

_CHUNK_BYTES = 3 * 256 * 1024  # a multiple of 3: base64 chunks join without padding


def error_with_status(error: LatentSyncError, run_id: str) -> dict[str, Any]:
    """Return the error as a dict; Cerebrium uses ``status_code`` as HTTP status."""
    return {**error.to_dict(), "run_id": run_id}


def serverless_handler(
    run: Callable[[Request], Answer], *, failure: Failure = error_with_status
) -> Callable[[Callable[P, Request]], Callable[P, Answer | Any]]:
    """Return a decorator for a platform's entry function.

    The name and signature of the function are kept. Its parameter ``run_id``, if any, is the
    platform's reference of the run; otherwise one is generated.

    Args:
        run: turns the validated request into the return value.
        failure: formats an error; called with the error and the run id.
    """

    def decorate(parse: Callable[P, Request]) -> Callable[P, Answer | Any]:
        signature = inspect.signature(parse)

        @functools.wraps(parse)
        def handler(*args: P.args, **kwargs: P.kwargs) -> Answer | Any:
            started = time.perf_counter()
            run_id = _run_id(signature, *args, **kwargs)
            code = "OK"
            try:
                _refuse_unknown_names(signature, kwargs)
                return run(parse(*args, **kwargs))
            except Exception as error:
                public_error = to_public_error(error, run_id)
                code = public_error.code
                return failure(public_error, run_id)
            finally:
                seconds = time.perf_counter() - started
                logger.info("%s %s: %s in %.2f s", parse.__name__, run_id, code, seconds)

        return handler

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
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        return "".join(base64.b64encode(part).decode("ascii") for part in chunks)


def _run_id(signature: inspect.Signature, *args: object, **kwargs: object) -> str:
    known = {name: value for name, value in kwargs.items() if name in signature.parameters}
    given = signature.bind_partial(*args, **known).arguments.get("run_id")
    return str(given) if given else str(uuid.uuid4())


def _refuse_unknown_names(signature: inspect.Signature, kwargs: dict[str, Any]) -> None:
    """Raise UnknownField for unknown keyword arguments, instead of a TypeError.

    Platforms map the keys of a JSON object to keyword arguments.
    """
    for name in kwargs:
        if name not in signature.parameters:
            raise unknown_field(name, (key for key in signature.parameters if key != "run_id"))
