"""The desk: what it takes in, what it refuses, and that it keeps nothing of what it refused."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from latentsync.errors import (
    DiskFull,
    IdempotencyConflict,
    InvalidField,
    JobNotFound,
    LatentSyncError,
    LineFull,
    UploadNotFound,
)
from latentsync.jobs.models import JobStatus
from latentsync.jobs.service import JobService, Submission, check_job_id, fingerprint, owner_of
from latentsync.jobs.store import Finished
from latentsync.schema.run import InlineSource, MediaSource, PathSource, RunRequest, UrlSource
from latentsync.settings import Settings
from tests.server.clips import as_base64, write_clip, write_speech

ME, OTHER = owner_of("my key"), owner_of("another key")
VIDEO_URL = UrlSource("https://example.com/face.mp4", "video_url")
AUDIO_URL = UrlSource("https://example.com/speech.wav", "audio_url")


class Office:
    """A desk, its folders, and media."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        own = {"data_dir": folder / "data", "work_dir": folder / "work", "min_free_bytes": 0}
        self.folder = folder
        self.service = JobService(Settings(**{**own, **settings}))
        self.video = write_clip(folder / "clip.mp4")
        self.audio = write_speech(folder / "speech.wav")

    def ask(
        self, video: MediaSource = VIDEO_URL, audio: MediaSource = AUDIO_URL, **names: Any
    ) -> Submission:
        """Return a submission; all of them ask for the same unless told otherwise."""
        return Submission(RunRequest(video, audio), **{"fingerprint": "same", **names})

    def ask_with_files(self, **names: Any) -> Submission:
        video, audio = PathSource(self.video, "video"), PathSource(self.audio, "audio")
        return self.ask(video, audio, **names)

    def stored(self) -> list[Path]:
        root = self.folder / "data" / "files"
        return sorted(path for path in root.rglob("*") if path.is_file())

    def working_folders(self) -> list[Path]:
        return sorted((self.folder / "work").glob("*/*"))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    one = Office(tmp_path)
    yield one
    one.service.close()


def test_addresses_are_recorded_and_not_fetched(office: Office) -> None:
    (job,) = office.service.submit([office.ask()], ME)
    assert job.request["video"] == {"url": VIDEO_URL.url, "name": "video_url"}
    assert (job.status, job.input_bytes, office.stored()) == (JobStatus.QUEUED, 0, [])


def test_media_in_the_request_are_stored_under_names_that_nobody_guesses(office: Office) -> None:
    video = InlineSource(as_base64(office.video), "video_base64")
    audio = PathSource(office.audio, "audio")
    (job,) = office.service.submit([office.ask(video, audio)], ME)
    assert job.request["video"]["name"] == "video_base64"
    sizes = [path.stat().st_size for path in office.stored()]
    assert job.input_bytes == sum(sizes) == office.video.stat().st_size + sizes_of(office.audio)
    assert job.id not in str(office.stored())
    assert office.working_folders() == []


def sizes_of(path: Path) -> int:
    return path.stat().st_size


def test_several_jobs_are_taken_in_all_or_none(office: Office) -> None:
    broken = InlineSource(base64.b64encode(b"no video").decode(), "video_base64")
    with pytest.raises(LatentSyncError) as refused:
        office.service.submit([office.ask_with_files(), office.ask(broken)], ME)
    assert refused.value.field == "video_base64"
    assert (office.stored(), office.service.store.list_of(ME)) == ([], [])
    jobs = office.service.submit([office.ask(), office.ask_with_files()], ME)
    assert [job.number for job in jobs] == sorted(job.number for job in jobs)
    assert len(jobs) == 2


@pytest.mark.parametrize("name", ["id", "idempotency_key"])
def test_a_repeated_submission_is_the_first_one(office: Office, name: str) -> None:
    names = {name: str(uuid.uuid4())}
    (first,) = office.service.submit([office.ask_with_files(**names)], ME)
    files = office.stored()
    (second,) = office.service.submit([office.ask_with_files(**names)], ME)
    assert second == first
    assert office.stored() == files
    with pytest.raises(IdempotencyConflict):
        office.service.submit([office.ask(fingerprint="other", **names)], ME)


def test_an_id_of_somebody_elses_is_taken(office: Office) -> None:
    (job,) = office.service.submit([office.ask()], ME)
    with pytest.raises(IdempotencyConflict):
        office.service.submit([office.ask(id=job.id)], OTHER)


def test_of_equal_submissions_at_once_one_is_made_and_keeps_its_media(office: Office) -> None:
    ask = office.ask_with_files(id=str(uuid.uuid4()))
    with ThreadPoolExecutor(6) as threads:
        jobs = list(threads.map(lambda _: office.service.submit([ask], ME)[0], range(6)))
    assert len({(job.id, job.number) for job in jobs}) == 1
    keys = {jobs[0].request[medium]["key"] for medium in ("video", "audio")}
    assert {str(path).split("/files/")[1] for path in office.stored()} == keys


