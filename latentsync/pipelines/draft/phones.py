"""Phones, loudness and voice activity of speech, in steps of 10 ms.

Phones are recognized with the acoustic model of pocketsphinx (American English, 16 kHz). The phone
loop has no dictionary: foreign words and names become the nearest English sounds, which is enough
for mouth shapes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder, Vad, get_model_path

from latentsync.formats import SAMPLE_RATE, Waveform

HOP_S = 0.01  # seconds between two values of all curves in this package
HOP_SAMPLES = int(SAMPLE_RATE * HOP_S)
_WINDOW_HOPS = 3  # loudness is measured over 30 ms
_VAD_FRAME_S = 0.03
_VAD_STRICTNESS = 2  # 0 (permissive) to 3 (strict)
_QUIETEST_DB = -90.0  # loudness of digital silence
_ACTIVE_RANGE_DB = 35.0  # speech is at most this far below its loud level
_NOISE_GATE_DB = -60.0  # quieter sound is never speech


def to_pcm16(waveform: Waveform) -> NDArray[np.int16]:
    """Return the waveform as int16; quiet recordings are amplified to a peak of half scale."""
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    gain = 0.5 / peak if 1e-4 < peak < 0.5 else 1.0
    scaled = waveform * np.float32(gain * 32767)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def measure_loudness_db(waveform: Waveform) -> NDArray[np.float64]:
    """Return the loudness in dB of full scale, one value per 10 ms, centred on its window."""
    hops = -(-len(waveform) // HOP_SAMPLES)
    if hops == 0:
        return np.zeros(0)
    whole = len(waveform) // HOP_SAMPLES
    blocks = waveform[: whole * HOP_SAMPLES].reshape(whole, HOP_SAMPLES)
    rest = waveform[whole * HOP_SAMPLES :]
    energy = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    power = np.append(energy, np.square(rest).sum())[:hops] / HOP_SAMPLES
    power = np.convolve(power, np.full(_WINDOW_HOPS, 1 / _WINDOW_HOPS), mode="same")[:hops]
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_QUIETEST_DB / 10))))


def detect_voice(waveform: Waveform, loudness_db: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether there is speech in each 10 ms.

    The detector of WebRTC in pocketsphinx passes some breath and room noise, which is removed by
    its loudness relative to the loud level of the recording.
    """
    voiced = _run_detector(to_pcm16(waveform), len(loudness_db))
    if not voiced.any():
        return voiced
    loud_level = float(np.percentile(loudness_db[voiced], 95))
    floor_db = max(loud_level - _ACTIVE_RANGE_DB, _NOISE_GATE_DB)
    return np.asarray(voiced & (loudness_db > floor_db))


def _run_detector(pcm: NDArray[np.int16], hops: int) -> NDArray[np.bool_]:
    detector = Vad(mode=_VAD_STRICTNESS, sample_rate=SAMPLE_RATE, frame_length=_VAD_FRAME_S)
    step = detector.frame_bytes // pcm.itemsize
    voiced = np.zeros(hops, dtype=np.bool_)
    for start in range(0, len(pcm), step):
        block = pcm[start : start + step]
        if len(block) < step:
            block = np.pad(block, (0, step - len(block)))
        if detector.is_speech(block.tobytes()):
            voiced[start // HOP_SAMPLES : -(-(start + step) // HOP_SAMPLES)] = True
    return voiced


def loudness_gain(
    loudness_db: NDArray[np.float64], voiced: NDArray[np.bool_], *, range_db: float = 25.0
) -> NDArray[np.float64]:
    """Return the loudness of each 10 ms, from 0 (``range_db`` below) to 1 (the loud level)."""
    if not voiced.any():
        return np.zeros_like(loudness_db)
    loud_level = float(np.percentile(loudness_db[voiced], 90))
    return np.asarray(np.clip(1 + (loudness_db - loud_level) / range_db, 0.0, 1.0))


SILENCE = "SIL"
_NOISE_NAMES = frozenset({"SIL", "+SPN+", "+NSN+", "<s>", "</s>", "(NULL)"})
_LANGUAGE_WEIGHT = 2.0  # weight of the phone trigram relative to the sound
_BEAM = 1e-20  # narrower beams lose the path in unclear speech
_LONGEST_UTTERANCE_S = 15.0
_SHORTEST_UTTERANCE_S = 6.0  # cut no earlier, so that the decoder's level estimate settles


@dataclass(frozen=True)
class Phone:
    """One sound: its ARPAbet name (``SIL`` for silence and noise) and its span in seconds."""

    name: str
    start_s: float
    end_s: float


class PhoneRecognizer:
    """The acoustic model, which is loaded once."""

    def __init__(self) -> None:
        self._lock = Lock()  # the decoder keeps the state of one utterance
        model = Path(get_model_path()) / "en-us"
        self._decoder = Decoder(
            hmm=str(model / "en-us"),
            allphone=str(model / "en-us-phone.lm.bin"),
            lw=_LANGUAGE_WEIGHT,
            beam=_BEAM,
            pbeam=_BEAM,
            cmn="batch",  # levels of each utterance by itself
            loglevel="FATAL",
        )

    def recognize(
        self,
        waveform: Waveform,
        voiced: NDArray[np.bool_],
        check: Callable[[], None] = lambda: None,
    ) -> list[Phone]:
        """Return the phones of ``waveform`` in temporal order, without pauses.

        Args:
            waveform: float32 mono 16 kHz.
            voiced: voice activity per 10 ms; long recordings are cut in its pauses.
            check: called between utterances; may raise to stop.
        """
        pcm = to_pcm16(waveform)
        phones: list[Phone] = []
        for start, stop in split_at_pauses(voiced):
            check()
            if voiced[start:stop].any():
                with self._lock:
                    phones.extend(self._decode(pcm, start, stop))
        return phones

    def _decode(self, pcm: NDArray[np.int16], start: int, stop: int) -> Iterator[Phone]:
        self._decoder.reinit_feat()  # reset the noise level of the previous utterance
        self._decoder.start_utt()
        self._decoder.process_raw(
            pcm[start * HOP_SAMPLES : stop * HOP_SAMPLES].tobytes(), full_utt=True
        )
        self._decoder.end_utt()
        # Frames of the decoder are hops of 10 ms.
        for segment in self._decoder.seg() or ():
            name = SILENCE if segment.word in _NOISE_NAMES else segment.word
            yield Phone(
                name,
                (start + segment.start_frame) * HOP_S,
                (start + segment.end_frame + 1) * HOP_S,
            )


def split_at_pauses(voiced: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Split the recording into utterances of 6 to 15 s, at the longest pause in that range.

    Yields:
        (first hop, hop after the last); together they cover the recording without overlap.
    """
    shortest, longest = int(_SHORTEST_UTTERANCE_S / HOP_S), int(_LONGEST_UTTERANCE_S / HOP_S)
    start = 0
    while len(voiced) - start > longest:
        earliest = start + shortest
        cut = earliest + _middle_of_longest_pause(voiced[earliest : start + longest])
        yield start, cut
        start = cut
    if start < len(voiced):
        yield start, len(voiced)


def _middle_of_longest_pause(voiced: NDArray[np.bool_]) -> int:
    """Return the middle of the longest run of silence, or the end when there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], voiced, [True])).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if len(starts) == 0:
        return len(voiced)
    longest = int(np.argmax(stops - starts))
    return int(starts[longest] + stops[longest]) // 2
