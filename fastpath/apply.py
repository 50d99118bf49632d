"""Carries the steps of plan.py out: the engine, the keeper's devices, the state memory.

Owns the engine's ports, the fds of their devices, numbers and outcomes. Single-threaded. Nothing
here waits: a device that the keeper has to open is asked for, and its answer starts the next pass.
What fails leaves its outcome and is tried again by the next :meth:`Applier.reconcile`, which the
forwarder calls once a second and on every link event.

The order of a change: it is kept in the state memory; its rules are compiled, a portion at a time
(:meth:`Applier.work`), and published, so that no port meets frames before its rules do; then come
the steps for bridges, ports and static entries; then rules go that only those held. A change of
rules alone takes no step of the plan.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fastpath import channel, check, outcomes, plan, rule_objects, rule_sets
from fastpath.channel import Bundle, Send, close_all
from fastpath.delta import Delta
from fastpath.native import NO_BRIDGE, Engine, NativeError, PlacedBridge, PlacedPort
from fastpath.native_connections import ConnectionFilter, ConnectionTable
from fastpath.native_rules import RuleTables
from fastpath.outcomes import Notify, Outcomes
from fastpath.plan import SwitchObject
from fastpath.protocol import Outcome, WireBridge, WireObject, WirePort, WireStatic
from fastpath.readings import PortStatus
from fastpath.regions import Kept, Record, State, StateStore, StateTooLarge, replay
from fastpath.rule_sets import RuleObject, RuleSets
from fastpath.tables import Tables

ANSWER_S = 5.0
WORK_S = 0.01  # at a time, while others wait to be answered
RETRY_S = 10.0


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
    """What the engine has, but for the bridges."""

    ports: dict[str, plan.Device] = field(default_factory=dict)
    statics: dict[str, WireStatic] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    worn: set[str] = field(default_factory=set)  # that get a new device
    ifindexes: dict[str, int] = field(default_factory=dict)
    published: tuple[list[PlacedBridge], list[PlacedPort]] | None = None


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
        wall: Callable[[], float] = time.time,
        rule_tables: rule_objects.Tables | None = None,
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
        self.objects: dict[str, WireObject] = {}
        self.switch: dict[str, SwitchObject] = {}  # of these, the bridges, ports, static entries
        self.bridge_slots = dict(state.bridge_slots)
        self.port_slots = dict(state.port_slots)
        self.outcomes = Outcomes(notify)
        self.tables = Tables(engine, send)
        self.held: dict[str, HeldPort] = {}
        self._live = _Live()
        self._asked: dict[int, _Asked] = {}
        self._refused: set[str] = set()
        self._last_id = 0
        self._saved: Record | None = None
        self._bridges: dict[str, WireBridge] = {}
        self._ports: dict[str, WirePort] = {}
        self._statics: dict[str, WireStatic] = {}
        self.locals = plan.Locals()
        self.wanted = plan.Wanted(
            ChainMap(self._bridges, self.locals.bridges),
            ChainMap(self._ports, self.locals.ports),
            self._statics,
        )
        self.rules = RuleSets(
            rule_tables or RuleTables(engine), limits, self.outcomes, self._next_generation, wall
        )
        self.foresee: Callable[[], None] = lambda: None  # before a change comes into force
        self._changing = False  # rules are compiled; the rest of the change waits for them
        self._then_reconcile = False
        self._retry_at = self._now() + RETRY_S
        self._left: tuple[tuple[Kept, ...], tuple[RuleObject, ...]] = (
            state.kept,
            self._want(state.objects, ()),
        )

    # --- what the server asks -------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Its rules are in force, and no device of it is being opened (or that takes too long)."""
        return not self._changing and all(
            asked.deadline <= self._now() or asked.name not in self._ports
            for asked in self._asked.values()
        )

    @property
    def busy(self) -> bool:
        """There is something to go on with: :meth:`work`."""
        return self._changing or self._store.busy

    @property
    def asking(self) -> bool:
        """The keeper owes an answer."""
        return bool(self._asked)

    @property
    def attached(self) -> Mapping[str, plan.Device]:
        return self._live.ports

    @property
    def lost(self) -> set[str]:
        return self._live.lost

    def status(self, name: str) -> PortStatus | None:
        """What the engine sees of an attached port."""
        if name not in self._live.ports:
            return None
        try:
            return self.engine.port_status(self.port_slots[name])
        except NativeError:
            return None

    def ports_on(self, ifindex: int) -> list[str]:
        """Attached ports whose device is this kernel interface."""
        return [name for name, index in self._live.ifindexes.items() if index == ifindex]

    def change(self, delta: Delta) -> None:
        """Want this from now on; it survives this process before the first step is taken.

        StateTooLarge leaves everything as it is.
        """
        record = Record(delta.revision, delta.hash, self.generation, delta.upserts, delta.deletes)
        self._append(record)
        self.revision, self.hash = delta.revision, delta.hash
        of_rules = self._want_all(delta.upserts, delta.deletes)
        if of_rules < len(delta.upserts) + len(delta.deletes):
            self._then_reconcile = True
            self._live.lost &= self.wanted.ports.keys()
            self._place()
        self.foresee()
        self._changing = True
        self.work()

    def work(self) -> None:
        """Go on with what takes long, for a moment."""
        until = self._now() + WORK_S
        while self.rules.busy:
            self.rules.step()
            if self._now() >= until:
                return
        if self._changing:
            self._changing = False
            self._rules_are_ready()
        elif self._store.busy:
            self._begin_anew()

    def _rules_are_ready(self) -> None:
        then, self._then_reconcile = self._then_reconcile, False
        self.rules.publish(also_old=then)
        self._keep_sets()
        if then:
            self.reconcile()
        self._save()

    def _want_all(self, upserts: Collection[WireObject], deletes: Collection[str]) -> int:
        """Take note of these; returns how many are about rules."""
        rules = self._want(upserts, deletes)
        gone = [key for key in deletes if key.partition("/")[0] in rule_sets.KINDS]
        self.rules.want(rules, gone)
        return len(rules) + len(gone)

    def _want(
        self, upserts: Iterable[WireObject], deletes: Iterable[str]
    ) -> tuple[RuleObject, ...]:
        """Take note of these; returns those that are about rules.

        A bridge, port or static entry that the engine cannot take says why not.
        """
        rules: list[RuleObject] = []
        for key in deletes:
            del self.objects[key]
            if self.switch.pop(key, None) is not None:
                self._unwant(key)
            self.outcomes.forget([key])
        for obj in upserts:
            key = obj.key
            self.objects[key] = obj
            if not isinstance(obj, WireBridge | WirePort | WireStatic):
                rules.append(obj)
                continue
            self.switch[key] = obj
            text = check.problem(obj, self._limits["fdb_entries_max"])
            if text:
                self._unwant(key)
                self.outcomes.fail(key, Outcome("INVALID", text))
            elif isinstance(obj, WireBridge):
                self._bridges[obj.name] = obj
            elif isinstance(obj, WirePort):
                self._ports[obj.name] = obj
            else:
                self._statics[key] = obj
        return tuple(rules)

    def _unwant(self, key: str) -> None:
        kind, _, name = key.partition("/")
        if kind == "bridge":
            self._bridges.pop(name, None)
        elif kind == "port":
            self._ports.pop(name, None)
        else:
            self._statics.pop(key, None)

    def _place(self) -> None:
        """Give everything its number before anything is in force, and tell the rules."""
        bridges, ports = self.wanted.bridges, self.wanted.ports
        for name in bridges:
            with contextlib.suppress(NativeError):  # told when the step comes to it
                self._slot(self.bridge_slots, name, self._limits["bridges_max"], "bridges")
        for name in ports:
            with contextlib.suppress(NativeError):
                self._slot(self.port_slots, name, self._limits["ports_max"], "ports")
        self._place_rules()

    def _place_rules(self) -> None:
        bridges, ports = self.wanted.bridges, self.wanted.ports
        self.rules.place(
            {name: self.port_slots[name] for name in ports if name in self.port_slots},
            {name: self.bridge_slots[name] for name in bridges if name in self.bridge_slots},
        )

    def is_local(self, key: str) -> bool:
        """Is it about what only ``locals`` have?"""
        kind, _, name = key.partition("/")
        ours = self.locals.ports if kind == "port" else self.locals.bridges
        return kind in ("port", "bridge") and name in ours and key not in self.objects

    def forgive(self, name: str) -> None:
        """A port of that name was refused; this is another one."""
        self._refused.discard(name)
        self.outcomes.forget([f"port/{name}"])

    def wear_out(self, name: str) -> None:
        """The port gets a new device, if it is wanted: what somebody had is never another one's."""
        if name in self.held:
            self._live.worn.add(name)
        self.outcomes.forget([f"port/{name}"])

    def follow_locals(self) -> None:
        """``locals`` changed, or a device was worn out."""
        self.foresee()
        self.reconcile(retry=False)

    def in_force(self, name: str) -> bool:
        """The port is attached, and to a device that stays."""
        return name in self._live.ports and name not in self._live.worn

    def retry_rules(self) -> None:
        """Sets that were refused for want of room, or by the engine, are tried again."""
        self._retry_at = self._now() + RETRY_S
        self.rules.retry()
        self._changing = self._changing or self.rules.busy

    def tick(self) -> None:
        """Once a second: what time brings about."""
        if not self._changing and self.rules.expire():
            self.rules.publish()
            self._save()
        if self._now() >= self._retry_at:
            self.retry_rules()
        if self._store.crowded:
            self._store.begin(self._state())
        self.find_lost()
        self.reconcile()

    # --- before there is anything to apply it to: a standby (fastpath.rehearsal) -----------------

    def rehearse(self) -> None:
        """Want the rules of a predecessor that lives; kept sets are none of the successor's then.

        It may not save, so nothing gets a number but by the predecessor.
        """
        _, rules = self._left
        self._left = ((), ())
        self._place_rules()
        self.rules.want(rules, ())

    def follow(self, record: Record) -> None:
        """The predecessor changed that; after :meth:`rehearse`."""
        self.revision, self.hash = record.revision, record.hash
        self.generation = max(self.generation, record.generation)
        self._want_all(record.upserts, [key for key in record.deletes if key in self.objects])
        if record.bridge_slots is not None:
            self.bridge_slots = dict(record.bridge_slots)
        if record.port_slots is not None:
            self.port_slots = dict(record.port_slots)
        self._place_rules()

    # --- the keeper's answers and news; the caller reconciles when it has told all --------------

    def adopt(self, held: dict[str, HeldPort], tables: dict[str, int]) -> None:
        """Go on with what the last forwarder left; call once, before anything else."""
        self.held = held
        self.tables.fds = tables
        kept, rules = self._left
        if kept:  # they may name what is held and wanted no more
            self.rules.place(dict(self.port_slots), dict(self.bridge_slots))
            self.rules.restore(kept)
        self._place()
        self.rules.want(rules, ())
        while self.rules.busy:
            self.rules.step()
        self.rules.expire()
        self.rules.publish()
        self.reconcile()
        self._keep_sets()
        # Frames flow. Tables that were taken over may hold static entries nobody wants any more.
        ports = {number: port for port, number in self.port_slots.items()}
        for name in self.tables.live:
            self._live.statics |= self.tables.statics(self.bridge_slots[name], name, ports)
        self.reconcile()

    def acquired(self, answer: channel.Acquired, fds: list[int]) -> None:
        """A device was opened or refused. Late answers count too: what is held is used."""
        self._asked.pop(answer.id, None)
        key = f"port/{answer.name}"
        if answer.bundle is None:
            close_all(fds)
            self._refused.add(answer.name)
            if answer.name in self.wanted.ports:
                self.outcomes.fail(key, outcomes.refused(answer.code, answer.message))
            return
        old = self.held.pop(answer.name, None)
        if old is not None:
            close_all(old.fds)
        self.held[answer.name] = HeldPort(answer.bundle, fds)

    def keeper_gone(self) -> None:
        """What was asked is not coming."""
        for asked in self._asked.values():
            if asked.name in self.wanted.ports:
                self.outcomes.fail(f"port/{asked.name}", outcomes.ABSENT)
        self._asked.clear()

    def interface_gone(self, ifindex: int) -> None:
        """An interface left our namespace: ports on it have to be opened anew.

        Not so a TAP device that was given to another namespace: its fd moves its frames still, and
        its driver says that it is somewhere else (alive, without an index here).
        """
        for name in self.ports_on(ifindex):
            status = self.status(name)
            if status is None or status.lost or status.ifindex:
                self._lose(name)

    def find_lost(self) -> None:
        """Ask the drivers whether their devices are still there."""
        for name in list(self._live.ports):
            status = self.status(name)
            if status is not None and status.lost:
                self._lose(name)

    def _lose(self, name: str) -> None:
        if name not in self._live.lost:
            self._live.lost.add(name)
            self.outcomes.fail(f"port/{name}", outcomes.LOST)
            self._notify("lost", f"port/{name}", outcomes.LOST.message)

    # --- reconciling ----------------------------------------------------------------------------

    def reconcile(self, *, retry: bool = True) -> None:
        """Take every step that can be taken now; ask for refused devices again if ``retry``."""
        if retry:
            self._refused.clear()
        if self._changing:
            self._then_reconcile = True
            return
        self._retire()
        while self._pass():
            self._retire()
        self.rules.publish()  # without what only held until ports had gone
        self._save()

    def _pass(self) -> bool:
        """One pass; True when something went that may have stood in the way of something."""
        freed = False
        for step in plan.plan(self._actual(), self.wanted):
            try:
                self._do(step)
            except NativeError as error:
                key = _key(step)
                if key is None:
                    self._fail_all(error)
                    return False
                self.outcomes.fail(key, outcomes.of_error(error))
            else:
                freed = freed or isinstance(step, plan.DropPort | plan.DropBridge)
        return freed

    def _actual(self) -> plan.Actual:
        return plan.Actual(
            bridges={name: b.fdb_entries_max for name, b in self.tables.live.items()},
            ports=self._live.ports,
            held={name: held.device for name, held in self.held.items()},
            statics=self._live.statics,
            lost=self._live.lost & self._live.ports.keys(),
            worn=self._live.worn,
            asked=self._refused | {asked.name for asked in self._asked.values()},
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
            if name in self.tables.live and name not in step.without_bridges
        ]
        placed = {bridge.spec.name: bridge.slot for bridge in bridges}
        ports = [
            PlacedPort(self.port_slots[name], spec, placed.get(spec.bridge or "", NO_BRIDGE))
            for name, spec in self.wanted.ports.items()
            if name in self._live.ports and name not in step.without_ports
        ]
        if (bridges, ports) == self._live.published:
            return
        self._follow_numbers()
        self.engine.publish(self._next_generation(), bridges, ports)
        self._live.published = (bridges, ports)
        for bridge in bridges:
            self.outcomes.succeed(bridge.spec.key)
        present = {port.spec.name for port in ports}
        for port in ports:
            missing = _missing(port, present)
            if missing.ok:
                self.outcomes.succeed(port.spec.key)
            else:
                self.outcomes.fail(port.spec.key, missing)

    def _follow_numbers(self) -> None:
        """A port that got its number only now has its rules before its frames."""
        self._place()
        while self.rules.busy:
            self.rules.step()
        self.rules.publish(also_old=True)

    def _next_generation(self) -> int:
        self.generation += 1
        return self.generation

    def _add_bridge(self, bridge: WireBridge) -> None:
        name = bridge.name
        slot = self._slot(self.bridge_slots, name, self._limits["bridges_max"], "bridges")
        self.tables.add(slot, bridge)

    def _drop_bridge(self, name: str) -> None:
        self.tables.drop(self.bridge_slots[name], name)
        self._live.statics = {
            key: static for key, static in self._live.statics.items() if static.bridge != name
        }

    def _acquire(self, port: WirePort) -> None:
        if port.name in self._live.ports:
            return  # could not be detached; the next pass tries again
        if port.name in self.held:
            self.outcomes.fail(port.key, outcomes.ABSENT)  # nobody took the old device back
            return
        self._slot(self.port_slots, port.name, self._limits["ports_max"], "ports")
        self._last_id += 1
        request = channel.Acquire(self._last_id, port.name, port.type, port.options)
        if not self._send(request, []):
            self.outcomes.fail(port.key, outcomes.ABSENT)
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
        if not keep_counters and not self.rules.holds(f"port/{name}"):
            del self.port_slots[name]

    def _release(self, name: str) -> None:
        if name in self._live.ports:
            return  # could not be detached; the next pass tries again
        if self._send(channel.Release(name), []):
            close_all(self.held.pop(name).fds)
            self._live.worn.discard(name)
        # else: a new keeper gets it and is told again

    def _set_static(self, static: WireStatic) -> None:
        if static.bridge not in self.tables.live or static.port not in self._live.ports:
            text = f"bridge {static.bridge} or port {static.port} is not there"
            self.outcomes.fail(static.key, Outcome("PORT_ABSENT", text))
            return
        self.engine.fdb_set_static(
            self.bridge_slots[static.bridge], static.mac, static.vid, self.port_slots[static.port]
        )
        self._live.statics[static.key] = static
        self.outcomes.succeed(static.key)

    def _clear_static(self, static: WireStatic) -> None:
        slot = self.bridge_slots[static.bridge]
        try:
            self.engine.fdb_clear_static(slot, static.mac, static.vid)
        finally:
            self._live.statics.pop(static.key, None)

    # --- numbers and what survives --------------------------------------------------------------

    def _slot(self, slots: dict[str, int], name: str, limit: int, what: str) -> int:
        """The object's number; a new one is kept before it is used for the first time."""
        if name not in slots:
            slot = plan.free_slot(slots, limit)
            if slot is None:
                raise NativeError(errno.ENOSPC, "LIMIT", f"{limit} {what} are the limit")
            slots[name] = slot
            self._save()
        return slots[name]

    def _retire(self) -> None:
        """Numbers that nothing wanted or live has any more: free.

        Such a port was lost or never opened when it was deleted, or its forwarder died between
        the deletion and the last step. Its counters belong into the total, which takes a port in
        its place for a moment.
        """
        for name in self.port_slots.keys() - self.wanted.ports.keys() - self._live.ports.keys():
            if self.rules.holds(f"port/{name}"):
                continue  # a rule in force would mean the next port of that number
            slot = self.port_slots[name]
            try:
                self.engine.port_add(slot, name, "null", {}, [], "")
                self.engine.port_remove(slot, keep_counters=False)
            except NativeError as error:
                self._notify("retire_failed", f"port/{name}", error.message)
                continue
            del self.port_slots[name]
        gone = self.bridge_slots.keys() | self.tables.fds.keys()
        for name in gone - self.wanted.bridges.keys() - self.tables.live.keys():
            if name in self.bridge_slots:  # the number will be another bridge's
                left = ConnectionFilter(bridge=self.bridge_slots.pop(name))
                ConnectionTable(self.engine).flush(left)
            self.tables.forget(name)

    def _save(self, kept: tuple[Kept, ...] = (), let_go: tuple[str, ...] = ()) -> None:
        """Keep what is not an object, if it is new."""
        record = Record(
            self.revision,
            self.hash,
            self.generation,
            bridge_slots=dict(self.bridge_slots),
            port_slots=dict(self.port_slots),
            kept=kept,
            let_go=let_go,
        )
        if record != self._saved:
            self._append(record)
            self._saved = None if kept or let_go else record

    def _keep_sets(self) -> None:
        """Sets that run on as they were are a successor's, too."""
        kept, let_go = self.rules.take_kept()
        if kept or let_go:
            self._save(kept, let_go)

    def _append(self, record: Record) -> None:
        try:
            self._store.append(record)
        except StateTooLarge:  # perhaps of journal
            self._store.save(replay(self._state(), [record]))

    def _state(self) -> State:
        return State(
            self.revision,
            self.hash,
            self.generation,
            tuple(self.objects.values()),
            dict(self.bridge_slots),
            dict(self.port_slots),
            self.rules.kept(),
        )

    def _begin_anew(self) -> None:
        """A portion of the state memory's other half."""
        try:
            self._store.step()
        except StateTooLarge as error:
            self._notify("state", "system", f"the state memory is nearly full: {error}")

    def _fail_all(self, error: NativeError) -> None:
        """The engine kept the old configuration: nothing that differs from it is in force."""
        for key in self.switch:
            if not key.startswith("static/"):
                self.outcomes.fail(key, outcomes.of_error(error))


def _missing(port: PlacedPort, present: Collection[str]) -> Outcome:
    """What the port refers to and does not find among the published objects."""
    spec = port.spec
    if spec.bridge is not None and port.bridge == NO_BRIDGE:
        return Outcome("BRIDGE_ABSENT", f"bridge {spec.bridge} is not there")
    watched = spec.options.get("port", "") if spec.type == "monitor" else ""
    if watched and watched not in present:
        text = f"port {watched}, which this one monitors, is not in force"
        return outcomes.refused("MONITORED_ABSENT", text)
    return Outcome()


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
