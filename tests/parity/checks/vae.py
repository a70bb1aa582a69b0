"""vae_tiny.npz: pictures to latents and back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latentsync.models.vae import decode_latents, encode_latents
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.precisions import Way, in_each_precision
from tests.parity.recorded import RecordedFile
from tests.parity.tolerance import Tolerance

_VALUES = Tolerance(1e-4)


def check(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    def read(name: str) -> Tensor:
        return torch.from_numpy(recorded.read(name, "float32"))

    def mean(way: Way) -> Tensor:
        vae, images = networks.vae(way.dtype), way.blur(read("image"))
        still = encode_latents(vae, images, torch.zeros_like(read("noise")))
        return still / vae.config.scaling_factor

    def logvar(way: Way) -> Tensor:
        return (
            networks.vae(way.dtype).encode(way.blur(read("image")).to(way.dtype)).latent_dist.logvar
        )

    def latents(way: Way) -> Tensor:
        return encode_latents(networks.vae(way.dtype), way.blur(read("image")), read("noise"))

    def decoded(way: Way) -> Tensor:
        return decode_latents(networks.vae(way.dtype), way.blur(read("latents_scaled")))

    yield Output("mean", _VALUES, in_each_precision(mean))
    yield Output("logvar", _VALUES, in_each_precision(logvar))
    yield Output("latents_scaled", _VALUES, in_each_precision(latents))
    yield Output("decoded", _VALUES, in_each_precision(decoded))
