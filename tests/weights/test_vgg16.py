"""VGG16: the order of its addresses, the promised message, and no harm when it does not come."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.errors import WeightsMissing, WeightsUnreachable
from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG, Catalog, WebFile
from latentsync.weights.ensure import ensure_vgg16, fetch_vgg16_in_background
from latentsync.weights.paths import torch_hub_folder
from latentsync.weights.progress import Retries
from tests.weights.conftest import AT_ONCE
from tests.weights.hub import Hub
from tests.weights.tiny import VGG16_PATHS, content_of

FIRST, SECOND = VGG16_PATHS
MESSAGE = "Unable to download VGG16 weights for LatentSync."


def fetch(settings: Settings, catalog: Catalog) -> Path:
    return ensure_vgg16(settings, catalog=catalog, retries=AT_ONCE)


def test_the_addresses_and_their_order() -> None:
    assert CATALOG["vgg16"].source == WebFile(
        (
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "https://huggingface.co/pytorch/vision/resolve/main/vgg16-397923af.pth",
        )
    )


def test_it_lies_where_torch_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert str(torch_hub_folder().parent) == torch.hub.get_dir()
    monkeypatch.delenv("TORCH_HOME")
    assert str(torch_hub_folder().parent) == torch.hub.get_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/else")
    assert str(torch_hub_folder().parent) == torch.hub.get_dir()


def test_the_first_address_is_enough_and_asked_once(
    hub: Hub, settings: Settings, catalog: Catalog
) -> None:
    path = fetch(settings, catalog)
    assert path == torch_hub_folder() / "vgg16-397923af.pth"
    assert path.read_bytes() == content_of("vgg16")
    assert fetch(settings, catalog) == path
    assert [request.path for request in hub.requests] == [FIRST]


def test_the_second_address_is_used_when_the_first_is_dead(
    hub: Hub, settings: Settings, catalog: Catalog, dead_url: str
) -> None:
    source = WebFile((dead_url + FIRST, hub.url + SECOND))
    catalog = {"vgg16": replace(catalog["vgg16"], source=source)}
    assert fetch(settings, catalog).read_bytes() == content_of("vgg16")
    assert [request.path for request in hub.requests] == [SECOND]


def test_what_the_first_address_left_is_removed_before_the_second(
    hub: Hub, settings: Settings, catalog: Catalog
) -> None:
    hub.trouble(FIRST).cut_after.extend([20_000, 0, 0])
    assert fetch(settings, catalog).read_bytes() == content_of("vgg16")
    assert [request.range for request in hub.gets(SECOND)] == [None]
    assert hub.sent_bytes[SECOND] == len(content_of("vgg16"))


def test_a_page_in_place_of_the_file_makes_it_try_the_second(
    hub: Hub, settings: Settings, catalog: Catalog
) -> None:
    hub.put(FIRST, b"<html>log in first</html>")
    assert fetch(settings, catalog).read_bytes() == content_of("vgg16")


def test_both_dead_is_the_promised_error_and_nothing_is_left(
    hub: Hub, settings: Settings, catalog: Catalog
) -> None:
    hub.trouble(FIRST).cut_after.extend([20_000, 0, 0])
    hub.files.pop(SECOND)
    with pytest.raises(WeightsUnreachable) as caught:
        fetch(settings, catalog)
    assert str(caught.value) == MESSAGE
    cause = caught.value.__cause__
    assert isinstance(cause, WeightsUnreachable)
    assert f"{hub.url}{SECOND}: there is no such file (404)" in str(cause)
    assert list(torch_hub_folder().iterdir()) == []


def test_its_second_address_is_asked_of_the_mirror(
    settings: Settings, catalog: Catalog, dead_url: str
) -> None:
    source = WebFile((dead_url + FIRST, "https://huggingface.co" + SECOND))
    catalog = {"vgg16": replace(catalog["vgg16"], source=source)}
    assert fetch(settings, catalog).read_bytes() == content_of("vgg16")


def test_offline_it_is_not_asked_for(hub: Hub, settings: Settings, catalog: Catalog) -> None:
    with pytest.raises(WeightsUnreachable, match=MESSAGE) as caught:
        fetch(settings.model_copy(update={"offline": True}), catalog)
    assert isinstance(caught.value.__cause__, WeightsMissing)
    assert hub.requests == []


def test_in_the_background_a_failure_goes_to_the_log_alone(
    hub: Hub, settings: Settings, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files.clear()
    with caplog.at_level(logging.WARNING):
        fetch_vgg16_in_background(settings, catalog=catalog, retries=Retries(tries=1)).join()
    assert MESSAGE in caplog.messages[-1]
    assert "404" in caplog.messages[-1]
