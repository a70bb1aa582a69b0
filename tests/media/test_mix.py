"""Several recordings in one sound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from latentsync.media.mix import Heard, mix
from latentsync.media.sound import Block

RATE, FADE = 1000, 10  # samples: 10 ms


def level(value: float, length: int, block: int = 77, channels: int = 1) -> Iterator[Block]:
    """Yield a constant in blocks of an odd length."""
    for start in range(0, length, block):
        yield np.full((channels, min(block, length - start)), value, np.float32)


def mixed(
    background: Iterator[Block] | None, *heard: Heard, length: int = 10_000, layout: str = "mono"
) -> Block:
    sound = mix(background, heard, sample_rate=RATE, layout=layout, num_samples=length)
    assert (sound.sample_rate, sound.layout) == (RATE, layout)
    return np.concatenate(list(sound.blocks), axis=1)


def test_a_recording_is_heard_at_its_place_and_silence_elsewhere() -> None:
    (sound,) = mixed(None, Heard(level(0.5, 3000), 0, 5000, 8000))
    assert (sound[:5000] == 0).all()
    assert (sound[5000 : 8000 - FADE] == 0.5).all()
    assert (np.diff(sound[8000 - FADE : 8000]) < 0).all()
    assert (sound[8000:] == 0).all()
    assert sound.size == 10_000


def test_a_recording_begins_where_it_is_asked_to() -> None:
    ramp = np.arange(3000, dtype=np.float32)[None] / 3000
    (sound,) = mixed(None, Heard(iter([ramp[:, :100], ramp[:, 100:]]), 1234, 100, 1100))
    assert (sound[100 + FADE : 1100 - FADE] == ramp[0, 1234 + FADE : 2234 - FADE]).all()
    assert 0 < sound[100] < ramp[0, 1234]  # a cut begins softly


def test_a_recording_that_ends_early_is_followed_by_silence() -> None:
    (sound,) = mixed(None, Heard(level(0.5, 300), 0, 0, 2000))
    assert (sound[:300] == 0.5).all()
    assert (sound[300:] == 0).all()


def test_the_background_is_heard_between_recordings() -> None:
    (sound,) = mixed(
        level(0.25, 9000),
        Heard(level(0.5, 900), 0, 1000, 2000),
        Heard(level(0.5, 99), 0, 4100, 4200),
    )
    assert (sound[: 1000 - FADE] == 0.25).all()
    assert (sound[1000:1900] == 0.5).all()
    assert (sound[1900:2000] == 0).all()  # the speaker is silent, and still the only one
    assert (sound[2000 + FADE : 4100 - FADE] == 0.25).all()
    assert (sound[9000:] == 0).all()


def test_people_who_speak_at_once_are_added_up_and_never_too_loud() -> None:
    (sound,) = mixed(
        None, Heard(level(0.25, 2000), 0, 0, 2000), Heard(level(0.5, 2000), 0, 1000, 3000)
    )
    assert (sound[1000 : 2000 - FADE] == 0.75).all()
    (loud,) = mixed(None, Heard(level(-0.8, 50), 0, 0, 500), Heard(level(-0.8, 50), 0, 0, 500))
    assert loud.min() == -1


def test_all_channels_are_kept() -> None:
    sound = mixed(None, Heard(level(0.5, 50, channels=6), 0, 0, 100), layout="5.1", length=100)
    assert sound.shape == (6, 100)
    assert (sound[:, :50] == 0.5).all()


@pytest.mark.parametrize("length", [1, 4096, 4097, 8192])
def test_the_length_is_exact(length: int) -> None:
    assert mixed(level(0.1, 5), length=length).shape == (1, length)


def test_memory_does_not_grow_with_length() -> None:
    taken = []

    def endless() -> Iterator[Block]:
        while True:
            taken.append(1)
            yield np.zeros((1, 4096), np.float32)

    sound = mix(endless(), (), sample_rate=RATE, layout="mono", num_samples=10**9)
    for _ in range(3):
        next(sound.blocks)
    assert len(taken) == 3
