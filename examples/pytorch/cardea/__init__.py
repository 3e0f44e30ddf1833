# SPDX-License-Identifier: Apache-2.0
"""Cardea for PyTorch: tokens stay, expert weights come.

Every rank keeps its tokens and fetches the weights of the experts that they chose, as tensors::

    import cardea, torch

    with cardea.Context() as job:                       # under torchrun; or Context.from_process_group()
        group = job.group()
        slab = job.slab_over({"w13": ..., "w2": ...})   # [slots, …] tensors in which experts of other ranks land
        layer = group.layer(0, {"w13": w13, "w2": w2}, slab=slab)  # this rank's experts: [E_local, …]
        layer.publish(1)
        for expert in layer.fetch(1, chosen):           # as they become ready
            y[rows[expert.expert]] += mlp(x[rows[expert.expert]], expert["w13"], expert["w2"])
        layer.finish(1)
        layer.collect(1)                                # the weights may be updated, and published as version 2

The package is a face of the C interface (cardea.h) by ctypes: nothing is compiled against torch. What a call does and every
error with its cause is documented there; README.md beside this package says how the two fit together.

Threads: as in C, any thread may call anything. Durations are seconds, None waits for as long as it takes. Failures are
exceptions of CardeaError's family, which carry peer, layer, expert and path.
"""
from . import errors
from ._c import Class, Dtype, MemoryKind, Path, Status
from .context import Context, RankInfo, Traffic, VersionInfo, unique_id, version
from .errors import (
    AuthenticationError,
    BusyError,
    CanceledError,
    CardeaError,
    ConfigurationError,
    DeviceError,
    ExpelledError,
    ForkedError,
    InternalError,
    InvalidArgumentError,
    InvalidHandleError,
    LimitError,
    MismatchError,
    NoMemoryError,
    PeerLostError,
    ProtocolError,
    ReleasedError,
    StaleError,
    SystemCallError,
    TimedOutError,
    TransportError,
    UnsupportedError,
    WouldDeadlockError,
)
from .fetch import Fetch, View, release
from .layer import DeviceTable, ExpertInfo, Group, Layer, TableEntry
from .memory import Memory, Slab
from .tensors import ExpertTensor, Segment

__all__ = [
    "AuthenticationError", "BusyError", "CanceledError", "CardeaError", "Class", "ConfigurationError", "Context", "DeviceError", "DeviceTable", "Dtype",
    "ExpelledError", "ExpertInfo", "ExpertTensor", "Fetch", "ForkedError", "Group", "InternalError", "InvalidArgumentError",
    "InvalidHandleError", "Layer", "LimitError", "Memory", "MemoryKind", "MismatchError", "NoMemoryError", "Path",
    "PeerLostError", "ProtocolError", "RankInfo", "ReleasedError", "Segment", "Slab", "StaleError", "Status",
    "SystemCallError", "TableEntry", "TimedOutError", "Traffic", "TransportError", "UnsupportedError", "VersionInfo", "View",
    "WouldDeadlockError", "errors", "release", "unique_id", "version",
]  # fmt: skip
