# SPDX-License-Identifier: Apache-2.0
"""The (token, choice) pairs of a batch, sorted by expert: what a grouped GEMM over some experts takes from it, and where the
results belong. Pair t·top_k + j is token t's j-th choice."""
from __future__ import annotations

import itertools
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch


class Rows:
    """Pairs sorted by a given order of the experts, pairs of other experts behind them. The order is the caller's, so that
    experts which will be computed together lie together. The device's counts are there at once; the host's (`counts`, `count`
    and `of`) wait for the device once."""

    def __init__(self, experts: torch.Tensor, num_experts: int, order: Sequence[int]) -> None:
        self.top_k = experts.shape[1]
        self._place = {expert: i for i, expert in enumerate(order)}
        place = torch.full((num_experts,), len(order), dtype=torch.int32)
        place[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order), dtype=torch.int32)
        key = sent(place, experts.device)[experts.reshape(-1)]
        # torch.bincount would make the host wait for the device, to look at its smallest and largest.
        counts = torch.histc(key.double(), bins=len(order) + 1, min=-0.5, max=len(order) + 0.5)
        self.device_counts = counts[: len(order)].long()
        # On their way to the host before the sort begins: who waits for them has them while the GPU sorts.
        self._host_counts = self.device_counts
        self._counted = None
        if key.device.type == "cuda":
            self._host_counts = torch.empty(len(order), dtype=torch.int64, pin_memory=True)
            self._host_counts.copy_(self.device_counts, non_blocking=True)
            self._counted = torch.cuda.Event()
            self._counted.record()
        # int32 keys are sorted twice as fast as int64 ones
        self.pairs = torch.sort(key, stable=True).indices
        self._starts: List[int] = []

    @property
    def counts(self) -> List[int]:
        """Pairs of each expert, in the order."""
        self._fetch_counts()
        return [end - start for start, end in zip(self._starts, self._starts[1:])]

    def _fetch_counts(self) -> None:
        if not self._starts:
            if self._counted is not None:
                self._counted.synchronize()
            self._starts = [0, *itertools.accumulate(self._host_counts.tolist())]

    def groups(self) -> "Groups":
        """All experts of the order, as the groups of a grouped GEMM."""
        if self.pairs.device.type == "cuda":
            return Groups(None, self.device_counts.cumsum(0).to(torch.int32))
        return groups_of(self.counts, self.pairs.device)

    def first(self, experts: int) -> "Tuple[torch.Tensor, Groups]":
        """The pairs of so many experts of the order, and their groups: of the host's counts it takes one."""
        self._fetch_counts()
        pairs = self.pairs[: self._starts[experts]]
        if self.pairs.device.type == "cuda":
            return pairs, Groups(None, self.device_counts[:experts].cumsum(0).to(torch.int32))
        return pairs, groups_of(self.counts[:experts], self.pairs.device)

    def count(self, expert: int) -> int:
        self._fetch_counts()
        at = self._place[expert]
        return self._starts[at + 1] - self._starts[at]

    def of(self, experts: Sequence[int]) -> torch.Tensor:
        """The pairs of these experts, one expert after the other: a slice where they lie together in the order."""
        self._fetch_counts()
        ranges: List[Tuple[int, int]] = []
        for expert in experts:
            at = self._place[expert]
            start, end = self._starts[at], self._starts[at + 1]
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], end)
            elif end > start:
                ranges.append((start, end))
        if not ranges:
            return self.pairs[:0]
        if len(ranges) == 1:
            return self.pairs[ranges[0][0] : ranges[0][1]]
        return torch.cat([self.pairs[start:end] for start, end in ranges])


class Groups(NamedTuple):
    """How the rows of a matrix are divided among the experts of a stack."""

    counts: Optional[List[int]]  # None on a GPU where only the device knows
    ends: torch.Tensor  # cumulative, int32, on the device


def groups_of(counts: Sequence[int], device: torch.device) -> Groups:
    ends = torch.tensor(list(itertools.accumulate(counts)), dtype=torch.int32)
    return Groups(list(counts), sent(ends, device))


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host's, on the device, without waiting for that."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
