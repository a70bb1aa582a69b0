"""The table of engines, and that everything which names one agrees with it."""

from __future__ import annotations

import inspect
import tomllib
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from latentsync.cli import app as cli
from latentsync.config import find_packaged
from latentsync.errors import EngineUnavailable
from latentsync.pipelines.registry import import_engine
from latentsync.schema.engines import (
    AUTO_ELSEWHERE,
    AUTO_ON_GPU,
    ENGINES,
    NAMES,
    EngineSpec,
    engine_spec,
)
from latentsync.schema.fields import EngineName
from latentsync.schema.predict import PredictRequest
from latentsync.weights.catalog import CATALOG
from tests.server.live import REPOSITORY

every_engine = pytest.mark.parametrize("spec", ENGINES.values(), ids=ENGINES)


def test_the_names_that_may_be_asked_for_are_those_of_the_table() -> None:
    assert get_args(EngineName) == NAMES
    field = PredictRequest.model_json_schema()["properties"]["engine"]
    assert field["anyOf"][0]["enum"] == list(NAMES)
    assert {AUTO_ON_GPU, AUTO_ELSEWHERE} <= set(ENGINES)


def test_the_error_of_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EngineUnavailable, match="named 'magic'. Known: draft, ") as caught:
        engine_spec("magic")
    assert caught.value.field == "engine"


@every_engine
def test_an_engine_has_what_its_row_says(spec: EngineSpec) -> None:
    assert all(find_packaged(name) for name in spec.files)
    assert {*spec.weights, *spec.face_weights} <= set(CATALOG)
    needing = {file.name for file in CATALOG.values() if spec.name in file.needed_by}
    assert needing == {*spec.weights, *spec.face_weights}
    assert inspect.isfunction(import_engine(spec.name))


@every_engine
def test_the_command_that_installs_an_engine_installs_its_packages(spec: EngineSpec) -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    installed = project["dependencies"]
    if spec.extra is not None:
        installed = project["optional-dependencies"][spec.extra]
    distributions = {"cv2": "opencv-python-headless"}
    for package in spec.packages:
        assert any(one.startswith(distributions.get(package, package)) for one in installed)


@every_engine
def test_help_and_platforms_name_every_engine(spec: EngineSpec) -> None:
    options = CliRunner().invoke(cli.commands, ["run", "--help"], env={"COLUMNS": "200"})
    assert spec.name in options.stdout
    for name in ("main.py", "modal_app.py", "README.md"):
        assert spec.name in (REPOSITORY / name).read_text("utf-8")
