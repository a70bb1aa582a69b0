"""Reads a model version's values from ``configs/`` into a frozen dataclass."""

from __future__ import annotations

from typing import TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from latentsync.errors import EngineUnavailable
from latentsync.packaged import find_packaged

Form = TypeVar("Form")


def read_config(name: str, form: type[Form]) -> Form:
    """Return ``configs/<name>.yaml`` as an instance of ``form``.

    Args:
        name: the model version, for example ``"draft"``.
        form: a frozen dataclass; keys that it does not have and wrong types are refused, values
            that the file leaves out keep the dataclass's defaults.

    Raises:
        EngineUnavailable: the file is missing or does not fit; the message names the key.
    """
    path = find_packaged(f"configs/{name}.yaml")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(form), OmegaConf.load(path))
        return cast(Form, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise EngineUnavailable(f"configs/{name}.yaml does not fit: {reason}") from error
