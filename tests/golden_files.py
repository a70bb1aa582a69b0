"""Recorded numbers that this package must reproduce; ``tests/parity`` compares them all.

Other tests take inputs and networks from here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


@cache
def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)
