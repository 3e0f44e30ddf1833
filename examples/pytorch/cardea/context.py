# SPDX-License-Identifier: Apache-2.0
"""A rank in its job: how it joins, what it knows, and what it makes."""
from __future__ import annotations

import ctypes
import dataclasses
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch

from . import _c
from ._c import Bootstrap, Class, Path, Status
from ._handles import Resource, Root, nanoseconds
from ._library import library
from .errors import call, error_of
from .layer import Group
from .memory import DeviceLike, Memory, Slab, allocate, create_slab, register, slab_over
from .tensors import Segment

#: Gives every rank's bytes, in rank order, for this rank's.
Exchange = Callable[[bytes], Sequence[bytes]]


@dataclasses.dataclass(frozen=True)
class VersionInfo:
    """What the library is and what it found; what is absent is an empty string."""

    major: int
    minor: int
    patch: int
    abi: int
    wire: int
    ucx: str
    hwloc: str
    cuda: str
    cuda_driver: str
    nccl: str


def version() -> VersionInfo:
    info = _c.init(_c.VersionInfo)
    call("cardea_version", ctypes.byref(info))
    values: Dict[str, Any] = {field.name: getattr(info, field.name) for field in dataclasses.fields(VersionInfo)}
    decoded: Dict[str, Any] = {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}
    return VersionInfo(**decoded)


def unique_id(address: Optional[str] = None) -> bytes:
    """Names a job and opens its meeting point in this process; hand the bytes to all ranks. They hold the job's secret."""
    made = _c.UniqueId()
    call("cardea_unique_id_create", address.encode() if address is not None else None, ctypes.byref(made))
    return bytes(made.bytes)


@dataclasses.dataclass(frozen=True)
class RankInfo:
    rank: int
    node: int
    alive: bool
    host: str
    transport: str  # "self", "shm" or "ucx"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Chunks that this rank has moved on one lane, in one class, by one path."""

    lane: str
    urgency: Class
    path: Path
    chunks_started: int
    chunks_done: int
    chunks_failed: int
    bytes: int
    nanoseconds: int  # on the way, summed: they overlap


