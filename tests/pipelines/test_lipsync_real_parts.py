"""The whole LatentSync engine on a real face and real speech, its painting networks tiny.

What they paint means nothing, so the tests look at where it lands. With a real Whisper encoder,
fetched from a package, when asked: pytest -m network.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm

from latentsync.face.geometry import Floats
from latentsync.face.speaker import Choice
from latentsync.formats import SAMPLE_RATE, Frame
from latentsync.media.probe import probe_video
from latentsync.media.reader import VideoReader
from latentsync.models.whisper import load_whisper
from latentsync.monitor import RunMonitor
from latentsync.pipelines.lipsync.bilinear import invert
from latentsync.pipelines.lipsync.face_finder import MeshFinder, align_speaker
from latentsync.pipelines.lipsync.mel import LogMel
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline
from latentsync.schema.responses import PredictResponse
from latentsync.schema.run import RunOptions
from latentsync.settings import Settings
from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO, FramesInMemory, demo_frames, demo_speech
from tests.media.makers import make_sound, make_video
from tests.pipelines.tiny_lipsync import ENGINE, build_tiny_lipsync
from tests.pipelines.whisper_tiny_en import save_whisper_tiny_en
from tests.server.clips import as_base64
from tests.server.live import AUTH, serving_engine
from tests.utterances import whole

RESOLUTION = 64
CROP = np.array([52, 70])  # width, height in pixels at that resolution
NUM_FRAMES = 20  # one window and a short one
OPTIONS = {"inference_steps": 2, "guidance_scale": 1.5}
SPEECH = demo_speech()[SAMPLE_RATE:][: NUM_FRAMES * 640]

# CTranslate2 4.8.5 in float32 on the demo speech: rows and columns of the encoder's last state.
ROWS, COLUMNS = [0, 100, 250, 1499], [0, 100, 200, 383]
RECORDED = [
    [-0.691127, -0.411583, 0.859029, -0.769868],
    [1.569547, 0.674567, -1.725487, 1.198054],
    [1.051289, -0.396898, 0.790480, -0.062878],
    [-0.103930, 0.093145, 0.878167, 0.165884],
]


@dataclass(frozen=True, eq=False)
class Spoken:
    """Frames as they were read, as they came out, and the maps to the aligned faces."""

    sources: list[Frame]
    finished: list[Frame]
    matrices: Floats


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> LipsyncPipeline:
    return build_tiny_lipsync(tmp_path_factory.mktemp("weights"), resolution=RESOLUTION)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the demo video."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return make_video(path, NUM_FRAMES, size=(512, 512), paint=lambda n, *_: demo_frames()[n])


@pytest.fixture(scope="module")
def spoken(pipeline: LipsyncPipeline, clip: Path) -> Spoken:
    """The pipeline's own frames, before any encoder."""
    reader = VideoReader(clip, probe_video(clip, Settings(), "video"))
    indices = np.arange(reader.num_frames)
    generation = pipeline(
        reader,
        whole(SPEECH, indices.size),
        frame_indices=indices,
        options=RunOptions(**OPTIONS),
        monitor=RunMonitor(),
    )
    finished = list(generation.frames)
    found = MeshFinder().find(lambda: reader.read(indices), len(indices), [Choice()])
    matrices = align_speaker(found.points[found.faces[0]], RESOLUTION)
    return Spoken(list(reader.read(indices)), finished, matrices)


@pytest.fixture(scope="session")
def whisper_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper_tiny_en(tmp_path_factory.mktemp("whisper"))


def crop_place(matrix: Floats, part: tuple[float, float, float, float]) -> Floats:
    """Return the corners (4,2) in the frame of a part x1, y1, x2, y2 of the crop, in shares."""
    x1, y1, x2, y2 = part
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) * CROP - 0.5
    to_frame = invert(matrix)
    return corners @ to_frame[:, :2].T + to_frame[:, 2]


def inside(frame: Frame, corners: Floats, margin: int = 0) -> np.ndarray:
    """Return bool (H,W): which pixels lie inside the corners, widened by ``margin`` pixels."""
    mask = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 1)
    side = 2 * margin + 1
    return cv2.dilate(mask, np.ones((side, side), np.uint8)).astype(bool)


def change_of_tint(before: Frame, after: Frame) -> np.ndarray:
    """Return float (H,W): how far the colours moved, in levels, fine detail left out."""
    smooth = [cv2.blur(frame.astype(np.float32), (25, 25)) for frame in (before, after)]
    return np.abs(smooth[1] - smooth[0]).mean(axis=2)


