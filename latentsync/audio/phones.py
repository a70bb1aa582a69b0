"""Speech to phones with the acoustic model inside pocketsphinx (American English, 16 kHz).

The phone loop has no dictionary: foreign words and names become the nearest English sounds, which
is what a mouth shape needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder, get_model_path

from latentsync.audio.activity import HOP_S, HOP_SAMPLES, to_pcm16
from latentsync.formats import Waveform

SILENCE = "SIL"
_NOISE_NAMES = frozenset({"SIL", "+SPN+", "+NSN+", "<s>", "</s>", "(NULL)"})
_LANGUAGE_WEIGHT = 2.0  # how much the phone trigram counts against the sound
_BEAM = 1e-20  # wide: narrower beams lose the path in unclear speech
_LONGEST_UTTERANCE_S = 15.0
_SHORTEST_UTTERANCE_S = 6.0  # cut no earlier, so that the decoder's level estimate settles


@dataclass(frozen=True)
class Phone:
    """One sound: its ARPAbet name (``SIL`` for silence and noise) and its span in seconds."""

    name: str
    start_s: float
    end_s: float


class PhoneRecognizer:
    """Holds the acoustic model; load once, recognize many."""

    def __init__(self) -> None:
        self._lock = Lock()  # the decoder keeps the state of one utterance
        model = Path(get_model_path()) / "en-us"
        self._decoder = Decoder(
            hmm=str(model / "en-us"),
            allphone=str(model / "en-us-phone.lm.bin"),
            lw=_LANGUAGE_WEIGHT,
            beam=_BEAM,
            pbeam=_BEAM,
            cmn="batch",  # levels from the utterance itself, nothing kept from the one before
            loglevel="FATAL",
        )

    def recognize(
        self,
        waveform: Waveform,
        voiced: NDArray[np.bool_],
        check: Callable[[], None] = lambda: None,
    ) -> list[Phone]:
        """Return the phones of ``waveform`` in order of time, gaps left out.

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
        self._decoder.reinit_feat()  # forget the noise level of the utterance before
        self._decoder.start_utt()
        self._decoder.process_raw(
            pcm[start * HOP_SAMPLES : stop * HOP_SAMPLES].tobytes(), full_utt=True
        )
        self._decoder.end_utt()
        # Frames of the decoder are 10 ms, the same as the hops of the activity curves.
        for segment in self._decoder.seg() or ():
            name = SILENCE if segment.word in _NOISE_NAMES else segment.word
            yield Phone(
                name,
                (start + segment.start_frame) * HOP_S,
                (start + segment.end_frame + 1) * HOP_S,
            )


def split_at_pauses(voiced: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Cut the recording into utterances of 6 to 15 s, each cut in the longest pause there.

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
