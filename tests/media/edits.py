"""Changes finished files into other valid ones, as other programs than FFmpeg write them."""

from __future__ import annotations

import struct
from collections.abc import Callable


def wav_sizes(riff: int | None, data: int | None) -> Callable[[bytes], bytes]:
    """Return an edit that writes other sizes of the whole and of its samples; None leaves one."""

    def edit(content: bytes) -> bytes:
        wrong = bytearray(_plain_wav(content))
        if riff is not None:
            struct.pack_into("<I", wrong, 4, riff)
        if data is not None:
            struct.pack_into("<I", wrong, 40, data)
        return bytes(wrong)

    return edit


def wav_counting_the_pad(content: bytes) -> bytes:
    """Count a pad byte that follows an odd number of samples, but was not written."""
    _, samples = _parts(content)
    samples = samples[: len(samples) // 2 * 2 - 1]
    return _wav(content, b"", samples, len(samples) + 1)


def wav_chunk_before(content: bytes) -> bytes:
    """Put a list of names before the samples."""
    _, samples = _parts(content)
    return _wav(content, _chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 6) + b"Lavf62"), samples)


def wav_chunk_after(content: bytes) -> bytes:
    """Put a list of names after the samples."""
    names = _chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 6) + b"Lavf62")
    whole = bytearray(_plain_wav(content) + names)
    struct.pack_into("<I", whole, 4, len(whole) - 8)
    return bytes(whole)


def wav_odd_chunk_before(content: bytes) -> bytes:
    """Put a chunk of odd length, with its pad byte, before the samples."""
    _, samples = _parts(content)
    return _wav(content, _chunk(b"junk", b"odd"), samples)


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the format chunk and the samples of a finished file."""
    chunks, position = {}, 12
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        chunks[kind] = content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return chunks[b"fmt "], chunks[b"data"]


def _plain_wav(content: bytes) -> bytes:
    _, samples = _parts(content)
    return _wav(content, b"", samples)


def _wav(content: bytes, before: bytes, samples: bytes, data_bytes: int | None = None) -> bytes:
    """Return a file of a format chunk of 16 bytes, what comes before the samples, and these."""
    form, _ = _parts(content)
    data = struct.pack("<4sI", b"data", len(samples) if data_bytes is None else data_bytes)
    body = b"WAVE" + _chunk(b"fmt ", form[:16]) + before + data + samples
    return b"RIFF" + struct.pack("<I", 4 + len(body) - 4) + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)


def avi_of_unknown_sizes(content: bytes) -> bytes:
    """Forget the sizes of the whole and of its frames, and the index, as after a power cut."""
    index = content.rfind(b"idx1")
    frames = content.find(b"movi") - 8
    wrong = bytearray(content[:index])
    struct.pack_into("<I", wrong, 4, 0)
    struct.pack_into("<I", wrong, frames + 4, 0)
    return bytes(wrong)


def mp4_of_unknown_mdat(content: bytes) -> bytes:
    """Let the last box, of the samples, reach to the end of the file, whatever its size."""
    start = content.rfind(b"mdat") - 4
    return content[:start] + struct.pack(">I", 0) + content[start + 4 :]


def flac_of_unknown_length(content: bytes) -> bytes:
    """Forget the number of samples and their checksum."""
    wrong = bytearray(content)
    wrong[21] &= 0xF0  # the upper 4 of the 36 bits
    wrong[22:42] = bytes(20)  # the other 32 bits and the MD5 sum
    return bytes(wrong)


def au_of_unknown_size(content: bytes) -> bytes:
    """State that the size is not known."""
    return content[:8] + b"\xff\xff\xff\xff" + content[12:]


def ogg_without_last_page(content: bytes) -> bytes:
    """Take the last page away, which says that nothing follows."""
    return content[: content.rfind(b"OggS")]


def id3_tag_first(content: bytes) -> bytes:
    """Put an ID3 tag of 64 empty bytes first."""
    return b"ID3\x04\0\0" + bytes([0, 0, 0, 64]) + bytes(64) + content
