"""The table of engines.

A new engine needs a row here, a pipeline, a configuration and entries in the catalog of weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latentsync.errors import EngineUnavailable, LatentSyncError, error_from_code

AUTO = "auto"  # stands for one of the next two
AUTO_ON_GPU = "latentsync-1.6"
AUTO_ELSEWHERE = "draft"

_NETWORKS = ("torch", "diffusers", "accelerate", "safetensors")
_FACE_NETWORKS = ("face-detector", "face-landmarks")


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: value of the field ``engine``.
        description: one sentence for the API.
        title: display name.
        summary: a few words for the page, after the title.
        builder: module and function that build it; imported on first use.
        packages: import names of the packages it requires.
        extra: the extra that installs them; None if they are core dependencies.
        files: files of this package that it reads.
        weights: names of its files in the catalog of weights.
        face_weights: likewise, if the setting ``face_landmarks`` is ``insightface``.
        uses_device: whether the settings ``device`` and ``dtype`` apply to it.
    """

    name: str
    description: str
    title: str
    summary: str
    builder: tuple[str, str]
    packages: tuple[str, ...]
    extra: str | None
    files: tuple[str, ...]
    weights: tuple[str, ...] = ()
    face_weights: tuple[str, ...] = ()
    uses_device: bool = False


_ROWS = (
    EngineSpec(
        name="latentsync-1.6",
        description="Diffusion at 512 x 512 pixels per face; about 18 GB of GPU memory.",
        title="LatentSync 1.6",
        summary="generated lips, sharpest; needs a GPU",
        builder=("latentsync.pipelines.lipsync_pipeline", "build_lipsync"),
        packages=_NETWORKS,
        extra="models",
        files=("configs/latentsync-1.6.yaml", "assets/mask_geometry.json"),
        weights=("latentsync-1.6/unet", "whisper-tiny", "sd-vae-ft-mse"),
        face_weights=_FACE_NETWORKS,
        uses_device=True,
    ),
    EngineSpec(
        name="latentsync-1.5",
        description="Diffusion at 256 x 256 pixels per face; about 8 GB of GPU memory.",
        title="LatentSync 1.5",
        summary="generated lips, smaller and faster; needs a GPU",
        builder=("latentsync.pipelines.lipsync_pipeline", "build_lipsync"),
        packages=_NETWORKS,
        extra="models",
        files=("configs/latentsync-1.5.yaml", "assets/mask_geometry.json"),
        weights=("latentsync-1.5/unet", "whisper-tiny", "sd-vae-ft-mse"),
        face_weights=_FACE_NETWORKS,
        uses_device=True,
    ),
    EngineSpec(
        name="draft",
        description="Warps the mouth in the picture; runs on any CPU, needs no weights.",
        title="Draft",
        summary="warps the mouth in the picture; fast, runs anywhere",
        builder=("latentsync.pipelines.draft_pipeline", "build_draft"),
        packages=("cv2", "onnxruntime", "pocketsphinx"),
        extra=None,
        files=(
            "configs/draft.yaml",
            "assets/face_detection_short_range.onnx",
            "assets/face_landmark.onnx",
        ),
    ),
)

ENGINES: Mapping[str, EngineSpec] = {row.name: row for row in _ROWS}
NAMES = (AUTO, *ENGINES)  # values of the field and of the setting


def engine_spec(name: str) -> EngineSpec:
    """Return the engine ``name``; ``auto`` is not one.

    Raises:
        EngineUnavailable: there is no such engine.
    """
    if name not in ENGINES:
        raise unknown_engine(name)
    return ENGINES[name]


def unknown_engine(name: str) -> EngineUnavailable:
    """Return the error for an unknown engine name."""
    known = ", ".join(sorted(ENGINES))
    return EngineUnavailable(f"There is no engine named {name!r}. Known: {known}.", field="engine")


@dataclass(frozen=True)
class Obstacle:
    """Why an engine cannot run.

    Attributes:
        code: code of the error.
        reason: sentences on what is missing and how to fix it.
    """

    code: str
    reason: str

    def as_error(self, name: str, runnable: Iterable[str]) -> LatentSyncError:
        """Return the error for a request of the engine.

        Args:
            name: name of the engine.
            runnable: names of the engines that can run.
        """
        others = ", ".join(runnable)
        instead = f"Engines that can run here: {others}." if others else "No engine can run here."
        message = f"The engine {name} cannot run here. {self.reason} {instead}"
        return error_from_code(self.code, message, field="engine")


@dataclass(frozen=True)
class EngineSurvey:
    """Which engines can run on this machine.

    Attributes:
        default: the engine of requests without ``engine``.
        auto: the engine that ``auto`` stands for; None if only torch can tell, or if there is none.
        obstacles: why engines, including ``auto``, cannot run, by name; None for those that can.
    """

    default: str
    auto: str | None
    obstacles: Mapping[str, Obstacle | None]

    def obstacle(self, name: str | None) -> Obstacle | None:
        """Return why the engine ``name``, or the default one, cannot run; None if it can."""
        name = name or self.default
        if name in self.obstacles:
            return self.obstacles[name]
        return Obstacle(EngineUnavailable.code, "No running worker supports it.")

    @property
    def runnable(self) -> list[str]:
        """Names of the engines that can run, without ``auto``."""
        return [name for name, found in self.obstacles.items() if found is None and name != AUTO]

    def require(self, name: str | None) -> None:
        """Raise EngineUnavailable or a subclass unless the engine can run."""
        if (found := self.obstacle(name)) is not None:
            raise found.as_error(name or self.default, self.runnable)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineSurvey:
        """Inverse of :meth:`to_json`; keys added by later versions are ignored."""
        obstacles = {
            name: None if found is None else Obstacle(found["code"], found["reason"])
            for name, found in data["obstacles"].items()
        }
        return cls(data["default"], data["auto"], obstacles)
