"""The file store in S3, over HTTP: a real client, a server that checks signatures and may fail."""

from __future__ import annotations

import http.server
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread, Timer

import pytest

from latentsync.errors import DiskFull, StorageUnavailable
from latentsync.jobs.storage import Storage
from tests.jobs.object_store import BUCKET, SECRET, ObjectStore, forget_clients, object_store

pytestmark = pytest.mark.processes

MIB = 1024 * 1024
STRANGE_KEY = "inputs/a b/über 漢字 + & % #.mp4"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as one:
        yield one


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The server, empty, and this process let in."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield server
    server.empty()


@pytest.fixture
def files(store: ObjectStore) -> Storage:
    return Storage(f"s3://{BUCKET}/some/prefix")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize("key", ["results/one/file.mp4", STRANGE_KEY])
def test_what_is_stored_is_there_until_it_is_removed(
    store: ObjectStore, files: Storage, source: Path, tmp_path: Path, key: str
) -> None:
    files.put(source, key)
    assert (files.exists(key), files.size_bytes(key)) == (True, 10)
    assert store.stored() == {f"some/prefix/{key}"}
    with files.open(key) as opened:
        opened.seek(4)
        assert opened.read(3) == b"456"
    folder = tmp_path / "work"
    folder.mkdir()
    with files.as_local_file(key, folder) as path:
        assert path.read_bytes() == b"0123456789"
    assert list(folder.iterdir()) == []
    files.remove(key)
    assert not files.exists(key)


def test_listing_dates_and_counts_one_folder_alone(files: Storage, source: Path) -> None:
    before = time.time() - 5
    for key in ("a/one/file", "a/two", "a b/x", "ab/x"):
        files.put(source, key)
    below = files.below("a")
    assert set(below) == {"one", "two"}
    assert all(before < changed_at < time.time() + 5 for changed_at in below.values())
    assert (files.size_below("a"), files.size_below("a", name="file")) == (20, 10)
    assert (files.below("none"), files.size_below("none")) == ({}, 0)
    assert files.free_bytes() is None


def test_removing_takes_one_folder_alone_and_minds_nothing(
    store: ObjectStore, files: Storage, source: Path
) -> None:
    for key in ("a/one/file", "a/one2/file", "b"):
        files.put(source, key)
    for key in ("a/one", "b", "none", "none/at/all"):
        files.remove(key)
    assert store.stored() == {"some/prefix/a/one2/file"}


def test_no_key_leaves_the_prefix(store: ObjectStore, files: Storage, source: Path) -> None:
    outside = Storage(f"s3://{BUCKET}")
    for key in ("some/other", "some/prefix2/a", "top"):
        outside.put(source, key)
    for key in ("", "..", "../other", "a/../../other", "/top", "a//b", "*", "?", "[a-z]", "a\\b"):
        for act in (files.exists, files.open, files.remove, files.below, files.size_below):
            with pytest.raises(FileNotFoundError):
                act(key)
    assert store.stored() == {"some/other", "some/prefix2/a", "top"}


def test_what_is_not_there_is_a_missing_file(files: Storage, tmp_path: Path) -> None:
    assert not files.exists("none")
    for act in (files.open, files.size_bytes):
        with pytest.raises(FileNotFoundError):
            act("none")
    with pytest.raises(FileNotFoundError), files.as_local_file("none", tmp_path):
        pass


