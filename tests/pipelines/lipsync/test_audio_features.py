from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.formats import SAMPLE_RATE, Waveform
from latentsync.models.whisper import WhisperEncoder, load_whisper
from latentsync.pipelines.lipsync.audio_features import AudioFeatures, plan_windows
from latentsync.pipelines.lipsync.mel import LogMel
from tests.models.stand_ins import save_whisper
from tests.parity.checks.slicing import slice_features


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> WhisperEncoder:
    torch.set_num_threads(1)
    return load_whisper(save_whisper(tmp_path_factory.mktemp("whisper") / "tiny.pt"))


def sound(seconds: float) -> Waveform:
    samples = np.random.default_rng(3).normal(0, 0.1, int(seconds * SAMPLE_RATE))
    return samples.astype(np.float32)


@torch.inference_mode()
def whole(waveform: Waveform, encoder: WhisperEncoder, frames: int) -> Tensor:
    """All features at once, then cut."""
    mel = LogMel(waveform)
    rows = [
        encoder(torch.from_numpy(mel.padded_window(window.start, window.stop))[None])[0][
            : window.num_rows
        ].numpy()
        for window in plan_windows(mel.num_columns)
    ]
    return torch.from_numpy(slice_features(np.concatenate(rows), np.arange(frames)))


def test_frames_hear_what_the_whole_recording_says(encoder: WhisperEncoder) -> None:
    waveform = sound(31.5)  # two windows
    hearing = AudioFeatures(waveform, encoder, 789)
    wanted = whole(waveform, encoder, 789)
    for start, stop in ((0, 16), (736, 752), (744, 760), (773, 789)):
        assert torch.equal(hearing.slices(start, stop), wanted[start:stop])


def test_each_window_is_encoded_once(encoder: WhisperEncoder) -> None:
    calls: list[int] = []
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    hearing = AudioFeatures(sound(61), encoder, 1525)
    for start in range(0, 1525, 16):
        hearing.slices(start, min(start + 16, 1525))
    hook.remove()
    assert len(calls) == 3


def test_a_video_longer_than_its_sound_hears_silence_not_the_last_word(
    encoder: WhisperEncoder,
) -> None:
    waveform = sound(1)
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    long = AudioFeatures(waveform, encoder, 75).slices(0, 75)
    assert torch.equal(
        long, AudioFeatures(np.concatenate([waveform, silence]), encoder, 75).slices(0, 75)
    )


def test_the_last_frames_of_a_recording_hear_its_end(encoder: WhisperEncoder) -> None:
    heard = AudioFeatures(sound(1), encoder, 27).slices(
        0, 27
    )  # as many as LatentSync makes of a second
    assert torch.equal(heard, whole(sound(1), encoder, 27))


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 1600])
def test_any_sound_is_long_enough(encoder: WhisperEncoder, samples: int) -> None:
    heard = AudioFeatures(sound(1)[:samples], encoder, 2).slices(0, 2)
    assert heard.shape == (2, 50, encoder.dims.n_audio_state)
    assert torch.isfinite(heard).all()
