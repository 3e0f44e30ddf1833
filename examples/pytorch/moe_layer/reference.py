# SPDX-License-Identifier: Apache-2.0
"""The plain layer: for each token, expert by expert, in float32. Slow; computed for a sample of the tokens."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from .experts import Stack
from .routing import Routing


def plain(x: torch.Tensor, routing: Routing, stack: Stack) -> torch.Tensor:
    """[tokens, hidden] float32."""
    y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in torch.unique(routing.experts).tolist():
        token, choice = (routing.experts == expert).nonzero(as_tuple=True)
        w1, w3 = stack["w13"][expert].float().chunk(2)
        rows = x[token].float()
        out = (F.silu(rows @ w1.t()) * (rows @ w3.t())) @ stack["w2"][expert].float().t()
        y.index_add_(0, token, out * routing.weights[token, choice].unsqueeze(1))
    return y


def relative_error(y: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖y − wanted‖ / ‖wanted‖; infinite if y holds what is no number."""
    error = float((y.float() - wanted).norm() / wanted.norm())
    return error if error == error else float("inf")
