"""Rules over the control socket and a real engine: frames say what is in force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath import protocol as wire
from fastpath import rule_places
from fastpath.protocol import WireAction, WireAttach, WireGroup, WirePolicer, WireTerm
from fastpath.regions import make_region
from tests.support.fastpath import Client, RefusedError, bridge, port, rule, ruleset
from tests.support.forwarder import LIMITS, Forwarder
from tests.support.topology import wait_until

SWITCH = [bridge("br0"), *(port(f"p{n}", "memory", "br0") for n in range(3))]


@pytest.fixture
def state_fd() -> Iterator[int]:
    fd = make_region("test", 1 << 24)
    yield fd
    os.close(fd)


@pytest.fixture
def forwarder(tmp_path: Path, state_fd: int) -> Iterator[Forwarder]:
    with Forwarder(tmp_path / "f.sock", state_fd) as running:
        yield running


@pytest.fixture
def client(forwarder: Forwarder) -> Iterator[Client]:
    with Client(forwarder.path) as connected:
        connected.apply(SWITCH)
        yield connected


def frame(source: int, ethertype: int = 0x88B5) -> bytes:
    return b"\xff" * 6 + bytes([2, 0, 0, 0, 0, source]) + ethertype.to_bytes(2, "big") + bytes(46)


def ethertype(number: int) -> WireTerm:
    return WireTerm("eth_type", masks=((number.to_bytes(2, "big"), b"\xff\xff"),))


def from_station(number: int) -> WireTerm:
    return WireTerm("eth_src", masks=((bytes([2, 0, 0, 0, 0, number]), b"\xff" * 6),))


def passes(forwarder: Forwarder, data: bytes, sender: str = "p0", receiver: str = "p1") -> bool:
    """Does a frame that ``sender`` receives come out of ``receiver``?"""
    slots = forwarder.applier.port_slots
    for name, slot in slots.items():
        if name in forwarder.applier.attached:
            while forwarder.engine.memory_take(slot) is not None:
                pass
    before = books(forwarder)
    assert forwarder.engine.memory_put(slots[sender], data)

    def through() -> bool:
        return books(forwarder) != before and settled(forwarder)

    wait_until(through, 5, "the frame is in the books")
    return forwarder.engine.memory_take(slots[receiver]) == data


def books(forwarder: Forwarder) -> int:
    return forwarder.engine.total_counters().rx_frames


def settled(forwarder: Forwarder) -> bool:
    total = forwarder.engine.total_counters()
    drops = sum(total.rx_drops.values()) + sum(total.tx_drops.values())
    return total.rx_frames + total.copies + total.originated == total.tx_frames + drops


def codes(ack: wire.Ack) -> dict[str, str]:
    return {key: outcome.code for key, outcome in ack.outcomes.items() if not outcome.ok}


# --- changes ------------------------------------------------------------------------------------


def test_a_rule_drops_what_it_matches_and_lets_the_rest_pass(
    forwarder: Forwarder, client: Client
) -> None:
    ack = client.apply([ruleset("fw", "br0"), rule("fw", "a", match=(from_station(1),))])
    assert ack.outcomes == {"ruleset/fw": wire.Outcome()}
    assert not passes(forwarder, frame(1))
    assert passes(forwarder, frame(2))
    client.apply([rule("fw", "a", match=(from_station(2),))])
    assert passes(forwarder, frame(1))
    assert not passes(forwarder, frame(2))
    client.apply(deletes=["rule/fw/a"])
    assert passes(forwarder, frame(2))
    client.apply([ruleset("fw", "br0", default_drop=True)])
    assert not passes(forwarder, frame(3))
    client.apply(deletes=["ruleset/fw"])
    assert passes(forwarder, frame(3))
    client.check_ledger()


def test_rules_and_ports_of_one_change(forwarder: Forwarder, client: Client) -> None:
    """A port that a rule names may be as new as the rule."""
    ack = client.apply(
        [
            ruleset("fw", "br0"),
            rule("fw", "a", match=(WireTerm("in_port", words=("p7",)),)),
            port("p7", "memory", "br0"),
        ]
    )
    assert codes(ack) == {}
    assert not passes(forwarder, frame(1), "p7")
    assert passes(forwarder, frame(1), "p0", "p7")
    client.apply([ruleset("fw")], ["rule/fw/a", "port/p7"])
    assert passes(forwarder, frame(1))


def test_a_group_changes_by_itself(forwarder: Forwarder, client: Client) -> None:
    def stations(*numbers: int) -> WireGroup:
        masks = tuple((bytes([2, 0, 0, 0, 0, n]), b"\xff" * 6) for n in numbers)
        return WireGroup("bad", masks, ())

    term = WireTerm("eth_src", group="bad")
    client.apply([stations(1), ruleset("fw", "br0"), rule("fw", "a", match=(term,))])
    client.apply([rule("fw", "b", match=(ethertype(0x1234),))])
    assert not passes(forwarder, frame(1))
    client.apply([stations(2, 3)])
    assert passes(forwarder, frame(1))
    assert not passes(forwarder, frame(3))
    assert client.status().rulesets[0].matches == 3


def test_a_jump_goes_to_a_set_of_the_same_change(forwarder: Forwarder, client: Client) -> None:
    client.apply(
        [
            rule("a", "go", action=WireAction("jump", ruleset="z")),
            ruleset("a", "br0"),
            rule("z", "no", match=(from_station(1),)),
            ruleset("z", default_drop=True),
        ]
    )
    assert not passes(forwarder, frame(1))
    assert passes(forwarder, frame(2))
    # It is held: the set that jumps stays as it is, and so does what it jumps to.
    ack = client.apply(deletes=["ruleset/z", "rule/z/no"])
    assert codes(ack) == {"ruleset/a": "REFERENCE_NOT_FOUND", "rule/a/go": "REFERENCE_NOT_FOUND"}
    assert ack.outcomes["rule/a/go"].field == "action.ruleset"
    assert not passes(forwarder, frame(1))
    client.apply(deletes=["rule/a/go"])
    assert passes(forwarder, frame(1))
    assert [state.name for state in client.status().rulesets] == ["a"]


def test_a_policer_drops_what_exceeds_it(forwarder: Forwarder, client: Client) -> None:
    client.apply(
        [
            WirePolicer("slow", "frames", 1, 1),
            ruleset("fw", "br0"),
            rule("fw", "a", action=WireAction("police", policer="slow")),
        ]
    )
    assert [passes(forwarder, frame(1)) for _ in range(3)].count(False) >= 1
    (state,) = client.status().policers
    assert state.name == "slow"
    assert state.passed + state.dropped == 3
    ack = client.apply([WirePolicer("slow", "frames", 0, 1)])
    assert codes(ack) == {"policer/slow": "INVALID"}
    client.apply(deletes=["rule/fw/a", "policer/slow"])
    assert client.status().policers == ()


def test_redirect_and_mirror_name_ports(forwarder: Forwarder, client: Client) -> None:
    client.apply(
        [
            ruleset("fw", "br0"),
            rule("fw", "a", match=(from_station(1),), action=WireAction("redirect", port="p2")),
        ]
    )
    assert not passes(forwarder, frame(1), receiver="p1")
    assert passes(forwarder, frame(1), receiver="p2")
    # The port goes; its number is nobody's while the rule that names it is in force.
    ack = client.apply([port("p8", "memory", "br0")], ["port/p2"])
    assert codes(ack)["rule/fw/a"] == "REFERENCE_NOT_FOUND"
    client.apply([port("p9", "memory", "br0")])
    for name in ("p8", "p9"):
        assert not passes(forwarder, frame(1), receiver=name)
    client.apply(deletes=["rule/fw/a"])
    assert passes(forwarder, frame(1), receiver="p8")
    forwarder.call(forwarder.applier.tick)
    wait_until(lambda: "p2" not in forwarder.applier.port_slots, 5, "its number is free")


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"match": (WireTerm("ip_src", group="x"),)}, "REFERENCE_NOT_FOUND", "match.ip_src"),
        ({"match": (WireTerm("in_port", words=("x",)),)}, "REFERENCE_NOT_FOUND", "match.in_port"),
        ({"action": WireAction("mirror", port="x")}, "REFERENCE_NOT_FOUND", "action.port"),
        ({"action": WireAction("police", policer="x")}, "REFERENCE_NOT_FOUND", "action.policer"),
        ({"action": WireAction("jump", ruleset="x")}, "REFERENCE_NOT_FOUND", "action.ruleset"),
        ({"action": WireAction("dance")}, "INVALID", "action.type"),
        ({"match": (WireTerm("l4_dst", ranges=((2, 1),)),)}, "INVALID", "match.l4_dst"),
        ({"priority": 1 << 40}, "INVALID", "priority"),
    ],
)
def test_a_rule_that_cannot_be_leaves_the_set_as_it_was(
    forwarder: Forwarder, client: Client, changes: dict[str, Any], code: str, field: str
) -> None:
    client.apply([ruleset("fw", "br0"), rule("fw", "a", match=(from_station(1),))])
    good = rule("fw", "b", match=(from_station(2),))
    ack = client.apply([good, rule("fw", "c", **changes)], ["rule/fw/a"])
    assert codes(ack) == {"ruleset/fw": code, "rule/fw/c": code}
    assert ack.outcomes["rule/fw/c"].field == field
    assert ack.outcomes["ruleset/fw"].message.startswith("rule c: ")
    assert not passes(forwarder, frame(1))
    assert passes(forwarder, frame(2))
    state = client.status().rulesets[0]
    assert (state.rules, list(state.failed), state.outcome.code) == (1, ["c"], code)
    ack = client.apply(deletes=["rule/fw/c"])
    assert codes(ack) == {}
    assert passes(forwarder, frame(1))
    assert not passes(forwarder, frame(2))


def test_a_set_is_asked_where_it_can_be(forwarder: Forwarder, client: Client) -> None:
    nowhere = wire.WireRuleSet(
        "fw", True, (WireAttach("br0", "", False, 0), WireAttach("", "p9", True, 1))
    )
    ack = client.apply([nowhere])
    assert codes(ack) == {"ruleset/fw": "REFERENCE_NOT_FOUND"}
    assert ack.outcomes["ruleset/fw"].field == "attach[1].port"
    assert not passes(forwarder, frame(1))
    client.apply([port("p9", "memory", "br0")])
    assert client.status().rulesets[0].outcome.ok


def test_more_sets_than_a_stage_can_ask_are_outcomes(forwarder: Forwarder, client: Client) -> None:
    """One too many at a place is left out; too many together leave all as it was."""
    most = rule_places.CHAIN_MAX
    ack = client.apply([ruleset(f"b{n:02}", "br0") for n in range(most + 1)])
    assert codes(ack) == {f"ruleset/b{most}": "LIMIT"}
    assert passes(forwarder, frame(1))
    port_too = wire.WireRuleSet("p", True, (WireAttach("", "p0", False, 0),))
    assert "EINVAL" in codes(client.apply([port_too])).values()
    assert passes(forwarder, frame(1))
    client.apply(deletes=["ruleset/b00", "ruleset/b01"])
    assert all(state.outcome.ok for state in client.status().rulesets)
    assert not passes(forwarder, frame(1))


def test_sets_that_are_none(client: Client) -> None:
    both = wire.WireRuleSet("fw", False, (WireAttach("br0", "p0", False, 0),))
    assert codes(client.apply([both])) == {"ruleset/fw": "INVALID"}
    ack = client.apply([WireGroup("g", ((b"\1\2", b"\3\4"),), ())])
    assert codes(ack) == {"ruleset/fw": "INVALID", "group/g": "INVALID"}
    ack = client.apply([rule("nowhere", "a")], ["ruleset/fw", "group/g"])
    assert codes(ack) == {"rule/nowhere/a": "REFERENCE_NOT_FOUND"}


SMALL = LIMITS | {
    "sets_max": 2,
    "rules_max": 6,
    "set_rules_max": 4,
    "policers_max": 1,
    "matches_max": 8,
    "rule_matches_max": 4,
}


@pytest.fixture
def small(tmp_path: Path, state_fd: int) -> Iterator[Forwarder]:
    with Forwarder(tmp_path / "s.sock", state_fd, SMALL) as running:
        yield running


def test_limits_are_outcomes_and_room_is_found_again(small: Forwarder) -> None:
    with Client(small.path) as client:
        client.apply([ruleset("a"), *(rule("a", f"r{n}") for n in range(4))])
        ack = client.apply([rule("a", "r4")])
        assert codes(ack) == {"ruleset/a": "RULE_LIMIT"}
        client.apply([ruleset("b"), rule("b", "r0"), rule("b", "r1")], ["rule/a/r4"])
        ack = client.apply([rule("b", "r2")])
        assert codes(ack) == {"ruleset/b": "RULE_LIMIT"}
        assert "6 rules in all sets" in ack.outcomes["ruleset/b"].message
        ack = client.apply([ruleset("c")])
        assert codes(ack) == {"ruleset/b": "RULE_LIMIT", "ruleset/c": "LIMIT"}
        client.apply([WirePolicer("p", "bits", 1, 1)], ["rule/a/r0", "ruleset/c"])
        ack = client.apply([WirePolicer("q", "bits", 1, 1)])
        assert ack.outcomes["policer/q"].code == "LIMIT"
        client.apply(deletes=["policer/p"])
        small.call(small.applier.retry_rules)
        wait_until(lambda: codes(client.apply()) == {}, 5, "there is room again")
        assert [state.rules for state in client.status().rulesets] == [3, 3]


def test_alternatives_are_bounded_in_a_rule_and_in_all(small: Forwarder) -> None:
    def wide(id: str, count: int) -> wire.WireRule:
        ranges = tuple((10 * n, 10 * n + 1) for n in range(count))
        return rule("a", id, match=(WireTerm("l4_dst", ranges=ranges),))

    with Client(small.path) as client:
        ack = client.apply([ruleset("a"), wide("x", 5)])
        assert codes(ack) == {"ruleset/a": "RULE_LIMIT", "rule/a/x": "RULE_LIMIT"}
        assert ack.outcomes["rule/a/x"].field == "match.l4_dst"
        ack = client.apply([wide("x", 4), wide("y", 4)])
        assert codes(ack) == {}
        ack = client.apply([wide("z", 1)])
        assert codes(ack) == {"ruleset/a": "RULE_LIMIT", "rule/a/z": "RULE_LIMIT"}
        assert codes(client.apply([wide("y", 3)])) == {}


# --- numbers, counters, the log ------------------------------------------------------------------


def hits(client: Client, name: str = "fw", limit: int = 2) -> dict[str, int]:
    """Frames by rule, in order, page by page."""
    found: dict[str, int] = {}
    cursor = 0
    while True:
        request = wire.GetRuleCounters(client.next_id(), name, cursor, limit)
        page = client.call(request, wire.RuleCounters)
        assert len(page.rows) <= limit
        found |= {row.id: row.frames for row in page.rows}
        cursor = page.cursor
        if cursor == 0:
            return found


def test_a_rule_keeps_its_counters_and_another_does_not_get_them(
    forwarder: Forwarder, client: Client
) -> None:
    client.apply(
        [
            ruleset("fw", "br0"),
            rule("fw", "b", priority=1, match=(from_station(1),)),
            rule("fw", "a", priority=2, match=(from_station(2),)),
            rule("fw", "c", priority=2, match=(from_station(3),)),
        ]
    )
    for source in (1, 1, 2):
        passes(forwarder, frame(source))
    assert list(hits(client).items()) == [("b", 2), ("a", 1), ("c", 0)]
    client.apply([rule("fw", "b", priority=9, match=(from_station(1),))])
    passes(forwarder, frame(1))
    assert list(hits(client).items()) == [("a", 1), ("c", 0), ("b", 3)]
    slots = {live.slot for live in forwarder.applier.rules.sets["fw"].live.values()}
    client.apply(deletes=["rule/fw/b"])
    client.apply([rule("fw", "d", match=(from_station(4),))])
    assert {live.slot for live in forwarder.applier.rules.sets["fw"].live.values()} == slots
    assert hits(client)["d"] == 0
    with pytest.raises(RefusedError) as refused:
        hits(client, "none")
    assert refused.value.refused.code == "NOT_FOUND"


def test_what_is_logged_is_told_by_name(forwarder: Forwarder, client: Client) -> None:
    client.apply(
        [
            ruleset("fw", "br0"),
            rule("fw", "a", match=(from_station(1),), log=True),
            rule("fw", "b", action=WireAction("log")),
        ]
    )
    passes(forwarder, frame(1))
    # Its number is free, and given away: what it met is still its own.
    client.apply([rule("fw", "c")], ["rule/fw/a"])
    wait_until(lambda: client.ping() >= 0 and bool(client.logged), 5, "the log comes")
    (row,) = client.logged
    assert (row.ruleset, row.rule, row.action) == ("fw", "a", "drop")
    assert (row.in_port, row.out_port, row.frame_len) == ("p0", "", 60)
    assert row.head == frame(1)[: len(row.head)] != b""


# --- time ----------------------------------------------------------------------------------------


def test_a_rule_goes_when_its_time_has_come(forwarder: Forwarder, client: Client) -> None:
    soon = int(forwarder.now) + 100
    client.apply(
        [
            ruleset("fw", "br0"),
            rule("fw", "a", match=(from_station(1),), expires_at=soon),
            rule("fw", "past", match=(from_station(2),), expires_at=1),
        ]
    )
    assert passes(forwarder, frame(2))
    assert not passes(forwarder, frame(1))
    hash = client.status().config_hash
    forwarder.now = soon + 1
    forwarder.call(forwarder.applier.tick)
    wait_until(lambda: client.status().rulesets[0].rules == 0, 5, "the rule is taken out")
    assert passes(forwarder, frame(1))
    assert client.status().config_hash == hash
    client.apply([rule("fw", "a", match=(from_station(1),), expires_at=soon + 100)])
    assert not passes(forwarder, frame(1))


# --- successors --------------------------------------------------------------------------------


def test_a_successor_runs_what_was_in_force(tmp_path: Path, state_fd: int) -> None:
    """Also where that is not what was wanted, and whatever has become of the group since."""
    term = WireTerm("eth_src", group="bad")
    one = WireGroup("bad", ((bytes([2, 0, 0, 0, 0, 1]), b"\xff" * 6),), ())
    with Forwarder(tmp_path / "1.sock", state_fd) as first, Client(first.path) as client:
        client.apply([*SWITCH, one, ruleset("fw", "br0"), rule("fw", "a", match=(term,))])
        ack = client.apply(
            [rule("fw", "b", match=(WireTerm("in_port", words=("gone",)),))], ["group/bad"]
        )
        assert codes(ack)["ruleset/fw"] == "REFERENCE_NOT_FOUND"
        assert not passes(first, frame(1))
        before = client.status()
    with Forwarder(tmp_path / "2.sock", state_fd) as second, Client(second.path) as client:
        client.wait_ready("p0", "p1", "p2")
        after = client.status()
        assert (after.config_hash, after.applied_revision) == (
            before.config_hash,
            before.applied_revision,
        )
        assert after.generation > before.generation
        assert after.rulesets[0].outcome == before.rulesets[0].outcome
        assert not passes(second, frame(1))
        assert passes(second, frame(2))
        client.snapshot([*SWITCH, ruleset("fw", "br0")])
        assert passes(second, frame(1))
    with Forwarder(tmp_path / "3.sock", state_fd) as third, Client(third.path) as client:
        client.wait_ready("p0", "p1")
        assert passes(third, frame(1))
        assert client.status().rulesets[0].outcome.ok


# --- many -----------------------------------------------------------------------------------------


def test_many_rules_come_and_others_are_answered(forwarder: Forwarder, client: Client) -> None:
    rules = [rule("fw", f"r{n}", priority=n, match=(ethertype(n),)) for n in range(4000)]
    objects = [*SWITCH, ruleset("fw", "br0"), *rules]
    with Client(forwarder.path) as other:
        hash = Client.hash_of({obj.key: obj for obj in objects})
        client.send(wire.Begin(client.next_id(), 7, hash))
        for chunk in wire.chunks(objects):
            client.send(chunk)
        client.send(wire.Commit(client.next_id()))
        while other.status().applied_revision != 7 or not other.status().rulesets[0].rules:
            assert other.ping() < 5
        ack = client.receive(wire.Ack)
    assert codes(ack) == {}
    assert len(ack.outcomes) == len(SWITCH) + 1  # rules are told of when they are not in force
    state = client.status().rulesets[0]
    assert (state.rules, state.matches) == (4000, 4000)
    assert not passes(forwarder, frame(1, 3999))
    assert passes(forwarder, frame(1, 0x88B5))
