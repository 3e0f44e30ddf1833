# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of what its experts gave for each token, from results that lie in several tensors.

On a GPU with Triton the results stay where the GEMMs left them and a kernel follows their addresses. Elsewhere they are
copied into the tokens' order first, which costs one more pass over them.
"""
from __future__ import annotations

from typing import List

import torch

from . import kernels


class Combiner:
    """For `tokens` tokens with `top_k` places each; a place that gets no result counts as zero."""

    def __init__(self, tokens: int, top_k: int, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (tokens, top_k, hidden)
        self._dtype = dtype
        self._by_address = kernels.available(device)
        self._kept: List[torch.Tensor] = []
        if self._by_address:
            self._addresses = torch.zeros(tokens * top_k, dtype=torch.int64, device=device)
        else:
            self._results = torch.zeros(tokens * top_k, hidden, dtype=dtype, device=device)

    def add(self, pairs: torch.Tensor, results: torch.Tensor) -> None:
        """results[i] is what pair pairs[i] gave. The tensor is kept until the sum."""
        if not len(pairs):
            return
        if not self._by_address:
            self._results.index_copy_(0, pairs, results)
            return
        row = self._shape[2] * results.element_size()
        start = results.data_ptr()
        self._addresses[pairs] = torch.arange(start, start + row * len(pairs), row, device=results.device)
        self._kept.append(results)

    def sum(self, weights: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden], for weights [tokens, top_k] in float32."""
        tokens, top_k, hidden = self._shape
        if self._by_address:
            return kernels.weighted_sum(self._addresses.view(tokens, top_k), weights.contiguous(), hidden, self._dtype)
        return torch.bmm(weights.to(self._dtype).unsqueeze(1), self._results.view(tokens, top_k, hidden)).squeeze(1)
