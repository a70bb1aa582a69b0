"""The full-size networks on a GPU: python -m benchmarks.gpu [--tiny]

With random weights, which are as fast as trained ones: half precision against float32; seconds
per second of video at 256 and 512 pixels with 20 guided steps, the share of the chip's rate of
matrix products (measured in the same run) and the peak memory; the UNet with its kernels
channels first, compiled and as a CUDA graph against the way it runs, as ratios of time.

Without a CUDA device it ends with a message. With --tiny the networks are small, and everything
that needs no GPU also runs on the CPU in float32, to test this script.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.restore import face_points
from latentsync.config import read_config
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS
from latentsync.models.checkpoint import fill, place
from latentsync.models.config import LatentSyncConfig
from latentsync.models.sampling import SamplingOptions
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import build_vae, decode_latents, encode_moments
from latentsync.models.whisper import WhisperDims, build_whisper
from latentsync.monitor import RunMonitor
from latentsync.pipelines.lipsync.alignment import FaceAligner
from latentsync.pipelines.lipsync.audio_features import AudioFeatures
from latentsync.pipelines.lipsync.face_finder import MeshFinder
from latentsync.pipelines.lipsync.face_generator import LipsyncNetworks
from latentsync.pipelines.lipsync.windows import SeededNoise
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline
from tests.demo_media import FramesInMemory

VERSIONS = ("latentsync-1.5", "latentsync-1.6")  # faces of 256 and 512 pixels
TOGETHER = (1, 4)  # windows in a call of the network
TINY_WIDTHS = (32, 64, 64, 64)
AUDIO_ROWS = 50


@dataclass(frozen=True)
class Machine:
    """The device and the size of the networks."""

    device: torch.device
    tiny: bool

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.device.type == "cuda" else torch.float32

    @property
    def steps(self) -> int:
        return 2 if self.tiny else 20

    def config(self, version: str) -> LatentSyncConfig:
        """Return a version's values; tiny ones are narrow, with faces of a quarter of the size."""
        config = read_config(version, LatentSyncConfig)
        if not self.tiny:
            return config
        return replace(
            config,
            resolution=config.resolution // 4,
            unet=replace(config.unet, block_out_channels=TINY_WIDTHS),
            vae=replace(config.vae, block_out_channels=TINY_WIDTHS),
        )

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Return the median time of a call, the device's own work included; called once before."""
        times = []
        for _ in range(2 if self.tiny else repeats + 1):
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        return median(times[1:])


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks, to try this script")
    tiny = parser.parse_args().tiny
    cuda = torch.cuda.is_available()
    if not (cuda or tiny):
        print("There is no CUDA device here: nothing to measure.")
        return 0
    if not cuda:
        torch.set_num_threads(1)
    machine = Machine(torch.device("cuda" if cuda else "cpu"), tiny)
    rate = _matrix_rate(machine)
    print(
        f"{torch.cuda.get_device_name() if cuda else 'CPU'}: products of matrices {rate:.3g} TF/s"
    )
    for version in VERSIONS:
        config = machine.config(version)
        _report_parity(machine, config)
        networks = _load(machine, config, machine.dtype)
        for windows in TOGETHER:
            _report_speed(machine, networks, windows, rate)
        _report_ways(machine, networks)
    return 0


def _matrix_rate(machine: Machine) -> float:
    side = 256 if machine.tiny else 8192
    left, right = torch.randn(2, side, side, device=machine.device, dtype=machine.dtype)
    return 2e-12 * side**3 / machine.seconds(lambda: left @ right, repeats=10)


def _random_state(network: nn.Module, machine: Machine) -> dict[str, Tensor]:
    """Return float32 weights that keep values in range: a variance of one over what enters."""
    generator = torch.Generator(machine.device).manual_seed(1)

    def random(shape: torch.Size) -> Tensor:
        values = torch.randn(shape, generator=generator, device=machine.device)
        return values / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1 * values

    state = {name: random(value.shape) for name, value in network.state_dict().items()}
    gains = [name for name in state if state[name].ndim == 1 and name.endswith("weight")]
    return state | {name: 1 + state[name] for name in gains}


def _load(machine: Machine, config: LatentSyncConfig, dtype: torch.dtype) -> LipsyncNetworks:
    unet, vae = UNet3DConditionModel.from_config(config.unet), build_vae(config.vae)
    encoder = build_whisper(WhisperDims())
    for network, of_type in ((unet, dtype), (vae, dtype), (encoder, torch.float32)):
        fill(network, place(_random_state(network, machine), machine.device, of_type))
    return LipsyncNetworks(config, unet, vae, encoder)


