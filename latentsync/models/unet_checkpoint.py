"""Loads ``latentsync_unet.pt`` of any published version into a UNet."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latentsync.models.checkpoint import (
    Differences,
    StateDict,
    compare,
    fill,
    mismatch,
    place,
    read_cache,
    read_state,
    write_cache,
)
from latentsync.models.motion_module import position_table

logger = logging.getLogger(__name__)

_REPLACEABLE = ("conv_in.", "conv_out.")  # differ in networks with other channels
_AUDIO_PROJECTIONS = (
    "attn2.to_k.weight",
    "attn2.to_v.weight",
)  # differ in networks with other audio features
_MOTION = ".motion_modules."


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint.

    Attributes:
        source: whether the checkpoint itself or its cache was read.
        switched_off: names that are missing in the file or have another shape, if allowed.
        ignored: names in the file that the network does not have, if allowed.
    """

    source: Literal["checkpoint", "cache"]
    switched_off: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def load_unet(
    unet: nn.Module, path: str | Path, *, device: torch.device, dtype: torch.dtype, strict: bool
) -> LoadReport:
    """Load a checkpoint into ``unet``.

    The first load in half precision writes a cache next to the checkpoint, which later ones map.

    Args:
        unet: the network, usually on the meta device.
        path: ``.pt`` with or without ``state_dict`` around the tensors, or ``.safetensors``.
        device: of the weights.
        dtype: of the weights.
        strict: whether every name and shape must match. Otherwise unknown names are ignored, and
            missing layers are switched off by zeros and gains of one. The same holds for input and
            output convolutions with other channels and for audio projections of another width.
            They are logged as a warning and listed in the report.

    Raises:
        CheckpointUnusable: the file cannot be read.
        CheckpointMismatch: it does not fit.
    """
    path = Path(path)
    halved = torch.finfo(dtype).bits < 32
    copy = read_cache(path, dtype, device) if halved and path.is_file() else None
    state = read_state(path) if copy is None else copy
    differences = compare(state, unet)
    if differences and (strict or not _is_tolerable(differences)):
        raise mismatch(path.name, differences, _guess_cause(state, unet))
    if copy is None and halved:
        state = place(state, torch.device("cpu"), dtype)
        write_cache(path, dtype, state)
    if differences:
        logger.warning("%s does not fit the network: %s", path.name, differences)
        state = _complete(state, unet, differences)
    fill(unet, place(state, device, dtype))
    return LoadReport(
        source="checkpoint" if copy is None else "cache",
        switched_off=(*differences.missing, *(name for name, _, _ in differences.misshapen)),
        ignored=differences.unexpected,
    )


def _is_tolerable(differences: Differences) -> bool:
    return all(
        name.startswith(_REPLACEABLE) or name.endswith(_AUDIO_PROJECTIONS)
        for name, _, _ in differences.misshapen
    )


def _complete(state: StateDict, unet: nn.Module, differences: Differences) -> StateDict:
    """Return ``state`` with the names and shapes of ``unet``."""
    misshapen = {name for name, _, _ in differences.misshapen}
    return {
        name: state[name]
        if name in state and name not in misshapen
        else _switched_off(name, tuple(value.shape))
        for name, value in unet.state_dict().items()
    }


def _switched_off(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return weights with which a layer has no effect; tables are computed, gains are one."""
    if name.endswith(".pe"):
        return position_table(shape[2], shape[1])
    if name.endswith(".weight") and len(shape) == 1:
        return torch.ones(shape)
    return torch.zeros(shape)


def _guess_cause(state: StateDict, unet: nn.Module) -> str:
    """Return a sentence about the likely mistake, or an empty string."""
    given = any(_MOTION in name for name in state)
    wanted = any(_MOTION in name for name in unet.state_dict())
    if "conv_in.weight" not in state or given == wanted:
        return ""
    if wanted:
        return (
            "It has no motion modules, so it is of LatentSync 1.0: use a configuration with "
            "use_motion_module: false, or fetch the checkpoint of version 1.5 or 1.6."
        )
    return (
        "It has motion modules, so it is of LatentSync 1.5 or later: use the configuration of "
        "that version; this one has use_motion_module: false."
    )
