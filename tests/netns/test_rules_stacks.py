"""What rules do, as the stacks of real hosts see it.

host 0 ══ p0 ┐
host 1 ══ p1 ┤ br0        rules at the bridge's ingress
host 2 ══ p2 ┘
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support import stacks
from tests.support.appliance import Appliance
from tests.support.probes import Generator, Load, Sink, teach
from tests.support.stacks import connect, connects, iperf, listening, pings
from tests.support.topology import CommandError, Topology, wait_until

pytestmark = pytest.mark.root

ARP: dict[str, Any] = {"id": "arp", "priority": 1, "match": {"eth": {"type": "arp"}}}
ALLOW, DROP, REJECT = {"type": "allow"}, {"type": "drop"}, {"type": "reject"}
TCP = {"ip": {"proto": "tcp"}}


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=3) as topology:
        yield topology


@pytest.fixture(scope="module")
def appliance(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch) as started:
        started.bridge("br0", *net.switch_ifs)
        yield started


@pytest.fixture
def switch(appliance: Appliance) -> Iterator[Appliance]:
    """Without rules and connections before, with balanced books behind."""
    appliance.call("POST", "/connections/flush", {})
    yield appliance
    for item in appliance.call("GET", "/rulesets")["items"]:
        appliance.call("DELETE", f"/rulesets/{item['name']}")
    appliance.check_ledger()


def rule(id: str, priority: int, match: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {"id": id, "priority": priority, "match": match, "action": action}


def from_p0_only(switch: Appliance) -> list[dict[str, Any]]:
    """Connections are begun at p0, and by nobody else."""
    rules = [
        {**ARP, "action": ALLOW},
        rule("known", 10, {"state": ["established", "related"]}, ALLOW),
        rule("mine", 20, {"in_port": "p0", "state": ["new"]}, ALLOW),
    ]
    switch.put_rules("fw", rules, default="drop")
    return rules


def test_connections_are_begun_from_one_side_only(net: Topology, switch: Appliance) -> None:
    from_p0_only(switch)
    assert pings(net, 0, 1)
    assert not pings(net, 1, 0)
    assert iperf(net, "-n", "20M")["received_bytes"] > 15 << 20
    with listening(net, 0, 7), listening(net, 1, 7):
        assert connects(net, 0, 1, 7)
        assert not connects(net, 1, 0, 7)
    hits = switch.hits("fw")
    assert hits["mine"] >= 3
    assert hits["known"] > hits["mine"]
    assert switch.drops("rule_default") > 0


def test_a_connection_outlives_a_change_of_rules_but_no_flush(
    net: Topology, switch: Appliance
) -> None:
    rules = from_p0_only(switch)
    with listening(net, 1, 7) as server, connect(net, 0, 1, 7) as client:
        here, _ = server.accept()
        with here:
            assert stacks.echo(client, here, b"before") == b"before"
            switch.put_rules("fw", [r for r in rules if r["id"] != "mine"], default="drop")
            assert stacks.echo(client, here, b"behind") == b"behind"
            assert not connects(net, 0, 1, 7)

            rows = switch.call("GET", "/connections")["items"]
            mine = [row for row in rows if row["dst_port"] == 7 and row["state"] == "established"]
            assert [(row["src"], row["dst"], row["port"]) for row in mine] == [
                (net.addresses[0], net.addresses[1], "p0")
            ]
            switch.call("POST", "/connections/flush", {})
            client.sendall(b"of no connection that is known")
            here.settimeout(0.5)
            with pytest.raises(TimeoutError):
                here.recv(1)


def test_a_connection_outlives_the_forwarder(net: Topology, switch: Appliance) -> None:
    """What is known of connections is the keeper's: the next forwarder lets them go on, and still
    no new ones in."""
    from_p0_only(switch)
    with listening(net, 1, 7) as server, connect(net, 0, 1, 7) as client:
        here, _ = server.accept()
        with here:
            assert stacks.echo(client, here, b"before") == b"before"
            old = switch.kill("forwarder")
            switch.wait_replaced("forwarder", old)
            assert stacks.echo(client, here, b"behind") == b"behind"
            assert stacks.echo(here, client, b"back") == b"back"
            with listening(net, 0, 7):
                assert not connects(net, 1, 0, 7)
            wait_until(switch.ready, 20, "the control plane has found the new one")


def test_a_rejected_sender_is_told_at_once(net: Topology, switch: Appliance) -> None:
    rules = [rule("no-7", 10, {"l4": {"dport": ["7"]}}, REJECT)]
    rules += [rule("no-ping", 20, {"icmp": {"type": 8}}, REJECT)]
    switch.put_rules("fw", rules)
    with listening(net, 1, 7), listening(net, 1, 8):
        assert connects(net, 0, 1, 8)
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            connect(net, 0, 1, 7)
        with stacks.datagram_socket(net, 0, 1, 7) as sock:
            sock.send(b"?")
            with pytest.raises(OSError, match="No route to host"):  # EHOSTUNREACH
                sock.recv(1)
        assert time.monotonic() - began < stacks.TIMEOUT_S
    with pytest.raises(CommandError, match="Packet filtered"):
        net.run(net.hosts[0], "ping", "-c", "1", "-W", "2", net.addresses[1])
    rejected = switch.drops("rejected")
    assert rejected >= 3
    assert switch.check_ledger()["originated"] == rejected == sum(switch.hits("fw").values())


def test_a_policer_holds_its_rate(net: Topology, switch: Appliance) -> None:
    """4,000 frames/s of what comes at 20,000; what is beyond it is dropped, every frame counted."""
    rate, seconds = 4_000, 3.0
    switch.call("PUT", "/policers/slow", {"spec": {"unit": "frames_per_s", "rate": rate}})
    load = Load(rate=20_000, seconds=seconds)
    teach(net, load)
    action = {"type": "police", "policer": "slow"}
    switch.put_rules("fw", [rule("slow", 10, {"eth": {"src": load.src}}, action)])
    sink = Sink(net, 1, idle_ms=500)
    sent = int(Generator(net, 0, load).result()["sent"])
    arrived = int(sink.result()["unique"])
    assert rate * seconds / 2 < arrived < rate * seconds * 2
    switch.check_ledger()
    assert arrived + switch.drops("policed") == sent == switch.hits("fw")["slow"]

    def counted() -> bool:
        status = switch.call("GET", "/policers/slow")["status"]
        return (status["passed"], status["dropped"]) == (arrived, sent - arrived)

    wait_until(counted, 10, "the policer's status is of now")


def test_a_rule_is_over_when_it_expires(net: Topology, switch: Appliance) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    expiring = rule("until", 10, {"ip": {"proto": "icmp"}}, DROP)
    switch.put_rules("fw", [expiring | {"expires_at": end.isoformat()}])
    assert not pings(net, 0, 1)
    wait_until(lambda: pings(net, 0, 1), 15, "a ping passes when the rule has expired")
    assert datetime.now(UTC) >= end


def test_what_is_logged(net: Topology, switch: Appliance) -> None:
    logged = rule("no-7", 10, TCP | {"l4": {"dport": ["7"]}}, DROP) | {"log": True}
    switch.put_rules("fw", [logged])
    assert not connects(net, 0, 1, 7)

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = switch.call("GET", "/rulesets/fw/log")["items"]
        return found

    wait_until(lambda: bool(rows()), 5, "a record of the log")
    for row in rows():
        assert (row["rule"], row["action"], row["in_port"]) == ("no-7", "drop", "p0")
        assert row["out_port"] is None
        assert socket.inet_aton(net.addresses[1]).hex() in row["head_hex"]
    assert len(rows()) == switch.hits("fw")["no-7"]


def test_egress_rules_and_two_sets(net: Topology, switch: Appliance) -> None:
    """A port's own set at its egress: the others are still reached; two sets have both to agree."""
    attach = [{"port": "p1", "direction": "egress"}]
    switch.put_rules("private", [rule("no-ping", 10, {"icmp": {"type": 8}}, DROP)], attach=attach)
    assert not pings(net, 0, 1)
    assert pings(net, 0, 2)
    assert pings(net, 1, 0)
    switch.put_rules("open", [rule("ping", 10, {"icmp": {"type": 8}}, ALLOW)])
    assert not pings(net, 0, 1)
    switch.call("DELETE", "/rulesets/private")
    assert pings(net, 0, 1)
