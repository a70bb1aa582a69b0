"""Real faults in the chain from frames to frames fail, by their stage and by the whole.

The recordings are long, so the faults meet a short one that the package makes itself from the
beginning of a recording: the rounding that comparisons forgive is that of this processor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from latentsync.models import sampling
from latentsync.pipelines.lipsync import bilinear
from tests.parity.checks.end_to_end import Case
from tests.parity.folder import Folder
from tests.parity.recorded import RecordedFile

_TITLE = "golden/e2e_short.npz"
_FRAMES, _SAMPLES, _STEPS = 3, 1300, 4  # of the source, of the sound, of the sampler
_NUM_FRAMES = 4  # of the output: the source turns
_DESCRIBED = (
    "meta.json",
    "tiny_unet_config.json",
    "tiny_vae_config.json",
    "tiny_whisper_dims.json",
)
_STAGES = {"faces_src", "latents", "synced", "out_frames"}

Fault = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def short(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with one short recording of the whole chain; do not change it."""
    root = tmp_path_factory.mktemp("short")
    (root / "golden").mkdir()
    for name in _DESCRIBED:
        shutil.copy(small_set / "golden" / name, root / "golden")
    with np.load(small_set / "golden/e2e_loop.npz") as file:
        arrays = dict(file)
    for name in ("frames", "lm106"):
        arrays[name] = arrays[name][:_FRAMES]
    for name in ("vae_noise_masked", "vae_noise_ref"):
        arrays[name] = arrays[name][:_NUM_FRAMES]
    arrays |= {"wave": arrays["wave"][:_SAMPLES], "steps": np.array(_STEPS)}
    folder = Folder(root, tmp_path_factory.mktemp("weights"))
    np.savez(root / "inputs.npz", **arrays)
    made = _make(Case(RecordedFile(root / "inputs.npz", "inputs.npz"), folder.networks))
    np.savez(root / _TITLE, **arrays | made)
    return folder


def _make(case: Case) -> dict[str, Any]:
    """Return what the package makes of the inputs in a recording."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = case.run(case.matrices)
    torch.set_num_threads(threads)
    return {
        "source_index": case.source_indices,
        "out_audio_len": np.array(case.num_samples),
        "M_src": case.matrices,
        "faces_src": made.faces.numpy(),
        "latents": made.latents.numpy(),
        "synced": made.synced.numpy().astype(np.float16),
        "out_frames": made.frames.numpy(),
    }


def failed(folder: Folder) -> set[str]:
    """Return the arrays that are not reproduced, such as ``latents (its stage)``."""
    lines = list(folder.check(_TITLE))
    assert {line.array.split()[0] for line in lines} >= _STAGES
    return {line.array for line in lines if line.failed}


def shifted_crop(patch: pytest.MonkeyPatch) -> None:
    def shifted(matrix: Any, *more: Any) -> Any:
        return place(matrix + np.array([[0, 0, 0.5], [0, 0, 0]]), *more)

    place = bilinear.place_pixels
    patch.setattr(bilinear, "place_pixels", shifted)


def missing_step(patch: pytest.MonkeyPatch) -> None:
    def one_less(scheduler: DDIMScheduler, steps: int) -> None:
        set_timesteps(scheduler, steps)
        scheduler.timesteps = scheduler.timesteps[1:]

    set_timesteps = DDIMScheduler.set_timesteps
    patch.setattr(DDIMScheduler, "set_timesteps", one_less)


def other_scheduler(patch: pytest.MonkeyPatch) -> None:
    build = sampling.build_scheduler
    patch.setattr(sampling, "build_scheduler", lambda _name: build("dpm-solver++"))


def named(arrays: set[str], note: str) -> set[str]:
    return {f"{array} {note}" for array in arrays}


def test_what_was_recorded_is_reproduced(short: Folder) -> None:
    assert failed(short) == set()


@pytest.mark.parametrize(
    ("fault", "stage", "whole"),
    [
        (shifted_crop, "faces_src", {"faces_src", "latents", "synced", "out_frames"}),
        (missing_step, "latents", {"latents", "synced", "out_frames"}),
        (other_scheduler, "latents", {"latents", "synced", "out_frames"}),
    ],
)
def test_a_fault_fails_by_its_stage_and_by_the_whole(
    short: Folder, monkeypatch: pytest.MonkeyPatch, fault: Fault, stage: str, whole: set[str]
) -> None:
    fault(monkeypatch)
    assert failed(short) == named({stage}, "(its stage)") | named(whole, "(the whole)")


def test_other_weights_fail_by_each_stage_with_a_network_and_by_the_whole(
    short: Folder, tmp_path: Path
) -> None:
    root = shutil.copytree(short.root, tmp_path / "reference")
    (root / "golden/meta.json").write_text(json.dumps({"salt": "other"}))
    (tmp_path / "scratch").mkdir()
    made_by_networks = {"latents", "synced", "out_frames"}
    assert failed(Folder(root, tmp_path / "scratch")) == named(
        made_by_networks, "(its stage)"
    ) | named(made_by_networks, "(the whole)")
