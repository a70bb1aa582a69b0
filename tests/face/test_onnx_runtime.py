"""onnxruntime's telemetry is off before the library is there, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.server.live import REPOSITORY

_CODE = """
import os, sys

class Looking:
    @staticmethod
    def find_spec(name, *_):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Looking)
import latentsync.face.blazeface, latentsync.face.scrfd
"""


@pytest.mark.parametrize("given", [{}, {"ORT_DISABLE_TELEMETRY": "0"}])
def test_the_library_is_imported_after_its_telemetry_is_off(given: dict[str, str]) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        cwd=REPOSITORY,
        env={**inherited, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
