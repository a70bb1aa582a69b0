"""Types and ranges of the request fields."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from latentsync.schema.engines import NAMES

GUIDANCE_SCALE_MIN, GUIDANCE_SCALE_MAX = 1.0, 3.0
INFERENCE_STEPS_MIN, INFERENCE_STEPS_MAX = 1, 50
SEED_RANDOM = -1  # the server draws a seed and reports it
SEED_MAX = 2**63 - 1  # the largest seed that all random generators in use accept
CACHE_INTERVAL_MAX = 10
SEGMENTS_MAX = 100
FRAME_INDEX_MAX = 2**31 - 1  # more than any video has; avoids overflows later
SECONDS_MAX = 1e6  # likewise


class SyncMode(StrEnum):
    """What to do when video and audio have different lengths.

    - `bounce`: play the video forwards and backwards until the audio ends.
    - `loop`: repeat the video until the audio ends.
    - `cut_off`: end with the shorter of the two.
    - `silence`: end with the longer of the two; add silence or hold the last frame.
    - `remap`: change the speed of the video to the length of the audio.
    """

    BOUNCE = "bounce"
    LOOP = "loop"
    CUT_OFF = "cut_off"
    SILENCE = "silence"
    REMAP = "remap"


class StrictModel(BaseModel):
    """Base of request models: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _whole_unicode(text: str) -> str:
    """Refuse lone surrogates, which JSON allows but which cannot be encoded."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("the text is not valid Unicode") from None
    return text


def _whole_number(value: object) -> object:
    """Convert 20.0 to 20: JSON does not distinguish them, and some languages write 20.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_whole_unicode)]
Coordinate = Annotated[float, Field(strict=True, ge=0)]
# Must follow the Field in Annotated: after a validator, pydantic omits bounds from the JSON schema.
_AS_WHOLE_NUMBER = BeforeValidator(_whole_number)
WholeNumber = Annotated[int, _AS_WHOLE_NUMBER]
FrameIndex = Annotated[int, Field(strict=True, ge=0, le=FRAME_INDEX_MAX), _AS_WHOLE_NUMBER]
Seconds = Annotated[float, Field(strict=True, ge=0, le=SECONDS_MAX)]


class SpeakerPoint(StrictModel):
    """The face at `point` (x, y in pixels of the upright picture) in `frame` (25 per second)."""

    frame: FrameIndex = Field(0, description="Frame number, starting at 0.")
    point: tuple[Coordinate, Coordinate] = Field(description="x and y in pixels.")


class SpeakerBox(StrictModel):
    """The face that overlaps `box` (x1, y1, x2, y2 in pixels) most in `frame` (25 per second)."""

    frame: FrameIndex = Field(0, description="Frame number, starting at 0.")
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] = Field(
        description="Left, top, right and bottom in pixels."
    )

    @model_validator(mode="after")
    def _corners_in_order(self) -> SpeakerBox:
        x1, y1, x2, y2 = self.box
        if x2 <= x1 or y2 <= y1:
            raise ValueError("the box must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        return self


Speaker = Literal["auto"] | SpeakerPoint | SpeakerBox
if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[NAMES]  # built at runtime from the table
SchedulerName = Literal["ddim", "dpm-solver++"]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
GuidanceScale = Annotated[
    float,
    Field(
        strict=True,
        ge=GUIDANCE_SCALE_MIN,
        le=GUIDANCE_SCALE_MAX,
        description="Strength of classifier-free guidance; 1.0 turns it off. Ignored by the "
        "draft engine.",
    ),
]
InferenceSteps = Annotated[
    int,
    Field(
        strict=True,
        ge=INFERENCE_STEPS_MIN,
        le=INFERENCE_STEPS_MAX,
        description="Number of denoising steps. Ignored by the draft engine.",
    ),
    _AS_WHOLE_NUMBER,
]
Seed = Annotated[
    int,
    Field(
        strict=True,
        ge=SEED_RANDOM,
        le=SEED_MAX,
        description="Seed of the random numbers. -1 for a random seed, reported in `details.seed`.",
    ),
    _AS_WHOLE_NUMBER,
]
