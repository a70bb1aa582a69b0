"""whisper_*.npz: from samples to what each video frame hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch

from latentsync.models.whisper import WhisperEncoder
from latentsync.pipelines.lipsync.audio_features import count_slices, plan_windows
from latentsync.pipelines.lipsync.mel import LogMel
from tests.parity.checks.slicing import slice_features
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

_MEL, _FEATURES = Tolerance(1e-4), Tolerance(2e-3)  # features reach about 10
_LOUDEST = 32768  # of 16-bit samples
_MEL_TAIL = 120  # columns
_HEAD, _TAIL = 100, 200  # rows
_FAMILIES = (
    "mel|mel_tail|feat|feat_head|feat_tail|feat_len|feat_sum|feat_seam|"
    "n_chunks|chunk_first|chunk_last"
)
_SEAM = slice(1400, 1550)  # rows around the end of the first window


def check_full(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    """The encoder at its published size."""
    yield from _clips(recorded, cache(lambda: networks.whisper(True)))


def check_tiny(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    """The reduced encoder."""
    yield from _clips(recorded, cache(lambda: networks.whisper(False)))


def _clips(recorded: RecordedFile, load: Callable[[], WhisperEncoder]) -> Iterator[Output]:
    families = {match[1] for match in recorded.numbered(rf"({_FAMILIES})\d+")}
    for number in recorded.cases("wave", _FAMILIES):
        clip = _Clip(recorded, f"wave{number}", load)
        for family, (tolerance, make, dtype) in clip.arrays().items():
            name = f"{family}{number}"
            # Files differ in what they hold of every clip; only long clips have a seam.
            if name in recorded or (family in families and family != "feat_seam"):
                yield Output(name, tolerance, make, dtype)


class _Clip:
    def __init__(
        self, recorded: RecordedFile, wave: str, load: Callable[[], WhisperEncoder]
    ) -> None:
        self._recorded, self._wave, self._load = recorded, wave, load
        self.mel, self.features = cache(self._columns), cache(self._encode)

    def arrays(self) -> dict[str, tuple[Tolerance, Callable[[], Array], str]]:
        features, chunks = self.features, self._chunks
        return {
            "mel": (_MEL, self.mel, "float32"),
            "mel_tail": (_MEL, lambda: self.mel()[:, -_MEL_TAIL:], "float32"),
            "feat": (_FEATURES, features, "float32"),
            "feat_head": (_FEATURES, lambda: features()[:_HEAD], "float32"),
            "feat_tail": (_FEATURES, lambda: features()[-_TAIL:], "float32"),
            "feat_sum": (_FEATURES, lambda: features().sum(1), "float32"),
            "feat_seam": (_FEATURES, lambda: features()[_SEAM], "float32"),
            "feat_len": (EXACT, lambda: np.array(len(features())), "int"),
            "n_chunks": (EXACT, lambda: np.array(len(chunks())), "int"),
            "chunk_first": (_FEATURES, lambda: chunks()[0], "float32"),
            "chunk_last": (_FEATURES, lambda: chunks()[-1], "float32"),
        }

    def _log_mel(self) -> LogMel:
        return LogMel(self._recorded.read(self._wave, "int").astype(np.float32) / _LOUDEST)

    def _columns(self) -> Array:
        mel = self._log_mel()
        return mel.columns(0, mel.num_columns)

    def _encode(self) -> Array:
        mel, encoder = self._log_mel(), self._load()
        parts = []
        with torch.inference_mode():
            for window in plan_windows(mel.num_columns):
                columns = torch.from_numpy(mel.padded_window(window.start, window.stop))
                parts.append(encoder(columns[None])[0, : window.num_rows])
        return torch.cat(parts).numpy()

    def _chunks(self) -> Array:
        features = self.features()
        return slice_features(features, np.arange(count_slices(len(features))))
