# SPDX-License-Identifier: Apache-2.0
"""Times of a step that all ranks take together: by CUDA events on a GPU, by the clock elsewhere."""
from __future__ import annotations

import statistics
import time
from typing import Callable, Dict, List, Sequence

import torch
import torch.distributed as dist

from .routing import Routing


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Of one step, from an idle device to the end of its work, waits of the host included."""
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    torch.cuda.synchronize(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3


def medians(
    ways: Sequence[object], x: torch.Tensor, routing: Routing, warmup: int, repeats: int, progress: Callable[[str], None]
) -> Dict[str, float]:
    """Seconds of each way's forward: the slowest rank's of each repeat, and of these the median. The ways take turns, so that a
    machine that drifts drifts under all of them. Ranks begin together."""
    taken: Dict[str, List[float]] = {way.name: [] for way in ways}  # type: ignore[attr-defined]
    for repeat in range(-warmup, repeats):
        progress(f"warm-up {repeat + warmup + 1} of {warmup}" if repeat < 0 else f"repeat {repeat + 1} of {repeats}")
        for way in ways:
            way.prepare()  # type: ignore[attr-defined]
            dist.barrier()
            seconds = seconds_of(lambda: way.forward(x, routing), x.device)  # type: ignore[attr-defined]  # noqa: B023
            way.settle()  # type: ignore[attr-defined]
            if repeat >= 0:
                taken[way.name].append(seconds)  # type: ignore[attr-defined]
    slowest = torch.tensor(list(taken.values()), dtype=torch.float64).to(x.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return {name: statistics.median(times) for name, times in zip(taken, slowest.tolist())}
