"""Tone mapping of high dynamic range (PQ, HLG) to BT.709 by a three-dimensional table.

Every colour goes through these steps once, when the table is built:

1. Signal to light of the display, in cd/m² (nits): the EOTF of PQ (SMPTE ST 2084), or the inverse
   OETF and the OOTF of HLG on a display of 1,000 nits (ITU-R BT.2100-2, tables 4 and 5).
2. Primaries to those of BT.709; colours that BT.709 does not have get negative components.
3. The roll-off of the EETF (ITU-R BT.2390-8, section 5.4.1) on the largest component, so that hues
   stay. SDR white is 203 nits, the reference white of HDR (ITU-R BT.2408-4, section 2).
   On a source of 1,000 nits, colours below about 80 nits keep their luminance, the reference white
   becomes 79 % of SDR white (a signal of 0.91) and 1,000 nits become SDR white.
4. Colours with negative components are desaturated, at equal luminance, until they have none.
5. Light to signal: the inverse of BT.1886 with a gamma of 2.4 and black at zero.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from latentsync.formats import VIDEO_FPS

Values = NDArray[np.float64]

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
SDR_WHITE_NITS = 203.0
PEAK_NITS = 1000.0  # of HLG, and of most PQ; brighter colours are cut
MOST_NITS = 10_000.0  # of PQ

# x and y of red, green and blue by the code points of ITU-T H.273; all with the white of D65.
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)
_BT709, _BT2020 = 1, 9

_NODES = 49  # of the table on each side; greys are within half an 8-bit level of the formula


_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def pq_to_nits(signal: Values) -> Values:
    """Return the luminance of PQ signals in 0..1 (the EOTF of ST 2084)."""
    power = np.maximum(signal, 0) ** (1 / _PQ_M2)
    ratio = np.maximum(power - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * power)
    return MOST_NITS * ratio ** (1 / _PQ_M1)


def nits_to_pq(nits: Values) -> Values:
    """Return the PQ signals, in 0..1, of a luminance (the inverse of :func:`pq_to_nits`)."""
    power = (np.maximum(nits, 0) / MOST_NITS) ** _PQ_M1
    return ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2


def hlg_to_nits(signal: Values, luma: Values) -> Values:
    """Return the light of a display of 1,000 nits for HLG signals.

    Args:
        signal: (..., 3) red, green and blue in 0..1.
        luma: (3,) shares of red, green and blue in the luminance.
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    system_gamma = 1.2
    luminance = (scene @ luma)[..., None]
    return PEAK_NITS * luminance ** (system_gamma - 1) * scene


def roll_off(nits: Values) -> Values:
    """Compress luminances of 0..:data:`PEAK_NITS` to 0..:data:`SDR_WHITE_NITS` (the EETF)."""
    peak = nits_to_pq(np.array(PEAK_NITS))
    top = float(nits_to_pq(np.array(SDR_WHITE_NITS)) / peak)
    signal = np.minimum(nits_to_pq(nits) / peak, 1.0)
    knee = 1.5 * top - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * top
    )
    return pq_to_nits(np.where(signal < knee, signal, spline) * peak)


def to_sdr(signal: Values, transfer: int, primaries: int) -> Values:
    """Return the BT.709 signals of HDR signals.

    Args:
        signal: (..., 3) red, green and blue in 0..1.
        transfer: :data:`PQ` or :data:`HLG`.
        primaries: code point of ITU-T H.273; BT.2020 is assumed for any but BT.709 and Display P3.
    """
    to_xyz = _rgb_to_xyz(primaries if primaries in _PRIMARIES else _BT2020)
    nits = pq_to_nits(signal) if transfer == PQ else hlg_to_nits(signal, to_xyz[1])
    bt709_to_xyz = _rgb_to_xyz(_BT709)
    nits = nits @ (np.linalg.inv(bt709_to_xyz) @ to_xyz).T
    brightest = np.maximum(nits.max(axis=-1, keepdims=True), 1e-6)
    light = nits * roll_off(brightest) / brightest / SDR_WHITE_NITS
    return np.clip(_desaturate(light, bt709_to_xyz[1]), 0, 1) ** (1 / 2.4)


def _desaturate(light: Values, luma: Values) -> Values:
    """Mix colours with their grey until no component is negative; luminances stay."""
    grey = (light @ luma)[..., None]
    lowest = light.min(axis=-1, keepdims=True)
    share = np.where(lowest < 0, grey / np.maximum(grey - lowest, 1e-12), 1.0)
    return grey + share * (light - grey)


def _rgb_to_xyz(primaries: int) -> Values:
    """Return the 3x3 matrix of linear RGB to XYZ with Y of white at 1 (SMPTE RP 177)."""
    chromaticities = np.array([(x, y, 1 - x - y) for x, y in _PRIMARIES[primaries]]).T
    x, y = _D65
    white = np.array([x / y, 1, (1 - x - y) / y])
    return np.asarray(chromaticities * np.linalg.solve(chromaticities, white), np.float64)


class ToneMap:
    """Turns HDR frames of ``gbrp16le`` or ``gbrap16le`` into BT.709 ones of the same format."""

    def __init__(self, transfer: int, primaries: int) -> None:
        self._table = _build_table(transfer, primaries)
        self._shape: tuple[int, int, str] | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame in BT.709; alpha stays as it is."""
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            self._graph, self._shape = self._build_graph(frame), shape
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _build_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=VideoFormat(frame.format.name),
            time_base=Fraction(1, VIDEO_FPS),
        )
        with TemporaryDirectory() as folder:  # the filter reads the file at once
            path = Path(folder, "tone.cube")
            path.write_text(self._table, encoding="ascii")
            table = graph.add("lut3d", file=str(path), interp="tetrahedral")
        graph.link_nodes(source, table, graph.add("buffersink")).configure()
        return graph


@lru_cache(maxsize=4)
def _build_table(transfer: int, primaries: int) -> str:
    """Return the table as a .cube file; red varies fastest, blue slowest."""
    steps = np.linspace(0, 1, _NODES)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    mapped = to_sdr(np.stack([red, green, blue], -1), transfer, primaries)
    rows = "%.5f %.5f %.5f\n" * _NODES**3 % tuple(mapped.ravel().tolist())
    return f"LUT_3D_SIZE {_NODES}\n{rows}"
