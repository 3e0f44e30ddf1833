#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forward of one MoE layer in several ways, in one run: pure computation (all experts on every rank), Cardea (experts are
fetched while others compute), and all-to-all (tokens travel), once to each rank or once for each chosen expert.

    torchrun --nproc_per_node=2 examples/pytorch/layer_forward.py --shape qwen3-30b --tokens 4096,16384,65536
    examples/pytorch/layer_forward.py --ranks 2          # starts the ranks itself

On GPUs: bf16, grouped GEMMs, NCCL; one rank for each GPU. Elsewhere: float32, a loop over the experts, Gloo, small default sizes.
Every way is checked against a plain layer in float32. Times are medians of the slowest rank's; the ways take turns.
"""
from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, List

import torch
import torch.distributed as dist

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import cardea  # noqa: E402
from moe_layer import experts, launch, reference, report, routing, shapes, timing, ways  # noqa: E402

WAYS = ("pure", "cardea", "all-to-all", "per choice")


def parse(arguments: List[str]) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-30b" if gpu else "256:128:16:4",
                        help=f"comma-separated: {', '.join(shapes.SHAPES)}, or HIDDEN:INNER:EXPERTS:TOP_K (default %(default)s)")
    parser.add_argument("--tokens", default="4096,16384,65536" if gpu else "512", help="per rank, comma-separated (default %(default)s)")
    parser.add_argument("--routing", default="uniform", help="uniform, zipf[:EXPONENT], counts:FILE.csv[:ROW] (default %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated (default %(default)s)")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32", choices=["bfloat16", "float32"])
    parser.add_argument("--group", type=int, default=0, help="experts in one grouped GEMM, at most (default: as many as the slab holds, or half of it where it does not hold all)")
    parser.add_argument("--slots", type=int, default=0, help="rows of the slab (default: as many as 4 GiB hold, at least two)")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--check", type=int, default=256, help="tokens of each rank that are compared with the plain layer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--ranks", type=int, default=0, help="when no launcher started this: ranks to start (default: one for each GPU, else 2)")
    options = parser.parse_args(arguments)
    try:
        options.shapes = [shapes.find(name) for name in options.shape.split(",")]
        options.token_counts = [int(n) for n in options.tokens.split(",")]
        options.way_names = options.ways.split(",")
        if min(options.token_counts) < 1 or set(options.way_names) - set(WAYS):
            raise ValueError(f"--tokens takes numbers from 1, --ways some of {', '.join(WAYS)}")
        if min(options.warmup, options.group, options.slots) < 0 or min(options.repeats, options.check) < 1:
            raise ValueError("--warmup, --group and --slots take numbers from 0, --repeats and --check from 1")
    except ValueError as error:
        parser.error(str(error))
    return options


class Progress:
    """One line on a terminal, of rank 0."""

    def __init__(self, rank: int) -> None:
        self._shown = rank == 0 and sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        self("")


def make_ways(options: argparse.Namespace, context: cardea.Context, shape: shapes.Shape, stack: experts.Stack, layer_id: int) -> List[Any]:
    local = shape.experts // context.world_size
    first = context.rank * local
    home = {name: tensor[first : first + local] for name, tensor in stack.items()}
    away = max(1, shape.experts - local)
    fitting = (4 << 30) // shape.expert_bytes(stack["w13"].element_size())
    slots = min(options.slots or max(2 * options.group, 2, fitting), away)
    # Few launches; and where experts come into slots that others have left, half of them compute while half come.
    group = options.group or (slots if slots == away else max(1, slots // 2))
    makers = {
        "pure": lambda: ways.Replicated(shape, stack),
        "cardea": lambda: ways.Fetching(context, shape, home, slots, min(group, slots), layer_id),
        "all-to-all": lambda: ways.AllToAll(shape, home, once=True),
        "per choice": lambda: ways.AllToAll(shape, home, once=False),
    }
    return [makers[name]() for name in options.way_names]


def check(way: Any, x: torch.Tensor, choice: routing.Routing, wanted: torch.Tensor, sample: torch.Tensor) -> float:
    """The worst rank's relative error."""
    way.prepare()
    error = torch.tensor([reference.relative_error(way.forward(x, choice)[sample], wanted)], device=x.device)
    way.settle()
    dist.all_reduce(error, op=dist.ReduceOp.MAX)
    return float(error)


def run(options: argparse.Namespace, context: cardea.Context, device: torch.device) -> int:
    dtype = getattr(torch, options.dtype)
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    progress = Progress(context.rank)
    say = print if context.rank == 0 else lambda *_, **__: None
    records: List[Dict[str, Any]] = []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{context.world_size} ranks on {context.node_count} nodes, {name}, {options.dtype}, {options.routing} routing, "
        f"medians of {options.repeats}\n")
    for text in report.head():
        say(text, flush=True)
    for number, shape in enumerate(options.shapes):
        if shape.experts % context.world_size:
            raise SystemExit(f"{shape.experts} experts cannot be divided among {context.world_size} ranks")
        progress(f"{shape.name}: weights")
        stack = experts.draw_stack(shape, dtype, device, options.seed)
        made = make_ways(options, context, shape, stack, number)
        chances = routing.popularity(options.routing, shape, options.seed)
        for tokens in options.token_counts:
            generator = torch.Generator(device).manual_seed(options.seed + 1000 * (context.rank + 1))
            x = torch.randn(tokens, shape.hidden, generator=generator, device=device).to(dtype)
            choice = routing.draw(shape, tokens, chances, options.seed + 2000 * (context.rank + 1), device)
            sample = torch.randperm(tokens, generator=torch.Generator().manual_seed(options.seed))[: options.check].to(device)
            progress(f"{shape.name}, {tokens} tokens: checking")
            wanted = reference.plain(x[sample], routing.Routing(choice.experts[sample], choice.weights[sample]), stack)
            errors = {way.name: check(way, x, choice, wanted, sample) for way in made}
            times = timing.medians(made, x, choice, options.warmup, options.repeats,
                                   lambda text: progress(f"{shape.name}, {tokens} tokens: {text}"))  # noqa: B023
            records.append({"shape": shape.name, "tokens": tokens, "seconds": times, "error": errors,
                            "expert_bytes": shape.expert_bytes(x.element_size()), "flops": shape.flops(tokens),
                            "max_over_mean_load": routing.imbalance(chances)})
            progress.done()
            say(report.line(records[-1]), flush=True)
            del x, choice, wanted
        for way in made:
            getattr(way, "close", lambda: None)()
        del made, stack
        if device.type == "cuda":
            torch.cuda.empty_cache()
    worst = max(max(record["error"].values()) for record in records)
    say(f"\nerror: of {options.check} tokens of each rank against a plain layer in float32, largest {worst:.1e} (<= {limit:.0e})")
    if options.json and context.rank == 0:
        setting = {"ranks": context.world_size, "nodes": context.node_count, "device": name, "torch": torch.__version__, **{
            key: getattr(options, key) for key in ("dtype", "routing", "group", "slots", "repeats", "seed")}}
        report.write_json(options.json, setting, records)
    if not worst <= limit:
        say("FAILED: the outputs are not the plain layer's")
        return 1
    return 0


def main() -> int:
    options = parse(sys.argv[1:])
    if "RANK" not in os.environ:
        return launch.launch(__file__, options.ranks or torch.cuda.device_count() or 2, sys.argv[1:])
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        with cardea.Context.from_process_group() as context:
            return run(options, context, device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
