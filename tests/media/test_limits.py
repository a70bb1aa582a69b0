"""Lengths that are exactly what is allowed are allowed, however they were added up."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest

from latentsync.errors import AudioTooShort, MediaTooLong
from latentsync.media.limits import check_audio_length, check_length
from latentsync.settings import Settings


@pytest.mark.parametrize("packet_s", [0.06, 0.3, 0.7])
def test_the_longest_allowed_length_may_be_a_sum(packet_s: float) -> None:
    total_s = reduce(add, [packet_s] * 1000)  # sum() itself rounds less from Python 3.12 on
    assert total_s > packet_s * 1000
    check_length(total_s, packet_s * 1000, "video")
    with pytest.raises(MediaTooLong):
        check_length(total_s + 0.001, packet_s * 1000, "video")


def test_the_shortest_allowed_length_may_be_a_difference() -> None:
    check_audio_length(0.7 - 0.6, Settings(min_audio_s=0.1), "audio")
    with pytest.raises(AudioTooShort):
        check_audio_length(0.099, Settings(min_audio_s=0.1), "audio")
