from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latentsync.errors import CheckpointMismatch, CheckpointUnusable
from latentsync.models.checkpoint import compare, read_state, require_match

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


class Harmful:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harm",)


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_read(path: Path) -> None:
    state = read_state(path)
    assert state.keys() == STATE.keys()
    assert torch.equal(state["weight"], STATE["weight"])


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "global_step": 7},
        {f"module.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {name: nn.Parameter(value) for name, value in STATE.items()},
    ],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, content: object) -> None:
    assert_read(write(tmp_path / "file.pt", content))


def test_the_older_format_of_torch(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    assert_read(tmp_path / "file.pt")


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "file.safetensors")
    assert_read(tmp_path / "file.safetensors")


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\n <html lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    ],
)
def test_what_hubs_send_in_place_of_a_file(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointUnusable, match=f"^{name} {complaint}.*weights pull"):
        read_state(tmp_path / name)


def test_any_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(b"RIFF....")
    with pytest.raises(CheckpointUnusable, match=r"^file\.pt is not a PyTorch checkpoint"):
        read_state(tmp_path / "file.pt")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "older", "safetensors"])
def test_a_truncated_file(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pt")
    state = {"weight": torch.randn(100, 100)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointUnusable, match=r"is truncated or damaged.*weights pull"):
        read_state(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"weight": STATE["weight"], "harm": Harmful()}
    torch.save(content, "file.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointUnusable, match="contains code"):
        read_state(tmp_path / "file.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {"state_dict": [1]}, {"state_dict": {}}, "text"]
)
def test_a_file_without_named_tensors(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointUnusable, match=r"^file\.pt contains no named tensors"):
        read_state(write(tmp_path / "file.pt", content))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(CheckpointUnusable):
        read_state(tmp_path / "file.pt")


def test_a_missing_file_a_folder_and_a_file_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointUnusable, match=r"^file\.pt is missing\. Fetch it"):
        read_state(tmp_path / "file.pt")
    with pytest.raises(CheckpointUnusable, match="cannot be read: Is a directory"):
        read_state(tmp_path)

    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(CheckpointUnusable, match=r"^file\.pt is not readable for this user"):
        read_state(tmp_path / "file.pt")


def test_what_differs_is_counted_and_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {"0.weight": torch.zeros(2, 3), "other": torch.zeros(1)}
    assert not compare(network.state_dict(), network)
    with pytest.raises(CheckpointMismatch) as caught:
        require_match(state, network, "file.pt")
    message = caught.value.message
    assert message.startswith("file.pt does not fit the network: ")
    assert "3 missing (0.bias, 1.weight, 1.bias)" in message
    assert "1 unexpected (other)" in message
    assert "1 of another shape (0.weight (2, 3) instead of (2, 2))" in message


def test_long_lists_are_shortened() -> None:
    state = {f"name{index}": torch.zeros(1) for index in range(1000)}
    with pytest.raises(CheckpointMismatch) as caught:
        require_match(state, nn.Sequential(), "file.pt")
    assert "1000 unexpected (name0, name1, name2 and 997 more)" in caught.value.message
    assert len(caught.value.message) < 300
