"""Limits of media, each with its own error."""

from latentsync import errors
from latentsync.formats import ROUNDING
from latentsync.media.channels import MOST_CHANNELS
from latentsync.settings import Settings

_SAMPLE_RATES = (1_000, 768_000)  # Hz; rates outside this are damaged headers
_ROUNDED_RATE = 1.01  # a rate measured on rounded timestamps may be this much too high


def check_audio_length(duration_s: float, settings: Settings, field: str) -> None:
    """Raise AudioTooShort or MediaTooLong if the sound's length is outside the limits."""
    if duration_s < settings.min_audio_s - ROUNDING:
        raise errors.AudioTooShort(
            f"{field} lasts {duration_s * 1000:.0f} ms; at least "
            f"{settings.min_audio_s * 1000:.0f} ms of sound are needed.",
            field=field,
        )
    check_length(duration_s, settings.max_duration_s, field)


def check_length(duration_s: float, max_duration_s: float, field: str) -> None:
    """Raise MediaTooLong if a video or recording lasts longer than allowed."""
    if duration_s > max_duration_s + ROUNDING:
        raise errors.MediaTooLong(
            f"{field} lasts longer than {max_duration_s:g} s, the longest allowed.",
            field=field,
        )


def check_sample_rate(sample_rate: int, field: str) -> None:
    """Raise UnreadableMedia if a sample rate (Hz) is implausible."""
    low, high = _SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise errors.UnreadableMedia(
            f"{field} claims {sample_rate} samples per second (allowed: {low} to {high}).",
            field=field,
        )


def check_channels(num_channels: int, field: str) -> None:
    """Raise UnreadableMedia if a recording has more channels than can be converted."""
    if num_channels > MOST_CHANNELS:
        raise errors.UnreadableMedia(
            f"{field} has {num_channels} channels (allowed: {MOST_CHANNELS}).", field=field
        )


def check_picture(width: int, height: int, settings: Settings, field: str) -> None:
    """Raise PictureTooLarge or PictureTooSmall if a size in pixels is outside the limits."""
    if not width or not height:  # decoders return no size for pictures beyond their limit
        raise errors.PictureTooLarge(
            f"{field} has pictures of no stated size, or beyond the "
            f"{settings.max_pixels} pixels allowed.",
            field=field,
        )
    if width * height > settings.max_pixels:
        raise errors.PictureTooLarge(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.max_pixels} pixels in all).",
            field=field,
        )
    if min(width, height) < settings.min_side:
        raise errors.PictureTooSmall(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.min_side} or more on each side).",
            field=field,
        )


def check_frame_rate(fps: float, settings: Settings, field: str) -> None:
    """Raise TooManyFrames if there are more frames per second than allowed."""
    if fps > settings.max_fps * _ROUNDED_RATE:
        raise errors.TooManyFrames(
            f"{field} has {fps:.0f} frames per second (allowed: {settings.max_fps:g}).",
            field=field,
        )
