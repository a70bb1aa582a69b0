"""The exceptions of this package, each with a stable code and an HTTP status.

    LatentSyncError
    ├── InvalidRequest 422          the request itself is wrong
    │   ├── MissingField            neither of two alternative fields was given
    │   ├── ConflictingFields       both of two alternative fields were given
    │   ├── UnknownField            a field that this contract does not have
    │   ├── InvalidField            wrong type or outside the allowed range
    │   ├── InvalidBase64           text that is not base64
    │   └── MalformedBody 400       the body is not a JSON object
    ├── FetchError 422              the media could not be fetched
    │   ├── ForbiddenAddress 403    private, link-local or otherwise not public
    │   ├── ForbiddenPath 403       outside the allowed folders
    │   ├── Unreachable             no response, or an error status
    │   ├── FetchTimeout 408        the sender was too slow
    │   └── TooManyBytes 413        more bytes than allowed
    ├── MediaError 422              the media was received but cannot be used
    │   ├── EmptyMedia              it is empty
    │   ├── UnreadableMedia         no codec here can read it
    │   ├── TruncatedMedia          its end is missing
    │   ├── NoVideo                 the video has no video stream
    │   ├── NoAudio                 the recording has no audio stream
    │   ├── AudioTooShort           the recording is shorter than the minimum
    │   ├── MediaTooLong            more seconds than allowed
    │   ├── PictureTooLarge         more pixels than allowed
    │   ├── PictureTooSmall         fewer pixels than the minimum
    │   ├── TooManyFrames           more frames, or a higher frame rate, than allowed
    │   └── NoFace                  no usable face in any frame
    ├── NotAuthorized 401           missing or wrong token
    ├── ForbiddenHost 403           a Host header that a server without a key does not accept
    ├── ForbiddenOrigin 403         a browser request from a page of another origin
    ├── UnsupportedContentType 415  a server without a key reads only bodies declared as JSON
    ├── NoSuchPath 404              there is no such path
    ├── MethodNotAllowed 405        the path does not support this method
    ├── JobNotFound 404             no such job, or it belongs to another key
    │   └── UploadNotFound          no such upload, or it belongs to another key
    ├── IdempotencyConflict 409     the id or key was used for another request
    ├── NotInQueue 400              this path cancels queued requests only
    ├── OutputNotReady 409          the job has not ended, so there is no video yet
    ├── NoOutput 409                the job failed or was canceled, so there will be no video
    ├── OutputGone 410              the job succeeded, but its video is no longer kept
    ├── LineFull 429                too much is queued, arriving or stored already
    ├── Canceled 499                the caller canceled it
    ├── DeadlineExceeded 504        the run did not finish before its deadline
    ├── WorkerLost 500              the worker process died in every allowed attempt
    ├── CodecFailed 500             FFmpeg could not encode or write the result
    ├── DiskFull 507                not enough disk space for files, jobs or weights
    ├── FolderUnusable 503          a folder that the program needs is not writable
    ├── StorageUnavailable 503      the file storage is unreachable or refuses access
    ├── RecordUnavailable 503       the jobs database is unreachable
    ├── EngineUnavailable 503       the requested engine cannot run here
    │   ├── CheckpointUnusable      a weights file is missing, damaged or not a checkpoint
    │   ├── CheckpointMismatch      a weights file belongs to another network
    │   ├── WeightsMissing          a weights file is missing and may not be downloaded
    │   ├── WeightsUnreachable      a weights file could not be downloaded
    │   └── WeightsDamaged          a weights file differs from the published one
    ├── OutOfDeviceMemory 503       the networks do not fit into device memory
    ├── NumericalFailure 500        a network produced NaN or infinite values
    ├── InternalError 500           a bug in the server; its log has the cause
    └── ServerError                 raised by the client: the server returned an error

Messages are plain sentences that name the field and the value. They never contain a server path or
a traceback.
"""

from reprlib import Repr
from typing import Any, ClassVar

_VALUE_CHARACTERS = 80  # longest excerpt of a caller's value in a message
_excerpt = Repr()  # reads only the start of a value, which may be huge or deeply nested
_excerpt.maxlevel = 4
_excerpt.maxstring = _excerpt.maxlong = _excerpt.maxother = 4 * _VALUE_CHARACTERS


