# SPDX-License-Identifier: Apache-2.0
"""Torch's CUDA streams as the C interface takes them.

Cardea orders its work by a stream when it is given one; null means that it is not. Torch's default stream has the number 0,
which Cardea knows by a handle of its own.
"""
from __future__ import annotations

from typing import Optional, Union

import torch

from . import _c

#: Where a function takes a stream: "current" for torch's current one (on memory of the CPU: none), None for none at all.
StreamLike = Union[str, None, "torch.cuda.Stream"]


def stream_handle(stream: StreamLike, device: torch.device) -> Optional[int]:
    if device.type != "cuda":
        if stream not in (None, "current"):
            raise ValueError("a stream was given for experts in host memory")
        return None
    if stream is None:
        return None
    if isinstance(stream, str):
        if stream != "current":
            raise ValueError(f'stream is "current", None or a torch.cuda.Stream, not {stream!r}')
        stream = torch.cuda.current_stream(device)
    return stream.cuda_stream or _c.STREAM_DEFAULT
