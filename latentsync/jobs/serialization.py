"""Requests as JSON in the database, and back.

URLs are stored as they are, other media as their key in the file store and the result of their
probe.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentsync.errors import InternalError
from latentsync.media.probe import Probes, load_audio_info, load_video_info
from latentsync.schema import run
from latentsync.schema.engines import NAMES, unknown_engine
from latentsync.settings import Settings

logger = logging.getLogger(__name__)

_SEGMENT = TypeAdapter(run.Segment)


def dump_options(options: run.RunOptions) -> dict[str, Any]:
    """Return a run's options as plain JSON."""
    recorded = options.model_dump(mode="json")
    if not options.sync_mode_given:  # the default; left out otherwise, as older workers need it
        recorded["sync_mode_given"] = False
    return recorded


def load_options(recorded: dict[str, Any]) -> run.RunOptions:
    """Return the options that :func:`dump_options` was given.

    Raises:
        EngineUnavailable: they name an engine that this version does not have.
    """
    given = dict(recorded)
    if not given.pop("sync_mode_given", True):
        del given["sync_mode"]
    if (engine := given.get("engine")) is not None and engine not in NAMES:
        raise unknown_engine(engine)
    return run.RunOptions.model_validate(given)


def dump_source(
    source: run.MediaSource, stored_key: str | None, info: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a medium as plain JSON: its URL, or its key in the file store.

    Args:
        source: the medium.
        stored_key: None for a URL, which the worker fetches.
        info: the probe, from :func:`latentsync.media.probe.dump_info`.
    """
    if stored_key is not None:
        recorded = {"key": stored_key, "name": source.name}
        return recorded if info is None else {**recorded, "probe": info}
    if isinstance(source, run.UrlSource):
        return {"url": source.url, "name": source.name}
    raise InternalError(f"{source.name} was not stored before its job was recorded.")


def load_source(recorded: dict[str, Any], stored: Path | None) -> run.MediaSource:
    """Return the medium; ``stored`` is the path of its file on this machine."""
    if "url" in recorded:
        return run.UrlSource(recorded["url"], name=recorded["name"])
    if stored is None:
        raise InternalError(f"{recorded['name']} has no file.")
    return run.PathSource(stored, name=recorded["name"])


def dump_request(request: run.RunRequest, media: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a request as plain JSON.

    Args:
        request: the request.
        media: its media from :func:`dump_source`, by name.
    """
    return {
        **media,
        "options": dump_options(request.options),
        "segments": [
            _SEGMENT.dump_python(segment, mode="json", exclude={"audio"})
            for segment in request.segments
        ],
    }


def load_request(recorded: dict[str, Any], stored: Mapping[str, Path]) -> run.RunRequest:
    """Return the request that :func:`dump_request` was given.

    Args:
        recorded: the plain JSON.
        stored: paths of the stored media on this machine, by name.
    """
    sources = {
        name: load_source(source, stored.get(name)) for name, source in _media(recorded).items()
    }
    return run.RunRequest(
        sources["video"],
        sources.get("audio"),
        load_options(recorded["options"]),
        tuple(
            _SEGMENT.validate_python(
                {**segment, "audio": sources.get(run.segment_recording(index))}
            )
            for index, segment in enumerate(recorded.get("segments", ()))
        ),
    )


def load_probes(recorded: dict[str, Any], settings: Settings) -> Probes:
    """Return the probes of a job's media that were made when it was submitted.

    There are none for URLs, nor for jobs of other versions.

    Raises:
        MediaError: a medium exceeds a limit of ``settings``, those of this process.
    """
    video, recordings = None, {}
    probed = {name: one["probe"] for name, one in _media(recorded).items() if "probe" in one}
    for name, dumped in probed.items():
        try:
            if name == "video":
                video = load_video_info(dumped, settings)
            else:
                recordings[name] = load_audio_info(dumped, settings)
        except ValidationError:
            logger.info("the stored probe of %s is of another version: probing again", name)
    return Probes(video, recordings)


def stored_keys(recorded: dict[str, Any]) -> list[str]:
    """Return the keys of a recorded request's media in the file store."""
    return list(stored_media(recorded).values())


def stored_folders(recorded: dict[str, Any]) -> set[str]:
    """Return the folders in the file store that hold a recorded request's media."""
    return {key.rsplit("/", 1)[0] for key in stored_keys(recorded)}


def stored_media(recorded: dict[str, Any]) -> dict[str, str]:
    """Return the keys of a recorded request's media in the file store, by name."""
    media = _media(recorded).items()
    return {name: source["key"] for name, source in media if "key" in source}


def _media(recorded: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: part for name, part in recorded.items() if name not in ("options", "segments")}
