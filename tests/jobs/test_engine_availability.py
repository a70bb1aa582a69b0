"""What can run is what the living workers say; while none is alive, nothing is refused for it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from latentsync.errors import EngineUnavailable, WeightsMissing
from latentsync.jobs.database import hosts
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.jobs.service import JobService, Submission, owner_of
from latentsync.pipelines.registry import survey_engines
from latentsync.schema.engines import ENGINES, EngineSurvey, Obstacle
from latentsync.schema.run import PathSource, RunOptions, RunRequest, UrlSource
from latentsync.server.routes.predictions import list_models
from latentsync.settings import Settings
from latentsync.worker.membership import WorkerRegistry
from tests.server.clips import write_clip, write_speech
from tests.without_packages import hide

GPU, DRAFT = "latentsync-1.6", "draft"
NO_TORCH = Obstacle(EngineUnavailable.code, "It needs torch, which is not installed: pip install.")
ME = owner_of("my key")


def survey(default: str = "auto", **lacking: Obstacle) -> EngineSurvey:
    """Return what a worker on a machine without a GPU says; ``lacking`` is by LatentSync's name."""
    obstacles: Mapping[str, Obstacle | None] = {
        "auto": None,
        **{name: lacking.get("latentsync") if name != DRAFT else None for name in ENGINES},
    }
    return EngineSurvey(default, DRAFT, obstacles)


WITHOUT_TORCH, WITH_TORCH = survey(latentsync=NO_TORCH), survey()


class Office:
    """A desk whose workers are nothing but what they say."""

    def __init__(self, folder: Path, **service: Any) -> None:
        self.folder = folder
        self.settings = Settings(
            data_dir=folder / "data", work_dir=folder / "work", min_free_bytes=0, max_waiting=0
        )
        self.service = JobService(self.settings, **service)
        self.media = {
            "video": PathSource(write_clip(folder / "clip.mp4"), "video"),
            "audio": PathSource(write_speech(folder / "speech.wav"), "audio"),
        }

    def worker(self, name: str, says: EngineSurvey | None) -> WorkerRegistry:
        registry = WorkerRegistry(self.service.store.engine, name)
        assert registry.join(name, lambda _: False, says)
        return registry

    def ask(self, engine: str | None, *, files: bool = False, **names: str) -> Submission:
        addresses = {name: UrlSource("https://e.example/x", f"{name}_url") for name in self.media}
        media = self.media if files else addresses
        request = RunRequest(media["video"], media["audio"], RunOptions(engine=engine))
        return Submission(request, "same", **names)

    def refuse(self, *asked: Submission) -> EngineUnavailable:
        with pytest.raises(EngineUnavailable) as refused:
            self.service.submit(asked, ME)
        return refused.value

    def is_empty(self) -> bool:
        kept = [self.folder / "data" / "files", self.folder / "work"]
        files = [path for root in kept for path in root.rglob("*") if path.is_file()]
        return not files and not self.service.store.list_of(ME)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    one = Office(tmp_path)
    yield one
    one.service.close()


@pytest.mark.parametrize("files", [False, True], ids=["addresses", "files"])
def test_what_no_living_worker_can_run_is_refused_and_nothing_stored(
    office: Office, files: bool
) -> None:
    office.worker("a", WITHOUT_TORCH)
    office.media["video"].path.rename(office.folder / "kept.mp4")  # it is not even looked at
    refused = office.refuse(office.ask(GPU, files=files))
    assert refused.message == (
        f"The engine {GPU} cannot run here. {NO_TORCH.reason} Engines that can run here: draft."
    )
    assert refused.field == "engine"
    assert office.is_empty()
    (office.folder / "kept.mp4").rename(office.media["video"].path)
    for engine in (DRAFT, "auto", None):
        office.service.submit([office.ask(engine, files=files)], ME)


def test_without_an_engine_it_is_the_workers_default_that_counts(office: Office) -> None:
    worker = office.worker("a", survey(GPU, latentsync=NO_TORCH))
    assert f"The engine {GPU} cannot run here." in office.refuse(office.ask(None)).message
    assert office.is_empty()
    worker.heartbeat(None, survey(GPU))  # it was installed
    office.service.submit([office.ask(None)], ME)


