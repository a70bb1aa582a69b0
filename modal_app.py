"""Modal's entry: a class on a GPU with one method, the same behind an HTTP address, and a download.

    modal run modal_app.py::download_weights      # once: fills the volume, needs no GPU
    modal deploy modal_app.py

Deploying needs the package ``modal`` alone: everything else is imported in the containers. A cold
start has two parts. What happens before the snapshot is kept by the platform and not repeated; the
GPU is there only afterwards.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import modal

_HERE = Path(__file__).parent
_SOURCES = "/root"  # where Modal puts Python sources; the package finds configs/ and assets/ there
_WEIGHTS = "/weights"

# One prediction ends by itself after LATENTSYNC_DEADLINE_S (900), before the platform kills it.
_TIMEOUT_S = 960
_ON_GPU = "latentsync-1.6"  # what auto stands for here
_STARTUP_TIMEOUT_S = 1800  # covers a first start that still has to fetch 6 GB

app = modal.App("latentsync")
volume = modal.Volume.from_name("latentsync-weights", create_if_missing=True, version=2)
# Settings of the service, read anew at every start; HF_TOKEN may be among them. Later secrets win.
secrets = [
    modal.Secret.from_dict(
        {
            "LATENTSYNC_WEIGHTS_DIR": _WEIGHTS,
            "TORCH_HOME": f"{_WEIGHTS}/torch",  # VGG16 lies in torch hub's cache
            # Not "auto": a GPU that cannot be used is an error here, never another engine or a CPU.
            "LATENTSYNC_ENGINE": _ON_GPU,
            "LATENTSYNC_DEVICE": "cuda",
        }
    ),
    # Its key may have the earlier name LATENTSYNC_API_KEYS, so that the start requires one.
    modal.Secret.from_name("latentsync"),
]
image = (
    modal.Image.debian_slim(python_version="3.11")
    .add_local_file(_HERE / "constraints.txt", "/constraints.txt", copy=True)
    .pip_install_from_pyproject(
        str(_HERE / "pyproject.toml"),
        optional_dependencies=["models"],
        extra_options="--constraint /constraints.txt",
    )
    .add_local_python_source("latentsync")
    .add_local_dir(_HERE / "configs", f"{_SOURCES}/configs")
    .add_local_dir(_HERE / "assets", f"{_SOURCES}/assets", ignore=["demo_*", "*.py"])
)

with image.imports():
    from latentsync import serverless, settings
    from latentsync.pipelines import registry
    from latentsync.pipelines.registry import PipelineCache
    from latentsync.schema.predict import parse_request
    from latentsync.schema.run import RunRequest
    from latentsync.server.app import build_app
    from latentsync.settings import Settings
    from latentsync.weights import catalog, ensure


@app.cls(
    image=image,
    gpu="A10",  # 24 GB
    cpu=8,
    memory=32 * 1024,  # MiB
    volumes={_WEIGHTS: volume},
    secrets=secrets,
    timeout=_TIMEOUT_S,
    startup_timeout=_STARTUP_TIMEOUT_S,
    scaledown_window=60,  # seconds
    max_containers=2,
    enable_memory_snapshot=True,
)
class LatentSync:
    """One container: one GPU, its networks, and one prediction at a time."""

    @modal.enter(snap=True)
    def import_engine(self) -> None:
        """Import what the engine is made of, for the snapshot.

        Nothing here may ask for the GPU, which is not there yet: torch would remember the answer.
        Weights stay out of the snapshot. They are mapped from the volume straight to the GPU; from
        a snapshot the same bytes would pass through main memory first.
        """
        _log()
        engine = Settings().engine
        registry.import_engine(_ON_GPU if engine == "auto" else engine)

    @modal.enter(snap=False)
    def build(self) -> None:
        """Build the networks on the GPU; what fails here, fails the start and says which file."""
        settings = Settings()  # now: a snapshot's secrets may be old
        if not settings.api_keys:
            raise RuntimeError("The secret latentsync has no LATENTSYNC_API_KEY: add one to it.")
        engines = PipelineCache(settings)
        engines.get()

        @serverless.serverless_handler(
            partial(serverless.run_inline, settings=settings, engines=engines)
        )
        def answer(fields: dict[str, object], run_id: str | None) -> RunRequest:
            return parse_request(fields)

        self._answer = answer
        self._app = build_app(settings, engines)

    @modal.method()
    def predict(
        self,
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
        guidance_interval: Sequence[float] = (0.0, 1.0),
        keep_sound: bool = True,
        segments: Sequence[dict[str, object]] = (),
        **unknown: object,
    ) -> dict[str, Any]:
        """Make the lips of a video say a speech recording.

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
            feature_cache_interval: 1 to 10; above 1 the network runs whole only every so many
                steps.
            guidance_interval: start and end, in 0..1, of the steps with guidance.
            segments: objects with audio_url or audio_base64, start_s, end_s, audio_start_s and
                speaker: parts with a recording or a speaker of their own.
            keep_sound: with segments, keep the video's own sound outside them.
            unknown: refused by name, as every door does.

        Returns:
            ``{"video_base64", "details"}``, or an error as ``{"status_code", "code", "message",
            "field", "run_id"}``. It is no exception, because the caller would need this package to
            receive one, and would get the server's traceback with it.
        """
        fields = {
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
            **unknown,
        }
        return self._answer(fields, run_id=modal.current_function_call_id())

    @modal.asgi_app(label="latentsync")
    def web(self) -> Any:
        """Serve ``POST /predict`` to callers with a key of LATENTSYNC_API_KEY."""
        return self._app


@app.function(
    image=image,
    cpu=2,
    memory=4 * 1024,  # MiB
    volumes={_WEIGHTS: volume},
    secrets=secrets,
    timeout=3600,
)
def download_weights(engine: str | None = None) -> None:
    """Fetch an engine's files to the volume, without paying for a GPU meanwhile.

    Args:
        engine: latentsync-1.6 or latentsync-1.5; by default the one that is deployed.
    """
    _log()
    settings, files = Settings(), catalog.CATALOG
    engine = engine or settings.engine
    names = catalog.weights_for(_ON_GPU if engine == "auto" else engine, settings)
    try:
        ensure.ensure(names, settings=settings, catalog=files)
        if settings.fetch_vgg16:
            ensure.fetch_vgg16_in_background(settings, catalog=files).join()
    finally:
        volume.commit()  # even of a broken-off download: the next one continues it


def _log() -> None:
    """Log to stderr, first what variables look like settings and are none."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)
    for sentence in settings.describe_unknown_variables(os.environ):
        logging.getLogger("latentsync").warning(sentence)
