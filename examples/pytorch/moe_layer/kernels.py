# SPDX-License-Identifier: Apache-2.0
"""The two memory-bound steps of the layer as Triton kernels, for GPUs. Without Triton, and on the CPU, plain torch does them."""
from __future__ import annotations

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU-only torch
    triton = None

if triton is not None:

    @triton.jit
    def _swiglu(h, out, inner, block: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block + tl.arange(0, block)
        inside = column < inner
        gate = tl.load(h + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(h + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * inner + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _weighted_sum(addresses, weights, out, hidden, top_k: tl.constexpr, block: tl.constexpr):
        token = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block + tl.arange(0, block)
        inside = column < hidden
        total = tl.zeros((block,), dtype=tl.float32)
        for j in tl.static_range(top_k):
            address = tl.load(addresses + token * top_k + j)
            weight = tl.load(weights + token * top_k + j)
            row = address.to(tl.pointer_type(out.dtype.element_ty))
            total += weight * tl.load(row + column, mask=inside & (address != 0), other=0.0).to(tl.float32)
        tl.store(out + token * hidden + column, total.to(out.dtype.element_ty), mask=inside)


def available(device: torch.device) -> bool:
    return triton is not None and device.type == "cuda"


def swiglu(h: torch.Tensor) -> torch.Tensor:
    """silu(h[:, :inner]) · h[:, inner:] of a contiguous [rows, 2·inner]."""
    rows, inner = h.shape[0], h.shape[1] // 2
    if not available(h.device):
        return torch.nn.functional.silu(h[:, :inner]) * h[:, inner:]
    out = torch.empty(rows, inner, dtype=h.dtype, device=h.device)
    if rows:
        block = 1024
        _swiglu[(rows, triton.cdiv(inner, block))](h, out, inner, block)
    return out


def weighted_sum(addresses: torch.Tensor, weights: torch.Tensor, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """out[t] = Σ_j weights[t, j] · the row of `hidden` numbers at addresses[t, j] (0: none), summed in float32."""
    tokens, top_k = addresses.shape
    out = torch.empty(tokens, hidden, dtype=dtype, device=addresses.device)
    if tokens:
        block = 1024
        _weighted_sum[(tokens, triton.cdiv(hidden, block))](addresses, weights, out, hidden, top_k, block)
    return out
