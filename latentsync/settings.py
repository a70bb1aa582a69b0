"""Settings of the process, read from the environment (prefix ``LATENTSYNC_``).

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from latentsync.schema import EngineName

MIB = 1024 * 1024


class Settings(BaseSettings):
    """One frozen object per process; every door builds it once and hands it down."""

    model_config = SettingsConfigDict(
        env_prefix="LATENTSYNC_", frozen=True, extra="ignore", allow_inf_nan=False
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="bearer tokens that may call the server, comma-separated"
    )
    engine: EngineName = Field(
        "auto",
        description="which engine makes the lips; auto is latentsync-1.6 on a GPU, else draft",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        description="where the networks run: auto, cpu, mps, cuda or cuda:N",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="numbers of the networks; auto is float16 on GPUs, else float32"
    )
    batch_windows: int = Field(
        1, ge=1, le=16, description="windows of 16 frames that go through the network at once"
    )
    face_landmarks: Literal["insightface", "mesh"] = Field(
        "insightface",
        description="what finds faces for LatentSync; mesh is embedded and free for every use",
    )
    true_face_colors: bool = Field(
        False,
        description="show insightface true colours; LatentSync was trained with red and blue "
        "exchanged",
    )
    work_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"latentsync-{os.getuid()}",
        description="folder for the private working folders of requests",
    )
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders from which media may be read by path, comma-separated"
    )
    allow_private_addresses: bool = Field(
        False, description="let media URLs point to private and loopback addresses"
    )
    max_media_bytes: int = Field(512 * MIB, gt=0, description="largest single media file")
    max_body_bytes: int = Field(256 * MIB, gt=0, description="largest request body")
    body_timeout_s: float = Field(
        300.0, gt=0, description="longest time for the arrival of one request body"
    )
    fetch_timeout_s: float = Field(60.0, gt=0, description="longest time for one download")
    max_duration_s: float = Field(600.0, gt=0, description="longest video or audio")
    min_audio_s: float = Field(0.1, gt=0, description="shortest audio")
    max_pixels: int = Field(3840 * 2160, gt=0, description="largest picture, width x height")
    min_side: int = Field(64, gt=0, description="smallest width or height in pixels")
    max_fps: float = Field(240.0, gt=0, description="highest frame rate of a source video")
    max_waiting: int = Field(
        8, ge=0, description="predictions that may wait in line before 429 is answered"
    )
    deadline_s: float = Field(900.0, gt=0, description="longest time for one run")
    shutdown_grace_s: int = Field(
        30, ge=0, description="time for the running prediction to finish after a stop signal"
    )
    weights_dir: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "latentsync",
        description="folder that keeps downloaded weights (the draft engine needs none)",
    )
    weights_mirror: str | None = Field(
        None, pattern=r"^https?://\S+$", description="address used instead of the hub"
    )
    offline: bool = Field(False, description="never fetch weights; HF_HUB_OFFLINE=1 does the same")
    fetch_vgg16: bool = Field(
        True, description="fetch VGG16 at a cold start as well; inference does not read it"
    )

    @field_validator("work_dir", "weights_dir")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        return path.expanduser()  # no shell has, where values come from secrets

    @field_validator("api_keys", "allowed_roots", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
