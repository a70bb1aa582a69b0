"""Each medium is scanned once: what was found when a job was submitted is stored with it."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.errors import MediaTooLong
from latentsync.jobs.serialization import load_probes
from latentsync.jobs.service import JobService, Submission
from latentsync.media import probe
from latentsync.media.timeline import build_timeline
from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.run import InlineSource, MediaSource, PathSource, RunRequest, UrlSource
from latentsync.settings import Settings
from latentsync.worker.runner_main import Runner
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import settings_for

OWNER = "owner"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the passes over a file's packets, by the field that brought the file."""
    counted: Counter[str] = Counter()
    for name in ("scan_video", "scan_sound"):
        scan = getattr(probe, name)

        def counting(*args: Any, scan: Any = scan) -> Any:
            counted[args[-1]] += 1
            return scan(*args)

        monkeypatch.setattr(probe, name, counting)
    return counted


@contextlib.contextmanager
def service_in(settings: Settings) -> Iterator[JobService]:
    service = JobService(settings)
    try:
        yield service
    finally:
        service.close()


def run_recorded(recorded: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Run a job as the worker's child process does; returns the details of the result."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runner = Runner(theirs, settings, PipelineCache(settings, default=SquareEngine()))
        job = {"id": "job", "request": recorded, "output_key": "results/job/video.mp4"}
        details: dict[str, Any] = runner._make(job)["details"]
    return details


def sources(folder: Path, kind: str) -> tuple[MediaSource, MediaSource]:
    files = (write_clip(folder / "face.mp4"), "video"), (write_speech(folder / "a.wav"), "audio")
    if kind == "files":
        video, audio = (PathSource(path, name) for path, name in files)
        return video, audio
    video, audio = (InlineSource(as_base64(path), name) for path, name in files)
    return video, audio


@pytest.mark.parametrize("kind", ["files", "inline", "uploads"])
def test_what_is_submitted_is_scanned_once_by_server_and_worker_together(
    tmp_path: Path, scans: Counter[str], kind: str
) -> None:
    settings = settings_for(tmp_path)
    with service_in(settings) as service:
        video, audio = sources(tmp_path, kind)
        if kind == "uploads":
            video, audio = sources(tmp_path, "files")
            assert isinstance(video, PathSource)
            assert isinstance(audio, PathSource)
            video = UrlSource(service.store_upload(video.path, OWNER), name="video")
            audio = UrlSource(service.store_upload(audio.path, OWNER), name="audio")
        [job] = service.submit([Submission(RunRequest(video, audio), "f")], OWNER)
        recorded = json.loads(json.dumps(job.request))
    assert run_recorded(recorded, settings)["frames"] == 10
    assert scans == {"video": 1, "audio": 1}


@pytest.mark.parametrize("packed", [[0, 40, 80], "AAAA", "no base64", None])
def test_a_job_of_another_version_is_scanned_by_its_worker(
    tmp_path: Path, scans: Counter[str], packed: object
) -> None:
    settings = settings_for(tmp_path)
    with service_in(settings) as service:
        video, audio = sources(tmp_path, "files")
        [job] = service.submit([Submission(RunRequest(video, audio), "f")], OWNER)
    job.request["video"]["probe"]["timeline"]["slot_pts"] = packed
    if packed is None:
        del job.request["video"]["probe"]
    job.request["audio"]["probe"] = {"duration": "of another form"}
    scans.clear()
    assert run_recorded(job.request, settings)["frames"] == 10
    assert scans == {"video": 1, "audio": 1}


def test_a_workers_own_limits_hold_for_what_a_server_has_probed(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with service_in(settings) as service:
        video, audio = sources(tmp_path, "files")
        [job] = service.submit([Submission(RunRequest(video, audio), "f")], OWNER)
    strict = settings.model_copy(update={"max_duration_s": 0.1})
    with pytest.raises(MediaTooLong):
        load_probes(job.request, strict)


def test_an_estimated_end_of_a_video_breaks_no_limit_of_a_worker(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    stamps = np.arange(0, 1000, 40)
    timeline = build_timeline(stamps, stamps[:1], 0, Fraction(1, 1000))
    assert timeline.duration_s == 1.0
    clip = write_clip(tmp_path / "face.mp4")
    found = replace(probe.probe_video(clip, settings, "video"), timeline=timeline)
    exact = settings.model_copy(update={"max_duration_s": 0.97})  # of which 0.96 s are certain
    assert probe.load_video_info(probe.dump_info(found), exact).duration_s == 1.0
    with pytest.raises(MediaTooLong):
        probe.load_video_info(
            probe.dump_info(found), settings.model_copy(update={"max_duration_s": 0.95})
        )


def test_what_a_probe_finds_survives_being_stored(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    clip = write_clip(tmp_path / "face.mp4", seconds=3.3, fps=30)
    found = probe.probe_video(clip, settings, "video")
    dumped = json.loads(json.dumps(probe.dump_info(found)))
    loaded = probe.load_video_info(dumped, settings)
    assert loaded.timeline.slot_pts.tolist() == found.timeline.slot_pts.tolist()
    assert loaded.timeline.keyframe_pts.tolist() == found.timeline.keyframe_pts.tolist()
    assert replace(loaded, timeline=found.timeline).__dict__ == found.__dict__
    assert len(json.dumps(dumped)) < 1000
