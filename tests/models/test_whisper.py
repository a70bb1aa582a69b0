from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.errors import CheckpointMismatch, CheckpointUnusable, InternalError
from latentsync.models.whisper import WhisperDims, WhisperEncoder, build_whisper, load_whisper
from tests.golden_files import arrays
from tests.models.stand_ins import GOLDEN, golden_state, manifest, read_json, save_whisper, worst

RECORDED = arrays(GOLDEN / "whisper_tiny_dims.npz")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> WhisperEncoder:
    return load_whisper(save_whisper(tmp_path_factory.mktemp("whisper") / "tiny.pt"))


def encode(encoder: WhisperEncoder, mel: np.ndarray) -> Tensor:
    """Encode the log-mel columns of a short clip, filled up with zeros."""
    window = torch.zeros(1, 80, 3000)
    window[0, :, : mel.shape[1]] = torch.from_numpy(mel)
    return encoder(window)[0, : mel.shape[1] // 2]


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    published = {
        name.removeprefix("encoder."): shape
        for name, shape in manifest("whisper_tiny").items()
        if name.startswith("encoder.") and "ln_post" not in name
    }
    state = build_whisper(WhisperDims()).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published


def test_there_is_a_state_before_the_first_block_and_one_after_each(
    encoder: WhisperEncoder,
) -> None:
    mel = torch.randn(2, 80, 3000)
    states = encoder(mel)
    assert states.shape == (2, 1500, 5, 32)
    assert worst(encoder.blocks[0](states[:, :, 0]), states[:, :, 1]) < 1e-5
    assert worst(encoder(mel[1:]), states[1:]) < 1e-5


def test_half_precision_files_are_used_in_float32(tmp_path: Path) -> None:
    halved = {name: value.half() for name, value in golden_state("whisper").items()}
    dims = read_json(GOLDEN / "tiny_whisper_dims.json")
    torch.save({"dims": dims, "model_state_dict": halved}, tmp_path / "tiny.pt")
    encoder = load_whisper(tmp_path / "tiny.pt")
    assert {value.dtype for value in encoder.state_dict().values()} == {torch.float32}
    states = encode(encoder, RECORDED["mel_tail2"])
    assert worst(states, RECORDED["feat_head2"]) < 0.05


def test_a_window_of_another_length_is_an_error(encoder: WhisperEncoder) -> None:
    with pytest.raises(InternalError, match=r"\(80, 3000\), not \(80, 100\)"):
        encoder(torch.zeros(1, 80, 100))


@pytest.mark.parametrize("dims", [None, {}, {"n_mels": "80"}])
def test_a_file_without_dims_is_named(tmp_path: Path, dims: object) -> None:
    torch.save({"dims": dims, "model_state_dict": golden_state("whisper")}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointUnusable, match=r"tiny\.pt is not a Whisper checkpoint"):
        load_whisper(tmp_path / "tiny.pt")


def test_tensors_that_contradict_the_dims_are_named(tmp_path: Path) -> None:
    dims = read_json(GOLDEN / "tiny_whisper_dims.json") | {"n_audio_layer": 5}
    torch.save({"dims": dims, "model_state_dict": golden_state("whisper")}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointMismatch, match=r"15 missing \(blocks\.4\."):
        load_whisper(tmp_path / "tiny.pt")
