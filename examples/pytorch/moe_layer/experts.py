# SPDX-License-Identifier: Apache-2.0
"""Expert weights, and SwiGLU with several experts at once: y = w2 · (silu(w1 · x) ⊙ w3 · x), w13 holding w1 above w3."""
from __future__ import annotations

import math
from typing import Dict

import torch

from . import kernels
from .rows import Groups
from .shapes import Shape

Stack = Dict[str, torch.Tensor]  # "w13" [n, 2·inner, hidden] and "w2" [n, hidden, inner]


def empty_stack(shape: Shape, experts: int, dtype: torch.dtype, device: torch.device) -> Stack:
    return {
        "w13": torch.empty(experts, 2 * shape.inner, shape.hidden, dtype=dtype, device=device),
        "w2": torch.empty(experts, shape.hidden, shape.inner, dtype=dtype, device=device),
    }


def draw_stack(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> Stack:
    """All experts of the layer, the same on every rank that gives the same seed and has the same kind of device."""
    stack = empty_stack(shape, shape.experts, dtype, device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, fan_in in (("w13", shape.hidden), ("w2", shape.inner)):
        for expert in range(shape.experts):
            stack[name][expert].normal_(0.0, 1.0 / math.sqrt(fan_in), generator=generator)
    return stack


def grouped_mm(x: torch.Tensor, weights: torch.Tensor, groups: Groups) -> torch.Tensor:
    """x[rows of group g] · weights[g]ᵀ for every g; groups may be empty. weights is [n, out, in]."""
    if x.device.type == "cuda":
        return torch._grouped_mm(x, weights.transpose(-2, -1), offs=groups.ends)  # type: ignore[attr-defined]
    out = torch.empty(x.shape[0], weights.shape[1], dtype=x.dtype, device=x.device)
    start = 0
    for group, count in enumerate(groups.counts or ()):
        if count:
            torch.mm(x[start : start + count], weights[group].t(), out=out[start : start + count])
        start += count
    return out


def swiglu_of(x: torch.Tensor, stack: Stack, groups: Groups) -> torch.Tensor:
    """The first group's rows of x by expert 0 of the stack, the next group's by expert 1, …"""
    return grouped_mm(kernels.swiglu(grouped_mm(x, stack["w13"], groups)), stack["w2"], groups)
