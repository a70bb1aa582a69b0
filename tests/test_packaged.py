from __future__ import annotations

from pathlib import Path

import pytest

from latentsync.config import find_packaged
from latentsync.errors import EngineUnavailable

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["configs/draft.yaml", "assets/face_landmark.onnx"])
def test_files_of_the_package_are_found_in_a_checkout(name):
    assert find_packaged(name).is_file()


def test_a_missing_file_is_named_without_a_server_path():
    with pytest.raises(EngineUnavailable, match=r"assets/nothing\.onnx .* missing") as caught:
        find_packaged("assets/nothing.onnx")
    assert str(ROOT) not in caught.value.message
