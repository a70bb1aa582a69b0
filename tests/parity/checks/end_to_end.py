"""e2e_*.npz: the whole pipeline between reading and writing files, with recorded random numbers.

The chain is chaotic in its last digits: crops are cut to whole levels, not rounded, so a matrix
that differs by a hundred-thousandth of a pixel flips some of them, and the sampler carries that on.
Which ones flip depends on the processor. So every array is compared twice:

- stage by stage: made from the recorded input of its stage, and to be reproduced closely;
- the whole: made from the recorded landmarks and sound, and held to figures that such flips cannot
  reach but a fault does: how much the pictures resemble the recorded ones, and a difference of the
  latents that is small compared with the effect of slightly changed matrices.

The order of source frames and the kept sound are an input of the package's pipeline: its own sync
modes end with the audio and do not repeat the frames at which a looped video turns. The recordings
follow another rule, which stands here and is itself compared with the recorded order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np
import torch
from torch import Tensor

from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame, Waveform
from latentsync.models.sampling import SamplingOptions
from latentsync.models.vae import decode_latents
from latentsync.monitor import RunMonitor
from latentsync.pipelines.lipsync.alignment import points3
from latentsync.pipelines.lipsync.audio_features import AudioFeatures, count_rows, count_slices
from latentsync.pipelines.lipsync.bilinear import cut_face
from latentsync.pipelines.lipsync.face_finder import MeshFinder, align_speaker
from latentsync.pipelines.lipsync.face_generator import FaceGenerator, NetworkBatches, WindowFaces
from latentsync.pipelines.lipsync.mask import keep_surroundings, to_pixel_values
from latentsync.pipelines.lipsync.mel import LogMel
from latentsync.pipelines.lipsync.paste_back import restore_face
from latentsync.pipelines.lipsync.windows import Window, cut_windows, group_windows
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline, SpokenWindow
from tests.parity.checks.alignment import MATRIX
from tests.parity.checks.sampling import FEATURE_CACHE_INTERVAL
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.precisions import MARGIN, Way, in_each_precision, pick_in_each
from tests.parity.recorded import NUMBERS, Array, RecordedFile
from tests.parity.tolerance import EXACT, Bound, Likeness, Tolerance

_STAGE = "(its stage)"
# A flat surface that ends up a hair below a whole level is cut to the one below on
# one processor and not on another; Lanczos makes two levels of one here and there.
_FACES = Tolerance(2, share=0.05)  # levels
_LATENTS = Tolerance(5e-3)
_SYNCED = Tolerance(2e-3)  # recorded in float16
_FRAMES = Tolerance(1, share=0.002)  # levels

# The whole
_WHOLE = "(the whole)"
_ALIKE = Likeness(psnr_db=55, beyond=0.005)
_JITTER = 1e-4  # pixels by which matrices are moved
_LOUDEST = 32768  # of 16-bit samples
_MOST_WINDOWS = 4  # that go through the network at once, where a recording has several alike
_FLOAT32 = Way(torch.float32)


def check(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    case = Case(recorded, networks)
    yield Output("source_index", EXACT, lambda: case.source_indices, "int")
    yield Output("out_audio_len", EXACT, lambda: np.array(case.num_samples), "int")
    yield Output("M_src", MATRIX, lambda: case.matrices)
    yield from _stages(case)
    yield from _whole(case)


def _stages(case: Case) -> Iterator[Output]:
    yield Output("faces_src", _FACES, case.cut_faces, "uint8", _STAGE)
    for batch_windows, note in case.batches.items():
        compute = cache(partial(case.sample, batch_windows))
        latents = in_each_precision(compute)
        yield Output("latents", _LATENTS, latents, note=note)
    decode = cache(case.decode)
    synced = pick_in_each(decode, lambda made: made.synced)
    yield Output("synced", _SYNCED, synced, "float16", _STAGE)
    frames = pick_in_each(decode, lambda made: made.frames)
    yield Output("out_frames", _FRAMES, frames, "uint8", _STAGE)


def _whole(case: Case) -> Iterator[Output]:
    made = cache(lambda: case.run(case.matrices))
    in_range = replace(_ALIKE, level=3 / 255, peak=2.0)  # -1..1; a level and float16's rounding
    over_face = replace(_ALIKE, psnr_db=50, counts=lambda: case.changed)
    bound = Bound(cache(case.measure_jitter))
    yield Output("faces_src", _ALIKE, lambda: made().faces.numpy(), "uint8", _WHOLE)
    yield Output("latents", bound, lambda: made().latents.numpy(), note=_WHOLE)
    yield Output("synced", in_range, lambda: made().synced.numpy(), "float16", _WHOLE)
    yield Output("out_frames", over_face, lambda: made().frames.numpy(), "uint8", _WHOLE)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What was made of latents: finished faces, finished frames."""

    synced: Tensor
    frames: Tensor


@dataclass(frozen=True, eq=False)
class _Made(_Decoded):
    """What a whole run made: aligned source faces and latents as well."""

    faces: Tensor
    latents: Tensor


