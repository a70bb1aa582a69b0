"""Sizes of the networks, read from ``configs/`` or from a published JSON configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentsync.errors import EngineUnavailable

# Options of published configurations that select what this code is: any other value is refused.
_FIXED = {
    "act_fn": "silu",
    "add_audio_layer": True,
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "motion_module_mid_block": False,
    "motion_module_type": "Vanilla",
}
_FIXED_MOTION = {
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of :class:`latentsync.models.unet.UNet3DConditionModel`.

    Attributes:
        in_channels: noisy latents 4, mask 1, masked-face latents 4, reference latents 4.
        out_channels: predicted noise.
        block_out_channels: width of each of the four levels.
        layers_per_block: resnets on the way down; one more on the way up.
        num_heads: attention heads, the same everywhere (published as ``attention_head_dim``).
        cross_attention_dim: width of the audio features.
        norm_num_groups: groups of the resnets' and transformers' group norms.
        norm_eps: of the resnets' group norms.
        use_motion_module: False for checkpoints of version 1.0.
        motion_module_decoder_only: motion modules on the way up only.
        motion_num_heads: attention heads of the motion modules.
        max_frames: length of the motion modules' position table.
    """

    in_channels: int = 13
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_heads: int = 8
    cross_attention_dim: int = 384
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_motion_module: bool = True
    motion_module_decoder_only: bool = False
    motion_num_heads: int = 8
    max_frames: int = 24

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Read a configuration with the published option names.

        Raises:
            EngineUnavailable: an option has a value that this network does not have.
        """
        motion = values.get("motion_module_kwargs") or {}
        _refuse_other_values(values, _FIXED)
        _refuse_other_values(motion, _FIXED_MOTION)
        taken = {name: values[name] for name in _SAME_NAME if name in values}
        if "block_out_channels" in taken:
            taken["block_out_channels"] = tuple(taken["block_out_channels"])
        return cls(
            num_heads=values.get("attention_head_dim", cls.num_heads),
            motion_num_heads=motion.get("num_attention_heads", cls.motion_num_heads),
            max_frames=motion.get("temporal_position_encoding_max_len", cls.max_frames),
            **taken,
        )


_SAME_NAME = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "norm_num_groups",
    "norm_eps",
    "use_motion_module",
    "motion_module_decoder_only",
)


def _refuse_other_values(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, expected in fixed.items():
        if name in values and _plain(values[name]) != expected:
            raise EngineUnavailable(
                f"The configuration has {name} = {values[name]!r}; only {expected!r} is made."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
