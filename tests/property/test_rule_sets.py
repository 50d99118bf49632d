"""Changes one by one, with kills in between, come to what everything at once comes to.

The model compiles every set anew after each change: what cannot be compiled stays as it was.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import rule_sets
from fastpath.apply import Applier
from fastpath.delta import Delta
from fastpath.keeper import DEFAULT_LIMITS
from fastpath.native import Engine
from fastpath.native_rules import ACTIONS, RULE_NONE
from fastpath.protocol import (
    WireAction,
    WireAttach,
    WireGroup,
    WireObject,
    WirePolicer,
    WireRule,
    WireRuleSet,
    WireTerm,
)
from fastpath.regions import StateStore, make_region
from fastpath.rehearsal import Rehearsal
from fastpath.rules import Compiler, Names, RuleError, uses
from tests.support.fastpath import bridge, port, rule
from tests.support.rule_tables import FakeTables

LIMITS = DEFAULT_LIMITS | {"ports_max": 8, "bridges_max": 4, "workers_max": 8}
SETS, IDS, PORTS, GROUPS = ("a", "b", "c"), ("r", "s", "t"), ("p", "q"), ("g", "h")

macs = st.lists(st.integers(1, 5), max_size=3).map(
    lambda numbers: tuple((bytes([2, 0, 0, 0, 0, n]), b"\xff" * 6) for n in numbers)
)
terms = st.one_of(
    st.sampled_from(GROUPS).map(lambda name: WireTerm("eth_src", group=name)),
    st.sampled_from(PORTS).map(lambda name: WireTerm("in_port", words=(name,))),
    st.integers(1, 3).map(lambda n: WireTerm("l4_dst", ranges=((n, 2 * n),))),
)
actions = st.one_of(
    st.sampled_from(("allow", "drop", "log")).map(WireAction),
    st.sampled_from(PORTS).map(lambda name: WireAction("redirect", port=name)),
    st.sampled_from(SETS).map(lambda name: WireAction("jump", ruleset=name)),
    st.just(WireAction("police", policer="slow")),
)
attaches = st.one_of(
    st.builds(WireAttach, st.just("br0"), st.just(""), st.booleans(), st.integers(0, 2)),
    st.builds(WireAttach, st.just(""), st.sampled_from(PORTS), st.booleans(), st.integers(0, 2)),
)
objects = st.one_of(
    st.builds(
        lambda owner, id, priority, match, action: rule(
            owner, id, priority=priority, match=tuple(match), action=action
        ),
        st.sampled_from(SETS),
        st.sampled_from(IDS),
        st.integers(0, 2),
        st.lists(terms, max_size=2),
        actions,
    ),
    st.builds(
        WireRuleSet, st.sampled_from(SETS), st.booleans(), st.lists(attaches, max_size=2).map(tuple)
    ),
    st.builds(WireGroup, st.sampled_from(GROUPS), macs, st.just(())),
    st.builds(WirePolicer, st.just("slow"), st.just("bits"), st.integers(1, 3), st.just(1)),
    st.sampled_from(PORTS).map(lambda name: port(name, "memory", "br0")),
    st.just(bridge("br0")),
)
changes = st.tuples(
    st.lists(objects, max_size=6), st.lists(st.integers(0, 100), max_size=3), st.booleans()
)


class Model:
    """By set, what was compiled last as a whole."""

    def __init__(self) -> None:
        self.objects: dict[str, WireObject] = {}
        self.sets: dict[str, tuple[WireRuleSet | None, list[WireRule], list[Any]]] = {}
        self.policers: dict[str, WirePolicer] = {}

    def change(self, delta: Delta) -> None:
        for key in delta.deletes:
            del self.objects[key]
        self.objects |= {obj.key: obj for obj in delta.upserts}

    def settle(self, ports: Mapping[str, int]) -> None:
        specs = [obj for obj in self.objects.values() if isinstance(obj, WireRuleSet)]
        all_rules = [obj for obj in self.objects.values() if isinstance(obj, WireRule)]
        names = Names(
            {obj.name: obj for obj in self.objects.values() if isinstance(obj, WireGroup)},
            {name: number for name, number in ports.items() if f"port/{name}" in self.objects},
            {obj.name: 0 for obj in self.objects.values() if isinstance(obj, WirePolicer)},
            {spec.name: 0 for spec in specs},
        )
        self.policers |= {o.name: o for o in self.objects.values() if isinstance(o, WirePolicer)}
        compiler = Compiler(names)
        for spec in specs:
            mine = [item for item in all_rules if item.ruleset == spec.name]
            try:
                self.sets[spec.name] = (spec, mine, [self._rule(compiler, one) for one in mine])
            except RuleError:
                self.sets.setdefault(spec.name, (None, [], []))
        here = self.published()
        self.sets = {name: found for name, found in self.sets.items() if name in here}

    def _rule(self, compiler: Compiler, item: WireRule) -> tuple[Any, ...]:
        action = compiler.action(item)
        what = (action.type, action.log, action.port, item.action.ruleset, item.action.policer)
        return (item.priority, item.id, what, compiler.matches(item))

    def published(self) -> dict[str, Any]:
        """Sets that are wanted or jumped to, by name; without where they are asked."""
        wanted = [name for name in self.sets if f"ruleset/{name}" in self.objects]
        for name in wanted:  # grows
            for item in self.sets[name][1]:
                target = item.action.ruleset
                if target and target not in wanted:
                    wanted.append(target)
        return {
            name: sorted(map(self._named, self.sets[name][2]), key=lambda found: found[:2])
            for name in wanted
        }

    def _named(self, found: tuple[Any, ...]) -> tuple[Any, ...]:
        priority, id, (type, log, number, target, policer), matches = found
        spec = self.policers.get(policer)
        rate: Any = (False, spec.rate, spec.burst) if spec else ""
        return (priority, id, (type, log, number, target, rate), matches)


def a_forwarder(
    engine: Engine, fd: int, now: Callable[[], float] = time.monotonic
) -> tuple[Applier, FakeTables]:
    """That begins with what its predecessor left."""
    store = StateStore(fd)
    tables = FakeTables()
    state = store.load()
    tables.generation = state.generation  # a successor goes on behind it
    applier = Applier(
        engine,
        store,
        state,
        LIMITS,
        lambda message, fds: False,
        lambda kind, key, message: None,
        now,
        rule_tables=tables,
    )
    return applier, tables


class Standby:
    """That follows the forwarder of the same memory."""

    def __init__(self, fd: int) -> None:
        self._engines: list[Engine] = []
        self._tables: list[FakeTables] = []
        self._rehearsal = Rehearsal(StateStore(fd), LIMITS, self._engine, self._table)

    def _engine(self) -> Engine:
        self._engines.append(Engine(ports_max=8, bridges_max=4, workers_max=8))
        return self._engines[-1]

    def _table(self, engine: Engine) -> FakeTables:
        self._tables.append(FakeTables())
        return self._tables[-1]

    def work(self, times: int) -> None:
        for _ in range(times):
            self._rehearsal.work()

    def perform(self) -> Process:
        """It is its turn."""
        _, applier = self._rehearsal.perform(recover=True)
        return Process(applier, self._tables[-1])

    @property
    def anew(self) -> bool:
        """What it had made ready was of no use."""
        return len(self._engines) > 1

    def close(self) -> None:
        for engine in self._engines:
            engine.destroy()


class Process:
    """A forwarder without devices, over a table of rules in Python."""

    def __init__(self, applier: Applier, tables: FakeTables) -> None:
        self.applier, self.tables = applier, tables
        applier.adopt({}, {})

    def change(self, delta: Delta) -> None:
        self.applier.change(delta)
        while self.applier.busy:
            self.applier.work()

    def published(self) -> dict[str, Any]:
        sets = self.applier.rules.sets.values()
        return self.tables.by_name({s.slot: s.name for s in sets if s.slot is not None})


def a_delta(model: Model, revision: int, upserts: list[Any], picks: list[int]) -> Delta:
    """Deletes of what is there, but for what was not upserted by the same change."""
    present = sorted(model.objects)
    deletes = tuple(dict.fromkeys(present[pick % len(present)] for pick in picks if present))
    last = {obj.key: obj for obj in upserts if obj.key not in deletes}
    return Delta(revision, bytes([revision]) * 16, tuple(last.values()), deletes, frozenset(last))


@given(st.lists(changes, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_deltas_and_kills_come_to_what_all_at_once_comes_to(steps: list[Any]) -> None:
    fd = make_region("test", 1 << 20)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    try:
        model, process = Model(), Process(*a_forwarder(engine, fd))
        for revision, (upserts, picks, killed) in enumerate(steps, 1):
            delta = a_delta(model, revision, upserts, picks)
            model.change(delta)
            process.change(delta)
            model.settle(process.applier.port_slots)
            found = process.published()
            assert {name: rules for name, (_, _, rules) in found.items()} == model.published()
            if killed:
                process = Process(*a_forwarder(engine, fd))
                assert process.published() == found
                assert process.applier.revision == revision
                assert process.applier.objects == model.objects
        check_places(process, model)
    finally:
        engine.destroy()
        os.close(fd)


@given(st.lists(st.tuples(changes, st.booleans(), st.integers(0, 9)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_standby_that_followed_has_what_its_predecessor_ran(steps: list[Any]) -> None:
    """Or what one that reads it all at its turn would run; however far it had come, and whatever
    the engine had refused. It goes on from there."""
    fd = make_region("test", 1 << 20)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    standbys = [Standby(fd)]
    try:
        model, process = Model(), Process(*a_forwarder(engine, fd))
        for revision, ((upserts, picks, killed), refuse, looks) in enumerate(steps, 1):
            process.tables.refuse = refuse
            delta = a_delta(model, revision, upserts, picks)
            model.change(delta)
            process.change(delta)
            standbys[-1].work(looks)
            if killed:
                copy = copy_of(fd)
                expected = Process(*a_forwarder(engine, copy)).published()
                os.close(copy)
                process = standbys[-1].perform()
                standbys.append(Standby(fd))
                assert process.published() == expected
                assert process.applier.revision == revision
                assert process.applier.objects == model.objects
    finally:
        for standby in standbys:
            standby.close()
        engine.destroy()
        os.close(fd)


def test_a_standby_that_is_up_to_date_compiles_nothing() -> None:
    fd = make_region("test", 1 << 22)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    standby = Standby(fd)
    try:
        process = Process(*a_forwarder(engine, fd))
        many = tuple(rule("a", f"r{n}") for n in range(2 * rule_sets.PORTION))
        process.change(Delta(1, b"", (WireRuleSet("a", True, ()), *many), (), frozenset()))
        standby.work(8)
        process.change(Delta(2, b"", (rule("a", "last", priority=1),), (), frozenset()))
        before = process.published()
        process = standby.perform()
        assert process.published() == before
        assert process.tables.updated == len(many) + 1
        assert not standby.anew
    finally:
        standby.close()
        engine.destroy()
        os.close(fd)


def copy_of(region: int) -> int:
    size = os.fstat(region).st_size
    copy = make_region("copy", size)
    os.pwrite(copy, os.pread(region, size, 0), 0)
    return copy


def check_places(process: Process, model: Model) -> None:
    """Sets are asked where they say, in the order they say; the default is theirs."""
    slots = process.applier.port_slots
    for name, (default_drop, places, _) in process.published().items():
        spec = model.sets[name][0]
        if spec is None or f"ruleset/{name}" not in model.objects:
            assert places == []  # never in force, or only jumped to
            continue
        assert default_drop == spec.default_drop
        wanted = [
            (RULE_NONE, slots[one.port], one.egress, one.order)
            if one.port
            else (process.applier.bridge_slots["br0"], RULE_NONE, one.egress, one.order)
            for one in spec.attach
            if (f"port/{one.port}" if one.port else "bridge/br0") in model.objects
        ]
        assert sorted(set(places)) == sorted(set(wanted))


@given(st.lists(changes, min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_what_the_engine_refuses_changes_nothing_and_comes_later(steps: list[Any]) -> None:
    fd = make_region("test", 1 << 20)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    try:
        model, process = Model(), Process(*a_forwarder(engine, fd))
        for revision, (upserts, picks, refuse) in enumerate(steps, 1):
            before = process.published()
            process.tables.refuse = refuse
            delta = a_delta(model, revision, upserts, picks)
            model.change(delta)
            process.change(delta)
            if refuse:
                after = process.published()
                for name in before.keys() & after.keys():
                    assert without_rates(before[name]) == without_rates(after[name])
        process.tables.refuse = False
        process.applier.retry_rules()
        while process.applier.busy:
            process.applier.work()
        failed = {key for key in process.applier.outcomes if key.startswith("ruleset/")}
        codes = {process.applier.outcomes.get(key).code for key in failed}
        assert codes <= {"REFERENCE_NOT_FOUND"}
    finally:
        engine.destroy()
        os.close(fd)


def without_rates(published: tuple[Any, ...]) -> list[Any]:
    """A set's rules; a policer's rate is the policer's own affair."""
    return [(rule[:2], rule[2][:-1], rule[3]) for rule in published[2]]


