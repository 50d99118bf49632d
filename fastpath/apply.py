"""Carries the steps of plan.py out: the engine, the keeper's devices, the state memory.

Owns the engine, the fds of ports and regions, slots and outcomes. Single-threaded. Nothing here
waits: a device that the keeper has to open is asked for, and its answer starts the next pass. What
fails leaves its outcome and is tried again by the next :meth:`Applier.reconcile`, which the server
calls once a second and on every link event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fastpath import channel, check, plan
from fastpath.channel import Bundle, close_all
from fastpath.native import (
    NO_BRIDGE,
    Engine,
    NativeError,
    PlacedBridge,
    PlacedPort,
    PortStatus,
    fdb_bytes,
)
from fastpath.protocol import Outcome, WireBridge, WireObject, WirePort, WireStatic
from fastpath.regions import FDB_PREFIX, State, StateStore, StateTooLarge, make_region

ANSWER_S = 5.0
FDB_READ_ROWS = 1024

HINTS = {
    "IFACE_NOT_FOUND": "the port comes up by itself when the interface appears",
    "IFACE_DENIED": "start the keeper with --allow for this name",
    "PRIVILEGE": "start as root, or with the capabilities NET_ADMIN and NET_RAW",
    "KEEPER_ABSENT": "start the keeper; the port comes up by itself then",
    "NETNS_NOT_FOUND": "make it with: ip netns add NAME",
}


def outcome_of(error: NativeError) -> Outcome:
    """A refusal as the API shows it."""
    return Outcome(error.name, error.message, HINTS.get(error.name, ""))


@dataclass(slots=True)
class HeldPort:
    """A bundle and our copies of its fds."""

    bundle: Bundle
    fds: list[int]

    @property
    def device(self) -> plan.Device:
        return plan.device_of(self.bundle.type, self.bundle.options)


@dataclass(slots=True)
class _Asked:
    name: str
    deadline: float


@dataclass(slots=True)
class _Live:
    """What the engine has."""

    bridges: dict[str, WireBridge] = field(default_factory=dict)
    ports: dict[str, plan.Device] = field(default_factory=dict)
    statics: dict[str, WireStatic] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    ifindexes: dict[str, int] = field(default_factory=dict)
    published: tuple[list[PlacedBridge], list[PlacedPort]] | None = None


Send = Callable[[channel.Message, Sequence[int]], bool]
Notify = Callable[[str, str, str], None]


class Applier:
    """Makes the engine run the wanted configuration.

    ``send`` hands a message to the keeper and is False when there is none; ``notify(kind, object,
    message)`` tells whoever listens.
    """

    def __init__(
        self,
        engine: Engine,
        store: StateStore,
        state: State,
        limits: Mapping[str, int],
        send: Send,
        notify: Notify,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._store = store
        self._limits = limits
        self._send = send
        self._notify = notify
        self._now = now
        self.revision = state.revision
        self.hash = state.hash
        self.generation = state.generation
        self.objects: dict[str, WireObject] = {obj.key: obj for obj in state.objects}
        self.bridge_slots = dict(state.bridge_slots)
        self.port_slots = dict(state.port_slots)
        self.outcomes: dict[str, Outcome] = {}
        self.held: dict[str, HeldPort] = {}
        self.regions: dict[str, int] = {}
        self._live = _Live()
        self._asked: dict[int, _Asked] = {}
        self._last_id = 0
        self._saved: State | None = None
        self.wanted = self._valid()

    # --- what the server asks -------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """No device of this configuration is being opened (or the keeper took too long)."""
        return all(asked.deadline <= self._now() for asked in self._asked.values())

    @property
    def attached(self) -> Mapping[str, plan.Device]:
        return self._live.ports

    @property
    def bridges(self) -> Mapping[str, WireBridge]:
        return self._live.bridges

    @property
    def lost(self) -> set[str]:
        return self._live.lost

    def outcome(self, key: str) -> Outcome:
        """ "" when the object is in force."""
        return self.outcomes.get(key, Outcome())

    def status(self, name: str) -> PortStatus | None:
        """What the engine sees of an attached port."""
        if name not in self._live.ports:
            return None
        try:
            return self.engine.port_status(self.port_slots[name])
        except NativeError:
            return None

    def change(self, objects: dict[str, WireObject], revision: int, hash: bytes) -> None:
        """Want this from now on; it survives this process before the first step is taken.

        StateTooLarge leaves everything as it is.
        """
        before = (self.objects, self.revision, self.hash)
        self.objects, self.revision, self.hash = objects, revision, hash
        try:
            self._save()
        except StateTooLarge:
            self.objects, self.revision, self.hash = before
            raise
        for key in self.outcomes.keys() - objects.keys():
            del self.outcomes[key]
        self.wanted = self._valid()
        self.reconcile()

    def _valid(self) -> plan.Wanted:
        """The objects that the engine can take; the others say why not."""
        taken: dict[str, WireObject] = {}
        for key, obj in self.objects.items():
            text = check.problem(obj, self._limits["fdb_entries_max"])
            if text:
                self._fail(key, Outcome("INVALID", text))
            else:
                taken[key] = obj
        return plan.Wanted.of(taken)

    # --- taking over ----------------------------------------------------------------------------

    def adopt(self, held: dict[str, HeldPort], regions: dict[str, int]) -> None:
        """Go on with what the last forwarder left; call once, before anything else."""
        self.held = held
        self.regions = regions
        self._retire_unwanted()
        self.reconcile()

    def _retire_unwanted(self) -> None:
        """Counters of ports that were going when the last forwarder died: into the total."""
        for name in self.port_slots.keys() - self.wanted.ports.keys():
            slot = self.port_slots[name]
            try:
                self.engine.port_add(slot, name, "null", {}, [], "")
                self.engine.port_remove(slot, keep_counters=False)
            except NativeError as error:
                self._notify("retire_failed", f"port/{name}", error.message)
                continue
            del self.port_slots[name]
        for name in self.bridge_slots.keys() - self.wanted.bridges.keys():
            del self.bridge_slots[name]
            self._forget_region(name)

    # --- the keeper's answers and news ----------------------------------------------------------

    def acquired(self, answer: channel.Acquired, fds: list[int]) -> None:
        """A device was opened or refused. Late answers count too: what is held is used."""
        self._asked.pop(answer.id, None)
        key = f"port/{answer.name}"
        if answer.bundle is None:
            close_all(fds)
            self._fail(key, Outcome(answer.code, answer.message, HINTS.get(answer.code, "")))
        else:
            old = self.held.pop(answer.name, None)
            if old is not None:
                close_all(old.fds)
            self.held[answer.name] = HeldPort(answer.bundle, fds)
            self.reconcile()

    def keeper_gone(self) -> None:
        """What was asked is not coming."""
        for asked in self._asked.values():
            self._fail(f"port/{asked.name}", _absent())
        self._asked.clear()

    def interface_gone(self, ifindex: int) -> None:
        """The kernel removed an interface: ports on it have to be opened anew."""
        for name in self.ports_on(ifindex):
            self._lose(name)

    def ports_on(self, ifindex: int) -> list[str]:
        """Attached ports whose device is this kernel interface."""
        return [name for name, index in self._live.ifindexes.items() if index == ifindex]

    def find_lost(self) -> None:
        """Ask the drivers whether their devices are still there."""
        for name in list(self._live.ports):
            status = self.status(name)
            if status is not None and status.lost:
                self._lose(name)

    def _lose(self, name: str) -> None:
        if name not in self._live.lost:
            self._live.lost.add(name)
            self._fail(
                f"port/{name}",
                Outcome("IFACE_LOST", "the interface is gone", HINTS["IFACE_NOT_FOUND"]),
            )
            self._notify("lost", f"port/{name}", "the interface is gone")

    # --- reconciling ----------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Take every step that can be taken now."""
        while self._pass():
            pass
        self._save()

    def _pass(self) -> bool:
        """One pass; True when something went that may have stood in the way of something."""
        steps = plan.plan(self._actual(), self.wanted)
        freed = False
        for step in steps:
            try:
                self._do(step)
            except NativeError as error:
                key = _key(step)
                if key is None:
                    self._fail_all(error)
                    return False
                self._fail(key, outcome_of(error))
            else:
                freed = freed or isinstance(step, plan.DropPort | plan.DropBridge)
        return freed

    def _actual(self) -> plan.Actual:
        return plan.Actual(
            bridges={name: b.fdb_entries_max for name, b in self._live.bridges.items()},
            ports=self._live.ports,
            held={name: held.device for name, held in self.held.items()},
            statics=self._live.statics,
            lost=self._live.lost & self._live.ports.keys(),
            asked={asked.name for asked in self._asked.values()},
        )

    def _do(self, step: plan.Step) -> None:
        match step:
            case plan.Publish():
                self._publish(step)
            case plan.AddBridge(bridge):
                self._add_bridge(bridge)
            case plan.DropBridge(name):
                self._drop_bridge(name)
            case plan.Acquire(port):
                self._acquire(port)
            case plan.Attach(port):
                self._attach(port)
            case plan.DropPort(name, keep_counters):
                self._drop_port(name, keep_counters)
            case plan.Release(name):
                self._release(name)
            case plan.SetStatic(static):
                self._set_static(static)
            case plan.ClearStatic(static):
                self._clear_static(static)

    def _publish(self, step: plan.Publish) -> None:
        bridges = [
            PlacedBridge(self.bridge_slots[name], spec)
            for name, spec in self.wanted.bridges.items()
            if name in self._live.bridges and name not in step.without_bridges
        ]
        placed = {bridge.spec.name: bridge.slot for bridge in bridges}
        ports = [
            PlacedPort(self.port_slots[name], spec, placed.get(spec.bridge or "", NO_BRIDGE))
            for name, spec in self.wanted.ports.items()
            if name in self._live.ports and name not in step.without_ports
        ]
        if (bridges, ports) == self._live.published:
            return
        self.generation += 1
        self.engine.publish(self.generation, bridges, ports)
        self._live.published = (bridges, ports)
        for bridge in bridges:
            self._succeed(bridge.spec.key)
        for port in ports:
            missing = port.spec.bridge is not None and port.bridge == NO_BRIDGE
            if missing:
                text = f"bridge {port.spec.bridge} is not there"
                self._fail(port.spec.key, Outcome("BRIDGE_ABSENT", text))
            else:
                self._succeed(port.spec.key)

    def _add_bridge(self, bridge: WireBridge) -> None:
        name = bridge.name
        slot = self._slot(self.bridge_slots, name, self._limits["bridges_max"], "bridges")
        if name in self.regions and self._take_over_bridge(slot, bridge):
            return
        fd = make_region(f"fdb-{name}", fdb_bytes(bridge.fdb_entries_max))
        try:
            self.engine.bridge_add(slot, name, bridge.fdb_entries_max, fd)
        except NativeError:
            close_all([fd])
            raise
        self.regions[name] = fd
        self._send(channel.Region(FDB_PREFIX + name), [fd])
        self._live.bridges[name] = bridge

    def _take_over_bridge(self, slot: int, bridge: WireBridge) -> bool:
        """Go on with the table the last forwarder left; False: it is of no use."""
        name = bridge.name
        try:
            self.engine.bridge_add(slot, name, bridge.fdb_entries_max, self.regions[name])
        except NativeError as error:
            self._notify("fdb_lost", bridge.key, error.message)
            self._forget_region(name)
            return False
        self._live.bridges[name] = bridge
        self._find_statics(name)
        return True

    def _find_statics(self, bridge: str) -> None:
        """A table that was taken over may hold static entries: those we no longer want go."""
        names = {slot: name for name, slot in self.port_slots.items()}
        cursor = 0
        while True:
            rows, cursor = self.engine.fdb_dump(self.bridge_slots[bridge], cursor, FDB_READ_ROWS)
            for row in rows:
                if row.static:
                    static = WireStatic(bridge, row.mac, row.vid, names.get(row.port, ""))
                    self._live.statics[static.key] = static
            if cursor == 0:
                return

    def _drop_bridge(self, name: str) -> None:
        self.engine.bridge_remove(self.bridge_slots[name])
        del self._live.bridges[name]
        self._live.statics = {
            key: static for key, static in self._live.statics.items() if static.bridge != name
        }
        self._forget_region(name)
        if name not in self.wanted.bridges:
            del self.bridge_slots[name]

    def _forget_region(self, bridge: str) -> None:
        fd = self.regions.pop(bridge, None)
        if fd is not None:
            close_all([fd])
            self._send(channel.Forget(FDB_PREFIX + bridge), [])

    def _acquire(self, port: WirePort) -> None:
        if port.name in self._live.ports:
            return  # could not be detached; the next pass tries again
        if port.name in self.held:
            self._fail(port.key, _absent())  # nobody took the old device back
            return
        self._slot(self.port_slots, port.name, self._limits["ports_max"], "ports")
        self._last_id += 1
        request = channel.Acquire(self._last_id, port.name, port.type, port.options)
        if not self._send(request, []):
            self._fail(port.key, _absent())
            return
        self._asked[request.id] = _Asked(port.name, self._now() + ANSWER_S)

    def _attach(self, port: WirePort) -> None:
        slot = self._slot(self.port_slots, port.name, self._limits["ports_max"], "ports")
        held = self.held[port.name]
        bundle = held.bundle
        self.engine.port_add(
            slot, port.name, bundle.driver, bundle.driver_options, held.fds, bundle.state
        )
        self._live.ports[port.name] = held.device
        status = self.status(port.name)
        self._live.ifindexes[port.name] = status.ifindex if status else 0
        if port.name in self._live.lost:
            self._live.lost.discard(port.name)
            self._notify("recovered", port.key, "the interface is back")

    def _drop_port(self, name: str, keep_counters: bool) -> None:
        self.engine.port_remove(self.port_slots[name], keep_counters=keep_counters)
        del self._live.ports[name]
        self._live.ifindexes.pop(name, None)
        if not keep_counters:
            del self.port_slots[name]
            self._live.lost.discard(name)

    def _release(self, name: str) -> None:
        if name in self._live.ports:
            return  # could not be detached; the next pass tries again
        held = self.held.get(name)
        if held is None or not self._send(channel.Release(name), []):
            return  # a new keeper gets it and is told again
        close_all(self.held.pop(name).fds)

    def _set_static(self, static: WireStatic) -> None:
        if static.bridge not in self._live.bridges or static.port not in self._live.ports:
            text = f"bridge {static.bridge} or port {static.port} is not there"
            self._fail(static.key, Outcome("PORT_ABSENT", text))
            return
        self.engine.fdb_set_static(
            self.bridge_slots[static.bridge], static.mac, static.vid, self.port_slots[static.port]
        )
        self._live.statics[static.key] = static
        self._succeed(static.key)

    def _clear_static(self, static: WireStatic) -> None:
        slot = self.bridge_slots[static.bridge]
        try:
            self.engine.fdb_clear_static(slot, static.mac, static.vid)
        finally:
            self._live.statics.pop(static.key, None)

    # --- helpers --------------------------------------------------------------------------------

    def _slot(self, slots: dict[str, int], name: str, limit: int, what: str) -> int:
        """The object's number; a new one is kept before it is used for the first time."""
        if name not in slots:
            slot = plan.free_slot(slots, limit)
            if slot is None:
                raise NativeError(28, "LIMIT", f"{limit} {what} are the limit")
            slots[name] = slot
            self._save()
        return slots[name]

    def _save(self) -> None:
        state = State(
            self.revision,
            self.hash,
            self.generation,
            tuple(self.objects.values()),
            dict(self.bridge_slots),
            dict(self.port_slots),
        )
        if state != self._saved:
            self._store.save(state)
            self._saved = state

    def _fail(self, key: str, outcome: Outcome) -> None:
        if key in self.objects and self.outcomes.get(key) != outcome:
            self.outcomes[key] = outcome
            self._tell("failed", key, outcome.message)

    def _succeed(self, key: str) -> None:
        if self.outcomes.pop(key, None) is not None:
            self._tell("in_force", key, "")

    def _tell(self, kind: str, key: str, message: str) -> None:
        """Static entries come in thousands: their outcomes are in the answer, not in events."""
        if not key.startswith("static/"):
            self._notify(kind, key, message)

    def _fail_all(self, error: NativeError) -> None:
        """The engine kept the old configuration: nothing that differs from it is in force."""
        for key in self.objects:
            if not key.startswith("static/"):
                self._fail(key, outcome_of(error))


def _absent() -> Outcome:
    return Outcome("KEEPER_ABSENT", "no keeper is there to open it", HINTS["KEEPER_ABSENT"])


def _key(step: plan.Step) -> str | None:
    """The object a step is about; None for the whole configuration."""
    match step:
        case plan.Publish():
            return None
        case plan.AddBridge(bridge):
            return bridge.key
        case plan.Acquire(port) | plan.Attach(port):
            return port.key
        case plan.SetStatic(static) | plan.ClearStatic(static):
            return static.key
        case plan.DropBridge(name):
            return f"bridge/{name}"
        case plan.DropPort(name, _) | plan.Release(name):
            return f"port/{name}"
