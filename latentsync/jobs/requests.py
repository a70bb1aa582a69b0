"""A run's request as plain JSON in the record, and back.

Addresses are recorded as they are. Everything else was stored in the file store before.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentsync.errors import InternalError
from latentsync.schema import (
    MediaSource,
    PathSource,
    RunOptions,
    RunRequest,
    SpeakerBox,
    SpeakerPoint,
    SyncMode,
    UrlSource,
)


def record_options(options: RunOptions) -> dict[str, Any]:
    """Return a run's options as plain JSON."""
    speaker = options.speaker
    plain = speaker if isinstance(speaker, str) else speaker.model_dump(mode="json")
    return {**asdict(options), "speaker": plain, "sync_mode": options.sync_mode.value}


def recall_options(recorded: dict[str, Any]) -> RunOptions:
    """Return the options that :func:`record_options` was given."""
    speaker = recorded["speaker"]
    if isinstance(speaker, dict):
        kind = SpeakerPoint if "point" in speaker else SpeakerBox
        # From JSON: numbers may have lost their decimal point, lists stand for tuples.
        speaker = kind.model_validate(speaker)
    return RunOptions(
        **{
            **recorded,
            "speaker": speaker,
            "sync_mode": SyncMode(recorded["sync_mode"]),
            "guidance_interval": tuple(recorded["guidance_interval"]),
        }
    )


def record_source(source: MediaSource, stored_key: str | None) -> dict[str, str]:
    """Return a medium as plain JSON: its address, or the key under which it was stored."""
    if isinstance(source, UrlSource):
        return {"url": source.url, "name": source.name}
    if stored_key is None:
        raise InternalError(f"{source.name} was not stored before its job was recorded.")
    return {"key": stored_key, "name": source.name}


def recall_source(recorded: dict[str, str], stored: Path | None) -> MediaSource:
    """Return the medium; ``stored`` is where the stored file lies now."""
    if "url" in recorded:
        return UrlSource(recorded["url"], name=recorded["name"])
    if stored is None:
        raise InternalError(f"{recorded['name']} has no file.")
    return PathSource(stored, name=recorded["name"])


def recall_request(recorded: dict[str, Any], video: Path | None, audio: Path | None) -> RunRequest:
    """Return the request of a recorded job.

    Args:
        recorded: ``{"video": …, "audio": …, "options": …}``.
        video: where the stored video lies, if it was stored.
        audio: likewise.
    """
    return RunRequest(
        recall_source(recorded["video"], video),
        recall_source(recorded["audio"], audio),
        recall_options(recorded["options"]),
    )


def stored_keys(recorded: dict[str, Any]) -> list[str]:
    """Return where a recorded request's media lie in the file store."""
    media = (recorded["video"], recorded["audio"])
    return [medium["key"] for medium in media if "key" in medium]
