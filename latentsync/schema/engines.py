"""Which engines there are: one row each, read by whatever names, describes, checks or builds them.

A new engine is a row here, beside its pipeline, its configuration and its files of weights.
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
        name: a value of the field ``engine``.
        description: what it makes and needs, in one sentence.
        title: what people are shown in its place.
        summary: what to choose it for, in a few words after the title.
        builder: module and function that build it; imported when it is first used.
        packages: what it imports; the names are those of ``import``.
        extra: the extra of this package that brings them; None if they come with the core.
        files: what it reads of this package's own files.
        weights: names of its files in the catalog of weights.
        face_weights: likewise, where the setting ``face_landmarks`` asks for trained ones.
        uses_device: it runs on the device and in the numbers that the settings name.
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
NAMES = (AUTO, *ENGINES)  # what a request or a setting may say


def engine_spec(name: str) -> EngineSpec:
    """Return the engine called ``name``, which is not ``auto``.

    Raises:
        EngineUnavailable: there is none.
    """
    if name not in ENGINES:
        raise unknown_engine(name)
    return ENGINES[name]


def unknown_engine(name: str) -> EngineUnavailable:
    """Return the error for a name that is no engine's."""
    known = ", ".join(sorted(ENGINES))
    return EngineUnavailable(f"There is no engine named {name!r}. Known: {known}.", field="engine")


@dataclass(frozen=True)
class Obstacle:
    """Why an engine cannot run.

    Attributes:
        code: of the error that says so.
        reason: whole sentences: what is missing, and what to do about it.
    """

    code: str
    reason: str

    def as_error(self, name: str, runnable: Iterable[str]) -> LatentSyncError:
        """Return the error for whoever asks for the engine.

        Args:
            name: of the engine.
            runnable: names of those that can run in its place.
        """
        others = ", ".join(runnable)
        instead = f"Engines that can run here: {others}." if others else "No engine can run here."
        message = f"The engine {name} cannot run here. {self.reason} {instead}"
        return error_from_code(self.code, message, field="engine")


@dataclass(frozen=True)
class EngineSurvey:
    """What a process of this machine can run.

    Attributes:
        default: the engine that is taken when a request names none.
        auto: what ``auto`` stands for; None where only torch knows, or it can be nothing.
        obstacles: why engines cannot run, by name, ``auto`` among them; None for those that can.
    """

    default: str
    auto: str | None
    obstacles: Mapping[str, Obstacle | None]

    def obstacle(self, name: str | None) -> Obstacle | None:
        """Return why the engine called ``name``, or the default one, cannot run; None if it can."""
        name = name or self.default
        if name in self.obstacles:
            return self.obstacles[name]
        return Obstacle(EngineUnavailable.code, "No running worker supports it.")

    @property
    def runnable(self) -> list[str]:
        """Names of the engines that can run, without ``auto``."""
        return [name for name, found in self.obstacles.items() if found is None and name != AUTO]

    def require(self, name: str | None) -> None:
        """Raise EngineUnavailable, or a kind of it, unless the engine can run."""
        if (found := self.obstacle(name)) is not None:
            raise found.as_error(name or self.default, self.runnable)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: dict[str, Any]) -> EngineSurvey:
        """Return what :meth:`to_json` was asked of; a later version may have added to it."""
        obstacles = {
            name: None if found is None else Obstacle(found["code"], found["reason"])
            for name, found in recorded["obstacles"].items()
        }
        return cls(recorded["default"], recorded["auto"], obstacles)
