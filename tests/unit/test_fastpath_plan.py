"""plan() against a small model: whatever is there, and whatever fails, the wanted state is reached
by steps that are legal in the order they come."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastpath import plan
from fastpath.protocol import WireBridge, WirePort, WireStatic
from tests.support.fastpath import bridge, port

BRIDGES = ("a", "b")
PORTS = ("p", "q", "r")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def a_bridge(name: str) -> st.SearchStrategy[WireBridge]:
    return st.builds(
        lambda size, vlans: bridge(name, fdb_entries_max=size, vlan_filtering=vlans),
        st.sampled_from((16, 32)),
        st.booleans(),
    )


def a_port(name: str) -> st.SearchStrategy[WirePort]:
    return st.builds(
        lambda type, ifname, to: port(name, type, to, options={"ifname": ifname}),
        st.sampled_from(("af_packet", "tap")),
        st.sampled_from(("x", "y")),
        st.sampled_from((None, *BRIDGES)),
    )


def some(names: tuple[str, ...], make: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: make(name) for name in names})


statics = st.lists(
    st.builds(
        WireStatic,
        bridge=st.sampled_from(BRIDGES),
        mac=st.sampled_from(MACS),
        vid=st.just(0),
        port=st.sampled_from(PORTS),
    ),
    max_size=4,
)
wanteds = st.builds(
    lambda b, p, s: plan.Wanted(b, p, {static.key: static for static in s}),
    some(BRIDGES, a_bridge),
    some(PORTS, a_port),
    statics,
)


class Model:
    """What the engine and the keeper would have, with the engine's own refusals as asserts."""

    def __init__(self) -> None:
        self.bridges: dict[str, int] = {}
        self.ports: dict[str, plan.Device] = {}
        self.held: dict[str, plan.Device] = {}
        self.statics: dict[str, WireStatic] = {}
        self.lost: set[str] = set()
        self.asked: dict[str, plan.Device] = {}
        self.published: tuple[set[str], set[str]] = (set(), set())

    def actual(self) -> plan.Actual:
        return plan.Actual(
            dict(self.bridges),
            dict(self.ports),
            dict(self.held),
            dict(self.statics),
            frozenset(self.lost),
            frozenset(self.asked),
        )

    def take(self, step: plan.Step, wanted: plan.Wanted) -> None:
        match step:
            case plan.Publish(without_ports, without_bridges):
                self.published = (
                    {n for n in self.ports if n in wanted.ports} - without_ports,
                    {n for n in self.bridges if n in wanted.bridges} - without_bridges,
                )
            case plan.AddBridge(obj):
                assert obj.name not in self.bridges
                self.bridges[obj.name] = obj.fdb_entries_max
            case plan.DropBridge(name):
                assert name not in self.published[1]
                assert not any(s.bridge == name for s in self.statics.values())
                del self.bridges[name]
            case plan.Acquire(obj):
                assert obj.name not in self.held
                assert obj.name not in self.asked
                self.asked[obj.name] = plan.device(obj)
            case plan.Attach(obj):
                assert obj.name not in self.ports
                assert self.held[obj.name] == plan.device(obj)
                self.ports[obj.name] = plan.device(obj)
                self.lost.discard(obj.name)
            case plan.DropPort(name, keep):
                assert name not in self.published[0]
                assert not any(s.port == name for s in self.statics.values())
                assert keep == (name in wanted.ports)
                del self.ports[name]
            case plan.Release(name):
                assert name not in self.ports
                del self.held[name]
            case plan.SetStatic(static):
                if static.bridge in self.bridges and static.port in self.ports:
                    self.statics[static.key] = static
            case plan.ClearStatic(static):
                assert static.bridge in self.bridges
                del self.statics[static.key]

    def answer(self, refuse: bool) -> None:
        for name, device in self.asked.items():
            if not refuse:
                self.held[name] = device
        self.asked.clear()

    def reached(self, wanted: plan.Wanted) -> bool:
        complete = {
            key: static
            for key, static in wanted.statics.items()
            if static.bridge in wanted.bridges and static.port in wanted.ports
        }
        return (
            self.bridges == {n: b.fdb_entries_max for n, b in wanted.bridges.items()}
            and self.ports == {n: plan.device(p) for n, p in wanted.ports.items()}
            and self.held == self.ports
            and self.statics == complete
            and self.published == (set(wanted.ports), set(wanted.bridges))
        )


@given(st.lists(st.tuples(wanteds, st.booleans(), st.sets(st.sampled_from(PORTS))), max_size=4))
def test_every_wanted_state_is_reached_from_every_other(
    changes: list[tuple[plan.Wanted, bool, set[str]]],
) -> None:
    model = Model()
    for wanted, keeper_refuses, vanish in changes:
        model.lost |= vanish & model.ports.keys()
        for refuse in (keeper_refuses, False, False):
            for step in plan.plan(model.actual(), wanted):
                model.take(step, wanted)
            model.answer(refuse)
            for step in plan.plan(model.actual(), wanted):
                model.take(step, wanted)
        assert model.reached(wanted)


@given(wanteds)
def test_nothing_to_do_publishes_and_touches_nothing(wanted: plan.Wanted) -> None:
    model = Model()
    for _ in range(2):
        for step in plan.plan(model.actual(), wanted):
            model.take(step, wanted)
        model.answer(False)
    for step in plan.plan(model.actual(), wanted):
        model.take(step, wanted)
    waiting = [s for s in wanted.statics.values() if s.key not in model.statics]
    assert plan.plan(model.actual(), wanted) == [
        plan.Publish(),
        *(plan.SetStatic(static) for static in waiting),
    ]


def test_a_port_that_changes_its_bridge_is_not_touched() -> None:
    before, after = port("p", "tap", "a"), port("p", "tap", "b")
    actual = plan.Actual(
        {"a": 8192, "b": 8192}, {"p": plan.device(before)}, {"p": plan.device(before)}, {}
    )
    wanted = plan.Wanted({"a": bridge("a"), "b": bridge("b")}, {"p": after})
    assert plan.plan(actual, wanted) == [plan.Publish()]


def test_numbers_are_the_lowest_that_are_free() -> None:
    assert plan.free_slot({}, 2) == 0
    assert plan.free_slot({"a": 0, "b": 2}, 3) == 1
    assert plan.free_slot({"a": 0, "b": 1}, 2) is None
