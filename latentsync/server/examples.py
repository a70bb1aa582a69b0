"""Example requests for the OpenAPI document. Each of them runs as it stands.

Their media are embedded: one frame of a face and a second of speech. The examples of operations
about a prediction all name the same id, under which the example of ``PUT`` makes one.
"""

import base64
from functools import cache
from typing import Any

from fastapi.openapi.models import Example

from latentsync.config import find_packaged

PREDICTION_ID = "5f3a1c52-8d0e-4b7a-9a43-0c6a2f1e7d10"
UPLOADED_VIDEO = "upload://example-video"  # stands for the url that POST /v1/uploads answered
UPLOADED_AUDIO = "upload://example-audio"
RESULT_NAME = "3q2-7wZk.mp4"  # stands for the drawn name in the address of a result
ABOUT_EXAMPLE: dict[str, Example] = {
    "example": {
        "summary": "The prediction of the PUT example; 409 if another key has used the id",
        "value": PREDICTION_ID,
    }
}
ABOUT_UPLOAD: dict[str, Example] = {
    "example": {
        "summary": "The part of an upload's url after upload://",
        "value": UPLOADED_VIDEO.removeprefix("upload://"),
    }
}


@cache
def embedded_media() -> tuple[str, str]:
    """Return the video and the speech as ``data:`` URIs."""
    return (
        _data_uri("video/mp4", "assets/example_video.mp4"),
        _data_uri("audio/ogg", "assets/example_audio.ogg"),
    )


def embedded_request(**options: Any) -> dict[str, Any]:
    """Return a request with these options and embedded media."""
    video, audio = embedded_media()
    return {**options, "video_base64": video, "audio_base64": audio}


def example(summary: str, value: Any) -> dict[str, Example]:
    """Return the only example of a body, as OpenAPI examples."""
    return {"example": {"summary": summary, "value": value}}


def _data_uri(media_type: str, name: str) -> str:
    content = base64.b64encode(find_packaged(name).read_bytes()).decode("ascii")
    return f"data:{media_type};base64,{content}"
