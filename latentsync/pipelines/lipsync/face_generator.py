"""The networks of one version, and the generation of speaking faces: encode, denoise, decode.

Posteriors of faces are cached while a video repeats its frames.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from latentsync.errors import NumericalFailure
from latentsync.models.config import LatentSyncConfig
from latentsync.models.sampling import SamplingOptions, WindowInputs, denoise
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import decode_latents, encode_moments, load_vae, sample_latents
from latentsync.models.whisper import WhisperEncoder, load_whisper
from latentsync.monitor import RunMonitor
from latentsync.pipelines.batching import AdaptiveBatch
from latentsync.pipelines.lipsync.mask import (
    hide_mouth,
    keep_surroundings,
    latent_mask,
    to_pixel_values,
)


@dataclass(frozen=True, eq=False)
class LipsyncNetworks:
    """One version's networks on one device.

    Attributes:
        config: the version's values.
        unet: predicts noise.
        vae: pixels to latents and back, in the UNet's type.
        audio_encoder: Whisper's encoder, always in float32: it is small and runs once per video.
    """

    config: LatentSyncConfig
    unet: UNet3DConditionModel
    vae: AutoencoderKL
    audio_encoder: WhisperEncoder


def load_networks(
    config: LatentSyncConfig,
    *,
    unet_path: Path,
    vae_path: Path,
    whisper_path: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> LipsyncNetworks:
    """Build the networks and load their weights from published files.

    Raises:
        CheckpointUnusable: a file cannot be read.
        CheckpointMismatch: a file belongs to another network.
    """
    torch.backends.cudnn.allow_tf32 = False  # TF32 has a mantissa of 10 bits only
    unet = UNet3DConditionModel.from_config(config.unet)
    unet.load_checkpoint(unet_path, device=device, dtype=dtype)
    return LipsyncNetworks(
        config=config,
        unet=unet,
        vae=load_vae(vae_path, config.vae, device=device, dtype=dtype),
        audio_encoder=load_whisper(whisper_path, device=device),
    )


_MOST_BYTES = 256 * 2**20  # on the device: about 2,000 faces at 512 pixels in float16


class LatentCache:
    """Posteriors by source frame, kept only while they are needed again.

    Args:
        source_indices: int64 (frames,), the source frame of every output frame with a face.
        most_bytes: limit of the cache; posteriors beyond it are computed again.
    """

    def __init__(self, source_indices: NDArray[np.int64], *, most_bytes: int = _MOST_BYTES) -> None:
        self._left = Counter(source_indices.tolist())
        self._most_bytes = most_bytes
        self._kept: dict[int, Tensor] = {}

    def of(
        self,
        source_indices: NDArray[np.int64],
        encode: Callable[[NDArray[np.int64]], Tensor],
    ) -> Tensor:
        """Return the posteriors of one window's frames, in order.

        Args:
            source_indices: int64 (F,); a frame may be in it more than once.
            encode: computes those of the frames at the given positions of the window.
        """
        wanted: list[int] = source_indices.tolist()
        first_places = {index: place for place, index in reversed(list(enumerate(wanted)))}
        new = sorted(place for index, place in first_places.items() if index not in self._kept)
        found = dict(self._kept)
        if new:
            computed = encode(np.array(new, np.int64))
            found |= {wanted[place]: value for place, value in zip(new, computed, strict=True)}
        joined = torch.stack([found[index] for index in wanted])
        self._left.subtract(wanted)
        self._keep({index: found[index] for index in wanted})
        return joined

    def _keep(self, seen: dict[int, Tensor]) -> None:
        for index, value in seen.items():
            if self._left[index] <= 0:
                self._kept.pop(index, None)
            elif index not in self._kept and self._has_room_for(value):
                self._kept[index] = value.clone()  # a view would keep the whole window

    def _has_room_for(self, value: Tensor) -> bool:
        return (len(self._kept) + 1) * value.numel() * value.element_size() <= self._most_bytes


_PICTURES_AT_ONCE = 16  # per batch of the autoencoder
OnStep = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class WindowFaces:
    """The inputs of one window of F frames.

    Attributes:
        faces: (F,R,R,3) uint8 RGB, aligned.
        source_indices: int64 (F,), the source frame of each face.
        audio: (F, 50, width), features of each frame.
        masked_noise: (F, 4, r, r), for the latents of the masked faces.
        reference_noise: (F, 4, r, r), for the latents of the whole faces.
    """

    faces: NDArray[np.uint8]
    source_indices: NDArray[np.int64]
    audio: Tensor
    masked_noise: Tensor
    reference_noise: Tensor


@dataclass(frozen=True, eq=False)
class GeneratedFaces:
    """The output of one window of F frames.

    Attributes:
        latents: (4, F, r, r), denoised, on the device.
        faces: float32 (F,3,R,R), about -1..1, with the kept part of the originals pasted back.
    """

    latents: Tensor
    faces: NDArray[np.float32]


class NetworkBatches:
    """Batch sizes of the networks, kept between runs.

    Args:
        batch_windows: windows that are denoised together.
    """

    def __init__(self, batch_windows: int) -> None:
        self.encoding = AdaptiveBatch("encode pictures", _PICTURES_AT_ONCE)
        self.denoising = AdaptiveBatch("denoise windows", batch_windows)
        self.decoding = AdaptiveBatch("decode pictures", _PICTURES_AT_ONCE)


class FaceGenerator:
    """Generates the speaking faces of one utterance.

    Args:
        networks: of one version.
        options: of the sampler.
        initial_noise: (1, 4, 1, r, r), the initial latents of all frames.
        source_indices: int64 (frames,), the source frame of every output frame with a face, which
            determines what is cached.
        batches: batch sizes of the networks.
        monitor: receives the seconds of the stages.
    """

    def __init__(
        self,
        networks: LipsyncNetworks,
        options: SamplingOptions,
        initial_noise: Tensor,
        source_indices: NDArray[np.int64],
        *,
        batches: NetworkBatches,
        monitor: RunMonitor,
    ) -> None:
        self._networks = networks
        self._options = options
        self._initial_noise = initial_noise
        self._posteriors = LatentCache(source_indices)
        self._monitor = monitor
        self._batches = batches

    @torch.inference_mode()
    def make(self, windows: Sequence[WindowFaces], on_step: OnStep) -> list[GeneratedFaces]:
        """Generate the faces of windows of equal length.

        Args:
            windows: consecutive windows.
            on_step: called after every denoising step with its number from 0; may raise.

        Raises:
            OutOfDeviceMemory: a single window or picture does not fit.
            NumericalFailure: the networks returned values that are not finite.
        """
        originals = [to_pixel_values(window.faces) for window in windows]
        with self._timed("generate.encode"):
            inputs = [self._encode(*pair) for pair in zip(windows, originals, strict=True)]
        with self._timed("generate.denoise"):
            latents = self._denoise(inputs, on_step)  # W, 4, F, r, r
        with self._timed("generate.decode"):
            decoded = self._decode(latents)  # W, F, 3, R, R
        return [
            GeneratedFaces(of_window, keep_surroundings(*pictures))
            for of_window, *pictures in zip(latents, decoded, originals, strict=True)
        ]

    def _encode(self, window: WindowFaces, original: NDArray[np.float32]) -> WindowInputs:
        """Sample the latents of a window's masked and whole faces."""
        moments = self._posteriors.of(
            window.source_indices, lambda new: self._encode_faces(original[new])
        )
        noises = (window.masked_noise, window.reference_noise)
        masked, reference = (
            _as_video(sample_latents(self._networks.vae, of_kind, noise))
            for of_kind, noise in zip(moments.unbind(1), noises, strict=True)
        )
        mask = torch.from_numpy(latent_mask(self._networks.config.resolution)).to(masked)
        return WindowInputs(
            noise=self._initial_noise,
            mask=mask.expand(1, 1, masked.shape[2], -1, -1),
            masked_latents=masked,
            reference_latents=reference,
            audio=window.audio,
        )

    def _encode_faces(self, pixels: NDArray[np.float32]) -> Tensor:
        """Return the posteriors (n, 2, 8, r, r), masked and whole, of faces (n,3,R,R)."""
        pictures = torch.from_numpy(np.stack([hide_mouth(pixels), pixels], axis=1)).flatten(0, 1)
        vae = self._networks.vae
        moments = self._batches.encoding.run(
            lambda some: encode_moments(vae, pictures[some]), len(pictures)
        )
        return moments.view(-1, 2, *moments.shape[1:])

    def _denoise(self, inputs: Sequence[WindowInputs], on_step: OnStep) -> Tensor:
        unet = self._networks.unet

        def work(some: slice) -> Tensor:
            joined = _join(inputs[some])
            return denoise(unet, joined, self._options, lambda step, _latents: on_step(step))

        return self._batches.denoising.run(work, len(inputs))

    def _decode(self, latents: Tensor) -> NDArray[np.float32]:
        """Return float32 (W,F,3,R,R) on the CPU."""
        vae = self._networks.vae
        frames = latents.transpose(1, 2).flatten(0, 1)  # W*F, 4, r, r
        # Moved to the CPU batch by batch: decoded pictures take the most memory.
        pictures = self._batches.decoding.run(
            lambda some: decode_latents(vae, frames[some]).float().cpu(), len(frames)
        )
        if not bool(torch.isfinite(pictures).all()):
            raise NumericalFailure(
                "The autoencoder returned values that are not finite. Try "
                "LATENTSYNC_DTYPE=bfloat16 or float32, or verify the weights with "
                "`latentsync weights verify`."
            )
        return np.asarray(pictures.view(len(latents), -1, *pictures.shape[1:]).numpy())

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return timed_on_device(self._monitor, stage, self._networks.unet.device)


@contextmanager
def timed_on_device(monitor: RunMonitor, stage: str, device: torch.device) -> Iterator[None]:
    """Add the seconds of the block to a stage, including work of the device."""
    with monitor.timed(stage):
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _as_video(frames: Tensor) -> Tensor:
    """Return (F, C, h, w) as (1, C, F, h, w)."""
    return frames.transpose(0, 1)[None]


def _join(inputs: Sequence[WindowInputs]) -> WindowInputs:
    """Concatenate windows of equal length into one batch."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(window, name) for window in inputs])

    names = ("mask", "masked_latents", "reference_latents", "audio")
    return WindowInputs(inputs[0].noise, **{name: joined(name) for name in names})
