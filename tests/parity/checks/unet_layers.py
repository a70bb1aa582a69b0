"""Reads what the layers of the UNet return while it runs, in the layouts of the recordings.

A recorded layer is named by its path with ``_`` for the dots. The package folds frames into the
batch and keeps tokens where the recordings have pictures, so values are brought to (batch, frames,
positions, channels) first.
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from latentsync.models.blocks import DownBlock, LayeredBlock, UpBlock
from latentsync.models.unet import UNet3DConditionModel

_TEMPORAL = "temporal_transformer"  # tokens of its layers are frames, not pixels
# Recorded steps without weights, which the package has no layers for: what these layers are given.
_INPUTS_OF = {"time_proj": "time_embedding", "conv_act": "conv_out"}


class LayerRecorder:
    """Keeps the last output of every layer of ``unet`` that runs inside ``with``.

    Args:
        unet: the network.
        batch: entries of the batch, B.
        num_frames: frames of a window, F.
    """

    def __init__(self, unet: UNet3DConditionModel, *, batch: int, num_frames: int) -> None:
        self._unet, self._batch, self._num_frames = unet, batch, num_frames
        self._values: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for path, part in self._unet.named_modules():
            keep = lambda _, given, made, path=path: self._keep(path, given, made)  # noqa: E731
            self._hooks.append(part.register_forward_hook(keep))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def value(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return what the layer ``name`` gave, in the layout of ``shape`` if it is one.

        Raises:
            KeyError: there is no such layer, or the package does not compute its value by itself.
        """
        path = self._path(name)
        if path not in self._values:
            raise KeyError(f"the network does not compute {path} by itself")
        value = self._values[path]
        if value.ndim == 2:  # of the timestep: the package computes it once for the whole batch
            return value.expand(self._batch, -1)
        return self._arrange(self._split(value, _TEMPORAL in path), shape)

    def _keep(self, path: str, given: tuple[object, ...], made: object) -> None:
        for key, value in ((path, made), (f"input of {path}", given[0])):
            if isinstance(value, Tensor):
                self._values[key] = value.clone()  # later layers may change it in place

    def _path(self, name: str) -> str:
        if name in _INPUTS_OF:
            return f"input of {_INPUTS_OF[name]}"
        paths = {path.replace(".", "_"): path for path, _ in self._unet.named_modules()}
        if name not in paths:
            raise KeyError(f"the network has no layer {name}")
        return self._last_part(paths[name])

    def _last_part(self, path: str) -> str:
        """Return the layer whose output is that of the level ``path``: levels are not called."""
        part = self._unet.get_submodule(path)
        if not isinstance(part, LayeredBlock):
            return path
        ends = {DownBlock: "downsamplers", UpBlock: "upsamplers"}
        for kind in (ends[cast(Any, type(part))], "motion_modules", "attentions", "resnets"):
            if layers := cast(nn.ModuleList, getattr(part, kind)):
                return f"{path}.{kind}.{len(layers) - 1}"
        raise KeyError(f"the level {path} is empty")

    def _split(self, value: Tensor, temporal: bool) -> Tensor:
        """Return (B, F, positions, C) of pictures (B*F, C, H, W) or tokens."""
        if value.ndim == 4:
            return value.flatten(2).transpose(1, 2).unflatten(0, (self._batch, -1))
        by_batch = value.unflatten(0, (self._batch, -1))
        return by_batch.transpose(1, 2) if temporal else by_batch

    def _arrange(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        pictures = value.transpose(2, 3)  # (B, F, C, positions)
        if len(shape) == 5:  # (B, C, F, H, W)
            return _fold(pictures.transpose(1, 2), shape[3:])
        if len(shape) == 4:  # (B*F, C, H, W)
            return _fold(pictures.flatten(0, 1), shape[2:])
        if shape[:2] == (value[:, 0, :, 0].numel(), self._num_frames):  # (B*positions, F, C)
            return value.transpose(1, 2).flatten(0, 1)
        return value.flatten(0, 1)  # (B*F, positions, C)


def _fold(value: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Return ``value`` (..., positions) with these sides, or as it is if they do not fit."""
    fits = torch.Size(sides).numel() == value.shape[-1]
    return value.unflatten(-1, sides) if fits else value
