"""A server whose runs never end by themselves: ``python -m tests.server.gated PORT FOLDER``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from latentsync.server.serve import listen, serve
from tests.server.engines import GatedEngine
from tests.server.live import app_with, settings_for


def main() -> None:
    """Serve, and print a line when a run is inside the engine."""
    port, work = int(sys.argv[1]), Path(sys.argv[2])
    engine = GatedEngine()

    def announce() -> None:
        engine.entered.acquire()
        sys.stdout.write("inside\n")
        sys.stdout.flush()

    threading.Thread(target=announce, daemon=True).start()
    app = app_with(engine, settings_for(work.parent, work_dir=work))
    serve(app, listeners=listen("127.0.0.1", port), grace_s=1)


if __name__ == "__main__":
    main()
