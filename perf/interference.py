#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What moving experts between two GPUs costs the computation beside it, and the other way round: a loop of matrix products and a
memory-bound loop, each alone, beside Cardea's pulls, and beside NCCL's send and receive; both GPUs do both at once.

    perf/interference.py            # two GPUs of this machine; needs torch, and NCCL in it

A loop's time is between two events on its stream. The mover's rate counts the transfers that were done before the loop was, against the
rate of as many transfers with nothing beside them. The slower rank's figures; medians of the repeats. What came is compared.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from typing import Any, Callable, Dict, List, Tuple

import torch
import torch.distributed as dist

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples", "pytorch"))

import cardea  # noqa: E402
from moe_layer import launch  # noqa: E402

SKIPPED = 77


class Pulls:
    """Cardea: transfers of `experts` experts, the other rank's first and second half in turns, by fetches on a stream."""

    name = "cardea"

    def __init__(self, job: cardea.Context, experts: int, size: int) -> None:
        self._experts, self._rank = experts, job.rank
        device = torch.device("cuda", torch.cuda.current_device())
        home = torch.randint(0, 256, (2 * experts, size), dtype=torch.uint8, device=device,
                             generator=torch.Generator(device).manual_seed(job.rank))
        self._slots = torch.full((experts, size), 0xA5, dtype=torch.uint8, device=device)
        self._slab = job.slab_over({"expert": self._slots})
        self._layer = job.group().layer(0, {"expert": home}, slab=self._slab)
        self._layer.publish(1)
        self._theirs = torch.randint(0, 256, (2 * experts, size), dtype=torch.uint8, device=device,
                                     generator=torch.Generator(device).manual_seed(1 - job.rank))
        self._half = 0
        self.wrong = 0
        self.bytes = experts * size
        torch.cuda.synchronize()
        dist.barrier()

    def transfer(self) -> Dict[int, int]:
        """Queues one on the current stream. Expert → slot."""
        self._half = 1 - self._half
        first = (1 - self._rank) * 2 * self._experts + self._half * self._experts
        placed: Dict[int, int] = {}
        with self._layer.fetch(1, range(first, first + self._experts), slots=True) as fetch:
            while True:
                views = fetch.ready(max=self._experts)
                if not views:
                    return placed
                for view in views:
                    view.check()
                    placed[view.expert - (1 - self._rank) * 2 * self._experts] = view.slot
                cardea.release(views)

    def check(self) -> None:
        self._slots.fill_(0xA5)
        torch.cuda.synchronize()
        for expert, slot in self.transfer().items():
            torch.cuda.synchronize()
            self.wrong += int((self._slots[slot] != self._theirs[expert]).sum())

    def close(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()
        self._layer.close()


class SendReceive:
    """NCCL, both ways at once, through torch.distributed, whose own cost is small beside messages of this size."""

    name = "nccl"

    def __init__(self, rank: int, size: int) -> None:
        device = torch.device("cuda", torch.cuda.current_device())
        generate = lambda seed: torch.randint(0, 256, (size,), dtype=torch.uint8, device=device,  # noqa: E731
                                              generator=torch.Generator(device).manual_seed(100 + seed))
        self._mine, self._theirs, self._got = generate(rank), generate(1 - rank), torch.empty(size, dtype=torch.uint8, device=device)
        self._peer = 1 - rank
        self.bytes = size
        self.wrong = 0

    def transfer(self) -> None:
        works = dist.batch_isend_irecv([dist.P2POp(dist.isend, self._mine, self._peer), dist.P2POp(dist.irecv, self._got, self._peer)])
        for work in works:
            work.wait()  # the current stream waits

    def check(self) -> None:
        self._got.fill_(0xA5)
        self.transfer()
        torch.cuda.synchronize()
        self.wrong += int((self._got != self._theirs).sum())

    def close(self) -> None:
        pass


def loops(device: torch.device) -> List[Tuple[str, Callable[[], None]]]:
    """About 30 ms each on today's GPUs."""
    n = 8192
    a, b, c = (torch.randn(n, n, device=device).bfloat16() for _ in range(3))

    def gemm() -> None:
        for _ in range(20):
            torch.mm(a, b, out=c)

    x, y, z = (torch.randn(256 << 20, device=device) for _ in range(3))

    def memory() -> None:
        for _ in range(24):
            torch.add(x, y, out=z)

    return [("GEMM, 8192 cubed, bf16", gemm), ("memory, z = x + y, 1 GiB each", memory)]


def alone(loop: Callable[[], None]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    begin.record()
    loop()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e-3


def transfers(mover: Any, count: int, side: torch.cuda.Stream) -> List[torch.cuda.Event]:
    """Queues `count` on the side stream, at most three ahead of the GPU; events: the start, and the end of each."""
    events = [torch.cuda.Event(enable_timing=True)]
    with torch.cuda.stream(side):
        events[0].record()
        for i in range(count):
            if i >= 3:
                events[i - 2].synchronize()
            mover.transfer()
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()
    return events


def lone_rate(mover: Any, count: int, side: torch.cuda.Stream) -> float:
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    events = transfers(mover, count, side)
    torch.cuda.synchronize()
    return mover.bytes * count / (events[0].elapsed_time(events[-1]) * 1e-3)


def beside(loop: Callable[[], None], mover: Any, count: int, side: torch.cuda.Stream) -> Tuple[float, float]:
    """Seconds of the loop, and bytes per second of the transfers that ended before it did."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    begin.record()
    loop()
    end.record()
    events = transfers(mover, count, side)
    torch.cuda.synchronize()
    ended = [event for event in events[1:] if event.elapsed_time(end) >= 0]
    if len(ended) == count:
        raise RuntimeError(f"{count} transfers were over before the loop was: not all of it had company")
    if not ended:
        return begin.elapsed_time(end) * 1e-3, 0.0
    return begin.elapsed_time(end) * 1e-3, mover.bytes * len(ended) / (events[0].elapsed_time(ended[-1]) * 1e-3)


def worst(values: List[float], slowest: "dist.ReduceOp") -> float:
    """The slower rank's, and of these the median."""
    both = torch.tensor(values, dtype=torch.float64, device="cuda")
    dist.all_reduce(both, op=slowest)
    return statistics.median(both.tolist())


def run(options: argparse.Namespace) -> int:
    rank = dist.get_rank()
    device = torch.device("cuda", torch.cuda.current_device())
    say = print if rank == 0 else lambda *_, **__: None
    with cardea.Context.from_process_group() as job:
        movers = [Pulls(job, options.experts, options.bytes), SendReceive(rank, options.experts * options.bytes)]
        side = torch.cuda.Stream()
        rates: Dict[str, float] = {}
        for mover in movers:
            mover.check()
            lone_rate(mover, 4, side)
            rates[mover.name] = worst([lone_rate(mover, 16, side) for _ in range(options.repeats)], dist.ReduceOp.MIN)
        say(f"two ranks on {torch.cuda.get_device_name(device)}, both ways at once, transfers of {options.experts} experts of "
            f"{options.bytes} bytes; medians of {options.repeats}\n")
        say(f"{'loop':<32} {'beside':<8} {'loop':>9} {'of alone':>9} {'moved':>8} {'alone':>8} {'of alone':>9}")
        say(f"{'':<32} {'':<8} {'ms':>9} {'':>9} {'GB/s':>8} {'GB/s':>8} {'':>9}")
        records: List[Dict[str, Any]] = []
        for name, loop in loops(device):
            for _ in range(2):
                alone(loop)
            by_itself = worst([alone(loop) for _ in range(options.repeats)], dist.ReduceOp.MAX)
            say(f"{name:<32} {'nothing':<8} {by_itself * 1e3:9.3f} {1:9.3f}", flush=True)
            for mover in movers:
                # Enough to outlast the loop, even one that is twice as slow.
                count = int(3 * by_itself * rates[mover.name] / mover.bytes) + 4
                both = [beside(loop, mover, count, side) for _ in range(options.repeats)]
                seconds = worst([s for s, _ in both], dist.ReduceOp.MAX)
                rate = worst([r for _, r in both], dist.ReduceOp.MIN)
                say(f"{name:<32} {mover.name:<8} {seconds * 1e3:9.3f} {seconds / by_itself:9.3f} {rate / 1e9:8.1f} "
                    f"{rates[mover.name] / 1e9:8.1f} {rate / rates[mover.name]:9.3f}", flush=True)
                records.append({"loop": name, "beside": mover.name, "seconds": seconds, "seconds_alone": by_itself, "rate": rate,
                                "rate_alone": rates[mover.name]})
        for mover in movers:
            mover.check()
        wrong = torch.tensor([mover.wrong for mover in movers], device=device)
        dist.all_reduce(wrong)
        say(f"\nbytes that are wrong: {', '.join(f'{m.name} {n}' for m, n in zip(movers, wrong.tolist()))}")
        if options.json and rank == 0:
            with open(options.json, "w") as file:
                json.dump(records, file, indent=1)
        for mover in movers:
            mover.close()
    return 1 if int(wrong.sum()) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=64, help="in one transfer (default %(default)s)")
    parser.add_argument("--bytes", type=int, default=9437184, help="of an expert (default %(default)s, one of Qwen3-30B-A3B)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if torch.cuda.device_count() < 2:
        print("skipped: two GPUs are needed")
        return SKIPPED
    if "RANK" not in os.environ:
        return launch.launch(__file__, 2, sys.argv[1:])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    try:
        return run(options)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