def test_what_another_process_stores_is_seen(
    store: ObjectStore, files: Storage, source: Path
) -> None:
    assert (files.exists("a/b"), files.below("a")) == (False, {})
    put = "import sys; from pathlib import Path; from latentsync.jobs.storage import Storage; "
    put += "Storage(sys.argv[1]).put(Path(sys.argv[2]), 'a/b')"
    url = f"s3://{BUCKET}/some/prefix"
    subprocess.run([sys.executable, "-c", put, url, str(source)], check=True)
    assert (files.exists("a/b"), set(files.below("a"))) == (True, {"b"})


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_refusal_is_told_without_any_secret(
    files: Storage,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    files.put(source, "kept")
    monkeypatch.setenv(wrong, "wrong-one")
    forget_clients()
    refused = Storage(f"s3://{BUCKET}/some/prefix")
    with caplog.at_level(logging.DEBUG, "latentsync"):
        check_every_call_fails(refused, source, "The store of files refuses this server.")
    for secret in (SECRET, "wrong-one"):
        assert secret not in caplog.text
    assert files.exists("kept")


def test_a_bucket_that_is_not_there_is_a_refusal(store: ObjectStore, source: Path) -> None:
    files = Storage("s3://no-such-bucket/a")
    for act in (lambda: files.put(source, "b"), lambda: files.size_below("b")):
        with pytest.raises(StorageUnavailable, match="refuses"):
            act()
    assert not files.answers()


def check_every_call_fails(files: Storage, source: Path, message: str) -> None:
    """Check that all that a store does is StorageUnavailable, and that nothing seems missing."""
    acts = (files.exists, files.open, files.size_bytes, files.remove, files.below, files.size_below)
    for act in acts:
        with pytest.raises(StorageUnavailable) as caught:
            act("kept")
        assert caught.value.message == message
    for take in (lambda: files.put(source, "new"), lambda: lend(files, source.parent)):
        with pytest.raises(StorageUnavailable) as caught:
            take()
        assert caught.value.message == message
    files.discard("kept")
    assert not files.answers()


def lend(files: Storage, folder: Path) -> None:
    with files.as_local_file("kept", folder):
        pass


def test_a_store_that_is_away_is_told_and_comes_back(
    store: ObjectStore, files: Storage, source: Path
) -> None:
    files.put(source, "kept")
    store.go_away()
    try:
        check_every_call_fails(files, source, "The store of files does not answer.")
    finally:
        store.come_back()
    assert files.answers()
    assert files.exists("kept")


def test_a_dear_file_waits_for_the_store(store: ObjectStore, files: Storage, source: Path) -> None:
    store.go_away()
    back = Timer(1.0, store.come_back)
    back.start()
    try:
        files.put_with_retry(source, "dear", patience_s=60, canceled=Event())
    finally:
        back.join()
    assert files.exists("dear")


def test_patience_has_an_end(store: ObjectStore, files: Storage, source: Path) -> None:
    canceled = Event()
    canceled.set()
    store.go_away()
    try:
        with pytest.raises(StorageUnavailable):
            files.put_with_retry(source, "dear", patience_s=60, canceled=canceled)
        with pytest.raises(StorageUnavailable):
            files.put_with_retry(source, "dear", patience_s=0, canceled=Event())
    finally:
        store.come_back()
    assert not files.exists("dear")


# Copies a large file there and back and reads its end; prints by how much the memory grew.
_COPY_LARGE = """
import sys
from pathlib import Path
from latentsync.jobs.storage import Storage

def peak():  # not getrusage's, which begins with that of the process before
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

files, large, folder = Storage(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
files.put(large.with_name("small"), "warm")
before = peak()
files.put(large, "large/file")
with files.as_local_file("large/file", folder) as path:
    assert path.stat().st_size == large.stat().st_size
    with path.open("rb") as copy:
        copy.seek(-4, 2)
        assert copy.read() == b"end."
with files.open("large/file") as opened:
    opened.seek(-4, 2)
    assert opened.read() == b"end."
    opened.seek(0)
    for _ in range(64):
        assert len(opened.read(256 * 1024)) == 256 * 1024
print(peak() - before)
"""


def test_a_large_file_does_not_lie_in_memory(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    large, folder = tmp_path / "large", tmp_path / "work"
    folder.mkdir()
    with large.open("wb") as file:
        file.truncate(96 * MIB)
        file.seek(-4, 2)
        file.write(b"end.")
    done = subprocess.run(
        [sys.executable, "-c", _COPY_LARGE, f"s3://{BUCKET}/some", str(large), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 72 * MIB  # 46; with the defaults of s3fs it would be 192


class _Full(http.server.BaseHTTPRequestHandler):
    """Answers as MinIO does when its disks are full."""

    protocol_version = "HTTP/1.1"  # the client asks first whether it may send

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"<Error><Code>XMinioStorageFull</Code><Message>No space.</Message></Error>"
        self.send_response(507)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_store_without_room_is_a_full_disk(
    store: ObjectStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Full) as full:
        Thread(target=full.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{full.server_port}")
        forget_clients()
        try:
            with pytest.raises(DiskFull, match="store of files"):
                Storage(f"s3://{BUCKET}/some").put(source, "a")
        finally:
            full.shutdown()


def test_an_address_without_a_bucket_is_told_at_once() -> None:
    with pytest.raises(StorageUnavailable, match="names no bucket"):
        Storage("s3://")
