"""CPU cost of finding faces, on one thread: python benchmarks/face.py [frames]

Prints medians of process time in milliseconds, and each as a ratio to one pass of the mesh
network, which does not depend on the speed of the machine.
"""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np

from latentsync.face.blazeface import FaceDetector
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.smoothing import smooth_track
from latentsync.face.tracker import FaceTracker
from latentsync.formats import Frame

CLIP = Path(__file__).parents[1] / "assets" / "demo_video.mp4"  # 512x512
REPEATS = 15


def read_frames(count: int) -> Iterator[Frame]:
    with av.open(str(CLIP)) as container:
        for frame in islice(container.decode(video=0), count):
            yield frame.to_ndarray(format="rgb24")


def cpu_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * median(times)


def track(frames: list[Frame]) -> tuple[FaceTracker, list[float]]:
    tracker = FaceTracker()
    return tracker, [cpu_ms(lambda f=frame: tracker.add(f), repeats=1) for frame in frames]


def main(count: int) -> None:
    frames = list(read_frames(count))
    frame, large = frames[0], np.asarray(cv2.resize(frames[0], (1280, 720)), np.uint8)
    detector, mesh = FaceDetector(), FaceMesh()
    region = FaceRegion.from_detection(detector.detect(frame)[0])
    tracker, per_frame = track(frames)
    (face,) = tracker.tracks()
    rows = {
        "mesh": cpu_ms(lambda: mesh.landmarks(frame, region)),
        "detect 512x512": cpu_ms(lambda: detector.detect(frame)),
        "search 512x512": cpu_ms(lambda: detector.search(frame)),
        "detect 1280x720": cpu_ms(lambda: detector.detect(large)),
        "search 1280x720": cpu_ms(lambda: detector.search(large), repeats=5),
        "track, median frame": median(per_frame),
        "track, mean frame": sum(per_frame) / len(per_frame),
        "smooth, per frame": cpu_ms(lambda: smooth_track(face), repeats=3) / len(frames),
    }
    for name, cost_ms in rows.items():
        sys.stdout.write(f"{name:22}{cost_ms:8.2f} ms {cost_ms / rows['mesh']:8.2f} x mesh\n")
    sys.stdout.write(f"face found in {face.frames_present} of {len(frames)} frames\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
