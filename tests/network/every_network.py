"""Runs every network once, then rests: ``python -m tests.network.every_network FOLDER SECONDS``.

The embedded ones and the acoustic model as the draft engine uses them; those that are downloaded as
small stand-ins, through the loaders of production, with torch and diffusers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from latentsync.face.blazeface import FaceDetector
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.scrfd import ScrfdDetector
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS
from latentsync.monitor import RunMonitor
from latentsync.pipelines.draft.phones import PhoneRecognizer, detect_voice, measure_loudness_db
from latentsync.schema.run import RunOptions
from tests.demo_media import FramesInMemory, demo_frames, demo_speech
from tests.golden_files import GOLDEN
from tests.pipelines.tiny_lipsync import build_tiny_lipsync
from tests.utterances import whole

_FRAMES = 8


def main(folder: Path, rest_s: float) -> None:
    """Run them."""
    frame = demo_frames()[0]
    (face,) = FaceDetector().detect(frame)
    FaceMesh().landmarks(frame, FaceRegion.from_detection(face))
    ScrfdDetector.from_file(GOLDEN / "detector/det_standin.onnx").detect(frame)
    landmarks = Landmarks106.from_file(GOLDEN / "detector/landmark_standin.onnx")
    landmarks.landmarks([frame], np.array([face.box], np.float32))
    speech = demo_speech()
    voiced = detect_voice(speech, measure_loudness_db(speech))
    PhoneRecognizer().recognize(speech, voiced)
    _run_lipsync(folder)
    time.sleep(rest_s)


def _run_lipsync(folder: Path) -> None:
    generation = build_tiny_lipsync(folder)(
        FramesInMemory(list(demo_frames()[:_FRAMES])),
        whole(demo_speech()[: _FRAMES * SAMPLE_RATE // VIDEO_FPS], _FRAMES),
        frame_indices=np.arange(_FRAMES),
        options=RunOptions(inference_steps=1),
        monitor=RunMonitor(),
    )
    for _ in generation.frames:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
