"""Which packages are installed, and what to say where one is missing or cannot be imported."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

_OWN = "latentsync"
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\"():,;]+/)+")
_CAUSE_CHARACTERS = 200


def is_installed(package: str) -> bool:
    """Tell whether a package can be found, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # whoever stands in the way of the import system
        return False


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return those that cannot be found."""
    return [name for name in packages if not is_installed(name)]


def is_cpu_build(package: str) -> bool:
    """Tell whether the installed version is one that was built for CPUs only, as torch's says."""
    try:
        return version(package).endswith("+cpu")
    except PackageNotFoundError:
        return False


def install_command(extra: str | None) -> str:
    """Return what to type to install this package with an extra."""
    if extra is None:
        return f"pip install {_OWN} (in a checkout: pip install -e .)"
    return f"pip install '{_OWN}[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


def explain_missing(packages: Iterable[str], extra: str | None) -> str:
    """Return the sentence about packages that are not installed, and how they are."""
    *others, last = packages
    names = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others else "is"
    return f"It needs {names}, which {verb} not installed: {install_command(extra)}."


def explain_import_failure(error: Exception, extra: str | None) -> str | None:
    """Return the sentence about what kept a package from being imported.

    Args:
        error: raised while this package's own modules were imported.
        extra: the extra that brings what they need.

    Returns:
        The package and the cause, without folders; None if no other package is at fault, but this
        one: that is a defect.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and not _is_own(error.name):
        return explain_missing([error.name.partition(".")[0]], extra)
    package = _failed_package(error)
    if package is None:
        return None
    said = " ".join(_FOLDERS.sub("", str(error)).split())[:_CAUSE_CHARACTERS]
    return (
        f"It needs {package}, which is installed but cannot be imported "
        f"({type(error).__name__}: {said}). Install it again, or what it needs."
    )


def _failed_package(error: Exception) -> str | None:
    """Return the first package beside this one on the way to where the error was raised."""
    if isinstance(error, ImportError) and error.name:
        return None if _is_own(error.name) else error.name.partition(".")[0]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in (_OWN, *sys.stdlib_module_names):
            return package
    return None


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _OWN
