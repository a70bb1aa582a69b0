"""Which machine counts as one with a GPU, and what its networks run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentsync.errors import EngineUnavailable
from latentsync.pipelines import requirements
from latentsync.pipelines.registry import resolve_engine


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose driver shows one NVIDIA GPU; the torch of the tests cannot use it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(requirements, "_NVIDIA_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(requirements, "_NVIDIA_FILES", str(tmp_path / "none*"))
    monkeypatch.setattr(requirements, "_OTHER_GPU_FILES", ())


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_draft() -> None:
    assert resolve_engine("auto") == "draft"


@pytest.mark.usefixtures("nvidia")
def test_with_a_working_gpu_auto_is_latentsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_engine("auto") == "latentsync-1.6"


@pytest.mark.usefixtures("nvidia")
def test_a_gpu_that_torch_cannot_use_is_an_error_and_no_draft() -> None:
    with pytest.raises(EngineUnavailable, match="NVIDIA GPU, but the installed torch"):
        resolve_engine("auto")


@pytest.mark.usefixtures("nvidia")
def test_a_gpu_without_torch_is_an_error_and_no_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match="pip install"):
        resolve_engine("auto")


@pytest.mark.usefixtures("nvidia")
def test_a_named_engine_is_not_replaced() -> None:
    assert resolve_engine("draft") == "draft"


@pytest.mark.usefixtures("no_gpu")
def test_the_cpu_computes_in_float32() -> None:
    cpu = requirements.choose_device("cpu")
    assert requirements.choose_dtype("auto", cpu) == torch.float32
    with pytest.raises(EngineUnavailable, match="float16"):
        requirements.choose_dtype("float16", cpu)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match="no device cuda here; found: .*cpu"):
        requirements.choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"), [((6, 1), torch.float32), ((7, 0), torch.float16)]
)
def test_half_precision_needs_a_chip_that_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    cuda = torch.device("cuda")
    assert requirements.choose_dtype("auto", cuda) == dtype
    assert requirements.choose_dtype("bfloat16", cuda) == torch.bfloat16


@pytest.mark.usefixtures("nvidia")
def test_no_engine_takes_the_cpu_of_a_machine_whose_gpu_it_cannot_use() -> None:
    with pytest.raises(EngineUnavailable, match="NVIDIA GPU, but the installed torch"):
        requirements.choose_device("auto")
    assert requirements.choose_device("cpu").type == "cpu"  # not replaced
