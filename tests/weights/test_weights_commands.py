"""``latentsync weights``, run as a user runs it, against the hub on localhost."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from latentsync.cli import app as cli
from latentsync.settings import Settings
from latentsync.weights import catalog as catalog_module
from latentsync.weights.catalog import Catalog
from tests.weights.hub import Hub
from tests.weights.tiny import ENGINE_FILES, VGG16_PATHS, content_of, path_on_hub

UNET = "latentsync-1.6/unet"


@pytest.fixture(autouse=True)
def small_catalog(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, catalog: Catalog, hub: Hub
) -> None:
    monkeypatch.setattr(catalog_module, "CATALOG", catalog)
    monkeypatch.setenv("LATENTSYNC_WEIGHTS_DIR", str(settings.weights_dir))
    monkeypatch.setenv("LATENTSYNC_WEIGHTS_MIRROR", hub.url)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.commands, ["weights", *arguments], env=environment)


def unwrapped(paragraph: str) -> str:
    return " ".join(paragraph.split())


def states() -> dict[str, str]:
    """Return the state that the list shows for each file."""
    lines = run("list").stdout.splitlines()
    rows = [line.split() for line in lines if line.strip()]
    known = {"missing", "partial", "present", "damaged", "unchecked"}
    return {row[0]: word for row in rows for word in row if word in known}


def test_the_list_tells_what_is_here(hub: Hub, settings: Settings) -> None:
    assert set(states().values()) == {"missing"}
    run("pull", "whisper-tiny", "sd-vae-ft-mse")
    vae = settings.weights_dir / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes(b"short")
    part = settings.weights_dir / "latentsync-1.6" / ".latentsync_unet.pt.part"
    part.parent.mkdir()
    part.write_bytes(b"beginning")
    assert states() == {
        **dict.fromkeys(catalog_module.CATALOG, "missing"),
        "whisper-tiny": "present",
        "sd-vae-ft-mse": "damaged",
        UNET: "partial",
    }


def test_the_list_tells_licence_and_source() -> None:
    listed = run("list").stdout
    assert "non-commercial research" in listed
    assert "ByteDance/LatentSync-1.6@c42c7e6" in listed


def test_pull_without_a_name_brings_all_of_the_default_engine(
    hub: Hub, settings: Settings, tmp_path: Path
) -> None:
    done = run("pull")
    assert done.exit_code == 0, done.output
    assert {name for name, state in states().items() if state == "present"} == {
        *ENGINE_FILES,
        "vgg16",
    }
    assert str(settings.weights_dir / "whisper" / "tiny.pt") in done.stdout


def test_pull_takes_the_name_of_an_engine(hub: Hub) -> None:
    assert run("pull", "latentsync-1.5", LATENTSYNC_FACE_LANDMARKS="mesh").exit_code == 0
    here = {name for name, state in states().items() if state == "present"}
    assert here == {"latentsync-1.5/unet", "whisper-tiny", "sd-vae-ft-mse"}


def test_pull_goes_on_without_vgg16(hub: Hub) -> None:
    for path in VGG16_PATHS:
        hub.files.pop(path)
    done = run("pull")
    assert done.exit_code == 0
    assert "Unable to download VGG16 weights for LatentSync." in done.stderr
    assert states()["vgg16"] == "missing"


@pytest.mark.parametrize("name", ["unet", "latentsync-2"])
def test_pull_of_something_unknown(name: str) -> None:
    done = run("pull", name)
    assert done.exit_code == 1
    assert f"'{name}'" in done.stderr


def test_an_error_is_one_paragraph(hub: Hub) -> None:
    hub.files.pop(path_on_hub(UNET))
    done = run("pull", UNET)
    assert done.exit_code == 1
    assert unwrapped(done.stderr).startswith(f"Error: {UNET} could not be fetched from {hub.url}")
    assert all(line.startswith("    ") for line in done.stderr.splitlines()[1:])


def test_a_wrong_setting_is_one_line() -> None:
    done = run("list", LATENTSYNC_WEIGHTS_MIRROR="hub")
    assert done.exit_code == 2
    assert "LATENTSYNC_WEIGHTS_MIRROR" in done.stderr


def test_verify_tells_what_is_missing(hub: Hub) -> None:
    done = run("verify")
    assert done.exit_code == 1
    missing = ", ".join(ENGINE_FILES)
    assert unwrapped(done.stderr) == (
        f"Error: missing: {missing}. Download with `latentsync weights pull`."
    )
    assert run("pull", *ENGINE_FILES).exit_code == 0
    done = run("verify")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "latentsync-1.5/unet: not downloaded, not needed" in done.stdout
    assert run("verify", "latentsync-1.6").exit_code == 0
    # Whoever names a file wants it, needed or not.
    for name, missing in (("latentsync-1.5", "latentsync-1.5/unet"), ("vgg16", "vgg16")):
        done = run("verify", name)
        assert done.exit_code == 1
        assert unwrapped(done.stderr) == (
            f"Error: missing: {missing}. Download with `latentsync weights pull {name}`."
        )
    assert run("verify", LATENTSYNC_ENGINE="latentsync-1.5").exit_code == 1


def test_everything_fits_the_terminal_and_80_columns(hub: Hub) -> None:
    for path in VGG16_PATHS:
        hub.files.pop(path)
    said = [(48, run(*command, COLUMNS="48")) for command in (["pull"], ["verify", "vgg16"])]
    for columns in ("200", "48", ""):
        offline = run("pull", "latentsync-1.5", LATENTSYNC_OFFLINE="1", COLUMNS=columns)
        others = [run(command, COLUMNS=columns) for command in ("list", "verify")]
        said += [(min(80, int(columns or 80)), one) for one in (offline, *others)]
    for width, one in said:
        assert one.output.count("\n") > 1
        for line in one.output.splitlines():  # a longer one is a path or an address by itself
            assert len(line) <= width or " " not in line.strip(), line


def test_verify_tells_what_is_damaged(hub: Hub, settings: Settings) -> None:
    run("pull", *ENGINE_FILES)
    path = settings.weights_dir / "whisper" / "tiny.pt"
    path.write_bytes(b"?" + content_of("whisper-tiny")[1:])
    done = run("verify")
    assert done.exit_code == 1
    assert f"{UNET}: OK" in done.stdout
    assert "vgg16: not downloaded, not needed" in done.stdout
    assert done.stderr == (
        "Error: damaged: whisper-tiny. Download with `latentsync weights pull`.\n"
    )
    assert run("verify", UNET).exit_code == 0
