"""From noise to latents: the sampler, guidance, and steps that reuse features.

The latents of a chunk are (1, 4, F, h, w). Conditions are what the network sees beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from latentsync.errors import NotANumber
from latentsync.models.unet import UNet3DConditionModel

NUM_TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


@dataclass(frozen=True)
class Conditions:
    """What a chunk of F frames is painted after; every tensor in the network's type.

    Attributes:
        mask: (1, 1, F, h, w), 1 keeps and 0 generates.
        masked_latents: (1, 4, F, h, w), latents of the faces with the mouth hidden.
        ref_latents: (1, 4, F, h, w), latents of the whole faces.
        audio: (F, 50, 384), the features of each frame.
    """

    mask: Tensor
    masked_latents: Tensor
    ref_latents: Tensor
    audio: Tensor


def build_scheduler() -> DDIMScheduler:
    """Return the sampler the published checkpoints were trained for (deterministic DDIM)."""
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def denoise(
    unet: UNet3DConditionModel,
    noise: Tensor,
    conditions: Conditions,
    *,
    num_inference_steps: int,
    guidance_scale: float,
    cache_interval: int = 1,
    on_step: Callable[[int, Tensor], None] = lambda step, latents: None,
) -> Tensor:
    """Return the finished latents of one chunk, (1, 4, F, h, w).

    Args:
        unet: the network, in evaluation mode.
        noise: (1, 4, F, h, w), where to start.
        conditions: what to paint after.
        num_inference_steps: 1 to 1000.
        guidance_scale: above 1 every step predicts with and without audio and goes further in
            the direction of the difference; otherwise with audio alone, at half the work.
        cache_interval: run the whole network only every so many steps, in between its last layer
            alone; 1 is exact, 3 is the published short cut.
        on_step: called after each step with its number and the latents; may raise to stop.

    Raises:
        NotANumber: the latents hold values that are no numbers.
    """
    scheduler = build_scheduler()
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    guided = guidance_scale > 1
    fixed = torch.cat((conditions.mask, conditions.masked_latents, conditions.ref_latents), dim=1)
    audio = conditions.audio
    if guided:  # first half without audio: zeros, not the features of silence
        fixed = fixed.expand(2, -1, -1, -1, -1)
        audio = torch.cat((torch.zeros_like(audio), audio))
    latents: Tensor = noise * scheduler.init_noise_sigma
    features: Tensor | None = None
    for step, timestep in enumerate(scheduler.timesteps):
        sample = torch.cat((latents.expand(fixed.shape[0], -1, -1, -1, -1), fixed), dim=1)
        reused = None if step % cache_interval == 0 else features
        output = unet(sample, timestep, audio, reused)
        features = output.features
        noise_pred = output.noise_pred
        if guided:
            without, with_audio = noise_pred.chunk(2)
            noise_pred = without + guidance_scale * (with_audio - without)
        latents = scheduler.step(noise_pred, timestep, latents).prev_sample
        on_step(step, latents)
    if not torch.isfinite(latents).all():
        raise NotANumber("The network gave values that are not numbers; nothing was written.")
    return latents
