"""The two formats inside the house: RGB frames at 25 fps and a mono waveform at 16 kHz."""

import numpy as np
from numpy.typing import NDArray

VIDEO_FPS = 25  # frames per second between reader and writer
# Of a second, a frame or a step of 10 ms. Sums and quotients of binary fractions miss whole numbers
# and limits by less than this; where that must not decide, it is allowed for.
ROUNDING = 1e-6
SAMPLE_RATE = 16_000  # samples per second of the waveform that a pipeline hears

Frame = NDArray[np.uint8]  # H,W,3 RGB
Waveform = NDArray[np.float32]  # mono, -1..1
