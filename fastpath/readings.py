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
    tags_unseen: bool
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