@pytest.mark.parametrize("files", [False, True], ids=["addresses", "files"])
def test_of_several_the_one_that_cannot_run_is_named_and_none_is_taken(
    office: Office, files: bool
) -> None:
    office.worker("a", WITHOUT_TORCH)
    asked = [
        office.ask(engine, files=files, entry=f"predictions.{number}")
        for number, engine in enumerate((DRAFT, GPU))
    ]
    refused = office.refuse(*asked)
    assert refused.field == "predictions.1.engine"
    assert refused.message.startswith(f"predictions.1: The engine {GPU} cannot run")
    assert office.is_empty()


@pytest.mark.parametrize("files", [False, True], ids=["addresses", "files"])
@pytest.mark.parametrize("name", ["id", "idempotency_key"])
def test_a_repeated_submission_gets_its_job_whatever_can_run_by_then(
    office: Office, files: bool, name: str
) -> None:
    asked = office.ask(GPU, files=files, **{name: str(uuid.uuid4())})
    worker = office.worker("a", WITH_TORCH)
    (first,) = office.service.submit([asked], ME)
    worker.heartbeat(None, WITHOUT_TORCH)
    assert office.service.submit([asked], ME) == [first]
    office.refuse(office.ask(GPU, files=files))


def test_one_worker_that_can_is_enough(office: Office) -> None:
    office.worker("a", WITHOUT_TORCH)
    able = office.worker("b", WITH_TORCH)
    office.service.submit([office.ask(GPU)], ME)
    able.leave()
    office.refuse(office.ask(GPU))


def test_a_worker_that_does_not_say_may_run_anything(office: Office) -> None:
    office.worker("a", WITHOUT_TORCH)
    office.worker("earlier version", None)
    office.service.submit([office.ask(GPU)], ME)


def test_a_silent_worker_has_no_say(office: Office) -> None:
    office.worker("a", WITHOUT_TORCH)
    with office.service.store.engine.begin() as connection:
        connection.execute(hosts.update().values(seen_at=hosts.c.seen_at - 60))
    office.service.submit([office.ask(GPU)], ME)


def test_while_none_is_alive_nothing_is_refused_and_that_is_said(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)  # the workers may have what this process has not
    office.service.submit([office.ask(GPU)], ME)
    listed = list_models(office.settings, office.service.engines.now()).models
    assert {model.available for model in listed} == {True}
    assert all("No worker is running" in (model.reason or "") for model in listed)


def test_a_server_with_its_own_worker_knows_before_that_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    office = Office(tmp_path, survey=survey_engines)
    assert "torch, diffusers" in office.refuse(office.ask(GPU, files=True)).message
    assert office.is_empty()
    listed = list_models(office.settings, office.service.engines.now()).models
    assert [(model.id, model.reason) for model in listed if model.available] == [(DRAFT, None)]
    office.service.submit([office.ask(DRAFT)], ME)
    office.worker("a", WITH_TORCH)  # which knows better
    office.service.submit([office.ask(GPU)], ME)
    office.service.close()


def test_the_models_say_whether_they_can_run_and_why_not(office: Office) -> None:
    office.worker("a", WITHOUT_TORCH)
    listed = list_models(office.settings, office.service.engines.now())
    assert {model.id: (model.available, model.reason) for model in listed.models} == {
        GPU: (False, NO_TORCH.reason),
        "latentsync-1.5": (False, NO_TORCH.reason),
        DRAFT: (True, None),
    }
    assert all(model.description for model in listed.models)


def test_missing_weights_keep_their_own_code(office: Office) -> None:
    missing = Obstacle(WeightsMissing.code, "Offline, and weights are missing.")
    office.worker("a", survey(GPU, latentsync=missing))
    assert isinstance(office.refuse(office.ask(None)), WeightsMissing)


def test_what_the_default_stands_for_is_known(office: Office) -> None:
    engines = EngineAvailability(office.service.store.engine)
    assert engines.now().defaults == []
    office.worker("a", WITHOUT_TORCH)
    assert engines.now().defaults == [DRAFT]
    office.worker("b", survey(GPU))
    assert engines.now().defaults == [DRAFT, GPU]


def test_what_is_recorded_of_engines_is_plain_json(office: Office) -> None:
    office.worker("a", WITHOUT_TORCH)
    with office.service.store.engine.connect() as connection:
        text = connection.execute(sa.text("SELECT survey FROM latentsync_roster_engines")).scalar()
    assert json.loads(str(text))["obstacles"][GPU] == {
        "code": NO_TORCH.code,
        "reason": NO_TORCH.reason,
    }
