"""What the engine tells, as Python sees it. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """``struct port_counters``; drops by reason, only those that happened."""

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    copies: int
    segments: int
    originated: int
    consumed: int
    kernel_drops: int
    learned: int
    moved: int
    zero_copy: int
    rx_drops: dict[str, int]
    tx_drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """``struct worker_counters``."""

    batches: int
    sleeps: int
    busy_ns: int


@dataclass(frozen=True, slots=True)
class PortStatus:
    """``struct port_status``; ``mac`` as six pairs with colons, "" when there is none."""

    link_up: bool
    lost: bool
    mtu: int
    ifindex: int
    mac: str
    caps: tuple[str, ...]
    detail: str
    rx_queues: int
    tx_queues: int
    mem_region: int


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """``struct fdb_row``; ``port`` is a slot."""

    mac: str
    vid: int
    port: int
    static: bool
    age_s: int
    moves: int


@dataclass(frozen=True, slots=True)
class TraceStep:
    """``struct trace_step``; enums by their words, ports and sets as slots (None: none)."""

    stage: str
    result: str
    reason: str
    edit: str
    port: int | None
    to: int | None
    vid: int
    default_of: int | None
    bytes: int
    limit: int
    rules: tuple[TraceRule, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class TraceRule:
    """``struct trace_rule``: ``value`` and ``mask`` of the alternative it was measured by."""

    set: int
    id: str
    action: str
    field: str
    value: dict[str, int | bytes]
    mask: dict[str, int | bytes]
    l4_src: tuple[int, int]
    l4_dst: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TraceReading:
    """``struct trace``. ``key``: ``struct flow_key`` by member."""

    generation: int
    key: dict[str, int | bytes]
    steps: tuple[TraceStep, ...]
    truncated: bool
