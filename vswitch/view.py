"""What the control plane knows of the forwarder, as one immutable value, and what it may ask.

The reconcile loop makes views, services read them; neither imports the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from fastpath.protocol import (
    Analysed,
    BridgeState,
    ClientRow,
    ClientRows,
    ConnectionQuery,
    Connections,
    Fdb,
    PolicerState,
    PortState,
    RuleCounters,
    RuleSetState,
    Stats,
    Status,
    Traced,
    Welcome,
)
from vswitch.kinds import Configuration, Key, switches

FRESH_S = 3.5
"""A forwarder not heard of for so long does not count as forwarding."""
PENDING = "PENDING"
"""Outcome of a port whose device is being opened."""


class ForwarderError(Exception):
    """A question could not be answered. ``refused``: the forwarder's code when it said no."""

    def __init__(self, message: str, *, refused: str = "") -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class View:
    """``applied``: the configuration in force; None until that is known. ``clients``: by port, the
    netmap programs that have it open, where it is a port of the configuration."""

    connected: bool = False
    why: str = "the forwarder has not been reached yet"
    seen_at: float = 0.0
    applied: Configuration | None = None
    welcome: Welcome | None = None
    status: Status | None = None
    ports: Mapping[str, PortState] = field(default_factory=lambda: MappingProxyType({}))
    bridges: Mapping[str, BridgeState] = field(default_factory=lambda: MappingProxyType({}))
    rulesets: Mapping[str, RuleSetState] = field(default_factory=lambda: MappingProxyType({}))
    policers: Mapping[str, PolicerState] = field(default_factory=lambda: MappingProxyType({}))
    clients: Mapping[str, tuple[ClientRow, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def fresh(self) -> bool:
        return self.connected and time.monotonic() - self.seen_at < FRESH_S

    @property
    def kernel_vale(self) -> bool:
        """Has the kernel VALE switches? So where `netmap` ports work."""
        return self.welcome is not None and self.welcome.port_types.get("netmap") == ""

    @property
    def emulated_netmap(self) -> bool:
        """Can netmap programs open ports of ours?"""
        return self.welcome is not None and self.welcome.port_types.get("client") == ""

    @property
    def pending(self) -> bool:
        """Some device is still being opened."""
        return any(state.outcome.code == PENDING for state in self.ports.values())

    def in_force(self, revision: int, key: Key) -> bool:
        """The revision, or a later one, is applied, and the object's device has been tried."""
        if not self.connected or self.applied is None or self.applied.revision < revision:
            return False
        return not any(state.outcome.code == PENDING for state in self.port_states(key))

    def port_states(self, key: Key) -> list[PortState]:
        """What the forwarder says of a port: two words where it is also a port of a switch."""
        stored = self.applied.get(key) if self.applied and key.kind == "port" else None
        names = [key.name] if key.kind == "port" else []
        if stored is not None and (joined := switches.joins(stored.spec)) is not None:
            names.append(joined.full_name)
        return [self.ports[name] for name in names if name in self.ports]


class Forwarder(Protocol):
    """What services need of the reconcile loop. Requests raise ForwarderError."""

    @property
    def view(self) -> View: ...

    def wait(self, fits: Callable[[View], bool], timeout_s: float) -> bool:
        """True as soon as a view fits, False when time is up."""

    def stats(self) -> Stats: ...

    def fdb(self, bridge: str, cursor: int, limit: int) -> Fdb: ...

    def flush_fdb(self, bridge: str, port: str | None, vid: int | None) -> int: ...

    def connections(self, query: ConnectionQuery, cursor: int, limit: int) -> Connections: ...

    def flush_connections(self, query: ConnectionQuery) -> int: ...

    def clients(self, cursor: int, limit: int) -> ClientRows: ...

    def evict_client(self, client: int) -> None: ...

    def analyse(self, ruleset: str, cursor: int) -> Analysed: ...

    def trace(self, in_port: str, frame: bytes, state: str) -> Traced: ...

    def rule_counters(self, ruleset: str, cursor: int, limit: int) -> RuleCounters: ...
