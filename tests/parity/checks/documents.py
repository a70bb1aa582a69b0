"""The JSON files: salt, configurations, names and shapes of weights, the outline of the mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from latentsync.config import find_packaged
from latentsync.models.config import VAEConfig
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.models.whisper import WhisperDims, build_whisper
from latentsync.pipelines.lipsync.mask import GEOMETRY_FILE
from tests.parity.networks import Networks, Shapes, published_config, read_json, shapes
from tests.parity.output import Line

_ENCODER = "encoder."
# Parts of Whisper's file that LatentSync does not use, so the package has no network for them.
_UNUSED = ("decoder.", "encoder.ln_post.")

Verify = Callable[[Path, Networks], tuple[str, int]]  # what was compared; how much of it differs


def verify(path: Path, title: str, networks: Networks) -> Line | None:
    """Return the line of a JSON file, or None if it is of no known kind."""
    found = [check for pattern, check in _KINDS.items() if fnmatch(title, pattern)]
    if not found:
        return None
    try:
        subject, differing = found[0](path, networks)
    except Exception as error:  # one file that breaks must not end the others
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Line(title, "(all)", verdict="FAIL", remark=reason)
    verdict = "FAIL" if differing else "ok"
    return Line(title, subject, f"{differing} differ", "exact", verdict)


def _salt(_: Path, networks: Networks) -> tuple[str, int]:
    return f"salt {networks.salt!r}", 0


def _tiny_unet(_: Path, networks: Networks) -> tuple[str, int]:
    networks.build_unet()
    return "a network is built from it", 0


def _tiny_vae(_: Path, networks: Networks) -> tuple[str, int]:
    networks.build_vae()
    return "a network is built from it", 0


def _tiny_whisper(_: Path, networks: Networks) -> tuple[str, int]:
    networks.build_whisper()
    return "a network is built from it", 0


def _tiny_unet_names(path: Path, networks: Networks) -> tuple[str, int]:
    return _compare(_read_shapes(path), shapes(networks.build_unet()))


def _tiny_vae_names(path: Path, networks: Networks) -> tuple[str, int]:
    return _compare(_read_shapes(path), shapes(networks.build_vae()))


def _tiny_whisper_names(path: Path, networks: Networks) -> tuple[str, int]:
    return _compare(_heard(_read_shapes(path)), shapes(networks.build_whisper()))


def _unet_names(path: Path, _: Networks) -> tuple[str, int]:
    version = "latentsync-1.6" if "512" in path.stem else "latentsync-1.5"
    unet = UNet3DConditionModel.from_config(published_config(version).unet)
    subject, differing = _compare(_read_shapes(path), shapes(unet))
    return f"{subject} {version.removeprefix('latentsync-')}", differing


def _vae_names(path: Path, _: Networks) -> tuple[str, int]:
    return _compare(_read_shapes(path), shapes(build_vae(VAEConfig())))


def _whisper_names(path: Path, _: Networks) -> tuple[str, int]:
    return _compare(_heard(_read_shapes(path)), shapes(build_whisper(WhisperDims())))


def _geometry(path: Path, _: Networks) -> tuple[str, int]:
    ours = json.loads(find_packaged(f"assets/{GEOMETRY_FILE}").read_text("utf-8"))
    theirs = read_json(path)
    keys = ("size", "polygon")
    differing = sum(ours[key] != theirs.get(key) for key in keys)
    return f"{len(ours['polygon'])} corners", differing


_KINDS: Mapping[str, Verify] = {
    "golden/meta.json": _salt,
    "golden/tiny_unet_config.json": _tiny_unet,
    "golden/tiny_unet_manifest.json": _tiny_unet_names,
    "golden/tiny_vae_config.json": _tiny_vae,
    "golden/tiny_vae_manifest.json": _tiny_vae_names,
    "golden/tiny_whisper_dims.json": _tiny_whisper,
    "golden/tiny_whisper_manifest.json": _tiny_whisper_names,
    "manifests/unet_*.json": _unet_names,
    "manifests/vae_*.json": _vae_names,
    "manifests/whisper_*.json": _whisper_names,
    "mask_geometry.json": _geometry,
}


def _read_shapes(path: Path) -> Shapes:
    listed: Mapping[str, Any] = read_json(path)
    if not listed:
        raise ValueError(f"{path.name} lists nothing")
    return {name: tuple(shape) for name, shape in listed.items()}


def _heard(listed: Shapes) -> Shapes:
    """Return the encoder's part of a Whisper file, named as in the package's network."""
    used = {name: shape for name, shape in listed.items() if not name.startswith(_UNUSED)}
    return {name.removeprefix(_ENCODER): shape for name, shape in used.items()}


def _compare(listed: Shapes, built: Shapes) -> tuple[str, int]:
    names = listed.keys() | built.keys()
    differing = sum(listed.get(name) != built.get(name) for name in names)
    return f"{len(listed)} names and shapes", differing
