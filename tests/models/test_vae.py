from __future__ import annotations

import pytest
import torch

from latentsync.errors import CheckpointMismatch
from latentsync.models.vae import build_vae, decode_latents, encode_latents, load_vae_state
from tests.models.golden import (
    fingerprint,
    read_golden,
    read_json,
    shapes_of,
    stand_in_state,
    worst,
)

PUBLISHED = "0afb81fba3b73b60202b280b4d2850d6bc8a9ce2e04de56b5960181cb619af8f"  # sd-vae-ft-mse
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def state():
    return stand_in_state(build_vae(read_json("tiny_vae_config")))


def check(vae):
    golden = {name: torch.from_numpy(value) for name, value in read_golden("vae_tiny").items()}
    with torch.inference_mode():
        latents = encode_latents(vae, golden["image"], golden["noise"])
        decoded = decode_latents(vae, golden["latents_scaled"])
    assert worst(latents, golden["latents_scaled"].numpy()) < 1e-4
    assert worst(decoded, golden["decoded"].numpy()) < 1e-4


def test_names_and_shapes_are_the_published_ones():
    assert fingerprint(shapes_of(build_vae())) == PUBLISHED


def test_pictures_and_latents_are_the_references(state):
    check(load_vae_state(build_vae(read_json("tiny_vae_config")), state))


@pytest.mark.parametrize("as_convolution", [False, True])
def test_old_attention_names_are_understood(state, as_convolution):
    old = {}
    for name, tensor in state.items():
        for new_part, old_part in OLD.items():
            if f".attentions.0.{new_part}." in name:
                name = name.replace(new_part, old_part)
                if as_convolution and tensor.ndim == 2:
                    tensor = tensor[..., None, None]
        old[name] = tensor
    assert any(name.endswith("proj_attn.weight") for name in old)
    check(load_vae_state(build_vae(read_json("tiny_vae_config")), old))


def test_a_state_with_a_missing_name_is_refused(state):
    del state["encoder.conv_in.bias"]
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(encoder.conv_in.bias\)"):
        load_vae_state(build_vae(read_json("tiny_vae_config")), state)
