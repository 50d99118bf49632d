"""Monitors with the real processes: made over REST, read from a TAP, and through kills.

host 0 ══ veth ══ p0 [br0] p1 ══ veth ══ host 1
                  │
                  m0 [watch] tap            copies of p0's frames, filtered
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.support.appliance import ApiError, Appliance
from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import HostPort

pytestmark = pytest.mark.root

KILLS = 5


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as topology:
        yield topology


def packets(count: int, source: int, to: int) -> tuple[list[bytes], list[bytes]]:
    """UDP and ICMP, one after the other; and the latter alone."""
    ether = Ether(src=f"02:00:00:00:00:0{source}", dst=f"02:00:00:00:00:0{to}")
    udp = [bytes(ether / IP() / UDP() / Raw(n.to_bytes(4, "big") * 20)) for n in range(count)]
    icmp = [bytes(ether / IP() / ICMP(seq=n) / Raw(bytes(n))) for n in range(count)]
    return [frame for pair in zip(udp, icmp, strict=True) for frame in pair], icmp


class Watched:
    """Two hosts, and who looks at the TAP."""

    def __init__(self, net: Topology) -> None:
        self.hosts = [
            HostPort(host, name) for host, name in zip(net.hosts, net.host_ifs, strict=True)
        ]
        self.tap = HostPort(net.switch, f"{net.prefix}w")

    def exchange(self, source: int, count: int = 100) -> None:
        """From one host to the other; the TAP shows the ICMP among it."""
        sent, icmp = packets(count, source + 1, 2 - source)
        for frame in sent:
            self.hosts[source].send(frame)
        arrived: list[bytes] = []
        seen: list[bytes] = []

        def all_there() -> bool:
            arrived.extend(self.hosts[1 - source].receive())
            seen.extend(self.tap.receive())
            return len(arrived) >= len(sent) and len(seen) >= len(icmp)

        wait_until(all_there, 10, f"{len(sent)} frames and {len(icmp)} copies")
        assert arrived == sent
        assert seen == icmp

    def close(self) -> None:
        for end in (*self.hosts, self.tap):
            end.close()


def restarts(appliance: Appliance) -> int | None:
    """None: the forwarder cannot be asked just now."""
    try:
        return int(appliance.call("GET", "/system/ready")["restarts"])
    except ApiError:
        return None


def test_N11_a_monitor_over_rest(net: Topology) -> None:
    with Appliance(net, net.switch) as appliance:
        appliance.bridge("br0", *net.switch_ifs)
        appliance.put_bridge("watch", fdb={"learning": False})
        appliance.put_port("eye", "watch", {"type": "tap", "name": f"{net.prefix}w"})
        backend = {"type": "monitor", "port": "p0", "filter": "icmp"}
        appliance.put_port("m0", "watch", backend)
        appliance.wait_ready("eye", "m0")
        run("ip", "-n", net.switch, "link", "set", f"{net.prefix}w", "up")
        status = appliance.call("GET", "/ports/m0")["status"]
        assert status["backend_effective"] == "received and sent by p0, filtered"
        watched = Watched(net)
        try:
            watched.tap.receive()
            watched.exchange(0)
            watched.exchange(1)
            old = appliance.kill("forwarder")
            appliance.wait_replaced("forwarder", old)
            wait_until(lambda: restarts(appliance) == 1, 10, "the control plane knows the next one")
            appliance.wait_ready("p0", "p1", "m0", "eye")
            watched.exchange(0)
            watched.exchange(1)
        finally:
            watched.close()
        appliance.check_ledger()
        stats = appliance.port_stats()["m0"]
        assert (stats["rx_frames"], stats["rx_drops"]) == (400, {})
        with pytest.raises(ApiError, match="IN_USE"):
            appliance.call("DELETE", "/ports/p0")
        appliance.call("DELETE", "/ports/p0", cascade="true")
        with pytest.raises(ApiError, match="NOT_FOUND"):
            appliance.call("GET", "/ports/m0")
        assert {"type": "monitor", "available": True, "reason": ""} in appliance.call(
            "GET", "/system/capabilities"
        )["port_types"]


def test_a_monitor_waits_for_its_port(net: Topology) -> None:
    """The port is configured and its interface is not there yet: the condition says so."""
    absent = f"{net.prefix}x"
    with Appliance(net, net.switch) as appliance:
        appliance.put_bridge("br0")
        appliance.put_bridge("watch")
        appliance.put_port("late", "br0", {"type": "af_packet", "ifname": absent})
        appliance.put_port("m0", "watch", {"type": "monitor", "port": "late"})

        def ready() -> tuple[str, str]:
            condition = appliance.conditions("m0")["Ready"]
            return condition["status"], condition["reason"]

        wait_until(lambda: ready() == ("False", "MONITORED_ABSENT"), 10, "m0 says what is missing")
        findings = appliance.call("GET", "/system/preflight")["findings"]
        ours = [item for item in findings if item["object"] == "ports/m0"]
        assert [item["code"] for item in ours] == ["MONITORED_ABSENT"]
        assert "late" in ours[0]["message"]
        run("ip", "-n", net.switch, "link", "add", absent, "up", "type", "bridge")
        try:
            wait_until(lambda: ready()[0] == "True", 15, "m0 works as soon as late does")
        finally:
            run("ip", "-n", net.switch, "link", "delete", absent)
        wait_until(lambda: ready() == ("False", "MONITORED_ABSENT"), 15, "and not without it")


def sums(client: Client, *names: str) -> dict[str, tuple[int, int]]:
    """Received less dropped on the way in; sent and dropped on the way out."""
    stats = {item.name: item for item in client.stats().ports}
    return {
        name: (
            stats[name].rx_frames - sum(stats[name].rx_drops.values()),
            stats[name].tx_frames + sum(stats[name].tx_drops.values()),
        )
        for name in names
    }


def sums_at_rest(client: Client, *names: str) -> dict[str, tuple[int, int]]:
    """When nothing moves any more: copies that wait in a monitor's ring are in no books."""
    seen = [sums(client, *names)]

    def rests() -> bool:
        time.sleep(0.2)
        seen.append(sums(client, *names))
        return seen[-1] == seen[-2]

    wait_until(rests, 10, "nothing moves")
    return seen[-1]


