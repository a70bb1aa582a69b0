"""A limit that is not in force is noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.processors.__main__ import main
from tests.processors.limits import Limit, LimitNotInForce, known_limits, read_found

_NEW = {
    "aten": "AVX512",
    "mkl": "OFF",
    "numpy": ["X86_V3", "X86_V4"],
    "onednn": "Intel AVX2",
    "openblas": ["Haswell", "Haswell"],
    "opencv": ["SSE4.1", "AVX2"],
    "libc": 7,
}
_OLD = {
    "aten": "DEFAULT",
    "mkl": "COMPATIBLE",
    "numpy": [],
    "onednn": "Intel SSE4.1",
    "openblas": ["Katmai", "Prescott"],
    "opencv": [],
    "libc": 0,
}


def limit(name: str, **unlimited: Any) -> Limit:
    (found,) = (each for each in known_limits(_NEW | unlimited) if each.name == name)
    return found


@pytest.mark.parametrize("name", _NEW)
def test_each_limit_looks_at_its_own_library(name: str) -> None:
    limit(name).require(_NEW | {name: _OLD[name]})
    with pytest.raises(LimitNotInForce, match=f"{name}: {name} uses"):
        limit(name).require(_OLD | {name: _NEW[name]})


@pytest.mark.parametrize("name", _NEW)
def test_all_together_need_each(name: str) -> None:
    limit("lowest").require(_OLD)
    with pytest.raises(LimitNotInForce, match=f"lowest: {name} uses"):
        limit("lowest").require(_OLD | {name: _NEW[name]})


@pytest.mark.parametrize(
    ("library", "used"),
    [("openblas", []), ("openblas", ["Prescott", "Zen"]), ("onednn", None), ("mkl", None)],
)
def test_a_library_that_is_not_heard_of_keeps_to_nothing(library: str, used: object) -> None:
    with pytest.raises(LimitNotInForce):
        limit("lowest").require(_OLD | {library: used})


def test_only_what_may_be_absent_is_left_out() -> None:
    names = [each.name for each in known_limits(dict.fromkeys(_NEW) | {"numpy": []})]
    assert names == ["aten", "onednn", "openblas", "opencv", "numpy", "lowest"]


def test_what_the_libraries_print_is_read() -> None:
    spoken = (
        "onednn_verbose,v1,info,cpu,isa:Intel SSE4.1\n"
        "MKL_VERBOSE oneMKL 2024.0\nMKL_VERBOSE SGEMM(N,N,64) 1ms CNR:COMPATIBLE Dyn:1\n\n"
        + json.dumps({"aten": "DEFAULT"})
    )
    found = read_found(spoken, "dl_platform=0x0\ndl_hwcaps_subdirs_active=0x7\n")
    assert found == {"aten": "DEFAULT", "onednn": "Intel SSE4.1", "mkl": "COMPATIBLE", "libc": 7}


def test_an_unknown_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.processors.__main__.look", lambda _environment: _NEW)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(SystemExit) as caught:
        main(["newest"])
    assert caught.value.code == 2
    assert "newest: no such limit; there are aten, onednn" in capsys.readouterr().err


def test_tests_do_not_run_under_a_limit_that_is_not_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.processors.__main__.look", lambda _environment: _NEW)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert main(["opencv"]) == 2
    assert capsys.readouterr().out == (
        "The limit is not in force. opencv: opencv uses ['SSE4.1', 'AVX2']\n"
    )