def test_one_rule_is_one_rule_to_the_engine() -> None:
    """However many others there are, in whatever sets; and a group costs those that name it."""
    fd = make_region("test", 1 << 22)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    try:
        process = Process(*a_forwarder(engine, fd))
        term = WireTerm("eth_src", group="g")
        all_rules = [rule("a", f"r{n}", match=(term,) if n % 16 == 0 else ()) for n in range(48)]
        group = WireGroup("g", (), ())
        first = (bridge("br0"), WireRuleSet("a", False, ()), group, *all_rules)
        process.change(Delta(1, b"", first, (), frozenset()))
        assert process.tables.updated == 48
        process.change(Delta(2, b"", (rule("a", "r7", priority=3),), (), frozenset()))
        assert process.tables.updated == 49
        wider = WireGroup("g", ((b"\2\0\0\0\0\1", b"\xff" * 6),), ())
        process.change(Delta(3, b"", (wider,), (), frozenset()))
        assert process.tables.updated == 52
        generation = process.tables.generation
        process.change(Delta(4, b"", (bridge("br1"),), (), frozenset()))
        assert (process.tables.updated, process.tables.generation) == (52, generation)
    finally:
        engine.destroy()
        os.close(fd)


def test_what_takes_long_is_done_in_portions_and_ports_wait_for_it() -> None:
    fd = make_region("test", 1 << 22)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    try:
        seconds = itertools.count()
        process = Process(
            *a_forwarder(engine, fd, lambda: float(next(seconds)))
        )  # each look at it is one
        many = [rule("a", f"r{n}") for n in range(3 * rule_sets.PORTION)]
        place = WireAttach("br0", "", False, 0)
        wanted = (bridge("br0"), WireRuleSet("a", True, (place,)), *many)
        process.applier.change(Delta(1, b"", wanted, (), frozenset()))
        portions, before = 0, process.applier.generation
        while process.applier.busy:
            assert not process.applier.settled
            process.applier.tick()
            assert process.applier.generation == before, "a bridge came before its rules"
            process.applier.work()
            portions += 1
        assert portions >= 3
        assert process.tables.generation == before + 1
        assert process.applier.generation == before + 2
    finally:
        engine.destroy()
        os.close(fd)


