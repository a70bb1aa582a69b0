"""The two formats inside the house: RGB frames at 25 fps and a mono waveform at 16 kHz."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VIDEO_FPS = 25  # frames per second between reader and writer
SAMPLE_RATE = 16_000  # samples per second of the waveform that a pipeline hears

Frame = NDArray[np.uint8]  # H,W,3 RGB
Waveform = NDArray[np.float32]  # mono, -1..1
