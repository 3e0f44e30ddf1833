# SPDX-License-Identifier: Apache-2.0
"""Which experts each token chooses, and how much of each: drawn by seed, uniform or skewed.

Skewed routing draws every token's top-k without replacement, with chances in proportion to a popularity that all ranks share:
Zipf's law over experts in an order that the seed shuffles, or counts from a file.
"""
from __future__ import annotations

import csv
import dataclasses
from typing import List

import torch

from .shapes import Shape


@dataclasses.dataclass(frozen=True)
class Routing:
    experts: torch.Tensor  # [tokens, top_k] int64, distinct in a row
    weights: torch.Tensor  # [tokens, top_k] float32, each row sums to 1

    @property
    def tokens(self) -> int:
        return self.experts.shape[0]


def popularity(kind: str, shape: Shape, seed: int) -> torch.Tensor:
    """Chances of the experts, float64 on the CPU: `kind` is uniform, zipf:EXPONENT or counts:FILE[:ROW]."""
    name, _, argument = kind.partition(":")
    if name == "uniform" and not argument:
        chances = torch.ones(shape.experts, dtype=torch.float64)
    elif name == "zipf":
        exponent = float(argument or 1.0)
        order = torch.randperm(shape.experts, generator=torch.Generator().manual_seed(seed))
        chances = (order.double() + 1.0) ** -exponent
    elif name == "counts":
        chances = torch.tensor(read_counts(argument, shape.experts), dtype=torch.float64)
    else:
        raise ValueError(f"routing {kind!r} is not uniform, zipf[:EXPONENT] or counts:FILE[:ROW]")
    return chances / chances.sum()


def read_counts(argument: str, experts: int) -> List[float]:
    """Of a CSV file whose columns e0, e1, … count how often each expert was chosen: one row, or the sum of all. An expert that
    was never chosen gets a small chance, so that every token finds enough."""
    path, _, row = argument.rpartition(":")
    if not path or not row.isdigit():
        path, row = argument, ""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"e{e}" for e in range(experts)]
    if not rows or any(name not in rows[0] for name in names) or f"e{experts}" in rows[0]:
        raise ValueError(f"{path} does not have the columns e0 to e{experts - 1} and no more: it is of another number of experts")
    if row and int(row) >= len(rows):
        raise ValueError(f"{path} has {len(rows)} rows, no row {row}")
    chosen = [rows[int(row)]] if row else rows
    return [max(0.5, sum(float(line[name]) for line in chosen)) for name in names]


def draw(shape: Shape, tokens: int, chances: torch.Tensor, seed: int, device: torch.device) -> Routing:
    """Top-k without replacement by the Gumbel trick, in pieces, since a draw needs tokens × experts numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    logits = chances.clamp_min(1e-12).log().float().to(device)
    pieces = []
    for start in range(0, tokens, 16384):
        n = min(16384, tokens - start)
        uniform = torch.rand(n, shape.experts, generator=generator, device=device).clamp_(1e-12, 1 - 1e-7)
        pieces.append((logits - (-uniform.log()).log()).topk(shape.top_k, dim=1).indices)
    scores = torch.rand(tokens, shape.top_k, generator=generator, device=device)
    return Routing(torch.cat(pieces), torch.softmax(scores, dim=1))


def imbalance(chances: torch.Tensor) -> float:
    """Of the busiest expert over the mean."""
    return float(chances.max() / chances.mean())
