"""Reads model configurations into frozen dataclasses, and finds packaged files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from latentsync.errors import EngineUnavailable

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (
    _PACKAGE / "packaged",  # in an installed wheel
    _PACKAGE.parent,  # in a checkout
)


def find_packaged(name: str) -> Path:
    """Return the path of a file such as ``"configs/draft.yaml"``.

    Raises:
        EngineUnavailable: it is missing, so this installation is broken.
    """
    for root in _ROOTS:
        if (root / name).is_file():
            return root / name
    raise EngineUnavailable(f"The file {name} of the package is missing; install again.")


Form = TypeVar("Form")


def read_config(name: str, form: type[Form]) -> Form:
    """Return ``configs/<name>.yaml`` as an instance of ``form``.

    Args:
        name: the model version, for example ``"draft"``.
        form: a frozen dataclass; unknown keys and wrong types are refused, missing values
            take the defaults of the dataclass.

    Raises:
        EngineUnavailable: the file is missing or does not fit; the message names the key.
    """
    path = find_packaged(f"configs/{name}.yaml")
    try:
        values = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError) as error:
        raise _misfit(f"configs/{name}.yaml", error) from error
    return to_config(cast(Mapping[str, Any], values), form, f"configs/{name}.yaml")


def to_config(values: Mapping[str, Any], form: type[Form], name: str) -> Form:
    """Return ``values`` as an instance of ``form``, by the rules of :func:`read_config`.

    Args:
        values: names and values.
        form: a frozen dataclass.
        name: name of the values, for messages.

    Raises:
        EngineUnavailable: they do not fit; the message names the key.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(form), values)
        return cast(Form, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise _misfit(name, error) from error


def _misfit(name: str, error: Exception) -> EngineUnavailable:
    key = getattr(error, "full_key", None)
    at = f" at {key}" if key else ""
    return EngineUnavailable(f"{name} does not fit{at}: {str(error).splitlines()[0]}")
