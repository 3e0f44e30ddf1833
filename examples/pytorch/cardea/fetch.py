# SPDX-License-Identifier: Apache-2.0
"""Fetches, and the views that they deliver."""
from __future__ import annotations

import ctypes
import time
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch

from . import _c
from ._c import Path, Status
from ._handles import Lease, Resource, nanoseconds
from ._library import library
from .errors import CardeaError, TimedOutError, call, class_of, error_of
from .tensors import ExpertTensor, Segment, tensor_at

# A wait is made of pieces, so that Ctrl-C and other signals reach Python: C code cannot be interrupted by its handlers.
_PIECE_NS = 100_000_000


class View:
    """One expert that this rank may read until it releases the view; or the failure to get it.

    ``view["w2"]`` is the segment as an ExpertTensor, which raises ReleasedError once the view was released. `slot` is its row
    in the slab's tensors, None if it lies elsewhere. Released by release(), by ``with``, by the loop over its fetch that
    delivered it, or when neither the view nor one of its tensors is reachable any more.
    """

    def __init__(
        self,
        raw: _c.View,
        segments: Tuple[Segment, ...],
        device: torch.device,
        layer_id: int,
        parent: Tuple[Resource, ...],
        peer: int = _c.NO_RANK,
    ) -> None:
        self._raw = raw
        self._peer = peer  # at fault, of a failed view
        self._segments = segments
        self._device = device
        self._layer_id = layer_id
        self._lease = Lease(raw, f"the view of expert {raw.expert} of layer {layer_id}", parent)
        self._kept = False
        self.expert: int = raw.expert
        self.version: int = raw.version
        self.slot: Optional[int] = None if raw.slot == _c.NO_SLOT else raw.slot
        self.path = Path(raw.path)
        self.source: Optional[int] = None if raw.source == _c.NO_RANK else raw.source
        self.ready_after: float = raw.ready_ns * 1e-9  # seconds from the submission of the fetch
        self.source_alive: bool = bool(raw.source_alive)  # False: what it had published is still readable, no more

    @property
    def ok(self) -> bool:
        """Whether there is an expert to read: not for failed views, nor for released ones."""
        return self._lease.alive

    @property
    def error(self) -> Optional[CardeaError]:
        """Why there is no expert here, naming expert, source and path; None of a view that came."""
        if self._raw.status == Status.OK:
            return None
        info = _c.init(_c.ErrorInfo)
        info.status = self._raw.status
        info.expert = self._raw.expert
        info.peer = self._peer
        info.path = self._raw.path
        info.layer = self._layer_id
        source = "" if self._peer == _c.NO_RANK else f" from rank {self._peer}"
        info.message = f"expert {self.expert} of layer {self._layer_id}{source}".encode()
        return class_of(self._raw.status)("view", info)

    def check(self) -> None:
        """Raises the failure of a failed view."""
        error = self.error
        if error is not None:
            raise error

    @property
    def tensors(self) -> Dict[str, ExpertTensor]:
        """The segments that were asked for, by name."""
        return {s.name: self._tensor(i) for i, s in enumerate(self._segments) if self._raw.segments[i]}

    def __getitem__(self, segment: Union[str, int]) -> ExpertTensor:
        if isinstance(segment, int):
            index = range(len(self._segments))[segment]
        else:
            names = [s.name for s in self._segments]
            if segment not in names:
                raise KeyError(f"no segment {segment!r} among {names}")
            index = names.index(segment)
        self._check_readable()
        if not self._raw.segments[index]:
            raise KeyError(f"segment {self._segments[index].name!r} was not asked for")
        return self._tensor(index)

    def _check_readable(self) -> None:
        self.check()
        self._lease.check()

    def _tensor(self, index: int) -> ExpertTensor:
        self._check_readable()
        segment = self._segments[index]
        plain = tensor_at(self._raw.segments[index], segment.shape, segment.dtype, self._device, self._lease)
        return ExpertTensor.over(plain, self._lease)

    def keep(self) -> "View":
        """Takes the view out of the hands of the loop that delivered it: it stays open until released. Returns itself."""
        self._kept = True
        return self

    def release(self) -> None:
        """Ends the reading; the slot becomes a credit. On memory of a GPU: when the stream's work so far is done. A second
        time, and of a failed view, it does nothing."""
        self._lease.release()

    def __enter__(self) -> "View":
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        if self._raw.status != Status.OK:
            return f"View(expert {self.expert}, {Status(self._raw.status).name})"
        state = "" if self._lease.alive else ", released"
        return f"View(expert {self.expert}, version {self.version}, {self.path.name.lower()}, slot {self.slot}{state})"


