# SPDX-License-Identifier: Apache-2.0
"""Finds and loads libcardea.so, once per process, when it is first needed.

Looked for, in this order: the file that ``CARDEA_LIBRARY`` names; next to this package when it lies in an installed prefix
(``PREFIX/…/cardea`` with ``PREFIX/lib``); the build tree of the sources that it lies in (the newest of ``build/*/lib``); and
wherever the system's loader looks, so that ``LD_LIBRARY_PATH`` and ``ldconfig`` do as usual.
"""
from __future__ import annotations

import ctypes
import os
import pathlib
import threading
from typing import List, Optional

from . import _c

_SONAME = f"libcardea.so.{_c.ABI}"
_lock = threading.Lock()
_loaded: Optional[ctypes.CDLL] = None


def candidates() -> List[str]:
    """What is tried, best first: paths that exist, and at last the bare name for the system's loader."""
    named = os.environ.get("CARDEA_LIBRARY")
    if named:
        return [named]
    here = pathlib.Path(__file__).resolve()
    found: List[pathlib.Path] = []
    for prefix in here.parents:
        if (prefix / "include" / "cardea" / "cardea.h").is_file():  # an installed prefix, or the sources
            libraries = [*prefix.glob(f"lib*/{_SONAME}"), *prefix.glob(f"lib/*/{_SONAME}")]
            built = sorted(prefix.glob(f"build/*/lib/{_SONAME}"), key=lambda path: path.stat().st_mtime, reverse=True)
            # A library built for a sanitizer cannot be loaded into a plain Python.
            libraries += [path for path in built if path.parts[-3] not in ("asan", "tsan", "fuzz")]
            found += libraries
            break
    return [str(path) for path in found] + [_SONAME]


def library() -> ctypes.CDLL:
    """The library with its functions typed. OSError if there is none, with what was tried and why each failed."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load() -> ctypes.CDLL:
    failures: List[str] = []
    for path in candidates():
        try:
            loaded = _c.declare(ctypes.CDLL(path))
        except (OSError, AttributeError) as error:
            failures.append(f"  {path}: {error}")
            continue
        version = _c.init(_c.VersionInfo)
        loaded.cardea_version(ctypes.byref(version))
        if version.abi == _c.ABI:
            return loaded
        failures.append(f"  {path}: ABI {version.abi}, this package speaks {_c.ABI}")
    raise OSError("no libcardea.so could be loaded; build it, install it, or name it by CARDEA_LIBRARY. Tried\n" + "\n".join(failures))