def test_the_books_balance_when_forwarders_are_killed(net: Topology, home: Path) -> None:
    """Copies wait in memory of the keeper; what a kill interrupts is a drop `restart`."""
    generate = {"generate_frames_per_s": "200000", "generate_bytes": "200"}
    with FastPath(home, netns=net.switch) as path:
        with path.client() as client:
            client.apply(
                [
                    bridge("br0"),
                    bridge("watch", learning=False),
                    port("p1", "null", "br0", options=generate),
                    port("p2", "null", "br0"),
                    port("eye", "null", "watch"),
                    port("m1", "monitor", "watch", options={"port": "p1", "direction": "rx"}),
                    port("m2", "monitor", "watch", options={"port": "p2", "snaplen": "60"}),
                ]
            )
            client.wait_ready("p1", "p2", "eye", "m1", "m2")
            objects = client.objects
        for _ in range(KILLS):
            with path.client() as client:
                before = {item.name: item.rx_frames for item in client.stats().ports}
            time.sleep(0.1)
            path.wait_replaced(path.kill_forwarder())
            with path.client() as client:
                client.wait_ready("m1", "m2")

                def moves(client: Client = client, before: dict[str, int] = before) -> bool:
                    now = {item.name: item.rx_frames for item in client.stats().ports}
                    return all(now[name] > before[name] for name in ("p1", "m1", "m2"))

                wait_until(moves, 10, "copies are made again")
        with path.client() as client:
            client.snapshot(obj for key, obj in objects.items() if key != "port/p1")
            after = sums_at_rest(client, "p2", "m1", "m2", "eye")
            ledger = client.check_ledger()
            stats = {item.name: item for item in client.stats().ports}
        assert after["m1"][0] + after["m2"][0] == after["eye"][1]
        # A frame that a kill caught between two steps may miss one copy, or have it twice.
        caught = KILLS * 2 * 64
        assert abs(stats["m2"].rx_frames - stats["p2"].tx_frames) <= caught
        assert abs(stats["m1"].rx_frames - stats["p2"].tx_frames) <= caught
        assert set(stats["m1"].rx_drops) <= {"restart", "monitor_full"}
        assert ledger.in_flight == 0
