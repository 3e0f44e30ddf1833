# SPDX-License-Identifier: Apache-2.0
"""Runs a function as several ranks, each a forked process with a job of its own, for tests of the PyTorch package.

Forked, so that torch is loaded once; the parent must not have computed with torch, since OpenMP's threads do not survive a
fork. A rank that raises, dies or takes more than LIMIT seconds fails the test with what all ranks printed.
"""
import faulthandler
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
import typing

import torch
import torch.distributed as dist

import cardea

LIMIT = 240  # seconds; generous, since machines are busy


def context(rank: int, world: int, store: dist.Store, nodes: int = 1, **options: typing.Any) -> cardea.Context:
    """Joins the test's job; consecutive ranks share a node."""
    return cardea.Context.from_store(store, rank, world, node_id=f"node {rank * nodes // world}", **options)


def run(world: int, body: typing.Callable[[int, dist.Store], None], expected: typing.Optional[typing.Dict[int, int]] = None) -> None:
    """body(rank, store) in each of `world` processes. `expected`: rank → exit status (or -signal) if not 0."""
    with tempfile.TemporaryDirectory() as directory:
        processes = [_start(rank, world, body, directory) for rank in range(world)]
        until = time.monotonic() + LIMIT
        status: typing.Dict[int, int] = {}
        wanted = {rank: (expected or {}).get(rank, 0) for rank in range(world)}
        while len(status) < world and time.monotonic() < until:
            for rank, pid in enumerate(processes):
                if rank not in status:
                    done, code = os.waitpid(pid, os.WNOHANG)
                    if done:
                        status[rank] = os.waitstatus_to_exitcode(code)
                        if status[rank] != wanted[rank]:
                            until = min(until, time.monotonic() + 5)  # the others may wait for it in vain
            time.sleep(0.005)
        for rank, pid in enumerate(processes):
            if rank not in status:
                os.kill(pid, signal.SIGABRT)  # its stacks are in the output
                os.waitpid(pid, 0)
        if status != wanted:
            printed = "".join(f"--- rank {r}\n" + pathlib.Path(directory, f"{r}.out").read_text() for r in range(world))
            raise AssertionError(f"ranks ended with {status}, not {wanted}; one that is missing did not end\n{printed}")


def _start(rank: int, world: int, body: typing.Callable[[int, dist.Store], None], directory: str) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        out = os.open(f"{directory}/{rank}.out", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        faulthandler.enable()
        torch.set_num_threads(1)
        body(rank, dist.FileStore(f"{directory}/store", world))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def barrier(store: dist.Store, name: str, world: int) -> None:
    """All ranks have come to this place."""
    count = store.add(name, 1)
    while count < world:
        time.sleep(0.002)
        count = store.add(name, 0)


os.environ.setdefault("UCX_TLS", "tcp,self")  # nodes that one machine plays