def _unet_inputs(machine: Machine, config: LatentSyncConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return a guided window's sample, timestep and audio, the silent half not included."""
    generator = torch.Generator().manual_seed(2)
    side, frames = config.resolution // 8, config.num_frames
    sample = torch.randn(2, config.unet.in_channels, frames, side, side, generator=generator)
    audio = torch.randn(frames, AUDIO_ROWS, config.unet.cross_attention_dim, generator=generator)
    timestep = torch.tensor([501.0], device=machine.device)
    return sample.to(machine.device), timestep, audio.to(machine.device)


def _report_parity(machine: Machine, config: LatentSyncConfig) -> None:
    """Print how far half precision lies from float32, against the size of the values."""
    sample, timestep, audio = _unet_inputs(machine, config)
    faces = torch.rand(2, 3, config.resolution, config.resolution) * 2 - 1
    results: list[dict[str, Tensor]] = []
    for dtype in (torch.float32, torch.float16):
        networks = _load(machine, config, dtype)
        hearing = networks.unet.encode_audio(audio, num_silent=len(audio))
        moments = encode_moments(networks.vae, faces)
        results.append(
            {
                "UNet": networks.unet(sample, timestep, hearing).sample,
                "VAE encoder": moments,
                "VAE decoder": decode_latents(networks.vae, faces.new_ones(2, 4, 8, 8)),
            }
        )
    for name, exact in results[0].items():
        difference = results[1][name].float() - exact
        worst, mean = difference.abs().max(), difference.square().mean().sqrt()
        print(
            f"{config.resolution} px, {name}: float16 - float32 at most {worst:.1e}, "
            f"root mean square {mean:.1e} of {exact.square().mean().sqrt():.1e}"
        )


def _report_speed(machine: Machine, networks: LipsyncNetworks, windows: int, rate: float) -> None:
    """Print what the three networks take for windows of a video, without the work around them."""
    _speak(machine, networks, windows)
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    spent_s = median(_speak(machine, networks, windows) for _ in range(1 if machine.tiny else 3))
    length_s = windows * networks.config.num_frames / VIDEO_FPS
    work = windows * _window_work(machine, networks)
    print(
        f"{networks.config.resolution} px, {machine.steps} guided steps, {windows} windows at once:"
        f" {spent_s / length_s:.3f} s per second of video, {work / length_s:.3g} TF of it, "
        f"{work / spent_s / rate:.0%} of the rate{_peak(machine)}"
    )


def _speak(machine: Machine, networks: LipsyncNetworks, windows: int) -> float:
    """Make windows of a random picture; return the seconds of encoding, denoising, decoding."""
    config, random = networks.config, np.random.default_rng(3)
    indices = np.arange(windows * config.num_frames)
    frame = random.integers(0, 256, (720, 1280, 3), np.uint8)
    matrix = FaceAligner(config.resolution).align(face_points(150) - (320, 180))
    sound = random.random(len(indices) * SAMPLE_RATE // VIDEO_FPS, np.float32)
    noise = SeededNoise(5, config.resolution // 8, machine.device, networks.unet.dtype)
    monitor = RunMonitor()
    pipeline = LipsyncPipeline(networks, MeshFinder(), batch_windows=windows)
    made = pipeline.speak(
        FramesInMemory([frame] * len(indices)),
        AudioFeatures(sound, networks.audio_encoder, len(indices)),
        np.stack([matrix] * len(indices)),
        frame_indices=indices,
        noise=noise,
        options=SamplingOptions(num_inference_steps=machine.steps),
        monitor=monitor,
    )
    deque(made, maxlen=0)
    return sum(monitor.seconds[f"generate.{stage}"] for stage in ("encode", "denoise", "decode"))


def _window_work(machine: Machine, networks: LipsyncNetworks) -> float:
    """Return the TF of one window: every face encoded twice, all steps, every face decoded."""
    config, unet = networks.config, networks.unet
    sample, timestep, audio = _unet_inputs(machine, config)
    hearing = unet.encode_audio(audio, num_silent=len(audio))
    faces = torch.zeros(1, 3, config.resolution, config.resolution)
    works: dict[Callable[[], object], int] = {
        lambda: unet(sample, timestep, hearing): machine.steps,
        lambda: encode_moments(networks.vae, faces): 2 * config.num_frames,
        lambda: decode_latents(networks.vae, sample[:1, :4, 0]): config.num_frames,
    }
    total = 0.0
    for work, times in works.items():
        with FlopCounterMode(display=False) as counted:
            work()
        total += times * counted.get_total_flops() / 1e12
    return total


def _report_ways(machine: Machine, networks: LipsyncNetworks) -> None:
    """Print the time of a UNet call run in other ways, as a ratio to the way it runs."""
    unet = networks.unet
    sample, timestep, audio = _unet_inputs(machine, networks.config)
    sample = sample.to(unet.dtype)
    hearing = unet.encode_audio(audio, num_silent=len(audio))
    usual_s = machine.seconds(lambda: unet(sample, timestep, hearing), repeats=10)
    ways = {}
    if machine.device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            unet(sample, timestep, hearing)
        ways["CUDA graph"] = machine.seconds(graph.replay, repeats=10)
        compiled = torch.compile(unet, dynamic=False)
        ways["compiled"] = machine.seconds(lambda: compiled(sample, timestep, hearing), repeats=10)
    plain = {name: value.contiguous() for name, value in unet.state_dict().items()}
    fill(unet, plain)
    ways["kernels channels first"] = machine.seconds(
        lambda: unet(sample, timestep, hearing), repeats=10
    )
    ratios = ", ".join(f"{name} {spent_s / usual_s:.2f}" for name, spent_s in ways.items())
    print(f"{networks.config.resolution} px, UNet call {1e3 * usual_s:.1f} ms; x time: {ratios}")


def _peak(machine: Machine) -> str:
    if machine.device.type != "cuda":
        return ""
    return f", peak {torch.cuda.max_memory_allocated(machine.device) / 2**30:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
