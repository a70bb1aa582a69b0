"""Cerebrium's entry: every public function of this file is an endpoint, so there is exactly one.

Cerebrium maps the keys of the JSON body to keyword arguments, injects ``run_id``, wraps what
:func:`predict` returns into ``{"run_id", "run_time_ms", "result"}`` and takes the HTTP status from
``status_code`` when the answer has one. Everything at module scope runs once per replica.
"""

import logging as _logging
import os as _os
from collections.abc import Sequence as _Sequence
from functools import partial as _partial
from pathlib import Path as _Path

# The platform has no place for environment variables but its secrets, which win over what is set
# here. Its persistent volume is mounted when a replica starts, not while the image is built.
_VOLUME = _Path("/persistent-storage")
if _VOLUME.is_dir():
    _os.environ.setdefault("LATENTSYNC_WEIGHTS_DIR", str(_VOLUME / "latentsync"))
    _os.environ.setdefault("TORCH_HOME", str(_VOLUME / "torch"))  # holds VGG16

from latentsync import serverless as _serverless  # noqa: E402  (settings read the environment set above)
from latentsync import settings as _settings  # noqa: E402
from latentsync import workspace as _workspace  # noqa: E402
from latentsync.pipelines import registry as _pipelines  # noqa: E402
from latentsync.schema import predict as _schema  # noqa: E402
from latentsync.schema import run as _run  # noqa: E402
from latentsync.settings import Settings as _Settings  # noqa: E402

_logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
_logging.getLogger("latentsync").setLevel(_logging.INFO)

for _sentence in _settings.describe_unknown_variables(_os.environ):
    _logging.getLogger("latentsync").warning(_sentence)
_configured = _Settings()
_workspace.sweep(_configured.work_dir)
_engines = _pipelines.PipelineCache(_configured)
# The cold start: weights and networks, once per replica and before its first request. What fails
# here fails the replica, and the log says which file: none gets ready that cannot predict.
_engines.get()


@_serverless.serverless_handler(
    _partial(_serverless.run_inline, settings=_configured, engines=_engines)
)
def predict(
    video_url: str | None = None,
    video_base64: str | None = None,
    audio_url: str | None = None,
    audio_base64: str | None = None,
    guidance_scale: float = 1.5,
    inference_steps: int = 20,
    seed: int = 1247,
    sync_mode: str | None = None,
    speaker: str | dict[str, object] = "auto",
    deadline_s: float | None = None,
    engine: str | None = None,
    scheduler: str = "ddim",
    feature_cache_interval: int = 1,
    guidance_interval: _Sequence[float] = (0.0, 1.0),
    keep_sound: bool = True,
    segments: _Sequence[dict[str, object]] = (),
    run_id: str | None = None,
) -> _run.RunRequest:
    """Make the lips of a video say a speech recording.

    The body only names the fields of the request; the decorator runs it and returns
    ``{"video_base64", "details"}``, or the error with its ``status_code``.

    Args:
        video_url: http(s) address of the source video; or give video_base64.
        video_base64: the source video as base64 or data: URI.
        audio_url: http(s) address of the speech; or give audio_base64.
        audio_base64: the speech as base64 or data: URI.
        guidance_scale: 1.0 to 3.0; 1.0 turns guidance off.
        inference_steps: 1 to 50.
        seed: -1 draws a random one and reports it.
        sync_mode: bounce (the default), loop, cut_off, silence or remap.
        speaker: "auto", or an object with frame and point or box.
        deadline_s: seconds after which the run is given up.
        engine: auto, latentsync-1.6, latentsync-1.5 or draft; by default LATENTSYNC_ENGINE.
        scheduler: ddim, or dpm-solver++ for fewer steps.
        feature_cache_interval: 1 to 10; above 1 the network runs whole only every so many steps.
        guidance_interval: start and end, in 0..1, of the steps with guidance.
        keep_sound: with segments, keep the sound of the video outside the segments.
        segments: objects with audio_url or audio_base64, start_s, end_s, audio_start_s and speaker:
            parts with a recording or a speaker of their own.
        run_id: injected by the platform.
    """
    return _schema.parse_request(
        {
            "video_url": video_url,
            "video_base64": video_base64,
            "audio_url": audio_url,
            "audio_base64": audio_base64,
            "guidance_scale": guidance_scale,
            "inference_steps": inference_steps,
            "seed": seed,
            **({} if sync_mode is None else {"sync_mode": sync_mode}),
            "speaker": speaker,
            "deadline_s": deadline_s,
            "engine": engine,
            "scheduler": scheduler,
            "feature_cache_interval": feature_cache_interval,
            "guidance_interval": guidance_interval,
            "keep_sound": keep_sound,
            "segments": segments,
        }
    )
