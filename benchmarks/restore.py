"""CPU cost of cutting a face out and putting it back, on one thread: python -m benchmarks.restore

Prints medians of process time in milliseconds at 1080p. The paste-back is compared with the same
steps over the whole frame, alternately in one process: their ratio does not depend on the speed of
the machine.
"""

import math
import sys
import time
from collections.abc import Callable
from statistics import median

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from latentsync.face.geometry import Floats
from latentsync.formats import Frame
from latentsync.pipelines.lipsync.alignment import FaceAligner, Matrix, Points3, crop_size
from latentsync.pipelines.lipsync.bilinear import cut_face, invert, place_pixels, sample
from latentsync.pipelines.lipsync.paste_back import restore_face

SIZE = (1080, 1920)  # height, width
REPEATS = 15
RESOLUTIONS = (256, 512)
BROWS = (90, 130, 180)  # pixels between the brows: heads of about 210, 300 and 420 pixels


def restore_over_whole_frame(frame: Frame, face: Floats, matrix: Matrix) -> Frame:
    """Run the steps of the paste-back over all pixels."""
    width, height = crop_size(face.shape[-1])
    crop = interpolate(
        torch.from_numpy(face)[None], (height, width), mode="bicubic", antialias=True
    )[0]
    places = place_pixels(invert(matrix), (height, width), SIZE)
    values = sample(torch.cat([crop, torch.ones(1, height, width)]), places, outside=127.0)
    colors = (values[:3] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255
    coverage = _lowest(values[3].numpy(), 2, 1)
    seam = int(math.sqrt(float(coverage.sum(dtype=np.float64)))) // 20
    center = _lowest(coverage, 2 * seam, seam) if seam else _lowest(coverage, 3, 1)
    sigma = 0.3 * (seam - 1) + 0.8
    soft = _blur(center, cv2.getGaussianKernel(2 * seam + 1, sigma, cv2.CV_32F).ravel())
    shown = soft[..., None] * (coverage[..., None] * colors)
    return (shown + (1 - soft[..., None]) * frame).astype(np.uint8)


def _lowest(values: Floats, size: int, before: int) -> Floats:
    """Return the minimum over size x size, first over rows, then over columns."""
    padded = np.pad(values, (before, size - 1 - before), constant_values=np.inf)
    for axis in (0, 1):
        length = padded.shape[axis] - size + 1
        parts = [np.take(padded, range(i, i + length), axis=axis) for i in range(size)]
        padded = np.minimum.reduce(parts)
    return padded


def _blur(values: Floats, kernel: Floats) -> Floats:
    half = len(kernel) // 2
    padded = torch.from_numpy(np.pad(values, half, mode="reflect"))[None, None]
    weights = torch.from_numpy(kernel)
    tall = torch.nn.functional.conv2d(padded, weights.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(tall, weights.view(1, 1, 1, -1))[0, 0].numpy()


def cpu_ms(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def side_by_side(*works: Callable[[], object]) -> list[float]:
    """Return the median cost of each, called alternately."""
    for work in works:
        work()
    costs = [[cpu_ms(work) for work in works] for _ in range(REPEATS)]
    return [median(column) for column in zip(*costs, strict=True)]


def face_points(brows: float) -> Points3:
    """Return the points of a face in the middle of the frame, slightly tilted."""
    upright = np.array([[-0.5, 0.0], [0.5, 0.05], [0.0, 0.6]]) * brows
    return upright + (SIZE[1] / 2, SIZE[0] / 2 - 60)


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    frame = cv2.GaussianBlur(random.integers(0, 256, (*SIZE, 3), np.uint8), (0, 0), 2)
    for resolution in RESOLUTIONS:
        face = random.random((3, resolution, resolution), np.float32) * 2 - 1
        for brows in BROWS:
            matrix = FaceAligner(resolution).align(face_points(brows))
            whole, region, cut = side_by_side(
                lambda f=face, m=matrix: restore_over_whole_frame(frame, f, m),
                lambda f=face, m=matrix: restore_face(frame, f, m),
                lambda m=matrix, r=resolution: cut_face(frame, m, r),
            )
            levels = np.abs(
                restore_over_whole_frame(frame, face, matrix).astype(int)
                - restore_face(frame, face, matrix)
            )
            sys.stdout.write(
                f"{resolution} px, brows {brows:3}: cut {cut:5.1f} ms, restore {region:5.1f} ms, "
                f"over the whole frame {whole:6.1f} ms, ratio {whole / region:4.0f}; "
                f"{(levels > 0).mean():.4%} of values differ, by {levels.max()} at most\n"
            )


if __name__ == "__main__":
    main()
