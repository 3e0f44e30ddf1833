# SPDX-License-Identifier: Apache-2.0
"""Who frees what: every C handle is owned by one Resource, and Resources are freed by Python's reference counts.

The public objects (Context, Layer, …) refer to Resources, and so do the storages of tensors that lie in Cardea's memory. A
parent is kept alive by its children: the context by its slabs, a slab by the tensors over it and by the views in it. Hence
nothing that anybody can still reach is ever unmapped, whatever the order in which objects are dropped.

Closing frees at once and raises what the C function refuses. Dropping the last reference frees quietly; what the library
refuses to let go just then (a slab into which a transfer still runs) stays with the context, its memory with it, and goes
when the context goes: no destination is handed back to torch's allocator while hardware may write to it.

Closing a context ends every lease and everything made of it, whoever still refers to it. Only plain tensors over memory of
Cardea's own cannot be taken back: while there are any, the context's end waits for the last of them.

Resources left at the end of the process are freed then, youngest first. In a forked child they are the parent's and nothing
happens to them. Any thread may use any of this.
"""
from __future__ import annotations

import ctypes
import weakref
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import _c
from ._c import Status
from ._library import library
from .errors import ForkedError, ReleasedError, error_of

_Limbo = List[Tuple[str, Any, object]]  # function, handle, memory


class Resource:
    """Owns a C handle until closed or unreachable.

    destroy  the C function that frees it
    parent   Resources that must outlive it; none: this is a Root
    memory   what the library uses through this handle, such as tensors: kept until the handle is freed
    """

    def __init__(self, handle: Any, destroy: str, parent: "Tuple[Resource, ...]", memory: object = None) -> None:
        self._handle = handle
        self._destroy = destroy
        self.parent = parent
        self.root: Root = parent[0].root
        self._finalizer: Any = weakref.finalize(self, _free, destroy, handle, memory, self.root.limbo)
        self.root.children.add(self)

    @property
    def handle(self) -> Any:
        """For calls; of a closed resource 0, which the library refuses as INVALID_HANDLE."""
        return self._handle

    def close(self) -> None:
        """Frees it now. Raises, and keeps it, when the library refuses. May be called twice."""
        if not self._handle:
            return
        status = getattr(library(), self._destroy)(self._handle)
        if status != Status.OK:
            raise error_of(self._destroy, status)
        self._finalizer.detach()
        self._handle = type(self._handle)()


class Root(Resource):
    """The context, and what is known of everything made of it."""

    def __init__(self, handle: Any, destroy: str) -> None:
        self._handle = handle
        self._destroy = destroy
        self.parent = ()
        # Children refer to it strongly, so it must not refer to itself.
        self.limbo: _Limbo = []
        self.children: "weakref.WeakSet[Resource]" = weakref.WeakSet()
        self.leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()
        self._shown: Dict[int, "weakref.ref[Any]"] = {}  # buffers of plain tensors over memory of Cardea's own
        self._leaving = False
        self._finalizer: Any = weakref.finalize(self, _free_root, destroy, handle, self.limbo)

    @property
    def root(self) -> "Root":  # type: ignore[override]
        return self

    def show(self, buffer: Any) -> None:
        """A tensor is about to be made over this buffer."""
        key = id(buffer)
        self._shown[key] = weakref.ref(buffer, lambda _, me=weakref.ref(self): _gone(me, key))  # type: ignore[misc]

    def forget(self, key: int) -> None:
        self._shown.pop(key, None)
        if self._leaving and not self._shown:
            self.close()

    def leave(self) -> None:
        """Ends all leases and frees everything, the memory that plain tensors show excepted."""
        for lease in list(self.leases):
            lease.end()
        if not self._shown:
            try:
                self.close()
            except ForkedError:
                pass  # it is the parent's
            return
        for kind in ("cardea_fetch_destroy", "cardea_layer_destroy"):
            for child in list(self.children):
                if child._destroy == kind:
                    _quietly(child.close)
        self._leaving = True

    def close(self) -> None:
        super().close()
        self.limbo.clear()  # the context has freed them


def _gone(root: "weakref.ref[Root]", key: int) -> None:
    alive = root()
    if alive is not None:
        _quietly(alive.forget, key)


def _quietly(function: Callable[..., None], *arguments: Any) -> None:
    try:
        function(*arguments)
    except RuntimeError:
        pass  # the library has told it already; whoever dropped a reference cannot act on it


def _free_root(destroy: str, handle: Any, limbo: _Limbo) -> None:
    getattr(library(), destroy)(handle)
    limbo.clear()


def _free(destroy: str, handle: Any, memory: object, limbo: _Limbo) -> None:
    if getattr(library(), destroy)(handle) == Status.ERR_BUSY:
        limbo.append((destroy, handle, memory))


def sweep(limbo: _Limbo) -> None:
    """Tries again to free what was busy when it was dropped."""
    waiting, limbo[:] = list(limbo), []
    for destroy, handle, memory in waiting:
        _free(destroy, handle, memory, limbo)


class Lease:
    """The right to read one view, shared by the View and the tensors made of it; it ends by release() or when none is left."""

    def __init__(self, view: _c.View, what: str, parent: Tuple[Resource, ...]) -> None:
        self.alive = view.id != 0
        self.what = what  # for the message
        self.parent = parent  # whoever owns the memory
        if self.alive:
            self._view = view
            self._finalizer = weakref.finalize(self, _release, view)
            parent[0].root.leases.add(self)

    def check(self) -> None:
        if not self.alive:
            raise ReleasedError(f"{self.what} was released: its memory may hold another expert by now")

    def release(self) -> None:
        """Ends it; a second time does nothing."""
        if not self.alive:
            return
        self.alive = False
        if self._finalizer.detach() is not None:
            status = _release(self._view)
            if status != Status.OK:
                raise error_of("cardea_release", status)

    @staticmethod
    def release_all(leases: "Iterable[Lease]") -> None:
        """Ends several with one call, which on a GPU costs one event instead of one for each."""
        open_ = [lease for lease in leases if lease.alive]
        for lease in open_:
            lease.alive = False
        views = [lease._view for lease in open_ if lease._finalizer.detach() is not None]
        if views:
            status = int(library().cardea_release((_c.View * len(views))(*views), len(views)))
            if status != Status.OK:
                raise error_of("cardea_release", status)

    def end(self) -> None:
        """As release, whatever the library says."""
        _quietly(self.release)


def _release(view: _c.View) -> int:
    return int(library().cardea_release(ctypes.byref(view), 1))


def nanoseconds(seconds: Optional[float]) -> int:
    """None waits for as long as it takes; what is not positive polls."""
    if seconds is None:
        return _c.FOREVER
    return max(0, min(int(seconds * 1e9), _c.FOREVER - 1))
