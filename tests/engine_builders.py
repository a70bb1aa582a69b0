"""Test engines that replace real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from latentsync.pipelines import registry
from latentsync.schema.engines import ENGINES


def replace_builders(patch: pytest.MonkeyPatch, builders: Mapping[str, tuple[str, str]]) -> None:
    """Have these engines built by other functions, each given as module and name."""
    replaced = {name: replace(ENGINES[name], builder=builder) for name, builder in builders.items()}
    patch.setattr(registry, "ENGINES", {**ENGINES, **replaced})
