# SPDX-License-Identifier: Apache-2.0
"""Starts a program again as the ranks of a job on this machine, with torchrun's variables, where no launcher did."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Sequence


def launch(program: str, ranks: int, arguments: Sequence[str]) -> int:
    """The exit status of the first rank that failed, upon which the others are ended; else 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, os.path.abspath(program), *arguments],
            env={**os.environ, **job, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    failed = 0
    try:
        while not failed and any(process.poll() is None for process in started):
            time.sleep(0.05)
            failed = next((process.returncode for process in started if process.returncode), 0)
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        codes = [process.wait() for process in started]
    failed = failed or next((code for code in codes if code), 0)
    return failed if failed >= 0 else 128 - failed  # of a signal, as shells have it
