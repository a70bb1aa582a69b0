from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.models.frames import FrameGroupNorm, fold_frames, to_tokens, unfold_frames
from tests.models.stand_ins import worst


def build_norm(groups: int = 4, channels: int = 8, eps: float = 1e-5) -> FrameGroupNorm:
    torch.manual_seed(0)
    norm = FrameGroupNorm(groups, channels, eps)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


def plain_norm(norm: FrameGroupNorm, video: Tensor) -> Tensor:
    """Group norm of (B, C, F, H, W) by its definition, in float64."""
    weight, bias = norm.weight.double(), norm.bias.double()
    return F.group_norm(video.double(), norm.num_groups, weight, bias, norm.eps)


def test_folding_is_frame_major_with_the_batch_outside() -> None:
    video = torch.randn(2, 3, 5, 4, 6)
    folded = fold_frames(video)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded[1 * 5 + 2], video[1, :, 2])
    assert torch.equal(unfold_frames(folded, 5), video)


def test_tokens_are_a_view() -> None:
    folded = fold_frames(torch.randn(2, 3, 5, 4, 6))
    assert to_tokens(folded).data_ptr() == folded.data_ptr()
    assert torch.equal(to_tokens(folded)[0, 7], folded[0, :, 1, 1])


@pytest.mark.parametrize("way", ["_by_kernel", "_by_moments"])
@pytest.mark.parametrize("shape", [(2, 8, 5, 4, 6), (1, 8, 1, 3, 3), (2, 8, 4, 1, 1)])
def test_statistics_are_over_all_frames_of_a_window(
    monkeypatch: pytest.MonkeyPatch, way: str, shape: tuple[int, ...]
) -> None:
    norm = build_norm()
    monkeypatch.setattr(FrameGroupNorm, "_by_kernel", getattr(FrameGroupNorm, way))
    video = torch.randn(shape) * 3 + 5
    normed = norm(fold_frames(video), num_frames=shape[2])
    assert normed.is_contiguous(memory_format=torch.channels_last)
    assert worst(unfold_frames(normed, shape[2]), plain_norm(norm, video)) < 1e-5


@pytest.mark.parametrize("way", ["_by_kernel", "_by_moments"])
def test_frames_are_normalized_separately_by_default(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    norm = build_norm()
    monkeypatch.setattr(FrameGroupNorm, "_by_kernel", getattr(FrameGroupNorm, way))
    frames = fold_frames(torch.randn(2, 8, 3, 4, 4))
    wanted = plain_norm(norm, frames)
    assert worst(norm(frames), wanted) < 1e-5


@pytest.mark.parametrize("way", ["_by_kernel", "_by_moments"])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_groups_of_two_similar_values_keep_their_digits(
    monkeypatch: pytest.MonkeyPatch, way: str, spread: float
) -> None:
    """One pixel, two channels a group: what the coarsest level of a small picture has."""
    norm = build_norm(32, 64, eps=1e-6)
    monkeypatch.setattr(FrameGroupNorm, "_by_kernel", getattr(FrameGroupNorm, way))
    pairs = 3 * torch.randn(100, 32, 1) + spread * torch.randn(100, 32, 2)
    pictures = pairs.reshape(100, 64, 1, 1)
    assert worst(norm(pictures), plain_norm(norm, pictures)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    norm = build_norm()
    video = (torch.randn(2, 8, 5, 8, 8) * 300 + 500).to(dtype)  # squares overflow float16
    tall = fold_frames(video).permute(0, 2, 3, 1).reshape(2, 40, 8, 8)
    half = build_norm().to(dtype)
    normed = half._by_moments(tall)
    norm.load_state_dict(half.state_dict())
    wanted = plain_norm(norm, video).permute(0, 2, 3, 4, 1).reshape(2, 40, 8, 8)
    assert normed.dtype == dtype
    one_rounding = torch.finfo(dtype).eps * float(wanted.abs().max())
    assert worst(normed, wanted) < one_rounding


@pytest.mark.parametrize("offset", [10.0, 100.0, 500.0])
def test_values_far_from_zero_keep_their_digits_in_half_precision(offset: float) -> None:
    random = torch.Generator().manual_seed(2)
    tall = (offset + torch.randn(1, 32, 8, 64, generator=random)).half()
    norm = FrameGroupNorm(32, 64)
    exact = norm.double()._by_moments(tall.double())
    assert float((norm.half()._by_moments(tall).double() - exact).abs().max()) < 4e-3
