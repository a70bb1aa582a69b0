"""What a GPU would refuse, without one.

Networks on the device ``meta`` compute shapes and types but no numbers. That is enough to see
every tensor that was left on the processor, and every product of matrices that fell out of half
precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsync.models.config import LatentSyncConfig, UNetConfig, VAEConfig
from latentsync.models.sampling import SamplingOptions
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.models.whisper import WhisperDims, build_whisper
from latentsync.monitor import RunMonitor
from latentsync.pipelines.lipsync.audio_features import AudioFeatures
from latentsync.pipelines.lipsync.face_generator import (
    FaceGenerator,
    LipsyncNetworks,
    NetworkBatches,
    WindowFaces,
)
from latentsync.schema.fields import SchedulerName

RESOLUTION = 64

_FRAMES, _WINDOWS = 3, 2
_SIDE = RESOLUTION // 8
_DEVICE = torch.device("meta")
_PRODUCTS = ("linear", "conv", "matmul", "mm", "attention")


class Watch(TorchDispatchMode):
    """Stands between the code and a device: notes what only one that computes would notice."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: set[str] = set()
        self.product_types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        if name in ("is_nonzero", "item") and given[0].device == _DEVICE:
            return True  # the numbers are finite
        if name == "to":
            if given[0].device == _DEVICE and kwargs.get("device") == torch.device("cpu"):
                return torch.zeros(given[0].shape, dtype=kwargs.get("dtype", given[0].dtype))
        elif len({tensor.device for tensor in given if tensor.ndim}) > 1:
            self.mixed.add(name)  # single numbers may lie on the processor
        if any(product in name for product in _PRODUCTS):
            self.product_types |= {tensor.dtype for tensor in given}
        return func(*args, **kwargs)


def small_networks(dtype: torch.dtype) -> LipsyncNetworks:
    """Every kind of layer once; built without memory, so on the device ``meta``."""
    unet = UNetConfig(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    vae = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=8)
    return LipsyncNetworks(
        LatentSyncConfig("small", RESOLUTION, unet=unet, vae=vae),
        UNet3DConditionModel.from_config(unet).to(dtype),
        build_vae(vae).to(dtype),
        build_whisper(WhisperDims(n_audio_state=16, n_audio_head=2, n_audio_layer=4)),
    )


def window(audio: Tensor, number: int, dtype: torch.dtype) -> WindowFaces:
    noise = torch.empty(_FRAMES, 4, _SIDE, _SIDE, device=_DEVICE, dtype=dtype)
    faces = np.zeros((_FRAMES, RESOLUTION, RESOLUTION, 3), np.uint8)
    return WindowFaces(faces, np.arange(_FRAMES) + number * _FRAMES, audio, noise, noise)


@pytest.mark.parametrize(
    ("scheduler", "dtype"), [("ddim", torch.float16), ("dpm-solver++", torch.bfloat16)]
)
def test_a_window_is_made_on_the_networks_device_in_their_type(
    scheduler: SchedulerName, dtype: torch.dtype
) -> None:
    networks = small_networks(dtype)
    hearing = AudioFeatures(np.zeros(8000, np.float32), networks.audio_encoder, _FRAMES)
    with Watch() as listening:
        audio = hearing.slices(0, _FRAMES)
    maker = FaceGenerator(
        networks,
        SamplingOptions(2, scheduler=scheduler, cache_interval=2, guidance_interval=(0.0, 0.5)),
        torch.empty(1, 4, 1, _SIDE, _SIDE, device=_DEVICE, dtype=dtype),
        np.arange(_WINDOWS * _FRAMES),
        batches=NetworkBatches(_WINDOWS),
        monitor=RunMonitor(),
    )
    windows = [window(audio, number, dtype) for number in range(_WINDOWS)]
    with Watch() as making:
        made = maker.make(windows, lambda step: None)
    assert (listening.mixed, making.mixed) == (set(), set())
    assert (listening.product_types, making.product_types) == ({torch.float32}, {dtype})
    assert [(one.latents.device, one.latents.dtype) for one in made] == [(_DEVICE, dtype)] * 2
    assert [one.faces.shape for one in made] == [(_FRAMES, 3, RESOLUTION, RESOLUTION)] * 2
