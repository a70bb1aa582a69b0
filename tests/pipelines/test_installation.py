"""What is said of packages that are missing or broken: which, why, and what to type."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from latentsync.pipelines.requirements import (
    explain_import_failure,
    explain_missing,
    is_installed,
    missing_packages,
)

LIBRARY = "libcudart.so.12: cannot open shared object file: No such file or directory"


def failure_of(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Exception:
    """Return what the import of a package with this code raises."""
    package = folder / "brokennet"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    try:
        import_module("brokennet")
    except Exception as error:
        # As when a module of this package imports it: the frames of the test are left out.
        below = error.__traceback__.tb_next if error.__traceback__ else None
        return error.with_traceback(below)
    finally:
        sys.modules.pop("brokennet", None)
    raise AssertionError("the package is sound")


def test_one_or_several_packages_are_named_with_the_command() -> None:
    assert explain_missing(["torch"], "models") == (
        "It needs torch, which is not installed: pip install -e '.[models]'."
    )
    assert explain_missing(["a", "b", "c"], None).startswith("It needs a, b and c, which are not")


def test_a_package_that_the_import_system_refuses_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "half_loaded", type(sys)("half_loaded"))  # it has no spec
    assert not is_installed("half_loaded")
    assert missing_packages(["numpy", "no_such_package", "half_loaded"]) == [
        "no_such_package",
        "half_loaded",
    ]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"raise ImportError({LIBRARY!r})", f"(ImportError: {LIBRARY})"),
        (f"raise OSError({'/opt/cuda/lib64/' + LIBRARY!r})", f"(OSError: {LIBRARY})"),
        ("from os import no_such_name", "cannot import name 'no_such_name' from 'os' (os.py)"),
        ("import ctypes\nctypes.CDLL('libnone.so.1')", "OSError: libnone.so.1"),
        ("raise RuntimeError('built for another numpy')", "RuntimeError: built for another"),
    ],
)
def test_a_broken_package_is_reported_with_its_cause_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    text = explain_import_failure(failure_of(tmp_path, monkeypatch, code), "models")
    assert text is not None
    assert said in text
    assert "installed but cannot be imported" in text
    assert "/" not in text.replace("and/or", "")


def test_what_a_package_needs_itself_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failure_of(tmp_path, monkeypatch, "import no_such_package.part")
    text = explain_import_failure(failure, "models")
    assert text is not None
    assert text.startswith("It needs no_such_package, which is not installed: pip install")


def test_a_defect_of_this_package_is_no_broken_installation() -> None:
    for statement in ("import latentsync.no_such", "from latentsync import NoSuchName"):
        with pytest.raises(ImportError) as caught:
            exec(statement)
        assert explain_import_failure(caught.value, "models") is None


def test_a_defect_that_shows_in_the_standard_library_is_no_broken_installation() -> None:
    try:
        exec("import json; json.loads('{')", {"__name__": "latentsync.broken"})
    except ValueError as error:
        below = error.__traceback__.tb_next if error.__traceback__ else None
        failure = error.with_traceback(below)
    assert explain_import_failure(failure, "models") is None
