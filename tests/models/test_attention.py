from __future__ import annotations

import math

import pytest
import torch

from latentsync.models import attention
from latentsync.models.attention import Attention, FeedForward, attend
from tests.models.stand_ins import worst


def test_attention_is_the_softmax_of_scaled_products() -> None:
    queries, keys, values = (torch.randn(2, 3, length, 8).double() for length in (4, 5, 5))
    weights = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(8), dim=3)
    assert worst(attend(queries, keys, values), weights @ values) < 1e-12


def test_more_sequences_than_a_kernel_takes_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [torch.randn(11, 2, 3, 4) for _ in range(3)]
    whole = attend(*parts)
    monkeypatch.setattr(attention, "MAX_SEQUENCES", 4)
    assert worst(attend(*parts), whole) < 1e-6


def test_keys_and_values_may_be_prepared() -> None:
    layer = Attention(16, heads=2, head_width=8, context_channels=6).double()
    tokens, context = torch.randn(3, 5, 16).double(), torch.randn(3, 7, 6).double()
    keys, values = layer.project(context)
    assert keys.shape == values.shape == (3, 2, 7, 8)
    assert layer(tokens, (keys, values)).shape == tokens.shape


def test_the_second_half_of_the_projection_is_the_gate() -> None:
    layer = FeedForward(4).double()
    tokens = torch.randn(2, 3, 4).double()
    value, gate = layer.net[0].proj(tokens).split(16, dim=2)
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    assert worst(layer(tokens), layer.net[2](value * gelu)) < 1e-12
