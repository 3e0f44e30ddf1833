# SPDX-License-Identifier: Apache-2.0
"""cardea.h in ctypes: enumerations, structs and functions, under their C names, and nothing else.

Nothing here needs torch. tests/pytorch/abi_test.py compares all of it with the header: a field, a constant or a function that
one of them has and the other has not fails that test. Structs are made by ``init(Struct)``, which does what the header's
``_INIT`` macros do.
"""
from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_size_t, c_ubyte, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, List, Tuple, Type, TypeVar

FOREVER = 2**64 - 1
NO_RANK = 2**32 - 1
NO_EXPERT = 2**32 - 1
NO_SLOT = -1
DEVICE_CURRENT = -1
STREAM_DEFAULT = 1  # CUDA's default stream, whose own handle is null
MAX_SEGMENTS = 16
NO_CACHE = 2**64 - 1
ABI = 0  # cardea_version_info_t.abi that these structs were written for


class Status(enum.IntEnum):
    OK = 0
    IN_PROGRESS = 1
    ERR_INVALID_ARGUMENT = -1
    ERR_INVALID_HANDLE = -2
    ERR_UNSUPPORTED = -3
    ERR_NO_MEMORY = -4
    ERR_LIMIT = -5
    ERR_BUSY = -6
    ERR_STALE = -7
    ERR_WOULD_DEADLOCK = -8
    ERR_TIMEOUT = -9
    ERR_CANCELED = -10
    ERR_PEER_LOST = -11
    ERR_EXPELLED = -12
    ERR_AUTHENTICATION = -13
    ERR_MISMATCH = -14
    ERR_PROTOCOL = -15
    ERR_SYSTEM = -16
    ERR_TRANSPORT = -17
    ERR_DEVICE = -18
    ERR_FORKED = -19
    ERR_CONFIGURATION = -20
    ERR_INTERNAL = -21


class Path(enum.IntEnum):
    """By which path an expert reached this rank."""

    NONE = 0
    HOME = 1
    NODE_MAPPED = 2
    NODE_COPY = 3
    NODE_GPU = 4
    CACHE = 5
    NETWORK = 6


class Bootstrap(enum.IntEnum):
    ENVIRONMENT = 0
    UNIQUE_ID = 1
    EXCHANGE = 2


class MemoryKind(enum.IntEnum):
    HOST = 0
    CUDA = 1


class Dtype(enum.IntEnum):
    NONE = 0
    BYTES = 1
    FLOAT32 = 2
    FLOAT16 = 3
    BFLOAT16 = 4
    FLOAT8_E4M3 = 5
    FLOAT8_E5M2 = 6
    INT8 = 7


class Class(enum.IntEnum):
    """Urgency of a transfer, most urgent first."""

    DEMAND = 0
    GRADIENT = 1
    PREFETCH = 2
    PLACEMENT = 3


class FetchFlags(enum.IntFlag):
    DEFAULT = 0
    GANG = 1
    SLOTS = 2


# The header's enumerations: C type, prefix of its constants, the class that stands for it here.
ENUMS: List[Tuple[str, str, Any]] = [
    ("cardea_status_t", "CARDEA_", Status),
    ("cardea_path_t", "CARDEA_PATH_", Path),
    ("cardea_bootstrap_t", "CARDEA_BOOTSTRAP_", Bootstrap),
    ("cardea_memory_kind_t", "CARDEA_MEMORY_", MemoryKind),
    ("cardea_dtype_t", "CARDEA_DTYPE_", Dtype),
    ("cardea_class_t", "CARDEA_CLASS_", Class),
    ("cardea_fetch_flags_t", "CARDEA_FETCH_", FetchFlags),
]


class _Handle(ctypes.Structure):
    _fields_ = [("id", c_uint64)]

    def __bool__(self) -> bool:
        return self.id != 0


class Context(_Handle):
    pass


class Group(_Handle):
    pass


class Layer(_Handle):
    pass


class Memory(_Handle):
    pass


class Slab(_Handle):
    pass


class Fetch(_Handle):
    pass


class UniqueId(ctypes.Structure):
    _fields_ = [("bytes", c_ubyte * 128)]


class ErrorInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("status", c_int),
        ("peer", c_uint32),
        ("layer", c_uint32),
        ("expert", c_uint32),
        ("path", c_int),
        ("bytes", c_uint64),
        ("message", c_char * 512),
    ]
    _defaults_ = {"peer": NO_RANK, "expert": NO_EXPERT}


class VersionInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("major", c_uint32),
        ("minor", c_uint32),
        ("patch", c_uint32),
        ("abi", c_uint32),
        ("wire", c_uint32),
        ("ucx", c_char * 32),
        ("hwloc", c_char * 32),
        ("cuda", c_char * 32),
        ("cuda_driver", c_char * 32),
        ("nccl", c_char * 32),
    ]


EXCHANGE_FN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p)
READY_FN = ctypes.CFUNCTYPE(None, c_void_p, Fetch, c_int)


class Config(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("bootstrap", c_int),
        ("rank", c_uint32),
        ("world_size", c_uint32),
        ("unique_id", POINTER(UniqueId)),
        ("exchange", EXCHANGE_FN),
        ("exchange_user", c_void_p),
        ("node_id", c_char_p),
        ("setup_timeout", c_uint64),
        ("chunk_bytes", c_uint64),
        ("chunks_in_flight", c_uint32),
        ("cache_bytes", c_uint64),
        ("prefetch_bytes", c_uint64),
        ("cuda_device", c_int32),
        ("heartbeat", c_uint64),
        ("liveness_limit", c_uint64),
        ("progress_limit", c_uint64),
        ("progress_warning", c_uint64),
    ]
    _defaults_ = {"cuda_device": DEVICE_CURRENT}


class ContextInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("rank", c_uint32),
        ("world_size", c_uint32),
        ("node", c_uint32),
        ("node_count", c_uint32),
        ("node_rank", c_uint32),
        ("node_size", c_uint32),
    ]


class RankInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("rank", c_uint32),
        ("node", c_uint32),
        ("alive", c_uint32),
        ("host", c_char * 64),
        ("transport", c_char * 32),
    ]


class Counters(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("experts_home", c_uint64),
        ("experts_node_mapped", c_uint64),
        ("experts_node_copied", c_uint64),
        ("experts_cache", c_uint64),
        ("experts_network", c_uint64),
        ("experts_failed", c_uint64),
        ("bytes_node_copied", c_uint64),
        ("bytes_network_received", c_uint64),
        ("bytes_network_sent", c_uint64),
        ("prefetch_bytes_wasted", c_uint64),
        ("cache_bytes_capacity", c_uint64),
        ("cache_bytes_used", c_uint64),
        ("cache_hits", c_uint64),
        ("cache_misses", c_uint64),
        ("cache_evicted", c_uint64),
        ("cache_bypassed", c_uint64),
        ("cache_overdue", c_uint64),
        ("experts_node_gpu", c_uint64),
        ("bytes_node_gpu", c_uint64),
        ("bytes_network_direct", c_uint64),
    ]


class Traffic(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("lane", c_char * 32),
        ("urgency", c_int),
        ("path", c_int),
        ("chunks_started", c_uint64),
        ("chunks_done", c_uint64),
        ("chunks_failed", c_uint64),
        ("bytes", c_uint64),
        ("nanoseconds", c_uint64),
    ]


class GroupInfo(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("count", c_uint32), ("index", c_uint32)]


class MemoryInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("address", c_void_p),
        ("bytes", c_uint64),
        ("kind", c_int),
        ("mappable", c_uint32),
    ]


class Segment(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char_p),
        ("bytes", c_uint64),
        ("alignment", c_uint64),
        ("weight_type", c_int),
        ("gradient_type", c_int),
    ]
    _defaults_ = {"weight_type": int(Dtype.BYTES)}


class Placement(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("base", c_void_p), ("stride", c_uint64), ("pointers", POINTER(c_void_p))]


class LayerDesc(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("layer_id", c_uint32),
        ("num_experts", c_uint32),
        ("segments", POINTER(Segment)),
        ("num_segments", c_uint32),
        ("num_local", c_uint32),
        ("local_experts", POINTER(c_uint32)),
        ("local_is_home", POINTER(c_uint8)),
        ("placements", POINTER(Placement)),
        ("slab", Slab),
    ]


class LayerInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("layer_id", c_uint32),
        ("num_experts", c_uint32),
        ("num_segments", c_uint32),
        ("expert_bytes", c_uint64),
    ]


class ExpertInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("home", c_uint32),
        ("source", c_uint32),
        ("path", c_int),
        ("published", c_uint64),
    ]


class ExpertEntry(ctypes.Structure):
    _fields_ = [
        ("version", c_uint64),
        ("slot", c_int32),
        ("reserved", c_uint32),
        ("segments", POINTER(c_void_p)),
    ]


class DeviceTable(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("slots", c_void_p),
        ("versions", c_void_p),
        ("segments", c_void_p),
        ("num_experts", c_uint32),
        ("num_segments", c_uint32),
    ]


class ExpertTable(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("entries", POINTER(ExpertEntry)),
        ("num_experts", c_uint32),
        ("num_segments", c_uint32),
    ]


class SlabDesc(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("segments", POINTER(Segment)),
        ("num_segments", c_uint32),
        ("num_slots", c_uint32),
        ("first_slot", c_uint32),
        ("placements", POINTER(Placement)),
        ("kind", c_int),
    ]


class SlabInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("num_slots", c_uint32),
        ("first_slot", c_uint32),
        ("free_slots", c_uint32),
        ("base", c_void_p * MAX_SEGMENTS),
        ("stride", c_uint64 * MAX_SEGMENTS),
        ("kind", c_int),
    ]


class FinishDesc(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("contributes", POINTER(c_uint8)),
        ("micro_batches", c_uint32),
        ("stream", c_void_p),
    ]


class View(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("id", c_uint64),
        ("status", c_int),
        ("expert", c_uint32),
        ("version", c_uint64),
        ("slot", c_int32),
        ("path", c_int),
        ("source", c_uint32),
        ("num_segments", c_uint32),
        ("segments", c_void_p * MAX_SEGMENTS),
        ("ready_ns", c_uint64),
        ("source_alive", c_uint32),
        ("reserved", c_uint32),
    ]
    _defaults_ = {"expert": NO_EXPERT, "slot": NO_SLOT, "source": NO_RANK}


class FetchDesc(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("version", c_uint64),
        ("experts", POINTER(c_uint32)),
        ("num_experts", c_uint32),
        ("flags", c_uint32),
        ("segment_mask", c_uint64),
        ("slab", Slab),
        ("on_ready", READY_FN),
        ("user", c_void_p),
        ("stream", c_void_p),
        ("deadline", c_uint64),
    ]


class FetchInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("num_experts", c_uint32),
        ("ready", c_uint32),
        ("delivered", c_uint32),
        ("failed", c_uint32),
        ("parked", c_uint32),
        ("starved", c_uint32),
        ("moving", c_uint32),
    ]


# The header's structs by their C names.
STRUCTS: Dict[str, Type[ctypes.Structure]] = {
    "cardea_error_info_t": ErrorInfo,
    "cardea_version_info_t": VersionInfo,
    "cardea_context_t": Context,
    "cardea_group_t": Group,
    "cardea_layer_t": Layer,
    "cardea_memory_t": Memory,
    "cardea_slab_t": Slab,
    "cardea_fetch_t": Fetch,
    "cardea_unique_id_t": UniqueId,
    "cardea_config_t": Config,
    "cardea_context_info_t": ContextInfo,
    "cardea_rank_info_t": RankInfo,
    "cardea_counters_t": Counters,
    "cardea_traffic_t": Traffic,
    "cardea_group_info_t": GroupInfo,
    "cardea_memory_info_t": MemoryInfo,
    "cardea_segment_t": Segment,
    "cardea_placement_t": Placement,
    "cardea_layer_desc_t": LayerDesc,
    "cardea_layer_info_t": LayerInfo,
    "cardea_expert_info_t": ExpertInfo,
    "cardea_expert_entry_t": ExpertEntry,
    "cardea_expert_table_t": ExpertTable,
    "cardea_device_table_t": DeviceTable,
    "cardea_slab_desc_t": SlabDesc,
    "cardea_slab_info_t": SlabInfo,
    "cardea_finish_desc_t": FinishDesc,
    "cardea_view_t": View,
    "cardea_fetch_desc_t": FetchDesc,
    "cardea_fetch_info_t": FetchInfo,
}

