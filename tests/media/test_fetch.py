from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Timer

import pytest

from latentsync import errors
from latentsync.media.fetch import fetch_media
from latentsync.media.ssrf import is_public
from latentsync.monitor import RunMonitor
from latentsync.schema.run import InlineSource, MediaSource, PathSource, UrlSource
from latentsync.settings import Settings
from tests.media.senders import CONTENT, Sender, running_sender


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    with running_sender() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "request"
    folder.mkdir()
    return folder


@pytest.fixture
def near(settings: Settings) -> Settings:
    """Settings that allow the loopback server of these tests."""
    return settings.model_copy(
        update={
            "allow_private_addresses": True,
            "max_media_bytes": 1_000_000,
            "fetch_timeout_s": 5.0,
        }
    )


def fetch(source: MediaSource, folder: Path, settings: Settings) -> Path:
    return fetch_media(source, folder, settings, RunMonitor())


def url(text: str) -> UrlSource:
    return UrlSource(text, "video_url")


@pytest.mark.parametrize("path", ["file", "gzip", "redirect?to=/file"])
def test_a_download_arrives_whole(sender: Sender, folder: Path, near: Settings, path: str) -> None:
    file = fetch(url(sender.url(path)), folder, near)
    assert file.parent == folder
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("status?code=404", errors.Unreachable, "404"),
        ("status?code=500", errors.Unreachable, "500"),
        ("empty", errors.EmptyMedia, "is empty"),
        ("short", errors.Unreachable, "complete"),
        ("announced", errors.TooManyBytes, "1000000000000 bytes"),
        ("endless", errors.TooManyBytes, "allowed: 1000000"),
        ("bomb", errors.TooManyBytes, "allowed: 1000000"),
        ("brotli", errors.Unreachable, "'br'"),
        ("circle", errors.Unreachable, "more than 5 redirects"),
        ("redirect?to=ftp://example.com/x", errors.Unreachable, "only http and https"),
        ("redirect?to=file:///etc/passwd", errors.Unreachable, "only http and https"),
        ("redirect?to=http://me:secret@127.0.0.1/", errors.Unreachable, "password"),
    ],
)
def test_bad_senders_get_their_own_error(
    sender: Sender,
    folder: Path,
    near: Settings,
    path: str,
    error: type[errors.LatentSyncError],
    words: str,
) -> None:
    with pytest.raises(error, match=words) as caught:
        fetch(url(sender.url(path)), folder, near)
    assert caught.value.field == "video_url"
    assert str(folder) not in caught.value.message


@pytest.mark.parametrize("path", ["drip", "silent"])
def test_a_sender_that_never_ends_is_cut_off_in_time(
    sender: Sender, folder: Path, near: Settings, path: str
) -> None:
    started = time.monotonic()
    with pytest.raises(errors.FetchTimeout, match=r"within 0.4 s"):
        fetch(url(sender.url(path)), folder, near.model_copy(update={"fetch_timeout_s": 0.4}))
    assert time.monotonic() - started < 15


def test_canceling_ends_a_download_at_once(sender: Sender, folder: Path, near: Settings) -> None:
    canceled = Event()
    Timer(0.2, canceled.set).start()
    started = time.monotonic()
    with pytest.raises(errors.Canceled):
        fetch_media(url(sender.url("silent")), folder, near, RunMonitor(canceled=canceled))
    assert time.monotonic() - started < 15


def test_the_deadline_of_the_run_ends_a_download(
    sender: Sender, folder: Path, near: Settings
) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        fetch_media(url(sender.url("drip")), folder, near, RunMonitor(deadline_s=0.2))


def test_a_port_without_a_listener_is_unreachable(folder: Path, near: Settings) -> None:
    with pytest.raises(errors.Unreachable, match="video_url could not be fetched"):
        fetch(url("http://127.0.0.1:9/x.mp4"), folder, near)


def test_an_unknown_host_is_unreachable(folder: Path, settings: Settings) -> None:
    with pytest.raises(errors.Unreachable, match="is not known"):
        fetch(url("http://-nowhere.invalid/x.mp4"), folder, settings)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_addresses_that_are_not_public_are_forbidden(
    sender: Sender, folder: Path, settings: Settings, host: str
) -> None:
    before = len(sender.asked)
    with pytest.raises(errors.ForbiddenAddress, match="not a public address") as caught:
        fetch(url(sender.url("file", host)), folder, settings)
    assert caught.value.status == 403
    assert len(sender.asked) == before


