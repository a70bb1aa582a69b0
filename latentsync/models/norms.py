"""Group norms over folded frames.

Everywhere in the networks frames are folded into the batch: (B*F, C, H, W), entry b*F + f is
frame f of batch entry b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FoldedGroupNorm(nn.GroupNorm):
    """A group norm whose statistics run over one frame, or over several of one batch entry.

    Over all frames it equals ``nn.GroupNorm`` on (B, C, F, H, W), but the big tensor is neither
    permuted nor copied: each frame's means and variances are combined instead. Variances are sums
    of squared differences from the mean; PyTorch's kernel for channels-last memory subtracts two
    large numbers there and loses the digits that groups of two nearly equal values need.
    """

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        """Normalise (B*F, C, H, W), statistics over ``num_frames`` frames; the same shape back."""
        folded, channels = hidden_states.shape[:2]
        batch, groups = folded // num_frames, self.num_groups
        grouped = hidden_states.unflatten(1, (groups, channels // groups))
        exact = grouped if grouped.dtype == torch.float64 else grouped.float()
        variance, mean = torch.var_mean(exact, dim=(2, 3, 4), correction=0)  # B*F, G
        mean, variance = mean.view(batch, num_frames, groups), variance.view(batch, -1, groups)
        pooled_mean = mean.mean(dim=1, keepdim=True)
        pooled_variance = (variance + (mean - pooled_mean).square()).mean(dim=1, keepdim=True)
        rate = (pooled_variance + self.eps).rsqrt()
        dtype = hidden_states.dtype
        gain = self._per_channel(rate, num_frames) * self.weight.view(1, -1, 1, 1)
        centred = hidden_states - self._per_channel(pooled_mean, num_frames).to(dtype)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, gain.to(dtype))

    def _per_channel(self, values: Tensor, num_frames: int) -> Tensor:
        """Spread (B, 1, G) to (B*F, C, 1, 1)."""
        spread = values.expand(-1, num_frames, -1).flatten(0, 1)
        return spread.repeat_interleave(self.num_channels // self.num_groups, dim=1)[
            ..., None, None
        ]
