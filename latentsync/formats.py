"""The formats used internally: RGB frames at 25 fps and a mono waveform at 16 kHz."""

import numpy as np
from numpy.typing import NDArray

VIDEO_FPS = 25  # frames per second between reader and writer
# Tolerance for comparing sums and quotients of floats with whole numbers and limits, in seconds,
# frames or steps of 10 ms.
ROUNDING = 1e-6
SAMPLE_RATE = 16_000  # samples per second of the waveform that pipelines use

Frame = NDArray[np.uint8]  # H,W,3 RGB
Waveform = NDArray[np.float32]  # mono, -1..1
