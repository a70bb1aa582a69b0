"""Colour metadata, exact conversion between YUV and RGB, and rotation by the display matrix.

``matrix``, ``primaries`` and ``transfer`` are code points of ITU-T H.273, as in FFmpeg (1 is BT.709
in all three, 2 is unspecified).
"""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from latentsync.formats import Frame
from latentsync.media.tone import HLG, PQ, ToneMap

UNSPECIFIED = 2
BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020_NCL = 1, 4, 5, 6, 7, 9
_MATRICES = {BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020_NCL}
_SWSCALE_BT601 = 5  # swscale has one number for both 601 matrices, which are equal

_SAME_SHAPE = 0.02  # frames whose shape differs by less are stretched

# swscale's fast paths darken luma by one level per conversion; with these flags
# YUV -> RGB -> YUV preserves every luma value.
_EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class Colour:
    """Colour metadata of a video; ``matrix`` is always one that can be written."""

    matrix: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False

    @property
    def hdr_name(self) -> str | None:
        """Name of the high dynamic range; None for an ordinary one."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.transfer)

    @property
    def written(self) -> "Colour":
        """The colour metadata of a result: a high dynamic range has been mapped to BT.709."""
        if self.hdr_name is None:
            return self
        return Colour(matrix=BT709, primaries=BT709, transfer=BT709)

    @property
    def swscale_matrix(self) -> int:
        """The code of ``matrix`` in swscale."""
        return _SWSCALE_BT601 if self.matrix in (BT470BG, SMPTE170M) else self.matrix


def read_colour(frame: VideoFrame) -> Colour:
    """Return the colour metadata of a decoded frame; a missing matrix is guessed by its size."""
    matrix = frame.colorspace if frame.colorspace in _MATRICES else _guess_matrix(frame)
    return Colour(
        matrix=matrix,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        full_range=(
            frame.color_range == ColorRange.JPEG
            or frame.format.is_rgb
            or frame.format.name.startswith("yuvj")
        ),
    )


def _guess_matrix(frame: VideoFrame) -> int:
    """Return what players assume: BT.709 for high definition, otherwise BT.601."""
    return BT709 if frame.width >= 1280 or frame.height > 576 else SMPTE170M


def has_alpha(frame: VideoFrame) -> bool:
    """Return whether a frame's pixel format has transparency."""
    return any(component.is_alpha for component in frame.format.components)


def is_transparent(frame: VideoFrame) -> bool:
    """Return whether some pixels of a frame are transparent."""
    if not has_alpha(frame):
        return False
    rgba = VideoReformatter().reformat(frame, format="rgba")
    return bool(rgba.to_ndarray()[..., 3].min() < 255)


class ToRgb:
    """Converts decoded frames of any pixel format, depth and size to RGB of one size.

    Transparent pixels are shown on black, and a high dynamic range is mapped to BT.709. A frame of
    another shape is fitted into the size, on black.

    Args:
        width, height: size of the result in pixels, before any rotation.
        colour: metadata of the frames.
        pixel_aspect: width of a stored pixel divided by its height.

    Attributes:
        other_sizes: stored sizes of frames that had to be fitted.
    """

    def __init__(self, width: int, height: int, colour: Colour, pixel_aspect: float = 1.0) -> None:
        self._width, self._height, self._colour = width, height, colour
        self._pixel_aspect = pixel_aspect
        self.other_sizes: set[tuple[int, int]] = set()
        self._reformatter = VideoReformatter()
        self._from_wide = VideoReformatter()
        self._tone_map = (
            None if colour.hdr_name is None else ToneMap(colour.transfer, colour.primaries)
        )

    def __call__(self, frame: VideoFrame) -> Frame:
        """Return H,W,3 uint8 RGB."""
        width, height = self._fit(frame)
        pixels = self._to_pixels(frame, width, height)
        if (width, height) == (self._width, self._height):
            return pixels
        fitted = np.zeros((self._height, self._width, 3), np.uint8)
        top, left = (self._height - height) // 2, (self._width - width) // 2
        fitted[top : top + height, left : left + width] = pixels
        return fitted

    def _fit(self, frame: VideoFrame) -> tuple[int, int]:
        """Return the size, within that of the result, in which a frame keeps its shape."""
        shape = frame.width * self._pixel_aspect / frame.height
        square_width = frame.width * max(1.0, self._pixel_aspect)
        square_height = frame.height / min(1.0, self._pixel_aspect)
        if abs(square_width - self._width) > 1 or abs(square_height - self._height) > 1:
            self.other_sizes.add((frame.width, frame.height))
        if abs(shape * self._height / self._width - 1) < _SAME_SHAPE:
            return self._width, self._height
        width = min(self._width, max(1, round(self._height * shape)))
        return width, min(self._height, max(1, round(width / shape)))

    def _to_pixels(self, frame: VideoFrame, width: int, height: int) -> Frame:
        alpha = has_alpha(frame)
        packed = "rgba" if alpha else "rgb24"
        if self._tone_map is None:
            converted = self._convert(frame, packed, width, height)
        else:
            deep = "gbrap16le" if alpha else "gbrp16le"
            wide = self._tone_map(self._convert(frame, deep, width, height))
            converted = self._from_wide.reformat(wide, format=packed)
        pixels = np.asarray(converted.to_ndarray(), dtype=np.uint8)
        return _on_black(pixels) if alpha else pixels

    def _convert(self, frame: VideoFrame, pixel_format: str, width: int, height: int) -> VideoFrame:
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=pixel_format,
            src_colorspace=self._colour.swscale_matrix,
            src_color_range=ColorRange.JPEG if self._colour.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
            threads=1,
        )


def _on_black(pixels: NDArray[np.uint8]) -> Frame:
    """Composite straight-alpha RGBA pixels over black."""
    alpha = cv2.merge([pixels[..., 3]] * 3)
    return np.asarray(cv2.multiply(pixels[..., :3], alpha, scale=1 / 255), np.uint8)


class ToYuv:
    """Converts RGB frames to limited-range yuv420p with the matrix of ``colour``."""

    def __init__(self, colour: Colour) -> None:
        self._colour = colour
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Frame) -> VideoFrame:
        """Return a yuv420p frame; ``frame`` is H,W,3 uint8 RGB with even sides."""
        yuv = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self._colour.swscale_matrix,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
            threads=1,
        )
        yuv.colorspace = self._colour.matrix
        yuv.color_primaries = self._colour.primaries
        yuv.color_trc = self._colour.transfer
        return yuv


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of a rectangle: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, frame: Frame) -> Frame:
        """Return the frame upright as contiguous H,W,3; a view if it is upright already."""
        upright = frame.transpose(1, 0, 2) if self.transpose else frame
        if self.flip_x:
            upright = upright[:, ::-1]
        if self.flip_y:
            upright = upright[::-1]
        return np.ascontiguousarray(upright)

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after :meth:`apply`."""
        return (height, width) if self.transpose else (width, height)


def read_orientation(frame: VideoFrame) -> Orientation:
    """Return the orientation of a decoded frame.

    The display matrix maps pixel (x, y) to (a x + c y, b x + d y). Angles are rounded to a multiple
    of 90 degrees.
    """
    side_data = cast(SideDataContainer, frame.side_data).get(Type.DISPLAYMATRIX)
    if side_data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)
