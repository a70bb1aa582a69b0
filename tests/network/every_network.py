"""Runs every network once as the engines do, then rests: ``… FOLDER SECONDS``.

The embedded ones and the acoustic model by themselves, the downloaded ones as tiny stand-ins
through the loaders of production, with torch and diffusers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from latentsync.audio.phones import PhoneRecognizer
from latentsync.face.detector import FaceDetector
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.scrfd import ScrfdDetector
from tests.demo_media import demo_frames, demo_speech
from tests.golden_files import GOLDEN
from tests.lipsync.tiny import tiny_networks


def main(folder: Path, rest_s: float) -> None:
    """Run them."""
    frame = demo_frames()[0]
    (face,) = FaceDetector().detect(frame)
    FaceMesh().landmarks(frame, FaceRegion.from_detection(face))
    ScrfdDetector.from_file(GOLDEN / "detector/det_standin.onnx").detect(frame)
    landmarks = Landmarks106.from_file(GOLDEN / "detector/landmark_standin.onnx")
    landmarks.landmarks([frame], np.array([face.box], np.float32))
    PhoneRecognizer().recognize(demo_speech())
    tiny_networks(folder)
    sys.stdout.write("all ran\n")
    sys.stdout.flush()
    time.sleep(rest_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
