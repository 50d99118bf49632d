"""Connections in an appliance with small limits, as real hosts' stacks meet them.

host 0 ══ p0 ┐
             │ br0     new ones from p0 only, what belongs to them from everywhere
host 1 ══ p1 ┘
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.stacks import connect, connects, datagram_socket, echo, listening
from tests.support.topology import Topology, wait_until
from tests.support.wire import in_netns

pytestmark = pytest.mark.root

CONNECTIONS, PER_PORT = 12, 4
LIMITS = {"CONNECTIONS": CONNECTIONS, "CONNECTIONS_PER_PORT": PER_PORT, "TCP_ESTABLISHED_S": 600}
RULES: list[dict[str, Any]] = [
    {"id": "arp", "priority": 1, "match": {"eth": {"type": "arp"}}, "action": {"type": "allow"}},
    {
        "id": "known",
        "priority": 2,
        "match": {"state": ["established", "related"]},
        "action": {"type": "allow"},
    },
    {
        "id": "begun",
        "priority": 3,
        "match": {"in_port": "p0", "state": ["new"]},
        "action": {"type": "allow"},
    },
]


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology() as topology:
        topology.sysctl(topology.hosts[1], "net.ipv4.icmp_ratelimit", "0")  # errors count here
        yield topology


@pytest.fixture(scope="module")
def appliance(net: Topology) -> Iterator[Appliance]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LIMITS.items():
            patch.setenv(f"VSWITCH_LIMIT_{name}", str(value))
        with Appliance(net, net.switch) as started:
            started.bridge("br0", *net.switch_ifs)
            started.put_rules("fw", RULES, default="drop")
            yield started


@pytest.fixture
def switch(appliance: Appliance) -> Iterator[Appliance]:
    appliance.call("POST", "/connections/flush", {})
    yield appliance
    appliance.check_ledger()


def refused(switch: Appliance) -> int:
    items = switch.call("GET", "/stats/drops")["items"]
    return sum(item["frames"] for item in items if item["reason"] == "connection_limit")


def test_a_port_may_begin_so_many_and_others_are_not_in_its_way(
    net: Topology, switch: Appliance
) -> None:
    before = refused(switch)
    limits = {
        item["name"]: item["value"] for item in switch.call("GET", "/system/capabilities")["limits"]
    }
    assert limits["forwarder_connections_max"] == CONNECTIONS
    with listening(net, 1, 7):
        held = [connect(net, 0, 1, 7) for _ in range(PER_PORT)]
        try:

            def complete() -> bool:
                """Also the last handshake's third segment has passed."""
                rows = switch.call("GET", "/connections", port="p0", proto="tcp")["items"]
                assert len(rows) == PER_PORT
                return all(500 < row["expires_s"] <= 600 for row in rows)

            wait_until(complete, 5, "all are established")
            assert switch.call("GET", "/connections")["max"] == CONNECTIONS
            assert refused(switch) == before
            assert not connects(net, 0, 1, 7)
            assert refused(switch) > before
            # what has not been answered makes room for what comes after it
            switch.call("POST", "/connections/flush", {"port": "p0"})
            before = refused(switch)
            for port in range(9, 9 + 2 * PER_PORT):
                with datagram_socket(net, 0, 1, port) as sock:
                    sock.send(b"nobody answers")
            rows = switch.call("GET", "/connections", proto="udp")["items"]
            assert {row["dst_port"] for row in rows} == set(range(9 + PER_PORT, 9 + 2 * PER_PORT))
            assert refused(switch) == before
        finally:
            for one in held:
                one.close()


def test_a_large_datagram_arrives_in_its_fragments(net: Topology, switch: Appliance) -> None:
    address = (net.addresses[1], 4000)

    def server() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(address)
        sock.settimeout(5)
        return sock

    data = bytes(range(256)) * 24
    with in_netns(net.hosts[1], server) as there, datagram_socket(net, 0, 1, 4000) as here:
        here.send(data)
        got, sender = there.recvfrom(65536)
        assert got == data
        there.sendto(data[::-1], sender)
        assert here.recv(65536) == data[::-1]
        (row,) = switch.call("GET", "/connections", proto="udp")["items"]
        assert (row["src_frames"], row["dst_frames"], row["state"]) == (5, 5, "established")


def test_an_error_comes_back_only_about_what_was_sent(net: Topology, switch: Appliance) -> None:
    with datagram_socket(net, 0, 1, 4001) as sock:
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)
    without = [rule for rule in RULES if rule["id"] != "known"]
    switch.put_rules("fw", without, default="drop")
    try:
        with datagram_socket(net, 0, 1, 4001) as sock:
            sock.send(b"?")
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                sock.recv(1)
    finally:
        switch.put_rules("fw", RULES, default="drop")


def test_connections_outlive_keeper_and_forwarder(net: Topology, switch: Appliance) -> None:
    with listening(net, 1, 7) as server, connect(net, 0, 1, 7) as client:
        here, _ = server.accept()
        with here:
            for name in ("keeper", "forwarder", "keeper"):
                old = switch.kill(name)
                switch.wait_replaced(name, old)
                wait_until(switch.ready, 20, f"a new {name} works")
                assert echo(client, here, b"there") == b"there"
                assert echo(here, client, b"back") == b"back"
            rows = switch.call("GET", "/connections", proto="tcp")["items"]
            assert [row["tcp_state"] for row in rows] == ["established"]
            assert rows[0]["src_frames"] > 4
