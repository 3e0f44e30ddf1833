# SPDX-License-Identifier: Apache-2.0
"""Memory that other ranks can map, memory of torch made known, and slabs, where fetched experts land."""
from __future__ import annotations

import ctypes
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from . import _c
from ._c import MemoryKind
from ._handles import Resource, Root, sweep
from .errors import call
from .tensors import Segment, item_size, segment_of, stacked_at, tensor_at, to_c

DeviceLike = Union[str, torch.device]


def kind_of(device: torch.device) -> MemoryKind:
    if device.type == "cpu":
        return MemoryKind.HOST
    if device.type == "cuda":
        return MemoryKind.CUDA
    raise ValueError(f"Cardea knows memory of the CPU and of CUDA devices, not of {device}")


def device_of(device: DeviceLike) -> torch.device:
    """With the current device's index where none is given."""
    made = torch.device(device)
    if made.type == "cuda" and made.index is None:
        made = torch.device("cuda", torch.cuda.current_device())
    return made


class Memory:
    """Memory of Cardea's, or of torch's made known to it; see Context.allocate and Context.register.

    Freed when neither this object nor a tensor over it is left. close() gives this object's part up.
    """

    def __init__(self, resource: Resource, device: torch.device) -> None:
        self._resource: Optional[Resource] = resource
        self.device = device
        info = self._info()
        self.address: int = info.address or 0
        self.bytes: int = info.bytes

    def _info(self) -> _c.MemoryInfo:
        info = _c.init(_c.MemoryInfo)
        call("cardea_memory_query", self._resource.handle if self._resource else _c.Memory(), ctypes.byref(info))
        return info

    @property
    def mappable(self) -> bool:
        """Whether ranks of the node map it; if not, they copy from it."""
        return bool(self._info().mappable)

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, offset: int = 0) -> torch.Tensor:
        """A tensor over it, `offset` bytes in, which keeps the memory alive."""
        shape = tuple(shape)
        size = item_size(dtype)
        for extent in shape:
            size *= extent
        self._info()  # raises when the context is gone
        if self._resource is None or offset < 0 or offset + size > self.bytes:
            raise ValueError(f"{size} bytes at {offset} do not lie in memory of {self.bytes}")
        return tensor_at(self.address + offset, shape, dtype, self.device, self._resource)

    def close(self) -> None:
        self._resource = None

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Memory({self.bytes} bytes, {self.device}{', closed' if self._resource is None else ''})"


def allocate(context: Root, size: int, device: DeviceLike) -> Memory:
    device = device_of(device)
    handle = _c.Memory()
    sweep(context.limbo)
    with on_device(device):
        call("cardea_memory_alloc", context.handle, size, kind_of(device), ctypes.byref(handle))
    return Memory(Resource(handle, "cardea_memory_free", (context,)), device)


def register(context: Root, tensor: torch.Tensor) -> Memory:
    """The bytes that a contiguous tensor spans."""
    tensor = tensor.detach()
    if not tensor.is_contiguous():
        raise ValueError("only contiguous tensors can be registered")
    handle = _c.Memory()
    sweep(context.limbo)
    size = tensor.numel() * tensor.element_size()
    with on_device(tensor.device):
        call("cardea_memory_register", context.handle, tensor.data_ptr(), size, kind_of(tensor.device), ctypes.byref(handle))
    return Memory(Resource(handle, "cardea_memory_free", (context,), memory=tensor), tensor.device)