def test_only_the_owner_sees_and_cancels_a_job(office: Office) -> None:
    (job,) = office.service.submit([office.ask()], ME)
    for act in (office.service.job, office.service.cancel):
        with pytest.raises(JobNotFound):
            act(job.id, OTHER)
        with pytest.raises(JobNotFound):
            act(str(uuid.uuid4()), ME)
    assert office.service.job(job.id, ME).status is JobStatus.QUEUED


def test_a_job_canceled_while_it_waits_leaves_no_media(office: Office) -> None:
    (job,) = office.service.submit([office.ask_with_files()], ME)
    assert office.service.cancel(job.id, ME).status is JobStatus.CANCELED
    assert office.stored() == []
    assert office.service.cancel(job.id, ME).status is JobStatus.CANCELED


def test_canceling_an_ended_job_changes_nothing(office: Office) -> None:
    (job,) = office.service.submit([office.ask()], ME)
    begun = office.service.store.begin(job.id, "host")
    assert begun is not None
    office.service.store.finish(begun, Finished(JobStatus.SUCCEEDED, result_key="results/x/y"))
    assert office.service.cancel(job.id, ME).status is JobStatus.SUCCEEDED


def test_an_upload_is_used_by_its_owner_alone(office: Office) -> None:
    address = office.service.store_upload(office.video, ME)
    upload = UrlSource(address, "video_url")
    (job,) = office.service.submit([office.ask(upload)], ME)
    assert "key" in job.request["video"]
    for owner, url in ((OTHER, address), (ME, "upload://none"), (ME, "upload://../x/y")):
        with pytest.raises(UploadNotFound) as refused:
            office.service.submit([office.ask(UrlSource(url, "video_url"))], owner)
        assert refused.value.field == "video_url"


def test_a_key_has_so_many_bytes_of_uploads(tmp_path: Path) -> None:
    size_bytes = write_clip(tmp_path / "clip.mp4").stat().st_size
    office = Office(tmp_path, max_job_bytes_per_key=2 * size_bytes)
    with ThreadPoolExecutor(4) as threads:
        together = [
            threads.submit(office.service.store_upload, office.video, owner) for owner in [ME] * 6
        ]
        refused = [one.exception() for one in together if one.exception() is not None]
    assert len(refused) >= 4
    assert {type(error) for error in refused} == {LineFull}
    assert len(office.stored()) <= 2
    office.service.store_upload(office.video, OTHER)
    office.service.close()


def test_a_key_has_so_many_jobs_and_bytes_waiting(tmp_path: Path) -> None:
    office = Office(tmp_path, max_jobs_per_key=2, max_job_bytes_per_key=1)
    office.service.submit([office.ask_with_files()], ME)
    with pytest.raises(LineFull, match="bytes"):
        office.service.submit([office.ask()], ME)
    with pytest.raises(LineFull, match="allowed: 2"):
        office.service.submit([office.ask(), office.ask(), office.ask()], OTHER)
    office.service.submit([office.ask(), office.ask()], OTHER)
    office.service.close()


@pytest.mark.parametrize("limit", [{"min_free_bytes": 2**62}, {"max_stored_bytes": 100}])
def test_a_full_disk_takes_no_media_and_loses_none(tmp_path: Path, limit: dict[str, int]) -> None:
    roomy, full = Office(tmp_path), Office(tmp_path, **limit)
    (job,) = roomy.service.submit([roomy.ask_with_files()], ME)
    files = roomy.stored()
    with pytest.raises(DiskFull):
        full.service.submit([full.ask_with_files()], ME)
    with pytest.raises(DiskFull):
        full.service.store_upload(full.video, ME)
    assert (full.stored(), full.working_folders()) == (files, [])
    assert full.service.job(job.id, ME) == job
    for office in (roomy, full):
        office.service.close()


def test_a_full_disk_takes_no_new_job_and_still_knows_the_old_ones(tmp_path: Path) -> None:
    roomy, full = Office(tmp_path), Office(tmp_path, min_free_bytes=2**62)
    names = {"idempotency_key": "key"}
    jobs = roomy.service.submit([roomy.ask(**names)], ME)
    with pytest.raises(DiskFull):
        full.service.submit([full.ask()], ME)
    with pytest.raises(DiskFull):
        full.service.submit([full.ask(**names), full.ask()], ME)
    assert full.service.submit([full.ask(**names)], ME) == jobs == full.service.store.list_of(ME)
    for office in (roomy, full):
        office.service.close()


def test_ids_are_uuids() -> None:
    own = uuid.uuid4()
    assert check_job_id(str(own).upper()) == str(own)
    for bad in ("", "../x", "1", "x" * 1000):
        with pytest.raises(InvalidField) as refused:
            check_job_id(bad)
        assert refused.value.field == "id"
        assert len(refused.value.message) < 200


def test_owners_and_fingerprints_hide_what_they_stand_for() -> None:
    assert owner_of("secret") != owner_of("secret2")
    assert "secret" not in owner_of("secret")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
