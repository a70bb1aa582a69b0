"""Sampling: from noise to latents by the steps of a scheduler."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from latentsync.errors import InvalidField, NumericalFailure
from latentsync.models.unet import UNet3DConditionModel
from latentsync.schema.fields import SchedulerName

NUM_TRAIN_TIMESTEPS = 1000

StepCallback = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class SamplingOptions:
    """Options of the sampler.

    Attributes:
        num_inference_steps: number of steps, 1..1000.
        guidance_scale: weight of the audio; with 1 and below the network runs once per step.
        scheduler: ``ddim``, for which the checkpoints were trained, or ``dpm-solver++``, which
            approximates its result with fewer steps.
        cache_interval: the whole network runs in every n-th step, only its last layer in the
            others; an approximation unless it is 1.
        guidance_interval: start and end of the guided steps as shares of all steps; the other
            steps run the network once. An approximation unless it is (0, 1).
    """

    num_inference_steps: int = 20
    guidance_scale: float = 1.5
    scheduler: SchedulerName = "ddim"
    cache_interval: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, most in (("num_inference_steps", NUM_TRAIN_TIMESTEPS), ("cache_interval", None)):
            value = getattr(self, name)
            if value < 1 or (most is not None and value > most):
                allowed = "at least 1" if most is None else f"1 to {most}"
                raise InvalidField(f"{name} is {value}; allowed: {allowed}.", field=name)

    def is_guided(self, step: int) -> bool:
        """Return whether the step, counted from 0, also runs the network without audio."""
        start, end = self.guidance_interval
        return self.guidance_scale > 1 and start <= step / self.num_inference_steps < end


@dataclass(frozen=True)
class WindowInputs:
    """The inputs of one or several windows of the same length.

    Attributes:
        noise: (B, 4, F, h, w) or a tensor that expands to it: the initial latents.
        mask: (B, 1, F, h, w); 1 keeps, 0 is to be generated.
        masked_latents: (B, 4, F, h, w), of the masked faces.
        reference_latents: (B, 4, F, h, w), of the whole faces.
        audio: (B*F, 50, W), row b*F + f for frame f of window b.
    """

    noise: Tensor
    mask: Tensor
    masked_latents: Tensor
    reference_latents: Tensor
    audio: Tensor


def build_scheduler(name: SchedulerName = "ddim") -> DDIMScheduler | DPMSolverMultistepScheduler:
    """Return a new scheduler with the noise levels that LatentSync was trained for."""
    ddim = DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )
    if name == "ddim":
        return ddim
    # On data with a known solution, evenly spaced steps of this solver are not more accurate than
    # those of DDIM; noise levels spaced as by Karras et al. are.
    return DPMSolverMultistepScheduler.from_config(ddim.config, use_karras_sigmas=True)


@torch.inference_mode()
def denoise(
    unet: UNet3DConditionModel,
    inputs: WindowInputs,
    options: SamplingOptions,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Return the latents (B, 4, F, h, w) of windows, in the network's dtype.

    The windows of a batch do not affect each other.

    Args:
        unet: a loaded network.
        inputs: the windows; moved to the network's device and dtype.
        options: steps, guidance and feature cache.
        on_step: called after every step with its number from 0 and the latents; may raise.

    Raises:
        NumericalFailure: the latents are not finite.
    """
    scheduler = build_scheduler(options.scheduler)
    scheduler.set_timesteps(options.num_inference_steps)
    latents = inputs.noise.to(unet.device, unet.dtype).expand_as(inputs.masked_latents)
    conditions = _join_conditions(unet, inputs)
    context = unet.encode_audio(inputs.audio)
    # Guided steps process every frame twice, first without audio, then with it.
    both = replace(context, num_silent=len(inputs.audio))
    features = None
    steps = scheduler.timesteps.to(
        unet.device
    )  # once: a transfer in each step would synchronize the device
    for index, timestep in enumerate(scheduler.timesteps.tolist()):
        guided = options.is_guided(index)
        cached = _reusable(features, index, options)
        sample = torch.cat([latents, conditions], dim=1)
        sample = torch.cat([sample, sample]) if guided else sample
        output = unet(sample, steps[index], both if guided else context, cached=cached)
        features = output.features if options.cache_interval > 1 else None
        noise_pred = _guide(output.sample, options.guidance_scale) if guided else output.sample
        latents = cast(Tensor, scheduler.step(noise_pred, timestep, latents).prev_sample)
        if on_step is not None:
            on_step(index, latents)
    _require_finite(latents, unet.dtype)
    return latents


def _join_conditions(unet: UNet3DConditionModel, inputs: WindowInputs) -> Tensor:
    """Return the input channels after the noisy latents, the same in every step."""
    parts = (inputs.mask, inputs.masked_latents, inputs.reference_latents)
    return torch.cat([part.to(unet.device, unet.dtype) for part in parts], dim=1)


def _reusable(features: Tensor | None, step: int, options: SamplingOptions) -> Tensor | None:
    """Return the features that this step reuses, or None if it runs the whole network."""
    if features is None or step % options.cache_interval == 0:
        return None
    before, now = options.is_guided(step - 1), options.is_guided(step)
    if before == now:
        return features
    return (
        features.chunk(2)[1] if before else None
    )  # the half with audio; there is none without audio


def _guide(noise_pred: Tensor, guidance_scale: float) -> Tensor:
    """Extrapolate from the prediction without audio to the one with audio."""
    silent, conditioned = noise_pred.chunk(2)
    return silent + guidance_scale * (conditioned - silent)


def _require_finite(latents: Tensor, dtype: torch.dtype) -> None:
    # Checked once at the end: a check after each step would synchronize the GPU.
    if not bool(torch.isfinite(latents).all()):
        raise NumericalFailure(
            f"The network returned values that are not finite, computed in "
            f"{str(dtype).removeprefix('torch.')}. "
            "Try float32 or bfloat16, or verify the checkpoint with `latentsync weights verify`."
        )
