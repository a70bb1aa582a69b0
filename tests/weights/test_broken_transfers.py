"""Downloads that break are gone on with where that is safe, and begun again where it is not."""

from __future__ import annotations

import pytest

from latentsync.errors import WeightsMissing, WeightsUnreachable
from latentsync.settings import Settings
from tests.weights.hub import Hub
from tests.weights.tiny import ARCHIVE_PATH, UNET, UNET_PATH, Ensure, content_of

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("trouble", ["cut_after", "reset_after"])
def test_a_broken_connection_is_continued(hub: Hub, fetch_file: Ensure, trouble: str) -> None:
    getattr(hub.trouble(UNET_PATH), trouble).extend([150_000, 100_000])
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    first, *later = hub.gets(UNET_PATH)
    assert first.range is None
    assert len(later) == 2
    if trouble == "cut_after":  # a reset may throw away what was sent
        assert [request.range for request in later] == ["bytes=150000-", "bytes=250000-"]
        assert hub.sent_bytes[UNET_PATH] == len(content_of(UNET))


def test_an_archive_is_continued_too(hub: Hub, fetch_file: Ensure) -> None:
    hub.trouble(ARCHIVE_PATH).cut_after.append(40_000)
    assert fetch_file("face-detector")["face-detector"].read_bytes() == content_of("face-detector")
    assert hub.gets(ARCHIVE_PATH)[1].range == "bytes=40000-"
    assert hub.sent_bytes[ARCHIVE_PATH] == len(hub.files[ARCHIVE_PATH])


def test_an_archive_that_changed_in_between_is_not_mixed(hub: Hub, fetch_file: Ensure) -> None:
    whole = hub.files[ARCHIVE_PATH]
    hub.put(ARCHIVE_PATH, b"x" * len(whole))
    hub.trouble(ARCHIVE_PATH).cut_after.extend([40_000, 0, 0])
    with pytest.raises(WeightsUnreachable):
        fetch_file("face-detector")
    hub.put(ARCHIVE_PATH, whole)
    hub.sent_bytes.clear()
    assert fetch_file("face-detector")["face-detector"].read_bytes() == content_of("face-detector")
    assert hub.sent_bytes[ARCHIVE_PATH] == len(whole)


def test_an_archive_that_came_but_was_not_unpacked_is_not_fetched_again(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    target = settings.weights_dir / "face" / "2d106det.onnx"
    target.mkdir(parents=True)  # in the way of one of its two files
    with pytest.raises(WeightsMissing, match="face/2d106det.onnx"):
        fetch_file("face-landmarks")
    target.rmdir()
    assert fetch_file("face-landmarks")["face-landmarks"].read_bytes() == content_of(
        "face-landmarks"
    )
    assert len(hub.gets(ARCHIVE_PATH)) == 1


def test_a_server_that_knows_no_ranges_starts_over(hub: Hub, fetch_file: Ensure) -> None:
    hub.trouble(UNET_PATH).cut_after.append(150_000)
    hub.trouble(UNET_PATH).ignores_ranges = True
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)


def test_a_download_given_up_is_continued_by_the_next_start(hub: Hub, fetch_file: Ensure) -> None:
    hub.trouble(UNET_PATH).cut_after.append(150_000)
    hub.trouble(UNET_PATH).cut_after.extend([0, 0, 0])
    with pytest.raises(WeightsUnreachable, match=UNET):
        fetch_file(UNET)
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert hub.sent_bytes[UNET_PATH] == len(content_of(UNET))


def test_a_part_whose_note_is_lost_or_torn_starts_over(
    hub: Hub, fetch_file: Ensure, settings: Settings
) -> None:
    folder = settings.weights_dir / "latentsync-1.6"
    folder.mkdir(parents=True)
    (folder / ".latentsync_unet.pt.part").write_bytes(b"of something else")
    (folder / ".latentsync_unet.pt.part.json").write_text('{"origin":')
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert [request.range for request in hub.gets(UNET_PATH)] == [None]
