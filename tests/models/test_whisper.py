from __future__ import annotations

import numpy as np
import torch

from latentsync.models.whisper import WhisperDims, WhisperEncoder
from tests.models.golden import fingerprint, read_golden, shapes_of, stand_in_state, worst

PUBLISHED = "ff2588bccde1009c79b45bfb4d848d109e505233344b7c39321d122c9822619f"  # tiny, encoder only


def test_names_and_shapes_are_the_published_ones():
    shapes = shapes_of(WhisperEncoder(WhisperDims()))
    assert fingerprint({f"encoder.{name}": shape for name, shape in shapes.items()}) == PUBLISHED


def test_the_states_of_every_layer_are_the_references():
    golden = read_golden("whisper_full_dims")
    encoder = WhisperEncoder(WhisperDims()).eval()
    encoder.load_state_dict(stand_in_state(encoder, prefix="encoder."))
    mel = np.zeros((1, 80, 3000), np.float32)
    mel[0, :, : golden["mel0"].shape[1]] = golden["mel0"]
    with torch.inference_mode():
        states = encoder(torch.from_numpy(mel))[0]
    assert states.shape == (1500, 5, 384)
    assert worst(states[torch.from_numpy(golden["rows"])], golden["feat0"]) < 2e-3
