# SPDX-License-Identifier: Apache-2.0
"""Groups of ranks, and the MoE layers that belong to them."""
from __future__ import annotations

import ctypes
import dataclasses
from typing import List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch

from . import _c
from ._c import FetchFlags, Path, Status
from ._handles import Resource, Root, nanoseconds
from ._library import library
from .errors import call, error_of
from .fetch import Fetch
from .memory import Slab, device_of, on_device, stacks
from .streams import StreamLike, stream_handle
from .tensors import Segment, segment_of, tensor_at, to_c

#: A segment of the local experts: stacked ``[E_local, …]``, or a tensor for each expert.
Experts = Union[torch.Tensor, Sequence[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class ExpertInfo:
    home: int
    source: int  # rank that a fetch would take it from now
    path: Path  # by which path it would come
    published: Optional[int]  # newest version its source has published


@dataclasses.dataclass(frozen=True)
class TableEntry:
    version: Optional[int]  # None while the entry is empty
    slot: Optional[int]  # row of the slab
    addresses: Tuple[int, ...]  # of the segments; empty while the entry is


@dataclasses.dataclass(frozen=True)
class DeviceTable:
    """The expert table as kernels read it, in memory of the layer's, which ends with the layer: see Layer.device_table."""

    slots: torch.Tensor  # int32 [experts]: row of the slab, -1 where there is none
    versions: torch.Tensor  # int64 [experts]: -1 while the entry is empty
    addresses: torch.Tensor  # int64 [experts, segments]: 0 while the entry is empty


class Group:
    """An ordered set of ranks, such as an expert-parallel group; made by Context.group."""

    def __init__(self, resource: Resource, context: Root) -> None:
        self._resource = resource
        self._context = context
        info = _c.init(_c.GroupInfo)
        call("cardea_group_query", resource.handle, ctypes.byref(info))
        self.count: int = info.count
        self.index: int = info.index  # this rank's place among the members

    def layer(
        self,
        layer_id: int,
        tensors: Optional[Mapping[str, Experts]] = None,
        *,
        segments: Optional[Sequence[Segment]] = None,
        num_experts: Optional[int] = None,
        local_experts: Optional[Sequence[int]] = None,
        local_is_home: Optional[Sequence[bool]] = None,
        slab: Optional[Slab] = None,
    ) -> "Layer":
        """Declares an MoE layer. Collective: every member calls it, several layers in the same order.

        tensors        this rank's experts: segment name → stacked tensor ``[E_local, …]`` or one tensor for each expert. They
                       stay where they are and the caller's; the layer keeps references to them
        segments       the shape, for a rank that has no experts (or to give alignments); else taken from the tensors
        local_experts  which experts they are; default: with E_local on each of n members, member i has i·E_local and following
        num_experts    E over the whole group; default: E_local times the members
        local_is_home  whether this rank is the home of each; default: of all
        slab           where fetches land that name none

        Raises MismatchError (members disagree; rank and field are named), TimedOutError, BusyError (layer_id in use), …
        """
        desc = _c.init(_c.LayerDesc)
        shape: Tuple[Segment, ...]
        memory: List[torch.Tensor] = []
        if tensors:
            found, placements, device, num_local = _place(tensors, memory)
            shape = tuple(segments) if segments is not None else tuple(found)
            if [(s.name, s.shape, s.dtype) for s in shape] != [(s.name, s.shape, s.dtype) for s in found]:
                raise ValueError(f"tensors have the segments {found}, not {list(shape)}")
            desc.placements = placements
        elif segments is not None:
            shape, num_local = tuple(segments), 0
            device = slab.device if slab is not None else torch.device("cpu")
        else:
            raise ValueError("a rank without experts must give segments")
        if local_experts is None:
            local_experts = range(self.index * num_local, (self.index + 1) * num_local)
        if num_experts is None:
            if num_local == 0:
                raise ValueError("a rank without experts must give num_experts")
            num_experts = num_local * self.count
        if len(local_experts) != num_local or (local_is_home is not None and len(local_is_home) != num_local):
            raise ValueError(f"{num_local} experts were given, but {len(local_experts)} indices or another number of flags")
        desc.layer_id = layer_id
        desc.num_experts = num_experts
        desc.segments = to_c(shape)
        desc.num_segments = len(shape)
        desc.num_local = num_local
        if num_local:
            desc.local_experts = (ctypes.c_uint32 * num_local)(*local_experts)
            if local_is_home is not None:
                desc.local_is_home = (ctypes.c_uint8 * num_local)(*(bool(home) for home in local_is_home))
        parents: Tuple[Resource, ...] = (self._context, self._resource)
        if slab is not None:
            if slab._resource is None:
                raise ValueError("the slab was closed")
            desc.slab = slab._handle
            parents += (slab._resource,)
        handle = _c.Layer()
        with on_device(device):
            call("cardea_layer_create", self._resource.handle, ctypes.byref(desc), ctypes.byref(handle))
        return Layer(Resource(handle, "cardea_layer_destroy", parents, memory), layer_id, num_experts, shape, device, slab)

    def close(self) -> None:
        """BusyError while it has layers."""
        self._resource.close()

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _place(
    tensors: Mapping[str, Experts], memory: List[torch.Tensor]
) -> "Tuple[List[Segment], ctypes.Array[_c.Placement], torch.device, int]":
    """Segments, placements, device and number of the local experts; what must be kept alive goes to `memory`."""
    if all(isinstance(given, torch.Tensor) for given in tensors.values()):
        stacked = {name: given.detach() for name, given in tensors.items()}  # type: ignore[union-attr]
        memory += stacked.values()
        found, placements, device = stacks(stacked)
        return found, placements, device, next(iter(stacked.values())).shape[0]
    segments: List[Segment] = []
    array = (_c.Placement * len(tensors))()
    devices: Set[torch.device] = set()
    counts: Set[int] = set()
    for placement, (name, given) in zip(array, tensors.items()):
        parts = [part.detach() for part in given]  # a stacked tensor gives its rows
        counts.add(len(parts))
        if not parts or any(part.shape != parts[0].shape or part.dtype != parts[0].dtype for part in parts):
            raise ValueError(f"segment {name}: the experts' parts differ in shape or dtype, or there are none")
        if not all(part.is_contiguous() for part in parts):
            raise ValueError(f"segment {name}: an expert's part must be contiguous")
        devices.update(part.device for part in parts)
        segments.append(segment_of(name, parts[0].shape, parts[0].dtype))
        pointers = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
        placement.size = ctypes.sizeof(_c.Placement)
        placement.pointers = pointers  # ctypes keeps the array with the struct
        memory += parts
    if len(devices) != 1 or len(counts) != 1:
        raise ValueError(f"segments must lie on one device and be of as many experts: {devices}, {counts} experts")
    return segments, array, devices.pop(), counts.pop()


class Layer:
    """One MoE layer; made by Group.layer.

    Per version: the homes publish it, members fetch it and finish it, and collect gives the homes their weights back::

        layer.publish(1)
        with layer.fetch(1, chosen) as experts:
            for expert in experts:
                compute(expert["w13"], expert["w2"])
        layer.finish(1)
        layer.collect(1)  # now the weights may be updated in place, and published as 2

    On a GPU, publish, fetch, finish and collect are ordered by torch's current stream, unless told otherwise.
    """

    def __init__(
        self,
        resource: Resource,
        layer_id: int,
        num_experts: int,
        segments: Tuple[Segment, ...],
        device: torch.device,
        slab: Optional[Slab],
    ) -> None:
        self._resource = resource
        self._slab = slab._resource if slab is not None else None
        self.layer_id = layer_id
        self.num_experts = num_experts
        self.segments = segments
        self.device = device

    @property
    def expert_bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    def expert(self, index: int) -> ExpertInfo:
        info = _c.init(_c.ExpertInfo)
        call("cardea_expert_query", self._resource.handle, index, ctypes.byref(info))
        published = None if info.published == 2**64 - 1 else info.published
        return ExpertInfo(info.home, info.source, Path(info.path), published)

    def table(self) -> List[TableEntry]:
        """What this rank can read now, by expert: a copy. Only entries of open views and of experts at home hold still."""
        table = _c.init(_c.ExpertTable)
        call("cardea_layer_table", self._resource.handle, ctypes.byref(table))
        entries: List[TableEntry] = []
        for e in range(table.num_experts):
            entry = table.entries[e]
            if entry.version == 2**64 - 1:
                entries.append(TableEntry(None, None, ()))
                continue
            slot = None if entry.slot == _c.NO_SLOT else entry.slot
            entries.append(TableEntry(entry.version, slot, tuple(entry.segments[i] or 0 for i in range(table.num_segments))))
        return entries

    def device_table(self) -> DeviceTable:
        """The table on this rank's GPU, kept from the first call on: tensors at fixed addresses, also for captured graphs. Of
        views of a fetch on a stream, entries are right for work of that stream between next and release. ValueError
        where the layer is not on a GPU. The tensors must not be used when the layer is closed."""
        if self.device.type != "cuda":
            raise ValueError(f"the layer is on {self.device}, not on a GPU")
        table = _c.init(_c.DeviceTable)
        with on_device(self.device):
            call("cardea_layer_device_table", self._resource.handle, ctypes.byref(table))
        experts, segments, owner = table.num_experts, table.num_segments, self._resource
        return DeviceTable(
            tensor_at(table.slots, (experts,), torch.int32, self.device, owner),
            tensor_at(table.versions, (experts,), torch.int64, self.device, owner),
            tensor_at(table.segments, (experts, segments), torch.int64, self.device, owner),
        )

    # ------------------------------------------------------------ versions

    def publish(self, version: int, stream: StreamLike = "current") -> None:
        """This rank's experts are valid at `version`. BusyError if the version before was not collected."""
        call("cardea_publish", self._resource.handle, version, stream_handle(stream, self.device))

    def finish(self, version: int, stream: StreamLike = "current") -> None:
        """This rank needs `version` and before no longer. BusyError while views or fetches of it are open."""
        desc = _c.init(_c.FinishDesc)
        desc.stream = stream_handle(stream, self.device)
        call("cardea_finish", self._resource.handle, version, ctypes.byref(desc))

    def collect(self, version: int, timeout: Optional[float] = None, stream: StreamLike = "current") -> None:
        """Waits until every member has finished `version`: then the weights are this rank's own again. TimedOutError after
        `timeout` seconds; PeerLostError if a member died that had not finished."""
        if not self.try_collect(version, timeout, stream):
            raise error_of("cardea_collect", Status.ERR_TIMEOUT)

    def try_collect(self, version: int, timeout: Optional[float] = 0.0, stream: StreamLike = "current") -> bool:
        """As collect; False when it is not so yet after `timeout` seconds."""
        handle = stream_handle(stream, self.device)
        left = nanoseconds(timeout)
        while True:  # in pieces, so that Ctrl-C reaches Python
            piece = min(left, 100_000_000)
            status = library().cardea_collect(self._resource.handle, version, handle, piece)
            if status == Status.OK:
                return True
            if status not in (Status.ERR_TIMEOUT, Status.IN_PROGRESS):
                raise error_of("cardea_collect", status)
            if timeout is not None:
                left -= piece
            if left <= 0:
                return False

    # ------------------------------------------------------------ fetching

    def fetch(
        self,
        version: int,
        experts: Union[Sequence[int], torch.Tensor],
        *,
        slots: bool = False,
        gang: bool = False,
        segments: Optional[Sequence[str]] = None,
        slab: Optional[Slab] = None,
        deadline: Optional[float] = None,
        stream: StreamLike = "current",
    ) -> Fetch:
        """Asks for experts at a version, each at most once.

        slots     every expert that is not at home here goes into a slab slot, for grouped GEMMs; else mapped ones lie where
                  they are
        gang      reserve all slots at once, or raise LimitError
        segments  names of those that are wanted; default: all
        slab      where they land; default: the layer's
        deadline  seconds after which experts that are not ready fail
        stream    on a GPU: the stream that waits for the experts (default: torch's current one), so that their tensors may be
                  used by work queued on it; None: views are given out when their bytes have arrived

        Raises StaleError, LimitError, InvalidArgumentError, UnsupportedError.
        """
        flags = (FetchFlags.SLOTS if slots else FetchFlags.DEFAULT) | (FetchFlags.GANG if gang else FetchFlags.DEFAULT)
        return self._submit("cardea_fetch", version, experts, flags, segments, slab, deadline, stream)

    def prefetch(
        self,
        version: int,
        experts: Union[Sequence[int], torch.Tensor],
        *,
        segments: Optional[Sequence[str]] = None,
        slab: Optional[Slab] = None,
        deadline: Optional[float] = None,
    ) -> Fetch:
        """Brings experts nearer without urgency. The result has no views: only wait, cancel, info and close."""
        return self._submit("cardea_prefetch", version, experts, FetchFlags.DEFAULT, segments, slab, deadline, None)

    def _submit(
        self,
        name: str,
        version: int,
        experts: Union[Sequence[int], torch.Tensor],
        flags: FetchFlags,
        segments: Optional[Sequence[str]],
        slab: Optional[Slab],
        deadline: Optional[float],
        stream: StreamLike,
    ) -> Fetch:
        wanted = experts.tolist() if isinstance(experts, torch.Tensor) else list(experts)
        desc = _c.init(_c.FetchDesc)
        desc.version = version
        desc.experts = (ctypes.c_uint32 * len(wanted))(*wanted)
        desc.num_experts = len(wanted)
        desc.flags = int(flags)
        if segments is not None:
            names = [s.name for s in self.segments]
            unknown = [s for s in segments if s not in names]
            if unknown or not segments:
                raise ValueError(f"segments {unknown or 'none'} are not among {names}")
            desc.segment_mask = sum(1 << names.index(s) for s in set(segments))
        owners: Tuple[Resource, ...] = (self._resource,)
        if slab is not None:
            if slab._resource is None:
                raise ValueError("the slab was closed")
            desc.slab = slab._handle
            owners += (slab._resource,)
        device = slab.device if slab is not None else self.device
        desc.stream = stream_handle(stream, device)
        if deadline is not None:
            desc.deadline = max(1, nanoseconds(deadline))  # 0 means none in C
        handle = _c.Fetch()
        with on_device(device):
            call(name, self._resource.handle, ctypes.byref(desc), ctypes.byref(handle))
        resource = Resource(handle, "cardea_fetch_destroy", owners)
        return Fetch(resource, self.segments, device, self.layer_id, owners)

    def close(self) -> None:
        """Ends this rank's part in the layer. BusyError while views or fetches of it are open. May be called twice."""
        self._resource.close()

    def __enter__(self) -> "Layer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Layer({self.layer_id}, {self.num_experts} experts of {self.expert_bytes} bytes, {self.device})"