class Case:
    """One recorded run.

    Args:
        recorded: its inputs, and results where they are the input of a later stage.
        networks: of the recording's folder.
    """

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

    @cached_property
    def batches(self) -> dict[int, str]:
        """How many windows go through the network at once, and what that is called.

        Together only where that makes a difference: windows of another length go alone anyway.
        """
        alone, together = (list(group_windows(self._windows, most)) for most in (1, _MOST_WINDOWS))
        more = {} if alone == together else {_MOST_WINDOWS: "(its stage, batched)"}
        return {1: _STAGE} | more

    @cached_property
    def changed(self) -> Array:
        """Which values of the recorded output frames are not the source's own, as bool."""
        sources = self._recorded.read("frames", "uint8")[self._recorded_indices]
        touched = (self._recorded.read("out_frames", "uint8") != sources).any(
            axis=-1, keepdims=True
        )
        return np.broadcast_to(touched, sources.shape)

    def cut_faces(self) -> Array:
        """Cut the faces out of the frames by the recorded matrices."""
        frames = self._recorded.read("frames", "uint8")
        matrices = self._recorded.read("M_src", "float32")
        faces = [
            cut_face(frame, matrix, self._resolution)
            for frame, matrix in zip(frames, matrices, strict=False)
        ]
        return np.stack(faces).transpose(0, 3, 1, 2)

    def sample(self, batch_windows: int, way: Way) -> Tensor:
        """Return the latents of the recorded faces.

        Args:
            batch_windows: windows that go through the network at once.
            way: how the networks are run.
        """
        networks = self._networks.together(self._resolution, way.dtype)
        hearing = AudioFeatures(self._waveform, networks.audio_encoder, self.num_frames)
        noise = _RecordedNoise(self._recorded, way)
        indices, faces = self._recorded_indices, self._recorded_faces

        def inputs(window: Window) -> WindowFaces:
            taken = indices[window.start : window.stop]
            heard = way.blur(hearing.slices(window.start, window.stop))
            noises = noise.posterior(window.start, window.stop)
            return WindowFaces(faces[taken], taken, heard, *noises)

        maker = FaceGenerator(
            networks,
            self._options,
            noise.initial,
            indices,
            batches=NetworkBatches(batch_windows),
            monitor=RunMonitor(),
        )
        made = [
            of_window.latents
            for group in group_windows(self._windows, batch_windows)
            for of_window in maker.make([inputs(window) for window in group], lambda _step: None)
        ]
        return torch.cat(made, dim=1)[None]

    def decode(self, way: Way) -> _Decoded:
        """Return what becomes of the recorded latents, put back by the recorded matrices."""
        latents = torch.from_numpy(self._recorded.read("latents", "float32"))
        vae, indices = self._networks.vae(way.dtype), self._recorded_indices
        pictures = decode_latents(vae, way.blur(latents)[0].transpose(0, 1)).float().numpy()
        synced = keep_surroundings(pictures, to_pixel_values(self._recorded_faces[indices]))
        sources = self._recorded.read("frames", "uint8")[indices]
        matrices = self._recorded.read("M_src", "float32")[indices]
        frames = np.stack(list(map(restore_face, sources, synced, matrices)))
        return _Decoded(torch.from_numpy(synced), torch.from_numpy(frames))

    def run(self, matrices: Array) -> _Made:
        """Run the pipeline from the sound and the matrices to the frames."""
        networks = self._networks.together(self._resolution, _FLOAT32.dtype)
        spoken = LipsyncPipeline(networks, MeshFinder()).speak(
            _Source(self._recorded.read("frames", "uint8")),
            AudioFeatures(self._waveform, networks.audio_encoder, self.num_frames),
            matrices,
            frame_indices=self.source_indices,
            noise=_RecordedNoise(self._recorded, _FLOAT32),
            options=self._options,
            monitor=RunMonitor(),
        )
        return _collect(list(spoken), len(matrices))

    def measure_jitter(self) -> float:
        """Return how far latents may be off: what hardly moved matrices do to this very chain."""
        matrices = self._recorded.read("M_src", "float32")
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (len(matrices), 2))
        there, back = matrices.copy(), matrices.copy()
        there[:, :, 2] += signs * _JITTER
        back[:, :, 2] -= signs * _JITTER
        return MARGIN * float((self.run(there).latents - self.run(back).latents).abs().max())

    @property
    def _windows(self) -> list[Window]:
        config = self._networks.together(self._resolution, _FLOAT32.dtype).config
        return list(cut_windows(np.ones(self.num_frames, np.bool_), config.num_frames))

    @property
    def _recorded_faces(self) -> Array:
        """The aligned source faces, (n,R,R,3)."""
        return self._recorded.read("faces_src", "uint8").transpose(0, 2, 3, 1)

    @property
    def _recorded_indices(self) -> Array:
        return self._recorded.read("source_index", "int").astype(np.int64)

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
