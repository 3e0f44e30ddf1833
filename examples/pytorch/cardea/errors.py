# SPDX-License-Identifier: Apache-2.0
"""Failures of the C interface as exceptions: one class for each status, all derived from CardeaError.

Where Python has a word of its own for the failure the class derives from that too, so that ``except TimeoutError`` and
``except MemoryError`` do what their readers expect.
"""
from __future__ import annotations

import ctypes
from typing import Dict, Optional, Type

from . import _c
from ._c import Path, Status
from ._library import library


class CardeaError(RuntimeError):
    """A call that failed: ``cardea_fetch: CARDEA_ERR_STALE: version 3 of layer 0 was finished``.

    status   why, as cardea.h names it
    call     the C function, or "view" for an expert that could not be had
    message  one line of English; may be empty
    peer, layer, expert, path, bytes   what is known of the cause; None where it does not apply (layer: only where another is
                                       known, since 0 is a layer too)
    """

    def __init__(self, call: str, info: _c.ErrorInfo) -> None:
        self.status: int = Status(info.status) if info.status in list(Status) else info.status
        self.call = call
        self.message = info.message.decode("utf-8", "replace")
        self.peer: Optional[int] = None if info.peer == _c.NO_RANK else info.peer
        self.expert: Optional[int] = None if info.expert == _c.NO_EXPERT else info.expert
        self.path: Optional[Path] = None if info.path == Path.NONE else Path(info.path)
        known = self.peer is not None or self.expert is not None or self.path is not None
        self.layer: Optional[int] = info.layer if known else None
        self.bytes: int = info.bytes
        name = library().cardea_status_string(info.status).decode()
        super().__init__(f"{call}: {name}" + (f": {self.message}" if self.message else ""))


class InvalidArgumentError(CardeaError, ValueError):
    pass


class InvalidHandleError(CardeaError):
    """The object was closed, or went with its context."""


class UnsupportedError(CardeaError, NotImplementedError):
    pass


class NoMemoryError(CardeaError, MemoryError):
    pass


class LimitError(CardeaError):
    pass


class BusyError(CardeaError):
    """Open views, fetches or layers stand in the way."""


class StaleError(CardeaError):
    """The version was retired, or finished by this rank."""


class WouldDeadlockError(CardeaError):
    """The caller's own views hold every slot that it waits for."""


class TimedOutError(CardeaError, TimeoutError):
    pass


class CanceledError(CardeaError):
    pass


class PeerLostError(CardeaError, ConnectionError):
    """``peer`` died, left or cannot be reached."""


class ExpelledError(CardeaError, ConnectionError):
    """The others declared this rank lost."""


class AuthenticationError(CardeaError):
    pass


class MismatchError(CardeaError):
    """Ranks disagree: world size, wire version, layer shape, home."""


class ProtocolError(CardeaError):
    pass


class SystemCallError(CardeaError):
    pass


class TransportError(CardeaError):
    pass


class DeviceError(CardeaError):
    pass


class ForkedError(CardeaError):
    pass


class ConfigurationError(CardeaError):
    pass


class InternalError(CardeaError):
    pass


CLASSES: Dict[Status, Type[CardeaError]] = {
    Status.ERR_INVALID_ARGUMENT: InvalidArgumentError,
    Status.ERR_INVALID_HANDLE: InvalidHandleError,
    Status.ERR_UNSUPPORTED: UnsupportedError,
    Status.ERR_NO_MEMORY: NoMemoryError,
    Status.ERR_LIMIT: LimitError,
    Status.ERR_BUSY: BusyError,
    Status.ERR_STALE: StaleError,
    Status.ERR_WOULD_DEADLOCK: WouldDeadlockError,
    Status.ERR_TIMEOUT: TimedOutError,
    Status.ERR_CANCELED: CanceledError,
    Status.ERR_PEER_LOST: PeerLostError,
    Status.ERR_EXPELLED: ExpelledError,
    Status.ERR_AUTHENTICATION: AuthenticationError,
    Status.ERR_MISMATCH: MismatchError,
    Status.ERR_PROTOCOL: ProtocolError,
    Status.ERR_SYSTEM: SystemCallError,
    Status.ERR_TRANSPORT: TransportError,
    Status.ERR_DEVICE: DeviceError,
    Status.ERR_FORKED: ForkedError,
    Status.ERR_CONFIGURATION: ConfigurationError,
    Status.ERR_INTERNAL: InternalError,
}


def class_of(status: int) -> Type[CardeaError]:
    """CardeaError itself for a status that this package does not know."""
    return next((kind for known, kind in CLASSES.items() if known == status), CardeaError)


class ReleasedError(RuntimeError):
    """A view, or a tensor of one, was used after the view was released: its memory may hold another expert by now."""


def error_of(call: str, status: int) -> CardeaError:
    """The exception for a status that a call returned just now, on this thread."""
    info = _c.init(_c.ErrorInfo)
    known = library().cardea_last_error(ctypes.byref(info)) == Status.OK and info.status == status
    if not known:  # IN_PROGRESS is no failure in C: the last error is of another call
        info = _c.init(_c.ErrorInfo)
        info.status = status
    return class_of(status)(call, info)


def call(name: str, *arguments: object) -> None:
    """Calls a C function; raises unless it returns OK."""
    status = getattr(library(), name)(*arguments)
    if status != Status.OK:
        raise error_of(name, status)