def test_a_rule_may_expire_while_it_is_taken_out() -> None:
    fd = make_region("test", 1 << 22)
    engine = Engine(ports_max=8, bridges_max=4, workers_max=8)
    try:
        seconds = itertools.count()
        process = Process(*a_forwarder(engine, fd, lambda: float(next(seconds))))
        old = rule("a", "old", expires_at=1 << 40)
        process.change(Delta(1, b"", (WireRuleSet("a", True, ()), old), (), frozenset()))
        many = tuple(rule("a", f"r{n}") for n in range(3 * rule_sets.PORTION))
        process.applier.change(Delta(2, b"", many, (old.key,), frozenset()))
        assert process.applier.busy
        process.applier.rules._wall = lambda: float(1 << 41)
        while process.applier.busy:
            process.applier.tick()
            process.applier.work()
        rules = process.published()["a"][2]
        assert sorted(found[1] for found in rules) == sorted(item.id for item in many)
    finally:
        engine.destroy()
        os.close(fd)


def test_the_fields_of_the_model_are_the_wires() -> None:
    assert {"allow", "drop", "log", "redirect", "jump", "police"} <= ACTIONS.keys()
    assert uses(rule("a", "r", action=WireAction("jump", ruleset="b"))) == ("ruleset/b",)
    assert {"group", "policer", "ruleset", "rule"} == rule_sets.KINDS
