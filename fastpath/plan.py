"""What has to happen so that the engine runs what is wanted. Pure: no I/O, no engine.

Level-triggered: :func:`plan` looks at what is there and what is wanted and knows no history, so
that a step that failed is simply planned again. The order of one pass:

  new bridges → publish without what goes → statics, ports, bridges go → changed bridges come
  → devices are asked for or attached → publish → statics come

A port whose type or options changed, whose device vanished, or a bridge whose table size changed
goes and comes again; it keeps its slot and its counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from fastpath.protocol import WireBridge, WirePort, WireStatic

SwitchObject = WireBridge | WirePort | WireStatic
Device = tuple[str, tuple[tuple[str, str], ...]]


def device(port: WirePort) -> Device:
    """What makes two ports need two devices."""
    return device_of(port.type, port.options)


def device_of(type: str, options: Mapping[str, str]) -> Device:
    return type, tuple(sorted(options.items()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A configuration, by name; statics by key."""

    bridges: Mapping[str, WireBridge] = field(default_factory=dict)
    ports: Mapping[str, WirePort] = field(default_factory=dict)
    statics: Mapping[str, WireStatic] = field(default_factory=dict)


@dataclass(slots=True)
class Locals:
    """What is wanted besides the configuration: ports of netmap programs that nobody declared.

    What the configuration has of the same name goes before.
    """

    bridges: dict[str, WireBridge] = field(default_factory=dict)
    ports: dict[str, WirePort] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Actual:
    """What the engine and the keeper have now.

    bridges: name -> entries_max it was made with; ports: name -> device it is attached to;
    held: name -> device whose fds are here; lost: attached ports whose device is gone;
    asked: ports the keeper is opening a device for; worn: ports whose device must go.
    """

    bridges: Mapping[str, int]
    ports: Mapping[str, Device]
    held: Mapping[str, Device]
    statics: Mapping[str, WireStatic]
    lost: Set[str] = frozenset()
    asked: Set[str] = frozenset()
    worn: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish what is wanted of what is there, without these."""

    without_ports: frozenset[str] = frozenset()
    without_bridges: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AddBridge:
    bridge: WireBridge


@dataclass(frozen=True, slots=True)
class DropBridge:
    name: str


@dataclass(frozen=True, slots=True)
class Acquire:
    port: WirePort


@dataclass(frozen=True, slots=True)
class Attach:
    port: WirePort


@dataclass(frozen=True, slots=True)
class DropPort:
    name: str
    keep_counters: bool


@dataclass(frozen=True, slots=True)
class Release:
    """Give the device back to the keeper."""

    name: str


@dataclass(frozen=True, slots=True)
class SetStatic:
    static: WireStatic


@dataclass(frozen=True, slots=True)
class ClearStatic:
    static: WireStatic


Step = (
    Publish
    | AddBridge
    | DropBridge
    | Acquire
    | Attach
    | DropPort
    | Release
    | SetStatic
    | ClearStatic
)


def plan(actual: Actual, wanted: Wanted) -> list[Step]:
    """One pass of steps from ``actual`` towards ``wanted``; the last one always publishes."""
    gone_bridges = {
        name
        for name, entries in actual.bridges.items()
        if name not in wanted.bridges or wanted.bridges[name].fdb_entries_max != entries
    }
    gone_ports = {
        name
        for name, had in actual.ports.items()
        if name in actual.lost or name in actual.worn or not _same_device(wanted, name, had)
    }
    gone_held = {
        name
        for name, had in actual.held.items()
        if name in gone_ports or name in actual.worn or not _same_device(wanted, name, had)
    }
    steps: list[Step] = []
    added = [b for name, b in wanted.bridges.items() if name not in actual.bridges]
    steps += [AddBridge(bridge) for bridge in added]
    if gone_ports or gone_bridges:
        steps.append(Publish(frozenset(gone_ports), frozenset(gone_bridges)))
    gone_statics = _gone_statics(actual, wanted, gone_ports, gone_bridges)
    steps += [ClearStatic(actual.statics[key]) for key in gone_statics]
    steps += [DropPort(name, name in wanted.ports) for name in sorted(gone_ports)]
    steps += [Release(name) for name in sorted(gone_held)]
    steps += [DropBridge(name) for name in sorted(gone_bridges)]
    steps += [AddBridge(bridge) for name, bridge in wanted.bridges.items() if name in gone_bridges]
    for name, port in wanted.ports.items():
        if (name in actual.ports and name not in gone_ports) or name in actual.asked:
            continue
        held = name in actual.held and name not in gone_held
        steps.append(Attach(port) if held else Acquire(port))
    steps.append(Publish())
    steps += [
        SetStatic(static)
        for key, static in wanted.statics.items()
        if key in gone_statics or actual.statics.get(key) != static
    ]
    return steps


def _same_device(wanted: Wanted, name: str, had: Device) -> bool:
    port = wanted.ports.get(name)
    return port is not None and device(port) == had


def _gone_statics(
    actual: Actual, wanted: Wanted, gone_ports: Set[str], gone_bridges: Set[str]
) -> set[str]:
    return {
        key
        for key, static in actual.statics.items()
        if wanted.statics.get(key) != static
        or static.port in gone_ports
        or static.bridge in gone_bridges
    }


def free_slot(taken: Mapping[str, int], limit: int) -> int | None:
    """The lowest number below ``limit`` that nobody has."""
    used = set(taken.values())
    return next((slot for slot in range(limit) if slot not in used), None)
