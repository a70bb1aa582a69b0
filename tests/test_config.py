from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import pytest

from latentsync import config
from latentsync.config import read_config
from latentsync.errors import EngineUnavailable
from latentsync.pipelines.draft.visemes import DraftConfig


@dataclass(frozen=True)
class Form:
    steps: int = 20
    name: str = "x"


@pytest.fixture
def write_config(tmp_path, monkeypatch):
    def write(text: str) -> None:
        (tmp_path / "some.yaml").write_text(text)

    monkeypatch.setattr(config, "find_packaged", lambda name: tmp_path / name.split("/")[1])
    return write


def test_the_draft_configuration_states_every_value_and_equals_the_defaults():
    assert read_config("draft", DraftConfig) == DraftConfig()


def test_values_arrive_frozen_and_typed(write_config):
    write_config("steps: 3")
    form = read_config("some", Form)
    assert form == Form(steps=3)
    with pytest.raises(FrozenInstanceError):
        form.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "named"), [("stepz: 3", "stepz"), ("steps: many", "many"), ("steps: [1", "some.yaml")]
)
def test_what_does_not_fit_is_refused_and_named(write_config, text, named):
    write_config(text)
    with pytest.raises(EngineUnavailable, match=named):
        read_config("some", Form)
