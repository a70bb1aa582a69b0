"""Limits of the numerical libraries, and what tells that a limit is in force.

ONNX Runtime, FFmpeg and pocketsphinx have no such limit; they choose by the processor itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOADER = Path("/lib64/ld-linux-x86-64.so.2")  # the same on every Linux with glibc
_OLD_CORES = {"Katmai", "Prescott", "Core2", "Penryn", "Nehalem"}  # none of them has AVX
_ABSENT = {"mkl", "libc"}  # from other builds of torch, and where the C library is not glibc
_TALKATIVE = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
_PROBE_S = 300

Found = Mapping[str, Any]


class LimitNotInForce(Exception):
    """A library does not keep to its limit, so tests under it would show nothing."""


@dataclass(frozen=True)
class Limit:
    """How one library, or several, are held to an older processor.

    Attributes:
        name: what it is called on the command line.
        variables: of the environment.
        holds: by the library's name, tells from what was found whether the limit is in force.
    """

    name: str
    variables: Mapping[str, str]
    holds: Mapping[str, Callable[[Any], bool]]

    def require(self, found: Found) -> None:
        """Raise LimitNotInForce unless every library keeps to the limit."""
        for library, holds in self.holds.items():
            if not holds(found[library]):
                raise LimitNotInForce(f"{self.name}: {library} uses {found[library]}")

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the limit."""
        return os.environ | dict(self.variables)


def known_limits(unlimited: Found) -> list[Limit]:
    """Return each library's limit and, last, all of them together.

    Args:
        unlimited: what the libraries use without a limit.
    """
    newer = " ".join(unlimited["numpy"])  # to name what a processor lacks anyway is a warning
    singles = [
        Limit("aten", {"ATEN_CPU_CAPABILITY": "default"}, {"aten": lambda used: used == "DEFAULT"}),
        Limit(
            "onednn",
            {"ONEDNN_MAX_CPU_ISA": "SSE41"},
            {"onednn": lambda used: used == "Intel SSE4.1"},
        ),
        Limit("mkl", {"MKL_CBWR": "COMPATIBLE"}, {"mkl": lambda used: used == "COMPATIBLE"}),
        Limit(
            "openblas",
            {"OPENBLAS_CORETYPE": "Prescott"},
            {"openblas": lambda used: bool(used) and _OLD_CORES.issuperset(used)},
        ),
        Limit(
            "opencv",
            {"OPENCV_CPU_DISABLE": "SSE4.1,SSE4.2,AVX,FP16,AVX2,FMA3,AVX512-SKX"},
            {"opencv": lambda used: used == []},
        ),
        Limit("numpy", {"NPY_DISABLE_CPU_FEATURES": newer}, {"numpy": lambda used: used == []}),
        Limit(
            "libc",
            {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4,-SSE4_2,-SSE4_1"},
            {"libc": lambda used: used == 0},
        ),
    ]
    every = [one for one in singles if unlimited[one.name] is not None or one.name not in _ABSENT]
    variables = {name: value for limit in every for name, value in limit.variables.items()}
    holds = {name: test for limit in every for name, test in limit.holds.items()}
    return [*every, Limit("lowest", variables, holds)]


def look(environment: Mapping[str, str]) -> Found:
    """Return what the libraries of a process with this environment make use of."""
    command = [sys.executable, "-m", "tests.processors.found"]
    spoken = _run(command, environment | _TALKATIVE)
    diagnostics = None
    if LOADER.exists():
        diagnostics = _run([str(LOADER), "--list-diagnostics"], environment)
    return read_found(spoken, diagnostics)


def read_found(spoken: str, diagnostics: str | None) -> Found:
    """Return what libraries use, by their name.

    Args:
        spoken: what ``found.py`` and the libraries in its process printed.
        diagnostics: what the loader of glibc printed; None without it.
    """
    *_, last = spoken.splitlines()
    return json.loads(last) | {
        "onednn": _first(r"onednn_verbose,.*info,cpu,isa:(.*)", spoken),
        "mkl": _first(r"MKL_VERBOSE .* CNR:(\S+)", spoken),
        "libc": None if diagnostics is None else _subfolders(diagnostics),
    }


def _subfolders(diagnostics: str) -> int:
    """Return a bit for each newer processor whose libraries glibc would choose."""
    mask = _first(r"dl_hwcaps_subdirs_active=0x([0-9a-f]+)", diagnostics)
    if mask is None:
        raise LimitNotInForce("libc: its diagnostics name no dl_hwcaps_subdirs_active")
    return int(mask, 16)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=_PROBE_S,
    )
    return done.stdout
