"""Settings come from the environment and say what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from latentsync.settings import Settings, explain


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LATENTSYNC_", "XDG_")):
            monkeypatch.delenv(name)


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_API_KEY", " one, two ,,ключ")
    monkeypatch.setenv("LATENTSYNC_ALLOWED_ROOTS", "/a b,/c")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two", "ключ"]
    assert settings.allowed_roots == (Path("/a b"), Path("/c"))


@pytest.mark.parametrize(
    ("new", "old", "keys"),
    [
        ("a", None, ["a"]),
        (None, "b,c", ["b", "c"]),
        ("a, d", "b,c", ["a", "d", "b", "c"]),
        ("", "b", ["b"]),
        (None, None, []),
    ],
)
def test_keys_come_from_either_variable_and_from_both(
    monkeypatch: pytest.MonkeyPatch, new: str | None, old: str | None, keys: list[str]
) -> None:
    for name, value in (("LATENTSYNC_API_KEY", new), ("LATENTSYNC_API_KEYS", old)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert [key.get_secret_value() for key in Settings().api_keys] == keys
    (given,) = Settings(api_keys=("mine",)).api_keys  # type: ignore[arg-type]
    assert given.get_secret_value() == "mine"


@pytest.mark.parametrize(
    ("variable", "setting", "usual"),
    [
        ("XDG_CACHE_HOME", "weights_dir", ".cache"),
        ("XDG_DATA_HOME", "data_dir", ".local/share"),
    ],
)
def test_folders_are_where_xdg_says(
    monkeypatch: pytest.MonkeyPatch, variable: str, setting: str, usual: str
) -> None:
    assert getattr(Settings(), setting) == Path.home() / usual / "latentsync"
    monkeypatch.setenv(variable, "/elsewhere")
    assert getattr(Settings(), setting) == Path("/elsewhere/latentsync")
    for ignored in ("", "relative/path", "~/data"):  # as the specification asks
        monkeypatch.setenv(variable, ignored)
        assert getattr(Settings(), setting) == Path.home() / usual / "latentsync"


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_no_key_is_no_key(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LATENTSYNC_API_KEY", value)
    assert Settings().api_keys == ()


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_API_KEY", "secret-key")
    assert "secret-key" not in repr(Settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_WAITING", "-1"),
        ("MAX_BODY_BYTES", "0"),
        ("DEADLINE_S", "soon"),
        ("DEADLINE_S", "nan"),
        ("FETCH_TIMEOUT_S", "inf"),
        ("BODY_TIMEOUT_S", "0"),
        ("SHUTDOWN_GRACE_S", "-1"),
        ("ENGINE", "unknown"),
    ],
)
def test_a_value_outside_its_range_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"LATENTSYNC_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize("secret", ["c2VjcmV0", "whsec_c2VjcmV0", "whsec_§§§§§", "whsec_"])
def test_a_webhook_secret_that_is_refused_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("LATENTSYNC_WEBHOOK_SECRET", secret)
    with pytest.raises(ValidationError, match="24 to 64 bytes") as caught:
        Settings()
    assert repr(secret) not in str(caught.value)
    assert explain(caught.value) == (
        "LATENTSYNC_WEBHOOK_SECRET is not usable: "
        "Value error, it must be whsec_ and 24 to 64 bytes as base64."
    )


@pytest.mark.parametrize(
    "url", ["jobs.db", "mysql://me:hunter2@host/jobs", "postgresql://me:hunter2@host/jobs"]
)
def test_a_database_that_is_refused_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LATENTSYNC_DATABASE_URL", url)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert explain(caught.value).startswith("LATENTSYNC_DATABASE_URL is not usable: ")
    assert "postgresql\\+psycopg://" in explain(caught.value)
    assert "hunter2" not in explain(caught.value)


@pytest.mark.parametrize("delays", ["5,-1", "nan", "5,,x"])
def test_waits_between_attempts_are_numbers(monkeypatch: pytest.MonkeyPatch, delays: str) -> None:
    monkeypatch.setenv("LATENTSYNC_WEBHOOK_RETRY_DELAYS_S", delays)
    with pytest.raises(ValidationError, match="webhook_retry_delays_s"):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().max_waiting = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["WORK_DIR", "WEIGHTS_DIR", "DATA_DIR"])
def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"LATENTSYNC_{name}", "~/there")
    assert getattr(Settings(), name.lower()) == Path.home() / "there"
