"""Settings of the process, read from the environment (prefix ``LATENTSYNC_``).

Sizes are in bytes, times in seconds.

Also finds environment variables that look like misspelt settings.
"""

import base64
import difflib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from latentsync.errors import shorten
from latentsync.schema.fields import EngineName

MIB = 1024 * 1024

PREFIX = "LATENTSYNC_"
KEY_VARIABLE = "LATENTSYNC_API_KEY"  # of servers and of callers
KEYS_VARIABLE = "LATENTSYNC_API_KEYS"  # its earlier name for servers, still read

Wait = Annotated[float, Field(ge=0)]
_SECRETS = {"api_keys", "database_url", "webhook_secret"}  # or they hold one


class _Environment(EnvSettingsSource):
    """The environment, in which a server's keys may be in either of two variables, or in both."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a field as the environment has it, its variable, and its kind."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if field_name == "api_keys":
            variables = (KEY_VARIABLE.lower(), KEYS_VARIABLE.lower())
            value = ",".join(self.env_vars.get(name) or "" for name in variables)
        return value, key, is_complex


def _base_folder(variable: str, *usual: str) -> Path:
    """Return a folder of the XDG Base Directory Specification, which ignores relative paths."""
    given = Path(os.environ.get(variable, ""))
    return given if given.is_absolute() else Path.home().joinpath(*usual)


class Settings(BaseSettings):
    """Settings of the process: built once by its entry point, frozen, and passed on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a secret
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that callers must send, comma-separated"
    )
    engine: EngineName = Field(
        "auto",
        description="engine to use; auto is latentsync-1.6 on a GPU, else draft",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        description="where the networks run: auto, cpu, mps, cuda or cuda:N",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="data type of the networks; auto is float16 on GPUs, else float32"
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
        300.0, gt=0, description="longest time to receive one request body"
    )
    max_arriving_bodies: int = Field(
        32, ge=1, description="request bodies with media received at once; half from one key"
    )
    max_arriving_bytes: int = Field(
        512 * MIB,
        gt=0,
        description="JSON bodies that may be held in memory at once; half from one key",
    )
    fetch_timeout_s: float = Field(60.0, gt=0, description="longest time for one download")
    max_duration_s: float = Field(600.0, gt=0, description="longest video or audio")
    min_audio_s: float = Field(0.1, gt=0, description="shortest audio")
    max_pixels: int = Field(3840 * 2160, gt=0, description="largest picture, width x height")
    min_side: int = Field(64, gt=0, description="smallest width or height in pixels")
    max_fps: float = Field(240.0, gt=0, description="highest frame rate of a source video")
    max_waiting: int = Field(
        8, ge=0, description="predictions that may be queued before 429 is returned"
    )
    deadline_s: float = Field(900.0, gt=0, description="longest time for one run")
    shutdown_grace_s: int = Field(
        30, ge=0, description="time for the running prediction to finish after a stop signal"
    )
    weights_dir: Path = Field(
        default_factory=lambda: _base_folder("XDG_CACHE_HOME", ".cache") / "latentsync",
        description="folder that keeps downloaded weights (the draft engine needs none)",
    )
    weights_mirror: str | None = Field(
        None, pattern=r"^https?://\S+$", description="address to use instead of the hub"
    )
    offline: bool = Field(
        False, description="never download weights; HF_HUB_OFFLINE=1 does the same"
    )
    fetch_vgg16: bool = Field(
        True, description="download VGG16 at a cold start as well; inference does not read it"
    )

    data_dir: Path = Field(
        default_factory=lambda: _base_folder("XDG_DATA_HOME", ".local", "share") / "latentsync",
        description="folder of the jobs database and files, unless the next two say otherwise",
    )
    database_url: str | None = Field(
        None,
        pattern=r"^(postgresql\+psycopg://|sqlite:///)\S+$",
        description="database of jobs: postgresql+psycopg://…; by default SQLite",
    )
    storage_url: str | None = Field(
        None, description="where jobs' files are kept, for example s3://bucket/folder"
    )
    worker_name: str | None = Field(
        None, description="name of a worker, the same after a restart; by default host and device"
    )
    max_attempts: int = Field(3, ge=1, le=20, description="attempts of a job whose process is lost")
    max_jobs_per_key: int = Field(100, ge=1, description="jobs of one key that may wait or run")
    max_job_bytes_per_key: int = Field(
        8 * 1024 * MIB,
        gt=0,
        description="media of one key's jobs that may wait or run; likewise its uploads",
    )
    max_stored_bytes: int = Field(
        64 * 1024 * MIB,
        gt=0,
        description="media, uploads and results kept at most; the oldest results make room",
    )
    min_free_bytes: int = Field(
        1024 * MIB,
        ge=0,
        description="free space on each disk below which jobs are refused and queued ones wait",
    )
    keep_results_s: float = Field(
        86_400.0, gt=0, description="how long finished jobs and their files are kept"
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="public address of the server; by default the one that was called",
    )
    tasks_without_key: bool = Field(
        False, description="let /sync, /task and /queue be called without a key"
    )
    webhook_secret: SecretStr | None = Field(
        None, description="signs webhooks: whsec_ and 24 to 64 bytes as base64; without it none"
    )
    webhook_timeout_s: float = Field(
        15.0, gt=0, le=300, description="longest time for one webhook delivery attempt"
    )
    webhook_retry_delays_s: Annotated[tuple[Wait, ...], NoDecode] = Field(
        (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0),
        description="delays before each further webhook delivery attempt, comma-separated",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return what is asked for values: the caller's arguments, then the environment."""
        return init_settings, _Environment(settings_cls)

    @property
    def jobs_database(self) -> str:
        """Address of the jobs database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.db'}"

    @property
    def storage(self) -> str:
        """Address of the jobs' files."""
        return self.storage_url or str(self.data_dir / "files")

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None:
            return None
        prefix, text = "whsec_", secret.get_secret_value()
        try:
            size_bytes = len(base64.b64decode(text.removeprefix(prefix), validate=True))
        except ValueError:
            size_bytes = 0
        if not text.startswith(prefix) or not 24 <= size_bytes <= 64:
            raise ValueError("it must be whsec_ and 24 to 64 bytes as base64")
        return secret

    @field_validator("work_dir", "weights_dir", "data_dir")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        return path.expanduser()  # no shell has, where values come from secrets

    @field_validator("api_keys", "allowed_roots", "webhook_retry_delays_s", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


def explain(error: ValidationError) -> str:
    """Return one line that says which variable is invalid, without secrets."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0])
    given = "not usable" if field in _SECRETS else shorten(problem["input"])
    return f"{variable_of(field)} is {given}: {problem['msg']}."


def variable_of(field: str) -> str:
    """Return the environment variable of a setting."""
    return KEY_VARIABLE if field == "api_keys" else f"{PREFIX}{field.upper()}"


URL_VARIABLE = "LATENTSYNC_URL"  # of the server that a caller means
# Where callers may have put their key; the first that is set counts.
CALLER_KEY_VARIABLES = (KEY_VARIABLE, "LATENTSYNC_TOKEN", "CEREBRIUM_API_KEY")

_SETTINGS = frozenset(map(variable_of, Settings.model_fields))
_READ_BY_TESTS = {"LATENTSYNC_REFERENCE", "LATENTSYNC_FUZZ_CASES"}
_KNOWN = _SETTINGS | {URL_VARIABLE, KEYS_VARIABLE, *CALLER_KEY_VARIABLES} | _READ_BY_TESTS
_NEAR = 0.6  # least likeness of a name that is suggested: difflib's own default

# Kubernetes and container links set these in every container for a service named latentsync….
_OF_A_SERVICE = re.compile(
    r"LATENTSYNC(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://")


def describe_unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none."""
    return [
        _describe(name)
        for name, value in sorted(environment.items())
        if name.upper().startswith(PREFIX)
        and name.upper() not in _KNOWN
        and not _is_of_a_service(name.upper(), value)
    ]


def caller_key(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return a caller's key and the variable that it is in; two empty texts if there is none.

    Where a server's variable with several keys is at hand, its first one will do.
    """
    for name in CALLER_KEY_VARIABLES:
        given = environment.get(name, "").strip()
        if name == KEY_VARIABLE:
            given = next((key for part in given.split(",") if (key := part.strip())), "")
        if given:
            return given, name
    return "", ""


def _describe(name: str) -> str:
    suggestable = {known.removeprefix(PREFIX): known for known in (*_SETTINGS, URL_VARIABLE)}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), suggestable, 1, _NEAR)
    advice = f"; did you mean {suggestable[near[0]]}?" if near else "."
    return f"{name} is not a setting of latentsync and has no effect{advice}"


def _is_of_a_service(name: str, value: str) -> bool:
    if _OF_A_SERVICE.fullmatch(name):
        return True
    return name.endswith("_PORT") and _ADDRESS_OF_A_SERVICE.match(value) is not None