def post(folder: Path, pipeline: LipsyncPipeline, video: Path, audio: Path) -> PredictResponse:
    """Send a video and speech to a real server that runs ``pipeline``."""
    body: dict[str, Any] = {"video_base64": as_base64(video), "audio_base64": as_base64(audio)}
    with serving_engine(folder, pipeline) as url:
        answer = httpx.post(f"{url}/predict", json=body | OPTIONS, headers=AUTH, timeout=1200)
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate(answer.json())


def note_written_media(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every media file is added that is opened for writing from now on."""
    written: list[str] = []
    av_open = av.open

    def noting(file: Any, mode: str | None = None, *rest: Any, **options: Any) -> Any:
        if mode == "w":
            written.append(str(file))
        return av_open(file, mode, *rest, **options)

    monkeypatch.setattr(av, "open", noting)
    return written


def each_frame(spoken: Spoken) -> Iterator[tuple[Frame, Frame, Floats]]:
    return zip(spoken.sources, spoken.finished, spoken.matrices, strict=True)


def decode(answer: PredictResponse, folder: Path) -> list[Frame]:
    path = folder / "answer.mp4"
    path.write_bytes(base64.b64decode(answer.result.video_base64))
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_pixel_outside_the_face_region_is_the_sources_own(spoken):
    assert len(spoken.finished) == NUM_FRAMES
    for source, frame, matrix in each_frame(spoken):
        # The crop's outermost pixels fade over one more of their own size.
        margin = math.ceil(1 / np.linalg.norm(matrix[0, :2])) + 1
        region = inside(source, crop_place(matrix, (0, 0, 1, 1)), margin)
        assert 0.05 < region.mean() < 0.6
        assert np.array_equal(frame[~region], source[~region])


def test_the_made_part_lies_on_the_mouth_and_spares_the_eyes(spoken):
    for source, frame, matrix in each_frame(spoken):
        change = change_of_tint(source, frame)
        mouth = inside(source, crop_place(matrix, (0.2, 0.55, 0.8, 0.8)))
        eyes = inside(source, crop_place(matrix, (0.1, 0.1, 0.9, 0.3)))
        assert change[mouth].mean() > 25  # noise in place of lips
        assert change[eyes].mean() < 5


def test_every_frame_comes_however_slowly_they_are_taken(pipeline, spoken):
    generation = pipeline(
        FramesInMemory(spoken.sources),
        whole(SPEECH, NUM_FRAMES),
        frame_indices=np.arange(NUM_FRAMES),
        options=RunOptions(**OPTIONS),
        monitor=RunMonitor(),
    )
    taken = [next(generation.frames)]
    time.sleep(0.3)  # the other stages are done when the next one is asked for
    taken += generation.frames
    assert len(taken) == NUM_FRAMES
    assert all(np.array_equal(*pair) for pair in zip(taken, spoken.finished, strict=True))


def test_the_server_answers_with_the_speaking_clip(pipeline, clip, spoken, tmp_path, monkeypatch):
    speech = make_sound(tmp_path / "speech.wav", SPEECH[None])
    written = note_written_media(monkeypatch)
    answer = post(tmp_path, pipeline, clip, speech)
    assert len(written) == 1  # one encode, whatever the engine does in between
    details = answer.result.details
    assert (details.engine, details.frames, details.frames_without_face) == (ENGINE, NUM_FRAMES, 0)
    assert (details.width, details.height, details.faces_found) == (512, 512, 1)
    frames = decode(answer, tmp_path)
    for frame, finished in zip(frames, spoken.finished, strict=True):
        # One lossy encode of noise; the frame before or after is further away.
        assert np.abs(frame.astype(int) - finished).mean() < 3.5


@pytest.mark.network
def test_the_real_encoder_agrees_with_another_implementation(whisper_path):
    encoder = load_whisper(whisper_path)
    mel = LogMel(demo_speech())
    window = torch.from_numpy(mel.padded_window(0, mel.num_columns))[None]
    with torch.no_grad():
        last = encoder(window)[0, :, -1]
    state = torch.load(whisper_path)["model_state_dict"]
    norm = [state[f"encoder.ln_post.{part}"].float() for part in ("weight", "bias")]
    normed = layer_norm(last, last.shape[1:], *norm)
    assert np.abs(normed[ROWS][:, COLUMNS].numpy() - RECORDED).max() < 1e-4


@pytest.mark.network
def test_the_demo_speaks_with_a_real_encoder(whisper_path, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    real = build_tiny_lipsync(folder, resolution=RESOLUTION, whisper_path=whisper_path)
    answer = post(tmp_path, real, DEMO_VIDEO, DEMO_AUDIO)
    details = answer.result.details
    frames = decode(answer, tmp_path)
    assert len(frames) == details.frames >= len(demo_speech()) * 25 // SAMPLE_RATE
    assert (details.frames_without_face, details.faces_found) == (0, 1)
