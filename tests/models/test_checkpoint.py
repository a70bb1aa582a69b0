from __future__ import annotations

import pickle

import pytest
import torch

from latentsync.errors import CheckpointMismatch, CheckpointUnreadable
from latentsync.models.checkpoint import (
    load_unet,
    load_whisper_encoder,
    read_state,
    save_state,
)
from latentsync.models.config import UNetConfig
from latentsync.models.whisper import WhisperDims, WhisperEncoder
from tests.models.golden import read_json, stand_in_state, tiny_unet


@pytest.fixture(scope="module")
def config():
    return UNetConfig.from_mapping(read_json("tiny_unet_config"))


def save(path, content):
    torch.save(content, path)
    return path


def predict(unet):
    torch.manual_seed(0)
    with torch.inference_mode():
        return unet(torch.randn(1, 13, 2, 8, 8), 5, torch.randn(2, 50, 32)).noise_pred


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_published_layout_loads_and_predicts_alike(tmp_path, config, prefix, wrapped):
    state = {prefix + name: tensor for name, tensor in tiny_unet().state_dict().items()}
    content = {"global_step": 3, "state_dict": state} if wrapped else state
    unet = load_unet(save(tmp_path / "unet.pt", content), config)
    assert torch.equal(predict(unet), predict(tiny_unet()))


def test_the_safetensors_cache_loads_and_predicts_alike(tmp_path, config):
    save_state(tiny_unet(), tmp_path / "unet.safetensors", torch.float32)
    assert [file.name for file in tmp_path.iterdir()] == ["unet.safetensors"]
    assert torch.equal(
        predict(load_unet(tmp_path / "unet.safetensors", config)), predict(tiny_unet())
    )


def test_the_cache_keeps_half_precision(tmp_path):
    save_state(tiny_unet(), tmp_path / "unet.safetensors", torch.float16)
    state = read_state(tmp_path / "unet.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_missing_unexpected_and_wrongly_shaped_names_are_all_listed(tmp_path, config):
    state = dict(tiny_unet().state_dict())
    del state["conv_in.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["conv_out.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointMismatch) as caught:
        load_unet(save(tmp_path / "unet.pt", state), config)
    for part in ("1 missing (conv_in.bias)", "1 unexpected (extra.weight)", "(7,) instead of (4,)"):
        assert part in caught.value.message


def test_a_checkpoint_without_motion_modules_is_named_as_such(tmp_path, config):
    state = {n: t for n, t in tiny_unet().state_dict().items() if "motion_modules" not in n}
    path = save(tmp_path / "unet.pt", state)
    with pytest.raises(CheckpointMismatch, match=r"version 1\.0"):
        load_unet(path, config)
    plain = UNetConfig.from_mapping({**read_json("tiny_unet_config"), "use_motion_module": False})
    assert load_unet(path, plain).config.use_motion_module is False


def test_a_web_page_instead_of_a_checkpoint_is_said(tmp_path, config):
    for name in ("unet.pt", "unet.safetensors"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>404</html>")
        with pytest.raises(CheckpointUnreadable, match="web page"):
            load_unet(tmp_path / name, config)


def test_a_truncated_checkpoint_is_said(tmp_path, config):
    path = save(tmp_path / "unet.pt", tiny_unet().state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointUnreadable, match=r"cut off \(100000 bytes\)"):
        load_unet(path, config)


def test_a_missing_file_is_said_without_its_folder(tmp_path, config):
    with pytest.raises(CheckpointUnreadable, match=r"unet\.pt is missing") as caught:
        load_unet(tmp_path / "unet.pt", config)
    assert str(tmp_path) not in caught.value.message


def test_code_inside_a_checkpoint_is_never_run(tmp_path, config):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "unet.pt").write_bytes(pickle.dumps({"state_dict": Harmful()}, protocol=2))
    with pytest.raises(CheckpointUnreadable):
        load_unet(tmp_path / "unet.pt", config)
    assert not (tmp_path / "written").exists()


def test_whisper_loads_from_the_published_layout(tmp_path):
    dims = WhisperDims(n_audio_state=32, n_audio_head=2)
    state = stand_in_state(WhisperEncoder(dims), prefix="encoder.")
    content = {
        "dims": {**vars(dims), "n_vocab": 64},
        "model_state_dict": {
            **{f"encoder.{name}": tensor.half() for name, tensor in state.items()},
            "decoder.ln.weight": torch.zeros(3),
        },
    }
    encoder = load_whisper_encoder(save(tmp_path / "tiny.pt", content))
    assert encoder.conv1.weight.dtype == torch.float32
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 80, 3000)).shape == (1, 1500, 5, 32)
    with pytest.raises(CheckpointMismatch, match="no Whisper checkpoint"):
        load_whisper_encoder(save(tmp_path / "unet.pt", {"state_dict": {}}))
