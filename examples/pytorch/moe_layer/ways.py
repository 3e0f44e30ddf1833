# SPDX-License-Identifier: Apache-2.0
"""The layer in three ways, each a function of this rank's tokens and their routing:

Replicated   all experts are here: computation alone, which no way of moving data can beat
Fetching     Cardea: tokens stay; experts of other ranks are pulled while those at home compute, and each group of experts
             that has come is one grouped GEMM
AllToAll     experts stay; tokens travel by all-to-all and back. With `once` a token goes once to each rank that has any of its
             experts, its results are summed there and one row comes back: the least that tokens can travel. Else one copy goes for
             each chosen expert

All begin with (x, routing) and end with the layer's output. Ranks have blocks of experts: rank r those from r·E/n on.
"""
from __future__ import annotations

import time
from typing import List

import torch
import torch.distributed as dist

import cardea

from .combine import Combiner
from .experts import Stack, empty_stack, swiglu_of
from .routing import Routing
from .rows import Groups, Rows, groups_of
from .shapes import Shape


# Pairs for each expert, on the average: with so many, all experts are wanted; and computing takes longer than copying, so that
# the GPU had better begin with it than wait while the host queues the copies.
_SURELY_WANTED = 64
_COMPUTE_FIRST = 2048


class Replicated:
    name = "pure"

    def __init__(self, shape: Shape, stack: Stack) -> None:
        self._shape, self._stack = shape, stack

    def prepare(self) -> None:
        pass

    def forward(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        everything = range(self._shape.experts)
        rows = Rows(routing.experts, self._shape.experts, everything)
        combiner = Combiner(len(x), rows.top_k, self._shape.hidden, x.dtype, x.device)
        combiner.add(rows.pairs, swiglu_of(x[rows.pairs // rows.top_k], self._stack, rows.groups()))
        return combiner.sum(routing.weights)

    def settle(self) -> None:
        pass


class Fetching:
    """`home` are the rank's own experts. A slab of `slots` rows takes the others, in groups of at most `group`."""

    name = "cardea"

    def __init__(self, context: cardea.Context, shape: Shape, home: Stack, slots: int, group: int, layer_id: int) -> None:
        self._shape, self._home, self._group = shape, home, group
        local = len(home["w13"])
        self._slab_stack = empty_stack(shape, slots, home["w13"].dtype, home["w13"].device)
        for tensor in self._slab_stack.values():
            tensor.fill_(float("nan"))  # an expert that did not come shows
        self._slab = context.slab_over(self._slab_stack)
        self._layer = context.group().layer(layer_id, home, slab=self._slab)
        # Home first, then the ranks after this one and round: every source has one asker at a time.
        first = context.rank * local
        self._order = [(first + i) % shape.experts for i in range(shape.experts)]
        self._local = local
        self._version = 0

    def prepare(self) -> None:
        """The weights of a step are valid, and every rank knows it."""
        self._version += 1
        self._layer.publish(self._version)
        for expert in range(0, self._shape.experts, self._local):  # one of each rank
            while self._layer.expert(expert).published != self._version:
                time.sleep(0.0005)

    def forward(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        rows = Rows(routing.experts, self._shape.experts, self._order)
        away = self._order[self._local :]
        combiner = Combiner(len(x), rows.top_k, self._shape.hidden, x.dtype, x.device)
        per_expert = routing.experts.numel() / self._shape.experts
        # Where all are wanted, the fetch need not wait until the host knows the counts.
        if per_expert < _SURELY_WANTED:
            away = [e for e in away if rows.count(e)]
        if per_expert >= _COMPUTE_FIRST:
            self._compute_home(x, rows, combiner)
        fetch = self._layer.fetch(self._version, away, slots=True) if away else None
        if per_expert < _COMPUTE_FIRST:
            self._compute_home(x, rows, combiner)
        while fetch is not None:
            views = fetch.ready(max=self._group)
            if not views:
                fetch.close()
                break
            by_slot = {}
            for view in views:
                view.check()
                by_slot[view.slot] = view.expert
            # Slots without a ready expert are empty groups of the GEMM.
            last = max(by_slot) + 1
            counts = [rows.count(by_slot[slot]) if slot in by_slot else 0 for slot in range(last)]
            stack = {name: tensor[:last] for name, tensor in self._slab_stack.items()}
            pairs = rows.of([by_slot[slot] for slot in sorted(by_slot)])
            self._compute(x, rows, pairs, stack, groups_of(counts, x.device), combiner)
            cardea.release(views)
        self._layer.finish(self._version)
        return combiner.sum(routing.weights)

    def _compute_home(self, x: torch.Tensor, rows: Rows, combiner: Combiner) -> None:
        pairs, groups = rows.first(self._local)
        self._compute(x, rows, pairs, self._home, groups, combiner)

    @staticmethod
    def _compute(
        x: torch.Tensor, rows: Rows, pairs: torch.Tensor, stack: Stack, groups: Groups, combiner: Combiner
    ) -> None:
        if len(pairs):
            combiner.add(pairs, swiglu_of(x[pairs // rows.top_k], stack, groups))

    def settle(self) -> None:
        """The weights are the ranks' own again."""
        self._layer.collect(self._version, timeout=600)

    def close(self) -> None:
        self._layer.close()
        self._slab.close()


class AllToAll:
    """`group` is a torch.distributed group of all ranks."""

    def __init__(self, shape: Shape, home: Stack, once: bool, group: object = None) -> None:
        self.name = "all-to-all" if once else "per choice"
        self._shape, self._home, self._once, self._process_group = shape, home, once, group
        self._ranks, self._rank = dist.get_world_size(group), dist.get_rank(group)
        self._local = len(home["w13"])

    def prepare(self) -> None:
        pass

    def forward(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        return self._by_token(x, routing) if self._once else self._by_choice(x, routing)

    def settle(self) -> None:
        pass

    def _exchange(self, rows: torch.Tensor, give: List[int], take: List[int]) -> torch.Tensor:
        out = torch.empty(sum(take), *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        dist.all_to_all_single(out, rows.contiguous(), take, give, group=self._process_group)
        return out

    def _splits(self, *give: torch.Tensor) -> "List[tuple[List[int], List[int]]]":
        """For numbers that go to each rank: these, and those that come from each. Waits for the device once."""
        mine = torch.stack(give, dim=1)  # [ranks, numbers]
        theirs = torch.empty_like(mine)
        dist.all_to_all_single(theirs, mine, group=self._process_group)
        both = torch.stack((mine, theirs)).tolist()
        return [([row[i] for row in both[0]], [row[i] for row in both[1]]) for i in range(len(give))]

    def _by_token(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        owner = routing.experts // self._local
        goes = torch.zeros(len(x), self._ranks, dtype=torch.bool, device=x.device).scatter_(1, owner, True)
        rank_of, token = goes.t().nonzero(as_tuple=True)  # by rank, then by token
        (give, take), (_, pairs_here) = self._splits(goes.sum(0), torch.bincount(owner.reshape(-1), minlength=self._ranks))
        # A choice of another rank has no weight there, and no expert.
        mine = owner[token] == rank_of.unsqueeze(1)
        sent_experts = torch.where(mine, routing.experts[token] % self._local, self._local).to(torch.int32)
        sent_weights = torch.where(mine, routing.weights[token], 0.0)
        got = self._exchange(x[token], give, take)
        experts = self._exchange(sent_experts, give, take)
        weights = self._exchange(sent_weights, give, take)
        rows = Rows(experts.long(), self._local + 1, range(self._local))
        pairs = rows.pairs[: sum(pairs_here)]
        combiner = Combiner(len(got), rows.top_k, self._shape.hidden, x.dtype, x.device)
        combiner.add(pairs, swiglu_of(got[pairs // rows.top_k], self._home, rows.groups()))
        back = self._exchange(combiner.sum(weights), take, give)
        total = Combiner(len(x), self._ranks, self._shape.hidden, x.dtype, x.device)
        total.add(token * self._ranks + rank_of, back)
        return total.sum(torch.ones(len(x), self._ranks, device=x.device))

    def _by_choice(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        rows = Rows(routing.experts, self._shape.experts, range(self._shape.experts))
        ((give, take),) = self._splits(rows.device_counts.view(self._ranks, self._local).sum(1))
        got = self._exchange(x[rows.pairs // rows.top_k], give, take)
        experts = torch.repeat_interleave(torch.arange(self._shape.experts, device=x.device) % self._local, rows.device_counts, output_size=len(rows.pairs))
        here = Rows(self._exchange(experts.to(torch.int32), give, take).long().unsqueeze(1), self._local, range(self._local))
        results = swiglu_of(got[here.pairs], self._home, here.groups())
        del got  # these are the largest tensors of all
        in_order = torch.empty_like(results)
        in_order[here.pairs] = results
        del results
        combiner = Combiner(len(x), rows.top_k, self._shape.hidden, x.dtype, x.device)
        combiner.add(rows.pairs, self._exchange(in_order, take, give))
        return combiner.sum(routing.weights)