def release(views: Sequence[View]) -> None:
    """Releases views together, which is cheaper than one by one."""
    Lease.release_all(view._lease for view in views)


class Fetch:
    """Experts on their way; made by Layer.fetch and Layer.prefetch.

    ``for view in fetch:`` gives the experts as they become ready, and releases each when the loop goes on, unless it was
    keep()t. An expert that failed is raised, and iterating again goes on after it. `ready()` gives what has come so far as
    a list, for one grouped GEMM over many experts.

    Closing (or dropping) it cancels what is outstanding; views that were delivered stay valid.
    """

    def __init__(
        self,
        resource: Resource,
        segments: Tuple[Segment, ...],
        device: torch.device,
        layer_id: int,
        owners: Tuple[Resource, ...],
    ) -> None:
        self._resource = resource
        self._segments = segments
        self._device = device
        self._layer_id = layer_id
        self._owners = owners  # of the memory in which its experts lie
        self._current: Optional[View] = None

    def ready(self, max: int = 64, timeout: Optional[float] = None) -> List[View]:  # noqa: A002  (the C name)
        """Up to `max` views that are ready, in that order; waits up to `timeout` seconds for the first (None: for as long as
        it takes). An empty list means that every expert was delivered. Views may have failed: see View.error. Raises
        TimedOutError, and WouldDeadlockError when the caller's own views hold all slots."""
        raw = (_c.View * max)()
        for view in raw:
            view.size = ctypes.sizeof(_c.View)
        count = ctypes.c_uint32()
        self._wait("cardea_next", timeout, raw, max, ctypes.byref(count))
        return [self._view(raw[i]) for i in range(count.value)]

    def _view(self, raw: _c.View) -> View:
        mine = _c.View.from_buffer_copy(raw)  # not a reference into the array
        return View(mine, self._segments, self._device, self._layer_id, self._owners, self._peer_of(mine))

    def _peer_of(self, raw: _c.View) -> int:
        """Whom a failed view's message names: the source, or the home where no source was left."""
        if raw.status == Status.OK or raw.source != _c.NO_RANK:
            return int(raw.source)
        info = _c.init(_c.ExpertInfo)
        status = library().cardea_expert_query(self._owners[0].handle, raw.expert, ctypes.byref(info))
        return int(info.home) if status == Status.OK else _c.NO_RANK

    def _wait(self, name: str, timeout: Optional[float], *arguments: object) -> None:
        """Calls cardea_next or cardea_wait in pieces. TimedOutError when the time is up."""
        function = getattr(library(), name)
        until = None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        while True:
            left = _PIECE_NS if until is None else min(_PIECE_NS, until - time.monotonic_ns())
            status = function(self._resource.handle, *arguments, nanoseconds(0) if left < 0 else left)
            if status == Status.OK:
                return
            if status not in (Status.ERR_TIMEOUT, Status.IN_PROGRESS):
                raise error_of(name, status)
            if until is not None and time.monotonic_ns() >= until:
                info = _c.init(_c.ErrorInfo)
                info.status = Status.ERR_TIMEOUT
                info.message = f"nothing ready within {timeout} s".encode()
                raise TimedOutError(name, info)

    def next(self, timeout: Optional[float] = None) -> Optional[View]:
        """The next view, for the caller to release; None when all were delivered. Of a failed expert: raises."""
        views = self.ready(1, timeout)
        if not views:
            return None
        views[0].check()
        return views[0]

    def __iter__(self) -> "Fetch":
        return self

    def __next__(self) -> View:
        self._release_current()  # before waiting: the next expert may need this one's slot
        view = self.next()
        if view is None:
            raise StopIteration
        self._current = view
        return view

    def _release_current(self) -> None:
        current, self._current = self._current, None
        if current is not None and not current._kept:
            current.release()

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits until every expert is ready or has failed, without delivering any. Raises the first failure among them."""
        self._wait("cardea_wait", timeout)

    def cancel(self) -> None:
        """What is not ready fails with CANCELED. Ready views stay deliverable."""
        call("cardea_cancel", self._resource.handle)

    def info(self) -> Dict[str, int]:
        """num_experts, ready, delivered, failed, parked, starved, moving: see cardea_fetch_info_t."""
        info = _c.init(_c.FetchInfo)
        call("cardea_fetch_query", self._resource.handle, ctypes.byref(info))
        return _c.numbers(info)

    def close(self) -> None:
        """Releases the loop's view, cancels what is outstanding and frees the handle. May be called twice."""
        self._release_current()
        self._resource.close()

    def __enter__(self) -> "Fetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
