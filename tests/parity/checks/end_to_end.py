"""e2e_*.npz: the whole pipeline between reading and writing files, with recorded random numbers.

Every array is compared twice: with windows going through the network one by one, and together.

The order of source frames and the kept sound are an input of the package's pipeline: its own sync
modes end with the audio and do not repeat the frames at which a looped video turns. The recordings
follow another rule, which stands here and is itself compared with the recorded order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.mel import LogMel
from latentsync.audio.slices import count_rows, count_slices
from latentsync.face.alignment_points import points3
from latentsync.face.restore import restore_face
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame, Waveform
from latentsync.lipsync.hearing import Hearing
from latentsync.lipsync.speaker import MeshFinder, align_speaker
from latentsync.models.sampling import FEATURE_CACHE_INTERVAL, SamplingOptions
from latentsync.monitor import RunMonitor
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline, SpokenWindow
from tests.parity.checks.alignment import MATRIX
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.precisions import Way, pick_in_each
from tests.parity.recorded import NUMBERS, Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

_FACES = Tolerance(1)  # level
_LATENTS = Tolerance(5e-3)
_SYNCED = Tolerance(2e-3)  # recorded in float16
_FRAMES = Tolerance(3, share=0.005)  # levels
_LOUDEST = 32768  # of 16-bit samples
_BATCHES = {"(one by one)": 1, "(batched)": 4}  # windows that go through the network at once


def check(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    case = _Case(recorded, networks)
    yield Output("source_index", EXACT, lambda: case.source_indices, "int")
    yield Output("out_audio_len", EXACT, lambda: np.array(case.num_samples), "int")
    yield Output("M_src", MATRIX, lambda: case.matrices)
    for note, batch_windows in _BATCHES.items():
        compute = cache(partial(case.run, batch_windows))

        def ways(pick: Callable[[_Made], Tensor], compute: Any = compute) -> Any:
            return pick_in_each(compute, pick)

        faces, frames = ways(lambda made: made.faces), ways(lambda made: made.frames)
        yield Output("faces_src", _FACES, faces, "uint8", note)
        yield Output("latents", _LATENTS, ways(lambda made: made.latents), note=note)
        yield Output("synced", _SYNCED, ways(lambda made: made.synced), "float16", note)
        yield Output("out_frames", _FRAMES, frames, "uint8", note)


@dataclass(frozen=True, eq=False)
class _Made:
    """What a run made: aligned source faces, latents, finished faces, finished frames."""

    faces: Tensor
    latents: Tensor
    synced: Tensor
    frames: Tensor


class _Case:
    """One recorded run."""

    def __init__(self, recorded: RecordedFile, networks: Networks) -> None:
        self._recorded, self._networks = recorded, networks

    @cached_property
    def num_frames(self) -> int:
        """Frames of the output: about two more than there is sound."""
        return count_slices(count_rows(LogMel(self._waveform).num_columns))

    @cached_property
    def num_samples(self) -> int:
        """Samples of sound that are kept."""
        return min(len(self._waveform), int(self.num_frames / VIDEO_FPS * SAMPLE_RATE))

    @cached_property
    def source_indices(self) -> Array:
        """The source frame of every output frame: forwards, backwards, both ends shown twice."""
        laps, steps = np.divmod(np.arange(self.num_frames), self._num_source)
        return np.where(laps % 2 == 0, steps, self._num_source - 1 - steps)

    @cached_property
    def matrices(self) -> Array:
        """The map from each source frame that is used to its face."""
        landmarks = self._recorded.read("lm106", "int")[: self.num_frames]
        return align_speaker(np.stack([points3(frame) for frame in landmarks]), self._resolution)

    def run(self, batch_windows: int, way: Way) -> _Made:
        """Run the pipeline.

        Args:
            batch_windows: windows that go through the network at once.
            way: how the networks are run.
        """
        networks = self._networks.together(self._resolution, way.dtype)
        pipeline = LipsyncPipeline(networks, MeshFinder(), batch_windows=batch_windows)
        spoken = pipeline.speak(
            _Source(self._recorded.read("frames", "uint8")),
            Hearing(self._waveform, networks.audio_encoder, self.num_frames),
            self.matrices,
            frame_indices=self.source_indices,
            noise=_RecordedNoise(self._recorded, way),
            options=self._options,
            monitor=RunMonitor(),
        )
        return _collect(list(spoken), len(self.matrices))

    @property
    def _waveform(self) -> Waveform:
        return self._recorded.read("wave", "int").astype(np.float32) / _LOUDEST

    @property
    def _num_source(self) -> int:
        return len(self._recorded.read("frames", "uint8"))

    @property
    def _resolution(self) -> int:
        return int(self._recorded.read_number("resolution", "int"))

    @property
    def _options(self) -> SamplingOptions:
        cached = self._recorded.read_number("deepcache", "bool", "int")
        return SamplingOptions(
            num_inference_steps=self._recorded.read_number("steps", "int"),
            guidance_scale=self._recorded.read_number("guidance", *NUMBERS),
            cache_interval=FEATURE_CACHE_INTERVAL if cached else 1,
        )


class _Source:
    """Recorded frames as a source video."""

    def __init__(self, frames: Array) -> None:
        self._frames = frames
        self.num_frames, self.height, self.width = frames.shape[:3]

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        for index in indices:
            yield self._frames[index]


class _RecordedNoise:
    """Recorded random numbers in place of drawn ones."""

    def __init__(self, recorded: RecordedFile, way: Way) -> None:
        names = ("noise", "vae_noise_masked", "vae_noise_ref")
        noises = (torch.from_numpy(recorded.read(name, "float32")) for name in names)
        self.initial, self._masked, self._reference = map(way.blur, noises)

    def posterior(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._masked[start:stop], self._reference[start:stop]


def _collect(windows: list[SpokenWindow], num_source: int) -> _Made:
    """Join what the windows hold and put their faces back."""
    sources, latents, synced, frames = {}, [], [], []
    for spoken in windows:
        if spoken.faces is None or spoken.made is None:
            raise AssertionError("a window was taken for one without a face")
        sources |= dict(zip(spoken.source_indices.tolist(), spoken.faces, strict=True))
        latents.append(spoken.made.latents)
        synced.append(spoken.made.faces)
        restored = map(restore_face, spoken.frames, spoken.made.faces, spoken.matrices)
        frames.extend(restored)
    faces = np.stack([sources[index] for index in range(num_source)])
    return _Made(
        faces=torch.from_numpy(faces).permute(0, 3, 1, 2),
        latents=torch.cat(latents, dim=1)[None],
        synced=torch.from_numpy(np.concatenate(synced)),
        frames=torch.from_numpy(np.stack(frames)),
    )