class Context:
    """This rank in its job. ``Context()`` joins the job that the environment describes: cardea-run's, torchrun's, Open MPI's
    or Slurm's; the class methods join in other ways. All wait for the other ranks, up to `setup_timeout`.

    Options of all of them: `node_id` (lets one machine play several nodes), `setup_timeout` (seconds), `chunk_bytes`,
    `chunks_in_flight`, `cache_bytes` (0: no node cache), `prefetch_bytes`, `cuda_device` (this rank's GPU; default: the
    current one when device memory is used first); None takes the environment's or the default.

    Closing it (or leaving its ``with`` block) leaves the job and closes all that was made of it. Memory of Cardea that a
    tensor still shows stays until that tensor goes, and with it the context.
    """

    def __init__(self, **options: Any) -> None:
        config = _c.init(_c.Config)
        self._join(config, options)

    @classmethod
    def from_unique_id(cls, job: bytes, rank: int, world_size: int, **options: Any) -> "Context":
        """Joins the job of a unique_id()."""
        made = _c.UniqueId()
        if len(job) != len(made.bytes):
            raise ValueError(f"a unique id has {len(made.bytes)} bytes, not {len(job)}")
        made.bytes[:] = job
        config = _c.init(_c.Config)
        config.bootstrap = Bootstrap.UNIQUE_ID
        config.unique_id = ctypes.pointer(made)
        config.rank, config.world_size = rank, world_size
        return cls.__new__(cls)._join(config, options)

    @classmethod
    def from_exchange(cls, exchange: Exchange, rank: int, world_size: int, **options: Any) -> "Context":
        """Joins through a collective exchange of the caller's, which is trusted: it carries the job's secret."""
        failure: List[BaseException] = []

        def give_and_take(_: object, mine: int, size: int, everybodys: int) -> int:
            try:
                parts = exchange(ctypes.string_at(mine, size))
                if len(parts) != world_size or any(len(part) != size for part in parts):
                    raise ValueError(f"the exchange must give {world_size} times {size} bytes")
                ctypes.memmove(everybodys, b"".join(parts), size * world_size)
                return 0
            except BaseException as error:  # noqa: BLE001  (must not cross the C interface; raised below)
                failure.append(error)
                return 1

        config = _c.init(_c.Config)
        config.bootstrap = Bootstrap.EXCHANGE
        config.exchange = _c.EXCHANGE_FN(give_and_take)
        config.rank, config.world_size = rank, world_size
        try:
            return cls.__new__(cls)._join(config, options)
        except RuntimeError as error:
            if failure:
                raise error from failure[0]
            raise

    @classmethod
    def from_process_group(cls, group: Any = None, **options: Any) -> "Context":
        """Joins with the ranks of a torch.distributed process group (default: the default one), through its collectives: by
        NCCL the bytes travel on the current CUDA device. Rank r of the group is rank r of the job."""
        import torch.distributed as dist

        backend = dist.get_backend(group)
        device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
        size = dist.get_world_size(group)

        def exchange(mine: bytes) -> List[bytes]:
            own = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(device)
            every = [torch.empty_like(own) for _ in range(size)]
            dist.all_gather(every, own, group=group)  # type: ignore[no-untyped-call]
            return [bytes(part.cpu().numpy()) for part in every]

        return cls.from_exchange(exchange, dist.get_rank(group), size, **options)

    @classmethod
    def from_store(cls, store: Any, rank: int, world_size: int, prefix: str = "cardea", **options: Any) -> "Context":
        """Joins through a torch.distributed store (TCPStore, FileStore, …). Every job that meets in one store needs a prefix of
        its own."""
        round_ = 0

        def exchange(mine: bytes) -> List[bytes]:
            nonlocal round_
            store.set(f"{prefix}/{round_}/{rank}", mine)
            every = [bytes(store.get(f"{prefix}/{round_}/{r}")) for r in range(world_size)]
            round_ += 1
            return every

        return cls.from_exchange(exchange, rank, world_size, **options)

    def _join(self, config: _c.Config, options: Dict[str, Any]) -> "Context":
        known = ("node_id", "setup_timeout", "chunk_bytes", "chunks_in_flight", "cache_bytes", "prefetch_bytes", "cuda_device")
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise TypeError(f"unknown options {unknown}; there are {known}")
        given = {name: value for name, value in options.items() if value is not None}
        if "node_id" in given:
            config.node_id = given["node_id"].encode()
        if "setup_timeout" in given:
            config.setup_timeout = max(1, nanoseconds(given["setup_timeout"]))
        if "cache_bytes" in given:
            config.cache_bytes = given["cache_bytes"] or _c.NO_CACHE
        if "cuda_device" in given:
            config.cuda_device = given["cuda_device"]
        for name in ("chunk_bytes", "chunks_in_flight", "prefetch_bytes"):
            setattr(config, name, given.get(name, 0))
        handle = _c.Context()
        call("cardea_context_create", ctypes.byref(config), ctypes.byref(handle))
        self._resource: Optional[Root] = Root(handle, "cardea_context_destroy")
        info = _c.init(_c.ContextInfo)
        call("cardea_context_query", handle, ctypes.byref(info))
        self.rank: int = info.rank
        self.world_size: int = info.world_size
        self.node: int = info.node
        self.node_count: int = info.node_count
        self.node_rank: int = info.node_rank
        self.node_size: int = info.node_size
        return self

    @property
    def _root(self) -> Root:
        if self._resource is None:
            raise error_of("Context", Status.ERR_INVALID_HANDLE)
        return self._resource

    # ------------------------------------------------------------ what it makes

    def group(self, ranks: Optional[Sequence[int]] = None) -> Group:
        """Of these ranks, in this order, this one among them; None: of all. Every member calls it with the same list."""
        count = 0 if ranks is None else len(ranks)
        array = None if ranks is None else (ctypes.c_uint32 * count)(*ranks)
        if ranks is not None and count == 0:
            raise ValueError("a group has members")
        handle = _c.Group()
        call("cardea_group_create", self._root.handle, array, count, ctypes.byref(handle))
        return Group(Resource(handle, "cardea_group_destroy", (self._root,)), self._root)

    def allocate(self, size: int, device: DeviceLike = "cpu") -> Memory:
        """Zeroed memory that other ranks of the node map: experts that lie in it reach them without a copy."""
        return allocate(self._root, size, device)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: DeviceLike = "cpu") -> torch.Tensor:
        """A zeroed tensor in memory of its own that other ranks of the node map; freed with the last tensor over it."""
        size = torch.empty(0, dtype=dtype).element_size()
        for extent in shape:
            size *= extent
        return allocate(self._root, size, device).tensor(shape, dtype)

    def register(self, tensor: torch.Tensor) -> Memory:
        """Makes a contiguous tensor's bytes known, which spares layers in it one registration each. Keeps the tensor."""
        return register(self._root, tensor)

    def wait_unmapped(self, tensor: torch.Tensor, timeout: Optional[float] = None) -> None:
        """Waits until no other rank maps memory that a tensor on this rank's GPU lies in, so that it may be given back to CUDA:
        when the layers in it were closed, and what was registered of it. TimedOutError after `timeout` seconds, naming a rank
        that still has it; BusyError while this rank itself uses it."""
        storage = tensor.untyped_storage()
        left = nanoseconds(timeout)
        while storage.nbytes() != 0:  # in pieces, so that Ctrl-C reaches Python
            piece = max(1, min(left, 100_000_000))
            status = library().cardea_memory_wait_unmapped(self._root.handle, storage.data_ptr(), storage.nbytes(), piece)
            if status == Status.OK:
                return
            if timeout is not None:
                left -= piece
            if status != Status.ERR_TIMEOUT or left <= 0:
                raise error_of("cardea_memory_wait_unmapped", status)

    def slab(self, segments: Sequence[Segment], slots: int, device: DeviceLike = "cpu") -> Slab:
        """Landing memory made by Cardea, for every layer with these segments."""
        return create_slab(self._root, segments, slots, device)

    def slab_over(self, tensors: Mapping[str, torch.Tensor], first_slot: int = 0, slots: Optional[int] = None) -> Slab:
        """Landing memory in tensors ``[rows, …]`` of the caller's, one for each segment. Rows from `first_slot` on are Cardea's
        until the slab is gone; rows before it may hold experts at home, so that ``[E_local + slots, …]`` feeds one grouped
        GEMM."""
        return slab_over(self._root, tensors, first_slot, slots)

    # ------------------------------------------------------------ what it knows

    def ranks(self) -> List[RankInfo]:
        found: List[RankInfo] = []
        for rank in range(self.world_size):
            info = _c.init(_c.RankInfo)
            call("cardea_rank_query", self._root.handle, rank, ctypes.byref(info))
            found.append(RankInfo(rank, info.node, bool(info.alive), info.host.decode(), info.transport.decode()))
        return found

    def counters(self) -> Dict[str, int]:
        """Of this rank since it joined; see cardea_counters_t."""
        info = _c.init(_c.Counters)
        call("cardea_counters_query", self._root.handle, ctypes.byref(info))
        return _c.numbers(info)

    def traffic(self) -> List[Traffic]:
        """Of each lane, class and path that has carried anything since this rank joined."""
        count = ctypes.c_uint32()
        while True:
            rows = (_c.Traffic * (count.value + 8))()  # more may come meanwhile
            for row in rows:
                row.size = ctypes.sizeof(_c.Traffic)
            call("cardea_traffic_query", self._root.handle, rows, len(rows), ctypes.byref(count))
            if count.value <= len(rows):
                break
        numbers = ("chunks_started", "chunks_done", "chunks_failed", "bytes", "nanoseconds")
        return [
            Traffic(row.lane.decode(), Class(row.urgency), Path(row.path), *(getattr(row, name) for name in numbers))
            for row in rows[: count.value]
        ]

    def metrics(self) -> str:
        """All counters in Prometheus's text format, to be served as they are."""
        return self._text("cardea_metrics_text")

    def dump(self, reason: str = "") -> str:
        """What this rank waits for now, which rank is at fault, and what happened last."""
        return self._text("cardea_dump_text", reason.encode())

    def _text(self, name: str, *arguments: Any) -> str:
        needed = ctypes.c_size_t(4096)
        while True:
            text = ctypes.create_string_buffer(needed.value + 1024)  # it may grow meanwhile
            call(name, self._root.handle, *arguments, text, len(text), ctypes.byref(needed))
            if needed.value <= len(text):
                return text.value.decode()

    def fileno(self) -> int:
        """A descriptor that polls readable when an expert became ready, a collect completed or a peer was lost since the last
        clear_events(); for select and asyncio's add_reader. Not to be read or closed."""
        descriptor = ctypes.c_int(-1)
        call("cardea_event_descriptor", self._root.handle, ctypes.byref(descriptor))
        return descriptor.value

    def clear_events(self) -> None:
        """Call this first, then look at what is ready: nothing is missed in this order."""
        call("cardea_event_clear", self._root.handle)

    # ------------------------------------------------------------ how it ends

    def abort(self) -> None:
        """Makes every waiting call and open fetch of the context end with CanceledError. Never waits."""
        call("cardea_context_abort", self._root.handle)

    def close(self) -> None:
        """Leaves the job; see the class. May be called twice."""
        if self._resource is None:
            return
        resource, self._resource = self._resource, None
        resource.leave()

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = ", closed" if self._resource is None else ""
        return f"Context(rank {self.rank} of {self.world_size}, node {self.node} of {self.node_count}{closed})"
