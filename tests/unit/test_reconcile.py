"""What is sent: a delta leads exactly where the whole configuration does, and costs less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath import protocol
from vswitch import validate
from vswitch.kinds import KINDS, Configuration, Key, Stored, switches
from vswitch.problems import Problem
from vswitch.reconcile.loop import difference, full
from vswitch.settings import Limits
from vswitch.values import now, uuid7

BRIDGES = ("a", "vale1")
PORTS = ("p", "q", "r")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")

bridge_specs = st.builds(
    dict, vlan_filtering=st.booleans(), default_pvid=st.integers(1, 3), mtu=st.integers(0, 2)
)
port_specs = st.builds(
    dict,
    bridge=st.sampled_from((None, *BRIDGES)),
    backend=st.sampled_from(
        (
            {"type": "memory"},
            {"type": "null"},
            {"type": "vale", "switch": "vale0", "port": "x"},
            {"type": "vale", "switch": "vale0", "port": "y"},
            {"type": "vale", "switch": "vale1", "port": "x"},
        )
    ),
    learning=st.booleans(),
    vlan=st.sampled_from(({}, {"pvid": 7}, {"mode": "trunk", "tagged": ["5-9", "1-2"]})),
)
fdb_specs = st.builds(dict, port=st.sampled_from(PORTS), vlan=st.sampled_from((None, 5)))
GROUPS, SETS, RULES = ("g", "h"), ("s", "t"), ("1", "2", "3")
group_specs = st.builds(
    dict,
    type=st.just("ip"),
    members=st.lists(st.sampled_from(("10.0.0.0/8", "::1", "192.0.2.1")), unique=True),
)
policer_specs = st.builds(dict, rate=st.integers(1, 3))
attaches = st.sampled_from(
    (
        [],
        [{"bridge": "a", "direction": "ingress"}],
        [{"port": "p", "direction": "egress"}, {"port": "q", "direction": "ingress"}],
    )
)
set_specs = st.builds(dict, default=st.sampled_from(("allow", "drop")), attach=attaches)
rule_specs = st.builds(
    dict,
    priority=st.integers(1, 3),
    enabled=st.booleans(),
    match=st.sampled_from(({}, {"in_port": "p"}, {"ip": {"src": "group:g", "dst": "group:h"}})),
    action=st.sampled_from(
        (
            {"type": "drop"},
            {"type": "mirror", "port": "q"},
            {"type": "police", "policer": "x"},
            {"type": "jump", "ruleset": "t"},
        )
    ),
)
SPECS = {
    "bridge": bridge_specs,
    "port": port_specs,
    "fdb": fdb_specs,
    "group": group_specs,
    "policer": policer_specs,
    "ruleset": set_specs,
    "rule": rule_specs,
}


def _keys(kind: str, names: tuple[str, ...], parents: tuple[str, ...] = ("",)) -> Any:
    return st.builds(Key, st.just(kind), st.sampled_from(names), st.sampled_from(parents))


keys = st.one_of(
    _keys("bridge", BRIDGES),
    _keys("port", PORTS),
    _keys("fdb", MACS, BRIDGES),
    _keys("group", GROUPS),
    _keys("policer", ("x",)),
    _keys("ruleset", SETS),
    _keys("rule", RULES, SETS),
)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[Key, dict[str, Any] | None]]:
    made: list[tuple[Key, dict[str, Any] | None]] = []
    for key in draw(st.lists(keys, max_size=40)):
        made.append((key, draw(st.none() | SPECS[key.kind])))
    return made


def stored(key: Key, spec: dict[str, Any], revision: int) -> Stored[Any]:
    at = now()
    return Stored(
        key=key,
        uid=uuid7(),
        labels={},
        description="",
        generation=1,
        revision=revision,
        spec=KINDS[key.kind].kept.model_validate(spec),
        created_at=at,
        updated_at=at,
    )


def changed(
    before: Configuration, key: Key, spec: dict[str, Any] | None, kernel: bool
) -> tuple[Configuration, frozenset[Key]] | None:
    """The next configuration, or None where the change is not allowed."""
    revision = before.revision + 1
    changes: dict[Key, Stored[Any] | None] = {
        key: None if spec is None else stored(key, spec, revision)
    }
    if spec is None:
        if before.get(key) is None:
            return None
        if key.kind == "bridge":
            changes |= {entry.key: None for entry in before.fdb.get(key.name, {}).values()}
        if key.kind == "ruleset":
            changes |= {rule.key: None for rule in before.rules_of(key.name).values()}
    after = before.with_changes(revision, changes)
    changes |= switches.follow(before, after, changes, kernel=kernel)
    after = before.with_changes(revision, changes)
    try:
        validate.check(before, after, changes, Limits())
    except Problem:
        return None
    return after, frozenset(changes)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(), st.integers(1, 4), st.booleans())
def test_deltas_lead_where_the_whole_leads(
    script: list[tuple[Key, dict[str, Any] | None]], every: int, kernel: bool
) -> None:
    """Several changes may be sent as one delta; what the forwarder has is compared each time."""
    configuration = Configuration()
    mirror, _ = full(configuration)
    there: dict[str, protocol.WireObject] = {}
    touched: frozenset[Key] = frozenset()
    for number, (key, spec) in enumerate(script, 1):
        result = changed(configuration, key, spec, kernel)
        if result is not None:
            configuration, keys_touched = result
            touched |= keys_touched
            # What was checked step by step is sound as a whole.
            validate.check_all(configuration, Limits())
        if number % every and number != len(script):
            continue
        delta = difference(mirror, configuration, touched)
        for name in delta.deletes:
            del there[name]
        there |= {obj.key: obj for obj in delta.upserts}
        whole, objects = full(configuration)
        assert len(objects) == len({obj.key for obj in objects}), "two objects of one key"
        assert there == {obj.key: obj for obj in objects}
        assert delta.hash == whole.hash
        mirror, touched = whole, frozenset()


BRIDGE, PORT, MONITOR = Key("bridge", "vale1"), Key("port", "p"), Key("port", "m")
STATION = {"type": "vale", "switch": "vale1", "port": "x"}
DIRECT: list[tuple[Key, dict[str, Any] | None]] = [
    *((BRIDGE, {"clients": {"mode": mode}}) for mode in ("relay", "direct")),
    (BRIDGE, {"clients": {"mode": "direct"}, "mtu": 1500}),
    (BRIDGE, {"vlan_filtering": True}),
    *((PORT, {"backend": STATION, "isolation_group": group}) for group in (0, 1)),
    (PORT, {"backend": {"type": "memory"}, "bridge": "vale1"}),
    (PORT, {"backend": {"type": "memory"}}),
    (MONITOR, {"backend": {"type": "monitor", "port": "p"}}),
    (MONITOR, None),
    *(
        (Key("ruleset", "s"), {"attach": [{**place, "direction": "ingress"}]})
        for place in ({"port": "p"}, {"bridge": "vale1"})
    ),
    (Key("ruleset", "s"), None),
]


@given(st.lists(st.sampled_from(DIRECT), max_size=12))
def test_direct_mode_and_what_has_to_see_frames_refuse_each_other(
    script: list[tuple[Key, dict[str, Any] | None]],
) -> None:
    """In whatever order they come: what was checked step by step is sound as a whole."""
    configuration = Configuration()
    for key, spec in script:
        result = changed(configuration, key, spec, kernel=False)
        if result is not None:
            configuration, _ = result
            validate.check_all(configuration, Limits())


def test_a_change_costs_what_it_touches() -> None:
    """One port of 200, one static entry or rule of 2,000: one object compiled and sent."""
    configuration = Configuration()
    changes: dict[Key, Stored[Any] | None] = {}
    for number in range(20):
        key = Key("bridge", f"b{number}")
        changes[key] = stored(key, {}, 1)
    for number in range(200):
        key = Key("port", f"p{number}")
        spec = {"bridge": f"b{number % 20}", "backend": {"type": "memory"}}
        changes[key] = stored(key, spec, 1)
    for number in range(2000):
        key = Key("fdb", f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}", "b0")
        changes[key] = stored(key, {"port": "p0"}, 1)
    changes[Key("ruleset", "s")] = stored(Key("ruleset", "s"), {}, 1)
    for number in range(2000):
        key = Key("rule", f"r{number}", "s")
        changes[key] = stored(key, {"action": {"type": "drop"}}, 1)
    configuration = configuration.with_changes(1, changes)
    mirror, _ = full(configuration)
    for key, fields in (
        (Key("rule", "r7", "s"), {"priority": 3}),
        (Key("port", "p7"), {"learning": False}),
        (Key("fdb", "02:00:00:00:00:05", "b0"), {"port": "p20"}),
    ):
        old = configuration.get(key)
        assert old is not None
        new = replace(old, spec=old.spec.model_copy(update=fields), revision=2)
        after = configuration.with_changes(2, {key: new})
        delta = difference(mirror, after, frozenset({key}))
        assert len(delta.upserts) == 1
        assert not delta.deletes
        assert delta.hash == full(after)[0].hash