def shorten(value: object, limit: int = _VALUE_CHARACTERS) -> str:
    """Return ``repr(value)`` cut to ``limit`` characters, safe to put into a message."""
    text = _excerpt.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class LatentSyncError(Exception):
    """Base class of all errors of this package.

    Args:
        message: one plain sentence for the caller.
        field: name of the request field at fault, if any.
        retry_after_s: seconds after which the same call may succeed, if known.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, Any]:
        """Return the common error body: status_code, code, message, field."""
        return {
            "status_code": self.status,
            "code": self.code,
            "message": self.message,
            "field": self.field,
        }


class InvalidRequest(LatentSyncError):
    code = "INVALID_REQUEST"
    status = 422


class MissingField(InvalidRequest):
    code = "FIELD_MISSING"


class ConflictingFields(InvalidRequest):
    code = "FIELD_CONFLICT"


class UnknownField(InvalidRequest):
    code = "FIELD_UNKNOWN"


class InvalidField(InvalidRequest):
    code = "FIELD_INVALID"


class InvalidBase64(InvalidRequest):
    code = "BASE64_INVALID"


class MalformedBody(InvalidRequest):
    code = "BODY_MALFORMED"
    status = 400


class FetchError(LatentSyncError):
    code = "FETCH_FAILED"
    status = 422


class ForbiddenAddress(FetchError):
    code = "ADDRESS_FORBIDDEN"
    status = 403


class ForbiddenPath(FetchError):
    code = "PATH_FORBIDDEN"
    status = 403


class Unreachable(FetchError):
    code = "URL_UNREACHABLE"


class FetchTimeout(FetchError):
    code = "FETCH_TIMEOUT"
    status = 408


class TooManyBytes(FetchError):
    code = "TOO_MANY_BYTES"
    status = 413


class MediaError(LatentSyncError):
    code = "MEDIA_INVALID"
    status = 422


class EmptyMedia(MediaError):
    code = "MEDIA_EMPTY"


class UnreadableMedia(MediaError):
    code = "MEDIA_UNREADABLE"


class TruncatedMedia(MediaError):
    code = "MEDIA_TRUNCATED"


class NoVideo(MediaError):
    code = "NO_VIDEO"


class NoAudio(MediaError):
    code = "NO_AUDIO"


class AudioTooShort(MediaError):
    code = "AUDIO_TOO_SHORT"


class MediaTooLong(MediaError):
    code = "MEDIA_TOO_LONG"


class PictureTooLarge(MediaError):
    code = "PICTURE_TOO_LARGE"


class PictureTooSmall(MediaError):
    code = "PICTURE_TOO_SMALL"


class TooManyFrames(MediaError):
    code = "TOO_MANY_FRAMES"


class NoFace(MediaError):
    code = "NO_FACE"


class NotAuthorized(LatentSyncError):
    code = "NOT_AUTHORIZED"
    status = 401


class ForbiddenHost(LatentSyncError):
    code = "HOST_FORBIDDEN"
    status = 403


class ForbiddenOrigin(LatentSyncError):
    code = "ORIGIN_FORBIDDEN"
    status = 403


class UnsupportedContentType(LatentSyncError):
    code = "CONTENT_TYPE_UNSUPPORTED"
    status = 415


class NoSuchPath(LatentSyncError):
    code = "NOT_FOUND"
    status = 404


class MethodNotAllowed(LatentSyncError):
    code = "METHOD_NOT_ALLOWED"
    status = 405


class JobNotFound(LatentSyncError):
    code = "JOB_NOT_FOUND"
    status = 404


class UploadNotFound(JobNotFound):
    code = "UPLOAD_NOT_FOUND"


class IdempotencyConflict(LatentSyncError):
    code = "IDEMPOTENCY_CONFLICT"
    status = 409


class NotInQueue(LatentSyncError):
    code = "NOT_IN_QUEUE"
    status = 400


class OutputNotReady(LatentSyncError):
    code = "OUTPUT_NOT_READY"
    status = 409


class NoOutput(LatentSyncError):
    code = "NO_OUTPUT"
    status = 409


class OutputGone(LatentSyncError):
    code = "OUTPUT_GONE"
    status = 410


class LineFull(LatentSyncError):
    code = "LINE_FULL"
    status = 429


class Canceled(LatentSyncError):
    code = "CANCELED"
    status = 499


class DeadlineExceeded(LatentSyncError):
    code = "DEADLINE_EXCEEDED"
    status = 504


class WorkerLost(LatentSyncError):
    code = "WORKER_LOST"
    status = 500


class CodecFailed(LatentSyncError):
    code = "CODEC_FAILED"
    status = 500


class DiskFull(LatentSyncError):
    code = "DISK_FULL"
    status = 507


class FolderUnusable(LatentSyncError):
    code = "FOLDER_UNUSABLE"
    status = 503


class StorageUnavailable(LatentSyncError):
    code = "STORAGE_UNAVAILABLE"
    status = 503


class RecordUnavailable(LatentSyncError):
    code = "RECORD_UNAVAILABLE"
    status = 503


class EngineUnavailable(LatentSyncError):
    code = "ENGINE_UNAVAILABLE"
    status = 503


class CheckpointUnusable(EngineUnavailable):
    code = "CHECKPOINT_UNUSABLE"


class CheckpointMismatch(EngineUnavailable):
    code = "CHECKPOINT_MISMATCH"


class WeightsMissing(EngineUnavailable):
    code = "WEIGHTS_MISSING"


class WeightsUnreachable(EngineUnavailable):
    code = "WEIGHTS_UNREACHABLE"


class WeightsDamaged(EngineUnavailable):
    code = "WEIGHTS_DAMAGED"


class OutOfDeviceMemory(LatentSyncError):
    code = "OUT_OF_DEVICE_MEMORY"
    status = 503


class NumericalFailure(LatentSyncError):
    code = "NUMERICAL_FAILURE"
    status = 500


class InternalError(LatentSyncError):
    code = "INTERNAL_ERROR"
    status = 500


class ServerError(LatentSyncError):
    """Raised by the client when a server returns an error; carries the server's code.

    Args:
        message: the server's sentence.
        server_status: HTTP status of the response.
        server_code: the stable code in the response, or ``"UNKNOWN"`` if it has none.
        field: request field at fault, if the response names one.
        retry_after_s: value of the Retry-After header in seconds, if present.
    """

    code = "SERVER_ERROR"
    status = 502

    def __init__(
        self,
        message: str,
        *,
        server_status: int,
        server_code: str,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, field=field, retry_after_s=retry_after_s)
        self.server_status = server_status
        self.server_code = server_code


def every_error() -> dict[str, type[LatentSyncError]]:
    """Return the error classes by code, in the order of this module.

    ServerError is left out: only clients raise it.
    """
    own = [kind for kind in globals().values() if isinstance(kind, type)]
    kinds = [kind for kind in own if issubclass(kind, LatentSyncError) and kind is not ServerError]
    # The base class shares the code of InternalError, which comes later and overrides it.
    return {kind.code: kind for kind in kinds}


def error_from_code(code: str, message: str, field: str | None = None) -> LatentSyncError:
    """Return the error with this code; an unknown code gives InternalError."""
    return every_error().get(code, InternalError)(message, field=field)