class on_device:  # noqa: N801  (used as a function)
    """Makes a CUDA device current for a call; nothing for the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._guard: Any = torch.cuda.device(device) if device.type == "cuda" else None

    def __enter__(self) -> None:
        if self._guard is not None:
            self._guard.__enter__()

    def __exit__(self, *exception: object) -> None:
        if self._guard is not None:
            self._guard.__exit__(*exception)


class Slab:
    """Landing memory for experts of one shape: a tensor ``[rows, *segment.shape]`` for each segment.

    A free slot is a credit. `tensors` maps segment names to the stacked tensors, of which a view's `slot` is a row; they are
    plain, for grouped GEMMs. Which rows hold what is for the views to say: a row may be read while its view is open.

    Freed when neither this object, a layer that names it, a view in it nor one of its tensors is left.
    """

    def __init__(
        self,
        resource: Resource,
        segments: Tuple[Segment, ...],
        device: torch.device,
        given: Optional[Dict[str, torch.Tensor]],
    ) -> None:
        self._resource: Optional[Resource] = resource
        self._given = given  # tensors of the caller's that it lies in
        self.segments = segments
        self.device = device
        info = self._info()
        self.num_slots: int = info.num_slots
        self.first_slot: int = info.first_slot

    def _info(self) -> _c.SlabInfo:
        info = _c.init(_c.SlabInfo)
        call("cardea_slab_query", self._handle, ctypes.byref(info))
        return info

    @property
    def _handle(self) -> _c.Slab:
        return self._resource.handle if self._resource else _c.Slab()

    @property
    def free_slots(self) -> int:
        """Credits now; slots that hold a reusable expert count as free."""
        return int(self._info().free_slots)

    @property
    def tensors(self) -> Dict[str, torch.Tensor]:
        """The stacked tensors. Of a slab over torch's tensors: all rows, the first `first_slot` ones included."""
        if self._resource is None:
            raise ValueError("this slab was closed")
        if self._given is not None:
            return dict(self._given)
        info = self._info()
        return {
            segment.name: stacked_at(info.base[i], self.num_slots, info.stride[i], segment, self.device, self._resource)
            for i, segment in enumerate(self.segments)
        }

    def close(self) -> None:
        self._resource = None

    def __enter__(self) -> "Slab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(f"{s.name} {list(s.shape)} {s.dtype}" for s in self.segments)
        return f"Slab({self.num_slots} slots of {names}, {self.device}{', closed' if self._resource is None else ''})"


def _create(
    context: Root,
    desc: _c.SlabDesc,
    segments: Sequence[Segment],
    device: torch.device,
    given: Optional[Dict[str, torch.Tensor]],
) -> Slab:
    array = to_c(segments)
    desc.segments = array
    desc.num_segments = len(array)
    desc.kind = kind_of(device)
    handle = _c.Slab()
    sweep(context.limbo)
    with on_device(device):
        call("cardea_slab_create", context.handle, ctypes.byref(desc), ctypes.byref(handle))
    return Slab(Resource(handle, "cardea_slab_destroy", (context,), given), tuple(segments), device, given)


def create_slab(context: Root, segments: Sequence[Segment], slots: int, device: DeviceLike) -> Slab:
    desc = _c.init(_c.SlabDesc)
    desc.num_slots = slots
    return _create(context, desc, segments, device_of(device), None)


def slab_over(context: Root, tensors: Mapping[str, torch.Tensor], first_slot: int, slots: Optional[int]) -> Slab:
    segments, placements, device = stacks(tensors)
    rows = next(iter(tensors.values())).shape[0]
    if slots is None:
        slots = rows - first_slot
    if first_slot < 0 or slots < 1 or first_slot + slots > rows:
        raise ValueError(f"slots {first_slot} to {first_slot + slots - 1} do not lie in {rows} rows")
    desc = _c.init(_c.SlabDesc)
    desc.num_slots = slots
    desc.first_slot = first_slot
    desc.placements = placements
    return _create(context, desc, segments, device, {name: tensor.detach() for name, tensor in tensors.items()})


def stacks(tensors: Mapping[str, torch.Tensor]) -> "Tuple[List[Segment], ctypes.Array[_c.Placement], torch.device]":
    """Segments and placements of tensors ``[rows, …]``: as many rows each, on one device, each row without gaps."""
    if not tensors:
        raise ValueError("an expert needs at least one segment")
    segments: List[Segment] = []
    placements = (_c.Placement * len(tensors))()
    devices, rows = set(), set()
    for placement, (name, tensor) in zip(placements, tensors.items()):
        tensor = tensor.detach()
        if tensor.dim() < 1 or tensor.shape[0] < 1:
            raise ValueError(f"segment {name}: stacked tensors begin with a dimension of experts, this is {tuple(tensor.shape)}")
        if not tensor[0].is_contiguous():
            raise ValueError(f"segment {name}: an expert's part must be contiguous; strides are {tensor.stride()}")
        segment = segment_of(name, tensor.shape[1:], tensor.dtype)
        segments.append(segment)
        devices.add(tensor.device)
        rows.add(tensor.shape[0])
        placement.size = ctypes.sizeof(_c.Placement)
        placement.base = tensor.data_ptr()
        # The stride of a dimension of one is anything.
        placement.stride = tensor.stride(0) * tensor.element_size() if tensor.shape[0] > 1 else segment.bytes
    if len(devices) != 1 or len(rows) != 1:
        raise ValueError(f"segments must lie on one device and have as many rows: {devices}, {rows} rows")
    return segments, placements, devices.pop()
