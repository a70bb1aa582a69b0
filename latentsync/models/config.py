"""Architecture of a LatentSync version; see ``configs/latentsync-1.6.yaml``.

The names are those of the published configuration files. Options that no published version changes
accept one value only; others are refused instead of being ignored.
"""

from dataclasses import dataclass, field

from latentsync.errors import EngineUnavailable

CROSS_ATTENTION_BLOCKS = ("CrossAttnDownBlock3D", "CrossAttnUpBlock3D")  # with transformers
MOTION_NORM_GROUPS = 32  # independent of norm_num_groups
MAX_PERIOD = 10000.0  # of sinusoidal embeddings: longest period divided by 2 pi
_PLAIN_BLOCKS = ("DownBlock3D", "UpBlock3D")


@dataclass(frozen=True)
class MotionModuleConfig:
    """The attention between the frames of a window.

    Attributes:
        num_attention_heads: heads of every temporal attention.
        num_transformer_block: blocks in a module, one after the other.
        attention_block_types: temporal attentions of a block, in order.
        temporal_position_encoding: whether a position table is added before each attention.
        temporal_position_encoding_max_len: rows of that table: the most frames of a window.
        temporal_attention_dim_div: attention width is the channels divided by this.
        zero_initialize: initialization in training; not used.
    """

    num_attention_heads: int = 8
    num_transformer_block: int = 1
    attention_block_types: tuple[str, ...] = ("Temporal_Self", "Temporal_Self")
    temporal_position_encoding: bool = True
    temporal_position_encoding_max_len: int = 24
    temporal_attention_dim_div: int = 1
    zero_initialize: bool = True


@dataclass(frozen=True)
class UNetConfig:
    """The denoising network.

    Attributes:
        in_channels: noisy latents 4, mask 1, masked-face latents 4, reference latents 4.
        out_channels: channels of the predicted noise.
        block_out_channels: channels of each level, finest first.
        layers_per_block: resnets of a down level; an up level has one more.
        attention_head_dim: the number of heads, despite its published name.
        cross_attention_dim: width of the audio features.
        norm_num_groups, norm_eps: group norms of the resnets and the output.
        motion_module_resolutions: levels with motion modules, as powers of two.
        motion_module_decoder_only: motion modules in the up path alone.
        motion_module_mid_block: one more in the middle.
        sample_size: not used; any size is accepted.
    """

    in_channels: int = 13
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock3D",
        "CrossAttnDownBlock3D",
        "CrossAttnDownBlock3D",
        "DownBlock3D",
    )
    mid_block_type: str = "UNetMidBlock3DCrossAttn"
    up_block_types: tuple[str, ...] = (
        "UpBlock3D",
        "CrossAttnUpBlock3D",
        "CrossAttnUpBlock3D",
        "CrossAttnUpBlock3D",
    )
    layers_per_block: int = 2
    attention_head_dim: int = 8
    cross_attention_dim: int = 384
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: int = 64
    act_fn: str = "silu"
    add_audio_layer: bool = True
    center_input_sample: bool = False
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    mid_block_scale_factor: float = 1.0
    resnet_time_scale_shift: str = "default"
    use_motion_module: bool = True
    motion_module_resolutions: tuple[int, ...] = (1, 2, 4, 8)
    motion_module_mid_block: bool = False
    motion_module_decoder_only: bool = False
    motion_module_type: str = "Vanilla"
    motion_module_kwargs: MotionModuleConfig = field(default_factory=MotionModuleConfig)

    def __post_init__(self) -> None:
        self._refuse_other_topologies()
        self._check_levels()
        self._check_widths()

    def has_motion(self, level: int) -> bool:
        """Return whether up blocks at ``level`` (0 is the finest) have motion modules."""
        return self.use_motion_module and 2**level in self.motion_module_resolutions

    def _refuse_other_topologies(self) -> None:
        _allow("act_fn", self.act_fn, "silu")
        _allow("add_audio_layer", self.add_audio_layer, True)
        _allow("center_input_sample", self.center_input_sample, False)
        _allow("downsample_padding", self.downsample_padding, 1)
        _allow("flip_sin_to_cos", self.flip_sin_to_cos, True)
        _allow("freq_shift", self.freq_shift, 0)
        _allow("mid_block_scale_factor", self.mid_block_scale_factor, 1.0)
        _allow("mid_block_type", self.mid_block_type, "UNetMidBlock3DCrossAttn")
        _allow("resnet_time_scale_shift", self.resnet_time_scale_shift, "default")
        _allow("motion_module_type", self.motion_module_type, "Vanilla")
        for kind in self.motion_module_kwargs.attention_block_types:
            _allow("attention_block_types", kind, "Temporal_Self")

    def _check_levels(self) -> None:
        levels = len(self.block_out_channels)
        down, up = CROSS_ATTENTION_BLOCKS
        plain_down, plain_up = _PLAIN_BLOCKS
        for name, types, known in (
            ("down_block_types", self.down_block_types, (down, plain_down)),
            ("up_block_types", self.up_block_types, (up, plain_up)),
        ):
            if len(types) != levels:
                _refuse(name, types, f"as many entries as block_out_channels has, {levels}")
            for kind in types:
                _allow(name, kind, *known)

    def _check_widths(self) -> None:
        if not self.block_out_channels or self.layers_per_block < 1:
            _refuse("layers_per_block", self.layers_per_block, "at least one layer and one level")
        divisors = {
            "norm_num_groups": self.norm_num_groups,
            "attention_head_dim": self.attention_head_dim,
        }
        if self.use_motion_module:
            motion = self.motion_module_kwargs
            divisors["num_attention_heads"] = motion.num_attention_heads
            divisors["groups of the motion modules"] = MOTION_NORM_GROUPS
        for channels in self.block_out_channels:
            for name, divisor in divisors.items():
                if divisor < 1 or channels % divisor:
                    _refuse(name, divisor, f"a divisor of every level's channels, {channels}")


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder between pixels and latents, with diffusers' names.

    Attributes:
        scaling_factor: factor from the autoencoder's values to latents.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    layers_per_block: int = 2
    norm_num_groups: int = 32
    act_fn: str = "silu"
    sample_size: int = 256
    scaling_factor: float = 0.18215


@dataclass(frozen=True)
class LatentSyncConfig:
    """One published version.

    Attributes:
        model_version: its name.
        resolution: side of the face picture in pixels.
        num_frames: frames of a window; the last window of a video may be shorter.
        unet: the denoising network.
        vae: the autoencoder.
    """

    model_version: str = "latentsync-1.6"
    resolution: int = 512
    num_frames: int = 16
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)


def _allow(name: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        _refuse(name, value, " or ".join(map(repr, allowed)))


def _refuse(name: str, value: object, allowed: str) -> None:
    raise EngineUnavailable(
        f"The model configuration has {name}={value!r}; this network requires {allowed}."
    )