# Functions: their arguments. All return cardea_status_t but those in STRINGS.
FUNCTIONS: Dict[str, List[Any]] = {
    "cardea_status_string": [c_int],
    "cardea_path_string": [c_int],
    "cardea_last_error": [POINTER(ErrorInfo)],
    "cardea_version": [POINTER(VersionInfo)],
    "cardea_unique_id_create": [c_char_p, POINTER(UniqueId)],
    "cardea_context_create": [POINTER(Config), POINTER(Context)],
    "cardea_context_destroy": [Context],
    "cardea_context_abort": [Context],
    "cardea_context_query": [Context, POINTER(ContextInfo)],
    "cardea_rank_query": [Context, c_uint32, POINTER(RankInfo)],
    "cardea_event_descriptor": [Context, POINTER(c_int)],
    "cardea_event_clear": [Context],
    "cardea_counters_query": [Context, POINTER(Counters)],
    "cardea_class_string": [c_int],
    "cardea_traffic_query": [Context, POINTER(Traffic), c_uint32, POINTER(c_uint32)],
    "cardea_metrics_text": [Context, POINTER(c_char), c_size_t, POINTER(c_size_t)],
    "cardea_dump_text": [Context, c_char_p, POINTER(c_char), c_size_t, POINTER(c_size_t)],
    "cardea_group_create": [Context, POINTER(c_uint32), c_uint32, POINTER(Group)],
    "cardea_group_destroy": [Group],
    "cardea_group_query": [Group, POINTER(GroupInfo)],
    "cardea_memory_alloc": [Context, c_uint64, c_int, POINTER(Memory)],
    "cardea_memory_register": [Context, c_void_p, c_uint64, c_int, POINTER(Memory)],
    "cardea_memory_query": [Memory, POINTER(MemoryInfo)],
    "cardea_memory_free": [Memory],
    "cardea_memory_wait_unmapped": [Context, c_void_p, c_uint64, c_uint64],
    "cardea_layer_create": [Group, POINTER(LayerDesc), POINTER(Layer)],
    "cardea_layer_destroy": [Layer],
    "cardea_layer_query": [Layer, POINTER(LayerInfo)],
    "cardea_expert_query": [Layer, c_uint32, POINTER(ExpertInfo)],
    "cardea_layer_table": [Layer, POINTER(ExpertTable)],
    "cardea_layer_device_table": [Layer, POINTER(DeviceTable)],
    "cardea_slab_create": [Context, POINTER(SlabDesc), POINTER(Slab)],
    "cardea_slab_destroy": [Slab],
    "cardea_slab_query": [Slab, POINTER(SlabInfo)],
    "cardea_publish": [Layer, c_uint64, c_void_p],
    "cardea_finish": [Layer, c_uint64, POINTER(FinishDesc)],
    "cardea_collect": [Layer, c_uint64, c_void_p, c_uint64],
    "cardea_fetch": [Layer, POINTER(FetchDesc), POINTER(Fetch)],
    "cardea_prefetch": [Layer, POINTER(FetchDesc), POINTER(Fetch)],
    "cardea_next": [Fetch, POINTER(View), c_uint32, POINTER(c_uint32), c_uint64],
    "cardea_wait": [Fetch, c_uint64],
    "cardea_fetch_query": [Fetch, POINTER(FetchInfo)],
    "cardea_cancel": [Fetch],
    "cardea_fetch_destroy": [Fetch],
    "cardea_release": [POINTER(View), c_uint32],
}
STRINGS = ("cardea_status_string", "cardea_path_string", "cardea_class_string")

S = TypeVar("S", bound=ctypes.Structure)


def init(struct: Type[S]) -> S:
    """A struct as its ``_INIT`` macro makes it: sized, and with the defaults that are not zero."""
    made = struct()
    if "size" in dict((field[0], None) for field in struct._fields_):
        made.size = ctypes.sizeof(struct)
    for name, value in getattr(struct, "_defaults_", {}).items():
        setattr(made, name, value)
    return made


def numbers(struct: ctypes.Structure) -> Dict[str, int]:
    """The fields of a struct of numbers, without its size."""
    return {field[0]: getattr(struct, field[0]) for field in struct._fields_ if field[0] != "size"}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Gives every function of the library its types; AttributeError if it lacks one."""
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = c_char_p if name in STRINGS else c_int
    return library
