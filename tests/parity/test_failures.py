"""The harness fails when it must: on everything changed, missing or unknown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import main
from tests.parity.folder import Folder
from tests.parity.output import Line
from tests.parity.recorded import Array

Change = Callable[[Array], Array]


@pytest.fixture
def take(small_set: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return what copies some files of the small set into a folder of the test's own."""

    def copy(*names: str) -> Path:
        root = tmp_path / "reference"
        for name in names:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(small_set / name, target)
        return root

    return copy


@pytest.fixture
def failures(tmp_path: Path) -> Callable[[Path], dict[str, Line]]:
    """Return what checks a folder and returns the failed lines by array."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def check(root: Path) -> dict[str, Line]:
        return {line.array: line for line in Folder(root, scratch).lines() if line.failed}

    return check


def edit(path: Path, **changes: Change | None) -> None:
    """Change arrays of a file; None takes one away; new names get what the change makes of 0."""
    with np.load(path) as file:
        arrays = dict(file)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays.get(name, np.zeros(())))
    np.savez(path, **arrays)


def moved(by: float) -> Change:
    """Return what moves the last value of an array."""

    def change(array: Array) -> Array:
        changed = array.copy()
        changed[(-1,) * array.ndim] += array.dtype.type(by)
        return changed

    return change


def spoilt(array: Array) -> Array:
    changed = array.copy()
    changed[(-1,) * array.ndim] = np.nan
    return changed


_PICTURES = ("golden/detector/images.npz", "golden/detector/cases.npz")
_MODELS = ("golden/detector/det_standin.onnx", "golden/detector/landmark_standin.onnx")
_VAE = ("golden/meta.json", "golden/tiny_vae_config.json", "golden/vae_tiny.npz")
_WHISPER = (
    "golden/meta.json",
    "golden/tiny_whisper_dims.json",
    "golden/whisper_tiny_dims.npz",
)
_STAGES = ("golden/meta.json", "golden/tiny_unet_config.json", "golden/unet_tiny_stages.npz")


@pytest.mark.parametrize(
    ("file", "array", "change"),
    [
        ("audio_slicing", "idx_L25", moved(1)),
        ("audio_slicing", "otherfps_24_idx_L101", moved(-1)),
        ("audio_slicing", "chunks", moved(1e-6)),
        ("audio_slicing", "chunks", lambda array: array[:-1]),
        ("align", "points3_1", moved(1)),
        ("align", "M_0_res256", moved(3e-3)),
        ("align", "M_nosmooth_1_res512", spoilt),
        ("align", "bias_2_res256", moved(2e-4)),
        ("align", "special_mirrored_M", lambda array: array.T),
        ("align", "rounding_points3", lambda array: array.astype(np.float32)),
        ("crop_restore", "M2", moved(3e-3)),
        ("crop_restore", "crop3", moved(2)),
        ("crop_restore", "crop3", lambda array: array.clip(0, 254) + np.uint8(1)),
        ("crop_restore", "face2", moved(1)),
        ("crop_restore", "restored3", moved(2)),
        ("crop_restore", "restored3", lambda array: array.astype(np.int16)),
        ("crop_restore", "mask_area2", lambda array: array + 1),
        ("crop_restore", "blur_size3", lambda array: array + 2),
        ("crop_restore", "soft_mask2", moved(3e-3)),
        ("crop_restore", "upsized_row3", moved(2e-4)),
        ("mask_prep", "mask_res512", lambda array: array ^ np.uint8(1)),
        ("mask_prep", "latent_mask_res128", moved(1e-5)),
        ("mask_prep", "masks", moved(1e-5)),
        ("mask_prep", "combined", moved(1e-4)),
    ],
)
def test_a_changed_array_fails(
    take: Callable[..., Path],
    failures: Callable[[Path], dict[str, Line]],
    file: str,
    array: str,
    change: Change,
) -> None:
    root = take(f"golden/{file}.npz")
    edit(root / f"golden/{file}.npz", **{array: change})
    assert array in failures(root)


@pytest.mark.parametrize(
    ("array", "by"),
    [
        ("resized_wh_2", 1),
        ("det_scale_7", 1e-9),
        ("det_input_crc32_8", 1),
        ("det_input_8", 1),
        ("blob_sample_2", 1e-6),
        ("raw_sample_2", 2e-4),
        ("cand_rows_2", 1),
        ("boxes_2", 1e-4),
        ("kps_2", 1e-4),
        ("crop_M_2", 1e-6),
        ("crop_crc32_2", 1),
        ("lm_raw_2", 2e-4),
        ("lm106_2", 2e-3),
        ("chosen_2", 1),
        ("chosen_lm106_int_2", 1),
        ("chosen_crop_2", 1),
        ("points3_2", 1),
    ],
)
def test_a_changed_step_of_the_detector_fails(
    take: Callable[..., Path],
    failures: Callable[[Path], dict[str, Line]],
    array: str,
    by: float,
) -> None:
    root = take(*_PICTURES, *_MODELS)
    edit(root / "golden/detector/cases.npz", **{array: moved(by)})
    assert array in failures(root)


def test_a_network_with_other_numbers_fails_alone(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take(*_STAGES)
    path = root / "golden/unet_tiny_stages.npz"
    edit(path, stage_conv_in=moved(1), stage_mid_block=spoilt, stage_nothing=moved(0))
    assert set(failures(root)) == {"stage_conv_in", "stage_mid_block", "stage_nothing"}


def test_input_that_is_not_finite_is_named(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take(*_VAE)
    edit(root / "golden/vae_tiny.npz", image=spoilt)
    failed = failures(root)
    assert failed["mean"].remark == "UnfitArray: image holds values that are not finite"
    assert "decoded" not in failed


def test_weights_of_another_salt_fail(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take(*_VAE)
    (root / "golden/meta.json").write_text(json.dumps({"salt": "other"}))
    assert set(failures(root)) == {"mean", "logvar", "latents_scaled", "decoded"}


@pytest.mark.parametrize(
    ("array", "outputs"),
    [
        ("audio_slicing features", {"chunks"}),
        ("audio_slicing chunks", {"chunks", "features"}),
        ("align bias_0_res256", {"bias_0_res256"}),
        ("mask_prep latent_mask_res64", {"latent_mask_res64"}),
        ("crop_restore M2", {"M2", "crop2", "restored2", "mask_area2", "blur_size2"}),
    ],
)
def test_a_missing_partner_fails(
    take: Callable[..., Path],
    failures: Callable[[Path], dict[str, Line]],
    array: str,
    outputs: set[str],
) -> None:
    file, name = array.split()
    root = take(f"golden/{file}.npz")
    edit(root / f"golden/{file}.npz", **{name: None})
    assert set(failures(root)) >= outputs


def test_a_clip_without_an_array_that_others_have_fails(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take(*_WHISPER)
    edit(root / "golden/whisper_tiny_dims.npz", feat_sum2=None, wave3=None)
    failed = failures(root)
    assert "has no feat_sum2" in failed["feat_sum2"].remark
    assert "has no wave3" in failed["feat_sum3"].remark
    assert not any(name.endswith("2") for name in failed.keys() - {"feat_sum2"})


@pytest.mark.parametrize("missing", ["images.npz", "det_standin.onnx", "landmark_standin.onnx"])
def test_a_missing_file_fails_what_needs_it(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]], missing: str
) -> None:
    root = take(*(name for name in (*_PICTURES, *_MODELS) if not name.endswith(missing)))
    assert failures(root)


def test_pictures_without_cases_fail(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    failed = failures(take("golden/detector/images.npz", "golden/audio_slicing.npz"))
    assert {line.remark for line in failed.values()} == {"no check uses this array"}


@pytest.mark.parametrize("name", ["more", "idx_Lx", "M_0_res256"])
def test_an_unknown_array_fails(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]], name: str
) -> None:
    root = take("golden/audio_slicing.npz")
    edit(root / "golden/audio_slicing.npz", **{name: moved(0)})
    assert failures(root)[name].remark == "no check uses this array"


@pytest.mark.parametrize(
    "name", ["golden/more.npz", "golden/more.json", "golden/detector/x.onnx", "more.txt"]
)
def test_an_unknown_file_fails(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]], name: str
) -> None:
    root = take("golden/audio_slicing.npz", "golden/detector/images.npz")
    (root / "golden/detector/images.npz").unlink()
    (root / name).write_bytes(b"{}")
    (line,) = failures(root).values()
    assert (line.file, line.remark) == (name, "no check knows this file")


@pytest.mark.parametrize("size_bytes", [0, 100, 5000])
def test_a_cut_off_file_fails(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]], size_bytes: int
) -> None:
    root = take("golden/audio_slicing.npz")
    path = root / "golden/audio_slicing.npz"
    path.write_bytes(path.read_bytes()[:size_bytes])
    (line,) = failures(root).values()
    assert "is no .npz file" in line.remark


def test_a_file_without_arrays_fails(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take("golden/audio_slicing.npz")
    np.savez(root / "golden/audio_slicing.npz")
    assert failures(root)["(all)"].remark == "holds no array"


def test_folders_that_are_links_are_checked_too(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take("golden/audio_slicing.npz")
    (root / "golden").rename(root.parent / "elsewhere")
    (root / "golden").symlink_to(root.parent / "elsewhere")
    edit(root / "golden/audio_slicing.npz", idx_L25=moved(1))
    assert set(failures(root)) == {"idx_L25"}


def test_an_array_of_objects_is_not_unpickled(
    take: Callable[..., Path], failures: Callable[[Path], dict[str, Line]]
) -> None:
    root = take("golden/audio_slicing.npz")
    edit(root / "golden/audio_slicing.npz", features=lambda array: np.array([array, None], object))
    assert "features cannot be read" in failures(root)["chunks"].remark


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("golden/tiny_vae_manifest.json", lambda names: names | {"more": [1]}),
        ("manifests/unet_stage2.json", lambda names: names | {"conv_in.bias": [321]}),
        ("manifests/whisper_tiny.json", lambda names: dict(list(names.items())[1:])),
        ("manifests/vae_sd_ft_mse.json", lambda _: {}),
        ("mask_geometry.json", lambda geometry: geometry | {"size": [512, 512]}),
        ("golden/meta.json", lambda _: {"salt": 3}),
        ("golden/meta.json", lambda _: ["salt"]),
        ("golden/tiny_unet_config.json", lambda config: config | {"act_fn": "relu"}),
    ],
)
def test_a_changed_document_fails(
    take: Callable[..., Path],
    failures: Callable[[Path], dict[str, Line]],
    file: str,
    change: Callable[[dict[str, object]], object],
) -> None:
    root = take(file, "golden/tiny_vae_config.json", "golden/audio_slicing.npz")
    (root / file).write_text(json.dumps(change(json.loads((root / file).read_text()))))
    assert [line.file for line in failures(root).values()] == [file]


def test_the_exit_code_and_the_last_line_tell(
    take: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = take("golden/audio_slicing.npz")
    assert main(["--reference", str(root)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    with np.load(root / "golden/audio_slicing.npz") as file:
        assert sorted(line.split()[1] for line in lines) == sorted(file)
    assert last.startswith(f"ok: {len(lines) - 1} reproduced, 0 failed, 1 inputs, ")
    (root / "more.txt").touch()
    assert main(["--reference", str(root)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL: ")


def test_a_folder_where_nothing_is_compared_fails(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    assert main(["--reference", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--reference"],
        ["--reference", "no/such/folder"],
        ["--reference", ".", "--threads", "0"],
    ],
)
def test_a_wrong_command_has_its_own_exit_code(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m tests.parity" in capsys.readouterr().err


def test_the_slow_file_may_be_left_out(
    take: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = take("golden/audio_slicing.npz")
    (root / "golden/unet_full.npz").touch()
    assert main(["--reference", str(root), "--skip-slow"]) == 0
    assert "1 files skipped" in capsys.readouterr().out.splitlines()[-1]
