from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentsync.errors import CheckpointMismatch
from latentsync.models.config import VAEConfig
from latentsync.models.vae import build_vae, decode_latents, encode_latents, load_vae
from tests.golden_files import arrays
from tests.models.stand_ins import (
    GOLDEN,
    StateDict,
    golden_state,
    manifest,
    read_json,
    tiny_vae_config,
    worst,
)

T = torch.from_numpy
RECORDED = arrays(GOLDEN / "vae_tiny.npz")


def old_names(state: StateDict) -> StateDict:
    """Names and shapes of files from before the attention layers of diffusers were renamed."""
    renamed = {}
    for name, value in state.items():
        parts = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, old in parts.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(new, old)
                value = value[:, :, None, None] if value.ndim == 2 else value
        renamed[name] = value
    return renamed


def save(path: Path, state: StateDict) -> Path:
    torch.save(state, path)
    return path


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    state = build_vae(VAEConfig()).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == manifest("vae_sd_ft_mse")
    assert {value.device.type for value in state.values()} == {"meta"}


@pytest.mark.parametrize("age", ["present", "old"])
def test_latents_and_pictures_are_the_recorded_ones(tmp_path: Path, age: str) -> None:
    state = golden_state("vae")
    state = old_names(state) if age == "old" else state
    vae = load_vae(save(tmp_path / "vae.bin", state), tiny_vae_config())
    latents = encode_latents(vae, T(RECORDED["image"]), T(RECORDED["noise"]))
    assert worst(latents, RECORDED["latents_scaled"]) < 1e-4
    assert worst(decode_latents(vae, T(RECORDED["latents_scaled"])), RECORDED["decoded"]) < 1e-4


def test_old_names_do_occur_in_the_old_file() -> None:
    changed = set(old_names(golden_state("vae"))) - set(
        read_json(GOLDEN / "tiny_vae_manifest.json")
    )
    assert len(changed) == 16


def test_noise_of_zeros_gives_the_mean(tmp_path: Path) -> None:
    vae = load_vae(save(tmp_path / "vae.bin", golden_state("vae")), tiny_vae_config())
    latents = encode_latents(vae, T(RECORDED["image"]), torch.zeros(RECORDED["noise"].shape))
    assert worst(latents, RECORDED["mean"] * 0.18215) < 1e-4


def test_an_extreme_variance_is_clamped(tmp_path: Path) -> None:
    state = dict(golden_state("vae"))
    state["quant_conv.bias"] = torch.full_like(state["quant_conv.bias"], 1000.0)
    vae = load_vae(save(tmp_path / "vae.bin", state), tiny_vae_config())
    latents = encode_latents(vae, T(RECORDED["image"]), T(RECORDED["noise"]))
    assert bool(latents.isfinite().all())


def test_frames_do_not_influence_each_other(tmp_path: Path) -> None:
    path = save(tmp_path / "vae.bin", golden_state("vae"))
    vae = load_vae(path, tiny_vae_config(), dtype=torch.float64)
    images, noise = T(RECORDED["image"]), T(RECORDED["noise"])
    together = encode_latents(vae, images, noise)
    assert worst(together[1:], encode_latents(vae, images[1:], noise[1:])) < 1e-12


def test_another_size_of_network_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "vae.bin", golden_state("vae"))
    with pytest.raises(CheckpointMismatch, match=r"vae\.bin .*encoder\.conv_in\.weight .*instead"):
        load_vae(path, VAEConfig())
