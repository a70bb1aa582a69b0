"""One pass over the packets of a file: which streams are used, and how their clocks go on."""

from __future__ import annotations  # the generics of av exist for type checkers only

from collections.abc import Iterator, Sequence

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from latentsync.errors import LatentSyncError, NoAudio, NoVideo, TruncatedMedia, UnreadableMedia
from latentsync.media.clock import Stretches, close_jumps
from latentsync.media.container import BrokenOff, read_packets
from latentsync.media.limits import check_picture
from latentsync.media.tracks import (
    EMPTY,
    MOST_JUMPS,
    SoundTrack,
    Track,
    TrackT,
    VideoTrack,
    name_stream,
)
from latentsync.settings import Settings

_SPARE = 1.05  # recorded beyond the limits, so that their own checks refuse it
# Containers that may end anywhere: streams, whose last packet is played as far as it goes, and
# those whose end :mod:`latentsync.media.truncation` has checked.
_OPEN_ENDED = {"mpegts", "mpeg", "flv", "wav", "w64", "aiff", "au", "caf"}
# Containers whose header has the length, so that a missing end is noticed by it.
_DECLARES_LENGTH = {"flac", "flv"}
_LONGEST_BLOCK_S = 0.5  # of what may be missing at the end without being noticed
_NOT_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class _Scan:
    """The pass over all packets of a file."""

    def __init__(self, container: InputContainer, settings: Settings, field: str) -> None:
        self._container = container
        self._field = field
        most_frames = settings.max_duration_s * settings.max_fps * _SPARE
        longest_s = settings.max_duration_s * _SPARE
        streams = container.streams
        self.videos = [
            VideoTrack(stream, container.format.name, most_frames, settings.max_pixels)
            for stream in streams.video
            if not stream.disposition & _NOT_PICTURES
        ]
        self.sounds = [SoundTrack(stream, longest_s) for stream in streams.audio]

    def run(self, wanted: Sequence[Track]) -> None:
        """Read all packets, until the preferred one of the wanted tracks exceeds a limit."""
        tracks = {track.stream.index: track for track in (*self.videos, *self.sounds)}
        for packet in self._packets([track.stream for track in tracks.values()]):
            track = tracks.get(packet.stream_index)
            if track is None:  # a stream that changed its kind on the way
                continue
            if track in wanted and track.stream.codec_context is not None:
                track.first_frame.feed(packet)
            if packet.size and not track.is_full:
                track.add(packet)
            if track.is_full and track is _choose(wanted):
                break
        for one in self.videos:
            one.settle()

    def _packets(self, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
        try:
            yield from read_packets(self._container, *streams)
        except BrokenOff as error:
            raise TruncatedMedia(
                f"{self._field} breaks off: {error}.", field=self._field
            ) from error

    def close_jumps(self, video: VideoTrack | None, sound: SoundTrack | None) -> None:
        """Make the clocks of two tracks continuous; raise UnreadableMedia for too many jumps."""
        stretches = [
            Stretches(1.0, []) if track is None else track.stretches() for track in (video, sound)
        ]
        if max(len(one.stretches) for one in stretches) > MOST_JUMPS + 1:
            raise UnreadableMedia(
                f"The timestamps of {self._field} jump more than {MOST_JUMPS} times.",
                field=self._field,
            )
        clocks = close_jumps(*stretches)
        for track, clock in zip((video, sound), clocks, strict=True):
            if track is not None:
                track.clock = clock

    def check_end(self, track: Track) -> None:
        """Raise TruncatedMedia if a track ends before it should."""
        kind = self._container.format.name
        if track.is_full:  # it is refused, and was not read to its end
            return
        if track.is_cut and kind not in _OPEN_ENDED:
            raise TruncatedMedia(
                f"{self._field} is cut off in the middle of its last packet.", field=self._field
            )
        if kind in _DECLARES_LENGTH and self._container.duration:
            declared_s = self._container.duration / av.time_base
            found_s = max(one.end_s for one in (*self.videos, *self.sounds))
            if found_s < declared_s - _LONGEST_BLOCK_S:
                raise TruncatedMedia(
                    f"{self._field} is cut off: it should last {declared_s:.2f} s but ends after "
                    f"{found_s:.2f} s.",
                    field=self._field,
                )


def scan_video(container: InputContainer, settings: Settings, field: str) -> VideoTrack:
    """Return the video track of a file that is to be used, with a continuous clock.

    Attached pictures never are; then the one that the file marks as default comes first, then the
    order in the file. Tracks that are empty or cannot be decoded are passed over.

    Args:
        container: the opened file, at its start.
        settings: limits, beyond which nothing is recorded.
        field: request field of the file, for messages.

    Raises:
        NoVideo: there is none, or only empty ones.
        UnreadableMedia: none can be decoded; the message names all.
        PictureTooLarge, PictureTooSmall, TruncatedMedia
    """
    scan = _Scan(container, settings, field)
    if not scan.videos:
        raise _lacking(container, NoVideo, "video stream", field)
    scan.run(scan.videos)
    track = _choose(scan.videos)
    if track is None:
        for one in scan.videos:
            scan.check_end(one)
            if one.stream.codec_context is not None and one.num_packets and one.has_size:
                check_picture(one.stream.width, one.stream.height, settings, field)
        if all(one.obstacle == EMPTY for one in scan.videos):
            raise NoVideo(f"{field} has a video stream without a single frame.", field=field)
        raise _unusable(scan.videos, "video", field)
    track.alternatives = [one for one in scan.videos if one is not track and not one.obstacle]
    scan.check_end(track)
    if track.is_cut:
        track.drop_last()
    scan.close_jumps(track, _choose(scan.sounds, decoded=False))
    return track


def scan_sound(container: InputContainer, settings: Settings, field: str) -> SoundTrack:
    """Return the sound track of a file that is to be used, chosen as in :func:`scan_video`.

    Raises:
        NoAudio: there is none, or only empty ones.
        UnreadableMedia: none can be decoded; the message names all.
        TruncatedMedia
    """
    scan = _Scan(container, settings, field)
    if not scan.sounds:
        raise _lacking(container, NoAudio, "sound", field)
    scan.run(scan.sounds)
    track = _choose(scan.sounds)
    if track is None:
        if all(one.obstacle == EMPTY for one in scan.sounds):
            raise NoAudio(f"{field} has a sound stream without any sound.", field=field)
        raise _unusable(scan.sounds, "sound", field)
    track.alternatives = [one for one in scan.sounds if one is not track and not one.obstacle]
    scan.check_end(track)
    scan.close_jumps(_choose(scan.videos, decoded=False), track)
    return track


def _choose(tracks: Sequence[TrackT], *, decoded: bool = True) -> TrackT | None:
    """Return the first usable track in the order of preference.

    Args:
        tracks: of one kind, in the order of the file.
        decoded: whether a frame must have been decoded.
    """
    usable = [
        track
        for track in sorted(tracks, key=lambda track: not track.is_default)
        if (track.obstacle if decoded else track.obstacle_to_reading) is None
    ]
    return usable[0] if usable else None


def _lacking(
    container: InputContainer, error: type[LatentSyncError], kind: str, field: str
) -> LatentSyncError:
    """Return the error that a file has no stream of a kind."""
    if not len(container.streams):
        return UnreadableMedia(f"{field} is damaged: no streams are found in it.", field=field)
    found = ", ".join(name_stream(stream) for stream in container.streams)
    return error(f"{field} holds no {kind}, only {found}.", field=field)


def _unusable(tracks: Sequence[Track], kind: str, field: str) -> UnreadableMedia:
    """Return the error that names all tracks and why none can be used."""
    found = ", ".join(f"{track.name} {track.obstacle}" for track in tracks)
    return UnreadableMedia(f"{field} has no {kind} that can be decoded: {found}.", field=field)
