"""Cold start of LatentSync: python -m benchmarks.cold_start [--folder DIR] [--tiny]

Writes random files of weights with the published layouts and sizes (5.5 GB; the copy takes 2.5 GB
more) into a temporary folder, or one inside DIR, and deletes them at the end. Then every start in a
process of its own: seconds for the imports, building the networks without memory, loading the UNet
and the two others, and afterwards reading every page of the weights, as a GPU does at once; memory
at the end, the part of it that is not a mapped file, and the peak.

The files are evicted from the page cache before a start unless the line says "in memory".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTS = (  # name, type of numbers, whether the files come from disk
    ("first load, writes the copy", "float16", True),
    ("from the copy", "float16", True),
    ("from the copy, in memory", "float16", False),
    ("from the checkpoint", "float32", True),
)
PAGE_BYTES = 4096


def main() -> int:
    """Write the files, run all starts, print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary one")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try this script")
    parser.add_argument("--start", choices=("float16", "float32"), help="used internally")
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments.folder, arguments.start, tiny=arguments.tiny)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        _run("-c", f"from benchmarks.cold_start import write; write({name!r}, {arguments.tiny})")
        for title, dtype, from_disk in STARTS:
            if from_disk:
                _forget(folder)
            tiny = ["--tiny"] if arguments.tiny else []
            answer = _run("-m", "benchmarks.cold_start", "--folder", name, "--start", dtype, *tiny)
            print(f"{title:28} {_line(json.loads(answer))}", flush=True)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes.items()))
    return 0


def start(folder: Path, dtype_name: str, *, tiny: bool) -> dict[str, float]:
    """Start once; return seconds by stage and MiB of memory."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal began
        seconds[stage] = time.perf_counter() - began
        began = time.perf_counter()

    import torch

    from latentsync.models.unet import UNet3DConditionModel
    from latentsync.models.vae import load_vae
    from latentsync.models.whisper import load_whisper
    from latentsync.pipelines import lipsync_pipeline  # noqa: F401, as every start does

    lap("import")
    config = _config(tiny)
    unet = UNet3DConditionModel.from_config(config.unet)
    lap("build")
    dtype = getattr(torch, dtype_name)
    unet.load_checkpoint(folder / "latentsync_unet.pt", dtype=dtype)
    lap("load")
    vae = load_vae(folder / "vae.safetensors", config.vae, dtype=dtype)
    whisper = load_whisper(folder / "tiny.pt")
    lap("others")
    for tensor in chain(*(network.state_dict().values() for network in (unet, vae, whisper))):
        _touch(tensor)
    lap("read")
    return seconds | _memory_mib()


def write(folder_name: str, tiny: bool) -> None:
    """Write random files of weights in the published layouts."""
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from latentsync.models.unet import UNet3DConditionModel
    from latentsync.models.vae import build_vae
    from latentsync.models.whisper import WhisperDims, build_whisper

    def random(network: nn.Module) -> dict[str, Any]:
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        return {name: torch.randn(shape).mul_(0.02) for name, shape in shapes.items()}

    folder, config = Path(folder_name), _config(tiny)
    unet = random(UNet3DConditionModel.from_config(config.unet))
    torch.save({"state_dict": unet, "global_step": 1}, folder / "latentsync_unet.pt")
    save_file(random(build_vae(config.vae)), folder / "vae.safetensors")
    encoder = random(build_whisper(WhisperDims()))
    state = {f"encoder.{name}": value.half() for name, value in encoder.items()}
    torch.save({"dims": vars(WhisperDims()), "model_state_dict": state}, folder / "tiny.pt")


def _config(tiny: bool) -> Any:
    from latentsync.config import read_config
    from latentsync.models.config import LatentSyncConfig

    config = read_config("latentsync-1.6", LatentSyncConfig)
    if not tiny:
        return config
    narrow = (32, 64, 64, 64)
    return replace(config, unet=replace(config.unet, block_out_channels=narrow))


def _touch(tensor: Any) -> None:
    """Read one number of every page."""
    numbers = tensor.flatten() if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1).flatten()
    numbers[:: PAGE_BYTES // tensor.element_size()].sum()


def _memory_mib() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    names = {"resident": "VmRSS", "own": "RssAnon", "peak": "VmHWM"}
    return {
        name: int(status.split(f"{field}:")[1].split()[0]) / 1024 for name, field in names.items()
    }


def _forget(folder: Path) -> None:
    """Evict the files in ``folder`` from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _line(measured: dict[str, float]) -> str:
    stages = ("import", "build", "load", "others", "read")
    times = ", ".join(f"{stage} {measured[stage]:.2f}" for stage in stages)
    memory = ", ".join(f"{name} {measured[name]:.0f}" for name in ("resident", "own", "peak"))
    ready = sum(measured[stage] for stage in stages[:-1])
    return f"{times} s; ready after {ready:.2f} s; {memory} MiB"


if __name__ == "__main__":
    sys.exit(main())
