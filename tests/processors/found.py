"""Prints what the numerical libraries of this process make use of; see ``limits.py``."""

from __future__ import annotations

import json
import sys

import cv2
import threadpoolctl
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__


def main() -> None:
    """Print one line of JSON, among what the libraries say of themselves when asked to."""
    # Large enough for oneDNN and MKL to be used at all; they print then.
    torch.nn.functional.conv2d(torch.ones(1, 16, 64, 64), torch.ones(16, 16, 3, 3))
    torch.ones(64, 64) @ torch.ones(64, 64)
    pools = threadpoolctl.threadpool_info()
    found = {
        "aten": torch.backends.cpu.get_cpu_capability(),
        "numpy": [name for name in __cpu_dispatch__ if __cpu_features__[name]],
        "openblas": [pool["architecture"] for pool in pools if pool["internal_api"] == "openblas"],
        # Such as "SSE SSE2 SSE3 *SSE4.1 *AVX2?": with a star what is chosen at run time, with a
        # question mark what is not.
        "opencv": [
            name.strip("*")
            for name in cv2.getCPUFeaturesLine().split()
            if name.startswith("*") and not name.endswith("?")
        ],
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