@pytest.mark.parametrize(
    "address",
    [
        *("fec0::1", "feff::1"),  # site-local
        *("64:ff9b:1::a9fe:a9fe", "64:ff9b:1::808:808"),  # NAT64 of one's own network
        *("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1"),  # NAT64 of private ones
        *("::a9fe:a9fe", "::7f00:1", "::808:808"),  # IPv4-compatible
        *("::ffff:0:a9fe:a9fe", "::ffff:169.254.169.254"),  # IPv4-translated, IPv4-mapped
        *("2002:a9fe:a9fe::1", "2001:0:808:808::5601:5601"),  # 6to4, Teredo
        *("ff02::1", "ff0e::1", "224.0.0.1", "239.1.2.3"),  # multicast
        *("::", "0.0.0.0", "::1", "127.0.0.1"),  # unspecified, loopback
        *("4000::1", "5f00::1", "100::1", "240.0.0.1", "255.255.255.255"),  # reserved
        *("2001:db8::1", "192.0.2.1", "192.0.0.192", "198.18.0.1"),  # for documents, protocols
        *("fe80::1", "fc00::1", "169.254.169.254", "100.100.100.200", "10.0.0.1"),
    ],
)
def test_an_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:800::200e"),
        *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
    ],
)
def test_an_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("target", ["127.0.0.1:{port}/file", "169.254.169.254/latest/meta-data"])
def test_a_redirect_away_from_public_addresses_is_forbidden(
    sender: Sender,
    folder: Path,
    near: Settings,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    """The first hop is let through as if it were public; the rule must hold for the second."""
    from latentsync.media import fetch as fetch_module

    hops: list[str] = []
    strict = near.model_copy(update={"allow_private_addresses": False})
    original = fetch_module._Download._hop

    async def first_hop_is_public(self, client, address, file):  # type: ignore[no-untyped-def]
        hops.append(address.host)
        self._settings = near if len(hops) == 1 else strict
        return await original(self, client, address, file)

    monkeypatch.setattr(fetch_module._Download, "_hop", first_hop_is_public)
    where = "http://" + target.format(port=sender.server_port)
    with pytest.raises(errors.ForbiddenAddress):
        fetch(url(sender.url(f"redirect?to={where}")), folder, near)
    assert len(hops) == 2


def test_the_connection_itself_is_guarded_too(
    sender: Sender, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may change its address after the check: the guarded connection must refuse."""
    from latentsync.media import fetch as fetch_module

    async def looks_public(_self: object, _url: object) -> None:
        return None

    monkeypatch.setattr(fetch_module._Download, "_check_host", looks_public)
    before = len(sender.asked)
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(errors.ForbiddenAddress):
            fetch(url(sender.url("file", host)), folder, settings)
    assert len(sender.asked) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "video.mp4",
        "ftp://example.com/v.mp4",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://user:word@example.com/v.mp4",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "http://0177.0.0.1/",
        "http://[::1",
        "http://\x00/",
    ],
)
def test_what_is_no_web_address_is_refused(folder: Path, settings: Settings, text: str) -> None:
    with pytest.raises((errors.InvalidField, errors.Unreachable)) as caught:
        fetch(url(text), folder, settings)
    assert caught.value.field == "video_url"
    if text != "http://exa mple.com/":
        assert isinstance(caught.value, errors.InvalidField)


ENCODED = base64.b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    "text",
    [
        ENCODED,
        "\n".join(ENCODED[i : i + 76] for i in range(0, len(ENCODED), 76)) + "\r\n",
        f"data:video/mp4;base64,{ENCODED}",
        f"data:;base64,{ENCODED}",
        f' DATA:video/mp4;codecs="avc1";x=y;BASE64,{ENCODED}\n',
    ],
)
def test_inline_media_is_decoded(folder: Path, settings: Settings, text: str) -> None:
    assert fetch(InlineSource(text, "video_base64"), folder, settings).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AAAA*AAA", r"it holds '\*'"),
        ("AAA", "padding may be missing"),
        ("AA-_", "it holds '-'"),
        ("AA==AAAA", "after its padding"),
        ("=AAA", "after its padding"),
        ("A===", "is not base64"),
        ("AB=C", "after its padding"),
        ("ÄÖÜß", "it holds 'Ä'"),
        ("data:video/mp4,AAAA", "must say ;base64"),
        ("data:video/mp4;base64", "it holds"),
        ("AA\x00A", "it holds"),
    ],
)
def test_what_is_not_base64_is_refused(
    folder: Path, settings: Settings, text: str, words: str
) -> None:
    with pytest.raises(errors.InvalidBase64, match=words) as caught:
        fetch(InlineSource(text, "audio_base64"), folder, settings)
    assert caught.value.field == "audio_base64"


@pytest.mark.parametrize("text", ["", "   \n", "data:video/mp4;base64,"])
def test_inline_nothing_is_empty(folder: Path, settings: Settings, text: str) -> None:
    with pytest.raises(errors.EmptyMedia):
        fetch(InlineSource(text, "video_base64"), folder, settings)


def test_slices_of_inline_media_join_seamlessly(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentsync.media import fetch as fetch_module

    monkeypatch.setattr(fetch_module, "_SLICE_CHARACTERS", 7)
    text = "\n".join(ENCODED[i : i + 10] for i in range(0, 3000, 10)) + "\n\n"
    expected = base64.b64decode(ENCODED[:3000])
    assert fetch(InlineSource(text, "video_base64"), folder, settings).read_bytes() == expected


def test_inline_media_over_the_cap_is_refused_before_decoding(
    folder: Path, settings: Settings
) -> None:
    strict = settings.model_copy(update={"max_media_bytes": len(CONTENT)})
    fetch(InlineSource(ENCODED + "\n" * 5000, "video_base64"), folder, strict)
    with pytest.raises(errors.TooManyBytes):
        fetch(InlineSource("*" * (2 * len(CONTENT)), "video_base64"), folder, strict)


def path_source(path: Path) -> PathSource:
    return PathSource(path, "video_path")


@pytest.mark.parametrize("name", ["v.mp4", "a b 'c' \"d\".mp4", "视频.mp4", "v%d?.mp4"])
def test_a_path_inside_an_allowed_root_is_used_in_place(
    tmp_path: Path, folder: Path, settings: Settings, name: str
) -> None:
    (tmp_path / name).write_bytes(CONTENT)
    assert fetch(path_source(tmp_path / name), folder, settings) == tmp_path / name
    assert list(folder.iterdir()) == []


def test_paths_outside_the_allowed_roots_are_forbidden(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(CONTENT)
    (root / "link.mp4").symlink_to(secret)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    narrow = settings.model_copy(update={"allowed_roots": (root,)})
    for path in (
        secret,
        root / ".." / "secret.mp4",
        root / "link.mp4",
        Path("/etc/passwd"),
        tmp_path / "missing.mp4",
        tmp_path / "root-sibling" / "v.mp4",
    ):
        with pytest.raises(errors.ForbiddenPath, match="outside the allowed folders"):
            fetch(path_source(path), folder, narrow)
    for path in (root / "loop.mp4", root / "nul\0.mp4"):
        with pytest.raises((errors.ForbiddenPath, errors.UnreadableMedia)):
            fetch(path_source(path), folder, narrow)
    with pytest.raises(errors.ForbiddenPath):
        fetch(path_source(secret), folder, settings.model_copy(update={"allowed_roots": ()}))


def test_what_is_no_ordinary_file_is_refused(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for name, error in {
        "request": errors.UnreadableMedia,
        "pipe": errors.UnreadableMedia,
        "missing": errors.UnreadableMedia,
        "empty": errors.EmptyMedia,
    }.items():
        with pytest.raises(error, match="video_path"):
            fetch(path_source(tmp_path / name), folder, settings)
    everywhere = settings.model_copy(update={"allowed_roots": (Path("/"),)})
    with pytest.raises(errors.UnreadableMedia, match="not an ordinary file"):
        fetch(path_source(Path("/dev/zero")), folder, everywhere)


def test_a_file_over_the_cap_is_refused(tmp_path: Path, folder: Path, settings: Settings) -> None:
    (tmp_path / "v.mp4").write_bytes(CONTENT)
    with pytest.raises(errors.TooManyBytes):
        fetch(
            path_source(tmp_path / "v.mp4"),
            folder,
            settings.model_copy(update={"max_media_bytes": 100}),
        )
