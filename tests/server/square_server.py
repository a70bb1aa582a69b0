"""Program: serves the square engine until it is killed; prints its address first.

Usage: ``python -m tests.server.square_server FOLDER``
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.server.engines import SquareEngine
from tests.server.live import serving_engine

if __name__ == "__main__":
    with serving_engine(Path(sys.argv[1]), SquareEngine()) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        threading.Event().wait()
