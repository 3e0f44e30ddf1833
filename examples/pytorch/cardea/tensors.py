# SPDX-License-Identifier: Apache-2.0
"""Torch tensors over memory that torch did not allocate, and how experts look to torch.

Ownership. A tensor made here holds a reference to the object that owns its memory (`owner`), through its storage: slices and
views of it do too. So memory is freed when nobody can reach it any more, and never earlier.

Views are stricter. The slot behind a released view may hold another expert a moment later, though its memory is still
there. Tensors of a view are therefore `ExpertTensor`, which refuse every use after the view's release, as do slices of them.
"""
from __future__ import annotations

import ctypes
import dataclasses
import math
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from . import _c
from ._handles import Lease, Resource

_DisableTorchFunction: Any = torch._C.DisableTorchFunction  # type: ignore[attr-defined]

_WEIGHT_TYPES: Dict[torch.dtype, _c.Dtype] = {
    torch.float32: _c.Dtype.FLOAT32,
    torch.float16: _c.Dtype.FLOAT16,
    torch.bfloat16: _c.Dtype.BFLOAT16,
    torch.int8: _c.Dtype.INT8,
}
for _name, _type in (("float8_e4m3fn", _c.Dtype.FLOAT8_E4M3), ("float8_e5m2", _c.Dtype.FLOAT8_E5M2)):
    if hasattr(torch, _name):  # torch 2.1 and newer
        _WEIGHT_TYPES[getattr(torch, _name)] = _type


def weight_type(dtype: torch.dtype) -> _c.Dtype:
    """Cardea's word for a dtype; those that it has none for travel as bytes."""
    return _WEIGHT_TYPES.get(dtype, _c.Dtype.BYTES)


def item_size(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()


@dataclasses.dataclass(frozen=True)
class Segment:
    """One part of every expert of a layer, such as w13 or w2, as torch sees it: `shape` is one expert's."""

    name: str
    shape: Tuple[int, ...]
    dtype: torch.dtype
    alignment: int = 0  # bytes, of slabs that Cardea makes; 0: 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * item_size(self.dtype)


def to_c(segments: Sequence[Segment]) -> "ctypes.Array[_c.Segment]":
    array = (_c.Segment * len(segments))()
    for made, segment in zip(array, segments):
        made.size = ctypes.sizeof(_c.Segment)
        made.name = segment.name.encode()
        made.bytes = segment.bytes
        made.alignment = segment.alignment
        made.weight_type = weight_type(segment.dtype)
        made.gradient_type = _c.Dtype.NONE
    return array


def segment_of(name: str, shape: Sequence[int], dtype: torch.dtype) -> Segment:
    segment = Segment(name, tuple(shape), dtype)
    if segment.bytes == 0:
        raise ValueError(f"segment {name} has no bytes: shape {tuple(shape)}")
    return segment


# ---------------------------------------------------------------- memory of others as tensors


class _DeviceBytes:
    """Device memory in the words of ``__cuda_array_interface__``; torch keeps this object, and so its owner, alive."""

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 2}


def bytes_at(address: int, size: int, device: torch.device, owner: object) -> torch.Tensor:
    """`size` bytes at `address` as a uint8 tensor that keeps `owner` alive."""
    if device.type == "cuda":
        array = _DeviceBytes(address, size, owner)
        _show(owner, array)
        return torch.as_tensor(array, device=device)
    buffer = (ctypes.c_ubyte * size).from_address(address)
    buffer.owner = owner  # type: ignore[attr-defined]  # the storage holds the buffer, the buffer its owner
    _show(owner, buffer)
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _show(owner: object, buffer: object) -> None:
    """Tensors of views are guarded; others over memory of Cardea's delay the end of its context."""
    if isinstance(owner, Resource):
        owner.root.show(buffer)


def tensor_at(address: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device, owner: object) -> torch.Tensor:
    """A contiguous tensor at `address`, which must be aligned to its dtype."""
    size = math.prod(shape) * item_size(dtype)
    if size == 0:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return bytes_at(address, size, device, owner).view(dtype).view(tuple(shape))


