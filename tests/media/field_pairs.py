"""Writes H.264 whose frames are pairs of separately coded fields (PAFF); no encoder here does.

Every macroblock is stored as plain samples (I_PCM). Sources: ITU-T H.264, sections 7.3.2.1
(sequence parameters), 7.3.2.2 (picture parameters), 7.3.3 (slice header) and 7.4.1 (emulation
prevention).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

SIDE = 128  # of the square picture, in pixels
_MACROBLOCKS = SIDE // 16 * SIDE // 32  # of a field
_START = b"\0\0\0\1"
_DELIMITER = _START + b"\x09\x10"


class _Bits:
    """Collects bits, first the most significant one."""

    def __init__(self) -> None:
        self._text = ""

    def fixed(self, *pairs: tuple[int, int]) -> _Bits:
        """Append values of a fixed length, as pairs of length and value."""
        self._text += "".join(format(value, f"0{length}b") for length, value in pairs)
        return self

    def golomb(self, *values: int) -> _Bits:
        """Append Exp-Golomb codes."""
        for value in values:
            code = format(value + 1, "b")
            self._text += "0" * (len(code) - 1) + code
        return self

    def samples(self, luma: int) -> _Bits:
        """Append a macroblock of plain samples: one luma, no colour."""
        self.golomb(25)
        self._text += "0" * (-len(self._text) % 8)
        self._text += format(luma, "08b") * 256 + format(128, "08b") * 128
        return self

    def unit(self, header: int) -> bytes:
        """Return a NAL unit."""
        text = self._text + "1"
        text += "0" * (-len(text) % 8)
        content, zeros = bytearray(), 0
        for byte in int(text, 2).to_bytes(len(text) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                content.append(3)
                zeros = 0
            content.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return _START + bytes([header]) + bytes(content)


def _parameters() -> bytes:
    """Return sequence parameters (Main profile, fields) and picture parameters."""
    sequence = _Bits().fixed((8, 77), (8, 0), (8, 30)).golomb(0, 0, 2, 1).fixed((1, 0))
    sequence.golomb(SIDE // 16 - 1, SIDE // 32 - 1).fixed((1, 0), (1, 0), (1, 1), (1, 0), (1, 0))
    picture = _Bits().golomb(0, 0).fixed((1, 0), (1, 0)).golomb(0, 0, 0).fixed((1, 0), (2, 0))
    picture.golomb(0, 0, 0).fixed((1, 0), (1, 0), (1, 0))
    return sequence.unit(0x67) + picture.unit(0x68)


def _field(number: int, luma: int, *, is_bottom: bool) -> bytes:
    bits = _Bits().golomb(0, 7, 0).fixed((4, 0), (1, 1), (1, int(is_bottom)))
    if is_bottom:
        bits.fixed((1, 0))
    else:  # an IDR picture
        bits.golomb(number % 2).fixed((1, 0), (1, 0))
    bits.golomb(0)
    for _ in range(_MACROBLOCKS):
        bits.samples(luma)
    return bits.unit(0x61 if is_bottom else 0x65)


def write_field_pairs(path: Path, lumas: Sequence[int]) -> Path:
    """Write a transport stream of grey frames, 25 per second, each with one timestamp."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_mux_stream("h264", width=SIDE, height=SIDE)
        stream.time_base = Fraction(1, 90_000)
        for number, luma in enumerate(lumas):
            fields = [_field(number, luma, is_bottom=is_bottom) for is_bottom in (False, True)]
            packet = av.Packet(_DELIMITER + _parameters() + b"".join(fields))
            packet.stream, packet.time_base = stream, stream.time_base
            packet.pts = packet.dts = 9_000 + number * 3_600
            packet.is_keyframe = True
            container.mux(packet)
    return path
