"""Files come once and whole from a real hub on localhost, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from latentsync.errors import (
    Canceled,
    EngineUnavailable,
    WeightsDamaged,
    WeightsMissing,
    WeightsUnreachable,
)
from latentsync.settings import Settings
from latentsync.weights.ensure import prepare
from latentsync.weights.progress import WeightsProgress
from tests.server.live import wait_until
from tests.weights.hub import Hub
from tests.weights.tiny import (
    ARCHIVE_PATH,
    ENGINE_FILES,
    UNET,
    UNET_PATH,
    VGG16_PATHS,
    Ensure,
    content_of,
    everything_in,
    path_on_hub,
    tiny_catalog,
)

pytestmark = pytest.mark.processes

UNVERIFIED = "latentsync-1.5/unet"
Start = Callable[[], subprocess.Popen[str]]


def test_the_first_start_fetches_all_and_the_second_asks_nobody(
    hub: Hub, fetch_file: Ensure
) -> None:
    first = fetch_file(*ENGINE_FILES)
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: content_of(name) for name in ENGINE_FILES
    }
    asked = len(hub.requests)
    assert fetch_file(*ENGINE_FILES) == first
    assert len(hub.requests) == asked


def test_nothing_but_files_and_their_stamps_stays(fetch_file: Ensure, settings: Settings) -> None:
    paths = fetch_file(*ENGINE_FILES)
    names = [path.name for path in paths.values()]
    assert everything_in(settings.weights_dir) == sorted(
        [*names, *(f".{name}.stamp" for name in names)]
    )


def test_files_of_one_archive_come_with_one_download(hub: Hub, fetch_file: Ensure) -> None:
    fetch_file("face-detector", "face-landmarks")
    assert len(hub.gets(ARCHIVE_PATH)) == 1


def test_the_hubs_own_client_understands_the_hub_of_these_tests(hub: Hub, tmp_path: Path) -> None:
    path = huggingface_hub.hf_hub_download(
        "ByteDance/LatentSync-1.5", "latentsync_unet.pt", endpoint=hub.url, local_dir=tmp_path
    )
    assert Path(path).read_bytes() == content_of(UNVERIFIED)


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_file_is_fetched_again_and_no_other(
    hub: Hub, fetch_file: Ensure, damage: str
) -> None:
    paths = fetch_file(UNET, "whisper-tiny")
    content = content_of(UNET)
    damaged = content[:-1] + b"!" if damage == "changed" else content[:1000]
    paths[UNET].write_bytes(damaged)
    asked = len(hub.requests)
    assert fetch_file(UNET, "whisper-tiny")[UNET].read_bytes() == content
    assert {request.path for request in hub.requests[asked:]} == {UNET_PATH}


def test_an_unverified_file_must_stay_what_it_was(hub: Hub, fetch_file: Ensure) -> None:
    path = fetch_file(UNVERIFIED)[UNVERIFIED]
    content = path.read_bytes()
    path.write_bytes(content[:500] + b"?" + content[501:])
    assert fetch_file(UNVERIFIED)[UNVERIFIED].read_bytes() == content


def test_a_file_put_there_by_hand_is_checked_and_taken(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    path = settings.weights_dir / "latentsync-1.6" / "latentsync_unet.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(content_of(UNET))
    assert fetch_file(UNET) == {UNET: path}
    assert hub.requests == []


def test_a_byte_that_changes_on_the_way_is_noticed(hub: Hub, fetch_file: Ensure) -> None:
    hub.trouble(UNET_PATH).wrong_bytes.append(True)
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert len(hub.gets(UNET_PATH)) == 2


def test_a_file_that_comes_damaged_twice_is_refused(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    hub.trouble(UNET_PATH).wrong_bytes.extend([True, True])
    with pytest.raises(WeightsDamaged, match=f"{UNET} arrived damaged .*sha256"):
        fetch_file(UNET)
    assert everything_in(settings.weights_dir) == []


def test_another_file_is_refused_before_it_is_read(hub: Hub, fetch_file: Ensure) -> None:
    hub.put(UNET_PATH, b"x" * len(content_of(UNET)))
    with pytest.raises(WeightsDamaged, match="is not latentsync-1.6/unet: its sha256"):
        fetch_file(UNET)
    hub.put(path_on_hub("sd-vae-ft-mse"), b"<!doctype html>")
    with pytest.raises(WeightsDamaged, match="it has 15 bytes instead of 60000"):
        fetch_file("sd-vae-ft-mse")
    assert hub.sent_bytes.total() == 0


def test_what_is_no_checkpoint_is_refused_where_no_hash_is_known(
    hub: Hub, fetch_file: Ensure
) -> None:
    hub.put(path_on_hub(UNVERIFIED), b"x" * len(content_of(UNVERIFIED)))
    with pytest.raises(WeightsDamaged, match="not a PyTorch checkpoint"):
        fetch_file(UNVERIFIED)


def test_a_busy_hub_is_asked_again(hub: Hub, fetch_file: Ensure) -> None:
    hub.trouble(UNET_PATH).statuses.extend([503, 429])
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set HF_TOKEN"), (403, "accept the licence"), (404, "no such file")],
)
def test_a_refusal_is_not_asked_again(
    hub: Hub, fetch_file: Ensure, status: int, advice: str
) -> None:
    hub.trouble(UNET_PATH).statuses.append(status)
    with pytest.raises(WeightsUnreachable, match=f"{UNET} .*{hub.url}{UNET_PATH}.*{advice}"):
        fetch_file(UNET)
    assert len(hub.requests) == 1


def test_a_missing_hub_is_told_at_once(
    fetch_file: Ensure, settings: Settings, dead_url: str
) -> None:
    started = time.monotonic()
    with pytest.raises(WeightsUnreachable, match=f"{UNET} .*{dead_url}.*LATENTSYNC_WEIGHTS_MIRROR"):
        fetch_file(UNET, settings=settings.model_copy(update={"weights_mirror": dead_url}))
    assert time.monotonic() - started < 15


def test_the_bytes_may_come_from_another_host_that_never_sees_the_token(
    hub: Hub, fetch_file: Ensure
) -> None:
    hub.redirects = True
    hub.trouble(UNET_PATH).cut_after.append(150_000)
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    heads = [request for request in hub.requests if request.method == "HEAD"]
    assert {request.authorization for request in heads} == {"Bearer hf_token_of_the_tests"}
    assert {request.authorization for request in hub.gets(UNET_PATH)} == {None}
    assert hub.sent_bytes[UNET_PATH] == len(content_of(UNET))


def test_the_mirror_may_come_from_hf_endpoint(
    hub: Hub, fetch_file: Ensure, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    paths = fetch_file(UNET, settings=settings.model_copy(update={"weights_mirror": None}))
    assert paths[UNET].read_bytes() == content_of(UNET)


def test_passwords_of_a_mirror_are_not_told(
    fetch_file: Ensure, settings: Settings, dead_url: str
) -> None:
    mirror = dead_url.replace("//", "//user:secret@")
    with pytest.raises(WeightsUnreachable) as caught:
        fetch_file(UNET, settings=settings.model_copy(update={"weights_mirror": mirror}))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_offline_says_what_is_missing_from_where_and_where_to(
    hub: Hub, fetch_file: Ensure, settings: Settings, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    fetch_file("whisper-tiny")
    asked = len(hub.requests)
    if by == "setting":
        settings = settings.model_copy(update={"offline": True})
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsMissing) as caught:
        fetch_file(*ENGINE_FILES, settings=settings)
    message = caught.value.message
    assert f"{UNET}: download {hub.url}{UNET_PATH} and put it at latentsync-1.6/" in message
    assert "buffalo_l.zip (det_10g.onnx in it) and put it at face/det_10g.onnx" in message
    assert "whisper" not in message
    assert str(settings.weights_dir) not in message
    assert len(hub.requests) == asked


def test_offline_with_all_files_is_no_trouble(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    fetch_file(UNET)
    offline = settings.model_copy(update={"offline": True})
    assert fetch_file(UNET, settings=offline)[UNET].read_bytes() == content_of(UNET)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("hub.example", r"from hub\.example/.*not an http address"),
        ("http://[hub", r"from \(no valid address\): this is not an http address"),
    ],
)
def test_an_endpoint_that_is_no_address_is_told(
    fetch_file: Ensure,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    told: str,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(WeightsUnreachable, match=told):
        fetch_file(UNET, settings=settings.model_copy(update={"weights_mirror": None}))


def test_canceling_stops_a_silent_download_at_once_and_keeps_what_came(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    trouble = hub.trouble(UNET_PATH)
    trouble.hold = threading.Event()
    part = settings.weights_dir / "latentsync-1.6" / ".latentsync_unet.pt.part"

    def check() -> None:
        if part.exists() and part.stat().st_size >= 100_000:
            raise Canceled("enough")

    started = time.monotonic()
    with pytest.raises(Canceled):
        fetch_file(UNET, check=check)
    assert time.monotonic() - started < 15
    trouble.hold.set()
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert hub.gets(UNET_PATH)[1].range is not None


def test_progress_is_told_in_the_callers_thread_and_ends_whole(fetch_file: Ensure) -> None:
    told: list[tuple[WeightsProgress, threading.Thread]] = []
    fetch_file(
        UNET,
        "whisper-tiny",
        on_progress=lambda notifier: told.append((notifier, threading.current_thread())),
    )
    assert {thread for _, thread in told} == {threading.current_thread()}
    last = {notifier.name: notifier for notifier, _ in told}
    assert last[UNET] == WeightsProgress(UNET, "done", 400_000, 400_000)
    assert last["whisper-tiny"].phase == "done"


def test_two_processes_at_once_download_once(hub: Hub, start_process: Start) -> None:
    trouble = hub.trouble(UNET_PATH)
    trouble.hold = threading.Event()
    processes = [start_process(), start_process()]
    assert hub.sending.wait(20)
    trouble.hold.set()
    for process in processes:
        output, _ = process.communicate(timeout=30)
        assert json.loads(output) == len(content_of(UNET))
    assert len(hub.gets(UNET_PATH)) == 1
    assert hub.sent_bytes[UNET_PATH] == len(content_of(UNET))


def test_a_killed_process_leaves_what_the_next_one_continues(
    hub: Hub, fetch_file: Ensure, settings: Settings, start_process: Start
) -> None:
    trouble = hub.trouble(UNET_PATH)
    trouble.hold = threading.Event()
    part = settings.weights_dir / "latentsync-1.6" / ".latentsync_unet.pt.part"
    process = start_process()
    wait_until(lambda: part.exists() and part.stat().st_size >= 100_000)
    process.kill()
    process.wait()
    arrived = part.stat().st_size
    trouble.hold.set()
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert hub.gets(UNET_PATH)[1].range == f"bytes={arrived}-"


def test_a_silent_hub_does_not_hold_up_an_interrupted_process(
    hub: Hub, settings: Settings, start_process: Start
) -> None:
    hub.trouble(UNET_PATH).hold = threading.Event()
    part = settings.weights_dir / "latentsync-1.6" / ".latentsync_unet.pt.part"
    process = start_process()
    wait_until(lambda: part.exists() and part.stat().st_size >= 100_000)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)  # the read from the hub would time out after 30 s
    assert process.returncode != 0


def test_an_unknown_name_is_refused(fetch_file: Ensure) -> None:
    with pytest.raises(EngineUnavailable, match="no weights named 'unet'. Known: latentsync-1.6/"):
        fetch_file("unet")


def test_a_cold_start_brings_vgg16_along(hub: Hub, settings: Settings, tmp_path: Path) -> None:
    vgg16 = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    paths = prepare("latentsync-1.6", settings, catalog=tiny_catalog(hub.url))
    assert set(paths) == set(ENGINE_FILES)
    wait_until(vgg16.exists)
    assert vgg16.read_bytes() == content_of("vgg16")


def test_a_cold_start_without_vgg16_or_with_the_draft_engine(hub: Hub, settings: Settings) -> None:
    catalog = tiny_catalog(hub.url)
    assert prepare("draft", settings, catalog=catalog) == {}
    assert hub.requests == []
    light = settings.model_copy(update={"fetch_vgg16": False, "face_landmarks": "mesh"})
    assert set(prepare("latentsync-1.5", light, catalog=catalog)) == {
        UNVERIFIED,
        "whisper-tiny",
        "sd-vae-ft-mse",
    }
    assert not {request.path for request in hub.requests} & {*VGG16_PATHS, ARCHIVE_PATH}