def stacked_at(
    address: int, rows: int, stride: int, segment: Segment, device: torch.device, owner: object
) -> torch.Tensor:
    """`rows` rows of a segment, `stride` bytes apart, as one tensor ``[rows, *segment.shape]``."""
    item = item_size(segment.dtype)
    if rows == 0:
        return torch.empty((0, *segment.shape), dtype=segment.dtype, device=device)
    if stride % item != 0:
        raise ValueError(f"segment {segment.name}: rows {stride} bytes apart are no tensor of {segment.dtype}")
    flat = bytes_at(address, (rows - 1) * stride + segment.bytes, device, owner).view(segment.dtype)
    strides: List[int] = []
    step = 1
    for extent in reversed(segment.shape):
        strides.append(step)
        step *= extent
    return flat.as_strided((rows, *segment.shape), (stride // item, *reversed(strides)))


# ---------------------------------------------------------------- tensors of a view


# What may be asked of a tensor whose view was released: what it was, not what it holds.
_HARMLESS_GETTERS = ("shape", "dtype", "device")
_WRITERS = frozenset("__" + name + "__" for name in (
    "setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "ilshift", "irshift"))  # fmt: skip
_NO_WRITERS = frozenset(("requires_grad_",))


class ExpertTensor(torch.Tensor):
    """A segment of an expert, readable while its view is. What is computed from it is a plain tensor.

    Use after the release raises ReleasedError, and so does use of a slice or reshape of it. Writing raises RuntimeError: the
    memory may be another rank's. The check costs some microseconds for each operation; code that cannot spare them takes
    `plain()`, or the slab's own tensors and the view's slot, and keeps the rule by itself.
    """

    _lease: Lease
    _extent: Tuple[int, int]  # addresses of the segment, to know what lies in it

    @staticmethod
    def over(plain: torch.Tensor, lease: Lease) -> "ExpertTensor":
        made = plain.as_subclass(ExpertTensor)
        made._lease = lease
        start = plain.data_ptr()
        made._extent = (start, start + plain.numel() * plain.element_size())
        return made

    def plain(self) -> torch.Tensor:
        """The same memory as a plain tensor, which nothing guards: not to be used after the release."""
        self._lease.check()
        with _DisableTorchFunction():
            return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        experts: List[ExpertTensor] = []
        _collect(args, experts)
        _collect(kwargs, experts)
        attribute = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
        if attribute in _HARMLESS_GETTERS or name == "__hash__":
            pass
        elif name == "__repr__" and not all(expert._lease.alive for expert in experts):
            return "ExpertTensor(released)"
        else:
            for expert in experts:
                expert._lease.check()
            _refuse_writes(func, name, args, kwargs)
        with _DisableTorchFunction():
            result = func(*args, **kwargs)
        return _guard(result, experts)


def _collect(values: Any, into: List[ExpertTensor]) -> None:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, ExpertTensor):
            into.append(value)
        elif isinstance(value, (list, tuple, dict)):
            _collect(value, into)


def _refuse_writes(func: Callable[..., Any], name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
    in_place = name in _WRITERS or name == "__set__" or (name.endswith("_") and not name.endswith("__"))
    targets: List[ExpertTensor] = []
    if in_place and name not in _NO_WRITERS:
        _collect(args[:1], targets)
    if "out" in kwargs:
        _collect((kwargs["out"],), targets)
    if targets:
        raise RuntimeError(f"{name or func}: an expert that was fetched is read only")


def _guard(result: Any, experts: Sequence[ExpertTensor]) -> Any:
    """What lies in an expert's memory becomes an ExpertTensor again, so that slices are guarded too."""
    if isinstance(result, (list, tuple)):
        guarded = [_guard(item, experts) for item in result]
        if isinstance(result, tuple):
            return type(result)(*guarded) if hasattr(result, "_fields") else tuple(guarded)
        return guarded
    if not isinstance(result, torch.Tensor) or result.device.type == "meta":
        return result
    with _DisableTorchFunction():
        address = result.data_ptr() if result.layout == torch.strided else 0
        for expert in experts:
            if expert._extent[0] <= address < expert._extent[1]:
                made = result.as_subclass(ExpertTensor)
                made._lease, made._extent = expert._lease, expert._extent
                return made
        return result.as_subclass(torch.Tensor) if isinstance(result, ExpertTensor) else result
